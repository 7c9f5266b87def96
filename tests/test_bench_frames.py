"""The frames of `pylwaftr bench ports` and its neighbours, against the router's own stages."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
import pytest
import yaml

from pylwaftr import _core, config
from pylwaftr.bench import forward, plan, trial
from pylwaftr.bench.neighbors import Arp, Ndp
from pylwaftr.rows import Rows
from tests.lane_router import start_eal

MAC4, MAC6 = bytes.fromhex("020000000a04"), bytes.fromhex("020000000a06")
ROUTER4, ROUTER6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8:fffe::2")
OWN4, OWN6 = IPv4Address("192.0.2.254"), IPv6Address("2001:db8:fffe::1")
HOST = int(IPv4Address("198.51.100.1"))
FRAMES = 200


# --- the link, against the router's own stages ---


def lane_of(rows: Rows, resolved: bool = True) -> Any:
    start_eal()
    wanted = forward.configuration("default")
    if not resolved:
        for side in wanted["interfaces"].values():
            del side["next_hop_mac"]
    table = _core.BindingTable(max(len(rows), 1))
    assert not table.bind(rows, _core.SOURCE_CONFIG, 1)["refused"]
    return _core.Lane(config.core_settings(config.load_text(yaml.safe_dump(wanted))), table)


def test_the_router_finds_the_tester_and_the_tester_the_router() -> None:
    rows = _core.bench_rows(0, 8)
    lane = lane_of(rows, resolved=False)
    links = {"v4": Arp(MAC4, OWN4, ROUTER4), "v6": Ndp(MAC6, OWN6, ROUTER6)}
    for side, link in links.items():
        question = link.question()
        assert question is not None
        lane.feed(side, question)
    lane.interface_up()
    for _ in range(3):
        for side, frame in lane.take():
            if (answer := links[side].heard(frame)) is not None:
                lane.feed(side, answer)
        lane.advance(1000)
    assert [links[side].router_mac for side in ("v4", "v6")] == list(forward.MACS)
    lane.take()
    frame = stream("encap", rows).frame(0)
    lane.feed("v4", frame)
    assert [(side, sent[:6]) for side, sent in lane.take() if len(sent) >= len(frame)] == [("v6", MAC6)]


def test_a_solicited_answer_says_so_and_overrides() -> None:
    """RFC 4861 section 7.2.4: S and O, to who asked, with our MAC; no R, for the tester is a host."""
    asking, asked = Ndp(MAC4, ROUTER6, OWN6), Ndp(MAC6, OWN6, ROUTER6)
    question = asking.question()
    assert question is not None
    answer = asked.heard(question)
    assert answer is not None
    assert answer[:12] == MAC4 + MAC6
    assert (answer[14 + 7], answer[38:54]) == (255, ROUTER6.packed)
    assert (answer[54], answer[58], answer[62:78], answer[78:]) == (136, 0x60, OWN6.packed, b"\2\1" + MAC6)
    assert asking.heard(answer) is None
    assert asking.router_mac == MAC6


@pytest.mark.parametrize("link", [Arp(MAC4, OWN4, ROUTER4), Ndp(MAC6, OWN6, ROUTER6)], ids=["ARP", "ND"])
def test_the_tester_never_answers_for_the_router(link: Arp | Ndp) -> None:
    other = Arp(b"\x02" * 6, OWN4, ROUTER4) if isinstance(link, Arp) else Ndp(b"\x02" * 6, OWN6, ROUTER6)
    question = other.question()
    assert question is not None
    assert link.heard(question) is None
    assert all(link.heard(question[:length]) is None for length in range(len(question)))


def test_a_link_that_was_told_the_mac_asks_nothing() -> None:
    assert Arp(MAC4, None, None, forward.MACS[0]).question() is None
    assert Ndp(MAC6, None, None, forward.MACS[1]).question() is None


# --- frames and verdicts ---


def stream(direction: str, rows: Rows, octets: Iterable[int] = (128,), number: int = 7, frames: int = FRAMES) -> Any:
    to, mac = (forward.MACS[0], MAC4) if direction == "encap" else (forward.MACS[1], MAC6)
    more = 0 if direction == "encap" else 40
    sizes = [size - 4 + more for size in octets]
    return _core.BenchStream(direction, _core.BenchBindings(rows), sizes, to, mac, HOST, number, frames)


def through(lane: Any, sent: Any, frames: int = FRAMES) -> list[tuple[str, bytes]]:
    side = {"encap": "v4", "decap": "v6"}
    seen: list[tuple[str, bytes]] = []
    direction = sent[0]
    for number in range(frames):
        lane.feed(side[direction], sent[1].frame(number, number))
        seen += lane.take()
    return seen


def judged_by(
    side: str, expected: Any, seen: Iterable[tuple[str, bytes]], tags: tuple[int, int, int] = (0, 1, 0)
) -> Any:
    judge = _core.BenchJudge(side, 7, expected, tags)
    for on, frame in seen:
        if on == side:
            judge.see(frame, 1_000)
    return judge.ledger()


def out_of(direction: str) -> str:
    return trial.SIDES[direction][1]


def shared_and_whole() -> Rows:
    """Port sets by offset, without, of one port, and a whole address."""
    rows = np.concatenate([_core.bench_rows(0, 100), _core.bench_rows(1000, 3)])
    rows["ipv4"][100:] = [int(IPv4Address(f"203.0.113.{last}")) for last in (1, 2, 3)]
    rows["psid_offset"][100:], rows["psid_len"][100:] = (0, 0, 0), (4, 0, 16)
    rows["psid"][100:] = (3, 0, 40_000)
    return rows


@pytest.mark.parametrize("direction", ["encap", "decap"])
@pytest.mark.parametrize("octets", [(64,), (1280,), plan.wire_frames("imix")], ids=["64", "1280", "imix"])
def test_what_the_router_forwards_is_right(direction: str, octets: tuple[int, ...]) -> None:
    rows = shared_and_whole()
    sent = stream(direction, rows, octets)
    ledger = judged_by(out_of(direction), sent, through(lane_of(rows), (direction, sent)), (0, 1, FRAMES))
    assert (ledger["right"], ledger["wrong"], ledger["duplicates"], ledger["reordered"]) == (FRAMES, {}, 0, 0)
    wanted = np.bincount([sent.binding(number) for number in range(FRAMES)], minlength=len(rows))
    assert ledger["by_binding"].tolist() == wanted.tolist()
    assert ledger["delays"].tolist() == [1_000 - number for number in range(FRAMES)]


@pytest.mark.parametrize("direction", ["encap", "decap"])
def test_half_of_the_bindings_missing_is_loss(direction: str) -> None:
    rows = _core.bench_rows(0, 64)
    sent = stream(direction, rows)
    seen = through(lane_of(rows[::2]), (direction, sent))
    ledger = judged_by(out_of(direction), sent, seen)
    bound = sum(sent.binding(number) % 2 == 0 for number in range(FRAMES))
    assert 0 < bound < FRAMES
    assert (ledger["right"], ledger["wrong"]) == (bound, {})
    assert not ledger["by_binding"][1::2].any()
    # What the router said instead came out on the side of the sender.
    back = judged_by(trial.SIDES[direction][0], None, seen)
    assert back["icmp_errors"] > 0


def another(rows: Rows, field: str, octet: int) -> Rows:
    changed = rows.copy()
    changed[field][:, octet] ^= 1
    return changed


@pytest.mark.parametrize("field, what", [("b4", "outer_destination"), ("br", "outer_source")])
def test_another_b4_or_br_is_a_wrong_frame(field: str, what: str) -> None:
    rows = _core.bench_rows(0, 64)
    sent = stream("encap", rows)
    table = another(rows, field, 15)
    lane = lane_of(table) if field == "b4" else None
    if lane is None:  # the router knows one BR address: it is the tester that expects another
        lane, sent = lane_of(rows), stream("encap", table)
    ledger = judged_by("v6", sent, through(lane, ("encap", sent)))
    assert (ledger["right"], ledger["wrong"]) == (0, {what: FRAMES})


def test_faults_are_told_apart() -> None:
    rows = _core.bench_rows(0, 64)
    sent = stream("encap", rows)
    good = [frame for _, frame in through(lane_of(rows), ("encap", sent), 8)]
    ip = 14 + 40

    def with_octet(frame: bytes, at: int, value: int) -> bytes:
        return frame[:at] + bytes([frame[at] ^ value]) + frame[at + 1 :]

    faulty = [
        ("inner_addresses", with_octet(good[0], ip + 15, 1)),
        ("ports", with_octet(good[1], ip + 23, 1)),
        ("checksum", with_octet(good[2], ip + 10, 1)),
        ("length", good[3][:-40]),
        ("link", sent.frame(4)),
        ("number", with_octet(good[5], ip + 28 + 6, 0x80)),
    ]
    ledger = judged_by("v6", sent, [("v6", frame) for _, frame in faulty])
    assert ledger["wrong"] == {what: 1 for what, _ in faulty}
    assert ledger["right"] == 0


def test_order_duplicates_late_and_misdirected_frames() -> None:
    rows = _core.bench_rows(0, 64)
    sent, earlier = stream("encap", rows), stream("encap", rows, number=6)
    good = [frame for _, frame in through(lane_of(rows), ("encap", sent), 6)]
    old = [frame for _, frame in through(lane_of(rows), ("encap", earlier), 2)]
    order = [good[0], good[2], good[1], good[1], good[5], good[3], *old]
    ledger = judged_by("v6", sent, [("v6", frame) for frame in order])
    assert (ledger["right"], ledger["reordered"], ledger["duplicates"], ledger["late"]) == (5, 2, 1, 2)
    back = judged_by("v4", stream("decap", rows), [("v4", frame) for frame in good])
    assert (back["right"], back["misdirected"]) == (0, 6)


def test_a_duplicate_after_a_long_gap_is_still_one() -> None:
    """Bits of numbers that the window has left behind are those of others now."""
    rows = _core.bench_rows(0, 4)
    sent = stream("decap", rows, frames=1 << 22)
    lane = lane_of(rows)
    numbers = [0, 5, (1 << 20) + 5, (1 << 20) + 5, (1 << 20) + 4, 3 << 20, (3 << 20) - 1]
    for number in numbers:
        lane.feed("v6", sent.frame(number))
    ledger = judged_by("v4", sent, lane.take())
    assert (ledger["right"], ledger["duplicates"], ledger["reordered"]) == (6, 1, 2)


def test_anything_may_come_in() -> None:
    judge = _core.BenchJudge("v6", 7, stream("encap", _core.bench_rows(0, 4)))
    frame = through(lane_of(_core.bench_rows(0, 4)), ("encap", stream("encap", _core.bench_rows(0, 4))), 1)[0][1]
    for length in range(len(frame)):
        judge.see(frame[:length])
    rng = np.random.default_rng(1)
    for _ in range(2000):
        at = int(rng.integers(len(frame)))
        judge.see(frame[:at] + rng.bytes(3) + frame[at + 3 :])
    assert _core.BenchJudge("v4", 7).see(b"\xff" * 12 + b"\x08\x06" + bytes(46)) == "neighbour"


@pytest.mark.parametrize("direction, least", [("encap", 60), ("decap", 100)])
def test_the_least_frame_has_room_for_the_signature(direction: str, least: int) -> None:
    assert _core.BenchStream.least(direction) == least
    with pytest.raises(ValueError, match="too small"):
        stream(direction, _core.bench_rows(0, 1), [63])
