"""What other lwAFTRs were measured to do wrong: one test for each fault, named after what the network sees.

The faults are those of Snabb's lwAFTR (2024.08) and of VPP's map plugin (26.06-rc0), seen by sending packets to them.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from pylwaftr import _core
from tests.compare import Comparison, Expected
from tests.frames import (
    DEST_OPTIONS,
    DF,
    ENCAP_LIMIT_4,
    GRE,
    ICMP,
    ICMP6,
    SCTP,
    TCP,
    V4_PEER,
    V6_IF,
    V6_PEER,
    echo4,
    edit,
    edit4,
    error4,
    ethernet,
    fragments4,
    hop,
    icmp4,
    icmp6,
    ip6,
    ipv4,
    ipv6,
    own_error4,
    payload4,
    sent,
    tcp,
    udp,
)
from tests.lane_router import SOURCE_CONFIG, router, row_array, start_eal
from tests.softwires import (
    B1,
    B2,
    B3,
    GATEWAY6,
    INET,
    INET2,
    ROUTER4,
    ROUTER6,
    SYSTEM_PORTS,
    WHOLE,
    changed,
    check,
    down,
    encap,
    from_b4,
    refused4,
    refused6,
    refused_inside,
    solicitation,
    up,
)
from tests.vector_config import Binding, settings

EXCLUDED = Binding(
    "", "203.0.113.50", 6, 8, 0, "2001:db8:50::1", B1.br
)  # its first port would be 0, were they not kept
IN = udp(INET, B1.ipv4, 53, 1500)
OUT = udp(B1.ipv4, INET, 1500, 53)


def test_destination_options_with_the_encapsulation_limit_are_decapsulated() -> None:
    """Both drop them, and Linux sends them by default."""
    with router() as lane:
        tunnel = from_b4(OUT, B1, ext=ENCAP_LIMIT_4, first=DEST_OPTIONS)
        check(lane, "v6", [ethernet("v6", tunnel)], [up(OUT)], {"decap": 1})


def test_offset_6_keeps_the_ports_0_to_1023_and_no_others() -> None:
    """Snabb keeps 0 to 63."""
    with router(rows=[EXCLUDED]) as lane:
        for port in (0, 3, 63, 64, 67, 255, 1023):
            packet = udp(INET, EXCLUDED.ipv4, 53, port)
            check(lane, "v4", [ethernet("v4", packet)], [refused4(packet, 3, 1)], {"drop_no_binding": 1})
        for port in (1024, 1027, 2048, 64515):
            packet = udp(INET, EXCLUDED.ipv4, 53, port)
            check(lane, "v4", [ethernet("v4", packet)], [down(packet, EXCLUDED)], {"encap": 1})


@pytest.mark.parametrize("identifier, to", [(0, SYSTEM_PORTS), (1100, B1), (2500, B2)])
def test_an_inbound_ping_finds_its_b4_by_identifier(identifier: int, to: Binding) -> None:
    """Snabb looks up port 0; VPP drops identifier 0."""
    with router() as lane:
        ping = echo4(INET, to.ipv4, identifier)
        check(lane, "v4", [ethernet("v4", ping)], [down(ping, to)], {"encap": 1})


def test_an_icmp_error_from_a_b4_is_accepted_by_the_quoted_destination_port() -> None:
    """Snabb checks the wrong port of the quote and rejects it."""
    with router() as lane:
        error = error4(B1.ipv4, INET, 3, 3, IN[:28])
        check(lane, "v6", [ethernet("v6", from_b4(error, B1))], [up(error)], {"decap": 1})


def test_an_icmp_error_about_a_ping_reaches_who_pinged() -> None:
    """Snabb drops it: traceroute by ping shows nothing."""
    with router() as lane:
        error = error4(INET2, B1.ipv4, 11, 0, echo4(B1.ipv4, INET, 1500)[:28])
        check(lane, "v4", [ethernet("v4", error)], [down(error, B1)], {"encap": 1})


def _tunnel_error(quoted: bytes) -> bytes:
    router_inside = "2001:db8:ee::9"
    return ipv6(router_inside, B1.br, ICMP6, icmp6(router_inside, B1.br, 3, 0, bytes(4), quoted[:1232]))


def test_a_tunnel_error_with_a_forged_quote_draws_nothing_and_a_true_one_is_relayed() -> None:
    """Snabb sends ICMPv4 to any address that a forger names; VPP's relay does not work at all."""
    victim = hop(udp("192.0.2.66", "203.0.113.200", 53, 1500))
    forged = [
        encap(victim, B1),  # no binding
        encap(hop(IN), B3),  # the binding of another B4
        encap(hop(IN), B1)[:8] + bytes(16) + encap(hop(IN), B1)[24:],  # not from a BR address
    ]
    with router() as lane:
        for quoted in forged:
            assert lane.send("v6", ethernet("v6", _tunnel_error(quoted))) == []
        assert lane.ways() == {"drop_icmp6_ignored": len(forged)}
        relayed = Expected("v4", sent("v4", own_error4(hop(IN), 3, 1, src=ROUTER4))[1], "icmpv4-error")
        tell = ethernet("v6", _tunnel_error(encap(hop(IN), B1)))
        check(lane, "v6", [tell], [relayed], {"consumed_icmp6_error": 1})


@pytest.mark.parametrize("source", ["0.0.0.0", "224.0.0.1", "239.255.255.250", "255.255.255.255"])
def test_no_error_goes_to_a_source_that_is_no_host(source: str) -> None:
    """Snabb sends them."""
    with router() as lane:
        for packet in (udp(source, "203.0.113.200", 53, 1), udp(source, B1.ipv4, 53, 1500, ttl=1)):
            assert lane.send("v4", ethernet("v4", packet)) == []
        assert lane.ways() == {"drop_v4_martian": 2}


@pytest.mark.parametrize("source", ["::", "ff02::1", "ff0e::1234"])
def test_no_error_goes_to_an_ipv6_source_that_is_no_host(source: str) -> None:
    with router() as lane:
        assert lane.send("v6", ethernet("v6", from_b4(OUT, B2, src=source))) == []


def test_ethernet_padding_is_not_tunnelled() -> None:
    """Snabb tunnels it."""
    short = udp(INET, B1.ipv4, 53, 1500, size=0)
    with router() as lane:
        frame = ethernet("v4", short)
        check(lane, "v4", [frame + bytes(60 - len(frame))], [down(short, B1)], {"encap": 1})


BAD_INSIDE = {
    "bad checksum": (edit(OUT, 10, b"\xff\xff"), "v4_bad_checksum"),
    "version 5": (edit4(OUT, 0, b"\x55"), "v4_malformed"),
}


@pytest.mark.parametrize("inner, why", BAD_INSIDE.values(), ids=BAD_INSIDE.keys())
def test_a_broken_inner_header_is_not_forwarded(inner: bytes, why: str) -> None:
    """Both forward it."""
    with router() as lane:
        check(lane, "v6", [ethernet("v6", from_b4(inner, B1))], [], {f"drop_{why}": 1})


def test_a_df_packet_over_the_ipv4_mtu_is_answered_with_that_mtu() -> None:
    """Snabb lets it vanish; VPP reports 1500 for 1460, or lets it vanish."""
    large = udp(B1.ipv4, INET, 1500, 53, size=1473, flags=DF)
    with router(settings({"v4_mtu": 1460, "v6_path_mtu": 9000})) as lane:
        tunnel = ethernet("v6", from_b4(large, B1))
        check(lane, "v6", [tunnel], [refused_inside(large, B1, 3, 4, 1460)], {"drop_too_big_df": 1})


def test_the_outer_destination_is_checked_on_decapsulation() -> None:
    """VPP never checks it."""
    with router() as lane:
        wrong = from_b4(OUT, B1, dst="2001:db8:aa::2")
        check(lane, "v6", [ethernet("v6", wrong)], [refused6(wrong, 1, 5)], {"drop_source_validation": 1})
        elsewhere = from_b4(OUT, B1, dst="2001:db8:cafe::1")
        check(lane, "v6", [ethernet("v6", elsewhere)], [], {"drop_v6_not_for_us": 1})


def test_the_source_of_a_whole_address_binding_is_checked() -> None:
    """VPP does not."""
    with router() as lane:
        spoofed = from_b4(udp(WHOLE.ipv4, INET, 1, 2), B1)
        check(lane, "v6", [ethernet("v6", spoofed)], [refused6(spoofed, 1, 5)], {"drop_source_validation": 1})


def test_the_source_of_inner_fragments_is_checked() -> None:
    """VPP does not unless told to."""
    fragments = fragments4(udp(B2.ipv4, INET, 2500, 53, size=2000), 1400)
    with router() as lane:
        for number, packet in enumerate(fragments):
            tunnel = from_b4(packet, B1)
            seen = lane.send("v6", ethernet("v6", tunnel))
            assert Comparison().step([refused6(tunnel, 1, 5)], seen) == [], number
        assert lane.ways() == {"drop_source_validation": 2}
        whole = from_b4(fragments4(udp(WHOLE.ipv4, INET, 1, 2, size=2000), 1400)[1], B1)
        check(lane, "v6", [ethernet("v6", whole)], [refused6(whole, 1, 5)], {"drop_source_validation": 1})


def test_gre_sctp_and_timestamps_do_not_reach_a_wrong_subscriber() -> None:
    """Snabb reads ports where there are none; VPP gives all to the subscriber of PSID 0."""
    zero = Binding("", SYSTEM_PORTS.ipv4, 0, 4, 0, SYSTEM_PORTS.b4, SYSTEM_PORTS.br)
    with router() as lane:
        gre = ipv4(INET, zero.ipv4, GRE, struct.pack("!HHI", 5, 5, 5))
        check(lane, "v4", [ethernet("v4", gre)], [refused4(gre, 3, 1)], {"drop_no_binding": 1})
        stamp = ipv4(INET, zero.ipv4, ICMP, icmp4(13, 0, b"\0\5\0\1", bytes(12)))
        check(lane, "v4", [ethernet("v4", stamp)], [], {"drop_icmp_type": 1})
        sctp = ipv4(INET, B1.ipv4, SCTP, struct.pack("!HHII", 80, 1500, 1, 0) + bytes(16))
        check(lane, "v4", [ethernet("v4", sctp)], [down(sctp, B1)], {"encap": 1})


def test_ttl_1_and_no_binding_are_answered() -> None:
    """VPP is silent."""
    expired, nobody = udp(INET, B1.ipv4, 53, 1500, ttl=1), udp(INET, B1.ipv4, 53, 9999)
    with router() as lane:
        check(lane, "v4", [ethernet("v4", expired)], [refused4(expired, 11, 0)], {"drop_ttl_expired": 1})
        check(lane, "v4", [ethernet("v4", nobody)], [refused4(nobody, 3, 1)], {"drop_no_binding": 1})


def test_b4s_reach_each_other() -> None:
    """VPP has no hairpinning."""
    across = udp(B1.ipv4, B3.ipv4, 1500, 1600)
    with router() as lane:
        check(lane, "v6", [ethernet("v6", from_b4(across, B1))], [down(across, B3)], {"hairpin": 1})


def test_the_mss_clamp_works_both_ways_and_spares_fragments_that_look_like_a_syn() -> None:
    """VPP corrupts them, and clamps on encapsulation only."""
    mss, clamped = struct.pack("!BBH", 2, 4, 1460), struct.pack("!BBH", 2, 4, 1300)
    with router(changed(settings(), {"tcp_mss": 1300})) as lane:
        for src, dst, ports in ((INET, B1.ipv4, (80, 1500)), (B1.ipv4, INET, (1500, 80))):
            before, after = (tcp(src, dst, *ports, options=option) for option in (mss, clamped))
            inward = dst == B1.ipv4
            frame = ethernet("v4", before) if inward else ethernet("v6", from_b4(before, B1))
            check(lane, "v4" if inward else "v6", [frame], [down(after, B1) if inward else up(after)],
                  {"encap": 1} if inward else {"decap": 1})  # fmt: skip
        fragment = ipv4(INET, WHOLE.ipv4, TCP, payload4(tcp(INET, WHOLE.ipv4, 80, 1500, options=mss)), offset=1480)
        check(lane, "v4", [ethernet("v4", fragment)], [down(fragment, WHOLE)], {"encap": 1})


def test_congestion_marked_outside_arrives_inside() -> None:
    """VPP loses it: CE outside becomes CE inside, and kills what is not ECN-capable (RFC 6040)."""
    capable = udp(B1.ipv4, INET, 1500, 53, tos=2)
    with router() as lane:
        marked = Expected("v4", sent("v4", hop(capable, tos=3))[1], "forwarded")
        check(lane, "v6", [ethernet("v6", from_b4(capable, B1, tc=3))], [marked], {"decap": 1})
        check(lane, "v6", [ethernet("v6", from_b4(OUT, B1, tc=3))], [], {"drop_ecn_ce_on_not_ect": 1})


def test_a_unicast_solicitation_is_answered_and_a_unicast_advertisement_taken_in() -> None:
    """VPP drops both: its neighbours lose it after half a minute."""
    with router(resolved=False) as lane:
        seen = lane.send("v6", solicitation(ROUTER6, GATEWAY6, to=ROUTER6))
        answer = icmp6(ROUTER6, GATEWAY6, 136, 0, b"\xe0\0\0\0", ip6(ROUTER6) + b"\2\1" + V6_IF)
        assert sent("v6", ipv6(ROUTER6, GATEWAY6, ICMP6, answer, hop_limit=255)) in seen
        seen += lane.send("v4", ethernet("v4", IN))
        told = icmp6(GATEWAY6, ROUTER6, 136, 0, b"\x60\0\0\0", ip6(GATEWAY6) + b"\2\1" + V6_PEER)
        seen += lane.send("v6", ethernet("v6", ipv6(GATEWAY6, ROUTER6, ICMP6, told, hop_limit=255)))
        assert down(IN, B1).frame in [frame for _, frame in seen]


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 31, 32, 33, 63, 64])
def test_the_result_does_not_depend_on_how_many_packets_share_a_burst(size: int) -> None:
    """VPP drops 6 of 8 native IPv6 packets in one frame of its graph and forwards a single one."""
    native = ipv6("2001:db8:1:100::5", "2001:db8:cafe::1", 59, b"")
    kinds = [from_b4(OUT, B1), native, from_b4(OUT, B2), from_b4(udp(B1.ipv4, B3.ipv4, 1500, 1600), B1)]
    for packet in kinds:
        frame = ethernet("v6", packet)
        with router() as lane:
            alone, why = lane.send("v6", frame), lane.ways()
        with router() as lane:
            assert lane.burst("v6", [frame] * size) == alone * size
            assert lane.ways() == {name: n * size for name, n in why.items()}


def test_a_binding_added_to_a_million_forwards_at_once() -> None:
    """The first packet behind it. Snabb stops forwarding for 6 to 20 s, VPP stops all workers."""
    start_eal()
    count = 1_000_000
    rows = np.zeros(count, dtype=_core.BINDING_ROW)
    index = np.arange(count, dtype=np.uint32)
    rows["ipv4"], rows["psid"] = 0x0A000000 + index // 64, index % 64
    rows["psid_len"] = 6
    b4 = np.frombuffer(ip6("2001:db8:1::"), np.uint8)
    rows["b4"] = b4
    rows["b4"][:, 12:] = index.astype(">u4").view(np.uint8).reshape(-1, 4)
    rows["br"] = np.frombuffer(ip6(B1.br), np.uint8)
    table = _core.BindingTable(count + 1024, [], [])
    assert not table.bind(rows, SOURCE_CONFIG, 1)["refused"]
    lane = _core.Lane(settings(), table, 256)
    lane.set_next_hop("v6", V6_PEER)
    lane.set_next_hop("v4", V4_PEER)
    report = table.bind(row_array([B1]), SOURCE_CONFIG, 2)
    lane.feed("v4", ethernet("v4", IN))
    assert lane.take() == [("v6", down(IN, B1).frame)]
    assert (report["added"], len(table)) == (1, count + 1)


CONFLICTS = {
    "the same address and port set twice": [B1, Binding("", B1.ipv4, 0, 6, 1, "2001:db8:66::1", B1.br)],
    "another sharing ratio on the address": [B1, Binding("", B1.ipv4, 0, 8, 200, "2001:db8:66::1", B1.br)],
    "a whole address that is shared": [B1, Binding("", B1.ipv4, 0, 0, 0, "2001:db8:66::1", B1.br)],
    "another offset on the address": [B1, Binding("", B1.ipv4, 6, 6, 2, "2001:db8:66::1", B1.br)],
}


@pytest.mark.parametrize("rows", CONFLICTS.values(), ids=CONFLICTS.keys())
def test_overlapping_and_duplicate_bindings_are_refused_by_index(rows: list[Binding]) -> None:
    """In Snabb the first wins in silence; VPP takes both in silence."""
    table = _core.BindingTable(64, [], [])
    report = table.bind(row_array(rows), SOURCE_CONFIG, 1)
    assert len(report["refused"]) >= 1
    assert len(table) == 0  # all or nothing
    assert table.bind(row_array(rows[:1]), SOURCE_CONFIG, 1)["added"] == 1
