"""Leases into a table by the requestor alone: decoding, a full bulk, changes one by one and in a stream."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from pylwaftr import _core
from pylwaftr.bench import live
from pylwaftr.bench.latencies import latencies
from pylwaftr.bench.sync_leases import Leases, Moves, client_id
from pylwaftr.dhcp import _bulk, codec4, codec6
from pylwaftr.dhcp.codec4 import Code, Message4, Type
from pylwaftr.dhcp.events import Channel, Open, Shut
from pylwaftr.dhcp.leasequery import Settings
from pylwaftr.dhcp.leases import Policy
from pylwaftr.dhcp.requestor import Requestor, Server
from pylwaftr.dhcp.s46 import PortParams

BR = IPv6Address(live.BR).packed
DUID = b"\0\3\0\1pylwaftr-bench"
FRAMES = 2048
READ = 1 << 20
READY_S = 600.0

# --- decoding alone ---------------------------------------------------------------------------------------------------


def decode(leases: Leases, windows: int) -> dict[str, Any]:
    frames = bytearray(b"".join(_frame(leases, n) for n in range(FRAMES)) * 16)
    best = float("inf")
    for _ in range(windows):
        begun = time.perf_counter()
        rows, *_ = _bulk.decode(frames, 0, 1)
        best = min(best, time.perf_counter() - begun)
    assert len(rows) == FRAMES * 16
    return {
        "name": "sync.decode",
        "goal": ">= 2000000 leases/s",
        "leases": len(rows),
        "octets_per_lease": len(frames) // len(rows),
        "leases_per_s": round(len(rows) / best),
        "ns_per_lease": round(best / len(rows) * 1e9, 1),
    }


def _frame(leases: Leases, number: int) -> bytes:
    base = 1_772_366_400
    params = PortParams(leases.psid_offset, leases.psid_len, leases.key(number)[1])
    options = (
        (int(Code.MESSAGE_TYPE), bytes([Type.LEASEACTIVE])),
        (int(Code.BASE_TIME), base.to_bytes(4)),
        (int(Code.LEASE_TIME), (3600).to_bytes(4)),
        (int(Code.CLIENT_ID), client_id(number)),
        (int(Code.LAST_TRANSACTION), bytes(4)),
        (int(Code.START_OF_STATE), bytes(4)),
        (int(Code.DHCP_STATE), b"\2"),
        (int(Code.PORTPARAMS), codec4.port_params_data(params)),
        (int(Code.S46_SADDR), leases.b4(number).packed),
    )
    nested = codec4.encode(Message4(2, 1, options, leases.ipv4(number)))
    inside = codec6.join(((int(codec6.Code.CLT_TIME), bytes(4)), (int(codec6.Code.DHCPV4_MSG), nested)))
    outer = (
        (int(codec6.Code.LQ_BASE_TIME), (base - codec6.EPOCH).to_bytes(4)),
        (int(codec6.Code.CLIENT_DATA), inside),
    )
    return codec6.frame(codec6.encode(codec6.Message6(codec6.Type.LEASEQUERY_DATA, 1, outer)))


# --- over TCP ---------------------------------------------------------------------------------------------------------


class TableClient:
    """A requestor on sockets that it waits for, and a table."""

    def __init__(self, port: int, capacity: int) -> None:
        self._port = port
        self.requestor = Requestor([Server(Settings(DUID, secure=False), Policy("bench"))], BR)
        self.table = _core.BindingTable(capacity)
        self._sockets: dict[Channel, socket.socket] = {}

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"not done after {limit_s:.0f} seconds")
            self.turn()

    def turn(self) -> None:
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


def bulk(client: TableClient, leases: int) -> dict[str, Any]:
    begun, cpu = time.perf_counter(), time.process_time()
    client.requestor.open(time.monotonic())
    session = client.requestor.sessions["bench"]
    client.run(lambda: session.counts["bulks_complete"] > 0 and len(client.table) >= leases, READY_S)
    took = time.perf_counter() - begun
    return {
        "name": "sync.bulk",
        "goal": "",
        "leases": len(client.table),
        "seconds": round(took, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "leases_per_s": round(leases / took),
    }


def one_by_one(client: TableClient, leases: Leases, numbers: range, journal: Path) -> dict[str, Any]:
    """From the line in the journal to the binding in the table."""
    took = []
    with journal.open("a") as out:
        for number in numbers:
            begun = time.perf_counter()
            out.write(leases.line(number))
            out.flush()
            client.run(lambda wanted=number + 1: len(client.table) >= wanted, 30)  # type: ignore[misc]
            took.append(time.perf_counter() - begun)
    return latencies("sync.change", took)


def stream(client: TableClient, moves: Moves, rate: float, journal: Path) -> dict[str, Any]:
    """Tunnel addresses change at a rate; how far behind is the table, and how long does the rest take at the end."""
    sent, lines = 0, list(moves.lines(0, moves.total))
    begun = time.perf_counter()
    session = client.requestor.sessions["bench"]
    before = session.counts["received_data"]
    with journal.open("a") as out:
        while sent < moves.total:
            due = min(moves.total, int((time.perf_counter() - begun) * rate))
            out.writelines(lines[sent:due])
            out.flush()
            sent = due
            client.turn()
    fed = time.perf_counter() - begun
    number, b4 = moves.last
    key = moves.leases.key(number)
    client.run(lambda: (client.table.find_key(*key) or (b"",))[0] == b4.packed, 60)
    return {
        "name": "sync.stream",
        "goal": "",
        "changes": moves.total,
        "messages": session.counts["received_data"] - before,
        "stale": client.requestor.leases.counts["stale"],
        "per_s": round(moves.total / fed),
        "behind_at_the_end_ms": round((time.perf_counter() - begun - fed) * 1e3, 1),
    }
