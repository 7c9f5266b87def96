"""Softwires of a subscriber and its moves (RFC 7785)."""

from __future__ import annotations

from ipaddress import IPv6Address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr import rows as r
from pylwaftr.rows import BINDING_ROW, Rows
from pylwaftr.subscriber import Moves, Subscribers, Verdict

BR = "2001:db8:ffff::1"


def rows(*softwires: str) -> Rows:
    """Each `B4`, or `B4>BR`; every row with a port set of its own."""
    made = []
    for psid, softwire in enumerate(softwires):
        b4, _, br = softwire.partition(">")
        made.append(r.row(0xC0000205, 0, 16, psid, IPv6Address(b4).packed, IPv6Address(br or BR).packed))
    return r.array(made)


A1, A2, A3 = "2001:db8:1:100::1", "2001:db8:1:1ff::2", "2001:db8:1:180::3"  # one /56
B1 = "2001:db8:1:200::1"

ADMISSION = [
    # what, limit, bound before, asked, refused
    ("the first softwire", 1, [], [A1], [False]),
    ("a second address of the prefix", 1, [A1], [A2], [True]),
    ("more port sets of the same softwire", 1, [A1], [A1, A1], [False, False]),
    ("another prefix", 1, [A1], [B1], [False]),
    ("the same B4 to another BR is another softwire", 1, [A1], [f"{A1}>2001:db8:ffff::2"], [True]),
    ("two may be, three not", 2, [A1], [A2, A3, A2], [False, True, False]),
    ("the rows before count in one batch", 1, [], [A1, A2, A1, B1, A3], [False, True, False, False, True]),
    ("nothing asked", 1, [A1], [], []),
]


@pytest.mark.parametrize("what, limit, before, asked, refused", ADMISSION, ids=[row[0] for row in ADMISSION])
def test_admission(what: str, limit: int, before: list[str], asked: list[str], refused: list[bool]) -> None:
    subscribers = Subscribers(56, limit)
    subscribers.add(rows(*before))
    assert subscribers.refused(rows(*asked)).tolist() == refused
    assert subscribers.refused(rows(*asked)).tolist() == refused  # asking changes nothing


def test_a_softwire_counts_until_its_last_binding_goes() -> None:
    subscribers = Subscribers(56, 1)
    subscribers.add(rows(A1, A1))
    subscribers.remove(rows(A1))
    assert subscribers.refused(rows(A2)).tolist() == [True]
    subscribers.remove(rows(A1))
    assert subscribers.refused(rows(A2)).tolist() == [False]
    assert subscribers.softwires(IPv6Address(A1).packed) == 0


@pytest.mark.parametrize("mask, same", [(48, True), (55, False), (56, False), (128, False)])
def test_the_mask_says_who_a_subscriber_is(mask: int, same: bool) -> None:
    subscribers = Subscribers(mask, 1)
    subscribers.add(rows(A1))
    assert subscribers.refused(rows(B1)).tolist() == [same]


def test_who_has_more_softwires_than_allowed_is_known() -> None:
    subscribers = Subscribers(56, 1)
    subscribers.add(rows(A1, A1, B1))
    assert subscribers.crowded(rows(A1, B1)).tolist() == [False, False]
    subscribers.add(rows(A2))
    assert subscribers.crowded(rows(A1, B1, A3)).tolist() == [True, False, True]
    subscribers.reconfigure(56, 2)
    assert not subscribers.crowded(rows(A1, A2)).any()
    assert subscribers.crowded(rows()).tolist() == []


def test_who_adds_learns_whether_a_subscriber_has_too_many() -> None:
    subscribers = Subscribers(56, 1)
    assert not subscribers.add(rows(A1, B1, A1))
    assert subscribers.add(rows(A2))
    assert subscribers.add(rows(A1))  # a port set more of a softwire that there was
    assert not subscribers.add(rows(B1))
    assert not subscribers.add(rows())


def test_of_many_subscribers_one_without_room_is_looked_at_closely() -> None:
    subscribers = Subscribers(56, 2)
    subscribers.add(rows(A1, A2))
    asked = rows(B1, A3, A1, "2001:db8:1:300::1", "2001:db8:1:300::2", "2001:db8:1:300::3", B1)
    assert subscribers.refused(asked).tolist() == [False, True, False, False, False, True, False]
    less = rows(A2)
    assert subscribers.refused(asked, less).tolist() == [False, False, False, False, False, True, False]
    assert subscribers.softwires(IPv6Address(A1).packed) == 2


def test_more_rows_of_one_subscriber_than_are_counted_apart() -> None:
    count, limit = 70_000, 68_000
    asked = np.repeat(rows(A1), count)
    asked["b4"].view(">u8")[:, 1] = np.arange(count)
    assert np.flatnonzero(Subscribers(56, limit).refused(asked)).tolist() == list(range(limit, count))
    assert not Subscribers(56, count).refused(asked).any()


def test_ten_thousand_addresses_of_one_prefix_get_the_limit() -> None:
    subscribers = Subscribers(56, 3)
    first = int(IPv6Address("2001:db8:7:700::"))
    walk = [str(IPv6Address(first + i * 0x1_0000_0001)) for i in range(10_000)]
    granted = 0
    for begin in range(0, len(walk), 1000):
        asked = rows(*walk[begin : begin + 1000])
        admitted = asked[~subscribers.refused(asked)]
        subscribers.add(admitted)
        granted += len(admitted)
    assert granted == 3
    assert subscribers.softwires(IPv6Address(walk[-1]).packed) == 3


_SOFTWIRES = st.sampled_from([A1, A2, A3, B1, "2001:db8:1:2ff::9", f"{A1}>2001:db8:ffff::2"])


@given(st.lists(st.tuples(st.booleans(), st.lists(_SOFTWIRES, max_size=6)), max_size=12), st.integers(1, 3))
def test_counts_are_those_of_a_plain_model(steps: list[tuple[bool, list[str]]], limit: int) -> None:
    subscribers, held = Subscribers(56, limit), list[str]()
    for add, names in steps:
        if not add:
            for name in [name for name in names if name in held][:1]:
                held.remove(name)
                subscribers.remove(rows(name))
            continue
        refused = []
        for name in names:
            pairs = {(_prefix(one), one) for one in held} | {(_prefix(name), name)}
            refused.append(name not in held and sum(p == _prefix(name) for p, _ in pairs) > limit)
            held += [] if refused[-1] else [name]
        assert subscribers.refused(rows(*names)).tolist() == refused
        subscribers.add(rows(*(name for name, no in zip(names, refused, strict=True) if not no)))
    for name in (A1, B1):
        assert subscribers.softwires(IPv6Address(name).packed) == len({h for h in held if _prefix(h) == _prefix(name)})


@given(st.lists(_SOFTWIRES, max_size=12), st.sampled_from([40, 47, 48, 55, 56, 60, 64, 128]))
def test_other_subscribers_have_the_same_softwires(names: list[str], mask: int) -> None:
    recut, anew = Subscribers(56, 2), Subscribers(mask, 3)
    for one in (recut, anew):
        one.add(rows(*names))
    recut.reconfigure(mask, 3)
    for name in (A1, A2, A3, B1):
        assert recut.softwires(IPv6Address(name).packed) == anew.softwires(IPv6Address(name).packed)
    asked = rows(A2, A3, B1, f"{B1}>2001:db8:ffff::3")
    assert recut.refused(asked).tolist() == anew.refused(asked).tolist()


@given(st.lists(_SOFTWIRES, max_size=8), st.lists(_SOFTWIRES, max_size=6), st.integers(1, 3))
def test_what_goes_makes_room(held: list[str], asked: list[str], limit: int) -> None:
    beside, less = Subscribers(56, limit), Subscribers(56, limit)
    beside.add(rows(*held))
    less.add(rows(*held[2:]))
    assert beside.refused(rows(*asked), rows(*held[:2])).tolist() == less.refused(rows(*asked)).tolist()
    beside.remove(rows(*held[:2]))  # asking has changed nothing
    assert beside.refused(rows(*asked)).tolist() == less.refused(rows(*asked)).tolist()


def test_what_is_left_out_and_was_never_counted_is_not_counted_afterwards() -> None:
    subscribers = Subscribers(56, 1)
    subscribers.add(rows(A1))
    subscribers.refused(rows(A2), rows(A1, A1, A2, B1))
    assert [subscribers.softwires(IPv6Address(name).packed) for name in (A1, B1)] == [1, 0]
    subscribers.remove(rows(A1))
    assert subscribers.refused(rows(A2)).tolist() == [False]


def _prefix(softwire: str) -> int:
    return int(IPv6Address(softwire.partition(">")[0])) >> 72


def test_a_hundred_thousand_subscribers_come_and_go_in_little_memory() -> None:
    count = 100_000
    many = np.zeros(count, BINDING_ROW)
    many["ipv4"] = np.arange(count)
    many["b4"][:, :8] = (np.arange(count, dtype=np.uint64) << np.uint64(8)).astype(">u8").view(np.uint8).reshape(-1, 8)
    subscribers = Subscribers(56, 1)
    assert not subscribers.refused(many).any()
    subscribers.add(many)
    assert subscribers.octets() < 200 * count
    moved = many.copy()
    moved["b4"][:, 15] = 1
    assert subscribers.refused(moved).all()
    subscribers.remove(many)
    assert not subscribers.refused(moved).any()


# --- moves -----------------------------------------------------------------------------------------------------------

OLD, NEW, FAR = (IPv6Address(text).packed for text in (A1, A2, B1))

MOVES = [
    # what, setting, from, to, by data, seconds since the last move, verdict
    ("by PCP", "pcp", OLD, NEW, False, None, Verdict(True)),
    ("by data where only PCP moves", "pcp", OLD, NEW, True, None, Verdict(False, "disabled")),
    ("by data where that is allowed", "data", OLD, NEW, True, None, Verdict(True)),
    ("by PCP where data is allowed too", "data", OLD, NEW, False, None, Verdict(True)),
    ("where nothing moves", "reject", OLD, NEW, False, None, Verdict(False, "disabled")),
    ("into another subscriber's prefix", "data", OLD, FAR, True, None, Verdict(False, "other_subscriber")),
    ("again after 29 minutes", "pcp", OLD, NEW, False, 1740, Verdict(False, "too_soon", 60.0)),
    ("again after 30 minutes", "pcp", OLD, NEW, False, 1800, Verdict(True)),
]


@pytest.mark.parametrize("what, setting, old, new, by_data, since, verdict", MOVES, ids=[row[0] for row in MOVES])
def test_moves(
    what: str, setting: str, old: bytes, new: bytes, by_data: bool, since: int | None, verdict: Verdict
) -> None:
    moves = Moves(56, setting, 1800)
    if since is not None:
        moves.note(old, 1000.0)
    assert moves.judge(old, new, 1000.0 + (since or 0), by_data) == verdict
