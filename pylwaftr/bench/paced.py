"""The words by which a benchmark talks with the sources of traffic in another process (csrc/bench_source.hpp).

One file in shared memory, a block of 16 words for each side of the router: rate and choice of bindings are written
here, counts by the worker that polls.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SIDES = ("encap", "decap")  # by port: that of the IPv4 side, that of the IPv6 side
BLOCK = 16
AS_POLLED = (1 << 64) - 1
_RATE, _RING, _FIRST, _COUNT, _HZ = 0, 1, 2, 3, 7
_OFFERED, _GIVEN, _MISSED, _GAP, _POLLS = 8, 9, 10, 11, 12
_LOOK_S, _LATE_S = 0.0005, 10.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Of both sides, since the router started."""

    offered: int
    given: int
    missed: int

    @property
    def waiting(self) -> int:
        return self.offered - self.given - self.missed

    def __sub__(self, before: Counts) -> Counts:
        return Counts(self.offered - before.offered, self.given - before.given, self.missed - before.missed)


class Words:
    def __init__(self, path: Path) -> None:
        """A new file, if it is not there."""
        path.touch()
        os.truncate(path, len(SIDES) * BLOCK * 8)
        self._words = np.memmap(path, np.uint64, "r+", shape=(len(SIDES), BLOCK))

    def of(self, side: int) -> npt.NDArray[np.uint64]:
        return np.asarray(self._words[side])

    def begin(self, hz: int, ring: int) -> None:
        """Of the router: its clock, and the descriptors of its receive queues."""
        self._words[:, _HZ], self._words[:, _RING] = hz, ring

    @property
    def ring(self) -> int:
        return int(self._words[0, _RING])

    def offer(self, rate: float, over: range) -> None:
        """Frames a second of both sides together, each of any of these bindings. The rate may be AS_POLLED."""
        self._words[:, _FIRST], self._words[:, _COUNT] = over.start, len(over)
        self._words[:, _RATE] = AS_POLLED if rate == AS_POLLED else int(rate / len(SIDES))

    def stop(self) -> None:
        self._words[:, _RATE] = 0

    def run_dry(self) -> None:
        """After a stop: until all that has arrived was received or missed, and the worker is done with it."""
        self.wait_for_worker()
        while self.counts().waiting:
            self.wait_for_worker()
        self.wait_for_worker()

    def wait_for_worker(self) -> None:
        """Two polls: the first may have been under way, the second comes when its frames are dealt with."""
        end = time.perf_counter() + _LATE_S
        before = self._words[:, _POLLS].copy()
        while (self._words[:, _POLLS] < before + np.uint64(2)).any():
            if time.perf_counter() > end:
                raise TimeoutError(f"the worker has not polled for {_LATE_S:.0f} seconds")
            time.sleep(_LOOK_S)

    def counts(self) -> Counts:
        offered, given, missed = (int(self._words[:, at].sum()) for at in (_OFFERED, _GIVEN, _MISSED))
        return Counts(offered, given, missed)

    def forget_gap(self) -> None:
        self._words[:, _GAP] = 0

    def longest_gap_s(self) -> float:
        """Between two polls of a queue."""
        return float(self._words[:, _GAP].max()) / max(1, int(self._words[0, _HZ]))
