"""When to connect again, and when to raise an alarm."""

from __future__ import annotations

import random

from pylwaftr.dhcp.connection import Timers

LONELY_S, RESYNC_LATE_S = 300.0, 900.0


class Attempts:
    """At most one attempt a minute (RFC 7653 section 8.1), fewer while they fail, and never all routers at once."""

    def __init__(self, timers: Timers, rng: random.Random) -> None:
        self._timers, self._rng = timers, rng
        self._tried = float("-inf")
        self._failures = 0
        self._earliest = float("-inf")
        self.due: float | None = None

    def begun(self, now: float) -> None:
        self._tried, self.due = now, None

    def succeeded(self) -> None:
        self._failures, self._earliest = 0, float("-inf")

    def ended(self, now: float, wait_s: float | None = None) -> None:
        """The next one is due as soon as the rule allows, or not before `wait_s`."""
        timers = self._timers
        self._failures += 1
        if wait_s is None:
            gap = min(timers.gap_s * 2 ** min(self._failures - 1, 8), timers.most_gap_s)
            earliest = max(self._tried + timers.of(gap), now)
        else:
            earliest = now + timers.of(wait_s)
        self._earliest = earliest + timers.of(timers.gap_s) * timers.jitter * self._rng.random()
        self.due = self._earliest

    def plan(self, now: float) -> None:
        """Due at once, or when the last failure allows."""
        if self.due is None:
            self.due = max(now, self._earliest)

    def allowed(self, now: float) -> bool:
        return now >= self._earliest

    def is_due(self, now: float) -> bool:
        return self.due is not None and now >= self.due


class Watch:
    """LQ-175: no stream for five minutes, a full bulk that does not succeed for fifteen."""

    def __init__(self, timers: Timers) -> None:
        self._limits = {"lonely": timers.of(LONELY_S), "resync_late": timers.of(RESYNC_LATE_S)}
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def see(self, name: str, bad: bool, now: float) -> bool:
        """True: it has lasted too long, told once."""
        if not bad:
            self._since.pop(name, None)
            self._told.discard(name)
            return False
        since = self._since.setdefault(name, now)
        if name in self._told or now < since + self._limits[name]:  # as `timer` has it, to the last bit
            return False
        self._told.add(name)
        return True

    def timer(self) -> float | None:
        return min((t + self._limits[n] for n, t in self._since.items() if n not in self._told), default=None)
