"""A router gets other settings while it runs: what its next packet meets, and what neighbours hear of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.compare import Expected
from tests.frames import (
    OWN_MAC,
    PEER_MAC,
    arp,
    dissect,
    ethernet,
    hop,
    ip4,
    ip6,
    ipv6,
    is_announcement,
    own_error4,
    sent,
    udp,
)
from tests.lane_router import Router, on_side, router
from tests.softwires import B1, GATEWAY4, INET, ROUTER4, arp_frame, changed, down, encap, from_b4, up
from tests.vector_config import settings

BASE = settings()
IN, OUT = udp(INET, B1.ipv4, 53, 1024), udp(B1.ipv4, INET, 1500, 53)
UNBOUND = udp(INET, "203.0.113.99", 53, 80)
SPOOFED = from_b4(udp(B1.ipv4, INET, 9999, 53), B1)
NEW_MAC, NEW_GATEWAY = bytes.fromhex("020000000077"), "192.0.2.77"
BR3 = "2001:db8:aa::3"


def packets(lane: Router, side: str, packet: bytes, vlan: int | None = None) -> list[tuple[str, bytes]]:
    return [(where, frame) for where, frame in lane.send(side, ethernet(side, packet, vlan=vlan))
            if not is_announcement(where, frame)]  # fmt: skip


def to(expected: Expected) -> tuple[str, bytes]:
    return expected.side, expected.frame


LIVE = [  # what, changes, side, packet, what leaves of it before, what after
    ("hop limit", {"hop_limit": 9}, "v4", IN, down(IN, B1), sent("v6", encap(hop(IN), B1, hop_limit=9))),
    ("errors off", {"icmp.unbound_v4": False}, "v4", UNBOUND,
     Expected("v4", sent("v4", own_error4(UNBOUND, 3, 1, src=ROUTER4))[1], "icmpv4-error"), None),
    ("errors' source", {"v4.addresses": [(ip4("192.0.2.9"), 24)]}, "v4", UNBOUND,
     Expected("v4", sent("v4", own_error4(UNBOUND, 3, 1, src=ROUTER4))[1], "icmpv4-error"),
     sent("v4", own_error4(UNBOUND, 3, 1, src="192.0.2.9"))),
    ("ingress filter", {"v4.ingress_filter": "tcp"}, "v4", IN, down(IN, B1), None),
    ("egress filter", {"v6.egress_filter": "less 10"}, "v4", IN, down(IN, B1), None),
    ("BR addresses", {"br_addresses": [ip6(BR3)]}, "v6", from_b4(OUT, B1), up(OUT), None),
    ("fixed next hop", {"v6.next_hop_mac": NEW_MAC}, "v4", IN, down(IN, B1),
     sent("v6", encap(hop(IN), B1), dst=NEW_MAC)),
    ("VLAN", {"v6.vlan": 7}, "v4", IN, down(IN, B1), sent("v6", encap(hop(IN), B1), vlan=7)),
]  # fmt: skip


@pytest.mark.parametrize("what, changes, side, packet, before, after", LIVE, ids=[one[0] for one in LIVE])
def test_live(what: str, changes: dict[str, Any], side: str, packet: bytes, before: Any, after: Any) -> None:
    with router() as lane:
        assert packets(lane, side, packet) == [to(before)]
        lane.lane.apply(changed(BASE, changes))
        lane.advance(1)
        assert packets(lane, side, packet) == ([] if after is None else [after])
        lane.lane.apply(BASE)
        if "next_hop_mac" in next(iter(changes)):
            lane.lane.set_next_hop("v6", PEER_MAC["v6"])
        assert packets(lane, side, packet) == [to(before)]


def _asked(frames: list[tuple[str, bytes]]) -> list[bytes]:
    return [frame for frame in on_side(frames, "v4") if dissect(frame).kind == 0x0806]


def test_the_old_next_hop_serves_until_the_new_one_answers() -> None:
    with router() as lane:
        lane.lane.apply(changed(BASE, {"v4.next_hop": ip4(NEW_GATEWAY)}))
        asked = _asked(lane.advance(1))
        assert [dissect(frame).payload[24:28] for frame in asked] == [ip4(NEW_GATEWAY)]
        assert packets(lane, "v6", from_b4(OUT, B1)) == [to(up(OUT))]
        answer = arp_frame(2, NEW_MAC, NEW_GATEWAY, ROUTER4)
        lane.send("v4", answer)
        assert packets(lane, "v6", from_b4(OUT, B1)) == [sent("v4", hop(OUT), dst=NEW_MAC)]
        lane.send("v4", arp_frame(2, PEER_MAC["v4"], GATEWAY4, ROUTER4))  # the old one is nobody now
        assert packets(lane, "v6", from_b4(OUT, B1)) == [sent("v4", hop(OUT), dst=NEW_MAC)]


def test_a_new_next_hop_that_does_not_answer() -> None:
    """After a round without an answer packets wait, and are given up, as with any next hop."""
    with router() as lane:
        lane.lane.apply(changed(BASE, {"v4.next_hop": ip4(NEW_GATEWAY)}))
        for _ in range(3):
            assert packets(lane, "v6", from_b4(OUT, B1)) == [to(up(OUT))]
            assert len(_asked(lane.advance(1000))) == 1
        lane.advance(1000)
        lane.moved()
        packets(lane, "v6", from_b4(OUT, B1))
        assert lane.ways() == {"held_next_hop": 1}


def test_a_fixed_next_hop_becomes_one_that_is_asked_for() -> None:
    with router(changed(BASE, {"v4.next_hop_mac": NEW_MAC})) as lane:
        assert packets(lane, "v6", from_b4(OUT, B1)) == [sent("v4", hop(OUT), dst=NEW_MAC)]
        lane.lane.apply(BASE)
        assert len(_asked(lane.advance(1))) == 1
        lane.send("v4", arp_frame(2, PEER_MAC["v4"], GATEWAY4, ROUTER4))
        assert packets(lane, "v6", from_b4(OUT, B1)) == [to(up(OUT))]


def test_next_hops_stay_known_when_something_else_changes() -> None:
    with router() as lane:
        lane.lane.apply(changed(BASE, {"hop_limit": 9, "icmp.unbound_v4": False}))
        assert lane.advance(1) == []


def test_new_addresses_are_announced() -> None:
    own = [(ip6("2001:db8:ffff::1"), 64), (ip6("2001:db8:ffff::2"), 64)]
    changes = {"v4.addresses": [(ip4("192.0.2.9"), 24)], "v6.addresses": own}
    with router(changed(BASE, {"br_addresses": [ip6("2001:db8:ffff::1"), ip6("2001:db8:ffff::b"), ip6(BR3)]})) as lane:
        lane.interface_up()
        lane.advance(60_000)
        lane.lane.apply(changed(changed(BASE, changes), {"br_addresses": [ip6("2001:db8:ffff::b"), ip6(BR3)]}))
        said = [frame for _, frame in lane.take()]
    announced = [dissect(frame).payload for frame in said if is_announcement("v4", frame)]
    assert announced == [arp(1, OWN_MAC["v4"], "192.0.2.9", bytes(6), "192.0.2.9")]
    advertised = {dissect(frame).payload[48:64] for frame in said if is_announcement("v6", frame)}
    assert {ip6(f"2001:db8:ffff::{last}") for last in ("1", "2", "b")} == advertised


def test_fragments_of_a_packet_are_counted_by_the_new_limit() -> None:
    from tests.frames import fragments6

    whole = from_b4(udp(B1.ipv4, INET, 1500, 53, size=1400), B1)
    parts = fragments6(whole, 400, 1)
    for limit, ways in ((64, {"decap": 1}), (3, {"drop_fragment_v6_limit": 5})):
        with router() as lane:
            lane.send("v6", *(ethernet("v6", part) for part in parts[:2]))
            lane.lane.apply(changed(BASE, {"reassembly.max_fragments": limit}))
            lane.send("v6", *(ethernet("v6", part) for part in parts[2:]))
            assert {name: n for name, n in lane.ways().items() if name in ways} == ways


FIXED = [{"v4.mtu": 1400}, {"v6.mtu": 1400}, {"v4.mac": NEW_MAC}, {"one_port": True}, {"reassembly.max_packets": 5}]


@pytest.mark.parametrize("changes", FIXED, ids=[next(iter(one)) for one in FIXED])
def test_fixed(changes: dict[str, Any]) -> None:
    with router() as lane:
        with pytest.raises(ValueError, match="stay as they are"):
            lane.lane.apply(changed(BASE, {**changes, "hop_limit": 9}))
        assert packets(lane, "v4", IN) == [to(down(IN, B1))]


def test_an_injected_packet_leaves_under_the_new_settings() -> None:
    import numpy as np

    packet = ipv6(B1.br, B1.b4, 59, b"")
    with router() as lane:
        lane.lane.apply(changed(BASE, {"v6.vlan": 9}))
        lane.lane.inject(packet, np.array([40], np.uint32))
        assert sent("v6", packet, vlan=9) in lane.take()
