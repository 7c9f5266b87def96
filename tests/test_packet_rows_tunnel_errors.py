"""Rows about errors from inside the tunnel: ICMPv6 about our own tunnel packets (RFC 2473 section 8, spec 4.10)."""

from __future__ import annotations

import struct

import pytest

from tests.compare import Expected
from tests.frames import (
    DF,
    FRAGMENT,
    ICMP6,
    IPIP,
    edit,
    error4,
    ethernet,
    fragment_header,
    hop,
    icmp6,
    ipv6,
    own_error4,
    sent,
    udp,
)
from tests.lane_router import router
from tests.softwires import (
    B1,
    B2,
    INET,
    INET2,
    OTHER_BR,
    ROUTER4,
    WHOLE,
    changed,
    check,
    encap,
    refused4,
    refused_inside,
)
from tests.vector_config import settings

IN = udp(INET, B1.ipv4, 53, 1500)
CORE_ROUTER = "2001:db8:ee::9"


def _tunnel_error(quoted: bytes, kind: int, code: int, value: int = 0, br: str = B1.br) -> bytes:
    message = icmp6(CORE_ROUTER, br, kind, code, struct.pack("!I", value), quoted[:1232])
    return ipv6(CORE_ROUTER, br, ICMP6, message)


INSIDE = hop(IN)
TUNNELLED = encap(INSIDE, B1)
RELAYED = [Expected("v4", sent("v4", own_error4(INSIDE, 3, 1, src=ROUTER4))[1], "icmpv4-error")]
INNER_ERROR = hop(error4(INET2, B1.ipv4, 3, 3, udp(B1.ipv4, INET, 1500, 53)[:28]))
RELAYED_KINDS = [(1, 0), (1, 1), (1, 3), (1, 4), (1, 5), (1, 6), (3, 0)]
QUIET_KINDS = [(3, 1), (4, 1), (4, 2), (4, 0), (100, 0), (127, 0), (5, 0)]


@pytest.mark.parametrize("kind, code", RELAYED_KINDS)
def test_tunnel_errors_are_told_to_the_inner_source(kind: int, code: int) -> None:
    with router() as lane:
        tell = ethernet("v6", _tunnel_error(TUNNELLED, kind, code))
        check(lane, "v6", [tell], RELAYED, {"consumed_icmp6_error": 1})


@pytest.mark.parametrize("kind, code", QUIET_KINDS)
def test_other_icmpv6_errors_are_not_relayed(kind: int, code: int) -> None:
    with router() as lane:
        check(lane, "v6", [ethernet("v6", _tunnel_error(TUNNELLED, kind, code))], [], {"drop_icmp6_ignored": 1})


def _first_fragment(inside: bytes) -> bytes:
    head = TUNNELLED[:4] + struct.pack("!HB", len(inside) + 8, FRAGMENT) + TUNNELLED[7:40]
    return head + fragment_header(IPIP, 0, True, 9) + inside


NOT_OURS = {
    "outer source is no BR address": encap(INSIDE, B1)[:8] + bytes(16) + TUNNELLED[24:],
    "the other BR address": TUNNELLED[:8] + bytes.fromhex("20010db800aa00000000000000000002") + TUNNELLED[24:],
    "another B4": TUNNELLED[:24] + bytes.fromhex("20010db8000202000000cb0071010002") + TUNNELLED[40:],
    "an unbound inner destination": encap(hop(udp(INET, B1.ipv4, 53, 9999)), B1),
    "a wrong inner checksum": edit(TUNNELLED, 50, b"\xff\xff"),
    "cut inside the inner header": TUNNELLED[:59],
    "cut inside the outer header": TUNNELLED[:39],
    "not a tunnel packet": ipv6(B1.br, B1.b4, 17, bytes(40)),
    "nothing": b"",
    "no port of an inner UDP": TUNNELLED[:62],
    "an ICMPv4 error inside": encap(INNER_ERROR, B1),
    "a martian inner source": encap(hop(udp("127.0.0.1", B1.ipv4, 53, 1500)), B1),
    "a multicast inner source": encap(hop(udp("224.0.0.5", B1.ipv4, 53, 1500)), B1),
    "the inner source 0.0.0.0": encap(hop(udp("0.0.0.0", B1.ipv4, 53, 1500)), B1),
}


@pytest.mark.parametrize("quoted", NOT_OURS.values(), ids=NOT_OURS.keys())
def test_a_quote_that_is_not_ours_draws_nothing(quoted: bytes) -> None:
    with router() as lane:
        assert lane.send("v6", ethernet("v6", _tunnel_error(quoted, 1, 0))) == []


def test_relay_switched_off() -> None:
    with router(changed(settings(), {"icmp.incoming_v6": False})) as lane:
        assert lane.send("v6", ethernet("v6", _tunnel_error(TUNNELLED, 1, 0))) == []


def test_relay_about_a_first_outer_fragment() -> None:
    quoted = _first_fragment(INSIDE)
    with router() as lane:
        check(lane, "v6", [ethernet("v6", _tunnel_error(quoted, 3, 0))], RELAYED, {"consumed_icmp6_error": 1})


def test_relay_through_the_other_br_address() -> None:
    inner = hop(udp(INET, OTHER_BR.ipv4, 53, 7))
    with router() as lane:
        want = [Expected("v4", sent("v4", own_error4(inner, 3, 1, src=ROUTER4))[1], "icmpv4-error")]
        tell = ethernet("v6", _tunnel_error(encap(inner, OTHER_BR), 1, 3, br=OTHER_BR.br))
        check(lane, "v6", [tell], want, {"consumed_icmp6_error": 1})


@pytest.mark.parametrize("told, mtu", [(1280, 1240), (1400, 1360), (1539, 1499)])
def test_packet_too_big_lowers_the_tunnel_of_that_b4_alone(told: int, mtu: int) -> None:
    large = udp(INET, B1.ipv4, 53, 1500, size=1472, flags=DF)
    other = udp(INET, B2.ipv4, 53, 2500, size=1472, flags=DF)
    with router() as lane:
        lane.send("v6", ethernet("v6", _tunnel_error(encap(hop(large), B1), 2, 0, told)))
        assert lane.count("pmtu_lowered") == 1
        lane.moved()
        check(lane, "v4", [ethernet("v4", large)], [refused4(large, 3, 4, mtu)], {"drop_too_big_df": 1})
        forwarded = [Expected("v6", sent("v6", encap(hop(other), B2))[1], "forwarded")]
        check(lane, "v4", [ethernet("v4", other)], forwarded, {"encap": 1})


def test_a_lowered_path_mtu_ages_out_after_ten_minutes() -> None:
    """DP-149: never raised by a message, not tried before five minutes, tried after ten."""
    large = udp(INET, B1.ipv4, 53, 1500, size=1472, flags=DF)
    with router() as lane:
        lane.send("v6", ethernet("v6", _tunnel_error(TUNNELLED, 2, 0, 1400)))
        lane.advance(299_000)
        assert lane.send("v4", ethernet("v4", large))[0][0] == "v4"
        lane.advance(302_000)
        lane.lane.set_next_hop("v6", bytes.fromhex("0200000006fe"))
        seen = [frame for side, frame in lane.send("v4", ethernet("v4", large)) if side == "v6"]
        assert [frame[14:] for frame in seen] == [encap(hop(large), B1)]


def test_the_encapsulation_limit_problem_is_relayed_only_when_it_points_at_the_limit() -> None:
    option = bytes.fromhex("0400040100010100")
    quoted = encap(INSIDE, B1, ext=option, first=60)
    with router() as lane:
        check(lane, "v6", [ethernet("v6", _tunnel_error(quoted, 4, 0, 44))], RELAYED, {"consumed_icmp6_error": 1})
        check(lane, "v6", [ethernet("v6", _tunnel_error(quoted, 4, 0, 43))], [], {"drop_icmp6_ignored": 1})
        other = encap(INSIDE, B1, ext=bytes.fromhex("0400040104010100"), first=60)
        check(lane, "v6", [ethernet("v6", _tunnel_error(other, 4, 0, 44))], [], {"drop_icmp6_ignored": 1})


def test_a_quote_that_is_cut_never_reads_beyond_it() -> None:
    with router() as lane:
        for size in range(len(TUNNELLED)):
            lane.send("v6", ethernet("v6", _tunnel_error(TUNNELLED[:size], 1, 0)))


def test_an_error_about_a_reassembled_hairpin_is_told_inside() -> None:
    """The inner source is a subscriber: the relay goes into its softwire, from 192.0.0.1 (DP-151)."""
    inner = hop(udp(WHOLE.ipv4, B1.ipv4, 9, 1500))
    with router() as lane:
        want = refused_inside(inner, WHOLE, 3, 1)
        check(lane, "v6", [ethernet("v6", _tunnel_error(encap(inner, B1), 1, 0))], [want], {"consumed_icmp6_error": 1})
