"""Frames as octets: small builders and dissectors, without scapy because the property tests make millions of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

ETH_IPV4, ETH_ARP, ETH_VLAN, ETH_IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
ICMP, IPIP, TCP, UDP, DCCP, GRE, ESP, ICMP6, SCTP, UDPLITE = 1, 4, 6, 17, 33, 47, 50, 58, 132, 136
HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, DEST_OPTIONS = 0, 43, 44, 59, 60
PORT_PROTOCOLS = (TCP, UDP, DCCP, SCTP, UDPLITE)
DF, MF = 0x4000, 0x2000
# RFC 2473 section 4.1.1: next header 4, encapsulation limit 4, PadN of one octet.
ENCAP_LIMIT_4 = bytes.fromhex("0400040104010100")

Seen = tuple[str, bytes]  # the side that a frame left on, and the frame


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


V4_IF, V4_PEER = mac("02:00:00:00:04:01"), mac("02:00:00:00:04:fe")
V6_IF, V6_PEER = mac("02:00:00:00:06:01"), mac("02:00:00:00:06:fe")
OWN_MAC = {"v4": V4_IF, "v6": V6_IF}
PEER_MAC = {"v4": V4_PEER, "v6": V6_PEER}
BROADCAST = b"\xff" * 6


def ip4(address: str) -> bytes:
    return IPv4Address(address).packed


def ip6(address: str) -> bytes:
    return IPv6Address(address).packed


def checksum(data: bytes) -> int:
    """RFC 1071; 0 when `data` holds its own right checksum."""
    if len(data) & 1:
        data += b"\0"
    # The sum of 16-bit words modulo 0xffff is that of the whole number: one big division instead of a loop.
    total = int.from_bytes(data) % 0xFFFF
    if total == 0 and any(data):
        total = 0xFFFF
    return ~total & 0xFFFF


def pseudo_header(src: bytes, dst: bytes, length: int, protocol: int) -> bytes:
    return src + dst + struct.pack("!II", length, protocol)


def ethernet(side: str, packet: bytes, *, dst: bytes | None = None, vlan: int | None = None, kind: int = 0) -> bytes:
    """A frame as it arrives on `side`: from the peer to the router."""
    kind = kind or (ETH_IPV4 if side == "v4" else ETH_IPV6)
    tag = b"" if vlan is None else struct.pack("!HH", ETH_VLAN, vlan)
    return (dst or OWN_MAC[side]) + PEER_MAC[side] + tag + struct.pack("!H", kind) + packet


def sent(side: str, packet: bytes, *, vlan: int | None = None, dst: bytes | None = None) -> Seen:
    """A frame as it leaves on `side`: from the router to its next hop."""
    tag = b"" if vlan is None else struct.pack("!HH", ETH_VLAN, vlan)
    kind = struct.pack("!H", ETH_IPV4 if side == "v4" else ETH_IPV6)
    return side, (dst or PEER_MAC[side]) + OWN_MAC[side] + tag + kind + packet


def ipv4(
    src: str,
    dst: str,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    ident: int = 0x1234,
    flags: int = 0,
    offset: int = 0,
    options: bytes = b"",
) -> bytes:
    length = 20 + len(options) + len(payload)
    head = struct.pack(
        "!BBHHHBBH", 0x45 + len(options) // 4, tos, length, ident, flags | offset // 8, ttl, protocol, 0
    ) + (ip4(src) + ip4(dst) + options)
    return with_header_checksum(head) + payload


def with_header_checksum(packet: bytes) -> bytes:
    """Redoes the IPv4 header checksum; an impossible IHL is taken as it is, as far as there are octets."""
    size = (packet[0] & 15) * 4
    head = packet[:10] + b"\0\0" + packet[12:size]
    return head[:10] + struct.pack("!H", checksum(head)) + packet[12:]


def edit(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value) :]


def edit4(packet: bytes, at: int, value: bytes) -> bytes:
    """Changes octets of an IPv4 packet and redoes the header checksum."""
    return with_header_checksum(edit(packet, at, value))


def hop(packet: bytes, tos: int | None = None) -> bytes:
    """What one forwarding step does to an IPv4 packet."""
    head = edit(packet, 8, bytes([packet[8] - 1]))
    return with_header_checksum(head if tos is None else edit(head, 1, bytes([tos])))


def udp(src: str, dst: str, sport: int, dport: int, size: int = 18, **ip: int) -> bytes:
    data = bytes(i & 0xFF for i in range(size))
    return ipv4(src, dst, UDP, struct.pack("!HHHH", sport, dport, 8 + size, 0) + data, **ip)  # type: ignore[arg-type]


def tcp(
    src: str, dst: str, sport: int, dport: int, *, flags: int = 2, options: bytes = b"", data: bytes = b"", **ip: int
) -> bytes:
    """A TCP segment (a SYN unless told otherwise) with a right checksum."""
    head = struct.pack("!HHIIBBHHH", sport, dport, 1, 0, (20 + len(options)) // 4 << 4, flags, 0xFFFF, 0, 0) + options
    segment = with_tcp_checksum(ip4(src), ip4(dst), head + data)
    return ipv4(src, dst, TCP, segment, **ip)  # type: ignore[arg-type]


def with_tcp_checksum(src: bytes, dst: bytes, segment: bytes) -> bytes:
    blank = edit(segment, 16, b"\0\0")
    value = checksum(src + dst + struct.pack("!HH", TCP, len(segment)) + blank)
    return edit(blank, 16, struct.pack("!H", value))


def icmp4(kind: int, code: int, rest: bytes, body: bytes = b"") -> bytes:
    message = bytes([kind, code, 0, 0]) + rest + body
    return edit(message, 2, struct.pack("!H", checksum(message)))


def echo4(src: str, dst: str, identifier: int, *, reply: bool = False, size: int = 32, **ip: int) -> bytes:
    message = icmp4(0 if reply else 8, 0, struct.pack("!HH", identifier, 1), bytes(i & 0xFF for i in range(size)))
    return ipv4(src, dst, ICMP, message, **ip)  # type: ignore[arg-type]


def error4(src: str, dst: str, kind: int, code: int, quote: bytes, mtu: int = 0, **ip: int) -> bytes:
    """An ICMPv4 error made by somebody else."""
    return ipv4(src, dst, ICMP, icmp4(kind, code, struct.pack("!HH", 0, mtu), quote), **ip)  # type: ignore[arg-type]


def own_error4(about: bytes, kind: int, code: int, *, src: str, mtu: int = 0, tos: int = 0xC0) -> bytes:
    """The ICMPv4 error that the router makes about `about` (spec 4.9): at most 576 octets, DF, ID 0, TTL 64."""
    message = icmp4(kind, code, struct.pack("!HH", 0, mtu), about[:548])
    return ipv4(src, str(IPv4Address(about[12:16])), ICMP, message, tos=tos, ident=0, flags=DF)


def ipv6(
    src: str, dst: str, next_header: int, payload: bytes, *, hop_limit: int = 64, tc: int = 0, label: int = 0
) -> bytes:
    head = struct.pack("!IHBB", 6 << 28 | tc << 20 | label, len(payload), next_header, hop_limit)
    return head + ip6(src) + ip6(dst) + payload


def icmp6(src: str, dst: str, kind: int, code: int, rest: bytes, body: bytes = b"") -> bytes:
    message = bytes([kind, code, 0, 0]) + rest + body
    value = checksum(pseudo_header(ip6(src), ip6(dst), len(message), ICMP6) + message)
    return edit(message, 2, struct.pack("!H", value))


def own_error6(about: bytes, kind: int, code: int, value: int = 0) -> bytes:
    """The ICMPv6 error that the router makes about `about` (spec 4.10): filled up to 1280 octets."""
    src, dst = str(IPv6Address(about[24:40])), str(IPv6Address(about[8:24]))
    return ipv6(src, dst, ICMP6, icmp6(src, dst, kind, code, struct.pack("!I", value), about[:1232]))


def fragments4(packet: bytes, mtu: int) -> list[bytes]:
    size = (packet[0] & 15) * 4
    body, step = packet[size:], (mtu - size) & ~7
    whole = struct.unpack("!H", packet[6:8])[0]
    out = []
    for at in range(0, len(body), step):
        more = MF if at + step < len(body) else whole & MF
        field = (whole & 0xC000) | more | (whole & 0x1FFF) + at // 8
        part = body[at : at + step]
        head = packet[:2] + struct.pack("!HHH", size + len(part), *struct.unpack("!H", packet[4:6]), field)
        out.append(with_header_checksum(head + packet[8:size] + part))
    return out


def fragments6(packet: bytes, mtu: int, ident: int) -> list[bytes]:
    """Fragments of an IPv6 packet that has no per-fragment header but the IPv6 header itself."""
    body, step = packet[40:], (mtu - 48) & ~7
    out = []
    for at in range(0, len(body), step):
        part = body[at : at + step]
        header = fragment_header(packet[6], at, at + step < len(body), ident)
        out.append(packet[:4] + struct.pack("!HB", len(part) + 8, FRAGMENT) + packet[7:40] + header + part)
    return out


def fragment_header(next_header: int, offset: int, more: bool, ident: int) -> bytes:
    return struct.pack("!BBHI", next_header, 0, offset | more, ident)


def arp(op: int, sender: bytes, sender_ip: str, target: bytes, target_ip: str) -> bytes:
    return struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, op) + sender + ip4(sender_ip) + target + ip4(target_ip)


def solicited_node(address: str) -> str:
    return str(IPv6Address(ip6("ff02::1:ff00:0")[:13] + ip6(address)[13:]))


def group_mac(address: str) -> bytes:
    """The Ethernet address of an IPv6 multicast group (RFC 2464 section 7)."""
    return b"\x33\x33" + ip6(address)[12:]


@dataclass(frozen=True)
class Dissected:
    """A frame taken apart as far as it goes: an IPv4 packet may be alone or inside IPv6."""

    dst: bytes
    src: bytes
    vlan: int | None
    kind: int
    payload: bytes

    @property
    def ipv4(self) -> bytes | None:
        """The IPv4 packet that is carried, in the softwire or bare; None for anything else and for outer fragments."""
        if self.kind == ETH_IPV4:
            return self.payload
        if self.kind != ETH_IPV6 or len(self.payload) < 40:
            return None
        following, at = self.payload[6], 40
        while following in (HOP_BY_HOP, DEST_OPTIONS, ROUTING) and at + 8 <= len(self.payload):
            following, at = self.payload[at], at + 8 * (self.payload[at + 1] + 1)
        return self.payload[at:] if following == IPIP else None


def dissect(frame: bytes) -> Dissected:
    (kind,) = struct.unpack("!H", frame[12:14])
    if kind != ETH_VLAN:
        return Dissected(frame[:6], frame[6:12], None, kind, frame[14:])
    tag, kind = struct.unpack("!HH", frame[14:18])
    return Dissected(frame[:6], frame[6:12], tag, kind, frame[18:])


def payload4(packet: bytes) -> bytes:
    return packet[(packet[0] & 15) * 4 :]


def is_announcement(side: str, frame: bytes) -> bool:
    """An ARP request of ours, a neighbour advertisement to all nodes, or a report of the groups we are in."""
    seen = dissect(frame)
    if seen.src != OWN_MAC[side]:
        return False
    if seen.kind == ETH_ARP:
        return seen.dst == BROADCAST and seen.payload[6:8] == b"\0\1"
    if seen.kind != ETH_IPV6 or seen.payload[24] != 0xFF:
        return False
    return seen.payload[24:40] == ip6("ff02::16") or (seen.payload[6] == ICMP6 and seen.payload[40] == 136)
