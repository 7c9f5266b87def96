"""The server's half of one connection, without the connection: octets in, octets out when the client can take them.

connection.feed(octets, now)         connection.timer(), handle_timer(now)
connection.produce(now, unix)        the next piece of what is to be sent; b"" = nothing now
connection.wants_tls, connection.done
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address

import numpy as np

from pylwaftr.responder import encode, query
from pylwaftr.responder.database import Database
from pylwaftr.responder.encode import Leases
from pylwaftr.responder.query import Bad, Query

IDLE_S = 60.0  # ACTIVE_LQ_IDLE_TIMEOUT: a keep-alive after so much silence
SEND_S = 120.0  # ACTIVE_LQ_SEND_TIMEOUT: who does not read for so long is dropped
PIECE = 512  # leases of one piece
QUERIES_MOST = 32  # that may wait on one connection


@dataclass(frozen=True, slots=True)
class Settings:
    duid: bytes
    tls: bool = False  # there is a certificate
    require_tls: bool = False
    links: Mapping[IPv6Address, tuple[IPv4Network, ...]] = field(default_factory=dict)
    idle_s: float = IDLE_S
    active: bool = True  # False: as a server that does bulk only


@dataclass(slots=True)
class Counts:
    queries: int = 0
    leases: int = 0
    malformed: int = 0
    data_missing: int = 0


class Connection:
    def __init__(self, database: Database, settings: Settings, counts: Counts | None = None) -> None:
        self._db, self._settings = database, settings
        self.counts = counts or Counts()
        self.wants_tls = False
        self.done = False  # close when all is sent
        self._secure = False
        self._in = bytearray()
        self._out: deque[bytes] = deque()
        self._queries: deque[Query] = deque()
        self._bulk: Query | None = None
        self._place = 0
        self._active: Query | None = None
        self._cursor = 0
        self._catch_up_to: int | None = None
        self._said_at = 0.0
        self._reply_due = False
        self._opening = b""  # what the reply says of the catch-up

    @property
    def is_active(self) -> bool:
        return self._active is not None

    def secured(self) -> None:
        self._secure, self.wants_tls = True, False

    # --- in ---

    def feed(self, octets: bytes, now: float) -> None:
        if self.wants_tls:  # a client waits for our answer before its handshake
            self.done, self.wants_tls = True, False
        if self.done:
            return
        self._in += octets
        while len(self._in) >= 2 and not self.done and not self.wants_tls:
            size = int.from_bytes(self._in[:2])
            if len(self._in) - 2 < size:
                break
            message = bytes(self._in[2 : 2 + size])
            del self._in[: 2 + size]
            self._message(message, now)
        if self.wants_tls and self._in:
            self.done, self.wants_tls = True, False  # octets in clear text that claim to come after TLS

    def _message(self, message: bytes, now: float) -> None:
        try:
            asked = query.parse(message)
        except Bad as fault:
            self.counts.malformed += 1
            if fault.xid is None or message[0] not in (query.LEASEQUERY, query.ACTIVELEASEQUERY):
                self.done = True
                return
            self._refuse(Query(message[0], fault.xid), encode.MALFORMED_QUERY, str(fault))
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
        elif not self._settings.tls:
            self._out.append(encode.framed(encode.REPLY, asked.xid, encode.status(encode.TLS_REFUSED, "no TLS here")))
            self.done = True
        else:
            self._out.append(encode.framed(encode.REPLY, asked.xid, b""))
            self.wants_tls = True

    def _query(self, asked: Query, now: float) -> None:
        self.counts.queries += 1
        if not asked.client:
            self.counts.malformed += 1  # RFC 5007 section 4.2.1: without OPTION_CLIENTID it is discarded
            return
        if self._settings.require_tls and not self._secure:
            self._refuse(asked, encode.NOT_ALLOWED, "TLS is required")
        elif self.is_active or len(self._queries) >= QUERIES_MOST:  # RFC 7653 section 9.4
            self._refuse(asked, encode.NOT_ALLOWED, "one query too many on this connection")
        elif asked.kind == query.ACTIVELEASEQUERY:
            self._begin_active(asked, now)
        elif asked.about is None:
            self._refuse(asked, encode.MALFORMED_QUERY, "OPTION_LQ_QUERY is missing")
        else:
            self._queries.append(asked)

    def _refuse(self, asked: Query, code: int, text: str, close: bool = True) -> None:
        head = encode.identities(self._settings.duid, asked.client or b"\0\0\0")
        self._out.append(encode.framed(encode.LEASEQUERY_REPLY, asked.xid, head + encode.status(code, text)))
        self.done = self.done or close

    # --- active ---

    def _begin_active(self, asked: Query, now: float) -> None:
        if not self._settings.active:
            self._refuse(asked, 14, "no active leasequery here")
            return
        if asked.end is not None or asked.about is not None:
            self._refuse(asked, encode.MALFORMED_QUERY, "OPTION_LQ_END_TIME has no place in an active query")
            return
        self._active, self._cursor, self._said_at = asked, self._db.head, now
        if asked.start is not None:
            number = self._db.since(asked.start)
            if number is None:
                self.counts.data_missing += 1
                self._opening = encode.status(encode.DATA_MISSING, "the history does not reach back so far")
            else:
                self._cursor, self._catch_up_to = number, self._db.head
        self._reply_due = True

    def _stream(self, asked: Query, unix: int) -> bytes:
        if self._reply_due:
            self._reply_due = False
            head = encode.identities(self._settings.duid, asked.client) + encode.base_time(unix)
            return encode.framed(encode.LEASEQUERY_REPLY, asked.xid, head + self._opening)
        if self._cursor < self._db.head:
            found = self._db.changed(self._cursor, PIECE)
            if found is None:  # the client was too slow for the log
                self.counts.data_missing += 1
                self._cursor, self._catch_up_to = self._db.head, None
                return self._told(asked, unix, encode.DATA_MISSING)
            leases, self._cursor = found
            self.counts.leases += len(leases)
            return encode.data(leases, asked.xid, unix)
        if self._catch_up_to is not None:
            self._catch_up_to = None
            return self._told(asked, unix, encode.CATCH_UP_COMPLETE)
        return b""

    def _told(self, asked: Query, unix: int, code: int) -> bytes:
        return encode.framed(encode.LEASEQUERY_DATA, asked.xid, encode.base_time(unix) + encode.status(code))

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
            return encode.data(leases, asked.xid, unix)
        self._bulk = None
        return encode.framed(encode.LEASEQUERY_DONE, asked.xid, b"")

    def _bulk_begins(self, asked: Query, unix: int) -> bytes:
        """LEASEQUERY-REPLY with the first lease; without any that is all there is to say."""
        if asked.about == query.BY_LINK:
            if asked.link != IPv6Address(0) and asked.link not in self._settings.links:
                return self._no(asked, encode.NOT_CONFIGURED, f"{asked.link} is no link here")
            first = np.zeros(0, encode.LEASE)
            while not len(first) and self._place < self._db.count:
                first, place = self._db.part(self._place, PIECE)
                first = self._wanted(asked, first)
                if not len(first):
                    self._place = place
            rest = encode.data(first[1:], asked.xid, unix)
            self._place = place if len(first) else self._place
        elif asked.about in (query.BY_ADDRESS, query.BY_CLIENT):
            by_address = asked.about == query.BY_ADDRESS
            first = self._wanted(asked, self._db.of_b4(asked.b4) if by_address else self._db.of_duid(asked.duid))
            rest = encode.data(first[1:], asked.xid, unix)
        else:
            return self._no(asked, encode.UNKNOWN_QUERY_TYPE, f"query type {asked.about} is not supported")
        head = encode.identities(self._settings.duid, asked.client) + encode.base_time(unix)
        self.counts.leases += len(first)
        if len(first):
            head += encode.client_data(first[:1], asked.xid, unix)
        else:
            self._bulk = None
        return encode.framed(encode.LEASEQUERY_REPLY, asked.xid, head) + rest

    def _no(self, asked: Query, code: int, text: str) -> bytes:
        self._bulk = None
        head = encode.identities(self._settings.duid, asked.client)
        return encode.framed(encode.LEASEQUERY_REPLY, asked.xid, head + encode.status(code, text))

    def _wanted(self, asked: Query, leases: Leases) -> Leases:
        """Of a link, and of a time window: by the start of the state or the last transaction."""
        if asked.link in self._settings.links and asked.about == query.BY_LINK:
            inside = np.zeros(len(leases), np.bool_)
            for pool in self._settings.links[asked.link]:
                inside |= leases["ipv4"] & int(pool.netmask) == int(pool.network_address)
            leases = leases[inside]
        changed = np.maximum(leases["since"], leases["cltt"])
        if asked.start is not None:
            leases, changed = leases[changed >= asked.start], changed[changed >= asked.start]
        if asked.end is not None:
            leases = leases[changed <= asked.end]
        return leases

    # --- out ---

    def produce(self, now: float, unix: int) -> bytes:
        octets = b"".join(self._out)
        self._out.clear()
        if not octets and not self.done and not self.wants_tls:
            if self._bulk is not None or self._queries:
                while not octets and (self._bulk is not None or self._queries):  # a piece may hold nothing wanted
                    octets = self._bulk_piece(unix)
            elif self._active is not None:
                octets = self._stream(self._active, unix)
                if not octets and now >= self._said_at + self._settings.idle_s:
                    octets = encode.framed(encode.LEASEQUERY_DATA, self._active.xid, encode.base_time(unix))
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
        options = encode.status(encode.QUERY_TERMINATED) + encode.base_time(unix)
        return encode.framed(encode.LEASEQUERY_DONE, self._active.xid, options)
