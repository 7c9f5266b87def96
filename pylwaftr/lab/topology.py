"""Who is in the lab and how they are joined, as data.

    lw-internet ──v4── lw-lwaftr ──v6── lw-access ──┬── lw-home1 ── lw-lan1
    198.51.100.10      pylwaftr run      IPv6 router ├── lw-home2 ── lw-lan2 …
                           └─manage── lw-dhcp ───────┘

The router's interfaces v4 and v6 have no kernel address. v6 is the port itself (net_af_packet). v4 is bridged to a
port of net_tap: net_af_packet asks the kernel to put IPv4 fragments together (PACKET_FANOUT_FLAG_DEFRAG), and what
comes out is larger than a frame. The router's own services (API, metrics) are on its loopback; a DHCP server reaches
it over `manage`, and the homes over the access network.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from ..b4.softwire import PortSet, tunnel_source

INTERNET, ROUTER, ACCESS, DHCP = "lw-internet", "lw-lwaftr", "lw-access", "lw-dhcp"

INTERNET_HOST = "198.51.100.10"
V4_GATEWAY, V4_ROUTER = "192.0.2.254", "192.0.2.1"
V6_GATEWAY, V6_ROUTER = "2001:db8:ffff::1", "2001:db8:ffff::2"
MANAGE_ROUTER, MANAGE_DHCP = "10.99.0.1", "10.99.0.2"
DHCP_GATEWAY, DHCP_HOST, DHCP_INTERFACE = "2001:db8:3::1", "2001:db8:3::2", "access"
# Kea's DHCPv4 daemon drops queries of an interface without an IPv4 address, though they come in IPv6.
_DHCP_ADDRESSES = (f"{DHCP_HOST}/64", "10.98.0.1/24")
BR_ADDRESS = "2001:db8:aa::1"
AFTR_IN_TUNNEL = "192.0.0.1"  # source of the router's ICMPv4 errors into a softwire (RFC 6333 section 5.7)
BRIDGE, TAP = "br4", "tap4"  # in the router's namespace
V4_MTU, V6_MTU = 1500, 1540  # a whole IPv4 packet fits the softwire
FORWARDED_TO = 7000  # LAN port behind the first port of each home's set
POOL, POOL_PSID_LEN = IPv4Network("203.0.113.64/30"), 6  # what the PCP server hands out
METRICS = "127.0.0.1:9464"
LEASEQUERY_PORT, LEASEQUERY4_PORT, PCP_PORT = 547, 67, 5351
ROUTER_TLS = {"ca": "ca.pem", "cert": "router.pem", "key": "router.key"}


@dataclass(frozen=True, slots=True)
class Site:
    """A subscriber: lw-homeN with the lwB4, lw-lanN behind it."""

    number: int

    @property
    def name(self) -> str:
        return f"lw-home{self.number}"

    @property
    def lan(self) -> str:
        return f"lw-lan{self.number}"

    @property
    def link(self) -> str:
        """Interface of the access router towards this home."""
        return f"home{self.number}"

    @property
    def prefix(self) -> IPv6Network:
        return IPv6Network(f"2001:db8:1:{self.number:x}00::/56")

    def wan_address(self, side: int) -> str:
        """1: the access router; 2: the home."""
        return f"2001:db8:2:{self.number:x}::{side}"

    def lan_address(self, host: int) -> str:
        """1: the lwB4; 10 and 11: the LAN host."""
        return f"192.168.{self.number}.{host}"


@dataclass(frozen=True, slots=True)
class Home(Site):
    """Its lwB4 was told address and ports."""

    ipv4: IPv4Address
    ports: PortSet

    @property
    def tunnel_source(self) -> IPv6Address:
        return tunnel_source(self.prefix, self.ipv4, self.ports.psid)

    @property
    def forwarded_port(self) -> int:
        return FORWARDED_TO if self.ports.whole else next(self.ports.ranges())[0]


HOMES = (
    Home(1, IPv4Address("203.0.113.1"), PortSet(0, 6, 3)),
    Home(2, IPv4Address("203.0.113.1"), PortSet(0, 6, 4)),  # shares its address with home 1
    Home(3, IPv4Address("203.0.113.20"), PortSet(6, 8, 0x34)),  # 63 ranges of 4 ports
    Home(4, IPv4Address("203.0.113.30"), PortSet()),  # a whole address
)


@dataclass(frozen=True, slots=True)
class PcpHome(Site):
    """Its lwB4 asks for address and ports, from whichever address of its prefix it has."""

    @property
    def first_address(self) -> IPv6Address:
        return self.prefix[5]

    @property
    def next_address(self) -> IPv6Address:
        """After a renumbering: another /64 of the same /56."""
        return self.prefix[(0xFF << 64) + 6]


PCP_HOME = PcpHome(5)
FREE_HOME = Home(6, IPv4Address("203.0.113.40"), PortSet(0, 6, 9))  # no binding until somebody makes one


@dataclass(frozen=True, slots=True)
class End:
    """One end of a veth pair."""

    namespace: str
    name: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    ends: tuple[End, End]
    mtu: int = 1500
    offloads: bool = False  # towards a user-space port a frame must be whole and its checksum done


@dataclass(frozen=True, slots=True)
class Topology:
    """`homes` are bound by the configuration. The others, if there are any, take part in what the control side does."""

    homes: tuple[Home, ...]
    pcp_homes: tuple[PcpHome, ...] = ()
    free_homes: tuple[Home, ...] = ()
    leasequery: bool = False  # lw-dhcp serves leases
    timer_scale: float = 0.04  # of leasequery: a minute between attempts to connect is 2.4 s here
    history: int = 1 << 20  # changes that the leasequery server keeps
    profile: str = "W"  # how leasequery is spoken

    @property
    def sites(self) -> tuple[Site, ...]:
        return (*self.homes, *self.pcp_homes, *self.free_homes)

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (INTERNET, ROUTER, ACCESS, DHCP, *(name for site in self.sites for name in (site.name, site.lan)))

    def links(self) -> tuple[Link, ...]:
        internet = End(INTERNET, "v4", (f"{V4_GATEWAY}/24",))
        access = End(ACCESS, "v6", (f"{V6_GATEWAY}/64",))
        core = (
            Link((internet, End(ROUTER, "v4")), V4_MTU),
            Link((access, End(ROUTER, "v6")), V6_MTU),
            Link((End(DHCP, "router", (f"{MANAGE_DHCP}/24",)), End(ROUTER, "manage", (f"{MANAGE_ROUTER}/24",)))),
            Link((End(ACCESS, "dhcp", (f"{DHCP_GATEWAY}/64",)), End(DHCP, DHCP_INTERFACE, _DHCP_ADDRESSES))),
        )
        return core + tuple(link for site in self.sites for link in _home_links(site))

    def routes(self) -> tuple[tuple[str, ...], ...]:
        """Namespace, then what follows `ip route add`."""
        public = {f"{home.ipv4}/32" for home in (*self.homes, *self.free_homes)} | {str(POOL)}
        return (
            *((INTERNET, network, "via", V4_ROUTER, "src", INTERNET_HOST) for network in sorted(public)),
            (INTERNET, "default", "via", V4_ROUTER),
            (ACCESS, f"{BR_ADDRESS}/128", "via", V6_ROUTER),
            (DHCP, "default", "via", DHCP_GATEWAY),
            *((ACCESS, str(site.prefix), "via", site.wan_address(2)) for site in self.sites),
            *((site.name, "default", "via", site.wan_address(1)) for site in self.sites),
            *((site.lan, "default", "via", site.lan_address(1)) for site in self.sites),
        )

    def sysctls(self) -> tuple[tuple[str, str, str], ...]:
        """Namespace, name and value. Duplicate address detection would delay the start by seconds."""
        no_ipv6 = (INTERNET, ROUTER, *(site.lan for site in self.sites))
        with_ipv6 = (ACCESS, DHCP, *(site.name for site in self.sites))
        return (
            *((name, f"net/ipv6/conf/{scope}/disable_ipv6", "1") for name in no_ipv6 for scope in ("all", "default")),
            *((name, f"net/ipv6/conf/{scope}/disable_ipv6", "0") for name in with_ipv6 for scope in ("all", "default")),
            *((name, "net/ipv6/conf/default/accept_dad", "0") for name in with_ipv6),
            (ACCESS, "net/ipv6/conf/all/forwarding", "1"),
        )


EVERYTHING = Topology(HOMES, (PCP_HOME,), (FREE_HOME,), leasequery=True)
DEMONSTRATION = Topology(HOMES[:1], (PCP_HOME,), (FREE_HOME,), leasequery=True)
CHAOS = Topology((), leasequery=True, timer_scale=0.02, history=1024)


def _home_links(site: Site) -> tuple[Link, Link]:
    access = End(ACCESS, site.link, (f"{site.wan_address(1)}/64",))
    wan = End(site.name, "wan", (f"{site.wan_address(2)}/64",))
    inside = End(site.name, "lan", (f"{site.lan_address(1)}/24",))
    hosts = End(site.lan, "eth0", (f"{site.lan_address(10)}/24", f"{site.lan_address(11)}/24"))
    return Link((access, wan), V6_MTU), Link((inside, hosts), offloads=True)


def router_config(topology: Topology, folder: Path) -> dict[str, Any]:
    """The configuration of `pylwaftr run`. In `folder` are its state and, in tls, the certificates."""
    config: dict[str, Any] = {
        "dataplane": {"max_bindings": 1000, "eal_args": ["--file-prefix=pylwaftr-lab"]},
        "interfaces": {
            "v4": {
                "port": f"net_tap0,iface={TAP}",
                "addresses": [f"{V4_ROUTER}/24"],
                "next_hop": V4_GATEWAY,
                "mtu": V4_MTU,
            },
            "v6": {
                "port": "net_af_packet0,iface=v6",
                "addresses": [f"{V6_ROUTER}/64"],
                "next_hop": V6_GATEWAY,
                "mtu": V6_MTU,
            },
        },
        "softwire": {"br_addresses": [BR_ADDRESS]},
        "bindings": {"entries": [_binding(home) for home in topology.homes]},
        "metrics": {"listen": METRICS},
        "state": {"directory": str(folder / "state")},
    }
    if topology.pcp_homes:
        config["pcp"] = {
            "pools": [{"ipv4": str(POOL), "psid_len": POOL_PSID_LEN}],
            "third_party": {"listen": f"{MANAGE_ROUTER}:{PCP_PORT}", "allow": [f"{MANAGE_DHCP}/32"]},
        }
    if topology.leasequery:
        tls = {name: str(folder / "tls" / file) for name, file in ROUTER_TLS.items()}
        port = LEASEQUERY4_PORT if topology.profile == "N" else LEASEQUERY_PORT
        server = {"address": MANAGE_DHCP, "port": port, "profile": topology.profile, "tls": tls}
        config["leasequery"] = {"servers": [server | {"timer_scale": topology.timer_scale}]}
    return config


def _binding(home: Home) -> dict[str, Any]:
    return {
        "ipv4": str(home.ipv4),
        "psid_offset": home.ports.offset,
        "psid_len": home.ports.length,
        "psid": home.ports.psid,
        "b4_ipv6": str(home.tunnel_source),
    }
