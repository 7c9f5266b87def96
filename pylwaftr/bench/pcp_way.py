"""PCP from frame to frame: punted by a lane, answered by the daemon's service, durable, bound, sent by the lane.

All parts are the router's own and share one control core: stages (`_core.Lane`, a worker without ports), punts,
PcpService, Control, SQLite store, binding table. Beside them a worker forwards on the measured core as fast as it can.
The lwB4s of a storm are `b4.storm` in a process of its own, which shares the control core when there is no third.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import random
import select
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pylwaftr import _core
from pylwaftr.b4.storm import Storm, StormPlan
from pylwaftr.bench import forward, live, stats
from pylwaftr.bench.pcp import BR, POOLS, packets_of_senders
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.pcp import PcpService
from pylwaftr.daemon.punts import PCP, packets_of
from pylwaftr.pcp.server import PcpServer
from pylwaftr.pcp.settings import Settings
from pylwaftr.rows import Rows, array, no_rows, row
from pylwaftr.store.sqlite import SqliteStore

Say = Callable[[str], None]
BURST = 64
WINDOW = 4096  # requests that wait for their answer when as many as can be are asked
STEP = 512
SAMPLE_S = 0.1
LEAST_LIFE_S = 5.0  # of a server: an epoch that is nearly 0 once more is no loss to a client (RFC 6887 section 8.5)
MBUFS, DATA_ROOM, HELD = 16384, 2048, 512
NEED_MIB = 128
NO_LIMIT = 1 << 40
PREFIX = IPv6Network("2001:db8::/32")
_LINK = bytes.fromhex(live.MACS[1].replace(":", "") + live.PEER.replace(":", "")) + b"\x86\xdd"
_LENGTH = struct.Struct("!I")
_PACKET = struct.Struct("!H")
_DESTINATION = slice(14 + 24, 14 + 40)


@dataclass(frozen=True, slots=True)
class Plan:
    subscribers: int = 100_000
    rate: int = 15_000  # requests a second at which answers are timed
    seconds: float = 4.0
    storm: int = 100_000
    storm_limit_s: float = 120.0


QUICK = Plan(subscribers=600, rate=500, seconds=0.3, storm=500)


class _Way:
    """One life of the control side, with a lane in place of the workers."""

    def __init__(self, folder: Path, room: int, limited: bool) -> None:
        settings = forward.settings("default")
        settings["pcp"]["enabled"] = True
        of_server = Settings(POOLS, BR)
        if not limited:
            of_server = replace(of_server, per_s=NO_LIMIT, per_subscriber=NO_LIMIT)
            settings["pcp"]["rate_limit"] = (0, 0)
        self.table = _core.BindingTable(room)
        self._lane = _core.Lane(settings, self.table, MBUFS // 4)
        for side in ("v4", "v6"):
            self._lane.set_next_hop(side, bytes.fromhex(live.PEER.replace(":", "")))
        self.control = Control(self.table, SqliteStore(folder, time.time()))
        server = PcpServer(of_server, time.time())
        self.service = PcpService(server, self.control, self._inject)
        self.answered: Callable[[Sequence[bytes]], None] = lambda _: None
        self._began, self._ms = time.monotonic(), 0

    async def start(self) -> None:
        await self.control.start(steady())
        self._task = asyncio.create_task(self.service.run())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.control.stop()

    def feed(self, frames: Sequence[bytes]) -> None:
        passed = int((time.monotonic() - self._began) * 1000)
        if passed > self._ms:
            self._lane.advance(passed - self._ms)  # its rate limits go by its own clock
            self._ms = passed
        for begin in range(0, len(frames), BURST):
            self._lane.feed_many("v6", frames[begin : begin + BURST])
            rows, octets = self._lane.punted()
            self.service.punted(packets_of(rows, octets, PCP))

    def _inject(self, packets: Sequence[bytes]) -> None:
        while packets:
            lengths = np.fromiter(map(len, packets), np.uint32, len(packets))
            taken = self._lane.inject(b"".join(packets), lengths)
            self.answered([frame for _, frame in self._lane.take()])
            packets = packets[taken:]

    def dropped(self) -> int:
        return sum(count for name, count in self._lane.counters().items() if name.startswith("drop_"))


def steady() -> Rows:
    """The binding whose packets the worker forwards."""
    b4 = IPv6Address("2001:db8:fffd::1").packed
    return array([row(int(IPv4Address(live.STEADY)), 0, 0, 0, b4, BR)])


@contextlib.asynccontextmanager
async def _way(folder: Path, room: int, limited: bool = False) -> AsyncIterator[_Way]:
    way = _Way(folder, room, limited)
    await way.start()
    try:
        yield way
    finally:
        await way.stop()


# --- as many as can be, and at a rate ---------------------------------------------------------------------------------


async def _throughput(way: _Way, name: str, frames: Sequence[bytes], goal: str) -> dict[str, Any]:
    wake = asyncio.Event()
    done = 0

    def answered(answers: Sequence[bytes]) -> None:
        nonlocal done
        done += len(answers)
        wake.set()

    way.answered = answered
    fed, began, cpu = 0, time.perf_counter(), time.process_time()
    marks = [(began, 0)]
    while done < len(frames):
        while fed < len(frames) and fed - done <= WINDOW - STEP:
            way.feed(frames[fed : fed + STEP])
            fed = min(fed + STEP, len(frames))
        wake.clear()
        await asyncio.wait_for(wake.wait(), 30)
        marks.append((time.perf_counter(), done))  # behind a turn of the service: its answers come at once
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    windows = rates(marks, max(2 * WINDOW, len(frames) // 20))
    return {
        "name": f"pcp.end to end, {name}",
        "goal": goal,
        "requests": len(frames),
        "requests_per_second": stats.pair(max(windows), float(np.median(windows))),
        "seconds": round(took, 3),
        "cpu_microseconds_each": round(cpu / len(frames) * 1e6, 1),
    }


def rates(marks: Sequence[tuple[float, int]], least: int) -> list[float]:
    """Of windows with so many answers at least."""
    found, (since, had) = [], marks[0]
    for at, count in marks[1:]:
        if count - had >= least and at > since:
            found.append((count - had) / (at - since))
            since, had = at, count
    return found or [marks[-1][1] / (marks[-1][0] - marks[0][0])]


async def _paced(way: _Way, frames: Sequence[bytes], rate: int) -> dict[str, Any]:
    """Requests come one by one at a rate, whatever becomes of those before; timed from when each is due."""
    numbers = {frame[14 + 8 : 14 + 24]: number for number, frame in enumerate(frames)}
    took = np.zeros(len(frames))
    done, began = 0, time.perf_counter() + 0.01

    def answered(answers: Sequence[bytes]) -> None:
        nonlocal done
        now = time.perf_counter() - began
        for answer in answers:
            number = numbers[answer[_DESTINATION]]
            took[number] = now - number / rate
        done += len(answers)

    way.answered = answered
    fed = 0
    while done < len(frames):
        due = min(len(frames), max(0, int((time.perf_counter() - began) * rate)))
        way.feed(frames[fed:due])
        fed = due
        await asyncio.sleep(0.0005)
    late = np.sort(took) * 1e3
    return {
        "name": f"pcp.answer at {rate}/s",
        "goal": "p99 <= 20 ms",
        "requests": len(frames),
        "ms": {name: round(float(np.quantile(late, q)), 2) for name, q in (("median", 0.5), ("p99", 0.99), ("max", 1))},
    }


# --- a storm ----------------------------------------------------------------------------------------------------------


def _lwb4s(to: socket.socket, count: int, seed: int) -> None:
    """The process of the simulated lwB4s: packets out and in, a report whenever all of them are bound."""
    storm = Storm(StormPlan(IPv6Address(BR), PREFIX, count), random.Random(seed))
    began = time.monotonic()
    storm.start(began)
    pending, told = bytearray(), False
    wait = 0.0
    while True:
        # What is there is heard first: an answer that lies about looks like a server whose clock is behind.
        while select.select([to], [], [], wait)[0]:
            data = to.recv(1 << 18)
            if not data:
                return
            pending += data
            for packet in _packets(pending):
                storm.receive(packet, time.monotonic())
            wait = 0.0
        now = time.monotonic()
        if packets := storm.take(now, STEP):
            _say(to, b"".join(_PACKET.pack(len(one)) + one for one in packets))
        due = storm.timer()
        wait = 0.0 if packets else 0.05 if due is None else min(max(0.0, due - now), 0.05)
        if storm.all_bound_after is None:
            told = False
        elif not told:
            told = True
            now = time.monotonic()
            _say(to, b"\0" + json.dumps(storm.report(now) | {"began": began, "ended": now}).encode())


def _say(to: socket.socket, message: bytes) -> None:
    to.sendall(_LENGTH.pack(len(message)) + message)


def _packets(pending: bytearray) -> list[bytes]:
    found, at = [], 0
    while at + 2 <= len(pending) and at + 2 + (size := int.from_bytes(pending[at : at + 2])) <= len(pending):
        found.append(bytes(pending[at + 2 : at + 2 + size]))
        at += 2 + size
    del pending[:at]
    return found


class _Clients:
    """Our end of their process."""

    def __init__(self, count: int, seed: int) -> None:
        ours, theirs = socket.socketpair()
        self._ours = ours
        self._process = multiprocessing.get_context("spawn").Process(target=_lwb4s, args=(theirs, count, seed))
        self._process.start()
        theirs.close()
        self.reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.way: _Way | None = None

    async def serve(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._ours, limit=1 << 22)
        while True:
            size = _LENGTH.unpack(await reader.readexactly(4))[0]
            message = await reader.readexactly(size)
            if message[0] == 0 and message[1:2] == b"{":
                self.reports.put_nowait(json.loads(message[1:]))
            elif self.way is not None:
                self.way.feed([_LINK + packet for packet in _packets(bytearray(message))])

    def answer(self, frames: Sequence[bytes]) -> None:
        self._writer.write(b"".join(_PACKET.pack(len(frame) - 14) + frame[14:] for frame in frames))

    def attach(self, way: _Way) -> None:
        way.answered = self.answer
        self.way = way

    async def close(self) -> None:
        self._writer.close()
        await asyncio.to_thread(self._process.join, 10)
        if self._process.is_alive():
            self._process.kill()


class _Worker:
    """Forwards packets of the one steady binding, by this table, on the measured core."""

    def __init__(self, folder: Path, table: _core.BindingTable, lcore: int) -> None:
        traffic = folder / "traffic.pcap"
        traffic.write_bytes(live.pcap(64))
        devices = [f"net_pcap0,rx_pcap={traffic},infinite_rx=1", "net_null1,no-rx=1"]
        self._names = [entry[0] for entry in _core.COUNTERS]
        self._drops = [number for number, entry in enumerate(_core.COUNTERS) if entry[1] == "drop"]
        settings = forward.settings("default")
        self._engine = _core.Engine(
            settings, table, devices, [lcore], mbufs=MBUFS, data_room=DATA_ROOM, held_limit=HELD, secret=1
        )
        self._engine.start()
        self._marks: list[tuple[float, int]] = []

    async def watch(self) -> None:
        while True:
            self._marks.append((time.perf_counter(), self._count("encap")))
            await asyncio.sleep(SAMPLE_S)

    def _count(self, name: str) -> int:
        return int(self._engine.counters()[:, self._names.index(name)].sum())

    def told(self) -> dict[str, Any]:
        marks = self._marks
        each = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(marks)] or [0.0]
        lost = int(self._engine.counters()[:, self._drops].sum())
        return {"mpps": stats.pair(max(each) / 1e6, float(np.median(each)) / 1e6), "lost": lost}

    def close(self) -> None:
        self._engine.stop()
        self._engine.close()


async def _storm(plan: Plan, folder: Path, lcore: int, own_table: bool) -> list[dict[str, Any]]:
    """All ask at once after a start without state; then the state is lost once more, and an announcement says so.

    `own_table`: the worker forwards by a table that nobody changes, so that only the load of the cores is the same.
    """
    clients = _Clients(plan.storm, 1)
    serving = asyncio.create_task(clients.serve())
    found = []
    room = plan.storm * 2 + 1000
    softwires: Rows = no_rows()
    try:
        for kind in ("ask at once", "announced"):
            place = folder / f"{kind}{own_table}"
            place.mkdir()
            async with _way(place / "state", room, limited=True) as way:
                quiet = _core.BindingTable(1000)
                quiet.bind(steady(), _core.SOURCE_CONFIG, 1)
                worker = _Worker(place, quiet if own_table else way.table, lcore)
                watching = asyncio.create_task(worker.watch())
                began = time.monotonic()
                clients.attach(way)
                if len(softwires):
                    way.service.server.announce(time.time(), softwires)
                    way.service.wake()
                try:
                    report = await _report(clients, plan, kind)
                    took = report["ended"] - (began if len(softwires) else report["began"])
                    softwires = way.table.dump()
                    found.append(_stormed(kind, report, took, way, worker.told()))
                    await asyncio.sleep(began + LEAST_LIFE_S - time.monotonic())
                finally:
                    watching.cancel()
                    worker.close()
    finally:
        serving.cancel()
        await clients.close()
    return found


async def _report(clients: _Clients, plan: Plan, kind: str) -> dict[str, Any]:
    try:
        return await asyncio.wait_for(clients.reports.get(), plan.storm_limit_s)
    except TimeoutError:
        text = f"{kind}: not all of the {plan.storm} lwB4s are provisioned after {plan.storm_limit_s:.0f} seconds"
        raise TimeoutError(text) from None


def _stormed(kind: str, report: dict[str, Any], took: float, way: _Way, worker: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"pcp.storm, {kind}",
        "goal": "<= 10 s" if kind == "ask at once" else "<= 20 s",
        "lwb4s": report["lwb4s"],
        "seconds": round(took, 2),
        "answer_ms": report["answer_ms"],
        "counts": report["counts"],
        "dropped": way.dropped(),
        "bound": way.table.size,
        "worker": worker,
    }


# --- all of it --------------------------------------------------------------------------------------------------------


async def _run(plan: Plan, folder: Path, lcore: int, say: Say) -> list[dict[str, Any]]:
    paced = max(1, int(plan.rate * plan.seconds))
    frames = [_LINK + one for one in packets_of_senders(plan.subscribers + paced)]
    found = []
    async with _way(folder / "rates", plan.subscribers + paced + 1000) as way:
        say("requests from frame to frame")
        first, later = frames[: plan.subscribers], frames[plan.subscribers :]
        found.append(await _throughput(way, "first set", first, ">= 30000/s"))
        found.append(await _throughput(way, "renewal", first, ">= 30000/s"))
        say(f"answers at {plan.rate} requests a second")
        found.append(await _paced(way, later, plan.rate))
    storms = []
    for own_table in (True, False):
        say(f"a storm of {plan.storm} lwB4s" + (", the worker's table apart" if own_table else ""))
        storms.append(await _storm(plan, folder, lcore, own_table))
    for beside, together in zip(*storms, strict=True):
        apart = beside["worker"]["mpps"]
        kept = {key: round(together["worker"]["mpps"][key] / apart[key], 3) for key in apart if apart[key]}
        found.append(together | {"goal": together["goal"] + ", rate kept >= 0.95", "rate_kept": kept, "apart": beside})
    return found


def run(plan: Plan, folder: Path, lcore: int, say: Say) -> list[dict[str, Any]]:
    """DPDK runs."""
    return asyncio.run(_run(plan, folder, lcore, say))
