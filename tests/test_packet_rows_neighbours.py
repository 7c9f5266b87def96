"""Rows about neighbours: ARP, neighbour discovery, announcements, next hops that do not answer."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.compare import Expected
from tests.frames import (
    ETH_ARP,
    ETH_IPV6,
    ICMP6,
    OWN_MAC,
    V4_IF,
    V4_PEER,
    V6_IF,
    V6_PEER,
    arp,
    checksum,
    dissect,
    ethernet,
    group_mac,
    hop,
    icmp6,
    ip6,
    ipv6,
    pseudo_header,
    sent,
    solicited_node,
    udp,
)
from tests.lane_router import router
from tests.softwires import (
    B1,
    B3,
    GATEWAY4,
    GATEWAY6,
    INET,
    ROUTER4,
    ROUTER6,
    TUNNEL4,
    arp_frame,
    check,
    down,
    encap,
    from_b4,
    mld_query,
    solicitation,
    up,
)
from tests.vector_config import bindings, settings

IN = udp(INET, B1.ipv4, 53, 1024)
OUT = udp(B1.ipv4, INET, 1500, 53)
NOBODY = bytes(6)
STRANGER = bytes.fromhex("020000009999")
Change = Callable[[bytes], bytes]


# ---------------------------------------------------------------- ARP
def _is_at(address: str, to: bytes = V4_PEER, to_ip: str = GATEWAY4) -> Expected:
    return Expected("v4", to + V4_IF + struct.pack("!H", ETH_ARP) + arp(2, V4_IF, address, to, to_ip), "arp")


PROXY = settings({"proxy_arp": True})


@pytest.mark.parametrize("address", sorted({b.ipv4 for b in bindings()}))
def test_proxy_arp_for_every_address_with_a_binding(address: str) -> None:
    with router(PROXY) as lane:
        check(lane, "v4", [arp_frame(1, V4_PEER, GATEWAY4, address)], [_is_at(address)], {"answered_arp": 1})


@pytest.mark.parametrize("address", ["203.0.113.3", "255.255.255.255", "192.0.2.255", "0.0.0.0", TUNNEL4, GATEWAY4])
def test_no_proxy_arp_for_other_addresses(address: str) -> None:
    with router(PROXY) as lane:
        check(lane, "v4", [arp_frame(1, V4_PEER, "192.0.2.77", address)], [], {"drop_arp_not_ours": 1})


def test_arp_request_of_any_station_is_answered_to_it() -> None:
    asker = "192.0.2.77"
    with router() as lane:
        answer = _is_at(ROUTER4, STRANGER, asker)
        check(lane, "v4", [arp_frame(1, STRANGER, asker, ROUTER4)], [answer], {"answered_arp": 1})
        check(lane, "v4", [arp_frame(1, STRANGER, asker, ROUTER4, dst=V4_IF)], [answer], {"answered_arp": 1})
        check(lane, "v6", [ethernet("v6", from_b4(OUT, B1))], [up(OUT)], {"decap": 1})


MALFORMED_ARP: dict[str, tuple[Change, str]] = {
    "cut": (lambda frame: frame[:41], "arp_malformed"),
    "not Ethernet": (lambda frame: frame[:14] + b"\0\6" + frame[16:], "arp_malformed"),
    "not IPv4": (lambda frame: frame[:16] + b"\x86\xdd" + frame[18:], "arp_malformed"),
    "hardware length 8": (lambda frame: frame[:18] + b"\x08" + frame[19:], "arp_malformed"),
    "group sender": (lambda frame: frame[:22] + b"\x01" + frame[23:], "arp_bad_sender"),
}


@pytest.mark.parametrize("change, why", MALFORMED_ARP.values(), ids=MALFORMED_ARP.keys())
def test_malformed_arp(change: Change, why: str) -> None:
    with router() as lane:
        frame = change(arp_frame(1, V4_PEER, GATEWAY4, ROUTER4))
        check(lane, "v4", [frame], [], {f"drop_{why}": 1})


def test_arp_request_with_padding_is_answered() -> None:
    with router() as lane:
        padded = arp_frame(1, V4_PEER, GATEWAY4, ROUTER4) + bytes(18)
        check(lane, "v4", [padded], [_is_at(ROUTER4)], {"answered_arp": 1})


# ---------------------------------------------------------------- neighbour discovery
def _advertisement(target: str, to: str, link: bytes) -> Expected:
    message = icmp6(target, to, 136, 0, b"\xe0\0\0\0", ip6(target) + b"\2\1" + V6_IF)
    packet = ipv6(target, to, ICMP6, message, hop_limit=255)
    return Expected("v6", link + V6_IF + struct.pack("!H", ETH_IPV6) + packet, "ndp")


@pytest.mark.parametrize("target", [ROUTER6, "2001:db8:aa::1", "2001:db8:aa::2"])
@pytest.mark.parametrize("directly", [False, True], ids=["group", "direct"])
def test_every_own_address_is_advertised(target: str, directly: bool) -> None:
    with router() as lane:
        question = solicitation(target, GATEWAY6, to=target if directly else None)
        check(lane, "v6", [question], [_advertisement(target, GATEWAY6, V6_PEER)], {"answered_ndp": 1})


GROUP = solicited_node(ROUTER6)
BAD_SOLICITATIONS = {
    "code 1": (GATEWAY6, GROUP, 1, ip6(ROUTER6) + b"\1\1" + V6_PEER),
    "option of length 0": (GATEWAY6, GROUP, 0, ip6(ROUTER6) + b"\1\0" + V6_PEER),
    "multicast target": (GATEWAY6, GROUP, 0, ip6("ff02::1") + b"\1\1" + V6_PEER),
    "too short": (GATEWAY6, GROUP, 0, ip6(ROUTER6)[:15]),
    "unspecified source with a link address": ("::", GROUP, 0, ip6(ROUTER6) + b"\1\1" + V6_PEER),
    "unspecified source to us directly": ("::", ROUTER6, 0, ip6(ROUTER6)),
}


@pytest.mark.parametrize("src, dst, code, body", BAD_SOLICITATIONS.values(), ids=BAD_SOLICITATIONS.keys())
def test_invalid_solicitations_are_dropped(src: str, dst: str, code: int, body: bytes) -> None:
    message = icmp6(src, dst, 135, code, bytes(4), body)
    link = group_mac(dst) if dst.startswith("ff") else V6_IF
    frame = link + V6_PEER + struct.pack("!H", ETH_IPV6) + ipv6(src, dst, ICMP6, message, hop_limit=255)
    with router() as lane:
        check(lane, "v6", [frame], [], {"drop_ndp_invalid": 1})


def test_a_solicitation_with_a_wrong_checksum_is_dropped() -> None:
    frame = solicitation(ROUTER6, GATEWAY6)
    with router() as lane:
        check(lane, "v6", [frame[:-1] + b"\0"], [], {"drop_icmp6_bad_checksum": 1})


# ---------------------------------------------------------------- next hops that do not answer
def _asks(frames: list[tuple[str, bytes]]) -> int:
    """How many of the frames are ARP requests or neighbour solicitations of ours."""
    seen = [dissect(frame) for _, frame in frames]
    arps = sum(d.kind == ETH_ARP and d.payload[6:8] == b"\0\1" for d in seen)
    return arps + sum(d.kind == ETH_IPV6 and d.payload[6] == ICMP6 and d.payload[40] == 135 for d in seen)


def test_three_solicitations_a_second_apart_then_a_counted_drop() -> None:
    """DP-202, DP-203: downstream there is no error towards the internet."""
    with router(resolved=False) as lane:
        asked = [_asks(lane.send("v4", ethernet("v4", IN)))]
        assert lane.held() == 1
        for _ in range(3):
            asked.append(_asks(lane.advance(1000)))
        assert asked == [1, 1, 1, 0]
        assert lane.held() == 0
        assert lane.count("drop_next_hop_unresolved") == 1
        assert lane.count("tx_v4") == 0


def test_upstream_the_subscriber_is_told() -> None:
    """DP-203: ICMPv4 host unreachable back into the softwire."""
    with router(resolved=False) as lane:
        lane.lane.set_next_hop("v6", V6_PEER)
        asked = [_asks(lane.send("v6", ethernet("v6", from_b4(OUT, B1))))]
        seen = [frame for _ in range(3) for frame in lane.advance(1000)]
        assert [*asked, _asks(seen)] == [1, 2]
        errors = [frame for side, frame in seen if side == "v6"]
        assert len(errors) == 1
        inner = dissect(errors[0]).ipv4
        assert inner is not None
        assert (inner[12:16], inner[20:22]) == (bytes([192, 0, 0, 1]), b"\x03\x01")
        assert inner[28:] in (OUT, hop(OUT))  # "TTL changes need not be undone" (spec 4.9)
        assert lane.count("drop_next_hop_unresolved") == 1


def test_a_next_hop_that_did_not_answer_is_asked_again() -> None:
    with router(resolved=False) as lane:
        lane.send("v4", ethernet("v4", IN))
        for _ in range(4):
            lane.advance(1000)
        assert lane.count("drop_next_hop_unresolved") == 1
        again = lane.send("v4", ethernet("v4", IN)) + [f for _ in range(10) for f in lane.advance(1000)]
        assert _asks(again) >= 1


def test_packets_that_wait_leave_in_order() -> None:
    packets = [udp(INET, B1.ipv4, 53, 1024 + n) for n in range(3)]
    with router(resolved=False) as lane:
        asked = lane.burst("v4", [ethernet("v4", packet) for packet in packets])
        assert _asks(asked) == 1
        assert lane.held() >= 1
        answer = icmp6(GATEWAY6, ROUTER6, 136, 0, b"\xe0\0\0\0", ip6(GATEWAY6) + b"\2\1" + V6_PEER)
        seen = lane.send("v6", ethernet("v6", ipv6(GATEWAY6, ROUTER6, ICMP6, answer, hop_limit=255)))
        assert seen == [sent("v6", encap(hop(packet), B1)) for packet in packets]
        assert lane.held() == 0


@pytest.mark.parametrize("side", ["v4", "v6"])
def test_a_reply_that_nobody_asked_for_teaches_nothing(side: str) -> None:
    """Of an address that is not the next hop."""
    with router() as lane:
        if side == "v4":
            lane.send("v4", arp_frame(2, STRANGER, "192.0.2.77", ROUTER4, target=V4_IF, dst=V4_IF))
            check(lane, "v6", [ethernet("v6", from_b4(OUT, B1))], [up(OUT)], {"consumed_arp": 1, "decap": 1})
        else:
            other = "2001:db8:ffff::77"
            answer = icmp6(other, ROUTER6, 136, 0, b"\xe0\0\0\0", ip6(other) + b"\2\1" + STRANGER)
            lane.send("v6", ethernet("v6", ipv6(other, ROUTER6, ICMP6, answer, hop_limit=255)))
            assert lane.send("v4", ethernet("v4", IN)) == [sent("v6", encap(hop(IN), B1))]


def test_every_own_address_is_announced_at_start() -> None:
    """DP-193, DP-200: two gratuitous ARPs, at most three unsolicited advertisements of each address."""
    with router() as lane:
        seen = lane.interface_up() + [frame for _ in range(8) for frame in lane.advance(1000)]
        arps = [d for d in (dissect(f) for side, f in seen if side == "v4") if d.kind == ETH_ARP]
        assert [d.payload for d in arps] == [arp(1, V4_IF, ROUTER4, NOBODY, ROUTER4)] * 2
        packets = [dissect(frame).payload for side, frame in seen if side == "v6"]
        advertised = [p[48:64] for p in packets if p[6] == ICMP6 and p[40] == 136]
        for own in (ROUTER6, "2001:db8:aa::1", "2001:db8:aa::2"):
            assert advertised.count(ip6(own)) in (0, 1, 2, 3)
        assert advertised.count(ip6(ROUTER6)) >= 1
        assert all(frame[6:12] == OWN_MAC[side] for side, frame in seen)


def test_the_groups_of_all_own_addresses_are_reported() -> None:
    """DP-201: MLDv2 (RFC 3810 section 5.2), hop limit 1, router alert, right checksum."""
    with router() as lane:
        seen = lane.interface_up() + [frame for _ in range(4) for frame in lane.advance(1000)]
        reports = [d.payload for d in (dissect(f) for _, f in seen) if d.payload[24:40] == ip6("ff02::16")]
        assert reports
        for report in reports:
            assert (report[6], report[7], report[40]) == (0, 1, ICMP6)
            assert b"\x05\x02\0\0" in report[42:48]
            message = report[48:]
            assert message[0] == 143
            assert checksum(pseudo_header(report[8:24], report[24:40], len(message), ICMP6) + message) == 0
            groups = {message[at + 4 : at + 20] for at in range(8, len(message), 20)}
            assert groups == {ip6(solicited_node(a)) for a in (ROUTER6, "2001:db8:aa::1", "2001:db8:aa::2")}


@pytest.mark.parametrize(
    "what, query, reports, counted",
    [
        ("a query is answered", mld_query(), 1, "answered_mld"),
        ("a query from afar is not", mld_query(hop_limit=64), 0, "drop_icmp6_ignored"),
        ("a query from a global address is not", mld_query("2001:db8:ffff::fe"), 0, "drop_icmp6_ignored"),
        ("a damaged query is not", mld_query(damaged=True), 0, "drop_icmp6_bad_checksum"),
    ],
)
def test_multicast_listener_queries(what: str, query: bytes, reports: int, counted: str) -> None:
    """DP-201: behind a snooping switch with a querier the groups last only as long as reports come."""
    with router() as lane:
        seen = lane.send("v6", query)
        assert [dissect(frame).payload[48] for _, frame in seen] == [143] * reports, what
        assert lane.ways() == {counted: 1}


def test_a_flood_of_listener_queries_is_answered_four_times() -> None:
    with router() as lane:
        assert sum(len(lane.send("v6", mld_query())) for _ in range(50)) == 4


def test_hairpin_needs_only_the_ipv6_next_hop() -> None:
    with router(resolved=False) as lane:
        lane.lane.set_next_hop("v6", V6_PEER)
        packet = udp(B1.ipv4, B3.ipv4, 1500, 1600)
        check(lane, "v6", [ethernet("v6", from_b4(packet, B1))], [down(packet, B3)], {"hairpin": 1})
