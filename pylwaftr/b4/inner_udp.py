"""UDP datagrams that a lwB4 itself sends and gets inside its softwire: PCP."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from . import packet as pk

_HEADER = struct.Struct("!HHHH")


@dataclass(frozen=True, slots=True)
class Datagram:
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    payload: bytes


def write(source: bytes, source_port: int, destination: bytes, destination_port: int, payload: bytes) -> bytes:
    """The IPv4 packet."""
    size = _HEADER.size + len(payload)
    pseudo = source + destination + struct.pack("!HH", pk.UDP, size)
    whole = _HEADER.pack(source_port, destination_port, size, 0) + payload
    check = pk.checksum(pseudo + whole) or 0xFFFF  # RFC 768: 0 says that there is none
    return pk.ipv4(source, destination, pk.UDP, whole[:6] + struct.pack("!H", check) + payload)


def read(packet: bytes) -> Datagram | None:
    """Of a whole IPv4 packet; None if it is no datagram, or one with a wrong checksum."""
    head = (packet[0] & 15) * 4
    if packet[9] != pk.UDP or packet[6] & 0x3F or packet[7] or pk.sum16(packet[:head]) != 0xFFFF:
        return None
    source, destination, datagram = packet[12:16], packet[16:20], packet[head:]
    if len(datagram) < _HEADER.size:
        return None
    source_port, destination_port, size, check = _HEADER.unpack_from(datagram)
    if not _HEADER.size <= size <= len(datagram):
        return None
    if check and pk.sum16(source + destination + struct.pack("!HH", pk.UDP, size) + datagram[:size]) != 0xFFFF:
        return None
    return Datagram(source, source_port, destination, destination_port, datagram[_HEADER.size : size])
