"""UDP in IPv4 in IPv6, as PCP travels in a softwire: a punted packet taken apart, and the answer put together.

The words of a checksum are the digits of one large number in base 2^16, and 2^16 = 1 modulo 65535. So the ones'
complement sum of octets is the remainder of the number that they make, worked out at once however many they are.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pylwaftr import _framing

HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
IPV4, TCP, UDP = 4, 6, 17
_OUTER, _IPV4, _UDP = 40, 20, 8
_MODULUS = 0xFFFF
_HOPS = 64
_FIXED_WORDS = 0x4500 + (_HOPS << 8 | UDP)  # version, header length and TOS; TTL and protocol

# IPv6, IPv4 without options, UDP.
_WHOLE = struct.Struct("!IHBB16s16sBBHHHBBH4s4sHHHH")
_PACKET = struct.Struct("!IHBB16s16s")
_DATAGRAM = struct.Struct("!BBHHHBBH4s4s")
_PORTS = struct.Struct("!HHHH")


class Punted(NamedTuple):
    """A datagram that came through a softwire. Addresses are octets: 16 outside, 4 inside."""

    tunnel: bytes  # outer source: whose softwire it is
    br: bytes  # outer destination: which of our addresses it came to
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    payload: bytes


class InnerSource(NamedTuple):
    """Who sends data through a softwire."""

    ipv4: int
    port: int
    tunnel: bytes
    br: bytes


def inner_source(packet: bytes) -> InnerSource | None:
    """Of a TCP or UDP packet in a softwire that the data plane has found well-formed; None if it has no ports."""
    if len(packet) < _WHOLE.size or packet[0] >> 4 != 6:
        return None
    _, _, next_header, _, tunnel, br = _PACKET.unpack_from(packet)
    at = _OUTER if next_header == IPV4 else _behind_extensions(packet, next_header)
    if not at or at + _IPV4 > len(packet):
        return None
    ports = at + (packet[at] & 15) * 4
    if packet[at + 9] not in (TCP, UDP) or ports + 2 > len(packet):
        return None
    source = int.from_bytes(packet[at + 12 : at + 16])
    return InnerSource(source, int.from_bytes(packet[ports : ports + 2]), tunnel, br)


def strip(packet: bytes) -> Punted | None:
    """A packet from its IPv6 header on; None unless it is whole, no inner fragment, and its checksums are right."""
    if len(packet) >= _WHOLE.size and packet[6] == IPV4 and packet[_OUTER] == 0x45:
        return _framing.strip_plain(packet, Punted)  # nearly all
    return strip_any(packet)


def strip_any(packet: bytes) -> Punted | None:
    """strip without its compiled way."""
    if len(packet) < _WHOLE.size or packet[0] >> 4 != 6:
        return None
    _, length, next_header, _, tunnel, br = _PACKET.unpack_from(packet)
    end = _OUTER + length
    at = _OUTER if next_header == IPV4 else _behind_extensions(packet, next_header)
    if end > len(packet) or not at or at + _IPV4 + _UDP > end:
        return None
    version, _, total, _, fragment, _, protocol, _, source, destination = _DATAGRAM.unpack_from(packet, at)
    udp = at + (version & 15) * 4
    end_of_inner = at + total
    # No fragment: More Fragments and the offset are 0. Reserved and DF may be anything.
    if version >> 4 != 4 or protocol != UDP or fragment & 0x3FFF or udp < at + _IPV4 or udp + _UDP > end_of_inner:
        return None
    if end_of_inner > end or int.from_bytes(packet[at:udp]) % _MODULUS:
        return None
    source_port, destination_port, size, check = _PORTS.unpack_from(packet, udp)
    if size < _UDP or udp + size > end_of_inner:
        return None
    if check and _udp_sum(source + destination, packet[udp : udp + size]):  # RFC 768: 0 = the sender made none
        return None
    payload = packet[udp + _UDP : udp + size]
    return Punted(tunnel, br, source, source_port, destination, destination_port, payload)


def _udp_sum(addresses: bytes, datagram: bytes) -> int:
    """Over the pseudo-header too: 0 if the checksum inside is right."""
    number = int.from_bytes(datagram) << 8 if len(datagram) & 1 else int.from_bytes(datagram)
    return (int.from_bytes(addresses) + UDP + len(datagram) + number) % _MODULUS


def _behind_extensions(packet: bytes, next_header: int) -> int:
    """Where the IPv4 packet begins behind extension headers (RFC 8200 section 4); 0 if there is none."""
    at = _OUTER
    while next_header != IPV4:
        if at + 8 > len(packet):
            return 0
        if next_header == FRAGMENT:
            if packet[at + 2] or packet[at + 3] & 0xF9:  # not an atomic one (RFC 6946)
                return 0
            length = 8
        elif next_header in (HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING):
            if next_header == ROUTING and packet[at + 3]:  # not at its last hop
                return 0
            length = 8 + packet[at + 1] * 8
        else:
            return 0
        next_header = packet[at]
        at += length
    return at


def wrap(
    payload: bytes,
    br: bytes,
    tunnel: bytes,
    source: bytes,
    source_port: int,
    destination: bytes,
    destination_port: int,
    identification: int = 1,
) -> bytes:
    """The IPv6 packet from `br` to `tunnel` that has the payload inside.

    Inner packets of PCP have no more than 1128 octets, so none is ever cut and the identification serves nobody.
    """
    size = _UDP + len(payload)
    total = _IPV4 + size
    addresses = int.from_bytes(source + destination)
    body = int.from_bytes(payload) << 8 if size & 1 else int.from_bytes(payload)
    ipv4_check = -(_FIXED_WORDS + total + identification + addresses) % _MODULUS
    # The length is there twice, in the pseudo-header and in the header; a sum of 0 is sent as 0xffff (RFC 768).
    udp_check = -(addresses + UDP + 2 * size + source_port + destination_port + body) % _MODULUS or _MODULUS
    return _WHOLE.pack(
        6 << 28, total, IPV4, _HOPS, br, tunnel,
        0x45, 0, total, identification, 0, _HOPS, UDP, ipv4_check, source, destination,
        source_port, destination_port, size, udp_check,
    ) + payload  # fmt: skip


def reply(to: Punted, payload: bytes) -> bytes:
    """The answer, from where the request went to where it came from."""
    return _framing.reply(to, payload)
