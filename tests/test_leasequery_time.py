"""Leases that end by themselves, restarts, and servers that go."""

from __future__ import annotations

import pytest

from pylwaftr.dhcp.codec_lease import State
from pylwaftr.dhcp.leases import Policy
from tests.lease_table import Table
from tests.leasequery_peer import ended, lease

# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold, live, left_at", [(0, True, 60), (0, False, 60), (100, True, 60), (100, False, 160)])
def test_a_lease_ends_by_itself(hold: float, live: bool, left_at: float) -> None:
    table = Table(Policy("A", hold_s=hold))
    table.hear(("A", lease(1, lifetime=60)), ("A", lease(2, lifetime=0xFFFFFFFF)), ("A", lease(3, lifetime=1000)))
    table.leases.set_live("A", live)
    for at in range(0, 200, 10):
        table.heed(table.leases.expire(at))
        assert set(table.psids) == ({1, 2, 3} if at < left_at else {2, 3}), at
    due = table.leases.timer()
    assert due is not None
    assert due >= 1000 - 1


def test_a_renewal_moves_the_deadline() -> None:
    table = Table()
    table.leases.set_live("A", True)
    table.hear(("A", lease(1, lifetime=60)))
    table.hear(("A", lease(1, 50, lifetime=60, since=0)), now=50)
    table.heed(table.leases.expire(100))
    assert set(table.psids) == {1}
    table.heed(table.leases.expire(110))
    assert set(table.psids) == set()
    table.hear(("A", lease(1, 200, since=0)), now=200)  # the server knew better
    assert set(table.psids) == {1}


def test_a_lease_without_a_lifetime_is_verified_within_the_hour() -> None:
    table = Table()
    table.hear(("A", lease(1, lifetime=None)))
    table.heed(table.leases.expire(3599))
    assert table.resync == set()
    table.heed(table.leases.expire(3600))
    assert (table.resync, set(table.psids)) == ({"A"}, {1})


# --- restarts ---------------------------------------------------------------------------------------------------------


def restored(hold_s: float = 100.0) -> Table:
    before, table = Table(), Table()
    before.hear(("A", lease(1)), ("A", lease(2)), ("B", lease(3)))
    table.bound = dict(before.bound)
    table.heed(table.leases.restore(before.leases.bindings(), 0.0, hold_s))
    return table


def test_what_was_bound_stays_until_all_servers_have_told_all() -> None:
    table = restored()
    assert set(table.psids) == {1, 2, 3}
    for name, left in (("A", {1, 2, 3}), ("B", {1, 3})):
        table.leases.bulk_begins(name)
        table.hear((name, lease(1 if name == "A" else 3)))
        table.heed(table.leases.bulk_ends(name))
        assert set(table.psids) == left


def test_what_was_bound_stays_no_longer_than_the_grace() -> None:
    table = restored()
    table.hear(("A", lease(1)))
    table.heed(table.leases.expire(99))
    assert set(table.psids) == {1, 2, 3}
    table.heed(table.leases.expire(100))
    assert set(table.psids) == {1}


def test_any_news_is_better_than_what_was_bound() -> None:
    table = restored()
    table.hear(("A", ended(lease(1), -5000)), ("B", lease(2, b4="2001:db8:7::7", client=77)))
    assert table.psids == {2: "2001:db8:7::7", 3: "2001:db8:100:3::3"}


@pytest.mark.parametrize("state", [State.REMOTE, State.TRANSITIONING])
def test_what_a_server_leaves_to_others_does_not_end_what_was_bound(state: State) -> None:
    table = restored()
    table.hear(("A", ended(lease(3), 80, state)))
    assert set(table.psids) == {1, 2, 3}
    table.hear(("B", lease(3)))
    assert set(table.psids) == {1, 2, 3}


def test_a_server_that_is_configured_no_more_takes_its_leases_along() -> None:
    table = Table()
    table.hear(("A", lease(1)), ("B", lease(2)), ("B", lease(1, 50, since=0)))
    table.heed(table.leases.remove("B"))
    assert set(table.psids) == {1}


def test_a_server_whose_clock_went_back_is_believed_after_a_rebase() -> None:
    table = Table()
    table.hear(("A", lease(1, 1000)))
    table.leases.rebase("A")
    table.hear(("A", ended(lease(1), 10)))
    assert table.bound == {}
