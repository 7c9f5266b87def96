"""PCP from frame to frame: punted by a lane, answered by the daemon's service, durable, bound, sent by the lane.

All parts are the router's own and share one control core: stages (`_core.Lane`, a worker without ports), punts,
PcpService, Control, SQLite store, binding table.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import numpy as np

from pylwaftr import _core
from pylwaftr.bench import forward, live, pcp_traffic, stats
from pylwaftr.bench.pcp import BR, POOLS, packets_of_senders
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.pcp import PcpService
from pylwaftr.daemon.punts import PCP, by_kind
from pylwaftr.pcp.server import PcpServer
from pylwaftr.pcp.settings import Settings
from pylwaftr.rows import Rows, array, row
from pylwaftr.store.sqlite import SqliteStore

Say = Callable[[str], None]
BURST = 64
WINDOW = 4096  # requests that wait for their answer when as many as can be are asked
STEP = 512
MBUFS = 16384
NEED_MIB = 128
NO_LIMIT = 1 << 40
LINK = bytes.fromhex(live.MACS[1].replace(":", "") + live.PEER.replace(":", "")) + b"\x86\xdd"
_DESTINATION = slice(14 + 24, 14 + 40)


@dataclass(frozen=True, slots=True)
class Plan:
    subscribers: int = 100_000
    rate: int = 15_000  # requests a second at which answers are timed
    seconds: float = 4.0


QUICK = Plan(subscribers=600, rate=500, seconds=0.3)


class Way:
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
            self.service.punted(by_kind(*self._lane.punted()).get(PCP, ()))

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
    return array([row(int(IPv4Address(pcp_traffic.STEADY)), 0, 0, 0, b4, BR)])


@contextlib.asynccontextmanager
async def way_of(folder: Path, room: int, limited: bool = False) -> AsyncIterator[Way]:
    way = Way(folder, room, limited)
    await way.start()
    try:
        yield way
    finally:
        await way.stop()


# --- as many as can be, and at a rate ---------------------------------------------------------------------------------


async def throughput(way: Way, name: str, frames: Sequence[bytes], goal: str) -> dict[str, Any]:
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


async def _paced(way: Way, frames: Sequence[bytes], rate: int) -> dict[str, Any]:
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
    late = took * 1e3
    seconds = [float(np.quantile(part, 0.99)) for part in np.array_split(late, max(1, len(late) // rate))]
    return {
        "name": f"pcp.answer at {rate}/s",
        "goal": "p99 <= 20 ms",
        "requests": len(frames),
        "ms": {name: round(float(np.quantile(late, q)), 2) for name, q in (("median", 0.5), ("p99", 0.99), ("max", 1))},
        "p99_of_a_second_ms": stats.pair(min(seconds), float(np.median(seconds)), 2),
    }


# --- all of it --------------------------------------------------------------------------------------------------------


async def _run(plan: Plan, folder: Path, say: Say) -> list[dict[str, Any]]:
    paced = max(1, int(plan.rate * plan.seconds))
    frames = [LINK + one for one in packets_of_senders(plan.subscribers + paced)]
    found = []
    async with way_of(folder / "rates", plan.subscribers + paced + 1000) as way:
        say("requests from frame to frame")
        first, later = frames[: plan.subscribers], frames[plan.subscribers :]
        found.append(await throughput(way, "first set", first, ">= 30000/s"))
        found.append(await throughput(way, "renewal", first, ">= 30000/s"))
        say(f"answers at {plan.rate} requests a second")
        found.append(await _paced(way, later, plan.rate))
    return found


def run(plan: Plan, folder: Path, say: Say) -> list[dict[str, Any]]:
    """DPDK runs."""
    return asyncio.run(_run(plan, folder, say))
