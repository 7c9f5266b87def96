"""Rows about the outer header: flow labels, the encapsulation limit, fragments; and the inner checksum's corner."""

from __future__ import annotations

import struct

import pytest

from tests.compare import Comparison, Expected
from tests.frames import (
    DEST_OPTIONS,
    DF,
    GRE,
    SCTP,
    Seen,
    checksum,
    echo4,
    edit,
    ethernet,
    fragments6,
    hop,
    ipv4,
    sent,
    tcp,
    udp,
)
from tests.lane_router import router
from tests.softwires import B1, B2, B3, INET, INET2, TUNNEL4, WHOLE, changed, check, encap, from_b4, inner_of, refused4
from tests.vector_config import Binding, settings

# ---------------------------------------------------------------- flow labels (RFC 6438)
HASHED = changed(settings(), {"flow_label": "hash"})


def _label(seen: list[Seen]) -> int:
    ((_, frame),) = seen
    return int(struct.unpack("!I", frame[14:18])[0]) & 0xFFFFF


def test_flows_have_their_own_labels_and_keep_them() -> None:
    with router(HASHED) as lane:
        labels = {}
        for port in range(1024, 1280):
            first = _label(lane.send("v4", ethernet("v4", udp(INET, B1.ipv4, 53, port))))
            again = _label(lane.send("v4", ethernet("v4", udp(INET, B1.ipv4, 53, port, size=700, ttl=9, ident=port))))
            assert first == again != 0
            labels[port] = first
        assert len(set(labels.values())) > 250  # of 256 drawn out of 2^20
        top = [label >> 12 for label in labels.values()]
        assert len(set(top)) > 100  # of 256 possible: spread over the whole field


def test_every_part_of_the_five_tuple_counts() -> None:
    flows = [
        udp(INET, B1.ipv4, 53, 1500),
        udp(INET2, B1.ipv4, 53, 1500),
        udp(INET, B3.ipv4, 53, 1500),
        udp(INET, B1.ipv4, 54, 1500),
        udp(INET, B1.ipv4, 53, 1501),
        tcp(INET, B1.ipv4, 53, 1500),
        ipv4(INET, B1.ipv4, SCTP, struct.pack("!HHII", 53, 1500, 1, 0)),
    ]
    with router(HASHED) as lane:
        labels = [_label(lane.send("v4", ethernet("v4", packet))) for packet in flows]
        assert len(set(labels)) == len(flows)


def test_packets_without_ports_have_labels_too() -> None:
    with router(HASHED) as lane:
        gre = [_label(lane.send("v4", ethernet("v4", ipv4(INET, WHOLE.ipv4, GRE, bytes([n] * 8))))) for n in (1, 2)]
        pings = [_label(lane.send("v4", ethernet("v4", echo4(INET, B1.ipv4, 1500, size=n)))) for n in (8, 80)]
        assert gre[0] == gre[1] != 0
        assert pings[0] == pings[1] != 0


def test_outer_fragments_share_the_label() -> None:
    large = changed(HASHED, {"v6.mtu": 1280})
    with router(large) as lane:
        seen = lane.send("v4", ethernet("v4", udp(INET, B1.ipv4, 53, 1500, size=1400)))
        assert len(seen) == 2
        assert _label(seen[:1]) == _label(seen[1:]) != 0


def test_hairpinned_flows_have_labels_and_the_received_label_does_not_matter() -> None:
    tunnel = from_b4(udp(B1.ipv4, B3.ipv4, 1500, 1600), B1)
    with router(HASHED) as lane:
        labels = [_label(lane.send("v6", ethernet("v6", edit(tunnel, 2, bits)))) for bits in (b"\0\0", b"\x12\x34")]
        assert labels[0] == labels[1] != 0


def test_a_fixed_label() -> None:
    with router(changed(settings(), {"flow_label": 0xABCDE})) as lane:
        for port in (1024, 1025):
            assert _label(lane.send("v4", ethernet("v4", udp(INET, B1.ipv4, 53, port)))) == 0xABCDE


def test_labels_are_no_function_of_the_address_alone() -> None:
    with router(HASHED) as lane:
        labels = {_label(lane.send("v4", ethernet("v4", udp(INET, WHOLE.ipv4, 53, port)))) for port in range(64)}
        assert len(labels) > 60


# ---------------------------------------------------------------- encapsulation limit (DP-060)
def _limit(value: int) -> bytes:
    return bytes([4, 0, 4, 1, value, 1, 1, 0])


def _limited(inner: bytes, to: Binding, value: int, rule: str = "forwarded") -> Expected:
    return Expected("v6", sent("v6", encap(inner, to, ext=_limit(value), first=DEST_OPTIONS))[1], rule)


@pytest.mark.parametrize("value", [0, 1, 4, 255])
def test_the_configured_limit_is_written_both_for_traffic_in_and_hairpinned(value: int) -> None:
    incoming, across = udp(INET, B1.ipv4, 53, 1500), udp(B1.ipv4, B3.ipv4, 1500, 1600)
    with router(settings({"encap_limit": value})) as lane:
        check(lane, "v4", [ethernet("v4", incoming)], [_limited(hop(incoming), B1, value)], {"encap": 1})
        tunnel = from_b4(across, B1, ext=_limit(3), first=DEST_OPTIONS)
        check(lane, "v6", [ethernet("v6", tunnel)], [_limited(hop(across), B3, value)], {"hairpin": 1})


def test_the_limit_costs_eight_octets() -> None:
    options = {"encap_limit": 4, "v6_path_mtu": 1500}
    fits, large = (udp(INET, B1.ipv4, 53, 1500, size=n - 28, flags=DF) for n in (1452, 1453))
    with router(settings(options)) as lane:
        check(lane, "v4", [ethernet("v4", fits)], [_limited(hop(fits), B1, 4)], {"encap": 1})
        check(lane, "v4", [ethernet("v4", large)], [refused4(large, 3, 4, 1452)], {"drop_too_big_df": 1})


def test_an_answer_to_a_ping_of_192_0_0_1_has_the_limit_too() -> None:
    ping = echo4(B1.ipv4, TUNNEL4, 1500)
    reply = echo4(TUNNEL4, B1.ipv4, 1500, reply=True, ident=0, flags=DF)
    want = [_limited(reply, B1, 4, "icmp-echo-reply")]
    with router(settings({"encap_limit": 4})) as lane:
        check(lane, "v6", [ethernet("v6", from_b4(ping, B1))], want, {"answered_echo_v4": 1})


# ---------------------------------------------------------------- outer fragmentation
@pytest.mark.parametrize("length", [1241, 1248, 1256, 1500, 2472, 2473, 4000, 8960])
def test_outer_fragments_are_right_for_every_size(length: int) -> None:
    options = {"v6_path_mtu": 1280, "v4_mtu": 9000}
    packet = udp(INET, B1.ipv4, 53, 1500, size=length - 28)
    want = [Expected("v6", sent("v6", f)[1], "fragment-v6") for f in fragments6(encap(hop(packet), B1), 1280, 1)]
    with router(settings(options)) as lane:
        seen = lane.send("v4", ethernet("v4", packet))
        assert Comparison(1280).step(want, seen) == []
        assert len(seen) == len(want)  # as few as fit
        assert lane.moved()["fragments_v6_made"] == len(want)


def test_identifications_do_not_repeat() -> None:
    """DP-164."""
    packet = ethernet("v4", udp(INET, B1.ipv4, 53, 1500, size=1300))
    other = ethernet("v4", udp(INET, B2.ipv4, 53, 2500, size=1300))
    with router(settings({"v6_path_mtu": 1280})) as lane:
        seen = [frame for _ in range(300) for _, frame in lane.burst("v4", [packet, other])]
        idents = [frame[58:62] for frame in seen if frame[56:58][1] & 1]  # the first fragments
        assert len(idents) == 600
        assert len(set(idents)) == 600


def test_a_checksum_that_becomes_zero_or_all_ones_is_right() -> None:
    """RFC 1624: TTL 64 to 63 for all values of the header checksum that are near the wrap."""
    with router() as lane:
        for ident in range(0, 65536, 97):
            packet = udp(INET, B1.ipv4, 53, 1500, ident=ident)
            inner = inner_of(lane.send("v4", ethernet("v4", packet)))
            assert checksum(inner[:20]) == 0
            assert inner == hop(packet)
