"""Rows about ICMP: what passes, what is answered and how often, by every switch of the configuration."""

from __future__ import annotations

import struct
from itertools import product

import pytest

from tests.compare import Expected
from tests.frames import (
    DEST_OPTIONS,
    DF,
    ENCAP_LIMIT_4,
    ICMP,
    ICMP6,
    dissect,
    echo4,
    edit,
    edit4,
    error4,
    ethernet,
    hop,
    icmp4,
    icmp6,
    ipv4,
    ipv6,
    own_error4,
    sent,
    udp,
    with_header_checksum,
)
from tests.lane_router import router
from tests.softwires import (
    B1,
    B2,
    B3,
    INET,
    INET2,
    ROUTER4,
    ROUTER6,
    TUNNEL4,
    WHOLE,
    Row,
    bounces,
    changed,
    check,
    check_row,
    comes_in,
    crosses,
    encap,
    from_b4,
    goes_out,
    refused4,
    refused6,
    refuses_in,
    refuses_out,
    spoofs,
)
from tests.vector_config import settings

IN = udp(INET, B1.ipv4, 53, 1500)
OUT = udp(B1.ipv4, INET, 1500, 53)
NO_INCOMING = {"icmpv4_allow_incoming": False}


# ---------------------------------------------------------------- messages that pass
def _about(packet: bytes, by: str, kind: int = 3, code: int = 3) -> bytes:
    """An error of `by` about a packet, told to its sender; the quote is the header and eight octets."""
    dst = ".".join(map(str, packet[12:16]))
    return error4(by, dst, kind, code, packet[: (packet[0] & 15) * 4 + 8])


ECHO_OUT = echo4(B1.ipv4, INET, 1500)
SCTP_OUT = ipv4(B1.ipv4, INET, 132, struct.pack("!HHII", 1500, 80, 1, 0))
ECHO_REPLY_IN = echo4(INET, B1.ipv4, 1500, reply=True)
PASS_ROWS = [
    *(comes_in(f"error {kind}/{code}", _about(OUT, INET2, kind, code)) for kind in (3, 11, 12) for code in (0, 1, 13)),
    *(goes_out(f"error {kind}/{code}", _about(IN, B1.ipv4, kind, code)) for kind in (3, 11, 12) for code in (0, 1, 13)),
    comes_in("error about an echo request", _about(ECHO_OUT, INET2, 11, 0)),
    goes_out("error about an echo reply", _about(ECHO_REPLY_IN, B1.ipv4, 3, 3)),
    comes_in("error about SCTP", _about(SCTP_OUT, INET2)),
    comes_in("error of a whole address's peer about GRE", _about(ipv4(WHOLE.ipv4, INET, 47, bytes(8)), INET2), WHOLE),
    comes_in("redirect to a whole address", _about(udp(WHOLE.ipv4, INET, 1, 2), INET2, 5, 1), WHOLE),
    comes_in("bad checksum to a whole address", edit(echo4(INET, WHOLE.ipv4, 1), 22, b"\0\0"), WHOLE),
    goes_out("bad checksum from a whole address", edit(echo4(WHOLE.ipv4, INET, 1), 22, b"\0\0"), WHOLE),
    crosses("error about hairpinned traffic", _about(udp(B1.ipv4, B3.ipv4, 1500, 1600), B3.ipv4), B3, B1),
    crosses("hairpin with incoming ICMP off", echo4(B1.ipv4, B3.ipv4, 1500), B1, B3, NO_INCOMING),
    goes_out("ping with incoming ICMP off", ECHO_OUT, B1, NO_INCOMING),
]

STAMP = icmp4(13, 0, b"\x05\xdc\0\0")
SHORT = ipv4(INET, B1.ipv4, ICMP, icmp4(8, 0, b"\x05\xdc\0\1")[:7])
REFUSED_ROWS = [
    refuses_in("ICMP of seven octets", SHORT, "icmp_malformed"),
    refuses_in("whole address with incoming ICMP off", echo4(INET, WHOLE.ipv4, 5), "icmp_policy", None, NO_INCOMING),
    refuses_in("error with incoming ICMP off", _about(OUT, INET2), "icmp_policy", None, NO_INCOMING),
    refuses_in("error quoting nothing", error4(INET2, B1.ipv4, 3, 3, b""), "icmp_bad_embedded"),
    refuses_in("error quoting IHL 4", error4(INET2, B1.ipv4, 3, 3, edit4(OUT, 0, b"\x44")[:28]), "icmp_bad_embedded"),
    refuses_in("error quoting IPv6", error4(INET2, B1.ipv4, 3, 3, edit(OUT, 0, b"\x65")[:28]), "icmp_bad_embedded"),
    refuses_in("error quoting GRE", _about(ipv4(B1.ipv4, INET, 47, bytes(8)), INET2), "icmp_bad_embedded"),
    refuses_in("error quoting a timestamp", _about(ipv4(B1.ipv4, INET, ICMP, STAMP), INET2), "icmp_bad_embedded"),
    refuses_in("error quoting no identifier", error4(INET2, B1.ipv4, 11, 0, ECHO_OUT[:25]), "icmp_bad_embedded"),
    *(refuses_in(f"type {kind}", ipv4(INET, B1.ipv4, ICMP, icmp4(kind, 0, b"\x05\xdc\0\1", bytes(12))), "icmp_type")
      for kind in (1, 2, 6, 9, 10, 14, 15, 16, 18, 30, 42, 255)),
    spoofs("error about a neighbour's port", _about(udp(INET, B2.ipv4, 53, 2500), B1.ipv4)),
    spoofs("error about another address", error4(B1.ipv4, INET, 3, 3, udp(INET, B3.ipv4, 53, 1500)[:28])),
]  # fmt: skip


# ---------------------------------------------------------------- errors that are made here
def _tos(tos: int) -> bytes:
    return udp(INET, "203.0.113.200", 53, 1, tos=tos)


LONG = udp(INET, "203.0.113.200", 53, 1024, size=1400)
OPTIONS = ipv4(INET, "203.0.113.200", 17, struct.pack("!HHHH", 1, 2, 8, 0), options=b"\1\1\1\0")
LATER = udp(INET, "203.0.113.200", 53, 1, offset=800)
EXPIRED = edit4(OUT, 8, b"\1")
LIMITED = encap(own_error4(EXPIRED, 11, 0, src=TUNNEL4), B1, ext=ENCAP_LIMIT_4, first=DEST_OPTIONS)
LIMITED_ERROR = [Expected("v6", sent("v6", LIMITED)[1], "icmpv4-error")]
MADE_ROWS = [
    refuses_in("an error is 576 octets long", LONG, "no_binding", (3, 1)),
    refuses_in("the quote holds the options", OPTIONS, "no_binding", (3, 1)),
    refuses_in("first fragment", udp(INET, "203.0.113.200", 53, 1, flags=0x2000), "no_binding", (3, 1)),
    refuses_in("later fragment", LATER, "no_binding"),
    refuses_in("errors off", LONG, "no_binding", None, {"icmpv4_generate_errors": False}),
    *(refuses_in(f"TOS {tos:#x} of the offender", _tos(tos), "no_binding", (3, 1)) for tos in (0, 0xB8, 0xFF)),
    refuses_in("ICMP echo to nobody", echo4(INET, "203.0.113.200", 1), "icmp_no_binding"),
    refuses_in("ICMP timestamp to nobody", ipv4(INET, "203.0.113.200", ICMP, STAMP), "icmp_no_binding"),
    bounces("a quote is as received", udp(B1.ipv4, INET, 1500, 53, ttl=1, size=1400), "ttl_expired", (11, 0)),
    refuses_out("TTL 1 of an ICMP error", from_b4(edit4(_about(IN, B1.ipv4), 8, b"\1"), B1), "ttl_expired"),
    refuses_out("1/5 off does not switch 4/1 off", from_b4(OUT, B1, first=99), "v6_unknown_next_header", (4, 1, 6),
                {"icmpv6_generate_errors": False}),
    refuses_out("1/5 off", from_b4(OUT, B2), "source_validation", None, {"icmpv6_generate_errors": False}),
    Row("errors carry the encapsulation limit too", "v6", from_b4(EXPIRED, B1), LIMITED_ERROR, {"drop_ttl_expired": 1},
        {"encap_limit": 4}),
]  # fmt: skip

ROWS = [*PASS_ROWS, *REFUSED_ROWS, *MADE_ROWS]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


@pytest.mark.parametrize("tos, copied", [(0x00, 0x00), (0xB8, 0xB8), (0xBB, 0xB8)])
def test_error_tos_copy_is_the_dscp_of_the_offender_without_ecn(tos: int, copied: int) -> None:
    """DP-126."""
    with router(changed(settings(), {"icmp.error_tos": None})) as lane:
        seen = lane.send("v4", ethernet("v4", _tos(tos)))
        assert [frame[15] for _, frame in seen] == [copied]
        inside = lane.send("v6", ethernet("v6", from_b4(udp(B1.ipv4, INET, 1500, 53, ttl=1, tos=tos), B1)))
        inner = dissect(inside[0][1]).ipv4
        assert inner is not None
        assert inner[1] == copied


@pytest.mark.parametrize("unbound, unknown, incoming", list(product([True, False], repeat=3)))
def test_every_combination_of_the_icmp_switches(unbound: bool, unknown: bool, incoming: bool) -> None:
    options = {
        "icmpv4_generate_errors": unbound,
        "icmpv6_generate_errors": unknown,
        "icmpv4_allow_incoming": incoming,
    }
    nobody, spoofed, ping = udp(INET, "203.0.113.200", 1, 2), from_b4(OUT, B2), echo4(INET, B1.ipv4, 1500)
    expired = edit4(IN, 8, b"\1")
    with router(settings(options)) as lane:
        check(lane, "v4", [ethernet("v4", nobody)], [refused4(nobody, 3, 1)] if unbound else [], {"drop_no_binding": 1})
        check(lane, "v4", [ethernet("v4", expired)], [refused4(expired, 11, 0)], {"drop_ttl_expired": 1})
        answers = [refused6(spoofed, 1, 5)] if unknown else []
        check(lane, "v6", [ethernet("v6", spoofed)], answers, {"drop_source_validation": 1})
        passes = [Expected("v6", sent("v6", encap(hop(ping), B1))[1], "forwarded")] if incoming else []
        check(lane, "v4", [ethernet("v4", ping)], passes, {"encap": 1} if incoming else {"drop_icmp_policy": 1})
        assert lane.send("v4", ethernet("v4", echo4(INET, ROUTER4, 7))) != []


# ---------------------------------------------------------------- echo
@pytest.mark.parametrize("size", [0, 1, 56, 1472])
def test_the_router_answers_pings_with_all_data(size: int) -> None:
    """DP-129: TOS without ECN, data complete."""
    ping = echo4(INET, ROUTER4, 77, size=size, tos=0xB9)
    reply = echo4(ROUTER4, INET, 77, size=size, tos=0xB8, reply=True, ident=0, flags=DF)
    want = [Expected("v4", sent("v4", reply)[1], "icmp-echo-reply")]
    with router() as lane:
        check(lane, "v4", [ethernet("v4", ping)], want, {"answered_echo_v4": 1})


@pytest.mark.parametrize("address", ["2001:db8:aa::1", "2001:db8:aa::2", ROUTER6])
def test_every_own_ipv6_address_answers_pings(address: str) -> None:
    asker = "2001:db8:1:100::5"
    ask = ipv6(asker, address, ICMP6, icmp6(asker, address, 128, 0, b"\0\7\0\1", b"ping6"), hop_limit=3)
    reply = ipv6(address, asker, ICMP6, icmp6(address, asker, 129, 0, b"\0\7\0\1", b"ping6"))
    want = [Expected("v6", sent("v6", reply)[1], "icmp-echo-reply")]
    with router() as lane:
        check(lane, "v6", [ethernet("v6", ask)], want, {"answered_echo_v6": 1})


UNANSWERED = {
    "wrong checksum": ("v4", edit(echo4(INET, ROUTER4, 7), 22, b"\0\0")),
    "a reply": ("v4", echo4(INET, ROUTER4, 7, reply=True)),
    "a timestamp": ("v4", ipv4(INET, ROUTER4, ICMP, icmp4(13, 0, bytes(4), bytes(12)))),
    "seven octets": ("v4", ipv4(INET, ROUTER4, ICMP, icmp4(8, 0, bytes(4))[:7])),
    "a ping of another subscriber's source": ("v6", from_b4(echo4(B3.ipv4, TUNNEL4, 1500), B1)),
}


@pytest.mark.parametrize("side, packet", UNANSWERED.values(), ids=UNANSWERED.keys())
def test_what_looks_like_a_ping_and_is_none_is_not_answered(side: str, packet: bytes) -> None:
    with router() as lane:
        seen = lane.send(side, ethernet(side, packet))
        assert all(dissect(frame).payload[40:42] == b"\x01\x05" for _, frame in seen)  # the spoofed one: 1/5
        assert not any(name.startswith("answered") for name in lane.ways())


# ---------------------------------------------------------------- rates
def _errors(lane_settings: dict[str, object], frames: list[bytes], side: str) -> int:
    with router(lane_settings) as lane:
        return len(lane.burst(side, frames[:32])) + len(lane.burst(side, frames[32:]))


def test_icmpv4_errors_are_limited_per_source_and_in_all() -> None:
    """DP-127: a bucket for each source address and one for the router."""
    one = [ethernet("v4", udp(INET, "203.0.113.200", 53, n)) for n in range(1, 61)]
    many = [ethernet("v4", udp(f"198.51.100.{n}", "203.0.113.200", 53, 1)) for n in range(1, 61)]
    limited = changed(settings(), {"icmp.rate_limit": (20, 2.0, 5)})
    assert _errors(limited, one, "v4") == 5
    assert _errors(limited, many, "v4") == 20


def test_icmpv6_errors_are_limited_per_subscriber_prefix_and_in_all() -> None:
    """DP-140: the addresses of one /56 share a bucket."""
    one = [ethernet("v6", from_b4(OUT, B1, src=f"2001:db8:dead:{n:x}::1")) for n in range(1, 61)]
    many = [ethernet("v6", from_b4(OUT, B1, src=f"2001:db8:{n:x}::1")) for n in range(0x4000, 0x403C)]
    limited = changed(settings(), {"icmp.rate_limit": (20, 2.0, 5)})
    assert _errors(limited, one, "v6") == 5
    assert _errors(limited, many, "v6") == 20


def test_the_two_families_have_their_own_buckets_which_fill_again() -> None:
    limited = changed(settings(), {"icmp.rate_limit": (2, 2.0, 2)})
    nobody, spoofed = ethernet("v4", udp(INET, "203.0.113.200", 1, 2)), ethernet("v6", from_b4(OUT, B2))
    with router(limited) as lane:
        assert len(lane.send("v4", nobody, nobody, nobody)) == 2
        assert lane.count("icmp4_suppressed") == 1
        assert len(lane.send("v6", spoofed, spoofed, spoofed)) == 2
        assert lane.count("icmp6_suppressed") == 1
        lane.advance(1000)
        assert len(lane.send("v4", nobody, nobody, nobody)) == 1


def test_a_quote_that_is_cut_never_reads_beyond_it() -> None:
    whole = _about(OUT, INET2)[20:]
    with router() as lane:
        for size in range(8, len(whole)):
            lane.send("v4", ethernet("v4", ipv4(INET2, B1.ipv4, ICMP, icmp4(3, 3, bytes(4), whole[8:size]))))


def test_header_checksum_of_the_quote_is_left_alone() -> None:
    packet = with_header_checksum(edit(IN, 8, b"\1"))
    with router() as lane:
        ((_, frame),) = lane.send("v4", ethernet("v4", packet))
        assert frame[14 + 28 :] == packet


def test_the_quote_of_an_outer_packet_is_all_of_it() -> None:
    """What lies behind the inner packet is cut from what is forwarded, not from the quote (RFC 4443 section 2.4(c))."""
    tunnel = from_b4(OUT + b"\xee" * 3, B2)
    with router() as lane:
        check(lane, "v6", [ethernet("v6", tunnel)], [refused6(tunnel, 1, 5)], {"drop_source_validation": 1})
