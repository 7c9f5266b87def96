"""Which rate to try next: the greatest without loss (RFC 2544 section 26.1), and loss over rate (section 26.3).

Sans-IO: each names a rate, and is told what came of it, until it names none.
"""

from __future__ import annotations


class Search:
    """Halves the interval between a rate that passed and one that did not. `rate` is None when it is done.

    Below `least` nothing is looked for.
    """

    def __init__(self, most: float, resolution: float, least: float = 1.0) -> None:
        if most <= 0 or not 0 < resolution < 1:
            raise ValueError("a rate above 0 and a resolution between 0 and 1")
        self._resolution = resolution
        self._least = least
        self.passed = 0.0  # the greatest rate that did
        self.failed: float | None = None  # the least rate that did not
        self.rate: float | None = most

    def heard(self, passed: bool) -> None:
        assert self.rate is not None
        if passed:
            self.passed = self.rate
        else:
            self.failed = self.rate
        self.rate = self._next()

    def _next(self) -> float | None:
        if self.failed is None:  # the greatest did
            return None
        middle = (self.passed + self.failed) / 2
        if self.failed - self.passed <= self._resolution * self.failed or middle < self._least:
            return None
        return middle


class LossCurve:
    """100 %, 90 %, … of the greatest rate, until two trials in a row have no loss."""

    _STEPS = 10

    def __init__(self, most: float) -> None:
        if most <= 0:
            raise ValueError("a rate above 0")
        self._most = most
        self._step = self._STEPS
        self._without = 0
        self.rate: float | None = most

    def heard(self, loss: float) -> None:
        self._without = 0 if loss > 0 else self._without + 1
        self._step -= 1
        done = self._without == 2 or self._step == 0
        self.rate = None if done else self._most * self._step / self._STEPS
