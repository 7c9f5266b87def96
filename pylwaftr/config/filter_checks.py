"""Filters that cut a side off: what resolves the next hop is put through them, as libpcap runs them."""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from pylwaftr import filters
from pylwaftr.config.faults import Report
from pylwaftr.config.model import Interface4, Interface6, Interfaces

_PEER = bytes.fromhex("020000000001")  # any station
_ARP, _IPV6, _ICMP6 = 0x0806, 0x86DD, 58
_SOLICITATION, _ADVERTISEMENT = 135, 136

Question = tuple[str, str, bytes]  # direction, what it is, the frame


def check(report: Report, sides: Interfaces) -> None:
    for name, side in (("v4", sides.v4), ("v6", sides.v6)):
        path = f"interfaces.{name}"
        keys = ("addresses", "next_hop", "next_hop_mac", "ingress_filter", "egress_filter")
        if side.next_hop is None or side.next_hop_mac is not None or not side.addresses:
            continue
        if report.sound(*(f"{path}.{key}" for key in keys)):
            _check_side(report, path, side)


def _check_side(report: Report, path: str, side: Interface4 | Interface6) -> None:
    for direction, text in (("ingress", side.ingress_filter), ("egress", side.egress_filter)):
        if text is None:
            continue
        refused = [what for way, what, frame in _needed(side) if way == direction and not filters.passes(text, frame)]
        if refused:
            also = "arp" if isinstance(side, Interface4) else "icmp6"
            said = f"refuses {' and '.join(refused)}: the next hop is not found, or does not find this router"
            report.warn(f"{path}.{direction}_filter", f"{said}; write {also} or (…), or give next_hop_mac")


def _needed(side: Interface4 | Interface6) -> Iterator[Question]:
    own_mac = side.mac or bytes.fromhex("020000000002")
    if isinstance(side, Interface4):
        own, hop = side.addresses[0].ip, side.next_hop
        assert hop is not None
        yield "egress", "its ARP requests", _arp(1, own_mac, own, bytes(6), hop)
        yield "ingress", "the answers to its ARP requests", _arp(2, _PEER, hop, own_mac, own)
        yield "ingress", "ARP requests of the next hop", _arp(1, _PEER, hop, bytes(6), own)
        yield "egress", "its ARP answers", _arp(2, own_mac, own, _PEER, hop)
        return
    own6, hop6 = side.addresses[0].ip, side.next_hop
    assert hop6 is not None
    yield "egress", "its neighbour solicitations", _nd(_SOLICITATION, own_mac, own6, None, hop6)
    yield "ingress", "the answers to its neighbour solicitations", _nd(_ADVERTISEMENT, _PEER, hop6, own_mac, own6)
    yield "ingress", "neighbour solicitations of the next hop", _nd(_SOLICITATION, _PEER, hop6, None, own6)
    yield "egress", "its neighbour advertisements", _nd(_ADVERTISEMENT, own_mac, own6, _PEER, hop6)


def _arp(kind: int, sender: bytes, sender_ip: IPv4Address, target: bytes, target_ip: IPv4Address) -> bytes:
    to = b"\xff" * 6 if kind == 1 else target
    message = struct.pack("!HHBBH", 1, 0x0800, 6, 4, kind) + sender + sender_ip.packed + target + target_ip.packed
    return (to + sender + struct.pack("!H", _ARP) + message).ljust(60, b"\0")


def _nd(kind: int, sender: bytes, source: IPv6Address, to_mac: bytes | None, other: IPv6Address) -> bytes:
    """A solicitation for `other` to its group, or an advertisement of `source` to `other` (RFC 4861 section 4)."""
    asks = kind == _SOLICITATION
    to = IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + other.packed[13:]) if asks else other
    link = b"\x33\x33" + to.packed[12:] if to_mac is None else to_mac
    about, option, flags = (other, b"\1\1", 0) if asks else (source, b"\2\1", 0x60)
    body = struct.pack("!BBHB3x", kind, 0, 0, flags) + about.packed + option + sender
    pseudo = source.packed + to.packed + struct.pack("!II", len(body), _ICMP6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMP6, 255) + source.packed + to.packed
    return link + sender + struct.pack("!H", _IPV6) + header + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
