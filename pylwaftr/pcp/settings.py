"""What the server is told: the parts of the configuration that it goes by, as they look from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

from pylwaftr.pcp.numbers import address16

# RFC 6887 section 15, RFC 6888 REQ-8: what a subscriber gave back goes to nobody else before, however scarce sets are.
LEAST_QUARANTINE_S = 120


class PoolConfig(Protocol):
    @property
    def ipv4(self) -> IPv4Network: ...
    @property
    def psid_len(self) -> int: ...
    @property
    def exclude_ports(self) -> Sequence[tuple[int, int]]: ...
    @property
    def signalling(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Settings:
    pools: tuple[PoolConfig, ...]
    br: bytes  # of softwires that a third party asks for, 16 octets
    server: bytes = address16(IPv4Address("192.0.0.1"))  # what announcements come from
    min_s: int = 120
    max_s: int = 86400
    max_sets: int = 1  # of a subscriber
    protocols: frozenset[int] = frozenset({0})
    nonce_policy: str = "strict"
    quarantine_s: int = 7440
    announce_per_s: int = 20000
    per_s: int = 50000
    per_subscriber: int = 10
    mask: int = 56
    max_softwires: int = 1
    on_new_address: str = "pcp"
    min_change_interval_s: int = 1800
    third_parties: tuple[IPv4Network | IPv6Network, ...] = ()
    others: int = 1024  # bindings of other sources for which there is room from the start


class LifetimeConfig(Protocol):
    @property
    def min_s(self) -> int: ...
    @property
    def max_s(self) -> int: ...


class RateConfig(Protocol):
    @property
    def per_s(self) -> int: ...
    @property
    def per_subscriber(self) -> int: ...


class ThirdPartyConfig(Protocol):
    @property
    def allow(self) -> tuple[IPv4Network | IPv6Network, ...]: ...


class PcpConfig(Protocol):
    @property
    def server_addresses(self) -> Sequence[IPv4Address]: ...
    @property
    def pools(self) -> Sequence[PoolConfig]: ...
    @property
    def lifetime(self) -> LifetimeConfig: ...
    @property
    def max_sets_per_subscriber(self) -> int: ...
    @property
    def provisioning_protocols(self) -> Sequence[int]: ...
    @property
    def nonce_policy(self) -> str: ...
    @property
    def quarantine_s(self) -> int: ...
    @property
    def announce_per_s(self) -> int: ...
    @property
    def rate_limit(self) -> RateConfig: ...
    @property
    def third_party(self) -> ThirdPartyConfig: ...


class SubscribersConfig(Protocol):
    @property
    def mask(self) -> int: ...
    @property
    def max_softwires(self) -> int: ...
    @property
    def on_new_address(self) -> str: ...
    @property
    def min_change_interval_s(self) -> int: ...


def from_config(pcp: PcpConfig, subscribers: SubscribersConfig, br: IPv6Address, bindings: int) -> Settings:
    """`br`: the first of softwire.br_addresses. `bindings`: as many as the table has room for."""
    return Settings(
        pools=tuple(pcp.pools),
        br=br.packed,
        server=address16(pcp.server_addresses[0]),
        min_s=pcp.lifetime.min_s,
        max_s=pcp.lifetime.max_s,
        max_sets=pcp.max_sets_per_subscriber,
        protocols=frozenset(pcp.provisioning_protocols),
        nonce_policy=pcp.nonce_policy,
        quarantine_s=pcp.quarantine_s,
        announce_per_s=pcp.announce_per_s,
        per_s=pcp.rate_limit.per_s,
        per_subscriber=pcp.rate_limit.per_subscriber,
        mask=subscribers.mask,
        max_softwires=subscribers.max_softwires,
        on_new_address=subscribers.on_new_address,
        min_change_interval_s=subscribers.min_change_interval_s,
        third_parties=pcp.third_party.allow,
        others=bindings,
    )
