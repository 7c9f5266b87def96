"""The three ways to talk leasequery, behind one face: what to send, and what was heard.

  W  DHCPv6 over TCP 547 whose messages carry DHCPv4 leasequery messages in OPTION_DHCPV4_MSG
  N  DHCPv4 over TCP 67 (RFC 6926, 7724), the same inner messages
  S  DHCPv6 over TCP 547 with OPTION_S46_CONT_LW (RFC 7598), for servers that provision by DHCPv6 alone

In W the outer layer rules the stream (transaction-id, status, end, start time), the nested message rules the lease.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import IPv6Address
from typing import Protocol

import numpy as np

from pylwaftr.dhcp import codec4, codec6, codec_lease, s46
from pylwaftr.dhcp.codec4 import Malformed
from pylwaftr.dhcp.codec6 import EPOCH, Ask, Message6, Options
from pylwaftr.dhcp.codec_lease import LEASE_ROW, Lease, LeaseRows, State


class Kind(Enum):
    TLS_ANSWER = auto()
    REPLY = auto()  # the one answer to a query that opens the stream
    DATA = auto()
    DONE = auto()
    OTHER = auto()  # impossible here: ignored (RFC 8415 section 16)


class Word(Enum):
    """What a status code means; the two number spaces differ."""

    SUCCESS = "Success"
    UNSPEC_FAIL = "UnspecFail"
    USE_MULTICAST = "UseMulticast"
    UNKNOWN_QUERY_TYPE = "UnknownQueryType"
    MALFORMED_QUERY = "MalformedQuery"
    NOT_CONFIGURED = "NotConfigured"
    NOT_ALLOWED = "NotAllowed"
    QUERY_TERMINATED = "QueryTerminated"
    DATA_MISSING = "DataMissing"
    CATCH_UP_COMPLETE = "CatchUpComplete"
    NOT_SUPPORTED = "NotSupported"
    TLS_CONNECTION_REFUSED = "TLSConnectionRefused"
    CONNECTION_ACTIVE = "ConnectionActive"
    OTHER = "an unknown status"


WORDS6 = {status: Word[status.name] for status in codec6.Status}
WORDS4 = {status: Word[status.name] for status in codec4.Status}


@dataclass(frozen=True, slots=True)
class Start:
    """A point of the server's time, on both layers as the server gave them (LQ-119)."""

    outer: int  # since 2000
    nested: int  # since 1970

    @property
    def unix(self) -> int:
        return self.outer + EPOCH


@dataclass(frozen=True, slots=True)
class Heard:
    """One message of a server."""

    kind: Kind
    xid: int = 0
    word: Word | None = None  # None: no status, which is Success
    text: str = ""
    base: Start | None = None
    server: bytes = b""
    data: bool = False  # it has CLIENT_DATA or a lease message; without, DATA is a keep-alive or rubbish
    rows: LeaseRows = field(default_factory=lambda: np.zeros(0, LEASE_ROW))
    warnings: tuple[str, ...] = ()
    wrong_reply: bool = False  # REPLY (7) where LEASEQUERY-REPLY was due
    client_link: bool = False  # LQ_CLIENT_LINK, which TCP forbids
    contradiction: bool = False  # the layers say different things about the stream

    @property
    def error(self) -> bool:
        return self.word not in (None, Word.SUCCESS, Word.DATA_MISSING, Word.CATCH_UP_COMPLETE, Word.CONNECTION_ACTIVE)


class Profile(Protocol):
    letter: str
    least: int  # octets of a message
    replies: bool  # an accepted query is answered at once

    def tls_request(self, xid: int) -> bytes: ...
    def active(self, duid: bytes, xid: int, start: Start | None) -> bytes: ...
    def bulk(self, duid: bytes, xid: int, ask: Ask, window: tuple[Start, Start] | None = None) -> bytes: ...
    def hear(self, octets: bytes, duid: bytes, received: int) -> Heard:
        """Raises Malformed. `received`: Unix seconds of our clock."""
        ...


def text_of(octets: bytes) -> str:
    """For a log: UTF-8 or not, with or without NUL, 255 characters at most."""
    text = octets[:255].decode("utf-8", "backslashreplace").rstrip("\0")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)[:255]


class _Over6:
    letter = ""
    least = codec6.MIN_OCTETS
    replies = True
    wanted: tuple[int, ...] = ()  # of the ORO
    wanted_inside: tuple[int, ...] = ()  # of the ORO in LQ_QUERY: the texts do not say which one counts

    def tls_request(self, xid: int) -> bytes:
        return codec6.encode(Message6(codec6.Type.STARTTLS, xid, ()))

    def active(self, duid: bytes, xid: int, start: Start | None) -> bytes:
        """No LQ_QUERY: all updates are wanted (RFC 7653 section 6.2.1)."""
        options: list[tuple[int, bytes]] = [(codec6.Code.CLIENTID, duid), codec6.requested(self.wanted)]
        if start is not None:
            options.append((codec6.Code.LQ_START_TIME, start.outer.to_bytes(4)))
        options += self._nested(codec4.Type.ACTIVELEASEQUERY, xid, start, None)
        return codec6.encode(Message6(codec6.Type.ACTIVELEASEQUERY, xid, tuple(options)))

    def bulk(self, duid: bytes, xid: int, ask: Ask, window: tuple[Start, Start] | None = None) -> bytes:
        options: list[tuple[int, bytes]] = [
            (codec6.Code.CLIENTID, duid),
            codec6.lq_query(ask, self.wanted_inside),
            codec6.requested(self.wanted),
        ]
        start, end = window or (None, None)
        for code, when in ((codec6.Code.LQ_START_TIME, start), (codec6.Code.LQ_END_TIME, end)):
            if when is not None:
                options.append((code, when.outer.to_bytes(4)))
        options += self._nested(codec4.Type.BULKLEASEQUERY, xid, start, end)
        return codec6.encode(Message6(codec6.Type.LEASEQUERY, xid, tuple(options)))

    def _nested(self, kind: codec4.Type, xid: int, start: Start | None, end: Start | None) -> list[tuple[int, bytes]]:
        return []

    def hear(self, octets: bytes, duid: bytes, received: int) -> Heard:
        kind = {
            codec6.Type.REPLY: Kind.TLS_ANSWER,
            codec6.Type.LEASEQUERY_REPLY: Kind.REPLY,
            codec6.Type.LEASEQUERY_DATA: Kind.DATA,
            codec6.Type.LEASEQUERY_DONE: Kind.DONE,
        }.get(octets[0] if octets else 0)  # type: ignore[call-overload]
        if kind is None:
            return Heard(Kind.OTHER)
        message = codec6.decode(octets)
        if kind is Kind.REPLY:
            _check_reply(message, duid)
        outer = message.number(codec6.Code.LQ_BASE_TIME)
        leases, statuses, warnings = self._leases(message, outer, received)
        word, text = None, ""
        if message.status is not None:
            code, octets = message.status
            word, text = WORDS6.get(code, Word.OTHER), text_of(octets)  # type: ignore[call-overload]
            if b"\0" in octets:
                warnings.append("nul_in_text")
        nested = int(leases[-1].base) if leases and leases[-1].base_said else None
        return Heard(
            kind,
            message.xid,
            word,
            text,
            _start(outer, nested),
            message.get(codec6.Code.SERVERID) or b"",
            data=message.get(codec6.Code.CLIENT_DATA) is not None or bool(leases),
            rows=codec_lease.rows(leases),
            warnings=tuple(warnings),
            wrong_reply=kind is Kind.TLS_ANSWER,
            client_link=_anywhere(message, codec6.Code.LQ_CLIENT_LINK),
            contradiction=any(status not in (word or Word.SUCCESS, Word.CONNECTION_ACTIVE) for status in statuses),
        )

    def _leases(self, message: Message6, outer: int | None, received: int) -> tuple[list[Lease], list[Word], list[str]]:
        raise NotImplementedError


def _check_reply(message: Message6, duid: bytes) -> None:
    """RFC 5007 section 4.2.2."""
    if message.get(codec6.Code.SERVERID) is None:
        raise Malformed("no_serverid", "LEASEQUERY-REPLY without OPTION_SERVERID")
    if message.get(codec6.Code.CLIENTID) != duid:
        raise Malformed("clientid", "the OPTION_CLIENTID of LEASEQUERY-REPLY is not ours")


def _start(outer: int | None, nested: int | None) -> Start | None:
    if outer is None:
        return None if nested is None else Start(nested - EPOCH & 0xFFFFFFFF, nested)
    return Start(outer, nested if nested is not None else outer + EPOCH & 0xFFFFFFFF)


def _anywhere(message: Message6, code: int) -> bool:
    return message.get(code) is not None or any(codec6.get(data, code) is not None for data in message.client_data)


class Wrapped(_Over6):
    letter = "W"
    wanted = (codec6.Code.DHCPV4_MSG, codec6.Code.LQ_BASE_TIME)
    wanted_inside = (codec6.Code.CLT_TIME, codec6.Code.DHCPV4_MSG, codec6.Code.LQ_BASE_TIME)

    def _nested(self, kind: codec4.Type, xid: int, start: Start | None, end: Start | None) -> list[tuple[int, bytes]]:
        times = [None if when is None else when.nested for when in (start, end)]
        return [(codec6.Code.DHCPV4_MSG, codec4.encode(codec4.query(kind, xid, *times)))]

    def _leases(self, message: Message6, outer: int | None, received: int) -> tuple[list[Lease], list[Word], list[str]]:
        leases: list[Lease] = []
        statuses: list[Word] = []
        warnings: list[str] = []
        base = None if outer is None else outer + EPOCH & 0xFFFFFFFF
        # RFC 5460 wants the lease inside CLIENT_DATA; a literal server has it beside.
        places: list[Options] = [*message.client_data, _beside(message)]
        for index, options in enumerate(places):
            clt_time = codec6.get(options, codec6.Code.CLT_TIME)
            for code, octets in options:
                if code != codec6.Code.DHCPV4_MSG:
                    continue
                nested = codec4.decode(octets)
                if nested.xid != message.xid:
                    warnings.append("nested_xid")
                if nested.type == codec4.Type.LEASEQUERYSTATUS and nested.op == 2:
                    if nested.status is not None:
                        statuses.append(WORDS4.get(nested.status[0], Word.OTHER))  # type: ignore[call-overload]
                    continue
                if nested.type in (codec4.Type.LEASEQUERYDONE, codec4.Type.TLS) and nested.op == 2:
                    continue  # has no meaning inside
                seconds = None if clt_time is None else int.from_bytes(clt_time)
                leases.append(codec_lease.of_message(nested, base, seconds, received))
                warnings += leases[-1].warnings
                if index == len(places) - 1:
                    warnings.append("top_level")
        return leases, statuses, warnings


def _beside(message: Message6) -> Options:
    return tuple((code, data) for code, data in message.options if code == codec6.Code.DHCPV4_MSG)


class Softwire(_Over6):
    """RFC 7598 data. An address with valid lifetime 0 is the end of a lease; the container alone has none."""

    letter = "S"
    wanted = (codec6.Code.S46_CONT_LW, codec6.Code.LQ_BASE_TIME)
    wanted_inside = (codec6.Code.CLT_TIME, codec6.Code.S46_CONT_LW, codec6.Code.LQ_BASE_TIME)

    def _leases(self, message: Message6, outer: int | None, received: int) -> tuple[list[Lease], list[Word], list[str]]:
        found = [self._lease(options, outer, received) for options in message.client_data]
        return [lease for lease in found if lease is not None], [], []

    def _lease(self, options: Options, outer: int | None, received: int) -> Lease | None:
        octets = codec6.get(options, codec6.Code.S46_CONT_LW)
        if octets is None:
            return None
        try:
            bind = s46.decode_data(octets).bind
        except ValueError as fault:
            raise Malformed("s46", f"OPTION_S46_CONT_LW: {fault}") from None
        if bind is None:
            return None
        base = received if outer is None else outer + EPOCH & 0xFFFFFFFF
        clt_time = codec6.get(options, codec6.Code.CLT_TIME)
        address = codec6.get(options, codec6.Code.IAADDR)
        valid = None if address is None else int.from_bytes(address[20:24])
        return Lease(
            ipv4=codec_lease.leasable(bind.ipv4),
            state=State.EXPIRED if valid == 0 else State.ACTIVE,
            ports=bind.ports or s46.PortParams(0, 0, 0),
            # A shorter prefix does not name the B4: it completes the address itself.
            b4=IPv6Address(bind.prefix.network_address) if bind.prefix.prefixlen == 128 else None,
            client=codec6.get(options, codec6.Code.CLIENTID) or b"",
            base=base,
            cltt=None if clt_time is None else max(0, base - int.from_bytes(clt_time)),
            since=None,
            lifetime=valid,
            base_said=outer is not None,
        )


class Native:
    letter = "N"
    least = codec4.MIN_OCTETS
    replies = False  # the first message about anything is the acceptance

    def tls_request(self, xid: int) -> bytes:
        return codec4.encode(codec4.tls_request(xid))

    def active(self, duid: bytes, xid: int, start: Start | None) -> bytes:
        nested = None if start is None else start.nested
        return codec4.encode(codec4.query(codec4.Type.ACTIVELEASEQUERY, xid, nested))

    def bulk(self, duid: bytes, xid: int, ask: Ask, window: tuple[Start, Start] | None = None) -> bytes:
        """Everything there is: RFC 6926 has no query by tunnel address or link."""
        start, end = window or (None, None)
        times = [None if when is None else when.nested for when in (start, end)]
        return codec4.encode(codec4.query(codec4.Type.BULKLEASEQUERY, xid, *times))

    def hear(self, octets: bytes, duid: bytes, received: int) -> Heard:
        message = codec4.decode(octets)
        word, text = None, ""
        if message.status is not None:
            word, text = WORDS4.get(message.status[0], Word.OTHER), text_of(message.status[1])  # type: ignore[call-overload]
        base = message.number(codec4.Code.BASE_TIME)
        start = None if base is None else Start(base - EPOCH & 0xFFFFFFFF, base)
        server = message.get(codec4.Code.SERVER_ID) or b""
        if message.op == 2 and message.type in (codec4.Type.LEASEACTIVE, codec4.Type.LEASEUNASSIGNED):
            lease = codec_lease.of_message(message, None, None, received)
            rows = codec_lease.rows([lease])
            return Heard(Kind.DATA, message.xid, word, text, start, server, True, rows, lease.warnings)
        kind = Kind.OTHER
        if message.op == 2:
            kind = _KINDS4.get(message.type, Kind.OTHER)  # type: ignore[call-overload]
        heard = Heard(kind, message.xid, word, text, start, server)
        if kind is Kind.DATA and heard.error:  # RFC 7724 section 7.4: an active stream ends with a status
            return Heard(Kind.DONE, message.xid, word, text, start, server)
        return heard


_KINDS4 = {
    codec4.Type.LEASEQUERYSTATUS: Kind.DATA,
    codec4.Type.LEASEQUERYDONE: Kind.DONE,
    codec4.Type.TLS: Kind.TLS_ANSWER,
}

PROFILES: dict[str, Profile] = {"W": Wrapped(), "N": Native(), "S": Softwire()}
