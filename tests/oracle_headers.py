"""Header checks of the oracle: what a valid header is, and which port a quoted packet has."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address

from tests.compare import Expected
from tests.frames import ICMP, PORT_PROTOCOLS, checksum, payload4


class NotModelled(Exception):
    """The oracle has no opinion: what happens depends on packets before this one."""


@dataclass
class Ended(Exception):
    """The packet's way is over: the counter that says so, and what leaves because of it."""

    way: str
    frames: list[Expected] = field(default_factory=list)


def number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2])


def text4(address: bytes) -> str:
    return str(IPv4Address(address))


def header4(packet: bytes) -> int:
    return (packet[0] & 15) * 4


def is_fragment(packet: bytes) -> bool:
    return bool(number(packet, 6) & 0x3FFF)


def bad_source(address: bytes) -> bool:
    return address[0] in (0, 127) or address[0] >= 224


bad_destination = bad_source


def softwire_only(address: bytes) -> bool:
    return address[:3] == b"\xc0\0\0" and address[3] < 8


def checked4(packet: bytes) -> bytes:
    """A valid IPv4 packet, cut to its Total Length."""
    if len(packet) < 20 or packet[0] >> 4 != 4 or header4(packet) < 20 or len(packet) < header4(packet):
        raise Ended("drop_v4_malformed")
    if checksum(packet[: header4(packet)]):
        raise Ended("drop_v4_bad_checksum")
    total = number(packet, 2)
    if total < header4(packet):
        raise Ended("drop_v4_malformed")
    if total > len(packet):
        raise Ended("drop_v4_truncated")
    return packet[:total]


def checked6(packet: bytes) -> bytes:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        raise Ended("drop_v6_malformed")
    if 40 + number(packet, 4) > len(packet):
        raise Ended("drop_v6_truncated")
    return packet[: 40 + number(packet, 4)]


def quoted_port(quote: bytes, own: bytes, inward: bool) -> int:
    """The port in a packet quoted by an ICMPv4 error: of its source inwards, of its destination outwards."""
    unusable = Ended("drop_icmp_bad_embedded")
    if len(quote) < 20 or quote[0] >> 4 != 4 or header4(quote) < 20 or len(quote) < header4(quote) + 4:
        raise unusable
    if checksum(quote[: header4(quote)]) or number(quote, 6) & 0x1FFF:
        raise unusable
    if (quote[12:16] if inward else quote[16:20]) != own:
        raise unusable
    body = payload4(quote)
    if quote[9] in PORT_PROTOCOLS:
        return number(body, 0 if inward else 2)
    if quote[9] == ICMP and body[0] in (0, 8) and len(body) >= 6:
        return number(body, 4)
    raise unusable
