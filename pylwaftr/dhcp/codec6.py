"""DHCPv6 messages of bulk and active leasequery (RFC 8415, 5007, 5460, 7653), with OPTION_DHCPV4_MSG (RFC 7341).

Decoding is strict on lengths: an option that overruns what contains it, or has an impossible length, makes the whole
message Malformed. Options that this file does not know are kept as they came.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address

from pylwaftr.dhcp.codec4 import Malformed

EPOCH = 946684800  # 2000-01-01 UTC: LQ_BASE_TIME and its kin count from there, the options of DHCPv4 from 1970
MIN_OCTETS = 4
MAX_OPTIONS = 1000  # of a message, nested ones included
MAX_DEPTH = 4
UNICAST = 0x800000  # flag of DHCPV4-QUERY (RFC 7341 section 6.1)
ALL_LINKS = IPv6Address(0)
_OPTION = struct.Struct("!HH")

Options = tuple[tuple[int, bytes], ...]


class Type(IntEnum):
    ADVERTISE = 2
    REPLY = 7
    LEASEQUERY = 14
    LEASEQUERY_REPLY = 15
    LEASEQUERY_DONE = 16  # RFC 5460 section 9: DONE is 16 and DATA is 17
    LEASEQUERY_DATA = 17
    DHCPV4_QUERY = 20
    DHCPV4_RESPONSE = 21
    ACTIVELEASEQUERY = 22
    STARTTLS = 23


class Code(IntEnum):
    CLIENTID = 1
    SERVERID = 2
    IAADDR = 5
    ORO = 6
    STATUS_CODE = 13
    REMOTE_ID = 37
    LQ_QUERY = 44
    CLIENT_DATA = 45
    CLT_TIME = 46
    LQ_RELAY_DATA = 47
    LQ_CLIENT_LINK = 48
    RELAY_ID = 53
    DHCPV4_MSG = 87
    S46_BR = 90
    S46_CONT_LW = 96
    LQ_BASE_TIME = 100
    LQ_START_TIME = 101
    LQ_END_TIME = 102
    S46_BIND_IPV6_PREFIX = 137


class Status(IntEnum):
    """Values of option 13; those of DHCPv4 are others."""

    SUCCESS = 0
    UNSPEC_FAIL = 1
    USE_MULTICAST = 5
    UNKNOWN_QUERY_TYPE = 7
    MALFORMED_QUERY = 8
    NOT_CONFIGURED = 9
    NOT_ALLOWED = 10
    QUERY_TERMINATED = 11
    DATA_MISSING = 12
    CATCH_UP_COMPLETE = 13
    NOT_SUPPORTED = 14
    TLS_CONNECTION_REFUSED = 15


class QueryType(IntEnum):
    ADDRESS = 1
    CLIENT_ID = 2
    RELAY_ID = 3
    LINK_ADDRESS = 4
    REMOTE_ID = 5


# code: fewest octets, most octets, a multiple of
_LENGTHS: dict[int, tuple[int, int, int]] = {
    Code.CLIENTID: (3, 130, 1),  # RFC 8415 section 11.1
    Code.SERVERID: (3, 130, 1),
    Code.IAADDR: (24, 0xFFFF, 1),
    Code.ORO: (0, 0xFFFF, 2),
    Code.STATUS_CODE: (2, 0xFFFF, 1),
    Code.REMOTE_ID: (5, 0xFFFF, 1),
    Code.LQ_QUERY: (17, 0xFFFF, 1),
    Code.CLT_TIME: (4, 4, 1),
    Code.LQ_RELAY_DATA: (16, 0xFFFF, 1),
    Code.LQ_CLIENT_LINK: (16, 0xFFFF, 16),
    Code.RELAY_ID: (3, 130, 1),
    Code.S46_BR: (16, 16, 1),
    Code.LQ_BASE_TIME: (4, 4, 1),
    Code.LQ_START_TIME: (4, 4, 1),
    Code.LQ_END_TIME: (4, 4, 1),
    Code.S46_BIND_IPV6_PREFIX: (1, 17, 1),
}


@dataclass(frozen=True, slots=True)
class Message6:
    """`xid`: of types 20 and 21 the flags."""

    type: int
    xid: int
    options: Options

    def get(self, code: int) -> bytes | None:
        return get(self.options, code)

    def number(self, code: int) -> int | None:
        data = self.get(code)
        return None if data is None else int.from_bytes(data)

    def all(self, code: int) -> list[bytes]:
        return [data for found, data in self.options if found == code]

    @property
    def status(self) -> tuple[int, bytes] | None:
        data = self.get(Code.STATUS_CODE)
        return None if data is None else (int.from_bytes(data[:2]), data[2:])

    @property
    def client_data(self) -> tuple[Options, ...]:
        return tuple(tuple(split(data)) for data in self.all(Code.CLIENT_DATA))


def get(options: Options, code: int) -> bytes | None:
    return next((data for found, data in options if found == code), None)


def decode(octets: bytes) -> Message6:
    if len(octets) < MIN_OCTETS:
        raise Malformed("short6", f"a DHCPv6 message has {MIN_OCTETS} octets at least; here are {len(octets)}")
    _check(octets[MIN_OCTETS:], 0, 0)
    return Message6(octets[0], int.from_bytes(octets[1:4]), tuple(split(octets[MIN_OCTETS:])))


def _check(octets: bytes, depth: int, count: int) -> int:
    """Of all options, nested CLIENT_DATA included. Returns how many there are."""
    if depth > MAX_DEPTH:
        raise Malformed("too_deep", f"options are nested deeper than {MAX_DEPTH}")
    for code, data in split(octets):
        count += 1
        if count > MAX_OPTIONS:
            raise Malformed("too_many", f"the DHCPv6 message has more than {MAX_OPTIONS} options")
        low, high, step = _LENGTHS.get(code, (0, 0xFFFF, 1))
        if not low <= len(data) <= high or len(data) % step:
            raise Malformed("length6", f"DHCPv6 option {code} has {len(data)} octets")
        if code == Code.CLIENT_DATA:
            count = _check(data, depth + 1, count)
    return count


def split(octets: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(octets):
        if len(octets) - at < _OPTION.size:
            raise Malformed("overrun6", f"{len(octets) - at} octets are left, too few for a DHCPv6 option")
        code, length = _OPTION.unpack_from(octets, at)
        at += _OPTION.size + length
        if at > len(octets):
            raise Malformed("overrun6", f"DHCPv6 option {code} runs {at - len(octets)} octets past what contains it")
        yield code, octets[at - length : at]


def encode(message: Message6) -> bytes:
    return bytes([message.type]) + message.xid.to_bytes(3) + join(message.options)


def join(options: Options) -> bytes:
    return b"".join(_OPTION.pack(code, len(data)) + data for code, data in options)


def frame(octets: bytes) -> bytes:
    """RFC 5460 section 5.1, the same for DHCPv4 and inside TLS: the length in front, which does not count itself."""
    return len(octets).to_bytes(2) + octets


def dhcpv4_message(message: Message6) -> bytes | None:
    """What a DHCPV4-QUERY or DHCPV4-RESPONSE carries: exactly one message (RFC 7341 section 6.3), else None."""
    found = message.all(Code.DHCPV4_MSG)
    return found[0] if len(found) == 1 else None


def requested(codes: tuple[int, ...]) -> tuple[int, bytes]:
    return int(Code.ORO), b"".join(code.to_bytes(2) for code in codes)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a LEASEQUERY is about. `link` :: is every link where the server takes it so."""

    type: QueryType = QueryType.LINK_ADDRESS
    link: IPv6Address = ALL_LINKS
    about: Options = ()  # the option that the type requires (RFC 5007 section 4.1.2.1, RFC 5460 section 5.3)


def by_address(address: IPv6Address) -> Ask:
    return Ask(QueryType.ADDRESS, about=((int(Code.IAADDR), address.packed + bytes(8)),))


def lq_query(ask: Ask, wanted: tuple[int, ...]) -> tuple[int, bytes]:
    inside = join((*ask.about, requested(wanted)))
    return int(Code.LQ_QUERY), bytes([ask.type]) + ask.link.packed + inside
