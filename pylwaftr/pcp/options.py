"""PCP options: each a value, its octets both ways, and the checks that one option needs (RFC 6887 section 7.3).

A request's options are judged in the order of their appearance: one that must be understood and is not is
UNSUPP_OPTION, one that is known and wrong is MALFORMED_OPTION, any other unknown one is stepped over.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, NamedTuple, TypeAlias

from pylwaftr.pcp.numbers import IPV4_MAPPED, Malformed, Opcode, Result


class Code(IntEnum):
    THIRD_PARTY = 1
    PREFER_FAILURE = 2
    FILTER = 3
    THIRD_PARTY_ID = 13  # RFC 7843 section 4
    DESCRIPTION = 128  # RFC 7220
    PREFIX64 = 129  # RFC 7225
    PORT_SET = 130  # RFC 7753
    CHECKPOINT_REQUIRED = 192  # RFC 7767


OPTIONAL = 128  # codes from here on may be ignored by who does not know them
MAX_TEXT = 1016  # RFC 7220 section 2, RFC 7843 section 4


class PortSet(NamedTuple):
    """A tuple, unlike the other options: every provisioning request has one, and a tuple is made in half the time."""

    size: int
    first: int  # First Internal Port
    parity: bool = False

    @property
    def code(self) -> int:
        return Code.PORT_SET

    @property
    def data(self) -> bytes:
        return _PORT_SET.pack(self.size, self.first, self.parity)  # P is the lowest bit

    @property
    def ports(self) -> tuple[int, int]:
        """First and last internal port asked for: what runs past 65535 is cut, 0 is no port."""
        return max(self.first, 1), min(self.first + self.size - 1, 65535)


@dataclass(frozen=True, slots=True)
class ThirdParty:
    internal: bytes  # 16 octets
    code: ClassVar[int] = Code.THIRD_PARTY

    @property
    def data(self) -> bytes:
        return self.internal


@dataclass(frozen=True, slots=True)
class PreferFailure:
    code: ClassVar[int] = Code.PREFER_FAILURE
    data: ClassVar[bytes] = b""


@dataclass(frozen=True, slots=True)
class Filter:
    prefix_length: int  # of the 128-bit form: 96 + n for IPv4; 0 removes all filters
    remote_port: int  # 0 = all
    remote: bytes  # 16 octets
    code: ClassVar[int] = Code.FILTER

    @property
    def data(self) -> bytes:
        return _FILTER.pack(self.prefix_length, self.remote_port, self.remote)


@dataclass(frozen=True, slots=True)
class ThirdPartyId:
    identifier: bytes
    code: ClassVar[int] = Code.THIRD_PARTY_ID

    @property
    def data(self) -> bytes:
        return self.identifier


@dataclass(frozen=True, slots=True)
class Description:
    text: bytes  # valid UTF-8; empty erases what was stored
    code: ClassVar[int] = Code.DESCRIPTION

    @property
    def data(self) -> bytes:
        return self.text

    def cut(self, octets: int) -> Description:
        """No longer than that, and no character in halves."""
        if len(self.text) <= octets:
            return self
        return Description(self.text[:octets].decode(errors="ignore").encode())


@dataclass(frozen=True, slots=True)
class Prefix64:
    data: bytes  # of a NAT64, which nobody here is: carried, not read
    code: ClassVar[int] = Code.PREFIX64


@dataclass(frozen=True, slots=True)
class CheckpointRequired:
    code: ClassVar[int] = Code.CHECKPOINT_REQUIRED
    data: ClassVar[bytes] = b""


Option: TypeAlias = (
    PortSet | ThirdParty | PreferFailure | Filter | ThirdPartyId | Description | Prefix64 | CheckpointRequired
)

_HEADER = struct.Struct("!BxH")
_PORT_SET = struct.Struct("!HHB")
_FILTER = struct.Struct("!xBH16s")


class Fault(Exception):
    """The octets are not the option that their code says."""


def encode(options: Iterable[Option]) -> bytes:
    return b"".join(_encode_one(option) for option in options)


def _encode_one(option: Option) -> bytes:
    data = option.data
    return _HEADER.pack(option.code, len(data)) + data + bytes(-len(data) % 4)


def split(datagram: bytes, at: int) -> list[tuple[int, bytes]]:
    """(code, data) of each option from `at` to the end. Raises Fault where one runs past it, padding counted."""
    found = []
    end = len(datagram)
    while at < end:
        if end - at < 4:
            raise Fault("an option header is cut")
        code, length = _HEADER.unpack_from(datagram, at)
        at += 4
        if at + length + (-length % 4) > end:
            raise Fault(f"option {code} of {length} octets runs past the message")
        found.append((code, datagram[at : at + length]))
        at += length + (-length % 4)
    return found


def decode(code: int, data: bytes) -> Option | None:
    """One option; None is an optional one to ignore. Raises Fault, and KeyError for a code that is not known."""
    return _DECODERS[code](data)


def _exactly(data: bytes, octets: int) -> bytes:
    if len(data) != octets:
        raise Fault(f"{len(data)} octets instead of {octets}")
    return data


def _port_set(data: bytes) -> PortSet:
    size, first, flags = _PORT_SET.unpack(_exactly(data, 5))
    return PortSet(size, first, flags & 1 == 1)


def _filter(data: bytes) -> Filter:
    found = Filter(*_FILTER.unpack(_exactly(data, 20)))
    lowest = 97 if found.remote.startswith(IPV4_MAPPED) else 1  # erratum 3891
    if found.prefix_length and not lowest <= found.prefix_length <= 128:
        raise Fault(f"prefix length {found.prefix_length} is not 0 or {lowest} to 128")
    return found


def _prefer_failure(data: bytes) -> PreferFailure:
    _exactly(data, 0)
    return PreferFailure()


def _third_party_id(data: bytes) -> ThirdPartyId:
    if not 1 <= len(data) <= MAX_TEXT:
        raise Fault(f"{len(data)} octets instead of 1 to {MAX_TEXT}")
    return ThirdPartyId(data)


def _description(data: bytes) -> Description | None:
    """RFC 7220 section 3.2: what is not UTF-8 is ignored."""
    if len(data) > MAX_TEXT:
        raise Fault(f"{len(data)} octets, {MAX_TEXT} are the most")
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    return Description(data)


def _checkpoint(data: bytes) -> CheckpointRequired:
    _exactly(data, 0)
    return CheckpointRequired()


_DECODERS: dict[int, Callable[[bytes], Option | None]] = {
    Code.THIRD_PARTY: lambda data: ThirdParty(_exactly(data, 16)),
    Code.PREFER_FAILURE: _prefer_failure,
    Code.FILTER: _filter,
    Code.THIRD_PARTY_ID: _third_party_id,
    Code.DESCRIPTION: _description,
    Code.PREFIX64: Prefix64,
    Code.PORT_SET: _port_set,
    Code.CHECKPOINT_REQUIRED: _checkpoint,
}

# The opcodes that an option makes sense with (the tables of its RFC); only FILTER may come more than once.
_WITH: dict[int, frozenset[int]] = {
    Code.THIRD_PARTY: frozenset({Opcode.MAP, Opcode.PEER}),
    Code.PREFER_FAILURE: frozenset({Opcode.MAP}),
    Code.FILTER: frozenset({Opcode.MAP}),
    Code.THIRD_PARTY_ID: frozenset({Opcode.MAP, Opcode.PEER}),
    Code.DESCRIPTION: frozenset({Opcode.MAP, Opcode.PEER}),
    Code.PREFIX64: frozenset({Opcode.MAP, Opcode.ANNOUNCE}),
    Code.PORT_SET: frozenset({Opcode.MAP}),
    Code.CHECKPOINT_REQUIRED: frozenset({Opcode.MAP, Opcode.PEER}),
}
# Of no sense where a mapping is deleted (RFC 6887 section 15.1).
_NOT_IN_A_DELETE = frozenset({Code.PREFER_FAILURE, Code.FILTER})


def decode_request(datagram: bytes, at: int, opcode: int, accepts: frozenset[int]) -> tuple[Option, ...]:
    """The options of a request that the receiver `accepts`, in their order. Raises Malformed."""
    try:
        raw = split(datagram, at)
    except Fault as fault:
        raise Malformed(Result.MALFORMED_OPTION, str(fault)) from None
    found: list[Option] = []
    seen = set()
    for code, data in raw:
        if code not in accepts:
            if code < OPTIONAL:
                raise Malformed(Result.UNSUPP_OPTION, f"option {code} is not supported here")
            continue
        if code in seen and code != Code.FILTER:
            raise Malformed(Result.MALFORMED_OPTION, f"option {code} twice")
        seen.add(code)
        option = _decode_for(code, data, opcode, delete=datagram[4:8] == b"\0\0\0\0")
        if option is not None:
            found.append(option)
    return tuple(found)


def _decode_for(code: int, data: bytes, opcode: int, delete: bool) -> Option | None:
    if opcode not in _WITH[code]:
        # RFC 6887 section 12.3 names the one case that is the request's fault.
        wrong = code == Code.PREFER_FAILURE and opcode == Opcode.PEER
        result = Result.MALFORMED_REQUEST if wrong else Result.MALFORMED_OPTION
        raise Malformed(result, f"option {code} does not go with opcode {opcode}")
    if delete and opcode == Opcode.MAP and code in _NOT_IN_A_DELETE:
        raise Malformed(Result.MALFORMED_OPTION, f"option {code} does not go with a deletion")
    try:
        return decode(code, data)
    except Fault as fault:
        raise Malformed(Result.MALFORMED_OPTION, f"option {code}: {fault}") from None


def decode_response(datagram: bytes, at: int) -> tuple[Option, ...]:
    """The options that we know; the others are ignored, whatever their code. Raises Fault if one runs past the end."""
    found = []
    for code, data in split(datagram, at):
        if code in _DECODERS:
            option = _lenient(code, data)
            if option is not None:
                found.append(option)
    return tuple(found)


def _lenient(code: int, data: bytes) -> Option | None:
    try:
        return decode(code, data)
    except Fault:
        return None
