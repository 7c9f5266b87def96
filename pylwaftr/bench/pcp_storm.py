"""Storms of lwB4s, and what the data plane has while one goes on.

A worker forwards on the measured core as fast as it can, by the table that the storm changes. How long a storm takes is
measured alone. What it costs the worker is measured in a second storm that is interrupted again and again: a window of
the storm, then a window in which the control core is as busy, for the same share of the time, with requests of its own
against a server, a store and a table apart. So both windows of a pair see the same neighbours, and the ratio is what
the storm itself takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pylwaftr import _core
from pylwaftr.bench import forward, pcp_traffic
from pylwaftr.bench.pcp import packets_of_senders
from pylwaftr.bench.pcp_clients import Clients, cpu_s
from pylwaftr.bench.pcp_way import LINK, MBUFS, Say, Way, way_of
from pylwaftr.rows import Rows, no_rows

LEAST_LIFE_S = 5.0  # of a server: an epoch that is nearly 0 once more is no loss to a client (RFC 6887 section 8.5)
DATA_ROOM, HELD = 2048, 512
_STEP = 128  # of their requests at a time
_KINDS = {"ask at once": "<= 10 s", "announced": "<= 20 s"}


@dataclass(frozen=True, slots=True)
class Plan:
    lwb4s: int = 100_000
    limit_s: float = 120.0
    window_s: float = 0.05


QUICK = Plan(lwb4s=500)


class _Worker:
    """Forwards packets of the one steady binding on the measured core."""

    def __init__(self, folder: Path, table: _core.BindingTable, lcore: int) -> None:
        traffic = folder / "traffic.pcap"
        traffic.write_bytes(pcp_traffic.pcap(64))
        devices = [f"net_pcap0,rx_pcap={traffic},infinite_rx=1", "net_null1,no-rx=1"]
        self._forwarded = [entry[0] for entry in _core.COUNTERS].index("encap")
        self._drops = [number for number, entry in enumerate(_core.COUNTERS) if entry[1] == "drop"]
        settings = forward.settings("default")
        self._engine = _core.Engine(
            settings, table, devices, [lcore], mbufs=MBUFS, data_room=DATA_ROOM, held_limit=HELD, secret=1
        )
        self._engine.start()

    def mark(self) -> tuple[float, int]:
        return time.perf_counter(), int(self._engine.counters()[:, self._forwarded].sum())

    def lost(self) -> int:
        return int(self._engine.counters()[:, self._drops].sum())

    def close(self) -> None:
        self._engine.stop()
        self._engine.close()


def _rate(begin: tuple[float, int], end: tuple[float, int]) -> float:
    return (end[1] - begin[1]) / (end[0] - begin[0]) / 1e6


class _Beside:
    """Work like that of a storm, on a server, a store and a table that no worker uses."""

    def __init__(self, way: Way, frames: Sequence[bytes]) -> None:
        self._way, self._frames = way, frames
        self._at = self._left = 0
        self._wake = asyncio.Event()
        way.answered = self._answered

    def _answered(self, answers: Sequence[bytes]) -> None:
        self._left -= len(answers)
        if self._left <= 0:
            self._wake.set()

    async def work(self, seconds: float, share: float) -> None:
        """For so long; of that time so much is worked."""
        began, used = time.perf_counter(), cpu_s(None)
        while (passed := time.perf_counter() - began) < seconds:
            if cpu_s(None) - used > share * passed:
                await asyncio.sleep(0.001)
                continue
            some = self._frames[self._at : self._at + _STEP]
            self._at = (self._at + len(some)) % len(self._frames)
            self._left = len(some)
            self._wake.clear()
            self._way.feed(some)
            await asyncio.wait_for(self._wake.wait(), 30)


@dataclass(slots=True)
class _Pairs:
    """Mpps of the worker, window by window."""

    storm: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    busy: list[float] = field(
        default_factory=list
    )  # share of the time that the control core worked in a storm's window

    async def measure(self, plan: Plan, clients: Clients, way: Way, beside: _Beside, worker: _Worker) -> None:
        """Until it is cancelled."""
        answered = way.service.server.counters
        while True:
            begin, used, before = worker.mark(), cpu_s(None) + clients.cpu_s(), answered["SUCCESS"]
            await asyncio.sleep(plan.window_s)
            end = worker.mark()
            if answered["SUCCESS"] == before:
                continue
            share = (cpu_s(None) + clients.cpu_s() - used) / (end[0] - begin[0])
            clients.hold()
            try:
                while way.service.busy:
                    await asyncio.sleep(0.001)
                quiet = worker.mark()
                await beside.work(plan.window_s, share)
                other = _rate(quiet, worker.mark())
            finally:
                clients.go_on()
            if other:  # else the worker had no CPU at all
                self.storm.append(_rate(begin, end))
                self.beside.append(other)
                self.busy.append(share)

    def told(self) -> dict[str, Any]:
        storm, beside = np.array(self.storm), np.array(self.beside)
        kept = storm / beside
        return {
            "pairs": len(kept),
            "mpps_in_the_storm": round(float(np.median(storm)), 3),
            "mpps_beside_other_work": round(float(np.median(beside)), 3),
            "control_core_busy": round(float(np.median(self.busy)), 2),
            "rate_kept": {name: round(float(np.quantile(kept, q)), 3) for name, q in _QUARTILES},
        }


_QUARTILES = (("median", 0.5), ("lower quartile", 0.25), ("upper quartile", 0.75))


@asynccontextmanager
async def _worker(folder: Path, way: Way, lcore: int) -> AsyncIterator[_Worker]:
    worker = _Worker(folder, way.table, lcore)
    try:
        yield worker
    finally:
        worker.close()


async def _storms(plan: Plan, folder: Path, lcore: int, beside: _Beside | None) -> list[dict[str, Any]]:
    """All ask at once after a start without state; then the state is lost once more, and an announcement says so."""
    clients = Clients(plan.lwb4s, 1)
    serving = asyncio.create_task(clients.serve())
    found = []
    softwires: Rows = no_rows()
    try:
        for kind in _KINDS:
            place = folder / f"{kind}{beside is not None}"
            place.mkdir()
            async with way_of(place / "state", plan.lwb4s * 2 + 1000, limited=True) as way:
                async with _worker(place, way, lcore) as worker:
                    began = time.monotonic()
                    clients.attach(way)
                    if len(softwires):
                        way.service.server.announce(time.time(), softwires)
                        way.service.wake()
                    pairs = _Pairs()
                    measuring = beside and asyncio.create_task(pairs.measure(plan, clients, way, beside, worker))
                    try:
                        report = await _report(clients, plan, kind)
                    finally:
                        if measuring:
                            measuring.cancel()
                            await asyncio.gather(measuring, return_exceptions=True)
                    took = report["ended"] - (began if len(softwires) else report["began"])
                    softwires = way.table.dump()
                    found.append(_stormed(kind, report, took, way) | {"lost": worker.lost()} | _told(pairs))
                await asyncio.sleep(began + LEAST_LIFE_S - time.monotonic())
    finally:
        serving.cancel()
        await clients.close()
    return found


def _told(pairs: _Pairs) -> dict[str, Any]:
    return pairs.told() if pairs.beside else {}


async def _report(clients: Clients, plan: Plan, kind: str) -> dict[str, Any]:
    try:
        return await asyncio.wait_for(clients.reports.get(), plan.limit_s)
    except TimeoutError:
        text = f"{kind}: not all of the {plan.lwb4s} lwB4s are provisioned after {plan.limit_s:.0f} seconds"
        raise TimeoutError(text) from None


def _stormed(kind: str, report: dict[str, Any], took: float, way: Way) -> dict[str, Any]:
    return {
        "name": f"pcp.storm, {kind}",
        "goal": _KINDS[kind],
        "lwb4s": report["lwb4s"],
        "seconds": round(took, 2),
        "answer_ms": report["answer_ms"],
        "counts": report["counts"],
        "dropped": way.dropped(),
        "bound": way.table.size,
    }


async def _run(plan: Plan, folder: Path, lcore: int, say: Say) -> list[dict[str, Any]]:
    say(f"storms of {plan.lwb4s} lwB4s")
    found = await _storms(plan, folder, lcore, None)
    say("the same, window by window beside other work")
    frames = [LINK + one for one in packets_of_senders(plan.lwb4s)]
    async with way_of(folder / "beside", plan.lwb4s + 1000) as apart:
        for storm in await _storms(plan, folder, lcore, _Beside(apart, frames)):
            found.append(storm | {"name": storm["name"] + ", in pairs", "goal": "rate kept >= 0.95"})
    return found


def run(plan: Plan, folder: Path, lcore: int, say: Say) -> list[dict[str, Any]]:
    """DPDK runs."""
    return asyncio.run(_run(plan, folder, lcore, say))
