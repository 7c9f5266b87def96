"""Other settings of a server that is known already: leases are judged by them at once, not at the next full bulk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

import pytest

from pylwaftr import rows as bindings
from pylwaftr.dhcp import anew
from pylwaftr.dhcp.codec_lease import Lease
from pylwaftr.dhcp.leases import Leases, Policy
from pylwaftr.dhcp.s46 import PortParams
from pylwaftr.dhcp.standing import Standing
from tests.lease_table import Table
from tests.leasequery_peer import BR, Peer, ended, lease, rows, server, started
from tests.leasequery_peer import psids as bound_psids

ELSEWHERE = lease(2, ipv4="203.0.113.7")
OFFSET = replace(lease(3, ipv4="198.51.100.30"), ports=PortParams(6, 6, 3))

NARROWER: list[tuple[str, dict[str, Any], set[int], str]] = [
    ("a pool", {"pools": (IPv4Network("203.0.113.0/24"),)}, {2}, "outside_pools"),
    ("another pool", {"pools": (IPv4Network("198.51.100.0/24"),)}, {1, 3}, "outside_pools"),
    ("no PSID offset", {"offsets": False}, {1, 2}, "psid_offset"),
]


def reload(peer: Peer, now: float, **policy: Any) -> None:
    peer.requestor.reconfigure([server(**policy)], (), now)
    peer.after(now)


def reports(peer: Peer) -> list[str]:
    return [report.name for out in peer.outputs for report in out.reports]


@pytest.mark.parametrize("what, policy, left, reason", NARROWER, ids=[row[0] for row in NARROWER])
def test_what_narrower_settings_refuse_ends_with_the_reload(
    what: str, policy: dict[str, Any], left: set[int], reason: str
) -> None:
    peer = started(None, lease(1), ELSEWHERE, OFFSET)
    assert bound_psids(peer) == {1, 2, 3}
    reload(peer, 10, **policy)
    assert bound_psids(peer) == left
    assert reports(peer).count(reason) == 1
    leases = peer.requestor.leases
    stand = leases.standings("A")[leases.said("A", 0, 100)[0]]
    assert (stand == Standing[reason.upper()]).sum() == 3 - len(left)
    reload(peer, 20)
    assert bound_psids(peer) == {1, 2, 3}


def test_what_ends_by_a_reload_is_overdue_when_it_is_let_in_again() -> None:
    peer = started(None, lease(1, lifetime=60))
    reload(peer, 10, pools=(IPv4Network("203.0.113.0/24"),))
    peer.run_to(200)
    peer.requestor.leases.set_live("A", True)
    reload(peer, 200)
    assert bound_psids(peer) == {1}
    peer.requestor.leases.set_live("A", True)
    out = peer.requestor.leases.expire(201)
    assert not out.reports
    peer.after(201)
    assert bound_psids(peer) == set()


def test_what_ends_by_a_reload_gives_way_to_the_other_server() -> None:
    table = Table()
    table.hear(("A", lease(1, 50)), ("B", lease(1, 10, b4="2001:db8:b::1")))
    table.heed(table.leases.judge_anew(Policy("A", pools=(IPv4Network("203.0.113.0/24"),))))
    assert table.psids == {1: "2001:db8:b::1"}
    table.hear(("A", ended(lease(1), 60)))  # its word counts no less than before
    table.heed(table.leases.judge_anew(Policy("A")))
    assert table.psids == {}


def test_another_priority_decides_at_once() -> None:
    table = Table(Policy("A", priority=1), Policy("B"))
    table.hear(("A", lease(1)), ("B", lease(1, b4="2001:db8:b::1")))
    assert table.psids == {1: "2001:db8:100:1::1"}
    table.heed(table.leases.judge_anew(Policy("B", priority=2)))
    assert table.psids == {1: "2001:db8:b::1"}


def test_a_b4_that_is_the_router_itself_now_is_none() -> None:
    def own(one: Lease) -> bytes:
        assert one.b4 is not None
        return one.b4.packed

    table = Table(Policy("A"))
    table.hear(("A", lease(1)), ("A", lease(2)))
    table.heed(table.leases.set_br(BR.packed, [own(lease(2))]))
    assert set(table.psids) == {1}
    assert "bad_b4" in table.reports
    table.heed(table.leases.set_br(BR.packed, []))
    assert set(table.psids) == {1, 2}


def test_leases_are_judged_anew_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Part by part, and all that is kept out is told together."""
    monkeypatch.setattr(anew, "PART", 8)
    outside, other = "203.0.113.1", "192.0.2.1"
    table = Table(Policy("A"))
    for psid in range(20):
        table.hear(("A", lease(psid, ipv4=outside if psid % 3 else other, b4=f"2001:db8:{psid:x}::1")))
    table.hear(("A", ended(lease(19, ipv4=outside), 1)))
    outcomes = table.judge(Policy("A", pools=(IPv4Network("192.0.2.0/24"),)))
    assert set(table.psids) == set(range(0, 20, 3))
    assert [[report.text.partition(",")[0] for report in out.reports] for out in outcomes] == [
        [],
        [],
        ["12 leases end"],
    ]
    table.judge(Policy("A", pools=(IPv4Network("203.0.113.0/24"),)))
    assert set(table.psids) == {psid for psid in range(19) if psid % 3}


def test_what_is_heard_between_two_parts_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anew, "PART", 8)
    table = Table(Policy("A"))
    for psid in range(20):
        table.hear(("A", lease(psid)))
    table.heed(table.leases.judge_anew(Policy("A", pools=(IPv4Network("203.0.113.0/24"),))))
    assert set(table.psids) == set(range(8, 20))
    table.hear(("A", lease(9, 50)), ("A", lease(21, 50)), ("A", lease(22, 50, ipv4="203.0.113.9")))
    assert set(table.psids) == {8, *range(10, 20), 22}
    while table.leases.judging:
        table.heed(table.leases.judge_on())
    assert set(table.psids) == {22}


def test_a_change_while_another_is_on_its_way_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anew, "PART", 8)
    table = Table(Policy("A"))
    for psid in range(20):
        table.hear(("A", lease(psid)))
    table.heed(table.leases.judge_anew(Policy("A", pools=(IPv4Network("203.0.113.0/24"),))))
    table.judge(Policy("A"))
    assert set(table.psids) == set(range(20))


def test_a_router_has_others_to_serve_while_a_million_leases_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `take` judges one part, and says that there is more."""
    monkeypatch.setattr(anew, "PART", 8)
    peer = started(None, *(lease(psid) for psid in range(20)))
    peer.requestor.reconfigure([server(pools=(IPv4Network("203.0.113.0/24"),))], (), 10)
    left = []
    while peer.requestor.leases.judging:
        peer.after(10)
        left.append(len(peer.table))
    assert left == [4, 0]


OWN = IPv4Address("198.51.100.60")


@pytest.mark.parametrize("compiled", [True, False])
def test_a_lease_of_the_routers_own_address_is_kept_out(compiled: bool) -> None:
    leases = Leases([Policy("A")], BR.packed, compiled=compiled, own_v4=[int(OWN), 1])
    out = leases.heard("A", rows(lease(1), lease(2, ipv4=str(OWN)), lease(3)), 0.0)
    assert sorted(leases.take().bind["psid"].tolist()) == [1, 3]
    assert [(report.name, str(OWN) in report.text) for report in out.reports] == [("own_address", True)]
    stand = leases.standings("A")[leases.said("A", 0, 10)[0]]
    assert sorted(stand.tolist()) == [Standing.BOUND, Standing.BOUND, Standing.OWN_ADDRESS]
    leases.heard("A", rows(ended(lease(2, ipv4=str(OWN)), 10)), 1.0)
    assert not len(leases.take())


def test_an_address_that_is_the_routers_no_more_is_a_subscribers() -> None:
    leases = Leases([Policy("A")], BR.packed, own_v4=[int(OWN)])
    leases.heard("A", rows(lease(2, ipv4=str(OWN))), 0.0)
    assert not len(leases.take())
    leases.set_br(BR.packed, [])
    assert leases.take().bind["psid"].tolist() == [2]
    leases.set_br(BR.packed, [], [int(OWN)])
    assert leases.take().unbind["psid"].tolist() == [2]


def restored(*policies: Policy, own_v4: Sequence[int] = ()) -> Leases:
    """In a router that had leases 1 (offset 6, of 198.51.100.0/24) and 2 (of 203.0.113.0/24) bound."""
    leases = Leases(policies, BR.packed, own_v4=own_v4)
    known = (("198.51.100.60", 6, 1), ("203.0.113.1", 0, 2))
    former = [
        bindings.row(int(IPv4Address(ipv4)), offset, 6, psid, IPv6Address(f"2001:db8::{psid}").packed, BR.packed)
        for ipv4, offset, psid in known
    ]
    leases.restore(bindings.array(former), 0.0, 3600.0)
    assert not len(leases.take())  # forwarding does not wait for what is judged
    return leases


FIRST, SECOND = IPv4Network("198.51.100.0/24"), IPv4Network("203.0.113.0/24")
RESTORED: list[tuple[str, list[Policy], list[int], list[int]]] = [
    ("as before", [Policy("A")], [], []),
    ("narrower pools", [Policy("A", pools=(SECOND,))], [], [1]),
    ("no port sets with an offset", [Policy("A", offsets=False)], [], [1]),
    ("an address that is the router's now", [Policy("A")], [int(IPv4Address("203.0.113.1"))], [2]),
    ("another server may have told of it", [Policy("A", pools=(SECOND,)), Policy("B", pools=(FIRST,))], [], []),
    ("none may", [Policy("A", pools=(SECOND,)), Policy("B", pools=(SECOND,))], [], [1]),
]


@pytest.mark.parametrize("what, policies, own_v4, ends", RESTORED, ids=[row[0] for row in RESTORED])
def test_what_no_server_may_have_told_of_ends_after_a_restart(
    what: str, policies: list[Policy], own_v4: list[int], ends: list[int]
) -> None:
    """At once, not with the first full bulk: a server may be down for long."""
    leases = restored(*policies, own_v4=own_v4)
    out = leases.judge_on()
    assert leases.take().unbind["psid"].tolist() == ends
    assert [report.name for report in out.reports] == ["former_refused"] * len(ends)


def test_what_was_bound_forwards_on_for_its_time_if_no_server_is_configured_any_more() -> None:
    leases = restored()
    leases.judge_on()
    assert not len(leases.take())
    assert leases.timer() == 3600.0
    leases.expire(3600.0)
    assert sorted(leases.take().unbind["psid"].tolist()) == [1, 2]


def test_what_was_restored_ends_with_a_reload_too() -> None:
    leases = restored(Policy("A"))
    leases.judge_on()
    leases.judge_anew(Policy("A", pools=(SECOND,)))
    assert leases.take().unbind["psid"].tolist() == [1]


def test_what_a_server_that_went_has_left_is_not_judged_by_the_others() -> None:
    """It forwards on for its time: what they may tell of says nothing of it."""
    leases = Leases([Policy("A", pools=(FIRST,)), Policy("B", pools=(SECOND,))], BR.packed)
    leases.heard("A", rows(lease(1)), 0.0)
    leases.take()
    leases.retire("A", 10.0, 3600.0)
    leases.judge_anew(Policy("B", pools=(SECOND,), priority=1))
    assert not len(leases.take())


def test_a_reload_of_a_million_leases_is_told_in_one_line() -> None:
    table = Table(Policy("A"))
    for psid in range(64):
        table.hear(("A", lease(psid)))
    table.heed(table.leases.judge_anew(Policy("A", pools=(IPv4Network("203.0.113.0/24"),))))
    assert (table.psids, table.reports.count("outside_pools")) == ({}, 1)
