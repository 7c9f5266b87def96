"""Rows about the links: VLAN tags, both sides on one port, frames that are not ours."""

from __future__ import annotations

from typing import Any

import pytest

from tests.frames import (
    BROADCAST,
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    V4_IF,
    V4_PEER,
    V6_PEER,
    arp,
    dissect,
    echo4,
    ethernet,
    hop,
    sent,
    udp,
)
from tests.lane_router import router
from tests.softwires import (
    B1,
    GATEWAY4,
    GATEWAY6,
    INET,
    ROUTER4,
    ROUTER6,
    WHOLE,
    arp_frame,
    changed,
    check,
    encap,
    from_b4,
    solicitation,
)
from tests.vector_config import settings

IN = udp(INET, B1.ipv4, 53, 1024)
OUT = udp(B1.ipv4, INET, 1500, 53)
NOBODY = bytes(6)
STRANGER = bytes.fromhex("020000009999")

# ---------------------------------------------------------------- VLAN tags (spec 4.16)
TAGGED = changed(settings(), {"v4.vlan": 100, "v6.vlan": 200})


def _tag(side: str, packet: bytes, tci: int) -> bytes:
    return ethernet(side, packet, vlan=tci)


@pytest.mark.parametrize("tci", [100, 100 | 7 << 13, 100 | 1 << 12], ids=["plain", "priority 7", "drop eligible"])
def test_tagged_frames_are_forwarded_with_the_other_sides_tag_and_priority_0(tci: int) -> None:
    with router(TAGGED) as lane:
        assert lane.send("v4", _tag("v4", IN, tci)) == [sent("v6", encap(hop(IN), B1), vlan=200)]
        assert lane.send("v6", _tag("v6", from_b4(OUT, B1), tci & 0xF000 | 200)) == [sent("v4", hop(OUT), vlan=100)]
        assert lane.ways() == {"encap": 1, "decap": 1}


OTHER_VLANS = {
    "untagged": ("v4", ethernet("v4", IN)),
    "tag of the other side": ("v4", _tag("v4", IN, 200)),
    "tag 0": ("v4", _tag("v4", IN, 0)),
    "untagged softwire": ("v6", ethernet("v6", from_b4(OUT, B1))),
    "softwire with another tag": ("v6", _tag("v6", from_b4(OUT, B1), 100)),
    "untagged ARP": ("v4", arp_frame(1, V4_PEER, GATEWAY4, ROUTER4)),
}


@pytest.mark.parametrize("side, frame", OTHER_VLANS.values(), ids=OTHER_VLANS.keys())
def test_frames_of_another_vlan_are_dropped(side: str, frame: bytes) -> None:
    with router(TAGGED) as lane:
        check(lane, side, [frame], [], {"drop_l2_vlan": 1})


def test_a_tag_where_none_is_set_is_dropped() -> None:
    with router() as lane:
        check(lane, "v4", [_tag("v4", IN, 100)], [], {"drop_l2_vlan": 1})


@pytest.mark.parametrize("size", [14, 15, 17])
def test_a_tag_that_is_cut_off_is_a_runt(size: int) -> None:
    with router(TAGGED) as lane:
        check(lane, "v4", [_tag("v4", IN, 100)[:size]], [], {"drop_l2_runt": 1})


def test_a_tagged_padded_frame_loses_its_padding() -> None:
    with router(TAGGED) as lane:
        assert lane.send("v4", _tag("v4", IN, 100) + bytes(20)) == [sent("v6", encap(hop(IN), B1), vlan=200)]


def test_the_tag_does_not_count_for_the_mtu() -> None:
    packet = udp(B1.ipv4, INET, 1500, 53, size=1472, flags=0x4000)
    with router(TAGGED) as lane:
        assert lane.send("v6", _tag("v6", from_b4(packet, B1), 200)) == [sent("v4", hop(packet), vlan=100)]


def test_answers_carry_the_tag() -> None:
    ping = echo4(INET, ROUTER4, 7)
    request = ethernet("v4", arp(1, V4_PEER, GATEWAY4, NOBODY, ROUTER4), dst=BROADCAST, kind=ETH_ARP, vlan=100)
    with router(TAGGED) as lane:
        seen = lane.send("v4", request, _tag("v4", ping, 100)) + lane.send("v6", _tag("v6", from_b4(OUT, WHOLE), 200))
        assert [(side, dissect(frame).vlan) for side, frame in seen] == [("v4", 100), ("v4", 100), ("v6", 200)]
        assert lane.ways() == {"answered_arp": 1, "answered_echo_v4": 1, "drop_source_validation": 1}


# ---------------------------------------------------------------- both sides on one port
def _stick(**vlans: int) -> dict[str, Any]:
    one = {"v6.mac": V4_IF, "one_port": True}
    return changed(settings(), {**one, **{f"{side}.vlan": vlan for side, vlan in vlans.items()}})


def _on_stick(packet: bytes, vlan: int | None = None) -> bytes:
    return ethernet("v4", packet, vlan=vlan, kind=ETH_IPV4 if packet[0] >> 4 == 4 else ETH_IPV6)


@pytest.mark.parametrize("port", ["v4", "v6"])
def test_on_a_stick_the_ether_type_tells_the_side(port: str) -> None:
    with router(_stick()) as lane:
        seen = lane.send(port, _on_stick(IN), _on_stick(from_b4(OUT, B1)))
        assert [(side, frame[14:]) for side, frame in seen] == [("v6", encap(hop(IN), B1)), ("v4", hop(OUT))]
        assert all(frame[6:12] == V4_IF for _, frame in seen)
        assert lane.moved() == {"rx_v4": 1, "rx_v6": 1, "encap": 1, "decap": 1, "tx_v4": 1, "tx_v6": 1}


def test_on_a_stick_each_side_keeps_its_vlan() -> None:
    with router(_stick(v4=100, v6=200)) as lane:
        seen = lane.send("v4", _on_stick(IN, 100), _on_stick(from_b4(OUT, B1), 200))
        assert [(side, dissect(frame).vlan) for side, frame in seen] == [("v6", 200), ("v4", 100)]
        assert lane.send("v4", _on_stick(IN, 200), _on_stick(from_b4(OUT, B1), 100), _on_stick(IN)) == []
        assert lane.ways() == {"encap": 1, "decap": 1, "drop_l2_vlan": 3}


def test_on_a_stick_arp_and_ndp_are_answered() -> None:
    with router(_stick()) as lane:
        request = arp_frame(1, V4_PEER, GATEWAY4, ROUTER4)
        seen = lane.send("v4", request, solicitation(ROUTER6, GATEWAY6, lla=V6_PEER, target_mac=V4_IF))
        assert [side for side, _ in seen] == ["v4", "v6"]
        assert lane.ways() == {"answered_arp": 1, "answered_ndp": 1}


# ---------------------------------------------------------------- frames for others, other EtherTypes
NOT_OURS = {
    "IPv6 on the IPv4 side": ("v4", ethernet("v4", from_b4(OUT, B1), kind=ETH_IPV6), "l2_ethertype"),
    "IPv4 on the IPv6 side": ("v6", ethernet("v6", IN, kind=ETH_IPV4), "l2_ethertype"),
    "LLDP": ("v4", ethernet("v4", b"\x02\x07\x04", kind=0x88CC), "l2_ethertype"),
    "802.3 length": ("v4", ethernet("v4", b"\xaa\xaa\x03" + IN, kind=100), "l2_ethertype"),
    "another MAC": ("v6", ethernet("v6", from_b4(OUT, B1), dst=STRANGER), "l2_not_for_us"),
    "broadcast that carries unicast": ("v6", ethernet("v6", from_b4(OUT, B1), dst=BROADCAST), "l2_group_unicast"),
    "an Ethernet header alone": ("v4", ethernet("v4", b""), "v4_malformed"),
    "an IPv6 Ethernet header alone": ("v6", ethernet("v6", b""), "v6_malformed"),
}


@pytest.mark.parametrize("side, frame, why", NOT_OURS.values(), ids=NOT_OURS.keys())
def test_frames_that_are_not_ours(side: str, frame: bytes, why: str) -> None:
    with router() as lane:
        check(lane, side, [frame], [], {f"drop_{why}": 1})
