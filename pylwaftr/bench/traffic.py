"""Traffic through a live router at half of what it can, while something is done to its control side, and what was lost.

Beside it the same traffic while nothing is done, for as long: on a shared machine the kernel or the hypervisor may take
the CPU away from the worker whatever the router does, and then a ring runs over in both.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pylwaftr.api.client import Client
from pylwaftr.bench import paced
from pylwaftr.bench.live import Cpus, Live

SHARE = 0.5  # of the greatest rate
_FORWARDED = ("encap", "decap")


@dataclass(frozen=True, slots=True)
class Away:
    """What kept the worker from its CPU."""

    preempted: int = 0  # times that the kernel gave its CPU to another thread
    waited_s: float = 0.0  # it could have run, and another thread did
    stolen_s: float = 0.0  # the hypervisor ran another machine, as far as it tells

    def __sub__(self, before: Away) -> Away:
        return self + Away(-before.preempted, -before.waited_s, -before.stolen_s)

    def __add__(self, more: Away) -> Away:
        return Away(self.preempted + more.preempted, self.waited_s + more.waited_s, self.stolen_s + more.stolen_s)


def stolen_s(cpus: Cpus) -> float:
    name = f"cpu{cpus.placement.workers[0]} "
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(name))
    return int(line.split()[8]) / os.sysconf("SC_CLK_TCK")


def _away(router: Live) -> Away:
    """Since the router started."""
    task = router.worker()
    status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
    waited = int((task / "schedstat").read_text().split()[1])
    return Away(int(status["nonvoluntary_ctxt_switches"]), waited / 1e9, stolen_s(router.cpus))


@dataclass(frozen=True, slots=True)
class Reading:
    """`counters`: those of the router."""

    at: float
    counts: paced.Counts
    counters: Mapping[str, int]
    away: Away


def before_start(cpus: Cpus) -> Reading:
    return Reading(0.0, paced.Counts(0, 0, 0), {}, Away(stolen_s=stolen_s(cpus)))


@dataclass(frozen=True, slots=True)
class Told:
    """What became of the frames of one stretch of time. `drops`: counters of the router, those that moved."""

    seconds: float
    counts: paced.Counts
    forwarded: int
    drops: Mapping[str, int]
    gap_s: float
    away: Away

    @property
    def lost(self) -> int:
        """Whatever the router says: what was offered and did not leave it."""
        return self.counts.offered - self.forwarded


def summed(all_of: list[Told]) -> dict[str, Any]:
    drops: Counter[str] = Counter()
    for one in all_of:
        drops.update(one.drops)
    offered, seconds = sum(one.counts.offered for one in all_of), sum(one.seconds for one in all_of)
    away = sum((one.away for one in all_of), Away())
    return {
        "seconds": round(seconds, 3),
        "mpps": round(offered / seconds / 1e6, 3),
        "offered": offered,
        "forwarded": sum(one.forwarded for one in all_of),
        "lost": sum(one.lost for one in all_of),
        "rounds": len(all_of),
        "rounds_without_loss": sum(one.lost == 0 for one in all_of),
        "missed": sum(one.counts.missed for one in all_of),
        "dropped": sum(drops.values()),
        **({"drops": dict(drops)} if drops else {}),
        "longest_gap_us": round(max(one.gap_s for one in all_of) * 1e6, 1),
        "preempted": away.preempted,
        "waited_ms": round(away.waited_s * 1e3, 2),
        "stolen_ms": round(away.stolen_s * 1e3),
    }


@dataclass
class Tally:
    """Of all rounds of a benchmark."""

    ring: int = 0  # descriptors
    maxima: list[float] = field(default_factory=list)
    busy: list[Told] = field(default_factory=list)
    idle: list[Told] = field(default_factory=list)
    settled: bool = True  # the control side had come to rest before each idle stretch

    def told(self) -> dict[str, Any]:
        maximum = round(statistics.median(self.maxima) / 1e6, 3)
        idle = summed(self.idle) | ({} if self.settled else {"settled": False})
        return {"maximum_mpps": maximum, "ring": self.ring, "traffic": summed(self.busy), "idle": idle}


@dataclass(frozen=True, slots=True)
class Windows:
    """To find the greatest rate."""

    count: int = 7
    seconds: float = 0.1


class Load:
    """Traffic through one router, over these of its bindings."""

    def __init__(self, router: Live, client: Client, over: range) -> None:
        self.router, self.over, self._client, self._words = router, over, client, router.words
        self._kinds = {info.name: info.kind for info in client.describe_counters()}
        self.maximum = 0.0

    def find_maximum(self, windows: Windows) -> None:
        """While nothing else is done. The best window, for others may have had the CPU in some."""
        self.router.settle()
        before = self._forwarded(), self._words.counts().given
        self.maximum = max(self._window(windows.seconds) for _ in range(windows.count))
        self._words.run_dry()
        forwarded, given = self._forwarded() - before[0], self._words.counts().given - before[1]
        if forwarded != given:
            raise AssertionError(f"of {given} packets {forwarded} were forwarded")

    @contextmanager
    def meanwhile(self, tally: Tally) -> Iterator[None]:
        """Then the same traffic for as long, when the control side has come to rest."""
        before = self._begun()
        try:
            yield
        except BaseException:
            self._words.stop()
            raise
        self._ended(before, tally)

    def since(self, before: Reading, maximum: float, tally: Tally) -> None:
        """The same for traffic that was there before the worker was."""
        self.maximum = maximum
        self._ended(before, tally)

    def _window(self, seconds: float) -> float:
        self._words.offer(paced.AS_POLLED, self.over)
        self._words.wait_for_worker()
        before, began = self._words.counts().given, time.perf_counter()
        time.sleep(seconds)
        now, took = self._words.counts().given, time.perf_counter() - began
        self._words.stop()
        return (now - before) / took

    def _begun(self) -> Reading:
        self._words.run_dry()
        counters, counts = self._counters(), self._words.counts()
        self._words.forget_gap()
        self._words.offer(self.maximum * SHARE, self.over)
        self._words.wait_for_worker()  # frames arrive from its next poll on
        return Reading(time.perf_counter(), counts, counters, _away(self.router))

    def _ended(self, before: Reading, tally: Tally) -> None:
        tally.ring = self._words.ring
        tally.maxima.append(self.maximum)
        tally.busy.append(self._told(before))
        tally.settled &= self.router.settle()
        before = self._begun()
        time.sleep(tally.busy[-1].seconds)
        tally.idle.append(self._told(before))

    def _told(self, before: Reading) -> Told:
        self._words.stop()
        now, away = time.perf_counter(), _away(self.router)
        self._words.run_dry()
        counts, counters, gap = self._words.counts(), self._counters(), self._words.longest_gap_s()
        moved = {name: count - before.counters.get(name, 0) for name, count in counters.items()}
        drops = {name: n for name, n in moved.items() if n and (self._kinds[name] == "drop" or name == "tx_failed")}
        return Told(
            now - max(before.at, self.router.forwarding_at),
            counts - before.counts,
            _left(moved),
            drops,
            gap,
            away - before.away,
        )

    def _counters(self) -> dict[str, int]:
        return dict(self._client.counters().counters)

    def _forwarded(self) -> int:
        return _left(self._counters())


def _left(counters: Mapping[str, int]) -> int:
    return sum(counters[name] for name in _FORWARDED) - counters["tx_failed"]
