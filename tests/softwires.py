"""The bindings of the examples, packets through their softwires, and rows: packet in, packets out, counters moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.compare import Comparison, Expected
from tests.frames import (
    BROADCAST,
    ETH_ARP,
    ETH_IPV6,
    HOP_BY_HOP,
    ICMP6,
    IPIP,
    V6_IF,
    V6_PEER,
    Seen,
    arp,
    dissect,
    ethernet,
    group_mac,
    hop,
    icmp6,
    ip6,
    ipv6,
    own_error4,
    own_error6,
    sent,
    solicited_node,
)
from tests.lane_router import Router, router
from tests.vector_config import Binding, Options, Settings, binding, default_options, path_mtu, settings

GATEWAY4, GATEWAY6 = "192.0.2.254", "2001:db8:ffff::fe"
INET, INET2 = "198.51.100.10", "198.51.100.77"
ROUTER4, TUNNEL4, ROUTER6 = "192.0.2.1", "192.0.0.1", "2001:db8:ffff::1"
B1, B2, B3 = binding("b1"), binding("b2"), binding("b3")  # shared: ports 1024-2047, 2048-3071, 1024-2047
WHOLE = binding("b4")
SYSTEM_PORTS = binding("b8")  # shared: ports 0-4095
OTHER_BR = binding("b7")  # whole address behind the second BR address


def encap(
    inner: bytes, to: Binding, *, tc: int | None = None, hop_limit: int = 64, ext: bytes = b"", first: int = IPIP
) -> bytes:
    """An IPv4 packet in the softwire towards the B4, as the router sends it by default."""
    return ipv6(to.br, to.b4, first, ext + inner, tc=inner[1] if tc is None else tc, hop_limit=hop_limit)


def from_b4(
    inner: bytes,
    by: Binding,
    *,
    tc: int | None = None,
    ext: bytes = b"",
    first: int = IPIP,
    src: str | None = None,
    dst: str | None = None,
) -> bytes:
    """An IPv4 packet in the softwire as a B4 sends it."""
    tos = (inner[1] if len(inner) > 1 else 0) if tc is None else tc
    return ipv6(src or by.b4, dst or by.br, first, ext + inner, tc=tos, hop_limit=61)


def inner_of(seen: list[Seen]) -> bytes:
    """The IPv4 packet of the one frame that left."""
    ((_, frame),) = seen
    inner = dissect(frame).ipv4
    assert inner is not None
    return inner


def down(packet: bytes, to: Binding) -> Expected:
    """`packet` from the internet, forwarded into the softwire."""
    return Expected("v6", sent("v6", encap(hop(packet), to))[1], "forwarded")


def up(packet: bytes) -> Expected:
    """`packet` of a subscriber, forwarded to the internet."""
    return Expected("v4", sent("v4", hop(packet))[1], "forwarded")


def refused4(packet: bytes, kind: int, code: int, mtu: int = 0, tos: int = 0xC0) -> Expected:
    """The ICMPv4 error about a packet from the internet."""
    error = own_error4(packet, kind, code, src=ROUTER4, mtu=mtu, tos=tos)
    return Expected("v4", sent("v4", error)[1], "icmpv4-error")


def refused_inside(packet: bytes, by: Binding, kind: int, code: int, mtu: int = 0) -> Expected:
    """The ICMPv4 error about a packet out of a softwire: back into it, from 192.0.0.1."""
    error = own_error4(packet, kind, code, src=TUNNEL4, mtu=mtu)
    return Expected("v6", sent("v6", encap(error, by))[1], "icmpv4-error")


def refused6(packet: bytes, kind: int, code: int, value: int = 0) -> Expected:
    """The ICMPv6 error about an outer packet."""
    return Expected("v6", sent("v6", own_error6(packet, kind, code, value))[1], "icmpv6-error")


def arp_frame(
    op: int, sender: bytes, sender_ip: str, target_ip: str, *, target: bytes = bytes(6), dst: bytes = BROADCAST
) -> bytes:
    return dst + sender + ETH_ARP.to_bytes(2) + arp(op, sender, sender_ip, target, target_ip)


ROUTER_ALERT = bytes([ICMP6, 0, 5, 2, 0, 0, 1, 0])  # for MLD, RFC 2711, in a hop-by-hop header


def mld_query(src: str = "fe80::1", *, hop_limit: int = 1, damaged: bool = False) -> bytes:
    """A general MLDv2 query (RFC 3810 section 5.1) to all nodes, in its frame."""
    message = icmp6(src, "ff02::1", 130, 0, bytes(4), bytes(16) + bytes([2, 125, 0, 0]))
    if damaged:
        message = message[:-1] + b"\1"
    packet = ipv6(src, "ff02::1", HOP_BY_HOP, ROUTER_ALERT + message, hop_limit=hop_limit)
    return ethernet("v6", packet, dst=group_mac("ff02::1"))


def solicitation(
    target: str, asker: str, *, lla: bytes | None = V6_PEER, to: str | None = None, target_mac: bytes = V6_IF
) -> bytes:
    """A neighbour solicitation to the group of its target, or `to` an address."""
    dst = to or solicited_node(target)
    option = b"\1\1" + lla if lla else b""
    message = icmp6(asker, dst, 135, 0, bytes(4), ip6(target) + option)
    link = group_mac(dst) if dst.startswith("ff") else target_mac
    return link + (lla or V6_PEER) + ETH_IPV6.to_bytes(2) + ipv6(asker, dst, ICMP6, message, hop_limit=255)


@dataclass(frozen=True)
class Row:
    """What the network sees, packets in (they get their frames here), frames out, the ways that were counted."""

    what: str
    side: str
    packets: bytes | Sequence[bytes]
    out: Sequence[Expected]
    ways: dict[str, int]
    options: Options = field(default_factory=dict)  # in the examples' words
    changes: Settings = field(default_factory=dict)  # in the settings' words, dotted keys

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


def comes_in(what: str, packet: bytes, to: Binding = B1, options: Options | None = None) -> Row:
    """From the internet into a softwire."""
    return Row(f"in: {what}", "v4", packet, [down(packet, to)], {"encap": 1}, options or {})


def goes_out(
    what: str, packet: bytes, by: Binding = B1, options: Options | None = None, tunnel: bytes | None = None
) -> Row:
    """Out of a softwire to the internet; `tunnel` is the outer packet where it is not an ordinary one."""
    return Row(f"out: {what}", "v6", tunnel or from_b4(packet, by), [up(packet)], {"decap": 1}, options or {})


def crosses(what: str, packet: bytes, by: Binding, to: Binding, options: Options | None = None) -> Row:
    """Out of one softwire into another."""
    return Row(f"hairpin: {what}", "v6", from_b4(packet, by), [down(packet, to)], {"hairpin": 1}, options or {})


def refuses_in(
    what: str, packet: bytes, why: str, error: tuple[int, ...] | None = None, options: Options | None = None
) -> Row:
    """From the internet, dropped; `error` is the type, code and MTU of the ICMPv4 error, if one is sent."""
    answers = [refused4(packet, *error)] if error else []
    return Row(f"in: {what}", "v4", packet, answers, {f"drop_{why}": 1}, options or {})


def refuses_out(
    what: str, tunnel: bytes, why: str, error: tuple[int, ...] | None = None, options: Options | None = None
) -> Row:
    """An outer packet, dropped; `error` is the type, code and value of the ICMPv6 error, if one is sent."""
    answers = [refused6(tunnel, *error)] if error else []
    return Row(f"out: {what}", "v6", tunnel, answers, {f"drop_{why}": 1}, options or {})


def spoofs(what: str, packet: bytes, by: Binding = B1, options: Options | None = None) -> Row:
    """Out of a softwire that may not send it."""
    return refuses_out(what, from_b4(packet, by), "source_validation", (1, 5), options)


def bounces(
    what: str, packet: bytes, why: str, error: tuple[int, ...], by: Binding = B1, options: Options | None = None
) -> Row:
    """Out of a softwire and valid, but answered with an ICMPv4 error into it."""
    answers = [refused_inside(packet, by, *error)]
    return Row(f"out: {what}", "v6", from_b4(packet, by), answers, {f"drop_{why}": 1}, options or {})


def changed(base: Settings, changes: dict[str, Any]) -> Settings:
    """Settings with some values changed; a dotted key reaches one level down."""
    result = dict(base)
    for key, value in changes.items():
        outer, _, inner = key.partition(".")
        result[outer] = {**result[outer], inner: value} if inner else value
    return result


def check_row(row: Row) -> None:
    options = {**default_options(), **row.options}
    chosen = changed(settings(options), row.changes)
    with router(chosen) as lane:
        frames = [row.packets] if isinstance(row.packets, bytes) else row.packets
        check(lane, row.side, [ethernet(row.side, packet) for packet in frames], row.out, row.ways, options)


def check(
    lane: Router,
    side: str,
    frames: Sequence[bytes],
    out: Sequence[Expected],
    ways: dict[str, int],
    options: Options | None = None,
) -> None:
    chosen = options or default_options()
    faults = Comparison(path_mtu(chosen), chosen["v4_mtu"]).step(out, lane.send(side, *frames))
    assert not faults, "\n".join(faults)
    assert lane.ways() == ways
