"""Leases from a leasequery server to the binding table: decoding alone, a full bulk, changes one by one and in streams.

The server is `pylwaftr leasequery-server` in a process of its own, on a journal made here. The leases go once into a
table by the requestor alone, and once into a running router (live.py): durable, and asked for over its API.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from pylwaftr import _core
from pylwaftr.api.client import Client
from pylwaftr.bench import live
from pylwaftr.dhcp import _bulk, codec4, codec6
from pylwaftr.dhcp.codec4 import Code, Message4, Type
from pylwaftr.dhcp.events import Channel, Open, Shut
from pylwaftr.dhcp.leasequery import Settings
from pylwaftr.dhcp.leases import Policy
from pylwaftr.dhcp.requestor import Requestor, Server
from pylwaftr.dhcp.s46 import PortParams

BR = IPv6Address("2001:db8:ffff::1")
DUID = b"\0\3\0\1pylwaftr-bench"
PSID_LEN = 6
READ = 1 << 20
READY_S = 600.0
LOOK_S = 0.05  # how often a router is asked how many bindings it has
APART_S, PAUSE_S = 0.02, 0.0005  # between changes one by one, and between questions for a change
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    leases: int = 1_000_000
    windows: int = 7
    changes: int = 100  # one by one
    rate: int = 24_000  # changes a second, above the goal: what is fed is what can be shown
    seconds: float = 5.0


QUICK = Plan(leases=4_000, windows=2, changes=5, rate=500, seconds=0.5)


def run(plan: Plan, say: Say) -> list[dict[str, Any]]:
    say("decoding")
    results = [decode(plan)]
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        say(f"writing a journal of {plan.leases} leases")
        with journal.open("w") as out:
            out.writelines(_line(n, "ACTIVE") for n in range(plan.leases))
        say("the server reads it")
        with _server(journal) as server:
            client = _Client(server.port, plan.leases + plan.changes + 65536)
            say("bulk")
            results.append(bulk(client, plan))
            say("changes")
            results += [one_by_one(client, plan, journal), stream(client, plan, journal)]
            client.close()
        results += list(_through_router(Path(folder), plan, say))
    return results


# --- decoding alone ---------------------------------------------------------------------------------------------------


def decode(plan: Plan) -> dict[str, Any]:
    frames = bytearray(b"".join(_frame(n) for n in range(2048)) * 16)
    best = float("inf")
    for _ in range(plan.windows):
        begun = time.perf_counter()
        rows, *_ = _bulk.decode(frames, 0, 1)
        best = min(best, time.perf_counter() - begun)
    assert len(rows) == 2048 * 16
    return {
        "name": "sync.decode",
        "goal": ">= 2000000 leases/s",
        "leases": len(rows),
        "octets_per_lease": len(frames) // len(rows),
        "leases_per_s": round(len(rows) / best),
        "ns_per_lease": round(best / len(rows) * 1e9, 1),
    }


def _frame(number: int) -> bytes:
    base = 1_772_366_400
    options = (
        (int(Code.MESSAGE_TYPE), bytes([Type.LEASEACTIVE])),
        (int(Code.BASE_TIME), base.to_bytes(4)),
        (int(Code.LEASE_TIME), (3600).to_bytes(4)),
        (int(Code.CLIENT_ID), _client(number)),
        (int(Code.LAST_TRANSACTION), bytes(4)),
        (int(Code.START_OF_STATE), bytes(4)),
        (int(Code.DHCP_STATE), b"\2"),
        (int(Code.PORTPARAMS), codec4.port_params_data(PortParams(0, PSID_LEN, number % 64))),
        (int(Code.S46_SADDR), _b4(number).packed),
    )
    nested = codec4.encode(Message4(2, 1, options, _ipv4(number)))
    inside = codec6.join(((int(codec6.Code.CLT_TIME), bytes(4)), (int(codec6.Code.DHCPV4_MSG), nested)))
    outer = (
        (int(codec6.Code.LQ_BASE_TIME), (base - codec6.EPOCH).to_bytes(4)),
        (int(codec6.Code.CLIENT_DATA), inside),
    )
    return codec6.frame(codec6.encode(codec6.Message6(codec6.Type.LEASEQUERY_DATA, 1, outer)))


# --- over TCP ---------------------------------------------------------------------------------------------------------


class _Client:
    """A requestor on sockets that it waits for, and a table."""

    def __init__(self, port: int, capacity: int) -> None:
        self._port = port
        self.requestor = Requestor([Server(Settings(DUID, secure=False), Policy("bench"))], BR.packed)
        self.table = _core.BindingTable(capacity)
        self._sockets: dict[Channel, socket.socket] = {}

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"not done after {limit_s:.0f} seconds")
            self._turn()

    def _turn(self) -> None:
        now = time.monotonic()
        self.requestor.set_unix_offset(time.time() - now)
        due = self.requestor.timer()
        if due is not None and now >= due:
            self.requestor.handle_timer(now)
        self._obey(now)
        if not self._sockets:
            return
        readable, _, _ = select.select(list(self._sockets.values()), [], [], 0.05)
        for channel, one in list(self._sockets.items()):
            if one in readable:
                self.requestor.feed("bench", channel, one.recv(READ), time.monotonic())
        self._obey(time.monotonic())

    def _obey(self, now: float) -> None:
        output = self.requestor.take(now)
        for _, command in output.commands:
            if isinstance(command, Open):
                self._sockets[command.channel] = socket.create_connection(("127.0.0.1", self._port))
                self.requestor.connected("bench", command.channel, now)
                self._obey(now)
            elif isinstance(command, Shut):
                self._sockets.pop(command.channel).close()
        if len(output.changes.unbind):
            unbind = output.changes.unbind
            self.table.unbind(unbind["ipv4"].copy(), unbind["psid"].copy(), _core.SOURCE_DHCP)
        if len(output.changes.bind):
            report = self.table.bind(output.changes.bind, _core.SOURCE_DHCP, 1)
            assert not len(report["refused"]), report
        for channel, one in self._sockets.items():
            one.sendall(self.requestor.data_to_send("bench", channel))

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()


def bulk(client: _Client, plan: Plan) -> dict[str, Any]:
    begun, cpu = time.perf_counter(), time.process_time()
    client.requestor.open(time.monotonic())
    session = client.requestor.sessions["bench"]
    client.run(lambda: session.counts["bulks_complete"] > 0 and len(client.table) >= plan.leases, READY_S)
    took = time.perf_counter() - begun
    return {
        "name": "sync.bulk",
        "goal": "",
        "leases": len(client.table),
        "seconds": round(took, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "leases_per_s": round(plan.leases / took),
    }


def one_by_one(client: _Client, plan: Plan, journal: Path) -> dict[str, Any]:
    """From the line in the journal to the binding in the table."""
    took = []
    with journal.open("a") as out:
        for number in range(plan.leases, plan.leases + plan.changes):
            begun = time.perf_counter()
            out.write(_line(number, "ACTIVE"))
            out.flush()
            client.run(lambda wanted=number + 1: len(client.table) >= wanted, 30)  # type: ignore[misc]
            took.append(time.perf_counter() - begun)
    return {
        "name": "sync.change",
        "goal": "",
        "changes": plan.changes,
        "median_ms": round(statistics.median(took) * 1e3, 2),
        "p95_ms": round(sorted(took)[int(len(took) * 0.95)] * 1e3, 2),
    }


def stream(client: _Client, plan: Plan, journal: Path) -> dict[str, Any]:
    """Tunnel addresses change at a rate; how far behind is the table, and how long does the rest take at the end."""
    total, sent = int(plan.rate * plan.seconds), 0
    moved = 0
    begun = time.perf_counter()
    taken = client.requestor.leases.counts
    session = client.requestor.sessions["bench"]
    before = session.counts["received_data"]
    with journal.open("a") as out:
        while sent < total:
            due = min(total, int((time.perf_counter() - begun) * plan.rate))
            out.writelines(_line(n % plan.leases, "ACTIVE", moved_by=1 + n // plan.leases) for n in range(sent, due))
            out.flush()
            sent = due
            client._turn()
    fed = time.perf_counter() - begun
    last = _line_b4(total - 1, plan.leases)
    key = (int(_ipv4((total - 1) % plan.leases)), (total - 1) % plan.leases % 64)
    client.run(lambda: (client.table.find_key(*key) or (b"",))[0] == last.packed, 60)
    moved = session.counts["received_data"] - before
    return {
        "name": "sync.stream",
        "goal": "",
        "changes": total,
        "messages": moved,
        "stale": taken["stale"],
        "per_s": round(total / fed),
        "behind_at_the_end_ms": round((time.perf_counter() - begun - fed) * 1e3, 1),
    }


# --- into a running router --------------------------------------------------------------------------------------------


def _through_router(folder: Path, plan: Plan, say: Say) -> Iterator[dict[str, Any]]:
    """A journal and a server anew: what the one before has moved would be in the way."""
    journal, place = folder / "journal2", folder / "router"
    place.mkdir()
    say(f"writing a journal of {plan.leases} leases")
    with journal.open("w") as out:
        out.writelines(_line(n, "ACTIVE") for n in range(plan.leases))
    room = plan.leases + plan.changes + 65536
    with _server(journal) as server:
        servers = [{"address": "127.0.0.1", "port": server.port, "profile": "W", "require_tls": False}]
        say("the bulk of a router")
        with live.router(place, room, {"leasequery": {"servers": servers}}) as router:
            began, cpu, server_cpu = (
                time.perf_counter(),
                router.control_cpu_s(),
                server.cpu_s(),
            )  # it begins to ask as it says that it is ready
            with Client(router.target, timeout_s=60) as client:
                meanwhile = live.Traffic(client)
                while (bound := client.status().bindings) <= plan.leases:
                    if time.perf_counter() - began > READY_S:
                        raise TimeoutError(f"{bound} bindings after {READY_S:.0f} seconds")
                    time.sleep(LOOK_S)
                took = time.perf_counter() - began
                cpu, server_cpu = router.control_cpu_s() - cpu, server.cpu_s() - server_cpu
                yield {
                    "name": "sync.router, bulk",
                    "goal": "<= 5 s",
                    "leases": plan.leases,
                    "seconds": round(took, 2),
                    "cpu_seconds": round(cpu, 2),
                    "server_cpu_seconds": round(server_cpu, 2),
                    "leases_per_s": round(plan.leases / took),
                    "peak_rss_mib": router.memory("VmHWM"),
                    "traffic": meanwhile.told(),
                }
                say("changes of a router")
                yield _router_changes(client, plan, journal)
                yield _router_stream(router, client, plan, journal)


def _router_changes(client: Client, plan: Plan, journal: Path) -> dict[str, Any]:
    """From the line in the journal to the answer of the router that it has the binding.

    Whoever asks without a pause takes the time of what he waits for: all of it is on one CPU.
    """
    took = []
    with journal.open("a") as out:
        for number in range(plan.leases, plan.leases + plan.changes):
            time.sleep(APART_S)
            began = time.perf_counter()
            out.write(_line(number, "ACTIVE"))
            out.flush()
            took.append(live.wait_for(client, str(_ipv4(number)), number % 64, pause_s=PAUSE_S) - began)
    return {
        "name": "sync.router, change",
        "goal": "median <= 5 ms",
        "changes": plan.changes,
        "median_ms": round(statistics.median(took) * 1e3, 2),
        "p95_ms": round(sorted(took)[int(len(took) * 0.95)] * 1e3, 2),
    }


def _router_stream(router: live.Live, client: Client, plan: Plan, journal: Path) -> dict[str, Any]:
    total, sent = int(plan.rate * plan.seconds), 0
    meanwhile, cpu = live.Traffic(client), router.control_cpu_s()
    began = time.perf_counter()
    with journal.open("a") as out:
        while sent < total:
            due = min(total, int((time.perf_counter() - began) * plan.rate))
            out.writelines(_line(n % plan.leases, "ACTIVE", moved_by=1 + n // plan.leases) for n in range(sent, due))
            out.flush()
            sent = due
            time.sleep(0.005)
    fed = time.perf_counter()
    number = (total - 1) % plan.leases
    wanted = str(_line_b4(total - 1, plan.leases))
    while client.get(str(_ipv4(number)), number % 64).b4_ipv6 != wanted:
        if time.perf_counter() - fed > READY_S:
            raise TimeoutError("the last change has not arrived")
        time.sleep(0.002)
    return {
        "name": "sync.router, stream",
        "goal": ">= 20000 changes/s",
        "changes": total,
        "per_s": round(total / (time.perf_counter() - began)),
        "cpu_microseconds_each": round((router.control_cpu_s() - cpu) / total * 1e6, 1),
        "fed_per_s": round(total / (fed - began)),
        "behind_at_the_end_ms": round((time.perf_counter() - fed) * 1e3, 1),
        "traffic": meanwhile.told(),
    }


@dataclass(frozen=True, slots=True)
class _Server:
    port: int
    process: subprocess.Popen[str]

    def cpu_s(self) -> float:
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _server(journal: Path) -> Iterator[_Server]:
    command = [sys.executable, "-m", "pylwaftr", "leasequery-server", "--listen", "127.0.0.1:0", "--allow-plaintext"]
    command += ["--quiet", "--journal", str(journal)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=live.environment())
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError("the leasequery server did not start")
        yield _Server(int(line.split()[-1]), child)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def _line(number: int, state: str, moved_by: int = 0) -> str:
    host, subscriber = 0x0B000000 + number // 64, f"{number >> 8:x}:{(number & 255) << 8:x}"
    ipv4 = f"11.{host >> 16 & 255}.{host >> 8 & 255}.{host & 255}"
    return (
        f'{{"at": {int(time.time())}, "state": "{state}", "ipv4": "{ipv4}", '
        f'"psid_len": {PSID_LEN}, "psid": {number % 64}, "b4": "2400:0:{subscriber}::{moved_by + 1:x}", '
        f'"client": "{_client(number).hex()}", "lifetime": 86400}}\n'
    )


def _ipv4(number: int) -> IPv4Address:
    return IPv4Address(0x0B000000 + number // 64)


def _b4(number: int, moved_by: int = 0) -> IPv6Address:
    """Each subscriber has a /56 and moves within it."""
    return IPv6Address((0x2400 << 112) + (number << 72) + moved_by + 1)


def _line_b4(position: int, leases: int) -> IPv6Address:
    return _b4(position % leases, 1 + position // leases)


def _client(number: int) -> bytes:
    return b"\xff\0\0\0\1\0\3\0\1" + number.to_bytes(6)
