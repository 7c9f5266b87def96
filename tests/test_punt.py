"""Packets that go to the control side and come from it: requests, notices of packets without a binding, answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pylwaftr import _core
from tests.compare import Expected
from tests.frames import (
    FRAGMENT,
    IPIP,
    UDP,
    edit,
    ethernet,
    fragment_header,
    fragments6,
    ipv6,
    sent,
    udp,
)
from tests.lane_router import Router, router
from tests.softwires import B1, B2, B3, INET, OTHER_BR, TUNNEL4, changed, from_b4, goes_out, refused6, up
from tests.vector_config import Settings, settings

PCP, MISS, MOVE = _core.PUNT_PCP, _core.PUNT_MISS, _core.PUNT_MOVE
SERVER = {"pcp.enabled": True, "pcp.addresses": [b"\xc0\0\0\1"]}
NEW = "2001:db8:1:1ff::77"  # in B1's /56
ALIEN = "2001:db8:77::1"  # whose prefix has no binding
START_NS = 1_000_000_000_000  # of the lane's clock

ASK = udp("192.0.0.2", TUNNEL4, 5351, 5351, size=60)
LONG = udp("192.0.0.2", TUNNEL4, 5351, 5351, size=1600 - 40 - 20 - 8)


def taken(lane: Router) -> list[tuple[int, bytes]]:
    rows, octets = lane.lane.punted()
    assert rows.dtype == _core.PUNT_ROW
    assert [int(n) for n in rows["offset"]] == [0, *np.cumsum(rows["length"])][: len(rows)]
    assert sum(rows["length"]) == len(octets)
    return [(int(row["kind"]), octets[row["offset"] : row["offset"] + row["length"]]) for row in rows]


def drops(lane: Router) -> dict[str, int]:
    return {name: n for name, n in lane.moved().items() if name.startswith(("punt", "drop", "icmp6", "decap"))}


@dataclass(frozen=True)
class Case:
    what: str
    packets: Sequence[bytes]  # outer ones, in one after the other
    punted: list[tuple[int, bytes]]
    moved: dict[str, int]  # counters of this file's matter
    out: list[Expected] = field(default_factory=list)
    changes: Settings = field(default_factory=dict)

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


def check_case(lane: Router, case: Case) -> None:
    out = lane.send("v6", *(ethernet("v6", packet) for packet in case.packets))
    assert out == [(one.side, one.frame) for one in case.out]
    assert taken(lane) == case.punted
    assert drops(lane) == case.moved


ask = from_b4(ASK, B1)
stranger = from_b4(ASK, B1, src=ALIEN)
wrapped = from_b4(ASK, B1, ext=fragment_header(IPIP, 0, False, 3), first=FRAGMENT)
REQUESTS = [
    Case("of a B4", [ask], [(PCP, ask)], {"punt_pcp": 1}),
    Case("of a B4 without a binding", [stranger], [(PCP, stranger)], {"punt_pcp": 1}),
    Case("in an atomic fragment", [wrapped], [(PCP, from_b4(ASK, B1))], {"punt_pcp": 1}),
    Case("in two outer fragments", fragments6(from_b4(LONG, B1), 1280, 5), [(PCP, from_b4(LONG, B1))],
         {"punt_pcp": 1}),
    Case("as long as may be", [from_b4(LONG, B1)], [(PCP, from_b4(LONG, B1))], {"punt_pcp": 1}),
    Case("longer", [from_b4(udp("192.0.0.2", TUNNEL4, 5351, 5351, size=1533), B1)], [], {"drop_punt_too_long": 1}),
    Case("several", [ask, stranger, ask], [(PCP, ask), (PCP, stranger), (PCP, ask)], {"punt_pcp": 3}),
    Case("more than one subscriber may", [ask] * 5 + [stranger], [(PCP, ask)] * 3 + [(PCP, stranger)],
         {"punt_pcp": 4, "drop_punt_rate": 2}, changes={"pcp.rate_limit": (0, 3)}),
    Case("one subscriber, many addresses", [from_b4(ASK, B1, src=f"2001:db8:1:1{n:02x}::1") for n in range(9)],
         [(PCP, from_b4(ASK, B1, src=f"2001:db8:1:1{n:02x}::1")) for n in range(3)],
         {"punt_pcp": 3, "drop_punt_rate": 6}, changes={"pcp.rate_limit": (0, 3)}),
    Case("more than all together may", [ask, stranger, from_b4(ASK, B2), from_b4(ASK, B3)],
         [(PCP, ask), (PCP, stranger)], {"punt_pcp": 2, "drop_punt_rate": 2}, changes={"pcp.rate_limit": (2, 9)}),
    Case("while PCP is off", [from_b4(udp(B1.ipv4, TUNNEL4, 1500, 5351), B1)], [], {"drop_v4_local": 1},
         changes={"pcp.enabled": False}),
    Case("to another address", [from_b4(udp(B1.ipv4, INET, 1500, 5351), B1)], [], {"decap": 1},
         [up(udp(B1.ipv4, INET, 1500, 5351))]),
]  # fmt: skip


@pytest.mark.parametrize("case", REQUESTS, ids=str)
def test_requests(case: Case) -> None:
    with router(changed(settings(), {**SERVER, **case.changes})) as lane:
        check_case(lane, case)
        assert taken(lane) == []


def test_a_request_in_pieces_is_whole_on_the_other_side() -> None:
    with router(changed(settings(), SERVER)) as lane:
        lane.send("v6", ethernet("v6", from_b4(LONG, B1)), segments=[60, 7, 900, 2000])
        assert taken(lane) == [(PCP, from_b4(LONG, B1))]


def test_time_and_lane_of_a_request() -> None:
    with router(changed(settings(), SERVER)) as lane:
        lane.advance(5)
        lane.send("v6", ethernet("v6", ask))
        rows, _ = lane.lane.punted()
        assert [(int(row["lane"]), int(row["at_ns"]), int(row["reserved"])) for row in rows] == [
            (0, START_NS + 5_000_000, 0)
        ]


def test_tokens_come_back() -> None:
    with router(changed(settings(), {**SERVER, "pcp.rate_limit": (0, 2)})) as lane:
        for _ in range(3):
            lane.send("v6", *[ethernet("v6", ask)] * 5)
            assert len(taken(lane)) == 2
            lane.advance(1000)


def test_nobody_takes_requests_away() -> None:
    """The ring fills; what came first stays, and each one more is a drop. Then there is room again, round and round."""
    with router(changed(settings(), SERVER)) as lane:
        for _ in range(20):
            asks = [from_b4(udp("192.0.0.2", TUNNEL4, port, 5351, size=60), B1) for port in range(1, 601)]
            for start in range(0, len(asks), 60):
                lane.burst("v6", [ethernet("v6", packet) for packet in asks[start : start + 60]])
            got = taken(lane)
            assert 300 < len(got) < 500  # 64 KiB
            assert [packet for _, packet in got] == asks[: len(got)]
            assert drops(lane) == {"punt_pcp": len(got), "drop_punt_queue": 600 - len(got)}


# --- packets that no binding vouches for ----------------------------------------------------------------------------

EVENTS = {"events.miss": True, "events.move": True, "events.hold_code5_ms": 300}
FROM_B1 = udp(B1.ipv4, INET, 1500, 53)
unbound = from_b4(udp("203.0.113.99", INET, 1500, 53), B1, src=ALIEN)
spoofed = from_b4(FROM_B1, B1, src=ALIEN)
renumbered = from_b4(FROM_B1, B1, src=NEW)
other_br = from_b4(FROM_B1, B1, dst=OTHER_BR.br)
other_port = from_b4(udp(B1.ipv4, INET, 9999, 53), B1, src=NEW)
large = from_b4(udp("203.0.113.99", INET, 1500, 53, size=1300), B1, src=ALIEN)
NO_MISS, NO_MOVE, NO_HOLD = {"events.miss": False}, {"events.move": False}, {"events.hold_code5_ms": 0}
HELD = {"drop_source_validation": 1, "icmp6_held_back": 1}
TOLD = {"drop_source_validation": 1, "icmp6_sent_no_binding": 1}

NOTICES = [
    Case("nobody's address", [unbound], [(MISS, unbound)], {"punted_miss": 1, **HELD}),
    Case("somebody else's", [spoofed], [(MISS, spoofed)], {"punted_miss": 1, **HELD}),
    Case("another address of the prefix", [renumbered], [(MOVE, renumbered)], {"punted_move": 1, **HELD}),
    Case("another BR address", [other_br], [(MISS, other_br)], {"punted_miss": 1, **HELD}),
    Case("a port of nobody, new address", [other_port], [(MISS, other_port)], {"punted_miss": 1, **HELD}),
    Case("a new address while that is not asked for", [renumbered], [(MISS, renumbered)], {"punted_miss": 1, **HELD},
         changes=NO_MOVE),
    Case("only moves are asked for", [renumbered], [(MOVE, renumbered)], {"punted_move": 1, **HELD}, changes=NO_MISS),
    Case("only moves are asked for, a miss", [unbound], [], TOLD, [refused6(unbound, 1, 5)], NO_MISS),
    Case("nothing is asked for", [renumbered], [], TOLD, [refused6(renumbered, 1, 5)], {**NO_MISS, **NO_MOVE}),
    Case("no hold", [unbound], [(MISS, unbound)], {"punted_miss": 1, **TOLD}, [refused6(unbound, 1, 5)], NO_HOLD),
    Case("code 5 is off", [unbound], [(MISS, unbound)], {"punted_miss": 1, "drop_source_validation": 1},
         changes={"icmp.unknown_b4_v6": False}),
    Case("the headers of a large one", [large], [(MISS, large[:768])], {"punted_miss": 1, **HELD}),
    Case("a good one", [from_b4(FROM_B1, B1)], [], {"decap": 1}, [up(FROM_B1)]),
]  # fmt: skip


@pytest.mark.parametrize("case", NOTICES, ids=str)
def test_notices(case: Case) -> None:
    with router(changed(settings(), {**EVENTS, **case.changes})) as lane:
        check_case(lane, case)


ONE_MISS = {"punted_miss": 1}
COURSE: list[tuple[int, int, dict[str, int]]] = [  # hold, then ms since the first packet, what happens to this one
    (300, 0, {**ONE_MISS, **HELD}),
    (300, 299, HELD),
    (300, 300, TOLD),
    (300, 999, TOLD),
    (300, 1000, {**ONE_MISS, **HELD}),
    (3000, 2999, HELD),
    (3000, 3000, TOLD),
    (3000, 5999, TOLD),
    (3000, 6000, {**ONE_MISS, **HELD}),
    (0, 0, {**ONE_MISS, **TOLD}),
    (0, 999, TOLD),
    (0, 1000, {**ONE_MISS, **TOLD}),
]


@pytest.mark.parametrize("hold, ms, moved", COURSE)
def test_a_subscriber_that_goes_on(hold: int, ms: int, moved: dict[str, int]) -> None:
    """One notice a second at most, and code 5 is held back for a while but not for ever."""
    with router(changed(settings(), {**EVENTS, "events.hold_code5_ms": hold})) as lane:
        if ms:
            lane.send("v6", ethernet("v6", unbound))
            lane.moved()
            lane.advance(ms)
        lane.send("v6", ethernet("v6", unbound))
        assert drops(lane) == moved


def test_notices_are_limited_in_all() -> None:
    with router(changed(settings(), {**EVENTS, **NO_HOLD, "icmp.unknown_b4_v6": False})) as lane:
        for n in range(1200):
            lane.send("v6", ethernet("v6", from_b4(FROM_B1, B1, src=f"2001:db9:{n:x}::1")))
            taken(lane)
        moved = drops(lane)
        assert moved["punted_miss"] < 1001
        assert moved["punted_miss"] > 980  # two subscribers may share a bucket
        assert moved["drop_source_validation"] == 1200


def test_a_binding_that_comes_ends_it() -> None:
    with router(changed(settings(), EVENTS)) as lane:
        lane.send("v6", ethernet("v6", renumbered))
        (rows, octets) = lane.lane.punted()
        assert int(rows[0]["kind"]) == MOVE
        row = lane.table.dump()
        row = row[(row["b4"].view("V16").ravel() == np.frombuffer(bytes.fromhex(_packed(B1.b4)), "V16"))].copy()
        row["b4"] = np.frombuffer(octets[8:24], np.uint8)
        assert lane.table.bind(row, _core.SOURCE_CONFIG, 1)["replaced"] == 1
        assert lane.send("v6", ethernet("v6", renumbered)) == [(up(FROM_B1).side, up(FROM_B1).frame)]


def _packed(address: str) -> str:
    from ipaddress import IPv6Address

    return IPv6Address(address).packed.hex()


# --- answers --------------------------------------------------------------------------------------------------------

ANSWER = ipv6(B1.br, B1.b4, IPIP, udp(TUNNEL4, "192.0.0.2", 5351, 5351, size=60))
OTHER = ipv6(B1.br, B2.b4, IPIP, udp(TUNNEL4, "192.0.0.2", 5351, 5351, size=61))


def inject(lane: Router, *packets: bytes) -> int:
    return int(lane.lane.inject(b"".join(packets), np.array([len(one) for one in packets], np.uint32)))


def test_answers_leave_on_the_ipv6_side() -> None:
    with router(changed(settings(), {"v6.vlan": 7})) as lane:
        assert inject(lane, ANSWER, OTHER, ANSWER) == 3
        assert lane.take() == [sent("v6", one, vlan=7) for one in (ANSWER, OTHER, ANSWER)]
        assert lane.moved() == {"injected": 3, "tx_v6": 3}
        assert inject(lane) == 0


def test_answers_and_the_egress_filter() -> None:
    with router(changed(settings(), {"v6.egress_filter": f"not dst host {B1.b4}"})) as lane:
        assert inject(lane, ANSWER, OTHER) == 2
        assert lane.take() == [sent("v6", OTHER)]
        assert lane.moved() == {"injected": 2, "tx_v6": 1, "filtered_made": 1}


def test_answers_wait_for_the_next_hop() -> None:
    with router(resolved=False) as lane:
        assert inject(lane, ANSWER) == 1
        lane.take()
        lane.lane.set_next_hop("v6", b"\2\0\0\0\6\xfe")
        assert sent("v6", ANSWER) in lane.advance(1)


def test_as_many_answers_as_there_is_room_for() -> None:
    with router() as lane:
        taken_in = inject(lane, *[ANSWER] * 1000)
        assert 300 < taken_in < 500
        assert len(lane.take()) == taken_in
        assert inject(lane, *[OTHER] * 400) > 300
        assert set(lane.take()) == {sent("v6", OTHER)}


BAD_ANSWERS: list[tuple[str, list[bytes], list[int], str]] = [
    ("longer than the MTU", [ANSWER, ipv6(B1.br, B1.b4, UDP, bytes(1501))], [len(ANSWER), 1541],
     "packet 1: 1541 octets; the IPv6 side takes 1540"),
    ("not IPv6", [ANSWER[40:]], [len(ANSWER) - 40], "packet 0: is no IPv6 packet of this length"),
    ("an octet too many", [ANSWER + b"\0"], [len(ANSWER) + 1], "packet 0: is no IPv6 packet of this length"),
    ("half a header", [ANSWER[:30]], [30], "packet 0: is no IPv6 packet of this length"),
    ("a length that lies", [edit(ANSWER, 4, b"\0\1")], [len(ANSWER)], "packet 0: is no IPv6 packet of this length"),
    ("a length without octets", [ANSWER], [len(ANSWER), 40], "packet 1: its length reaches beyond the octets given"),
    ("octets without a length", [ANSWER, b"12"], [len(ANSWER)], "packets: 2 octets belong to none of them"),
]  # fmt: skip


@pytest.mark.parametrize("what, packets, lengths, why", BAD_ANSWERS, ids=[one[0] for one in BAD_ANSWERS])
def test_what_is_no_answer_is_refused_with_all_others(
    what: str, packets: list[bytes], lengths: list[int], why: str
) -> None:
    with router() as lane:
        with pytest.raises(ValueError, match=why):
            lane.lane.inject(b"".join(packets), np.array(lengths, np.uint32))
        assert lane.take() == []
        assert lane.moved() == {}


def test_an_array_of_something_else_is_a_type_error() -> None:
    with router() as lane, pytest.raises(TypeError):
        lane.lane.inject(ANSWER, np.array([len(ANSWER)], np.int64))


def test_a_good_packet_is_no_matter_for_the_control_side() -> None:
    row = goes_out("ordinary", FROM_B1)
    with router(changed(settings(), {**SERVER, **EVENTS})) as lane:
        frames: Any = lane.send("v6", ethernet("v6", row.packets))  # type: ignore[arg-type]
        assert len(frames) == 1
        assert taken(lane) == []
