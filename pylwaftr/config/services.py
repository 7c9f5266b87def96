"""The configuration's model, second half: the services of the control side."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from pylwaftr.config.values import Endpoint


@dataclass(frozen=True, slots=True)
class Subscribers:
    mask: int
    max_softwires: int
    on_new_address: str  # pcp | data | reject
    min_change_interval_s: int
    limit_operator: bool = False  # to max_softwires as well


@dataclass(frozen=True, slots=True)
class Pool:
    ipv4: IPv4Network
    psid_offset: int
    psid_len: int
    exclude_ports: tuple[tuple[int, int], ...]
    signalling: str  # rfc7753 | draft-b

    def psids(self) -> tuple[int, ...]:
        """The PSIDs that may be handed out: sets with an excluded port or one of PCP's own ports are not.

        A whole address has all ports, and none of them could be left out.
        """
        if self.psid_len == 0:
            return (0,)
        size = 1 << (16 - self.psid_len)
        taken: set[int] = set()
        for low, high in (*self.exclude_ports, (5350, 5351)):
            taken.update(range(low // size, high // size + 1))
        return tuple(psid for psid in range(1 << self.psid_len) if psid not in taken)


@dataclass(frozen=True, slots=True)
class Lifetime:
    min_s: int
    max_s: int
    default_s: int


@dataclass(frozen=True, slots=True)
class PcpRate:
    per_s: int
    per_subscriber: int


@dataclass(frozen=True, slots=True)
class ThirdParty:
    listen: Endpoint | None
    allow: tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Pcp:
    enabled: bool
    server_addresses: tuple[IPv4Address, ...]
    pools: tuple[Pool, ...]
    lifetime: Lifetime
    max_sets_per_subscriber: int
    provisioning_protocols: tuple[int, ...]
    nonce_policy: str  # strict | subscriber
    quarantine_s: int
    announce_per_s: int
    rate_limit: PcpRate
    third_party: ThirdParty


@dataclass(frozen=True, slots=True)
class Tls:
    ca: Path | None
    cert: Path | None
    key: Path | None


@dataclass(frozen=True, slots=True)
class ServerTls(Tls):
    require_client_cert: bool


@dataclass(frozen=True, slots=True)
class PeerTls(Tls):
    name: str | None  # expected in the peer's certificate; None = its address


@dataclass(frozen=True, slots=True)
class LeaseServer:
    address: str
    port: int
    source: IPv4Address | IPv6Address | None
    profile: str  # W | N | S
    require_tls: bool
    tls: PeerTls | None
    links: tuple[IPv6Address, ...]
    pools: tuple[IPv4Network, ...]
    priority: int
    poll_interval_s: int
    expiry_hold_s: int
    timer_scale: float
    active_query: bool = True
    accept_psid_offset: bool = True


@dataclass(frozen=True, slots=True)
class Leasequery:
    servers: tuple[LeaseServer, ...]


@dataclass(frozen=True, slots=True)
class Api:
    listen: Endpoint | None
    tls: ServerTls | None
    allow_plaintext: bool
    roles: tuple[tuple[str, str], ...]  # client certificate name, viewer | operator | admin


@dataclass(frozen=True, slots=True)
class Metrics:
    listen: Endpoint | None


@dataclass(frozen=True, slots=True)
class State:
    directory: Path


@dataclass(frozen=True, slots=True)
class Syslog:
    server: Endpoint
    transport: str  # udp | tcp
    facility: str


@dataclass(frozen=True, slots=True)
class History:
    """Who held which address and ports when."""

    retention_days: int | None  # None = for ever
    syslog: Syslog | None


@dataclass(frozen=True, slots=True)
class Etcd:
    endpoints: tuple[str, ...]
    tls: PeerTls | None
    pop: str | None


@dataclass(frozen=True, slots=True)
class Fleet:
    etcd: Etcd
    node_id: str | None
    announce: tuple[tuple[str, str], ...]  # as written; the announcer of a later part reads it


@dataclass(frozen=True, slots=True)
class Logging:
    level: str
    format: str  # console | json
