"""Bulk queries, one at a time on one connection (RFC 5460 section 6): full rounds, and single queries in between.

A round asks for everything, or once per link where the server does not know the link "::"; it is complete if every
query of it ended well and no message of it was lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from enum import Enum
from ipaddress import IPv6Address

from pylwaftr.dhcp import codec6
from pylwaftr.dhcp.active import Failed
from pylwaftr.dhcp.codec6 import Ask
from pylwaftr.dhcp.connection import Broken
from pylwaftr.dhcp.events import Answered, BulkBegan, BulkEnded, Event, Leases
from pylwaftr.dhcp.profiles import Heard, Kind, Profile, Start, Word

SINGLE_MOST = 1024  # queries that may wait


class Step(Enum):
    IDLE = "idle"
    AWAIT_REPLY = "awaiting the reply"
    DATA = "receiving"


class Bulk:
    def __init__(self, profile: Profile, duid: bytes, links: tuple[IPv6Address, ...], counts: Counter[str]) -> None:
        self._profile, self._duid, self._counts = profile, duid, counts
        self._links = links
        self._per_link = False  # the server was found not to know "::"
        self._asks: deque[Ask] = deque()  # what is left of the round
        self._single: deque[IPv6Address] = deque()
        self.in_round = False
        self._begun = False  # the first query of the round is out
        self._flaws: list[str] = []  # of the round
        self._about: IPv6Address | None = None  # of the query that runs, if that is a single one
        self._found = False  # it has been answered
        self.first_base: Start | None = None  # of the round
        self.last_was_single = False
        self._ask = Ask()
        self._any_data = False
        self.step = Step.IDLE
        self._xid = 0
        self._events: list[Event] = []

    @property
    def xid(self) -> int | None:
        """Of the stream whose DATA may be taken many at a time."""
        return self._xid if self.step is Step.DATA else None

    @property
    def single_next(self) -> bool:
        return bool(self._single)

    @property
    def wanted(self) -> bool:
        """There is something to ask."""
        return bool(self._asks or self._single)

    # --- what to ask ---

    def begin_round(self) -> None:
        self._asks = deque([Ask()] if not self._per_link else [Ask(link=link) for link in self._links])
        self.in_round, self._begun, self._flaws, self._any_data = True, False, [], False
        self.first_base = None

    def query(self, b4: IPv6Address) -> bool:
        """A single query for the lease of a B4. False: too many wait, or the profile has no such query."""
        if self._profile.letter == "N" or len(self._single) >= SINGLE_MOST:
            return False
        if b4 != self._about and b4 not in self._single:
            self._single.append(b4)
        return True

    def next(self, xid: int) -> bytes:
        """The next query, when none runs and one is wanted. Single ones first: a packet waits for them."""
        self._xid, self.step = xid, Step.AWAIT_REPLY
        self.last_was_single = bool(self._single)
        if self._single:
            self._about = self._single.popleft()
            self._ask = codec6.by_address(self._about)
        else:
            self._about, self._ask = None, self._asks.popleft()
            if not self._begun:
                self._begun = True
                self._events.append(BulkBegan())
        return self._profile.bulk(self._duid, xid, self._ask)

    # --- what comes back ---

    def flaw(self, what: str) -> None:
        """The round cannot end well any more: something of it was lost."""
        if self.in_round:
            self._flaws.append(what)

    def heard(self, heard: Heard) -> None:
        """Raises Failed (the query is over) and Broken. Events are in `take`."""
        if heard.kind is Kind.TLS_ANSWER:
            self._over()
            raise Failed(heard.word or Word.UNSPEC_FAIL, f"REPLY instead of LEASEQUERY-REPLY {heard.text}".rstrip())
        if heard.kind is Kind.REPLY and heard.xid != self._xid:
            self._counts["malformed_reply_xid"] += 1
            return
        if heard.xid != self._xid or self.step is Step.IDLE:
            raise Broken("xid", f"transaction-id {heard.xid:#x} belongs to no query of this connection")
        if heard.contradiction:
            raise Broken("contradiction", "the DHCPv6 and the DHCPv4 layer say different things about the stream")
        if heard.client_link:
            self._counts["warn_client_link"] += 1
            self.flaw("OPTION_LQ_CLIENT_LINK came over TCP")
        if self._about is None and self.first_base is None:
            self.first_base = heard.base
        if heard.kind is Kind.REPLY:
            self._reply(heard)
        elif self.step is Step.AWAIT_REPLY and self._profile.replies:
            raise Broken("before_reply", f"{heard.kind.name} before LEASEQUERY-REPLY")
        elif heard.kind is Kind.DONE:
            if heard.data:
                self._counts["warn_done_with_data"] += 1
                self.flaw("a lease came in LEASEQUERY-DONE (16), so more may come; is it mistaken for -DATA (17)?")
            self._rows(heard)
            self._done(heard, empty=not self._any_data)
        else:
            self._data(heard)

    def _reply(self, heard: Heard) -> None:
        if self.step is not Step.AWAIT_REPLY:
            raise Broken("second_reply", "a second LEASEQUERY-REPLY to one query")
        self._rows(heard)
        if heard.data and not heard.error:
            self.step = Step.DATA
        else:  # RFC 5460 section 6.3.1: nothing will follow, not even DONE
            self._done(heard, empty=True)

    def _data(self, heard: Heard) -> None:
        self.step = Step.DATA
        if not heard.data:
            self._counts["bulk_rubbish"] += 1  # RFC 5460 section 6.3
            return
        self._rows(heard)
        if heard.error:
            self._over()
            raise Failed(heard.word or Word.OTHER, heard.text)

    def _rows(self, heard: Heard) -> None:
        if len(heard.rows):
            self._any_data = self._any_data or self._about is None
            self._events.append(Leases(heard.rows, bulk=True))
            if self._about is not None and not self._found:
                self._found = True
                self._events.append(Answered(self._about, True))

    def _done(self, heard: Heard, empty: bool) -> None:
        single, ask = self._about, self._ask
        self._over()
        if single is not None:
            return
        everything = ask.link == codec6.ALL_LINKS
        unknown = heard.word in (Word.MALFORMED_QUERY, Word.NOT_CONFIGURED, Word.UNKNOWN_QUERY_TYPE)
        if everything and self._links and (unknown or (empty and not heard.error)):
            self._per_link = True  # there is no "everything" in DHCPv6; this server does not take "::" for it
            self._counts["per_link_fallbacks"] += 1
            self._asks = deque(Ask(link=link) for link in self._links)
            return
        if heard.error:
            raise Failed(heard.word or Word.OTHER, heard.text)
        if not self._asks:
            self._end_round()

    def _over(self) -> None:
        if self._about is not None and not self._found:
            self._events.append(Answered(self._about, False))
        self._about, self._found, self.step = None, False, Step.IDLE

    def _end_round(self) -> None:
        self.in_round = False
        self._asks.clear()
        self._events.append(BulkEnded(not self._flaws, "; ".join(dict.fromkeys(self._flaws))))

    def abandon(self, why: str) -> None:
        """The connection is lost or the query was refused: what arrived stays, nothing is swept."""
        if self._about is not None:
            self._over()
        self.step = Step.IDLE
        while self._single:
            self._events.append(Answered(self._single.popleft(), False))
        if self.in_round:
            self.flaw(why)
            self._end_round()

    def take(self) -> Iterator[Event]:
        events, self._events = self._events, []
        yield from events
