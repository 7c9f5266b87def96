"""Explicit mappings of LAN hosts (RFC 6887 sections 11 and 12) and the external ports that they take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import TypeAlias

from pylwaftr.pcp.numbers import CLIENT_PORT, FOREVER, SERVER_PORT
from pylwaftr.pcp.options import Filter

from .nft import Forward
from .softwire import PortRanges

TCP, UDP = 6, 17
NAMES = {TCP: "tcp", UDP: "udp"}  # what a host may ask for
PROTOCOLS = {name: number for number, name in NAMES.items()}

# Host, protocol, internal port; for an outbound mapping (PEER) the remote port and address too.
Key: TypeAlias = tuple[IPv4Address, int, int, int, bytes]


@dataclass(frozen=True, slots=True)
class LanMapping:
    host: IPv4Address
    protocol: int
    internal_port: int
    external_port: int
    nonce: bytes
    expires: float
    client: tuple[IPv4Address, int]  # who asked last, from which port
    remote: bytes = b""  # of PEER: 16 octets
    remote_port: int = 0
    filters: tuple[Filter, ...] = ()
    text: bytes = b""
    exactly: bool = False  # PREFER_FAILURE: another external port is none

    @property
    def key(self) -> Key:
        return self.host, self.protocol, self.internal_port, self.remote_port, self.remote

    @property
    def is_static(self) -> bool:
        return not self.nonce

    def remaining(self, now: float) -> int:
        return FOREVER if self.is_static else max(0, int(self.expires - now))

    def forward(self) -> Forward:
        filters = [(one.remote, one.prefix_length, one.remote_port) for one in self.filters]
        if self.remote:
            filters = [(self.remote, 128, self.remote_port)]
        remotes = tuple(
            (IPv4Network((remote[12:], length - 96), strict=False), port) for remote, length, port in filters
        )
        return Forward(NAMES[self.protocol], self.external_port, self.host, self.internal_port, remotes)


class LanMappings:
    """Ports come from `reserve`, which the NAPT leaves alone; one that is suggested may be any of the set."""

    def __init__(self, static: tuple[Forward, ...] = ()) -> None:
        self._by_key: dict[Key, LanMapping] = {}
        self._users: dict[tuple[int, int], int] = {}  # protocol, external port -> mappings
        self._static = {(PROTOCOLS[one.protocol], one.outside_port): one for one in static if one.protocol in PROTOCOLS}
        self._reserve = PortRanges()
        self._members = bytes(65536)
        self.size = 0  # of the reserve

    def use(self, ports: PortRanges, reserve: PortRanges) -> None:
        self._reserve, self._members = reserve, ports.members()
        self.size = sum(last - first + 1 for first, last in reserve.ranges())

    def __iter__(self) -> Iterator[LanMapping]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: Key) -> LanMapping | None:
        return self._by_key.get(key)

    def static_at(self, host: IPv4Address, protocol: int, port: int) -> Forward | None:
        asked = (NAMES.get(protocol), host, port)
        return next((f for f in self._static.values() if (f.protocol, f.inside, f.inside_port) == asked), None)

    def count_of(self, host: IPv4Address) -> int:
        return sum(mapping.host == host for mapping in self)

    def put(self, mapping: LanMapping) -> None:
        self.remove(mapping.key)
        self._by_key[mapping.key] = mapping
        taken = mapping.protocol, mapping.external_port
        self._users[taken] = self._users.get(taken, 0) + 1

    def remove(self, key: Key) -> LanMapping | None:
        gone = self._by_key.pop(key, None)
        if gone is not None:
            taken = gone.protocol, gone.external_port
            self._users[taken] -= 1
            if not self._users[taken]:
                del self._users[taken]
        return gone

    def port_of(self, host: IPv4Address, protocol: int, internal_port: int) -> int:
        """The external port that this internal one has already, for whatever remote; 0 for none."""
        asked = host, protocol, internal_port
        return next((m.external_port for m in self if (m.host, m.protocol, m.internal_port) == asked), 0)

    def is_free(self, protocol: int, port: int) -> bool:
        """RFC 6887 section 11.3: PCP's own ports are never mapped."""
        if not self._members[port] or (protocol == UDP and port in (CLIENT_PORT, SERVER_PORT)):
            return False
        return (protocol, port) not in self._users and (protocol, port) not in self._static

    def choose(self, protocol: int, suggested: int) -> int:
        """What is suggested if that is free, else one of the reserve; 0 for none."""
        if suggested and self.is_free(protocol, suggested):
            return suggested
        ports = (port for first, last in self._reserve.ranges() for port in range(first, last + 1))
        return next((port for port in ports if self.is_free(protocol, port)), 0)

    def move(self) -> list[tuple[LanMapping, LanMapping | None]]:
        """After `use` of other ports: each mapping with what it is now; None: it found no place."""
        before = list(self)
        for mapping in before:
            self.remove(mapping.key)
        moved: list[tuple[LanMapping, LanMapping | None]] = []
        for mapping in before:
            port = self.port_of(mapping.host, mapping.protocol, mapping.internal_port)
            port = port or self.choose(mapping.protocol, mapping.external_port)
            if not port or (mapping.exactly and port != mapping.external_port):
                moved.append((mapping, None))
                continue
            now = replace(mapping, external_port=port)
            self.put(now)
            moved.append((mapping, now))
        return moved

    def forwards(self) -> tuple[Forward, ...]:
        """For nftables; one external port once, open for all if any mapping of it is."""
        found: dict[tuple[int, int], Forward] = dict(self._static)
        for mapping in self:
            taken, forward = (mapping.protocol, mapping.external_port), mapping.forward()
            if taken in found:
                both = found[taken].remotes and forward.remotes
                remotes = found[taken].remotes + forward.remotes if both else ()
                forward = replace(forward, remotes=remotes)
            found[taken] = forward
        return tuple(found.values())
