"""The active query on one open connection (RFC 7653 section 8.4, RFC 7724 section 7.4): which state the stream is in,
and what each message means for the saved start time and the need of a full bulk.

The start time moves with every base-time while the stream is live, keep-alives included. During catch-up it is frozen:
data comes in no order of time there, and a connection lost in the middle has to start again from the same point.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from enum import Enum

from pylwaftr.dhcp.connection import Broken
from pylwaftr.dhcp.events import Event, Leases, Rebased, Saved
from pylwaftr.dhcp.profiles import Heard, Kind, Profile, Start, Word

STEP_BACK_S = 60  # within a connection; less may be a server whose threads overtake each other


class Stream(Enum):
    IDLE = "idle"
    AWAIT_REPLY = "awaiting the reply"
    CATCH_UP = "catching up"
    LIVE = "live"


class Failed(Exception):
    """The server refuses the query, or has ended it."""

    def __init__(self, word: Word, text: str) -> None:
        super().__init__(f"{word.value} {text}".rstrip())
        self.word = word


class Active:
    def __init__(self, profile: Profile, duid: bytes, saved: Saved, counts: Counter[str]) -> None:
        self._profile, self._duid, self._counts = profile, duid, counts
        self.saved = saved
        self.state = Stream.IDLE
        self.heard_any = False  # since the query
        self.wishes = 0  # for a full bulk, so far
        self.gaps = 0  # of those, for want of what was before the stream
        self._xid = 0
        self._with_start = False
        self._newest: int | None = None  # base-time of this connection, since 2000
        self._events: list[Event] = []

    @property
    def running(self) -> bool:
        return self.state in (Stream.CATCH_UP, Stream.LIVE)

    @property
    def xid(self) -> int | None:
        """Of the stream whose DATA may be taken many at a time."""
        return self._xid if self.running else None

    def begin(self, xid: int) -> bytes:
        """The query."""
        self._xid, self._with_start = xid, self.saved.start is not None
        self.state, self.heard_any, self._newest = Stream.AWAIT_REPLY, False, None
        return self._profile.active(self._duid, xid, self.saved.start)

    def end(self) -> None:
        self.state = Stream.IDLE

    def forget(self) -> None:
        """All that was learnt of the server, but for its clock."""
        self.need_resync()
        self.saved = Saved(skew_s=self.saved.skew_s)

    def need_resync(self) -> None:
        self.wishes += 1
        self._counts["resyncs_wanted"] += not self.saved.resync
        self.saved = replace(self.saved, resync=True)

    def accept(self) -> None:
        """The stream has begun; of profile N also when nobody says so."""
        self.state = Stream.CATCH_UP if self._with_start else Stream.LIVE
        if not self._with_start:  # a server whose messages have no base-time gives none to start from
            self._gap()

    def _gap(self) -> None:
        """What was before the stream is not known."""
        self.gaps += 1
        self.need_resync()

    def measured(self, skew_s: float) -> None:
        """Seconds that the server's clock is ahead of ours."""
        if abs(skew_s - self.saved.skew_s) >= 0.1:
            self.saved = replace(self.saved, skew_s=skew_s)

    def heard(self, heard: Heard) -> None:
        """Raises Failed and Broken. Events are in `take`."""
        self.heard_any = True
        if heard.contradiction:
            self.need_resync()
            raise Broken("contradiction", "the DHCPv6 and the DHCPv4 layer say different things about the stream")
        if heard.kind is Kind.TLS_ANSWER:
            raise Failed(heard.word or Word.UNSPEC_FAIL, f"REPLY instead of LEASEQUERY-REPLY {heard.text}".rstrip())
        if heard.kind is Kind.REPLY:
            self._reply(heard)
        else:
            self._later(heard)

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _reply(self, heard: Heard) -> None:
        if heard.xid != self._xid:
            self._counts["malformed_reply_xid"] += 1  # RFC 5007 section 4.2.2: discarded
            return
        if self.state is not Stream.AWAIT_REPLY:
            raise Broken("second_reply", "a second LEASEQUERY-REPLY on an active query")
        if heard.error:
            raise Failed(heard.word or Word.OTHER, heard.text)
        self._opened(heard)
        self._watch_clock(heard.base)
        if heard.word is Word.DATA_MISSING:  # no failure: what is new follows on this connection
            self._data_missing(heard)
        else:
            self.accept()
            if not self._with_start:
                self._advance(heard.base)
        self._rows(heard)

    def _opened(self, heard: Heard) -> None:
        saved = self.saved
        if heard.server and saved.server and heard.server != saved.server:
            self._counts["server_changes"] += 1
            self.saved = replace(saved, start=None)
            self._events.append(Rebased())
            self.need_resync()
        if heard.server:
            self.saved = replace(self.saved, server=heard.server)

    def _went_back(self, base: Start) -> None:
        """The server's clock: its old times would make all that is new look stale."""
        self._counts["clock_went_back"] += 1
        self._newest = base.outer
        self.saved = replace(self.saved, start=base)
        self._events.append(Rebased())
        self.need_resync()

    def _watch_clock(self, base: Start | None) -> None:
        """A base-time is the moment of its message, and messages of a connection come in order."""
        if base is None:
            return
        start = self.saved.start
        if self._newest is None and start is not None and base.outer < start.outer:
            self._went_back(base)  # LQ-124: since the last connection
        elif self._newest is not None and base.outer < self._newest - STEP_BACK_S:
            self._went_back(base)
        else:
            self._newest = max(base.outer, self._newest or 0)

    def _later(self, heard: Heard) -> None:
        if heard.xid != self._xid:
            raise Broken("xid", f"transaction-id {heard.xid:#x} belongs to no query of this connection")
        if self.state is Stream.AWAIT_REPLY:
            if self._profile.replies:
                raise Broken("before_reply", f"{heard.kind.name} before LEASEQUERY-REPLY")
            if heard.error:
                raise Failed(heard.word or Word.OTHER, heard.text)
            self._opened(heard)
            self.accept()
        self._watch_clock(heard.base)
        if heard.kind is Kind.DONE:
            if heard.data:  # it has another's work; what else there was to say is not known
                self._counts["warn_done_with_data"] += 1
                self.need_resync()
                self._rows(heard)
            elif self.state is Stream.LIVE:
                self._advance(heard.base)
            raise Failed(heard.word or Word.QUERY_TERMINATED, heard.text)
        self._rows(heard)
        if heard.word is Word.DATA_MISSING:
            self._data_missing(heard)
        elif heard.word is Word.CATCH_UP_COMPLETE:
            if self.state is Stream.CATCH_UP:
                self.state = Stream.LIVE
                self._set(heard.base)
            else:
                self._counts["warn_catch_up_complete_when_live"] += 1
        elif heard.error:
            self._counts["warn_error_in_data"] += 1
            raise Failed(heard.word or Word.OTHER, heard.text)
        else:
            if not heard.data:
                self._counts["keepalives"] += 1
            if self.state is Stream.LIVE:
                self._advance(heard.base)

    def _data_missing(self, heard: Heard) -> None:
        """RFC 7653 section 8.4.1. The bulk that is to follow has to be full: a window shows no lease that vanished."""
        self._counts["data_missing"] += 1
        self._gap()
        if self.state is not Stream.LIVE:
            self.state = Stream.LIVE
            self._set(heard.base)

    def _rows(self, heard: Heard) -> None:
        if len(heard.rows):
            self._events.append(Leases(heard.rows))

    def _set(self, base: Start | None) -> None:
        if base is not None:
            self.saved = replace(self.saved, start=base)

    def _advance(self, base: Start | None) -> None:
        start = self.saved.start
        if base is not None and (start is None or base.outer > start.outer):
            self._set(base)
