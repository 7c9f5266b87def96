"""Who is in the lab and how they are joined, as data.

    lw-internet ──v4── lw-lwaftr ──v6── lw-access ──┬── lw-home1 ── lw-lan1
    198.51.100.10      pylwaftr run      IPv6 router └── lw-home2 ── lw-lan2 …

The router's two interfaces have no kernel address. v6 is the port itself (net_af_packet). v4 is bridged to a port of
net_tap: net_af_packet asks the kernel to put IPv4 fragments together (PACKET_FANOUT_FLAG_DEFRAG), and what comes out
is larger than a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

from ..b4.softwire import PortSet, tunnel_source

INTERNET, ROUTER, ACCESS = "lw-internet", "lw-lwaftr", "lw-access"

INTERNET_HOST = "198.51.100.10"
V4_GATEWAY, V4_ROUTER = "192.0.2.254", "192.0.2.1"
V6_GATEWAY, V6_ROUTER = "2001:db8:ffff::1", "2001:db8:ffff::2"
BR_ADDRESS = "2001:db8:aa::1"
AFTR_IN_TUNNEL = "192.0.0.1"  # source of the router's ICMPv4 errors into a softwire (RFC 6333 section 5.7)
BRIDGE, TAP = "br4", "tap4"  # in the router's namespace
V4_MTU, V6_MTU = 1500, 1540  # a whole IPv4 packet fits the softwire
FORWARDED_TO = 7000  # LAN port behind the first port of each home's set


@dataclass(frozen=True, slots=True)
class Home:
    """A subscriber: lw-homeN with the lwB4, lw-lanN behind it."""

    number: int
    ipv4: IPv4Address
    ports: PortSet

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

    @property
    def tunnel_source(self) -> IPv6Address:
        return tunnel_source(self.prefix, self.ipv4, self.ports.psid)

    def wan_address(self, side: int) -> str:
        """1: the access router; 2: the home."""
        return f"2001:db8:2:{self.number:x}::{side}"

    def lan_address(self, host: int) -> str:
        """1: the lwB4; 10 and 11: the LAN host."""
        return f"192.168.{self.number}.{host}"

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
    homes: tuple[Home, ...]

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (INTERNET, ROUTER, ACCESS, *(name for home in self.homes for name in (home.name, home.lan)))

    def links(self) -> tuple[Link, ...]:
        internet = End(INTERNET, "v4", (f"{V4_GATEWAY}/24",))
        access = End(ACCESS, "v6", (f"{V6_GATEWAY}/64",))
        core = (
            Link((internet, End(ROUTER, "v4")), V4_MTU),
            Link((access, End(ROUTER, "v6")), V6_MTU),
        )
        return core + tuple(link for home in self.homes for link in _home_links(home))

    def routes(self) -> tuple[tuple[str, ...], ...]:
        """Namespace, then what follows `ip route add`."""
        pools = sorted({str(home.ipv4) for home in self.homes})
        return (
            *((INTERNET, f"{address}/32", "via", V4_ROUTER, "src", INTERNET_HOST) for address in pools),
            (INTERNET, "default", "via", V4_ROUTER),
            (ACCESS, f"{BR_ADDRESS}/128", "via", V6_ROUTER),
            *((ACCESS, str(home.prefix), "via", home.wan_address(2)) for home in self.homes),
            *((home.name, "default", "via", home.wan_address(1)) for home in self.homes),
            *((home.lan, "default", "via", home.lan_address(1)) for home in self.homes),
        )

    def sysctls(self) -> tuple[tuple[str, str, str], ...]:
        """Namespace, name and value. Duplicate address detection would delay the start by seconds."""
        no_ipv6 = (INTERNET, ROUTER, *(home.lan for home in self.homes))
        with_ipv6 = (ACCESS, *(home.name for home in self.homes))
        return (
            *((name, f"net/ipv6/conf/{scope}/disable_ipv6", "1") for name in no_ipv6 for scope in ("all", "default")),
            *((name, f"net/ipv6/conf/{scope}/disable_ipv6", "0") for name in with_ipv6 for scope in ("all", "default")),
            *((name, "net/ipv6/conf/default/accept_dad", "0") for name in with_ipv6),
            (ACCESS, "net/ipv6/conf/all/forwarding", "1"),
        )


def _home_links(home: Home) -> tuple[Link, Link]:
    access = End(ACCESS, home.link, (f"{home.wan_address(1)}/64",))
    wan = End(home.name, "wan", (f"{home.wan_address(2)}/64",))
    inside = End(home.name, "lan", (f"{home.lan_address(1)}/24",))
    hosts = End(home.lan, "eth0", (f"{home.lan_address(10)}/24", f"{home.lan_address(11)}/24"))
    return Link((access, wan), V6_MTU), Link((inside, hosts), offloads=True)


def router_config(topology: Topology, state: str) -> dict[str, Any]:
    """The configuration of `pylwaftr run`."""
    return {
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
        "state": {"directory": state},
    }


def _binding(home: Home) -> dict[str, Any]:
    return {
        "ipv4": str(home.ipv4),
        "psid_offset": home.ports.offset,
        "psid_len": home.ports.length,
        "psid": home.ports.psid,
        "b4_ipv6": str(home.tunnel_source),
    }
