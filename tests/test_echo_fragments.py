"""DP-129: pings of the router's own addresses that come in IPv4 fragments are put together and answered with all data;
what does not become whole is dropped by name and told, and nothing else to these addresses is put together.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest

from tests.compare import piece4, piece6, reassemble
from tests.frames import (
    ICMP,
    MF,
    PEER_MAC,
    Seen,
    dissect,
    echo4,
    edit4,
    ethernet,
    fragments4,
    fragments6,
    ip4,
    ipv4,
    own_error4,
    sent,
    udp,
)
from tests.lane_router import Router, router
from tests.softwires import B1, B2, INET, ROUTER4, TUNNEL4, changed, encap, from_b4
from tests.vector_config import settings

SIZE = 4000
PING = echo4(INET, ROUTER4, 77, size=SIZE, tos=0x10)
PARTS = fragments4(PING, 1500)
INSIDE = echo4(B1.ipv4, TUNNEL4, 1500, size=SIZE)
INSIDE_PARTS = fragments4(INSIDE, 1400)


def _reply(ping: bytes, source: str, target: str, identifier: int, size: int = SIZE) -> bytes:
    """Without its identification and DF, which depend on whether it is cut."""
    return echo4(source, target, identifier, size=size, tos=ping[1] & 0xFC, reply=True, ident=0)[20:]


def _answer(seen: list[Seen], mtu: int = 1500) -> bytes:
    """The data of the packet that these fragments are."""
    pieces = [piece for _, frame in seen if (piece := piece4(frame) or piece6(frame)) is not None]
    assert len(pieces) == len(seen) > 1
    data, faults = reassemble(pieces, mtu)
    assert not faults
    return data


@pytest.mark.parametrize("offloads", ["none", "checksum"])
@pytest.mark.parametrize("order", list(permutations(range(3))), ids=lambda order: "".join(map(str, order)))
def test_from_the_internet_in_every_order(order: tuple[int, ...], offloads: str) -> None:
    with router(offloads=offloads) as lane:
        seen = lane.send("v4", *[ethernet("v4", PARTS[i]) for i in order])
        assert _answer(seen) == _reply(PING, ROUTER4, INET, 77)
        assert {dissect(frame).payload[12:20] for _, frame in seen} == {PING[16:20] + PING[12:16]}
        assert lane.ways() == {"answered_echo_v4": 1, "reassembled_fragment": 2}
        assert all(dissect(frame).dst == PEER_MAC["v4"] for _, frame in seen)


def test_all_in_one_burst() -> None:
    with router() as lane:
        seen = lane.burst("v4", [ethernet("v4", part) for part in PARTS])
        assert _answer(seen) == _reply(PING, ROUTER4, INET, 77)


def test_an_asker_on_the_link_is_answered_there() -> None:
    """As with a ping in one piece: to the station that asked, not by way of the next hop."""
    stranger = bytes.fromhex("020000009999")
    parts = fragments4(echo4("192.0.2.77", ROUTER4, 5, size=SIZE), 1500)
    with router() as lane:
        seen = lane.send("v4", *[_from(ethernet("v4", part), stranger) for part in parts])
        assert len(seen) == 3
        assert {dissect(frame).dst for _, frame in seen} == {stranger}


def _from(frame: bytes, mac: bytes) -> bytes:
    return frame[:6] + mac + frame[12:]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=lambda order: "".join(map(str, order)))
def test_out_of_a_softwire_in_every_order(order: tuple[int, ...]) -> None:
    """Those that come before the first one wait for its port, like all fragments of a shared address."""
    with router() as lane:
        seen = lane.send("v6", *[ethernet("v6", from_b4(INSIDE_PARTS[i], B1)) for i in order])
        assert lane.ways() == {"answered_echo_v4": 1, "reassembled_fragment": 2}
        inner = _answer(seen, 1540)
        assert inner[12:] == ip4(TUNNEL4) + ip4(B1.ipv4) + _reply(INSIDE, TUNNEL4, B1.ipv4, 1500)


def test_fragments_in_outer_fragments() -> None:
    pieces = [piece for n, part in enumerate(INSIDE_PARTS) for piece in fragments6(from_b4(part, B1), 1280, n)]
    with router() as lane:
        lane.send("v6", *[ethernet("v6", piece) for piece in pieces])
        assert lane.count("answered_echo_v4") == 1


def test_two_subscribers_with_one_identification() -> None:
    with router() as lane:
        two = fragments4(echo4(B2.ipv4, TUNNEL4, 2500, size=SIZE), 1400)
        for one, other in zip(INSIDE_PARTS, two, strict=True):
            lane.send("v6", ethernet("v6", from_b4(one, B1)), ethernet("v6", from_b4(other, B2)))
        assert lane.count("answered_echo_v4") == 2


@pytest.mark.parametrize(
    "segments", [[700, 814], [20, 20, 20, 1454], [14 + 20 + 4, 1476]], ids=["two", "in-headers", "in-icmp"]
)
def test_in_any_number_of_buffers(segments: list[int]) -> None:
    with router() as lane:
        lane.send("v4", ethernet("v4", PARTS[0]), segments=segments)
        seen = lane.send("v4", *[ethernet("v4", part) for part in PARTS[1:]])
        assert _answer(seen) == _reply(PING, ROUTER4, INET, 77)


# ------------------------------------------------------------------------------------------- what does not become whole
def _changed(part: bytes, field: int, size: int | None = None) -> bytes:
    cut = part if size is None else edit4(part[: 20 + size], 2, (20 + size).to_bytes(2))
    return edit4(cut, 6, field.to_bytes(2))


FAULTS = [
    ("overlap", [PARTS[0], _changed(PARTS[1], MF | 184)], {"drop_fragment_v4_bad": 2}),
    ("twice the same", [PARTS[0], PARTS[0]], {"drop_fragment_v4_bad": 1, "held_fragment_v4": 1}),
    ("no multiple of 8", [_changed(PARTS[0], MF, 1001)], {"drop_fragment_v4_bad": 1}),
    ("nothing in it", [_changed(PARTS[0], MF, 0)], {"drop_fragment_v4_bad": 1}),
    ("beyond 65535", [_changed(PARTS[0], 8180)], {"drop_fragment_v4_bad": 1}),
    ("behind its end", [PARTS[2], _changed(PARTS[1], MF | 1000)], {"drop_fragment_v4_bad": 2}),
    ("ECN of two minds", [edit4(PARTS[0], 1, b"\3"), edit4(PARTS[1], 1, b"\0"), PARTS[2]], {"drop_fragment_v4_bad": 3}),
    ("no ping but UDP", fragments4(udp(INET, ROUTER4, 1, 2, size=3000), 1500)[:1], {"drop_v4_local": 1}),
    ("a reply", fragments4(echo4(INET, ROUTER4, 7, size=SIZE, reply=True), 1500),
     {"drop_v4_local": 1, "reassembled_fragment": 2}),
    ("a wrong ICMP checksum", [PARTS[0], PARTS[1], PARTS[2][:-1] + bytes([PARTS[2][-1] ^ 1])],
     {"drop_v4_local": 1, "reassembled_fragment": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "parts", "ways"), FAULTS, ids=[row[0] for row in FAULTS])
def test_no_answer(what: str, parts: list[bytes], ways: dict[str, int]) -> None:
    with router() as lane:
        assert lane.send("v4", *[ethernet("v4", part) for part in parts]) == []
        assert lane.ways() == ways


def _incomplete_outside(lane: Router) -> bytes:
    assert lane.send("v4", *[ethernet("v4", part) for part in PARTS[:2]]) == []
    return sent("v4", own_error4(PARTS[0], 11, 1, src=ROUTER4))[1]


def _incomplete_inside(lane: Router) -> bytes:
    assert lane.send("v6", *[ethernet("v6", from_b4(part, B1)) for part in INSIDE_PARTS[:2]]) == []
    return sent("v6", encap(own_error4(INSIDE_PARTS[0], 11, 1, src=TUNNEL4), B1))[1]


@pytest.mark.parametrize("case", [_incomplete_outside, _incomplete_inside], ids=["internet", "softwire"])
def test_the_sender_of_an_incomplete_ping_is_told(case: Callable[[Router], bytes]) -> None:
    """RFC 1122 section 3.3.2: 11/1 if the first fragment came."""
    with router() as lane:
        wanted = case(lane)
        assert lane.ways() == {"held_fragment_v4": 2}
        told = [frame for _ in range(61) for _, frame in lane.advance(1000)]
        assert [frame for frame in told if frame == wanted] == [wanted]
        assert lane.ways() == {"held_fragment_v4": -2, "drop_fragment_v4_timeout": 2}


def test_without_the_first_fragment_nobody_is_told() -> None:
    with router() as lane:
        lane.send("v4", ethernet("v4", PARTS[1]))
        told = [frame for _ in range(61) for _, frame in lane.advance(1000) if dissect(frame).payload[9] == ICMP]
        assert told == []
        assert lane.ways() == {"drop_fragment_v4_timeout": 1}


def test_a_flood_of_pings_in_fragments_is_bounded() -> None:
    """One sender holds an eighth of the packets at most."""
    options = changed(settings(), {"reassembly": {"max_packets": 80, "max_fragments": 64, "timeout_s": 60}})
    with router(options) as lane:
        first = [edit4(PARTS[0], 4, n.to_bytes(2)) for n in range(100)]
        lane.send("v4", *[ethernet("v4", part) for part in first])
        assert lane.ways() == {"held_fragment_v4": 10, "drop_fragment_v4_limit": 90}
        other = fragments4(echo4("198.51.100.99", ROUTER4, 1, size=SIZE), 1500)
        lane.send("v4", *[ethernet("v4", part) for part in other])
        assert lane.count("answered_echo_v4") == 1


def test_options_of_the_first_fragment_count() -> None:
    """Its header may be longer than those of the others."""
    body = PARTS[0][20 : 20 + 1472]
    first = ipv4(INET, ROUTER4, ICMP, body, flags=MF, ident=0x1234, options=bytes([1, 1, 1, 0]), tos=0x10)
    with router() as lane:
        rest = ipv4(INET, ROUTER4, ICMP, PING[20 + 1472 :], ident=0x1234, offset=1472, tos=0x10)
        seen = lane.send("v4", ethernet("v4", first), ethernet("v4", rest))
        assert _answer(seen) == _reply(PING, ROUTER4, INET, 77)


def test_packets_that_pass_are_still_not_put_together() -> None:
    with router() as lane:
        parts = fragments4(echo4(INET, B1.ipv4, 1500, size=SIZE), 1500)
        lane.send("v4", *[ethernet("v4", part) for part in parts])
        assert (lane.count("encap"), lane.count("reassembled")) == (3, 0)
