"""What RFC 6887 numbers: opcodes, result codes, sizes; addresses as 16 octets; and what is wrong with a message."""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

VERSION = 2
SERVER_PORT, CLIENT_PORT = 5351, 5350
HEADER, MAP_SIZE, PEER_SIZE = 24, 60, 80  # octets before the options
MAX_MESSAGE = 1100
NONCE = 12  # octets
FOREVER = 0xFFFFFFFF  # lifetime of a static mapping
SHORT_ERROR_S, LONG_ERROR_S = 30, 1800  # section 7.4


class Opcode(IntEnum):
    ANNOUNCE = 0
    MAP = 1
    PEER = 2


class Result(IntEnum):
    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13
    AUTHENTICATION_REQUIRED = 15  # RFC 7652; sent by others
    THIRD_PARTY_ID_UNKNOWN = 24  # RFC 7843 section 4.1
    THIRD_PARTY_MISSING_OPTION = 25
    UNSUPP_THIRD_PARTY_ID_LENGTH = 26


SHORT_ERRORS = frozenset(
    {Result.NETWORK_FAILURE, Result.NO_RESOURCES, Result.USER_EX_QUOTA, Result.CANNOT_PROVIDE_EXTERNAL}
)


def error_lifetime(result: int, short: int = SHORT_ERROR_S, long: int = LONG_ERROR_S) -> int:
    """Seconds for which an error holds where nothing better is known (section 7.4)."""
    return short if result in SHORT_ERRORS else long


class Unanswerable(Exception):
    """A datagram that gets no answer at all."""


class Malformed(Exception):
    """A request that is refused for what it says, whatever state the server is in."""

    def __init__(self, result: Result, reason: str) -> None:
        super().__init__(f"{result.name}: {reason}")
        self.result = result
        self.reason = reason


# Section 5: an IPv4 address is known by all of its first 96 bits; each family has its own "no address".
IPV4_MAPPED = bytes(10) + b"\xff\xff"
NO_IPV4 = IPV4_MAPPED + bytes(4)
NO_IPV6 = bytes(16)


def address16(address: IPv4Address | IPv6Address) -> bytes:
    return IPV4_MAPPED + address.packed if address.version == 4 else address.packed


def ipv4_of(octets: bytes) -> IPv4Address | None:
    """Of a 16-octet address field; None if it holds an IPv6 address."""
    return IPv4Address(octets[12:]) if octets.startswith(IPV4_MAPPED) else None


def address_of(octets: bytes) -> IPv4Address | IPv6Address:
    return ipv4_of(octets) or IPv6Address(octets)
