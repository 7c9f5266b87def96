"""The server's half of one connection, without the connection: octets in, octets out when the client can take them.
What is said is decided here, how it is said in over6.py and native.py.

connection.feed(octets, now)         connection.timer(), handle_timer(now)
connection.produce(now, unix)        the next piece of what is to be sent; b"" = nothing now
connection.wants_tls, connection.done, connection.is_full
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pylwaftr.responder import encode, query
from pylwaftr.responder.database import Database
from pylwaftr.responder.encode import Leases
from pylwaftr.responder.native import Native
from pylwaftr.responder.over6 import Over6
from pylwaftr.responder.query import Bad, Query

IDLE_S = 60.0  # ACTIVE_LQ_IDLE_TIMEOUT: a keep-alive after so much silence
SEND_S = 120.0  # ACTIVE_LQ_SEND_TIMEOUT: who does not read for so long is dropped
UNASKED_S = 300.0  # BULK_LQ_DATA_TIMEOUT: who asks nothing for so long holds a place that others may need
PIECE = 512  # leases of one piece
QUERIES_MOST = 32  # that wait on one connection; those behind them are not read yet


@dataclass(frozen=True, slots=True)
class Settings:
    duid: bytes
    tls: bool = False  # there is a certificate
    require_tls: bool = False
    links: Mapping[IPv6Address, tuple[IPv4Network, ...]] = field(default_factory=dict)
    idle_s: float = IDLE_S
    active: bool = True  # False: as a server that does bulk only
    br: bytes = b""  # of softwire containers
    server_id: bytes = bytes(4)  # of DHCPv4


@dataclass(slots=True)
class Counts:
    queries: int = 0
    leases: int = 0
    malformed: int = 0
    data_missing: int = 0


class Voice(Protocol):
    """How it is said."""

    def parse(self, message: bytes) -> Query: ...
    def unable(self, asked: Query) -> str: ...
    def tls(self, asked: Query, refused: bool) -> bytes: ...
    def refused(self, asked: Query, code: int, text: str) -> bytes: ...
    def opened(self, asked: Query, unix: int, code: int | None, text: str) -> bytes: ...
    def begun(self, asked: Query, unix: int, leases: Leases) -> bytes: ...
    def leases(self, asked: Query, unix: int, leases: Leases) -> bytes: ...
    def told(self, asked: Query, unix: int, code: int) -> bytes: ...
    def alive(self, asked: Query, unix: int) -> bytes: ...
    def done(self, asked: Query) -> bytes: ...
    def terminated(self, asked: Query, unix: int) -> bytes: ...


class Connection:
    def __init__(
        self, database: Database, settings: Settings, counts: Counts | None = None, native: bool = False
    ) -> None:
        """`native`: it came to the port of DHCPv4."""
        self._db, self._settings = database, settings
        self._voice: Voice = Native(settings.server_id) if native else Over6(settings.duid, settings.br)
        self.counts = counts or Counts()
        self.wants_tls = False
        self.done = False  # close when all is sent
        self._secure = False
        self._in = bytearray()
        self._out: deque[bytes] = deque()
        self._queries: deque[Query] = deque()
        self._refusal: bytes | None = None  # the last word, behind the answers to what was asked before
        self._bulk: Query | None = None
        self._place = 0
        self._active: Query | None = None
        self._cursor = 0
        self._catch_up_to: int | None = None
        self._said_at = 0.0
        self._busy_at: float | None = None
        self._reply_due = False
        self._opening: int | None = None  # what the reply says of the catch-up

    @property
    def is_active(self) -> bool:
        return self._active is not None

    @property
    def is_full(self) -> bool:
        """What comes now would only wait: leave it to TCP until something has been produced."""
        return len(self._queries) >= QUERIES_MOST

    def unasked(self, now: float) -> bool:
        """It is open in vain. Asked now and then."""
        if self._busy_at is None or self.is_active or self._bulk is not None or self._queries:
            self._busy_at = now
        return now >= self._busy_at + UNASKED_S

    def secured(self) -> None:
        self._secure, self.wants_tls = True, False

    # --- in ---

    def feed(self, octets: bytes, now: float) -> None:
        if self.wants_tls:  # a client waits for our answer before its handshake
            self.done, self.wants_tls = True, False
        if self.done or self._refusal is not None:
            return
        self._in += octets
        self._take(now)

    def _take(self, now: float) -> None:
        while len(self._in) >= 2 and not (self.done or self.wants_tls or self.is_full or self._refusal is not None):
            size = int.from_bytes(self._in[:2])
            if len(self._in) - 2 < size:
                break
            message = bytes(self._in[2 : 2 + size])
            del self._in[: 2 + size]
            self._busy_at = now
            self._message(message, now)
        if self.wants_tls and self._in:
            self.done, self.wants_tls = True, False  # octets in clear text that claim to come after TLS
        if self._refusal is not None and self._bulk is None and not self._queries:
            self._out.append(self._refusal)
            self._refusal, self.done = None, True

    def _message(self, message: bytes, now: float) -> None:
        try:
            asked = self._voice.parse(message)
        except Bad as fault:
            self.counts.malformed += 1
            if fault.asked is None:
                self.done = True
                return
            self._refuse(fault.asked, encode.MALFORMED_QUERY, str(fault))
            return
        if asked.kind == query.STARTTLS:
            self._starttls(asked)
        elif asked.kind in (query.LEASEQUERY, query.ACTIVELEASEQUERY):
            self._query(asked, now)
        else:
            self.counts.malformed += 1

    def _starttls(self, asked: Query) -> None:
        if self._secure or self.is_active or self._bulk is not None:
            self.done = True
            return
        self._out.append(self._voice.tls(asked, refused=not self._settings.tls))
        self.wants_tls, self.done = self._settings.tls, not self._settings.tls

    def _query(self, asked: Query, now: float) -> None:
        self.counts.queries += 1
        if asked.client is None:
            self.counts.malformed += 1  # RFC 5007 section 4.2.1: without OPTION_CLIENTID it is discarded
            return
        if self._settings.require_tls and not self._secure:
            self._refuse(asked, encode.NOT_ALLOWED, "TLS is required")
        elif unable := self._voice.unable(asked):
            self._refuse(asked, encode.UNSPEC_FAIL, unable)
        elif self.is_active:  # RFC 7653 section 9.4
            self._refuse(asked, encode.NOT_ALLOWED, "one query too many on this connection")
        elif asked.kind == query.ACTIVELEASEQUERY:
            self._begin_active(asked, now)
        elif asked.about is None:
            self._refuse(asked, encode.MALFORMED_QUERY, "OPTION_LQ_QUERY is missing")
        else:
            self._queries.append(asked)

    def _refuse(self, asked: Query, code: int, text: str) -> None:
        self._refusal = self._voice.refused(asked, code, text)

    # --- active ---

    def _begin_active(self, asked: Query, now: float) -> None:
        if not self._settings.active:
            self._refuse(asked, encode.NOT_SUPPORTED, "no active leasequery here")
            return
        if asked.end is not None or asked.about is not None:
            self._refuse(asked, encode.MALFORMED_QUERY, "an active query is of no kind and has no end")
            return
        self._active, self._cursor, self._said_at = asked, self._db.head, now
        if asked.start is not None:
            number = self._db.since(asked.start)
            if number is None:
                self.counts.data_missing += 1
                self._opening = encode.DATA_MISSING
            else:
                self._cursor, self._catch_up_to = number, self._db.head
        self._reply_due = True

    def _stream(self, asked: Query, unix: int) -> bytes:
        if self._reply_due:
            self._reply_due = False
            text = "" if self._opening is None else "the history does not reach back so far"
            if opened := self._voice.opened(asked, unix, self._opening, text):
                return opened
        while self._cursor < self._db.head:
            found = self._db.changed(self._cursor, PIECE)
            if found is None:  # the client was too slow for the log
                self.counts.data_missing += 1
                self._cursor, self._catch_up_to = self._db.head, None
                return self._voice.told(asked, unix, encode.DATA_MISSING)
            leases, self._cursor = found
            self.counts.leases += len(leases)
            if octets := self._voice.leases(asked, unix, leases):
                return octets
        if self._catch_up_to is not None:
            self._catch_up_to = None
            return self._voice.told(asked, unix, encode.CATCH_UP_COMPLETE)
        return b""

    # --- bulk ---

    def _bulk_piece(self, unix: int) -> bytes:
        if self._bulk is None:
            self._bulk, self._place = self._queries.popleft(), 0
            return self._bulk_begins(self._bulk, unix)
        asked = self._bulk
        if asked.about == query.BY_LINK and self._place < self._db.count:
            leases, self._place = self._db.part(self._place, PIECE)
            leases = self._wanted(asked, leases)
            self.counts.leases += len(leases)
            return self._voice.leases(asked, unix, leases)
        self._bulk = None
        return self._voice.done(asked)

    def _bulk_begins(self, asked: Query, unix: int) -> bytes:
        leases = np.zeros(0, encode.LEASE)
        if asked.about == query.BY_LINK:
            if asked.link != query.ALL_LINKS and asked.link not in self._settings.links:
                return self._no(asked, encode.NOT_CONFIGURED, f"{asked.link} is no link here")
            while not len(leases) and self._place < self._db.count:
                leases, self._place = self._db.part(self._place, PIECE)
                leases = self._wanted(asked, leases)
        elif asked.about == query.BY_ADDRESS:
            leases = self._wanted(asked, self._db.of_b4(asked.b4))
        elif asked.about == query.BY_CLIENT:
            leases = self._wanted(asked, self._db.of_duid(asked.duid))
        elif asked.about == query.BY_CLIENT_ID:
            leases = self._wanted(asked, self._db.of_client_id(asked.client_id))
        else:
            return self._no(asked, encode.UNKNOWN_QUERY_TYPE, "no leases are known by what this query is about")
        self.counts.leases += len(leases)
        if not len(leases):
            self._bulk = None
        return self._voice.begun(asked, unix, leases)

    def _no(self, asked: Query, code: int, text: str) -> bytes:
        self._bulk = None
        return self._voice.refused(asked, code, text)

    def _wanted(self, asked: Query, leases: Leases) -> Leases:
        """Of a link, and of a time window: by the start of the state or the last transaction."""
        if asked.link in self._settings.links and asked.about == query.BY_LINK:
            inside = np.zeros(len(leases), np.bool_)
            for pool in self._settings.links[asked.link]:
                inside |= leases["ipv4"] & int(pool.netmask) == int(pool.network_address)
            leases = leases[inside]
        if asked.softwire:
            leases = encode.in_softwires(leases)
        if asked.start is not None:
            leases = leases[_changed(leases) >= asked.start]
        if asked.end is not None:
            leases = leases[_changed(leases) <= asked.end]
        return leases

    # --- out ---

    def produce(self, now: float, unix: int) -> bytes:
        octets = b""
        while not octets:
            self._take(now)
            octets = b"".join(self._out)
            self._out.clear()
            if octets or self.done or self.wants_tls or (self._bulk is None and not self._queries):
                break
            octets = self._bulk_piece(unix)  # a piece may hold nothing wanted
        if not octets and self._active is not None and not (self.done or self.wants_tls):
            octets = self._stream(self._active, unix)
            if not octets and now >= self._said_at + self._settings.idle_s:
                octets = self._voice.alive(self._active, unix)
        if octets:
            self._said_at = now
        return octets

    def timer(self) -> float | None:
        """When `produce` has a keep-alive to give."""
        return None if self._active is None or self.done else self._said_at + self._settings.idle_s

    def terminate(self, unix: int) -> bytes:
        """The last word of an active query when the server goes down."""
        if self._active is None or self.done:
            return b""
        self.done = True
        return self._voice.terminated(self._active, unix)


def _changed(leases: Leases) -> npt.NDArray[np.uint32]:
    changed: npt.NDArray[np.uint32] = np.maximum(leases["since"], leases["cltt"])
    return changed
