"""What a lwB4 is provisioned with: the tunnel's two ends, its IPv4 address and its port set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Protocol

PORT_BITS = 16


class Ports(Protocol):
    """A part of the ports of an IPv4 address."""

    @property
    def whole(self) -> bool:
        """The address is not shared."""
        ...

    def ranges(self) -> Iterator[tuple[int, int]]:
        """First and last port of each contiguous run, in order."""
        ...

    def members(self) -> bytes:
        """One octet per port, 1 where the port is in the set: a look-up without arithmetic."""
        ...


def _members(ports: Ports) -> bytes:
    flags = bytearray(1 << PORT_BITS)
    for first, last in ports.ranges():
        flags[first : last + 1] = b"\x01" * (last - first + 1)
    return bytes(flags)


@dataclass(frozen=True, slots=True)
class PortRanges:
    """What PCP grants: any ranges. All but port 0, which PORT_SET cannot say, is the whole address."""

    given: tuple[tuple[int, int], ...] = ()

    @property
    def whole(self) -> bool:
        return self.given in (((1, 65535),), ((0, 65535),))

    def ranges(self) -> Iterator[tuple[int, int]]:
        yield from ((0, 65535),) if self.whole else sorted(self.given)

    def members(self) -> bytes:
        return _members(self)

    def split_off(self, count: int) -> tuple[PortRanges, PortRanges]:
        """All but the last `count` ports, and those; a whole address keeps all of them too."""
        rest, taken = [], []
        for first, last in sorted(self.given, reverse=True):
            number = min(count, last - first + 1)
            count -= number
            if number:
                taken.append((last - number + 1, last))
            if last - number >= first:
                rest.append((first, last - number))
        kept = self if self.whole else PortRanges(tuple(sorted(rest)))
        return kept, PortRanges(tuple(sorted(taken)))


@dataclass(frozen=True, slots=True)
class PortSet:
    """RFC 7597 section 5.1: a port is offset bits A (not 0 where there are any), the PSID, then free bits."""

    offset: int = 0
    length: int = 0
    psid: int = 0

    def __post_init__(self) -> None:
        if self.offset < 0 or self.length < 0 or self.offset + self.length > PORT_BITS:
            raise ValueError(f"PSID offset {self.offset} and length {self.length} do not fit into a 16-bit port")
        if not 0 <= self.psid < 1 << self.length:
            raise ValueError(f"PSID {self.psid} does not fit into {self.length} bits")

    @property
    def whole(self) -> bool:
        """The address is not shared: offset and PSID mean nothing then (RFC 7598 section 4.5)."""
        return self.length == 0

    def ranges(self) -> Iterator[tuple[int, int]]:
        """First and last port of each contiguous run, in order."""
        if self.whole:
            yield 0, 65535
            return
        free = PORT_BITS - self.offset - self.length
        for block in range(1 if self.offset else 0, 1 << self.offset):
            first = (block << (PORT_BITS - self.offset)) | (self.psid << free)
            yield first, first + (1 << free) - 1

    def members(self) -> bytes:
        return _members(self)


@dataclass(frozen=True, slots=True)
class Softwire:
    """One binding as the subscriber's end sees it; without an IPv4 address it is only good for asking for one."""

    aftr: IPv6Address
    source: IPv6Address
    ipv4: IPv4Address | None = None
    ports: Ports = PortRanges()


def tunnel_source(prefix: IPv6Network, ipv4: IPv4Address, psid: int) -> IPv6Address:
    """RFC 7596 section 5.1, figure 3: 64 bits of prefix, 16 of zero, the IPv4 address, the PSID right-justified.

    A prefix longer than 64 bits overwrites the top of the identifier (RFC 7597 section 6).
    """
    identifier = (int(ipv4) << 16) | psid
    return IPv6Address(int(prefix.network_address) | (identifier & int(prefix.hostmask)))
