"""The validated configuration: frozen values, one class per section of the YAML file. Defaults are in the schema."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

from pylwaftr.config.faults import Fault
from pylwaftr.config.services import Api, Fleet, History, Leasequery, Logging, Metrics, Pcp, State, Subscribers
from pylwaftr.rows import Rows


@dataclass(frozen=True, slots=True)
class Dataplane:
    hugepages: str  # auto | always | never
    lcores: tuple[int, ...] | None  # None = auto
    max_bindings: int
    rss: str  # outer | inner | software
    rx_descriptors: int  # of each receive queue
    offloads: bool  # what the ports offer is used
    binding_counters: bool
    eal_args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """What both sides have alike."""

    port: str  # PCI address or vdev string
    mac: bytes | None  # None = the port's own
    next_hop_mac: bytes | None  # fixed: no resolution
    mtu: int  # L3 octets
    vlan: int | None
    ingress_filter: str | None
    egress_filter: str | None


@dataclass(frozen=True, slots=True)
class Interface4(Link):
    addresses: tuple[IPv4Interface, ...]
    next_hop: IPv4Address | None


@dataclass(frozen=True, slots=True)
class Interface6(Link):
    addresses: tuple[IPv6Interface, ...]
    next_hop: IPv6Address | None


@dataclass(frozen=True, slots=True)
class Interfaces:
    v4: Interface4
    v6: Interface6

    @property
    def one_port(self) -> bool:
        return self.v4.port == self.v6.port


@dataclass(frozen=True, slots=True)
class Reassembly:
    max_packets: int
    timeout_s: int
    max_fragments: int


@dataclass(frozen=True, slots=True)
class Ipv4Options:
    """True = packets with the option are dropped."""

    source_route: bool
    record_route: bool
    timestamp: bool
    router_alert: bool


@dataclass(frozen=True, slots=True)
class Softwire:
    br_addresses: tuple[IPv6Address, ...]
    tunnel_payload_mtu: int | None
    hop_limit: int
    encap_limit: int | None
    dscp: int | None  # None = copy; else the value of the pipe model
    ecn: str  # normal | compatibility
    flow_label: int | None  # None = hash
    pmtud: bool
    hairpinning: str  # local | external | drop
    tcp_mss: int | str | None  # None = off; auto
    answer_arp_for_pools: bool
    reassembly: Reassembly
    ipv4_options: Ipv4Options


@dataclass(frozen=True, slots=True)
class Rate:
    packets: int
    period_s: int


@dataclass(frozen=True, slots=True)
class ErrorRate:
    packets: int
    period_s: int
    per_source: int


@dataclass(frozen=True, slots=True)
class Icmp:
    incoming_v4: bool
    incoming_v4_rate: Rate | None
    incoming_v6: bool
    unbound_v4: bool
    unknown_b4_v6: bool
    rate_limit: ErrorRate
    error_tos: int | None  # None = that of the offending packet


@dataclass(frozen=True, slots=True)
class Entry:
    """One of bindings.entries, as written."""

    ipv4: IPv4Address
    psid_offset: int
    psid_len: int
    psid: int
    b4: IPv6Address | IPv6Network
    br: IPv6Address | None
    path: str = field(compare=False)  # where it is written, for messages
    line: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Bindings:
    file: Path | None  # resolved against the folder of the configuration
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Config:
    source: str = field(compare=False)
    dataplane: Dataplane
    interfaces: Interfaces
    softwire: Softwire
    icmp: Icmp
    bindings: Bindings
    subscribers: Subscribers
    pcp: Pcp
    leasequery: Leasequery
    api: Api
    metrics: Metrics
    state: State
    history: History
    fleet: Fleet | None
    logging: Logging
    # Entries and file together, checked; arrays have no useful equality.
    rows: Rows = field(repr=False, compare=False)
    warnings: tuple[Fault, ...] = field(compare=False)

    @property
    def overhead(self) -> int:
        """Octets around the inner packet: the IPv6 header, and the option of RFC 2473 section 4.1.1."""
        return 40 if self.softwire.encap_limit is None else 48

    @property
    def tunnel_mtu(self) -> int:
        """The largest IPv4 packet that crosses a softwire in one piece, as far as the configuration knows."""
        fits = self.interfaces.v6.mtu - self.overhead
        wanted = self.softwire.tunnel_payload_mtu
        return fits if wanted is None else min(wanted, fits)
