"""Rows about the TCP MSS clamp: both directions, checksums, and all that only looks like a SYN."""

from __future__ import annotations

import struct

import pytest

from tests.frames import GRE, MF, SCTP, TCP, UDP, edit, ethernet, hop, ipv4, payload4, tcp
from tests.lane_router import router
from tests.softwires import B1, B3, INET, WHOLE, changed, from_b4, inner_of
from tests.vector_config import settings

CLAMP = changed(settings(), {"tcp_mss": 1200})
SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10


def _mss(value: int) -> bytes:
    return struct.pack("!BBH", 2, 4, value)


SACK_OK, STAMPS, SCALE, NOP = b"\4\2", b"\x08\x0a" + bytes(8), b"\3\3\7", b"\1"
CLAMPED = {
    "alone": (_mss(1460), _mss(1200)),
    "by one": (_mss(1201), _mss(1200)),
    "65535": (_mss(65535), _mss(1200)),
    "as Linux sends it": (
        _mss(1460) + SACK_OK + STAMPS + NOP + SCALE,
        _mss(1200) + SACK_OK + STAMPS + NOP + SCALE,
    ),
    "behind other options": (SACK_OK + NOP + NOP + _mss(1460), SACK_OK + NOP + NOP + _mss(1200)),
    "at an odd octet": (NOP + _mss(1460) + NOP * 3, NOP + _mss(1200) + NOP * 3),
    "at an odd octet behind the scale": (SCALE + _mss(1461) + NOP, SCALE + _mss(1200) + NOP),
}
UNTOUCHED = {
    "small enough": (SYN, _mss(1200)),
    "smaller": (SYN, _mss(536)),
    "no option": (SYN, b""),
    "no SYN": (ACK, _mss(1460)),
    "a reset": (0x04, _mss(1460)),
    "behind the end of options": (SYN, b"\0\0\0\0" + _mss(1460)),
    "of length 3": (SYN, b"\2\3\5\xb4" + NOP * 4),
    "of length 0": (SYN, b"\2\0\5\xb4" + _mss(1460)),
    "cut by the header's end": (SYN, NOP * 2 + b"\2\4"),
}


def _flow(options: bytes, flags: int, src: str, dst: str, ports: tuple[int, int], **ip: int) -> bytes:
    return tcp(src, dst, *ports, flags=flags, options=options, data=b"hello", **ip)


def _both_ways(options: bytes, flags: int) -> list[tuple[str, bytes, bytes]]:
    """(side, packet as it comes, IPv4 packet) of one segment in each direction."""
    incoming = _flow(options, flags, INET, B1.ipv4, (443, 1500))
    outgoing = _flow(options, flags, B1.ipv4, INET, (1500, 443))
    return [("v4", incoming, incoming), ("v6", from_b4(outgoing, B1), outgoing)]


@pytest.mark.parametrize("before, after", CLAMPED.values(), ids=CLAMPED.keys())
@pytest.mark.parametrize("flags", [SYN, SYN_ACK], ids=["SYN", "SYN-ACK"])
def test_mss_is_clamped_both_ways_with_a_right_checksum(before: bytes, after: bytes, flags: int) -> None:
    for (side, packet, _), (_, _, wanted) in zip(_both_ways(before, flags), _both_ways(after, flags), strict=True):
        with router(CLAMP) as lane:
            assert inner_of(lane.send(side, ethernet(side, packet))) == hop(wanted)
            assert lane.count("mss_clamped") == 1


@pytest.mark.parametrize("flags, options", UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_mss_is_left_alone(flags: int, options: bytes) -> None:
    for side, packet, wanted in _both_ways(options, flags):
        with router(CLAMP) as lane:
            assert inner_of(lane.send(side, ethernet(side, packet))) == hop(wanted)
            assert lane.count("mss_clamped") == 0


def test_mss_without_a_clamp_is_left_alone() -> None:
    for side, packet, wanted in _both_ways(_mss(1460), SYN):
        with router() as lane:
            assert inner_of(lane.send(side, ethernet(side, packet))) == hop(wanted)


def test_mss_behind_ipv4_options() -> None:
    syn = tcp(INET, B1.ipv4, 443, 1500, options=_mss(1460))
    clamped = tcp(INET, B1.ipv4, 443, 1500, options=_mss(1200))
    with router(CLAMP) as lane:
        packet = ipv4(INET, B1.ipv4, TCP, payload4(syn), options=NOP * 8)
        seen = inner_of(lane.send("v4", ethernet("v4", packet)))
        assert seen == hop(ipv4(INET, B1.ipv4, TCP, payload4(clamped), options=NOP * 8))


def test_mss_of_hairpinned_traffic_is_clamped_once() -> None:
    with router(CLAMP) as lane:
        syn = _flow(_mss(1460), SYN, B1.ipv4, B3.ipv4, (1500, 1600))
        wanted = _flow(_mss(1200), SYN, B1.ipv4, B3.ipv4, (1500, 1600))
        assert inner_of(lane.send("v6", ethernet("v6", from_b4(syn, B1)))) == hop(wanted)
        assert lane.count("mss_clamped") == 1


@pytest.mark.parametrize("wrong", [0x0000, 0xFFFF, 0xBEEF])
def test_a_wrong_tcp_checksum_stays_wrong(wrong: int) -> None:
    """The update is incremental (RFC 1624): what the clamp changes is accounted for, nothing is repaired."""
    right, clamped = (_flow(_mss(n), SYN, INET, B1.ipv4, (443, 1500)) for n in (1460, 1200))
    with router(CLAMP) as lane:
        seen = inner_of(lane.send("v4", ethernet("v4", edit(right, 36, struct.pack("!H", wrong)))))
    (now,) = struct.unpack("!H", seen[36:38])
    before, after = (struct.unpack("!H", packet[36:38])[0] for packet in (right, clamped))
    assert (now - wrong) % 0xFFFF == (after - before) % 0xFFFF
    assert seen == edit(hop(clamped), 36, seen[36:38])


def test_a_later_fragment_that_looks_like_a_syn_is_not_touched() -> None:
    syn = payload4(_flow(_mss(1460), SYN, INET, B1.ipv4, (443, 1500)))
    first = ipv4(INET, B1.ipv4, TCP, payload4(_flow(b"", ACK, INET, B1.ipv4, (443, 1500)))[:24] + bytes(8), flags=MF)
    later = ipv4(INET, B1.ipv4, TCP, syn, offset=32)
    with router(CLAMP) as lane:
        lane.send("v4", ethernet("v4", first))
        assert inner_of(lane.send("v4", ethernet("v4", later))) == hop(later)
        upward = ipv4(WHOLE.ipv4, INET, TCP, syn, offset=32)
        assert inner_of(lane.send("v6", ethernet("v6", from_b4(upward, WHOLE)))) == hop(upward)
        assert lane.count("mss_clamped") == 0


def test_a_first_fragment_that_is_a_syn_is_clamped() -> None:
    whole = tcp(INET, B1.ipv4, 443, 1500, options=_mss(1460), data=bytes(40))
    wanted = tcp(INET, B1.ipv4, 443, 1500, options=_mss(1200), data=bytes(40))
    with router(CLAMP) as lane:
        first = ipv4(INET, B1.ipv4, TCP, payload4(whole)[:48], flags=MF)
        seen = inner_of(lane.send("v4", ethernet("v4", first)))
        assert seen == hop(ipv4(INET, B1.ipv4, TCP, payload4(wanted)[:48], flags=MF))


@pytest.mark.parametrize("protocol", [UDP, SCTP, GRE])
def test_other_protocols_are_not_touched(protocol: int) -> None:
    looks_like = payload4(_flow(_mss(1460), SYN, INET, WHOLE.ipv4, (443, 1500)))
    with router(CLAMP) as lane:
        packet = ipv4(INET, WHOLE.ipv4, protocol, looks_like)
        assert inner_of(lane.send("v4", ethernet("v4", packet))) == hop(packet)


@pytest.mark.parametrize("size", range(20, 28))
def test_a_syn_cut_anywhere_is_forwarded_as_it_is(size: int) -> None:
    """The data offset promises more than the packet holds."""
    segment = payload4(_flow(_mss(1460) * 2, SYN, INET, B1.ipv4, (443, 1500)))[:size]
    packet = ipv4(INET, B1.ipv4, TCP, segment)
    with router(CLAMP) as lane:
        assert inner_of(lane.send("v4", ethernet("v4", packet))) == hop(packet)
