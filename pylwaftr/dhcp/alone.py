"""A server that takes one connection at a time: the full bulk goes first, then the stream from where the bulk began.

A stream and a full bulk beside it are how it is done otherwise, for no change is lost between them. Where the second
connection is refused although the stream goes on until the next attempt is due, the stream is closed for the bulk; the
active query after it starts at the base-time of the first message of the bulk (the last one's would lose changes to
leases that were told early).
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

    def refused(self) -> None:
        self._refused = True

    def stream_ended(self) -> None:
        self._refused = False

    def both_worked(self) -> None:
        self._refused, self._until = False, float("-inf")

    def known(self, now: float) -> bool:
        return now < self._until

    def needed(self, now: float) -> bool:
        """Whether a stream that runs has to end before the bulk can begin."""
        if self._refused:
            self._refused, self._until = False, now + self._timers.of(self._timers.later_s)
        return self.known(now)

    def aside(self, now: float) -> float:
        """When the next connection may begin."""
        return now + self._timers.of(ASIDE_S)
