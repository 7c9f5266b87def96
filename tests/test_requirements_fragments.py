"""Requirements on fragments that need many packets or full stores: identifications, overlaps, shares of the memory."""

from __future__ import annotations

import struct

from tests.frames import (
    FRAGMENT,
    IPIP,
    ethernet,
    fragment_header,
    fragments4,
    fragments6,
    udp,
)
from tests.lane_router import Router, router
from tests.softwires import (
    B1,
    B2,
    B3,
    INET,
    changed,
    check,
    down,
    from_b4,
    up,
)
from tests.vector_config import Binding, settings

OUT = udp(B1.ipv4, INET, 1500, 53)
BIG = udp(B1.ipv4, INET, 1500, 53, size=1452)
BURST = 64


# ---------------------------------------------------------------- outer fragments
def test_no_identification_repeats_in_200_000_fragmented_packets() -> None:
    """DP-164. They are drawn from one permutation of 2^32 numbers, so none repeats before all are used."""
    burst = [ethernet("v4", udp(INET, B1.ipv4, 53, 1500, size=1213))] * BURST
    seen: set[bytes] = set()
    steps = set()
    last = 0
    with router(settings({"v6_path_mtu": 1280}), mbufs=512) as lane:
        for _ in range(0, 200_000, BURST):
            firsts = [frame[58:62] for _, frame in lane.burst("v4", burst) if frame[57] & 1]
            assert len(firsts) == BURST
            seen.update(firsts)
            for ident in (int.from_bytes(first) for first in firsts):
                steps.add(ident - last)
                last = ident
    assert len(seen) == 200_000
    assert len(steps) > 199_000  # what comes next cannot be told from what came


def _outer(packet: bytes, by: Binding, ident: int, mtu: int = 1280, src: str | None = None) -> list[bytes]:
    return [ethernet("v6", f) for f in fragments6(from_b4(packet, by, src=src), mtu, ident)]


def test_fragments_of_an_overlapped_packet_are_dropped_until_it_has_timed_out() -> None:
    """DP-167: all that is still to come, in silence; then the identification may be used again."""
    first, last = _outer(BIG, B1, 7)
    head = from_b4(b"", B1)
    body = fragment_header(IPIP, 8, True, 7) + bytes(24)
    overlap = ethernet("v6", head[:4] + struct.pack("!HB", len(body), FRAGMENT) + head[7:40] + body)
    with router() as lane:
        assert lane.send("v6", first, overlap) == []
        for _ in range(20):
            lane.advance(2_900)
            assert lane.send("v6", first, last) == []
        assert lane.count("drop_fragment_v6_overlap") == 42
        assert lane.held() == 0
        lane.advance(2_100)
        lane.moved()
        check(lane, "v6", [first, last], [up(BIG)], {"decap": 1, "reassembled_fragment": 1})


def _prefix(n: int) -> str:
    return f"2001:db8:{n:x}::1"


STORE = {"max_packets": 40, "timeout_s": 60, "max_fragments": 64}


def test_fragment_memory_tells_before_it_is_full() -> None:
    """DP-173: once each time it comes above nine tenths."""
    with router(changed(settings(), {"reassembly": STORE})) as lane:
        lonely = [_outer(BIG, B1, n, src=_prefix(0x1000 + n))[0] for n in range(40)]
        lane.send("v6", *lonely[:36])
        assert lane.count("reassembly_pressure") == 0
        lane.send("v6", *lonely[36:])
        assert (lane.count("reassembly_pressure"), lane.count("drop_fragment_v6_limit")) == (1, 0)
        lane.advance(60_000)
        lane.send("v6", *lonely)
        assert lane.count("reassembly_pressure") == 2


def test_the_fragment_quota_is_one_for_all_addresses_of_a_subscriber_prefix() -> None:
    """DP-185, OP-003: a subscriber may hold an eighth, 5 of 40, however many of its /56's addresses it uses."""
    with router(changed(settings(), {"reassembly": STORE})) as lane:
        walk = [_outer(BIG, B1, n, src=f"2001:db8:dead:{n:x}::{n:x}")[0] for n in range(20)]
        lane.send("v6", *walk)
        assert (lane.count("held_fragment_v6"), lane.count("drop_fragment_v6_limit")) == (5, 15)
    wide = changed(settings(), {"reassembly": STORE, "subscriber_mask": 64})
    with router(wide) as lane:
        lane.send("v6", *walk)
        assert lane.count("held_fragment_v6") == 20


def _little(n: int, by: Binding) -> list[bytes]:
    """32 fragments of one packet; the last is missing."""
    head = from_b4(b"", by)
    out = []
    for part in range(32):
        body = fragment_header(IPIP, part * 24, True, n) + BIG[part * 24 : part * 24 + 24]
        out.append(ethernet("v6", head[:4] + struct.pack("!HB", len(body), FRAGMENT) + head[7:40] + body))
    return out


def test_many_fragments_of_few_packets_of_one_b4_do_not_hurt_another() -> None:
    """DP-185: packet buffers are the memory; a share of the packets alone does not share them out."""
    other = udp(B2.ipv4, INET, 2500, 53, size=1452)
    limits = {"max_packets": 64, "timeout_s": 60, "max_fragments": 64}
    with router(changed(settings(), {"reassembly": limits}), mbufs=1024) as lane:
        for n in range(8):
            lane.send("v6", *_little(n, B1))
        lane.moved()
        assert [frame for _, frame in lane.send("v6", *_outer(other, B2, 1))] == [up(other).frame]
        assert [frame for _, frame in lane.send("v6", ethernet("v6", from_b4(OUT, B1)))] == [up(OUT).frame]


# ---------------------------------------------------------------- inner fragments
def _later(src: str, dst: str, ident: int, n: int) -> list[bytes]:
    return [ethernet("v4", udp(src, dst, 1, 2, ident=ident, offset=800 + 64 * i)) for i in range(n)]


OTHER_IN = fragments4(udp(INET, B3.ipv4, 53, 1600, size=3000, ident=77), 1500)


def _out_of_order(lane: Router) -> list[bytes]:
    seen = lane.send("v4", ethernet("v4", OTHER_IN[1]), ethernet("v4", OTHER_IN[0]), ethernet("v4", OTHER_IN[2]))
    return [frame for _, frame in seen]


IN_ORDER = [down(OTHER_IN[i], B3).frame for i in (0, 1, 2)]


def test_many_fragments_of_few_datagrams_of_one_source_do_not_hurt_another() -> None:
    """DP-185: held frames are the memory of virtual reassembly."""
    limits = {"max_packets": 64, "timeout_s": 60, "max_fragments": 64}
    with router(changed(settings(), {"reassembly": limits}), mbufs=1024) as lane:
        for ident in range(8):
            lane.send("v4", *_later("198.51.100.66", B1.ipv4, ident, 40))
        assert _out_of_order(lane) == IN_ORDER


def test_a_flood_from_one_b4_does_not_hurt_the_inner_fragments_of_another() -> None:
    """DP-185: later fragments of 2000 packets through one softwire."""
    limits = {"max_packets": 64, "timeout_s": 60, "max_fragments": 64}
    pieces = fragments4(udp(B2.ipv4, INET, 2500, 53, size=3000, ident=5), 1460)
    with router(changed(settings(), {"reassembly": limits}), mbufs=1024) as lane:
        for ident in range(2000):
            lane.send("v6", ethernet("v6", from_b4(udp(B1.ipv4, INET, 1, 2, ident=ident, offset=800), B1)))
        assert lane.count("drop_fragment_v4_limit") > 1000
        frames = [ethernet("v6", from_b4(pieces[i], B2)) for i in (1, 0, 2)]
        assert [frame for _, frame in lane.send("v6", *frames)] == [up(pieces[i]).frame for i in (0, 1, 2)]
        assert [frame for _, frame in lane.send("v6", ethernet("v6", from_b4(OUT, B1)))] == [up(OUT).frame]


def test_forged_sources_do_not_use_up_the_room_of_other_destinations() -> None:
    """DP-185: from the internet the source says nothing; the share is the subscriber's who is attacked."""
    limits = {"max_packets": 64, "timeout_s": 60, "max_fragments": 64}
    with router(changed(settings(), {"reassembly": limits}), mbufs=1024) as lane:
        for n in range(1000):
            lane.send("v4", *_later(f"198.18.{n >> 8}.{n & 255}", B1.ipv4, n, 1))
        assert _out_of_order(lane) == IN_ORDER
