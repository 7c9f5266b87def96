"""How leases stand: bound, kept out and why; and what another policy or BR address changes in that."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address
from typing import Any

import numpy as np
import pytest

from pylwaftr.dhcp.leases import Policy
from pylwaftr.dhcp.records import unusable
from pylwaftr.dhcp.s46 import PortParams
from pylwaftr.dhcp.standing import Standing
from pylwaftr.rows import text4, text6
from tests.lease_table import MOVED, ONE, Heard, Table
from tests.leasequery_peer import BR, ended, lease


def test_an_address_outside_the_pools_is_quarantined() -> None:
    table = Table(Policy("A", pools=(IPv4Network("198.51.100.0/24"),)))
    table.hear(("A", lease(1)), ("A", lease(1, ipv4="8.8.8.8")), ("A", lease(1, ipv4="192.0.0.2")))
    assert [key[0] for key in table.bound] == ["198.51.100.10"]
    assert standings(table, "A") == {"198.51.100.10": "BOUND", "8.8.8.8": "OUTSIDE_POOLS", "192.0.0.2": "OUTSIDE_POOLS"}


def standings(table: Table, server: str) -> dict[Any, str]:
    """By address, or by PSID where there is one address only."""
    found = table.leases.standings(server)
    at = np.flatnonzero(found != Standing.NOT_KNOWN)
    told = table.leases.rows_of(server, at)
    name = "ipv4" if len(set(told["ipv4"].tolist())) > 1 else "psid"
    keys = [text4(key) if name == "ipv4" else key for key in told[name].tolist()]
    return dict(zip(keys, (Standing(one).name for one in found[at].tolist()), strict=True))


STANDINGS = [  # what, heard of A and B, how A's leases stand, how B's do
    ("bound", [("A", ONE)], {1: "BOUND"}, {}),
    ("ended", [("A", ONE), ("A", ended(ONE, 80))], {1: "ENDED"}, {}),
    ("both have it", [("A", ONE), ("B", ONE)], {1: "BOUND"}, {1: "BOUND"}),
    ("two B4s", [("A", ONE), ("B", MOVED)], {1: "OTHER_SERVER"}, {1: "BOUND"}),
    ("the partner tells of its end", [("A", ONE), ("B", ended(ONE, 80))], {1: "OTHER_SERVER"}, {1: "ENDED"}),
    (
        "other divisions of one address",
        [("A", lease(2, 0)), ("A", lease(5, 100, psid_len=7))],
        {2: "OTHER_DIVISION", 5: "BOUND"},
        {},
    ),
    (
        "no option 109, and an unusable one",
        [("A", lease(1, b4=None)), ("A", lease(2, b4="fe80::1")), ("A", lease(3))],
        {1: "NO_B4", 2: "BAD_B4", 3: "BOUND"},
        {},
    ),
]


@pytest.mark.parametrize("what, heard, first, second", STANDINGS, ids=[row[0] for row in STANDINGS])
def test_how_leases_stand(what: str, heard: list[Heard], first: dict[int, str], second: dict[int, str]) -> None:
    table = Table()
    table.hear(*heard)
    assert (standings(table, "A"), standings(table, "B")) == (first, second)


def test_a_lease_that_was_not_renewed_is_overdue() -> None:
    table = Table()
    table.hear(("A", ONE))
    table.heed(table.leases.expire(100_000))
    assert standings(table, "A") == {1: "OVERDUE"}


def test_what_is_reported_is_counted_by_server() -> None:
    table = Table()
    table.hear(("A", lease(1, b4=None)), ("B", lease(2, b4="fe80::1")), ("B", lease(3, b4="fe80::2")))
    assert table.leases.reported == {("A", "no_b4"): 1, ("B", "bad_b4"): 2}


B4S = [("::", True), ("::1", True), ("::ffff:192.0.2.1", True), ("ff02::1", True), ("fe80::1", True), ("febf::1", True)]
B4S += [("fec0::1", False), ("2001:db8::", False), ("fd00::1", False), ("2001:db8:ffff::2", True)]


@pytest.mark.parametrize("b4, bad", B4S)
def test_which_tunnel_addresses_are_unusable(b4: str, bad: bool) -> None:
    own = np.frombuffer(BR.packed, np.uint8).reshape(1, 16)
    assert unusable(np.frombuffer(IPv6Address(b4).packed, np.uint8).reshape(1, 16), own).tolist() == [bad]


# --- another policy ---------------------------------------------------------------------------------------------------

OFFSET = replace(lease(2), ports=PortParams(4, 6, 2))
POLICIES = [  # what, the policy of A, what keeps which PSID out, another policy, what keeps which out then
    ("wider pools", {"pools": (IPv4Network("203.0.113.0/24"),)}, {1: "OUTSIDE_POOLS"}, {}, {1: "BOUND"}),
    (
        "other pools, that do not have it",
        {"pools": (IPv4Network("203.0.113.0/24"),)},
        {1: "OUTSIDE_POOLS"},
        {"pools": (IPv4Network("192.0.2.0/24"),)},
        {1: "OUTSIDE_POOLS"},
    ),
    ("offsets are accepted", {"offsets": False}, {2: "PSID_OFFSET"}, {}, {2: "BOUND"}),
]


@pytest.mark.parametrize("what, old, first, new, then", POLICIES, ids=[row[0] for row in POLICIES])
def test_what_a_new_policy_lets_in_is_bound_at_once(
    what: str, old: dict[str, Any], first: dict[int, str], new: dict[str, Any], then: dict[int, str]
) -> None:
    """Not only when a full bulk tells of it once more."""
    table = Table(Policy("A", **old))
    table.hear(("A", OFFSET if 2 in first else ONE))
    assert (standings(table, "A"), table.bound) == (first, {})
    table.heed(table.leases.judge_anew(Policy("A", **new)))
    assert standings(table, "A") == then
    assert set(table.psids) == {psid for psid, standing in then.items() if standing == "BOUND"}


def test_what_is_let_in_later_ends_in_its_time() -> None:
    table = Table(Policy("A", offsets=False))
    table.hear(("A", replace(OFFSET, lifetime=60)), now=10)
    table.heed(table.leases.judge_anew(Policy("A", hold_s=0)))
    assert table.leases.timer() == 70
    table.heed(table.leases.expire(69.9))
    assert set(table.psids) == {2}
    table.heed(table.leases.expire(70))
    assert (table.bound, standings(table, "A")) == ({}, {2: "OVERDUE"})


def test_a_tunnel_address_that_is_the_routers_no_more_is_let_in() -> None:
    table = Table()
    table.hear(("A", lease(1, b4=text6(BR.packed))))
    assert standings(table, "A") == {1: "BAD_B4"}
    table.heed(table.leases.set_br(IPv6Address("2001:db8:fffe::1").packed, []))
    assert (standings(table, "A"), set(table.psids)) == ({1: "BOUND"}, {1})
