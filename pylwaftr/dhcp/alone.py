"""A server that takes one connection at a time: the full bulk goes first, then the stream from where the bulk began.

A stream and a full bulk beside it are how it is done otherwise, for no change is lost between them. Where the second
connection is refused although the stream goes on until the next attempt is due, the stream is closed for the bulk; the
active query after it starts at the base-time of the first message of the bulk (the last one's would lose changes to
leases that were told early). A server that keeps no history answers even that with DataMissing; another bulk at once
would end the same way, so the stream stays and the next bulk is as far off as if the server was polled.
"""

from __future__ import annotations

from pylwaftr.dhcp.connection import Timers

ASIDE_S = 1.0  # the server has to see the end of one connection before it takes the other


class Alone:
    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._refused = False  # a second connection, and the stream has not ended since
        self._until = float("-inf")  # then both at once are tried again
        self.turn = False  # the bulk has the only connection
        self.bulk_due: float | None = None  # the one that was put off
        self._put_off = 0  # the wish for it
        self._told_all = False  # by a bulk, and the stream after it has not begun

    def refused(self) -> None:
        self._refused = True

    def stream_began(self) -> None:
        self._told_all = False

    def stream_ended(self) -> None:
        self._refused = self._told_all = False

    def bulk_ended(self) -> None:
        """Well: it told all."""
        self._told_all, self.bulk_due = self.turn, None

    def data_missing(self, wish: int, now: float) -> bool:
        """Changes before the stream are missing. Whether the bulk for them, which is this wish, is put off, as one has
        just told all."""
        if self._told_all:
            self._told_all, self._put_off = False, wish
            self.bulk_due = now + self._timers.of(self._timers.poll_s)
            return True
        return False

    def puts_off(self, wish: int) -> bool:
        return self.bulk_due is not None and wish == self._put_off

    def both_worked(self) -> None:
        self._refused, self._until = False, float("-inf")

    def needed(self, now: float) -> bool:
        """Whether a stream that runs has to end before the bulk can begin."""
        if self._refused:
            self._refused, self._until = False, now + self._timers.of(self._timers.later_s)
        return now < self._until

    def aside(self, now: float) -> float:
        """When the next connection may begin."""
        return now + self._timers.of(ASIDE_S)
