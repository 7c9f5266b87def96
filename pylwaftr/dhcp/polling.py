"""Whether a server does active leasequery, as far as is known; full bulks at intervals while it does not."""

from __future__ import annotations

from pylwaftr.dhcp.connection import Timers

SILENT_TRIES = 3  # unanswered active queries in a row, until the server counts as one that does bulk only


class Polling:
    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self.on = False  # the server does no active leasequery
        self.anyway = False  # the active query is refused or not answered: leases come by bulk meanwhile
        self.due: float | None = None  # the next bulk
        self.silent = 0
        self._bulk_works = False  # since there was a stream

    def stream_runs(self) -> None:
        self.on = self.anyway = self._bulk_works = False
        self.silent, self.due = 0, None

    def unanswered(self, closed: bool) -> bool:
        """A close or silence in answer to the active query. True: in the end, that is a server that knows bulk only."""
        self.silent += 1
        self.anyway = True
        return closed or self.silent >= SILENT_TRIES

    def wait_s(self) -> float | None:
        """Until the next active query after one that was not answered."""
        return self._timers.later_s if self.silent >= SILENT_TRIES and self._bulk_works else None

    def bulk_ended(self, now: float) -> None:
        """Well or not."""
        if self.on:
            self.due = now + self._timers.of(self._timers.poll_s)

    def bulk_worked(self) -> None:
        self._bulk_works = True

    def is_due(self, now: float) -> bool:
        """True once."""
        if self.due is None or now < self.due:
            return False
        self.due = None
        return True
