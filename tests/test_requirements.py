"""Requirements that need many packets, time or a changing table. docs/rfcs.md tells which test shows which."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pylwaftr import _core
from tests.frames import (
    DF,
    ICMP6,
    PEER_MAC,
    UDP,
    dissect,
    edit,
    edit4,
    ethernet,
    fragments6,
    hop,
    icmp6,
    ipv6,
    udp,
)
from tests.lane_router import SOURCE_CONFIG, Router, router, row_array
from tests.softwires import (
    B1,
    B2,
    B3,
    INET,
    ROUTER6,
    changed,
    check,
    down,
    encap,
    from_b4,
    refused4,
    refused6,
    up,
)
from tests.vector_config import Binding, numeric4, packed6, settings

IN = udp(INET, B1.ipv4, 53, 1500)
OUT = udp(B1.ipv4, INET, 1500, 53)
BURST = 64


# ---------------------------------------------------------------- the table
def _unbind(lane: Router, row: Binding) -> None:
    report = lane.table.unbind(
        np.array([numeric4(row.ipv4)], np.uint32), np.array([row.psid], np.uint16), SOURCE_CONFIG
    )
    assert report["removed"] == 1


def test_a_removed_binding_is_told_to_both_sides_and_a_new_one_forwards() -> None:
    """DP-022: the next packet after the change sees it."""
    outer = from_b4(OUT, B1)
    with router() as lane:
        check(lane, "v4", [ethernet("v4", IN)], [down(IN, B1)], {"encap": 1})
        _unbind(lane, B1)
        check(lane, "v4", [ethernet("v4", IN)], [refused4(IN, 3, 1)], {"drop_no_binding": 1})
        check(lane, "v6", [ethernet("v6", outer)], [refused6(outer, 1, 5)], {"drop_source_validation": 1})
        moved = replace(B1, b4="2001:db8:66::1")
        lane.table.bind(row_array([moved]), SOURCE_CONFIG, 2)
        check(lane, "v4", [ethernet("v4", IN)], [down(IN, moved)], {"encap": 1})
        check(lane, "v6", [ethernet("v6", outer)], [refused6(outer, 1, 5)], {"drop_source_validation": 1})
        check(lane, "v6", [ethernet("v6", from_b4(OUT, moved))], [up(OUT)], {"decap": 1})


def _shared(n: int) -> list[Binding]:
    return [Binding("", "203.0.113.77", 0, 6, psid, f"2001:db8:{psid:x}::1", B1.br) for psid in range(1, n + 1)]


def test_bindings_above_the_limit_are_refused() -> None:
    """DP-036."""
    table = _core.BindingTable(2, [], [])
    assert table.bind(row_array(_shared(3)), SOURCE_CONFIG, 1)["refused"] == [(2, "table_full")]
    assert table.bind(row_array(_shared(2)), SOURCE_CONFIG, 1)["added"] == 2
    assert table.bind(row_array(_shared(3)[2:]), SOURCE_CONFIG, 1)["refused"] == [(0, "table_full")]
    assert table.bind(row_array(_shared(2)[:1]), SOURCE_CONFIG, 2)["unchanged"] == 1


BAD_ROWS = {
    "a + k > 16 (DP-031)": (replace(B1, psid_offset=11), "bad_params"),
    "PSID 2^k (DP-031)": (replace(B1, psid=64), "psid_range"),
    "the B4 is a BR address (DP-061)": (replace(B1, b4=B1.br), "own_address"),
    "the B4 is the interface address (DP-061)": (replace(B1, b4=ROUTER6), "own_address"),
    "the address is the router's (DP-063)": (replace(B1, ipv4="192.0.2.1"), "own_address"),
    "192.0.0.2 (DP-007)": (replace(B1, ipv4="192.0.0.2"), "bad_address"),
}


@pytest.mark.parametrize("row, why", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bindings_that_cannot_be(row: Binding, why: str) -> None:
    own6: list[Any] = [packed6(ROUTER6), packed6(B1.br)]  # octets; to the stub a std::string is a str
    table = _core.BindingTable(8, [numeric4("192.0.2.1")], own6)
    assert table.bind(row_array([row]), SOURCE_CONFIG, 1)["refused"] == [(0, why)]


def test_a_hundred_thousand_flows_leave_no_state() -> None:
    """DP-021: table and packet buffers stay as they are."""
    with router(mbufs=512) as lane:
        memory, size = lane.table.memory, len(lane.table)
        sent = 0
        for number in range(0, 100_000, BURST):
            frame = ethernet("v4", udp(f"198.51.{number >> 8 & 255}.{number >> 16}", B1.ipv4, 1, 1024, size=4))
            ports = [struct.pack("!HH", n % 60_000 + 1, 1024 + n % 1024) for n in range(number, number + BURST)]
            sent += len(lane.burst("v4", [edit(frame, 34, pair) for pair in ports]))
            assert lane.lane.mbufs_in_use() == 0
        assert sent == lane.count("encap") >= 100_000
        assert (lane.table.memory, len(lane.table)) == (memory, size)
        assert lane.held() == 0


# ---------------------------------------------------------------- ECN and hairpin counters
@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize("outer", range(4))
def test_ecn_combinations_that_no_tunnel_entry_makes_are_counted(inner: int, outer: int) -> None:
    """DP-086: the five marked cells of RFC 6040 figure 4. A counter needs no switch: it says nothing by itself."""
    marked = {(0, 1), (0, 2), (0, 3), (1, 2), (3, 1)}
    with router() as lane:
        lane.send("v6", ethernet("v6", from_b4(edit4(OUT, 1, bytes([inner])), B1, tc=outer)))
        assert lane.count("ecn_suspicious") == ((inner, outer) in marked)


def test_hairpinned_packets_and_octets_are_counted() -> None:
    """DP-105, OP-009: the IPv4 packet's own octets."""
    across = udp(B1.ipv4, B3.ipv4, 1500, 1600)
    with router() as lane:
        lane.send("v6", ethernet("v6", from_b4(across, B1)), ethernet("v6", from_b4(OUT, B1)))
        assert (lane.count("hairpin"), lane.count("hairpin_bytes")) == (1, len(across))


def test_octets_of_both_sides_are_counted() -> None:
    """OP-009: whole frames."""
    with router() as lane:
        ((_, left),) = lane.send("v4", ethernet("v4", IN))
        lane.send("v6", ethernet("v6", from_b4(OUT, B1)))
        assert (lane.count("rx_v4_bytes"), lane.count("tx_v6_bytes")) == (len(ethernet("v4", IN)), len(left))
        assert lane.count("rx_v6_bytes") == lane.count("tx_v4_bytes") + 40


# ---------------------------------------------------------------- rates
def _limited(packets: int, period_s: float, per_source: int) -> Router:
    return Router(changed(settings(), {"icmp.rate_limit": (packets, period_s, per_source)}))


def test_a_thousand_unmatched_packets_draw_burst_and_rate() -> None:
    """DP-127: ten at once and ten a second, of 1000 packets within 4 s from 250 sources."""
    lane = _limited(10, 1.0, 10)
    answers = []
    for step in range(40):
        batch = [udp(f"198.51.100.{n}", "203.0.113.200", step, 9) for n in range(25)]
        answers.append(len(lane.burst("v4", [ethernet("v4", packet) for packet in batch])))
        lane.advance(100)
    assert answers[0] == 10
    assert 48 <= sum(answers) <= 50
    assert all(n <= 2 for n in answers[1:])
    assert lane.count("icmp4_suppressed") == 1000 - sum(answers)
    lane.check_end()


def test_a_flooding_b4_does_not_silence_the_errors_of_others() -> None:
    """DP-140: a thousand packets through one softwire, then one through another, all within the same instant."""
    lane = _limited(20, 1.0, 5)
    spoofed = ethernet("v6", from_b4(OUT, B2))
    flood = sum(len(lane.burst("v6", [spoofed] * 50)) for _ in range(20))
    assert flood == 5
    other = from_b4(OUT, B3)
    check(lane, "v6", [ethernet("v6", other)], [refused6(other, 1, 5)], {"drop_source_validation": 1001})
    expired = udp(B1.ipv4, INET, 1500, 53, ttl=1)
    inside = sum(len(lane.burst("v6", [ethernet("v6", from_b4(expired, B1))] * 50)) for _ in range(20))
    told = lane.send("v6", ethernet("v6", from_b4(udp(B2.ipv4, INET, 2500, 53, ttl=1), B2)))
    assert (inside, len(told)) == (5, 1)
    lane.check_end()


# ---------------------------------------------------------------- path MTU (DP-149)
LARGE = udp(INET, B1.ipv4, 53, 1500, size=1472, flags=DF)
CORE_ROUTER = "2001:db8:ee::9"
FIXED = changed(settings(), {f"{side}.next_hop_mac": peer for side, peer in PEER_MAC.items()})


def _too_big(mtu: int) -> bytes:
    quoted = encap(hop(LARGE), B1)[:1232]
    message = icmp6(CORE_ROUTER, B1.br, 2, 0, struct.pack("!I", mtu), quoted)
    return ethernet("v6", ipv6(CORE_ROUTER, B1.br, ICMP6, message))


def _tunnel_mtu(lane: Router) -> int | None:
    """What a 1500-octet packet with DF is told; None = it was forwarded (path MTU 1540)."""
    ((side, frame),) = lane.send("v4", ethernet("v4", LARGE))
    return None if side == "v6" else int(struct.unpack("!H", frame[40:42])[0])


def test_a_message_never_raises_the_path_mtu() -> None:
    with router() as lane:
        for told, mtu in ((1400, 1360), (1450, 1360), (1500, 1360), (1300, 1260), (1539, 1260)):
            lane.send("v6", _too_big(told))
            assert _tunnel_mtu(lane) == mtu
        assert lane.count("pmtu_lowered") == 2


def test_after_ten_minutes_the_larger_size_is_tried_and_may_be_refused_again() -> None:
    with router(FIXED) as lane:
        lane.send("v6", _too_big(1400))
        lane.advance(599_000)
        assert _tunnel_mtu(lane) == 1360
        lane.advance(2_000)
        assert _tunnel_mtu(lane) is None
        lane.send("v6", _too_big(1320))
        assert _tunnel_mtu(lane) == 1280


def test_a_larger_size_is_not_tried_within_five_minutes_of_a_message() -> None:
    """RFC 8201 section 4: five minutes after any packet too big for the path, not only after the one that lowered."""
    with router(FIXED) as lane:
        lane.send("v6", _too_big(1400))
        lane.advance(590_000)
        lane.send("v6", _too_big(1400))
        lane.advance(60_000)
        assert _tunnel_mtu(lane) == 1360


# ---------------------------------------------------------------- echo to own addresses
NO_BR = changed(settings(), {"br_addresses": [packed6(B1.br)]})  # the interface address is none
ASKER = "2001:db8:1:100::5"


@pytest.mark.parametrize("address", [B1.br, ROUTER6], ids=["BR", "interface"])
def test_a_ping_in_fragments_is_answered(address: str) -> None:
    """DP-144."""
    ask = ipv6(ASKER, address, ICMP6, icmp6(ASKER, address, 128, 0, b"\0\7\0\1", bytes(2000)))
    with router(NO_BR) as lane:
        seen = lane.send("v6", *(ethernet("v6", f) for f in fragments6(ask, 1280, 9)))
        assert lane.count("answered_echo_v6") == 1
        assert sum(len(dissect(frame).payload) - 48 for _, frame in seen) == 2008


@pytest.mark.parametrize("address", [B1.br, ROUTER6], ids=["BR", "interface"])
def test_udp_to_an_own_address_is_answered_with_port_unreachable(address: str) -> None:
    """DP-073."""
    packet = ipv6(ASKER, address, UDP, struct.pack("!HHHH", 5000, 33434, 8, 0))
    with router(NO_BR) as lane:
        check(lane, "v6", [ethernet("v6", packet)], [refused6(packet, 1, 4)], {"drop_v6_no_listener": 1})


def test_ipv4_in_ipv6_is_taken_at_br_addresses_alone() -> None:
    """DP-070: the interface address is none here."""
    with router(NO_BR) as lane:
        tunnel = from_b4(OUT, B1, dst=ROUTER6)
        check(lane, "v6", [ethernet("v6", tunnel)], [], {"drop_v6_not_for_us": 1})
