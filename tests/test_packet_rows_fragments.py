"""Rows about fragments: outer reassembly, inner ones steered by the first one's port, and what floods may do."""

from __future__ import annotations

import struct
from itertools import permutations

import pytest

from tests.compare import Comparison, Expected, faults_of, piece4, reassemble
from tests.frames import (
    FRAGMENT,
    IPIP,
    MF,
    TCP,
    UDP,
    UDPLITE,
    dissect,
    edit,
    edit4,
    ethernet,
    fragment_header,
    fragments4,
    fragments6,
    hop,
    ipv4,
    sent,
    udp,
)
from tests.lane_router import router
from tests.softwires import B1, B2, INET, INET2, WHOLE, changed, check, down, from_b4, refused4, refused6, up
from tests.vector_config import Binding, settings

IN_ID, OUT_ID = 0x77, 0xABCDEF01
BIG_OUT = udp(B1.ipv4, INET, 1500, 53, size=1452)


def _outer(packet: bytes, by: Binding = B1, mtu: int = 1280, ident: int = OUT_ID) -> list[bytes]:
    return [ethernet("v6", f) for f in fragments6(from_b4(packet, by), mtu, ident)]


def _parts(data: bytes, cuts: list[tuple[int, int]], by: Binding = B1, ident: int = OUT_ID) -> list[bytes]:
    """Fragments of any extent: (start, end) in the fragmentable data."""
    head = from_b4(b"", by)
    out = []
    for start, end in cuts:
        part = fragment_header(IPIP, start, end < len(data), ident) + data[start:end]
        out.append(ethernet("v6", head[:4] + struct.pack("!HB", len(part), FRAGMENT) + head[7:40] + part))
    return out


# ---------------------------------------------------------------- outer reassembly
THREE = _parts(BIG_OUT, [(0, 496), (496, 1000), (1000, len(BIG_OUT))])


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=lambda order: "".join(map(str, order)))
def test_outer_fragments_in_every_order(order: tuple[int, ...]) -> None:
    with router() as lane:
        frames = [THREE[i] for i in order]
        check(lane, "v6", frames, [up(BIG_OUT)], {"decap": 1, "reassembled_fragment": 2})
        assert lane.count("reassembled") == 1


def test_outer_fragments_in_one_burst_and_among_others() -> None:
    whole = ethernet("v6", from_b4(udp(B1.ipv4, INET, 1501, 53), B1))
    with router() as lane:
        seen = lane.burst("v6", [THREE[2], whole, THREE[0], whole, THREE[1]])
        assert sorted(frame for _, frame in seen) == sorted(
            [up(BIG_OUT).frame, *[sent("v4", hop(udp(B1.ipv4, INET, 1501, 53)))[1]] * 2]
        )


def test_two_b4s_may_use_the_same_identification() -> None:
    other = udp(B2.ipv4, INET, 2500, 53, size=1452)
    with router() as lane:
        one, two = _outer(BIG_OUT), _outer(other, B2)
        check(
            lane,
            "v6",
            [one[0], two[0], two[1], one[1]],
            [up(other), up(BIG_OUT)],
            {"decap": 2, "reassembled_fragment": 2},
        )


@pytest.mark.parametrize(
    "cut", [(488, 1000), (0, 24), (992, 1008), (0, 1472), (8, 16), (496, 504)], ids=lambda cut: f"{cut[0]}-{cut[1]}"
)
def test_any_overlap_condemns_all_of_the_packet(cut: tuple[int, int]) -> None:
    """RFC 5722: what came, what comes, in silence; the next packet of another identification is not concerned."""
    with router() as lane:
        lane.send("v6", *THREE[:2])
        assert lane.send("v6", *_parts(BIG_OUT, [cut]), THREE[2]) == []
        assert lane.ways() == {"drop_fragment_v6_overlap": 4}
        assert lane.send("v6", THREE[0]) == []
        lane.ways()
        fresh = _parts(BIG_OUT, [(0, 496), (496, len(BIG_OUT))], ident=OUT_ID + 1)
        check(lane, "v6", fresh, [up(BIG_OUT)], {"decap": 1, "reassembled_fragment": 1})


def test_a_second_last_fragment_that_ends_elsewhere_never_forwards() -> None:
    with router() as lane:
        longer = _parts(BIG_OUT + bytes(16), [(1000, len(BIG_OUT) + 16)])
        seen = lane.send("v6", THREE[0], THREE[2], *longer, THREE[1])
        assert seen == []


def test_data_beyond_the_last_fragment_never_forwards() -> None:
    with router() as lane:
        beyond = _parts(BIG_OUT + bytes(64), [(1488, 1504)])
        assert lane.send("v6", THREE[0], *beyond, THREE[2], THREE[1]) == []


@pytest.mark.parametrize("first", [True, False], ids=["first-came", "first-missing"])
def test_the_timer_runs_from_the_first_arrival(first: bool) -> None:
    with router() as lane:
        lane.send("v6", THREE[0] if first else THREE[1])
        lane.advance(59_900)
        assert lane.send("v6", THREE[2]) == []
        assert lane.held() == 2
        seen = lane.advance(150)
        assert lane.held() == 0
        errors = [refused6(dissect(THREE[0]).payload, 3, 1)] if first else []
        assert Comparison().step(errors, seen) == []
        assert lane.count("drop_fragment_v6_timeout") == 2
        assert lane.send("v6", THREE[1]) == []  # a new, lonely start


def test_more_fragments_than_allowed_are_dropped() -> None:
    limits = {"max_packets": 100, "timeout_s": 60, "max_fragments": 4}
    five = _parts(BIG_OUT, [(0, 256), (256, 512), (512, 768), (768, 1024), (1024, len(BIG_OUT))])
    four = _parts(BIG_OUT, [(0, 256), (256, 512), (512, 768), (768, len(BIG_OUT))], ident=9)
    with router(changed(settings(), {"reassembly": limits})) as lane:
        assert lane.send("v6", *five) == []
        assert lane.count("drop_fragment_v6_limit") >= 1
        lane.moved()
        check(lane, "v6", four, [up(BIG_OUT)], {"decap": 1, "reassembled_fragment": 3})


def test_max_fragments_1_means_no_fragments() -> None:
    limits = {"max_packets": 100, "timeout_s": 60, "max_fragments": 1}
    with router(changed(settings(), {"reassembly": limits})) as lane:
        check(lane, "v6", THREE, [], {"drop_fragment_v6_limit": 3})
        atomic = _parts(BIG_OUT, [(0, len(BIG_OUT))])
        check(lane, "v6", atomic, [up(BIG_OUT)], {"decap": 1})


def test_sixty_four_fragments() -> None:
    packet = udp(B1.ipv4, INET, 1500, 53, size=1452)
    size = len(packet) // 64 // 8 * 8 + 8
    cuts = [(at, min(at + size, len(packet))) for at in range(0, len(packet), size)]
    frames = _parts(packet, cuts)
    with router() as lane:
        check(lane, "v6", frames[::-1], [up(packet)], {"decap": 1, "reassembled_fragment": len(frames) - 1})


def test_a_reassembled_packet_may_be_larger_than_any_link() -> None:
    """DP-172: up to what IPv6 allows, and then it is an IPv4 packet of its size."""
    packet = udp(B1.ipv4, INET, 1500, 53, size=20000)
    cuts = [(at, min(at + 1408, len(packet))) for at in range(0, len(packet), 1408)]
    with router() as lane:
        seen = lane.send("v6", *_parts(packet, cuts))
        pieces = [piece for piece in (piece4(frame) for _, frame in seen) if piece]
        data, faults = reassemble(pieces, 1500)
        assert (data, faults) == (packet[20:], [])


@pytest.mark.parametrize("second, result", [(0x00, None), (0x03, 0x03), (0x02, 0x02)], ids=["Not-ECT", "CE", "ECT"])
def test_ecn_of_fragments_is_combined(second: int, result: int | None) -> None:
    """RFC 3168 section 5.3: the first is CE here, or ECT(0) with a CE behind it."""
    packet = edit4(BIG_OUT, 1, b"\2")
    one, two = (dissect(frame).payload for frame in _outer(packet))
    first = 0x02 if result else 0x03
    one, two = ipv6_class(one, first), ipv6_class(two, second)
    with router() as lane:
        seen = lane.send("v6", ethernet("v6", one), ethernet("v6", two))
        if result is None:
            assert seen == []
            assert lane.count("drop_fragment_v6_ecn") == 2
        else:
            assert [frame[15] for _, frame in seen] == [result]


def ipv6_class(packet: bytes, tc: int) -> bytes:
    return edit(packet, 0, struct.pack("!H", 0x6000 | tc << 4))


# ---------------------------------------------------------------- floods of outer fragments (DP-185)
def test_a_flood_of_one_subscriber_does_not_hurt_another() -> None:
    """A lonely fragment of each of 2000 packets of one B4; the fragments of another are put together all the while."""
    limits = {"max_packets": 64, "timeout_s": 60, "max_fragments": 64}
    other = udp(B2.ipv4, INET, 2500, 53, size=1452)
    with router(changed(settings(), {"reassembly": limits}), mbufs=1024) as lane:
        lane.send("v6", _outer(other, B2)[0])
        for number in range(2000):
            lane.send("v6", _outer(BIG_OUT, B1, ident=number)[1])
            assert lane.lane.mbufs_in_use() <= 600
        assert lane.count("drop_fragment_v6_limit") > 1000
        lane.moved()
        assert [frame for _, frame in lane.send("v6", _outer(other, B2)[1])] == [up(other).frame]
        whole = udp(B1.ipv4, INET, 1501, 53)
        assert [frame for _, frame in lane.send("v6", ethernet("v6", from_b4(whole, B1)))] == [up(whole).frame]


# ---------------------------------------------------------------- inner fragments (virtual reassembly)
INCOMING = fragments4(udp(INET, B1.ipv4, 53, 1500, size=3000, ident=IN_ID), 1500)
OUTGOING = fragments4(udp(B1.ipv4, INET, 1500, 53, size=3000, ident=IN_ID), 1460)


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=lambda order: "".join(map(str, order)))
@pytest.mark.parametrize("upstream", [False, True], ids=["in", "out"])
def test_inner_fragments_in_every_order(order: tuple[int, ...], upstream: bool) -> None:
    """The first one leaves first, then those that waited in the order they came; sizes stay (DP-181)."""
    packets = OUTGOING if upstream else INCOMING
    before = order[: order.index(0)]
    leaving = [0, *before, *order[order.index(0) + 1 :]]
    out = [up(packets[i]) if upstream else down(packets[i], B1) for i in leaving]
    side, edge = ("v6", "decap") if upstream else ("v4", "encap")
    frames = [ethernet(side, from_b4(packets[i], B1) if upstream else packets[i]) for i in order]
    with router() as lane:
        check(lane, side, frames, out, {edge: 3})


def test_inner_fragments_in_one_burst() -> None:
    with router() as lane:
        seen = lane.burst("v4", [ethernet("v4", INCOMING[i]) for i in (1, 0, 2)])
        assert sorted(frame for _, frame in seen) == sorted(down(packet, B1).frame for packet in INCOMING)
        assert lane.ways() == {"encap": 3}


def test_those_that_waited_go_with_a_first_fragment_that_is_refused() -> None:
    lost = fragments4(udp(INET, B1.ipv4, 53, 9999, size=3000, ident=IN_ID), 1500)
    with router() as lane:
        frames = [ethernet("v4", lost[i]) for i in (1, 2, 0)]
        check(lane, "v4", frames, [refused4(lost[0], 3, 1)], {"drop_no_binding": 1, "drop_fragment_v4_timeout": 2})
        check(lane, "v4", [frames[0]], [], {"drop_no_binding": 1})


def test_every_inner_fragment_is_validated() -> None:
    """A later fragment through the softwire of another B4 does not profit from the port that was seen there."""
    with router() as lane:
        check(lane, "v6", [ethernet("v6", from_b4(OUTGOING[0], B1))], [up(OUTGOING[0])], {"decap": 1})
        assert lane.send("v6", ethernet("v6", from_b4(OUTGOING[1], B2))) == []
        assert lane.held() == 1
        spoofed = fragments4(udp(B2.ipv4, INET, 2500, 53, size=3000, ident=5), 1460)
        frames = [ethernet("v6", from_b4(packet, B1)) for packet in spoofed]
        seen = lane.send("v6", *frames)
        assert all(dissect(frame).payload[40:42] == b"\x01\x05" for _, frame in seen)
        assert lane.count("drop_source_validation") == 3
        assert lane.count("decap") == 1


def test_held_fragments_are_dropped_after_two_seconds() -> None:
    with router() as lane:
        lane.send("v4", ethernet("v4", INCOMING[1]), ethernet("v4", INCOMING[2]))
        assert lane.advance(1900) == []
        assert lane.held() == 2
        assert lane.advance(200) == []
        assert lane.held() == 0
        assert lane.count("drop_fragment_v4_timeout") == 2


def test_a_flood_of_later_fragments_is_bounded() -> None:
    """DP-185: whole packets, and fragments of other subscribers, are not concerned."""
    whole = udp(INET, B1.ipv4, 53, 1500)
    with router(mbufs=1024) as lane:
        for number in range(3000):
            lane.send("v4", ethernet("v4", edit4(INCOMING[1], 4, struct.pack("!H", number))))
            assert lane.lane.mbufs_in_use() <= 900
        assert lane.count("drop_fragment_v4_limit") > 1000
        lane.moved()
        check(lane, "v4", [ethernet("v4", whole)], [down(whole, B1)], {"encap": 1})


def test_the_same_identification_of_other_addresses_or_protocols_is_another_packet() -> None:
    other = fragments4(udp(INET2, B1.ipv4, 53, 1501, size=3000, ident=IN_ID), 1500)
    udplite = fragments4(ipv4(INET, B1.ipv4, UDPLITE, struct.pack("!HH", 53, 9999) + bytes(3000), ident=IN_ID), 1500)
    with router() as lane:
        check(lane, "v4", [ethernet("v4", INCOMING[0])], [down(INCOMING[0], B1)], {"encap": 1})
        check(lane, "v4", [ethernet("v4", other[1])], [], {"held_fragment_v4": 1})
        check(lane, "v4", [ethernet("v4", udplite[1])], [], {"held_fragment_v4": 1})


def test_a_fragment_of_eight_octets_of_udp_is_enough() -> None:
    first = ipv4(INET, B1.ipv4, UDP, struct.pack("!HHHH", 53, 1500, 100, 0), flags=MF)
    later = ipv4(INET, B1.ipv4, UDP, bytes(92), offset=8)
    with router() as lane:
        frames = [ethernet("v4", first), ethernet("v4", later)]
        check(lane, "v4", frames, [down(first, B1), down(later, B1)], {"encap": 2})


TINY = {
    "first TCP fragment of 16 octets": (ipv4(INET, B1.ipv4, TCP, bytes(16), flags=MF), "fragment_v4_tiny"),
    "TCP at offset 8": (ipv4(INET, B1.ipv4, TCP, bytes(16), offset=8), "fragment_v4_tiny"),
    "TCP at offset 8 with more": (ipv4(INET, B1.ipv4, TCP, bytes(16), offset=8, flags=MF), "fragment_v4_tiny"),
}


@pytest.mark.parametrize("packet, why", TINY.values(), ids=TINY.keys())
def test_tiny_fragments(packet: bytes, why: str) -> None:
    with router() as lane:
        check(lane, "v4", [ethernet("v4", packet)], [], {f"drop_{why}": 1})


# ---------------------------------------------------------------- IPv4 fragments made here (DP-180)
@pytest.mark.parametrize("length", [1501, 1508, 2960, 2961, 4000, 8960])
def test_ipv4_fragments_are_right_for_every_size(length: int) -> None:
    packet = udp(WHOLE.ipv4, INET, 1, 2, size=length - 28, ident=0xBEEF)
    want = [Expected("v4", sent("v4", f)[1], "fragment-v4") for f in fragments4(hop(packet), 1500)]
    with router(settings({"v6_path_mtu": 9000})) as lane:
        seen = lane.send("v6", ethernet("v6", from_b4(packet, WHOLE)))
        assert Comparison().step(want, seen) == []
        assert len(seen) == len(want)


def test_a_fragment_that_is_too_large_is_fragmented_on() -> None:
    """Its offset is added, and more fragments stays set on the last piece."""
    middle = ipv4(WHOLE.ipv4, INET, UDP, bytes(i & 0xFF for i in range(2000)), offset=4000, flags=MF)
    with router(settings({"v6_path_mtu": 9000})) as lane:
        seen = lane.send("v6", ethernet("v6", from_b4(middle, WHOLE)))
        pieces = [piece for piece in (piece4(frame) for _, frame in seen) if piece]
        assert [(piece.start, piece.more) for piece in pieces] == [(4000, True), (5480, True)]
        assert b"".join(piece.data for piece in pieces) == middle[20:]
        assert [faults_of(frame) for _, frame in seen] == [[], []]


def test_options_with_the_copied_flag_go_into_every_fragment() -> None:
    """RFC 791 section 3.1: a source route has it, a record route has not."""
    route, record = b"\x83\x07\x04\xc6\x33\x64\x4d", b"\x07\x07\x04\0\0\0\0"
    options = {"opt_source_route": "ignore", "opt_record_route": "ignore", "v4_mtu": 600, "v6_path_mtu": 9000}
    packet = ipv4(WHOLE.ipv4, INET, UDP, bytes(2000), options=record + route + b"\1\1")
    with router(settings(options)) as lane:
        seen = lane.send("v6", ethernet("v6", from_b4(packet, WHOLE)))
        pieces = [piece for piece in (piece4(frame) for _, frame in seen) if piece]
        data, faults = reassemble(pieces, 600)
        assert (data, faults) == (bytes(2000), [])
        assert pieces[0].options == packet[20:36]
        assert all(route in piece.options for piece in pieces)
