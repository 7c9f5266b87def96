"""NAPT44 with mappings that are given, for a lwB4 that has no kernel around it: simulated homes, worked examples.

`pylwaftr b4` leaves this work to nftables (see nft.py). Here are translation and the hop's TTL (RFC 5508 section 4
for ICMP), but no port choice and no timers: a mapping is there, or the packet is not translated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from . import packet as pk

SOURCE, DESTINATION = 12, 16  # of an address in an IPv4 header
_CHECK_AT = {pk.TCP: 16, pk.UDP: 6, pk.ICMP: 2}


@dataclass(frozen=True, slots=True)
class Mapping:
    """protocol, inside address and port (for ICMP: echo identifier), and the port it has outside."""

    protocol: int
    inside: bytes
    inside_port: int
    outside_port: int


class Napt:
    def __init__(self, outside: bytes, mappings: Iterable[Mapping]) -> None:
        self._outside = outside
        self._out: dict[tuple[int, bytes, int], int] = {}
        self._in: dict[tuple[int, int], tuple[bytes, int]] = {}
        for m in mappings:
            self._out[m.protocol, m.inside, m.inside_port] = m.outside_port
            self._in[m.protocol, m.outside_port] = (m.inside, m.inside_port)

    def outbound(self, packet: bytes) -> bytes | None:
        """A LAN host's packet as it goes into the tunnel; None without a mapping."""
        port = _port(packet, SOURCE)
        outside = None if port is None else self._out.get((packet[9], packet[SOURCE : SOURCE + 4], port))
        if outside is None:
            return None
        changed = bytearray(packet)
        _rewrite(changed, SOURCE, self._outside, outside)
        return _hop(changed)

    def inbound(self, packet: bytes) -> bytes | None:
        """A packet out of the tunnel as its LAN host gets it; None without a mapping."""
        if pk.is_icmp_error(packet):
            return self._inbound_error(packet)
        port = _port(packet, DESTINATION)
        inside = None if port is None else self._in.get((packet[9], port))
        if inside is None:
            return None
        changed = bytearray(packet)
        _rewrite(changed, DESTINATION, *inside)
        return _hop(changed)

    def _inbound_error(self, packet: bytes) -> bytes | None:
        """RFC 5508 section 4.2: the quoted packet is one of ours and is translated back too."""
        start = (packet[0] & 15) * 4
        quoted = bytearray(packet[start + 8 :])
        port = _port(quoted, SOURCE) if len(quoted) >= 20 else None
        inside = None if port is None else self._in.get((quoted[9], port))
        if inside is None:
            return None
        _rewrite(quoted, SOURCE, *inside)
        message = packet[start : start + 2] + b"\0\0" + packet[start + 4 : start + 8] + bytes(quoted)
        message = message[:2] + struct.pack("!H", pk.checksum(message)) + message[4:]
        changed = bytearray(packet[:start] + message)
        _set_address(changed, DESTINATION, inside[0])
        return _hop(changed)


def _port_at(packet: bytes | bytearray, side: int) -> int | None:
    """Where the port of that side, or the echo identifier, lies."""
    start = (packet[0] & 15) * 4
    if pk.fragment_offset(packet) or len(packet) < start + 8:
        return None
    if packet[9] in (pk.TCP, pk.UDP):
        return start if side == SOURCE else start + 2
    if packet[9] == pk.ICMP and packet[start] in (pk.ECHO_REQUEST, pk.ECHO_REPLY):
        return start + 4
    return None


def _port(packet: bytes | bytearray, side: int) -> int | None:
    at = _port_at(packet, side)
    return None if at is None else (packet[at] << 8) | packet[at + 1]


def _word(packet: bytearray, at: int) -> int:
    return (packet[at] << 8) | packet[at + 1]


def _set_address(packet: bytearray, side: int, address: bytes) -> None:
    before = int.from_bytes(packet[side : side + 4])
    packet[side : side + 4] = address
    struct.pack_into("!H", packet, 10, pk.adjust(_word(packet, 10), before, int.from_bytes(address)))


def _rewrite(packet: bytearray, side: int, address: bytes, port: int) -> None:
    """New address and port on one side, all checksums that cover them adjusted."""
    at = _port_at(packet, side)
    assert at is not None, "the caller found a port here"
    old_address, old_port = int.from_bytes(packet[side : side + 4]), _word(packet, at)
    _set_address(packet, side, address)
    struct.pack_into("!H", packet, at, port)
    protocol = packet[9]
    check_at = (packet[0] & 15) * 4 + _CHECK_AT[protocol]
    if check_at + 2 > len(packet):
        return  # a quoted TCP header of 8 octets ends before its checksum
    check = _word(packet, check_at)
    if protocol == pk.UDP and check == 0:
        return  # RFC 768: the sender computed none
    check = pk.adjust(check, old_port, port)
    if protocol != pk.ICMP:
        check = pk.adjust(check, old_address, int.from_bytes(address))
    if protocol == pk.UDP:
        check = check or 0xFFFF
    struct.pack_into("!H", packet, check_at, check)


def _hop(packet: bytearray) -> bytes | None:
    """TTL less one; the hop ends here for a TTL of 1 (its ICMPv4 11/0 is the kernel's where there is one)."""
    if packet[8] <= 1:
        return None
    before = _word(packet, 8)
    packet[8] -= 1
    struct.pack_into("!H", packet, 10, pk.adjust(_word(packet, 10), before, _word(packet, 8)))
    return bytes(packet)
