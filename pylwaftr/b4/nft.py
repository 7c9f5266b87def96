"""The nftables rules of a lwB4: NAPT44 that stays within the port set (RFC 7596 section 5.2, RFC 7597 section 9).

One contiguous range is one `snat`. A set with offset bits has many ranges; the range is then chosen by a hash of what
the mapping belongs to (inside address, protocol, inside port), so that one inside port keeps one outside port for all
destinations: Linux reuses a mapping that fits (RFC 4787 REQ-1: endpoint-independent), and picks at random otherwise.
Ranges are short. If all ports of the hashed one are taken towards a destination, the kernel drops the packet; when the
host sends it again, the rules remember the flow and any range will do.
ICMP echo identifiers are ports here (RFC 7596 section 8.2).

The public address is no local address: its other ports belong to neighbours, who are reached through the softwire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from .softwire import Ports

OWN_ADDRESS = IPv4Address("192.0.0.2")  # of the lwB4 on its TUN device (RFC 6333 section 5.7)
MARK = 0x4B340000  # on the connections of this lwB4, so that they can be flushed alone (RFC 7596 section 5.1)
MARK_MASK = 0xFFFF0000
_SET_MARK = f"ct mark set ct mark & 0x{0xFFFFFFFF & ~MARK_MASK:08x} | 0x{MARK:08x}"

# UDP-Lite has a port, but Linux gave up tracking it (6.18): it is dropped rather than sent with a port of a neighbour.
_PORT_PROTOCOLS = "{ tcp, udp, sctp, dccp }"


@dataclass(frozen=True, slots=True)
class Forward:
    """A mapping that is always there: protocol (tcp, udp, icmp), outside port, inside address and port.

    `remotes`: if there are any, only they may open a connection from outside; port 0 = all (RFC 6887 section 13.3).
    """

    protocol: str
    outside_port: int
    inside: IPv4Address
    inside_port: int
    remotes: tuple[tuple[IPv4Network, int], ...] = ()


def ruleset(table: str, tun: str, ipv4: IPv4Address, ports: Ports, forwards: Sequence[Forward] = ()) -> str:
    """The whole table, to be loaded by `nft -f`; it replaces what an earlier run left."""
    lines = [
        f"table ip {table}",
        f"delete table ip {table}",
        f"table ip {table} {{",
        *_tried("ports", "th sport"),
        *_tried("identifiers", "icmp id"),
        *_prerouting(tun, ipv4, forwards),
        *_postrouting(tun, ipv4, ports, forwards),
        *_filters(tun, ports, forwards),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _prerouting(tun: str, ipv4: IPv4Address, forwards: Sequence[Forward]) -> list[str]:
    rules = ["  chain in {", "    type nat hook prerouting priority dstnat; policy accept;"]
    rules.append(f"    ip daddr {ipv4} {_SET_MARK}")
    for f in forwards:
        to = f"{f.inside}" if f.protocol == "icmp" else f"{f.inside}:{f.inside_port}"
        rules.append(f"    ip daddr {ipv4} {_at(f, 'd', f.outside_port)} dnat ip to {to}")
    # Echo requests with an identifier of ours that no mapping knows: the lwB4 itself answers.
    rules.append(f'    iifname "{tun}" ip daddr {ipv4} icmp type echo-request dnat ip to {OWN_ADDRESS}')
    return [*rules, "  }"]


def _postrouting(tun: str, ipv4: IPv4Address, ports: Ports, forwards: Sequence[Forward]) -> list[str]:
    rules = ["  chain out {", "    type nat hook postrouting priority srcnat; policy accept;"]
    # A LAN host that uses the outside address of another one (RFC 4787 REQ-9) must get its answers through here.
    rules.append(f'    iifname != "{tun}" oifname != "{tun}" ct original ip daddr {ipv4} ct status dnat masquerade')
    rules.append(f'    oifname != "{tun}" return')
    rules.append(f"    {_SET_MARK}")
    for f in forwards:
        rules.append(f"    ip saddr {f.inside} {_at(f, 's', f.inside_port)} snat ip to {ipv4}:{f.outside_port}")
    if ports.whole:
        rules.append(f"    snat ip to {ipv4}")
    else:
        ranges = [f"{first}-{last}" if last > first else f"{first}" for first, last in ports.ranges()]
        rules += _restricted(f"meta l4proto {_PORT_PROTOCOLS}", "ports", "th sport", ipv4, ranges)
        rules += _restricted("icmp type echo-request", "identifiers", "icmp id", ipv4, ranges)
    return [*rules, "  }"]


def _tried(name: str, key: str) -> list[str]:
    """Flows whose first packet was given a range by hash."""
    kind = f"typeof ip saddr . meta l4proto . {key} . ip daddr"
    return [f"  set {name} {{", f"    {kind}", "    flags dynamic,timeout", "    timeout 30s", "    size 65535", "  }"]


def _restricted(match: str, tried: str, key: str, ipv4: IPv4Address, ranges: Sequence[str]) -> list[str]:
    if len(ranges) == 1:
        return [f"    {match} snat ip to {ipv4}:{ranges[0]}"]
    elements = ", ".join(f"{i} : {ipv4} . {ports}" for i, ports in enumerate(ranges))
    choice = f"mod {len(ranges)} map {{ {elements} }}"
    flow = f"ip saddr . meta l4proto . {key} . ip daddr"
    return [
        f"    {match} {flow} @{tried} snat ip to numgen random {choice}",
        f"    {match} add @{tried} {{ {flow} }} snat ip to jhash ip saddr . meta l4proto . {key} {choice}",
    ]


def _filters(tun: str, ports: Ports, forwards: Sequence[Forward]) -> list[str]:
    """Nothing leaves untranslated, and only what was asked for or forwarded comes in (RFC 7597 section 10)."""
    tracked = "{ tcp, udp, sctp, dccp, icmp }"
    rules = [
        "  chain through {",
        "    type filter hook forward priority filter; policy accept;",
        f'    oifname "{tun}" ct state invalid drop',
        f'    iifname "{tun}" ct state invalid drop',
        f'    iifname "{tun}" oifname "{tun}" drop',
        *(rule for forward in forwards for rule in _only_from(tun, forward)),
        f'    iifname "{tun}" ct state new ct status dnat accept',
        f'    iifname "{tun}" ct state new drop',
    ]
    if not ports.whole:
        rules.append(f'    oifname "{tun}" meta l4proto != {tracked} drop')
        rules.append(f'    oifname "{tun}" ct state new meta l4proto icmp icmp type != echo-request drop')
    return [
        *rules,
        "  }",
        "  chain local {",
        "    type filter hook input priority filter; policy accept;",
        f'    iifname "{tun}" icmp type echo-request accept',
        f'    iifname "{tun}" ct state {{ new, invalid }} drop',
        "  }",
    ]


def _only_from(tun: str, forward: Forward) -> list[str]:
    if not forward.remotes:
        return []
    port = f"meta l4proto {forward.protocol} ct original proto-dst {forward.outside_port}"
    match = f'    iifname "{tun}" ct state new ct status dnat {port}'
    allowed = [f"ip saddr {net}" + (f" th sport {number}" if number else "") for net, number in forward.remotes]
    return [*(f"{match} {remote} accept" for remote in allowed), f"{match} drop"]


def _at(forward: Forward, side: str, port: int) -> str:
    if forward.protocol == "icmp":
        return f"icmp type echo-request icmp id {port}"
    return f"{forward.protocol} {side}port {port}"
