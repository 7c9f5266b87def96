"""Subscribers (RFC 7785): who is one, how many softwires it may have, how often it may move.

A subscriber is a prefix. Its softwires are the distinct pairs of B4 and BR address in its bindings, whoever made them;
several port sets of one pair are one softwire. The counts are compiled (_softwires.pyx): a million bindings come and go
in a moment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pylwaftr._softwires import Softwires
from pylwaftr.rows import Rows


class Subscribers:
    """Softwires of every subscriber. Rows that take the place of others: `refused` without those, then `remove` and
    `add` as they go and come."""

    def __init__(self, mask: int, max_softwires: int) -> None:
        self.mask, self.max_softwires = mask, max_softwires
        self._counts = Softwires(mask)

    def reconfigure(self, mask: int, max_softwires: int) -> None:
        if mask != self.mask:
            self._counts.recut(mask)
        self.mask, self.max_softwires = mask, max_softwires

    def refused(self, rows: Rows, without: Rows | None = None) -> npt.NDArray[np.bool_]:
        """Which rows would be one softwire too many, beside those that there are and the rows before them."""
        less = rows[:0] if without is None else without
        return self._counts.refused(np.ascontiguousarray(rows), self.max_softwires, np.ascontiguousarray(less))

    def crowded(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows are of subscribers that have more softwires than they may."""
        return self._counts.crowded(np.ascontiguousarray(rows), self.max_softwires)

    def add(self, rows: Rows) -> bool:
        """Whether one of their subscribers has more softwires than it may, now."""
        return self._counts.add(np.ascontiguousarray(rows), self.max_softwires)

    def remove(self, rows: Rows) -> None:
        """Rows that were added."""
        self._counts.remove(np.ascontiguousarray(rows))

    def softwires(self, b4: bytes) -> int:
        """Of the subscriber that an address belongs to."""
        return self._counts.of(b4)

    def octets(self) -> int:
        """Of memory."""
        return self._counts.octets()


@dataclass(frozen=True, slots=True)
class Verdict:
    allowed: bool
    reason: str = ""  # disabled | other_subscriber | too_soon
    wait_s: float = 0.0


class Moves:
    """Whether a subscriber's bindings follow it to a new address (RFC 7785 section 4.3)."""

    def __init__(self, mask: int, on_new_address: str, min_change_interval_s: int) -> None:
        self.mask, self.on_new_address, self.interval_s = mask, on_new_address, min_change_interval_s
        self._last: dict[int, float] = {}  # prefix -> when, the longest ago first

    def judge(self, before: bytes, after: bytes, now: float, by_data: bool) -> Verdict:
        """`by_data`: a packet shows the new address, not a PCP request with the right nonce."""
        if self._prefix(before) != self._prefix(after):
            return Verdict(False, "other_subscriber")
        if self.on_new_address == "reject" or (by_data and self.on_new_address != "data"):
            return Verdict(False, "disabled")
        self._forget(now)
        last = self._last.get(self._prefix(after))
        if last is not None:
            return Verdict(False, "too_soon", last + self.interval_s - now)
        return Verdict(True)

    def note(self, b4: bytes, now: float) -> None:
        """It moved."""
        prefix = self._prefix(b4)
        self._last.pop(prefix, None)
        self._last[prefix] = now

    def _forget(self, now: float) -> None:
        while self._last:
            prefix, when = next(iter(self._last.items()))
            if now - when < self.interval_s:
                return
            del self._last[prefix]

    def _prefix(self, b4: bytes) -> int:
        return int.from_bytes(b4) >> (128 - self.mask)
