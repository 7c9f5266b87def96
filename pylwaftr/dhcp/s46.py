"""OPTION_S46_CONT_LW (RFC 7598 section 5.3): what a B4 is told of its softwire, as octets and as a value.

Decoding is strict: a container with any fault is to be ignored whole (section 8), so every fault is a ValueError that
names it. Options that this file does not know are stepped over, as everywhere in DHCPv6 (RFC 8415 section 16).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

RULE, BR, DMR, V4V6BIND, PORTPARAMS, CONT_LW = 89, 90, 91, 92, 93, 96
_NAMES = {
    RULE: "OPTION_S46_RULE",
    BR: "OPTION_S46_BR",
    DMR: "OPTION_S46_DMR",
    V4V6BIND: "OPTION_S46_V4V6BIND",
    PORTPARAMS: "OPTION_S46_PORTPARAMS",
}
_HEADER = struct.Struct("!HH")
_PORTPARAMS = struct.Struct("!BBH")
_BIND = struct.Struct("!4sB")


@dataclass(frozen=True, slots=True)
class PortParams:
    """Which ports of the address: RFC 7597 section 5.1 with a = offset, k = psid_len."""

    offset: int
    psid_len: int
    psid: int  # a number: the wire has it left-justified (section 4.5)

    def __post_init__(self) -> None:
        if not 0 <= self.offset <= 15:
            raise ValueError(f"offset is {self.offset}; it goes from 0 to 15")
        if not 0 <= self.psid_len <= 16 - self.offset:
            raise ValueError(f"PSID-len is {self.psid_len}; with offset {self.offset} it goes to {16 - self.offset}")
        if not 0 <= self.psid < 1 << self.psid_len:
            raise ValueError(f"PSID {self.psid} does not fit {self.psid_len} bits")


@dataclass(frozen=True, slots=True)
class Bind:
    """The public address, the prefix that the tunnel source comes from; no ports: the whole address."""

    ipv4: IPv4Address
    prefix: IPv6Network
    ports: PortParams | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """The use of several BR addresses is undefined (section 4.2); they keep their order."""

    brs: tuple[IPv6Address, ...]
    bind: Bind | None = None  # absent: address and ports come by other means

    def __post_init__(self) -> None:
        if not self.brs:
            raise ValueError("no OPTION_S46_BR: one at least has to be there")


def encode(container: Container) -> bytes:
    """The whole option 96, code and length included."""
    bind = b"" if container.bind is None else _option(V4V6BIND, _bind_data(container.bind))
    return _option(CONT_LW, bind + b"".join(_option(BR, br.packed) for br in container.brs))


def decode(option: bytes) -> Container:
    """Of the whole option 96. Raises ValueError with the reason to ignore it."""
    found = list(_options(option))
    if len(found) != 1 or found[0][0] != CONT_LW:
        raise ValueError("not one OPTION_S46_CONT_LW and nothing else")
    return decode_data(found[0][1])


def decode_data(data: bytes) -> Container:
    """Of what follows the length of an option 96."""
    brs = []
    bind = None
    for code, inside in _options(data):
        if code == BR:
            brs.append(_br(inside))
        elif code == V4V6BIND:
            if bind is not None:
                raise ValueError("more than one OPTION_S46_V4V6BIND")
            bind = _bind(inside)
        elif code in _NAMES:
            raise ValueError(f"{_NAMES[code]} is not permitted in OPTION_S46_CONT_LW")
    return Container(tuple(brs), bind)


def _option(code: int, data: bytes) -> bytes:
    if len(data) > 0xFFFF:
        raise ValueError(f"option {code} would have {len(data)} octets; 65535 are the most")
    return _HEADER.pack(code, len(data)) + data


def _options(octets: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(octets):
        if len(octets) - at < _HEADER.size:
            raise ValueError(f"{len(octets) - at} octets are left, too few for an option")
        code, length = _HEADER.unpack_from(octets, at)
        at += _HEADER.size + length
        if at > len(octets):
            raise ValueError(f"option {code} has {length} octets and {at - len(octets)} of them are not there")
        yield code, octets[at - length : at]


def _br(data: bytes) -> IPv6Address:
    if len(data) != 16:
        raise ValueError(f"OPTION_S46_BR has {len(data)} octets instead of 16")
    return IPv6Address(data)


def _bind_data(bind: Bind) -> bytes:
    prefix = bind.prefix.network_address.packed[: _octets(bind.prefix.prefixlen)]
    ports = b"" if bind.ports is None else _option(PORTPARAMS, _port_params_data(bind.ports))
    return _BIND.pack(bind.ipv4.packed, bind.prefix.prefixlen) + prefix + ports


def _bind(data: bytes) -> Bind:
    if len(data) < _BIND.size:
        raise ValueError(f"OPTION_S46_V4V6BIND has {len(data)} octets, too few")
    ipv4, length = _BIND.unpack_from(data)
    if length > 128:
        raise ValueError(f"bindprefix6-len is {length}; it goes to 128")
    end = _BIND.size + _octets(length)
    prefix = data[_BIND.size : end]
    if len(data) < end:
        raise ValueError(f"a prefix of {length} bits takes {_octets(length)} octets and {len(prefix)} are there")
    ports = None
    for code, inside in _options(data[end:]):
        if code == PORTPARAMS:
            if ports is not None:
                raise ValueError("more than one OPTION_S46_PORTPARAMS")
            ports = _port_params(inside)
        elif code in _NAMES:
            raise ValueError(f"{_NAMES[code]} is not permitted in OPTION_S46_V4V6BIND")
    return Bind(IPv4Address(ipv4), _network(prefix, length), ports)


def _octets(bits: int) -> int:
    return -(-bits // 8)


def _network(prefix: bytes, length: int) -> IPv6Network:
    address = int.from_bytes(prefix.ljust(16, b"\0"))
    if address & ((1 << (128 - length)) - 1):
        raise ValueError(f"the prefix of {length} bits is not padded with zeros")
    return IPv6Network((address, length))


def _port_params_data(ports: PortParams) -> bytes:
    return _PORTPARAMS.pack(ports.offset, ports.psid_len, ports.psid << (16 - ports.psid_len))


def _port_params(data: bytes) -> PortParams:
    if len(data) != _PORTPARAMS.size:
        raise ValueError(f"OPTION_S46_PORTPARAMS has {len(data)} octets instead of {_PORTPARAMS.size}")
    offset, psid_len, left_justified = _PORTPARAMS.unpack(data)
    if psid_len == 0:  # the PSID is to be ignored (section 4.5)
        return PortParams(offset, 0, 0)
    if psid_len <= 16 and left_justified & (0xFFFF >> psid_len):
        raise ValueError(f"PSID {left_justified:#06x} is not {psid_len} bits on the left and zeros behind")
    return PortParams(offset, psid_len, left_justified >> max(0, 16 - psid_len))
