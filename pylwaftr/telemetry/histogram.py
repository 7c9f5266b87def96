"""A histogram of seconds with fixed bounds: cheap to add to, and read as Prometheus wants it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate

# From a tenth of a millisecond, about the time of one durable write, to ten seconds.
BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """`buckets`: upper bound -> how many were at most that; the last bound is +Inf."""

    buckets: tuple[tuple[str, int], ...]
    total: float


class Histogram:
    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._total += seconds

    def read(self) -> Reading:
        names = [*map(str, BOUNDS), "+Inf"]
        return Reading(tuple(zip(names, accumulate(self._counts), strict=True)), self._total)
