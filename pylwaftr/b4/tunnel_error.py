"""ICMPv6 errors about the tunnel's own packets, turned into ICMPv4 errors for the LAN (RFC 2473 section 8)."""

from __future__ import annotations

from dataclasses import dataclass

from . import packet as pk

_MIN_MTU = 1280


@dataclass(frozen=True, slots=True)
class QuotedPacket:
    """An ICMPv6 error that quotes a tunnel packet of ours: what it says, and the IPv4 packet inside."""

    kind: int
    code: int
    mtu: int
    packet: bytes


def quoted_packet(message: bytes, source: bytes, aftr: bytes) -> QuotedPacket | None:
    """None if the message does not quote a packet that this softwire end can have sent (RFC 8201 section 5.2)."""
    quote = message[8:]
    if len(quote) < 40 or quote[8:24] != source or quote[24:40] != aftr:
        return None
    inner, next_header = quote[40:], quote[6]
    if next_header == 44:  # one of our outer fragments: the first one shows the IPv4 header
        if len(inner) < 8 or inner[2] or inner[3] & 0xF8:
            return QuotedPacket(message[0], message[1], int.from_bytes(message[4:8]), b"")
        next_header, inner = inner[0], inner[8:]
    if next_header != 4:
        return None
    return QuotedPacket(message[0], message[1], int.from_bytes(message[4:8]), inner)


def ipv4_error_for(quoted: QuotedPacket, source: bytes, overhead: int) -> bytes | None:
    """The ICMPv4 error that tells the inner packet's source, or None where nothing is relayed."""
    inner = quoted.packet
    if len(inner) < 28 or inner[0] >> 4 != 4 or inner[0] & 15 < 5:
        return None
    if quoted.kind == 2:
        if quoted.mtu < _MIN_MTU or not inner[6] & 0x40:
            return None
        return pk.icmp4_error(source, inner, 3, 4, quoted.mtu - overhead)
    if quoted.kind == 1 or (quoted.kind, quoted.code) == (3, 0):
        return pk.icmp4_error(source, inner, 3, 1)
    return None
