"""The few octets of IPv4, ICMPv4 and ICMPv6 that a lwB4 has to read and write itself."""

from __future__ import annotations

import struct

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
WITH_PORTS = frozenset({6, 17, 33, 132, 136})  # TCP, UDP, DCCP, SCTP, UDP-Lite: ports in octets 0-3
ECHO_REPLY, ECHO_REQUEST = 0, 8
ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})  # RFC 1122 section 3.2.2: no error is sent about these
STEERED_ERRORS = frozenset({3, 11, 12})  # RFC 7596 section 8.1: those that reach a shared address by the quoted packet

# RFC 1812 section 4.3.2.3: an ICMPv4 error datagram stays within 576 octets, so 548 of the packet are quoted.
MAX_QUOTE = 548
# RFC 1812 section 4.3.2.5: precedence 6 (internetwork control) for errors.
ERROR_TOS = 0xC0


def sum16(data: bytes | bytearray | memoryview) -> int:
    """Sum of 16-bit words, carries folded in; an odd last octet counts as the high one."""
    if len(data) & 1:
        data = bytes(data) + b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def checksum(data: bytes | bytearray | memoryview) -> int:
    return ~sum16(data) & 0xFFFF


def adjust(check: int, before: int, after: int) -> int:
    """RFC 1624 equation 3, for values of one or two 16-bit words."""
    total = (~check & 0xFFFF) + (~before & 0xFFFF) + (~(before >> 16) & 0xFFFF) + (after & 0xFFFF) + (after >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def is_whole_ipv4(packet: bytes | bytearray | memoryview) -> bool:
    """Header and Total Length fit into the octets that are there."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return False
    header, total = (packet[0] & 15) * 4, (packet[2] << 8) | packet[3]
    return 20 <= header <= total <= len(packet)


def fragment_offset(packet: bytes | bytearray | memoryview) -> int:
    return ((packet[6] & 0x1F) << 8) | packet[7]


def is_icmp_error(packet: bytes) -> bool:
    header = (packet[0] & 15) * 4
    return packet[9] == ICMP and (fragment_offset(packet) > 0 or len(packet) <= header or packet[header] in ICMP_ERRORS)


def ipv4(source: bytes, destination: bytes, protocol: int, payload: bytes, tos: int = 0) -> bytes:
    """An atomic datagram (RFC 6864: DF set, identification 0) with TTL 64."""
    head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(payload), 0, 0x4000, 64, protocol, 0) + source + destination
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def icmp4_error(source: bytes, about: bytes, kind: int, code: int, mtu: int = 0) -> bytes | None:
    """The error about a packet, to its source; None where RFC 1812 section 4.3.2.7 forbids one."""
    if fragment_offset(about) or is_icmp_error(about) or about[16] >= 224 or about[12] in (0, 127) or about[12] >= 224:
        return None
    body = struct.pack("!BBHHH", kind, code, 0, 0, mtu) + about[:MAX_QUOTE]
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ipv4(source, about[12:16], ICMP, body, ERROR_TOS)


def icmp6_is_valid(source: bytes, destination: bytes, message: bytes) -> bool:
    """The checksum over the pseudo-header of RFC 8200 section 8.1 is right."""
    pseudo = source + destination + struct.pack("!II", len(message), ICMP6)
    return sum16(pseudo + message) == 0xFFFF
