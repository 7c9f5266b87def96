"""The clock of one server, as its base-times show it, against our monotonic one; and times that it cannot mean.

A base-time is the moment at which a message was written (RFC 6926 section 6.2), so one that lies ahead of the server's
clock is no time. Kept as it is, all that the server says of that lease until then would look older and be passed over.
So the lease is taken as if it had been told now, with its other times as far back from there.
"""

from __future__ import annotations

import numpy as np

from pylwaftr.dhcp.codec_lease import LeaseRows

STEP_S = 60  # less is a late message, or a server whose threads overtake each other
SMOOTHED = 8  # samples
TIMES = ("base", "cltt", "since")


class Clock:
    """`now` is monotonic; what it shows is Unix seconds of the server."""

    def __init__(self) -> None:
        self.ahead: float | None = None  # of `now`
        self._doubt: float | None = None  # as the last message had it, where that is not believed
        self._newest = 0  # of leases
        self._ours: float | None = None

    def see(self, base: int, now: float, stream: bool) -> None:
        """What a stream says is so: its next message shows whether it was (active.py). A bulk that says otherwise is
        not believed before its next message says the same."""
        sample = base - now
        if self.ahead is None:
            self.ahead = sample
        elif abs(sample - self.ahead) <= STEP_S:
            self.ahead += (sample - self.ahead) / SMOOTHED
            self._doubt = None
        elif stream or (self._doubt is not None and abs(sample - self._doubt) <= STEP_S):
            self.ahead, self._doubt, self._newest = sample, None, 0
        else:
            self._doubt = sample

    def shows(self, now: float, unix_offset: float) -> int:
        """For a lease without a base-time. As long as nothing had one, our own clock without the steps that it makes:
        they shall not reorder what the server says."""
        if self._ours is None:
            self._ours = unix_offset
        return int(now + (self._ours if self.ahead is None else self.ahead))

    def tamed(self, rows: LeaseRows, now: float) -> tuple[LeaseRows, int]:
        """The rows without times that lie ahead, and by how many seconds the worst did."""
        if self.ahead is None or not len(rows):
            return rows, 0
        level = max(int(now + self.ahead), self._newest)
        most = int(rows["base"][0] if len(rows) == 1 else rows["base"].max())  # of a stream mostly one
        if most <= level + STEP_S:
            self._newest = max(self._newest, most)
            return rows, 0
        rows = rows.copy()
        over = np.flatnonzero(rows["base"] > level + STEP_S)
        by = rows["base"][over].astype(np.int64) - level
        for name in TIMES:
            rows[name][over] = np.maximum(rows[name][over].astype(np.int64) - by, 0)
        return rows, most - level
