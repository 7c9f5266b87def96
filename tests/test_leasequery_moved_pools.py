"""Pools that a reload moves from one server to another: what a restart found bound stays, and what is inherited."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import numpy as np
import pytest

from pylwaftr.dhcp.codec_lease import LEASE_ROW, Has, State
from pylwaftr.dhcp.leasequery import Settings
from pylwaftr.dhcp.policies import Policy
from pylwaftr.dhcp.requestor import Requestor, Server
from pylwaftr.rows import BINDING_ROW, Rows

BR = IPv6Address("2001:db8:aa::1").packed
HOLD_S = 3600.0


def server(name: str, *pools: str, priority: int = 0) -> Server:
    return Server(Settings(b"\0\2dd"), Policy(name, tuple(map(IPv4Network, pools)), priority=priority))


def bound(count: int) -> Rows:
    """Of 10.1.0.0/16, each with a B4 of its own."""
    rows = np.zeros(count, BINDING_ROW)
    rows["ipv4"] = int(IPv4Address("10.1.0.0")) + np.arange(count)
    rows["b4"][:] = np.frombuffer(IPv6Address("2001:db8:1::").packed, np.uint8)
    rows["b4"][:, 8:] = np.arange(1, count + 1, dtype=">u8").reshape(-1, 1).view(np.uint8)
    rows["br"][:] = np.frombuffer(BR, np.uint8)
    return rows


def unbound(requestor: Requestor, now: float) -> int:
    """Until all is judged."""
    count = len(requestor.take(now).changes.unbind)
    while requestor.leases.judging:
        count += len(requestor.take(now).changes.unbind)
    return count


A, B = server("a", "10.1.0.0/16", "10.9.0.0/16"), server("b", "10.2.0.0/16")
NARROW, WIDE, NEW = server("a", "10.9.0.0/16"), server("b", "10.2.0.0/16", "10.1.0.0/16"), server("c", "10.1.0.0/16")


@pytest.mark.parametrize(
    "before, after, ends",
    [
        ((A, B), (NARROW, WIDE), 0),
        ((B, A), (WIDE, NARROW), 0),
        ((A, B), (NARROW, B, NEW), 0),
        ((A, B), (NARROW, B), 100),  # nobody may have told of them
    ],
    ids=["the one that gives first", "the one that gets first", "to a new one", "to nobody"],
)
def test_of_a_restart(before: Sequence[Server], after: Sequence[Server], ends: int) -> None:
    requestor = Requestor(before, BR, [BR])
    requestor.restore(bound(100), 0.0, HOLD_S)
    requestor.open(0.0)
    assert unbound(requestor, 0.1) == 0
    requestor.reconfigure(after, (), 1.0)
    assert unbound(requestor, 1.1) == ends


@pytest.mark.parametrize("priority", [0, 5], ids=["as before", "with another priority"])
def test_of_a_server_that_is_configured_no_more(priority: int) -> None:
    count = 20_000  # more than one part
    requestor = Requestor([NARROW, server("b", "10.1.0.0/16")], BR, [BR])
    requestor.open(0.0)
    leases, rows = np.zeros(count, LEASE_ROW), bound(count)
    for name in ("ipv4", "psid", "psid_len", "psid_offset", "b4"):
        leases[name] = rows[name]
    leases["state"], leases["has"] = State.ACTIVE, Has.B4 | Has.PORTS
    requestor.leases.heard("b", leases, 0.0)
    assert len(requestor.take(0.1).changes.bind) == count
    requestor.reconfigure([server("a", "10.9.0.0/16", priority=priority)], (), 1.0)
    assert unbound(requestor, 1.1) == 0
