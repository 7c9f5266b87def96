"""Leases to bindings: what is heard in which order, and what the router then has."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.dhcp.codec_lease import Lease, State
from pylwaftr.dhcp.leases import FromTunnelAddress, Leases, Policy
from pylwaftr.dhcp.s46 import PortParams
from tests.lease_table import B4, MOVED, ONE, OTHER, RENEWED, SEVEN, Heard, Table
from tests.leasequery_peer import BR, ended, lease, rows

ORDERS = [  # what, heard of A and B, PSID -> B4, reports
    ("an active lease", [("A", ONE)], {1: B4}, []),
    ("the same twice", [("A", ONE), ("A", ONE)], {1: B4}, []),
    ("a renewal", [("A", ONE), ("A", RENEWED)], {1: B4}, []),
    ("another tunnel address", [("A", ONE), ("A", MOVED)], {1: "2001:db8:1ff:1::1"}, []),
    ("another tunnel address, then old news", [("A", MOVED), ("A", ONE)], {1: "2001:db8:1ff:1::1"}, []),
    ("released", [("A", ONE), ("A", ended(ONE, 80))], {}, []),
    ("released, then old news of the lease", [("A", ended(ONE, 80)), ("A", ONE)], {}, []),
    ("an end before any lease", [("A", ended(ONE, 80))], {}, []),
    ("expired", [("A", ONE), ("A", ended(ONE, 80, State.EXPIRED))], {}, []),
    ("abandoned", [("A", ONE), ("A", ended(ONE, 80, State.ABANDONED))], {}, []),
    (
        "reset, with an unchanged last transaction",
        [("A", ONE), ("A", replace(ended(ONE, 80, State.RESET), cltt=ONE.cltt))],
        {},
        [],
    ),
    ("available", [("A", ONE), ("A", ended(ONE, 80, State.AVAILABLE))], {}, []),
    ("11 without a state", [("A", ONE), ("A", ended(ONE, 80, State.UNASSIGNED))], {}, []),
    ("transitioning keeps", [("A", ONE), ("A", ended(ONE, 80, State.TRANSITIONING))], {1: B4}, []),
    ("transitioning installs nothing", [("A", ended(ONE, 80, State.TRANSITIONING))], {}, []),
    (
        "X09: the old client's end comes late",
        [("A", ONE), ("A", OTHER), ("A", ended(ONE, 90))],
        {1: "2001:db8:99::1"},
        [],
    ),
    ("no option 109 keeps what the same client has", [("A", ONE), ("A", lease(1, 60, b4=None))], {1: B4}, ["no_b4"]),
    ("no option 109 of another client", [("A", ONE), ("A", lease(1, 60, b4=None, client=7))], {}, ["no_b4"]),
    ("an unusable option 109", [("A", ONE), ("A", lease(1, 60, b4="fe80::1"))], {}, ["bad_b4"]),
    ("our own address as option 109", [("A", lease(1, 0, b4=str(BR)))], {}, ["bad_b4"]),
    (
        "REMOTE takes back only the own claim",
        [("A", ONE), ("B", ONE), ("A", ended(ONE, 80, State.REMOTE))],
        {1: B4},
        [],
    ),
    ("what is free but the partner's is the partner's", [("B", ONE), ("A", ended(ONE, 80, State.REMOTE))], {1: B4}, []),
    ("old news after REMOTE", [("A", ONE), ("A", ended(ONE, 80, State.REMOTE)), ("A", ONE)], {}, []),
    ("in transition at the partner", [("B", ONE), ("A", ended(ONE, 80, State.TRANSITIONING))], {1: B4}, []),
    ("old news after a transition", [("A", ended(ONE, 80, State.TRANSITIONING)), ("A", ONE)], {}, []),
    ("both have it, the partner tells of the end (X10)", [("A", ONE), ("B", ONE), ("B", ended(ONE, 80))], {}, []),
    (
        "an end with the same last transaction, by the partner",
        [("A", ONE), ("B", replace(ended(ONE, 80), cltt=ONE.cltt))],
        {},
        [],
    ),
    ("the partner's old news", [("A", RENEWED), ("B", ended(ONE, 10))], {1: B4}, []),
    ("two B4s: the later transaction", [("A", ONE), ("B", MOVED)], {1: "2001:db8:1ff:1::1"}, ["servers_disagree"]),
    (
        "two B4s within two seconds: the configured order",
        [("A", ONE), ("B", lease(1, 1, b4=SEVEN, since=1))],
        {1: B4},
        ["servers_disagree"],
    ),
    (
        "two B4s within two seconds: not the REMOTE one",
        [("A", replace(ONE, remote=True)), ("B", lease(1, 1, b4=SEVEN, since=1))],
        {1: SEVEN},
        ["servers_disagree"],
    ),
    (
        "overlapping port sets: the newer lease",
        [("A", lease(2, 0)), ("A", lease(5, 100, psid_len=7))],
        {5: "2001:db8:100:5::5"},
        ["other_division"],
    ),
    (
        "overlapping port sets: old news",
        [("A", lease(5, 100, psid_len=7)), ("A", lease(2, 0))],
        {5: "2001:db8:100:5::5"},
        ["other_division"],
    ),
    (
        "whole against shared",
        [("A", lease(0, 0, psid_len=0)), ("A", lease(5, 100))],
        {5: "2001:db8:100:5::5"},
        ["other_division"],
    ),
    (
        "the loser comes back",
        [("A", lease(2, 0)), ("A", lease(5, 100, psid_len=7)), ("A", ended(lease(5, 100, psid_len=7), 200))],
        {2: "2001:db8:100:2::2"},
        ["other_division"],
    ),
    (
        "one client with two leases at one B4",
        [("A", lease(1, client=1, b4="2001:db8::5")), ("A", lease(2, client=1, b4="2001:db8::5"))],
        {1: "2001:db8::5", 2: "2001:db8::5"},
        [],
    ),
    (
        "two clients at one B4",
        [("A", lease(1, b4="2001:db8::5")), ("A", lease(2, b4="2001:db8::5"))],
        {1: "2001:db8::5", 2: "2001:db8::5"},
        ["b4_shared"],
    ),
]


@pytest.mark.parametrize("what, heard, bound, reports", ORDERS, ids=[row[0] for row in ORDERS])
def test_what_is_heard_and_what_is_bound(
    what: str, heard: list[Heard], bound: dict[int, str], reports: list[str]
) -> None:
    table = Table()
    table.hear(*heard)
    assert (table.psids, table.reports) == (bound, reports)


@pytest.mark.parametrize("what, heard, bound, reports", ORDERS, ids=[row[0] for row in ORDERS])
def test_the_same_in_one_batch_per_server(
    what: str, heard: list[Heard], bound: dict[int, str], reports: list[str]
) -> None:
    if len({name for name, _ in heard}) == 1:
        table = Table()
        table.heed(table.leases.heard("A", rows(*(one for _, one in heard)), 0.0))
        assert table.psids == bound


def test_an_end_without_a_port_set_ends_the_one_lease_of_its_client() -> None:
    """V030: an address is shared, and the message names only the address and the client."""
    table = Table()
    table.hear(("A", lease(1)), ("A", lease(2)))
    table.hear(("A", replace(ended(lease(1), 80), ports=None)))
    assert (set(table.psids), table.resync) == ({2}, set())


def test_an_end_without_a_port_set_and_without_a_match_ends_nothing() -> None:
    table = Table()
    table.hear(("A", lease(1)), ("A", lease(2)))
    table.hear(("A", replace(ended(lease(3), 80), ports=None)))
    assert (set(table.psids), table.resync, table.reports) == ({1, 2}, {"A"}, ["whose_port_set"])


def test_an_end_without_a_port_set_of_a_lease_of_the_same_batch() -> None:
    table = Table()
    silent = replace(ended(lease(1), 80), ports=None)
    table.heed(table.leases.heard("A", rows(lease(1), lease(2), silent), 0.0))
    assert (set(table.psids), table.resync, table.reports) == ({2}, set(), [])


@pytest.mark.parametrize("seed", range(20))
def test_ends_without_a_port_set_in_one_batch_are_as_one_by_one(seed: int) -> None:
    rng, news, one_by_one, at_once = random.Random(seed), list[Lease](), Table(), Table()
    for at in range(60):
        one = lease(rng.randrange(4), at, ipv4=f"198.51.100.{rng.randrange(3)}", client=rng.randrange(6))
        news.append(one if rng.random() < 0.6 else replace(ended(one, at), ports=None))
    one_by_one.hear(*(("A", one) for one in news))
    at_once.heed(at_once.leases.heard("A", rows(*news), 0.0))
    assert (at_once.bound, at_once.resync) == (one_by_one.bound, one_by_one.resync)


def test_an_end_without_a_port_set_of_a_whole_address() -> None:
    table = Table()
    one = replace(lease(0, psid_len=0), ports=None)
    table.hear(("A", one))
    assert set(table.bound) == {("198.51.100.10", 0, 0, 0)}
    table.hear(("A", replace(ended(one, 80), ports=None)))
    assert table.bound == {}


def test_a_source_of_port_sets_for_servers_of_whole_addresses() -> None:
    table = Table(Policy("A", port_sets=FromTunnelAddress(6)))
    table.hear(("A", replace(lease(0, client=7, b4="2001:db8::c633:640a:3"), ports=None)))
    assert set(table.bound) == {("198.51.100.10", 0, 6, 3)}
    table.hear(("A", replace(ended(lease(0, client=7), 80), ports=None)))
    assert table.bound == {}


# --- mark and sweep ---------------------------------------------------------------------------------------------------


def test_a_sweep_takes_only_what_its_server_left_unsaid() -> None:
    table = Table()
    table.hear(("A", lease(1)), ("A", lease(2)), ("B", lease(3)))
    table.leases.bulk_begins("A")
    table.hear(("A", lease(1)), ("A", lease(4)))
    table.heed(table.leases.bulk_ends("A"))
    assert set(table.psids) == {1, 3, 4}


def test_old_news_in_a_bulk_still_proves_the_lease() -> None:
    table = Table()
    table.hear(("A", RENEWED))
    table.leases.bulk_begins("A")
    table.hear(("A", ONE))
    table.heed(table.leases.bulk_ends("A"))
    assert set(table.psids) == {1}


def many(count: int, at: float = 0.0) -> Any:
    return rows(
        *(lease(n % 63 + 1, at, ipv4=f"198.51.{n // 63}.10", b4=f"2001:db8:5::{n:x}", client=n) for n in range(count))
    )


def test_the_end_of_most_leases_needs_a_second_opinion() -> None:
    table = Table()
    table.heed(table.leases.heard("A", many(1000), 0))
    for round_, left in ((1, 1000), (2, 0)):
        table.leases.bulk_begins("A")
        table.heed(table.leases.bulk_ends("A"))
        assert len(table.bound) == left, round_
    assert table.reports == ["mass_removal"]


def test_the_memory_of_what_has_ended_is_given_back() -> None:
    table = Table()
    for at in range(0, 100, 10):
        table.heed(table.leases.heard("A", many(50, at), at))
        ends = many(50, at + 1)
        ends["state"] = State.RELEASED
        table.heed(table.leases.heard("A", ends, at))
        table.leases.bulk_begins("A")
        table.heed(table.leases.bulk_ends("A"))
        assert len(table.leases._table) == 0
        assert table.leases._table.count <= 50


def test_no_more_leases_than_there_is_room_for() -> None:
    leases = Leases([Policy("A")], BR.packed, most=100)
    out = leases.heard("A", many(150), 0)
    assert (len(leases.take().bind), len(leases), [r.name for r in out.reports]) == (100, 100, ["too_many"])


# --- any order --------------------------------------------------------------------------------------------------------

versions = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, None])), min_size=1, max_size=12)


@given(versions, st.randoms(use_true_random=False))
def test_old_and_new_news_in_any_order_end_the_same(told: list[tuple[int, int | None]], rng: Any) -> None:
    """Each key's news have times of their own; whatever their order and batches, the latest decides."""
    news = [
        lease(psid, 10 * at, client=n, b4=f"2001:db8:{psid}::{n}") if n is not None else ended(lease(psid), 10 * at)
        for at, (psid, n) in enumerate(told)
    ]
    last = dict(told)
    expected = {psid: str(IPv6Address(f"2001:db8:{psid}::{n}")) for psid, n in last.items() if n is not None}
    mixed = [*news, *news]
    rng.shuffle(mixed)
    table = Table()
    while mixed:
        size = rng.randrange(1, len(mixed) + 1)
        table.heed(table.leases.heard("A", rows(*mixed[:size]), 0.0))
        del mixed[:size]
    assert table.psids == expected


def test_port_params_stay_what_they_are() -> None:
    table = Table()
    table.hear(("A", replace(lease(1), ports=PortParams(6, 8, 0x34))))
    assert set(table.bound) == {("198.51.100.10", 6, 8, 0x34)}


@pytest.mark.parametrize("later_s, bound", [(0, {}), (1, {}), (2, {1: B4})])
def test_within_a_second_a_bulk_does_not_undo_what_the_stream_told(later_s: int, bound: dict[int, str]) -> None:
    """The record of the bulk was written before the release and read after it; base-times are of whole seconds."""
    table = Table()
    table.leases.bulk_begins("A")
    released = ended(lease(1, 80), 80)
    table.heed(table.leases.heard("A", rows(released), 0.0))
    waited = replace(lease(1, 80 + later_s), cltt=released.cltt, since=released.since)
    table.heed(table.leases.heard("A", rows(waited), 0.0, bulk=True))
    assert table.psids == bound
    table.leases.bulk_begins("A")  # what the next bulk says of it was written later in any case
    table.heed(table.leases.heard("A", rows(waited), 0.0, bulk=True))
    assert table.psids == {1: B4}
