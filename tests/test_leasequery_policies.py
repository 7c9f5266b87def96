"""Other settings of a server that is known already: leases are judged by them at once, not at the next full bulk."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from pylwaftr.dhcp import judging
from pylwaftr.dhcp.codec_lease import Lease
from pylwaftr.dhcp.leases import Policy
from pylwaftr.dhcp.s46 import PortParams
from pylwaftr.dhcp.standing import Standing
from tests.lease_table import Table
from tests.leasequery_peer import BR, Peer, ended, lease, server, started
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
    monkeypatch.setattr(judging, "AT_ONCE", 8)
    outside, other = "203.0.113.1", "192.0.2.1"
    table = Table(Policy("A"))
    for psid in range(20):
        table.hear(("A", lease(psid, ipv4=outside if psid % 3 else other, b4=f"2001:db8:{psid:x}::1")))
    table.hear(("A", ended(lease(19, ipv4=outside), 1)))
    out = table.leases.judge_anew(Policy("A", pools=(IPv4Network("192.0.2.0/24"),)))
    table.heed(out)
    assert set(table.psids) == set(range(0, 20, 3))
    assert [report.text.partition(",")[0] for report in out.reports] == ["12 leases end"]
    table.heed(table.leases.judge_anew(Policy("A", pools=(IPv4Network("203.0.113.0/24"),))))
    assert set(table.psids) == {psid for psid in range(19) if psid % 3}


def test_a_reload_of_a_million_leases_is_told_in_one_line() -> None:
    table = Table(Policy("A"))
    for psid in range(64):
        table.hear(("A", lease(psid)))
    table.heed(table.leases.judge_anew(Policy("A", pools=(IPv4Network("203.0.113.0/24"),))))
    assert (table.psids, table.reports.count("outside_pools")) == ({}, 1)
