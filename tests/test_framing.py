"""UDP in IPv4 in IPv6: which packets are taken apart, which are not, and any octets at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr import framing
from pylwaftr.framing import Punted
from tests.frames import checksum, with_header_checksum

BR, B4 = bytes.fromhex("20010db8ffff00000000000000000001"), bytes.fromhex("20010db8010001000000000000000001")
SERVER, CLIENT = bytes([192, 0, 0, 1]), bytes([192, 0, 0, 2])
REQUEST = Punted(B4, BR, CLIENT, 49152, SERVER, 5351, b"what is asked")
PACKET = framing.wrap(REQUEST.payload, B4, BR, CLIENT, 49152, SERVER, 5351)
OUTER, INNER, UDP = PACKET[:40], PACKET[40:60], PACKET[60:]


def outer(next_header: int, rest: bytes) -> bytes:
    return OUTER[:4] + len(rest).to_bytes(2) + bytes([next_header]) + OUTER[7:] + rest


def inner(rest: bytes = UDP, **fields: int) -> bytes:
    """The IPv4 packet with octets changed (`at_N`), its length and header checksum made anew."""
    head = bytearray(INNER)
    head[2:4] = (20 + len(rest)).to_bytes(2)
    for name, octet in fields.items():
        head[int(name.removeprefix("at_"))] = octet
    return with_header_checksum(bytes(head) + rest)


def udp(size: int, check: int | None = None) -> bytes:
    return UDP[:4] + size.to_bytes(2) + (UDP[6:8] if check is None else check.to_bytes(2)) + UDP[8:]


def with_options() -> bytes:
    return with_header_checksum(b"\x46\x00" + (24 + len(UDP)).to_bytes(2) + INNER[4:] + b"\x94\x04\0\0" + UDP)


TAKEN = [
    ("as it was made", PACKET),
    ("octets behind the packet", PACKET + b"junk"),
    ("octets behind the datagram", outer(4, inner(UDP + b"pad"))),
    ("IPv4 options", outer(4, with_options())),
    ("destination options", outer(60, b"\x04\0" + bytes(6) + INNER + UDP)),
    ("hop-by-hop and destination options", outer(0, b"\x3c\0" + bytes(6) + b"\x04\1" + bytes(14) + INNER + UDP)),
    ("a routing header that is done", outer(43, b"\x04\0\0\0" + bytes(4) + INNER + UDP)),
    ("an atomic fragment", outer(44, b"\x04\0\0\0" + bytes(4) + INNER + UDP)),
    ("no UDP checksum", outer(4, inner(udp(len(UDP), check=0)))),
    ("Don't Fragment", outer(4, inner(at_6=0x40))),
]  # fmt: skip


@pytest.mark.parametrize("what, packet", TAKEN, ids=[row[0] for row in TAKEN])
def test_taken_apart(what: str, packet: bytes) -> None:
    assert framing.strip(packet) == framing.strip_any(packet) == REQUEST


REFUSED = [
    ("nothing", b""),
    ("IPv4 outside", b"\x45" + PACKET[1:]),
    ("not IPv4 inside", outer(41, INNER + UDP)),
    ("no next header", outer(59, INNER + UDP)),
    ("a fragment outside", outer(44, b"\x04\0\0\x01" + bytes(4) + INNER + UDP)),
    ("a routing header that is not done", outer(43, b"\x04\0\0\1" + bytes(4) + INNER + UDP)),
    ("extension headers up to the end", outer(60, b"\x3c\0" + bytes(6))),
    ("an extension header past the end", outer(60, b"\x04\xff" + bytes(6) + INNER + UDP)),
    ("the outer length past the end", PACKET[:-1]),
    ("version 6 inside", outer(4, b"\x65" + INNER[1:] + UDP)),
    ("a header of 16 octets", outer(4, b"\x44" + INNER[1:] + UDP)),
    ("a header past the packet", outer(4, with_header_checksum(b"\x4f" + INNER[1:] + UDP))),
    ("the inner length past the end", outer(4, inner(at_2=1))),
    ("an inner length below the header", outer(4, inner(at_3=19))),
    ("a header checksum that is wrong", outer(4, INNER[:10] + b"\0\0" + INNER[12:] + UDP)),
    ("TCP", outer(4, inner(at_9=6))),
    ("a first fragment", outer(4, inner(at_6=0x20))),
    ("a later fragment", outer(4, inner(at_7=1))),
    ("a UDP length of 7", outer(4, inner(udp(7, check=0)))),
    ("a UDP length past the packet", outer(4, inner(udp(len(UDP) + 1, check=0)))),
    ("a UDP checksum that is wrong", outer(4, inner(udp(len(UDP), check=1)))),
]


@pytest.mark.parametrize("what, packet", REFUSED, ids=[row[0] for row in REFUSED])
def test_refused(what: str, packet: bytes) -> None:
    assert framing.strip(packet) is None
    assert framing.strip_any(packet) is None


@pytest.mark.parametrize("packet", [packet for _, packet in TAKEN], ids=[row[0] for row in TAKEN])
def test_cut_anywhere(packet: bytes) -> None:
    for length in range(len(packet)):
        found = framing.strip(packet[:length])
        assert found is None or found == REQUEST


payloads, ports = st.binary(max_size=80), st.integers(0, 0xFFFF)
addresses6, addresses4 = st.binary(min_size=16, max_size=16), st.binary(min_size=4, max_size=4)


@given(payloads, addresses6, addresses6, addresses4, ports, addresses4, ports, ports)
def test_both_ways(
    payload: bytes, br: bytes, tunnel: bytes, source: bytes, sport: int, destination: bytes, dport: int, ident: int
) -> None:
    packet = framing.wrap(payload, br, tunnel, source, sport, destination, dport, ident)
    assert checksum(packet[40:60]) == 0
    size = len(packet) - 60
    assert checksum(source + destination + b"\0\x11" + size.to_bytes(2) + packet[60:]) == 0
    assert packet[66:68] != b"\0\0"  # would say that there is none
    assert framing.strip(packet) == Punted(br, tunnel, source, sport, destination, dport, payload)


def test_an_answer_goes_back() -> None:
    answer = framing.strip(framing.reply(REQUEST, b"what is answered"))
    assert answer == Punted(BR, B4, SERVER, 5351, CLIENT, 49152, b"what is answered")


@given(st.integers(0, 100), st.binary(max_size=60))
def test_any_octets_are_taken_apart_alike_or_refused(kept: int, rest: bytes) -> None:
    packet = PACKET[:kept] + rest
    found = framing.strip(packet)
    assert found == framing.strip_any(packet)
