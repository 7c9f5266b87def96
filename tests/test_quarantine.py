"""Leases over their subscriber's limit: what is bound, what waits, and what gets its turn."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from pylwaftr import rows
from pylwaftr.applied import Applied
from pylwaftr.changes import Report, Source
from pylwaftr.daemon.quarantine import Quarantine
from pylwaftr.row_sets import Sourced
from pylwaftr.subscriber import Subscribers

BR = IPv6Address("2001:db8:aa::1").packed
NONE = rows.no_rows()


def lease(psid: int, b4: str) -> rows.Rows:
    return rows.array([rows.row(int(IPv4Address("203.0.113.1")), 0, 6, psid, IPv6Address(b4).packed, BR)])


def psids(found: rows.Rows) -> list[int]:
    return sorted(found["psid"].tolist())


FIRST, SECOND = lease(1, "2001:db8:1:100::1"), lease(2, "2001:db8:1:1ff::2")  # one /56
OTHER = lease(3, "2001:db8:1:200::1")


def done(limits: Quarantine, gone: rows.Rows, come: rows.Rows) -> None:
    limits.observe(Applied(Report(), gone=Sourced.of(gone, Source.DHCP), come=Sourced.of(come, Source.DHCP)))


def test_the_second_softwire_of_a_subscriber_waits_until_the_first_has_gone() -> None:
    limits = Quarantine(56, 1, NONE)
    _, admitted = limits.admit(NONE, FIRST, NONE)
    assert psids(admitted) == [1]
    done(limits, NONE, admitted)
    _, admitted = limits.admit(NONE, rows.array([*SECOND.tolist(), *OTHER.tolist()]), NONE)
    assert (psids(admitted), psids(limits.waiting)) == ([3], [2])
    done(limits, NONE, admitted)
    gone, admitted = limits.admit(FIRST, NONE, FIRST)
    assert (psids(gone), psids(admitted), psids(limits.waiting)) == ([1], [2], [])


def test_a_lease_that_ends_while_it_waits_is_forgotten() -> None:
    limits = Quarantine(56, 1, FIRST)
    limits.admit(NONE, SECOND, NONE)
    gone, admitted = limits.admit(SECOND, NONE, NONE)
    assert (psids(gone), psids(admitted), psids(limits.waiting)) == ([], [], [])


def test_what_others_bind_counts() -> None:
    limits = Quarantine(56, 1, NONE)
    limits.observe(Applied(Report(), come=Sourced.of(FIRST, Source.OPERATOR)))
    assert psids(limits.admit(NONE, SECOND, NONE)[1]) == []
    limits.observe(Applied(Report(), gone=Sourced.of(FIRST, Source.OPERATOR)))
    assert psids(limits.admit(NONE, NONE, NONE)[1]) == [2]


def test_a_renewal_with_a_new_address_is_no_second_softwire() -> None:
    limits = Quarantine(56, 1, FIRST)
    moved = lease(1, "2001:db8:1:1ff::2")
    gone, admitted = limits.admit(NONE, moved, FIRST)
    assert (psids(gone), psids(admitted)) == ([], [1])


def test_a_lease_that_waits_behind_another_source_ends_there_too() -> None:
    """Nothing of it is bound, so nothing is held; but it waits in the shadow, and would take over one day."""
    gone, admitted = Quarantine(56, 1, NONE).admit(FIRST, NONE, NONE)
    assert (psids(gone), psids(admitted)) == ([1], [])


def test_a_lease_that_moves_beyond_the_limit_is_bound_no_more() -> None:
    limits = Quarantine(56, 1, rows.array([*FIRST.tolist(), *OTHER.tolist()]))
    moved = lease(3, "2001:db8:1:1ff::3")  # into the prefix that has its softwire
    gone, admitted = limits.admit(NONE, moved, OTHER)
    assert (psids(gone), psids(admitted), psids(limits.waiting)) == ([3], [], [3])
    done(limits, OTHER, NONE)
    gone, admitted = limits.admit(NONE, moved, NONE)  # heard again while it waits
    assert (psids(gone), psids(admitted), psids(limits.waiting)) == ([], [], [3])


def test_another_limit_counts_what_is_bound_once() -> None:
    """Also what is in the table and not observed yet: it is counted when it is."""
    limits = Quarantine(56, 1, NONE)
    _, admitted = limits.admit(NONE, FIRST, NONE)
    limits.limit(56, 2)
    done(limits, NONE, admitted)
    _, admitted = limits.admit(NONE, SECOND, NONE)
    assert psids(admitted) == [2]
    done(limits, NONE, admitted)
    limits.limit(48, 3)
    assert psids(limits.admit(NONE, OTHER, NONE)[1]) == [3]
    limits.limit(48, 2)
    assert psids(limits.admit(NONE, OTHER, NONE)[1]) == []


def test_more_room_is_for_those_that_wait() -> None:
    limits = Quarantine(56, 1, FIRST)
    assert psids(limits.admit(NONE, SECOND, NONE)[1]) == []
    limits.limit(56, 2)
    assert psids(limits.admit(NONE, NONE, NONE)[1]) == [2]
    assert psids(limits.waiting) == []


def test_a_bound_lease_that_renews_from_another_address_keeps_its_place() -> None:
    limits = Quarantine(56, 1, FIRST)
    limits.admit(NONE, SECOND, NONE)
    gone, admitted = limits.admit(NONE, lease(1, "2001:db8:1:180::3"), FIRST)
    assert (psids(gone), psids(admitted), psids(limits.waiting)) == ([], [1], [2])


def test_a_bound_lease_keeps_its_place_before_a_new_one_that_comes_with_it() -> None:
    limits = Quarantine(56, 1, FIRST)
    both = rows.array([*SECOND.tolist(), *lease(1, "2001:db8:1:180::3").tolist()])
    gone, admitted = limits.admit(NONE, both, FIRST)
    assert (psids(admitted), psids(limits.waiting)) == ([1], [2])
    assert psids(gone) == [2]  # it may have been in the shadow


def test_those_that_wait_have_their_turn_before_new_ones() -> None:
    limits = Quarantine(56, 1, FIRST)
    limits.admit(NONE, SECOND, NONE)
    _, admitted = limits.admit(FIRST, lease(4, "2001:db8:1:180::4"), FIRST)
    assert (psids(admitted), psids(limits.waiting)) == ([2], [4])


def test_a_lease_that_takes_over_beyond_the_limit_waits() -> None:
    """It was let in while it was behind another source, and its subscriber has had another softwire since."""
    limits = Quarantine(56, 1, NONE)
    limits.admit(NONE, FIRST, NONE)  # into the shadow: nothing of it comes
    _, admitted = limits.admit(NONE, SECOND, NONE)
    done(limits, NONE, admitted)
    assert not limits.makes_room(NONE)
    done(limits, NONE, FIRST)  # who was before it has gone
    assert limits.makes_room(NONE)
    gone, admitted = limits.admit(NONE, NONE, NONE)
    assert (psids(gone), psids(admitted), psids(limits.waiting)) == ([1], [], [1])
    done(limits, FIRST, NONE)
    assert not limits.makes_room(FIRST)
    gone, admitted = limits.admit(SECOND, NONE, SECOND)
    assert (psids(gone), psids(admitted), psids(limits.waiting)) == ([2], [1], [])


def test_a_lease_that_takes_over_and_ends_at_once_is_unbound() -> None:
    limits = Quarantine(56, 1, SECOND)
    done(limits, NONE, FIRST)
    gone, admitted = limits.admit(FIRST, NONE, FIRST)
    assert (psids(gone), psids(admitted), psids(limits.waiting)) == ([1], [], [])


def test_a_lease_that_takes_over_and_moves_elsewhere_stays() -> None:
    limits = Quarantine(56, 1, SECOND)
    done(limits, NONE, FIRST)
    gone, admitted = limits.admit(NONE, lease(1, "2001:db8:7::1"), FIRST)
    assert (psids(gone), psids(admitted), psids(limits.waiting)) == ([], [1], [])


def test_a_softwire_that_was_made_meanwhile_takes_the_place() -> None:
    """Between the decision and the table somebody else was faster."""
    limits = Quarantine(56, 1, NONE)
    _, admitted = limits.admit(NONE, FIRST, NONE)
    limits.observe(Applied(Report(), come=Sourced.of(SECOND, Source.PCP)))
    done(limits, NONE, admitted)
    gone, admitted = limits.admit(NONE, NONE, NONE)
    assert (psids(gone), psids(admitted), psids(limits.waiting)) == ([1], [], [1])


def test_only_those_of_the_subscriber_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a hundred thousand that wait, and each end of a binding asks."""
    more = lease(4, "2001:db8:1:2ff::2")
    limits = Quarantine(56, 1, rows.array([*FIRST.tolist(), *OTHER.tolist()]))
    limits.admit(NONE, rows.array([*SECOND.tolist(), *more.tolist()]), NONE)
    looked: list[list[int]] = []
    refused = Subscribers.refused

    def counted(self: Subscribers, some: rows.Rows, without: rows.Rows | None = None) -> Any:
        looked.append(psids(some))
        return refused(self, some, without)

    monkeypatch.setattr(Subscribers, "refused", counted)
    elsewhere = lease(9, "2001:db8:77::1")
    assert not limits.makes_room(elsewhere)
    assert not limits.makes_room(FIRST)
    done(limits, OTHER, NONE)
    assert limits.makes_room(rows.array([*OTHER.tolist(), *elsewhere.tolist()]))
    assert looked == [[], [2], [4]]
    limits.limit(44, 1)  # all of them are one subscriber's now
    limits.makes_room(elsewhere)
    limits.makes_room(FIRST)
    assert looked[3:] == [[], [2, 4]]
