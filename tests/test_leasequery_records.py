"""What an operator sees of the records of leasequery servers, and how he gets rid of them (LQ-160, LQ-178)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from pylwaftr.api.backend import LeaseFilter
from pylwaftr.changes import Source
from pylwaftr.config.services import Leasequery
from pylwaftr.dhcp.events import Saved
from pylwaftr.dhcp.leases import Leases, Policy
from tests.lease_service import SERVER, limited, serving
from tests.leasequery_peer import ACTIVE, BR, BULK, A, B, amid_a_bulk, bulk, data, done, lease, psids, rows, started

# --- LQ-178: the records of a server are dropped ----------------------------------------------------------------------


def test_what_was_learnt_of_a_server_is_dropped_and_asked_for_anew() -> None:
    peer = started(None, lease(1), lease(2), lease(3))
    peer.recv(data(A, 5, lease(4, 5)), ACTIVE, 5)
    peer.requestor.drop("A", 10)
    assert peer.session().saved == Saved(skew_s=peer.session().saved.skew_s)
    peer.after(10)
    assert (peer.table, peer.session().state) == ({}, "live")
    assert Saved.of(peer.saved["A"]) == Saved()  # a restart does not know it either
    peer.recv(data(A, 11, lease(5, 11)), ACTIVE, 11)
    bulk(peer, 12, lease(1, -50), lease(5, 11), xid=B + 1)  # one that is older than what was known of it
    assert (psids(peer), peer.session().saved.resync) == ({1, 5}, False)


def test_a_bulk_that_ran_when_a_server_was_dropped_is_not_all_there_is() -> None:
    peer = amid_a_bulk(lease(1, 10))
    peer.requestor.drop("A", 11)
    peer.recv(data(B + 1, 10, lease(2, 10)) + done(B + 1), BULK, 12)
    assert (psids(peer), peer.session().saved.resync) == ({2}, True)
    bulk(peer, 80, lease(1, 80), lease(2, 80), xid=B + 2)
    assert (psids(peer), peer.session().saved.resync) == ({1, 2}, False)


def test_other_servers_keep_what_they_told() -> None:
    leases = Leases([Policy("A"), Policy("B")], BR.packed)
    leases.heard("A", rows(lease(1), lease(2)), 0.0)
    leases.heard("B", rows(lease(2, 5, b4="2001:db8:7::2"), lease(3)), 5.0)
    leases.take()
    leases.drop("B")
    changes = leases.take()
    assert (changes.unbind["psid"].tolist(), changes.bind["psid"].tolist()) == ([3], [2])
    assert sorted(leases.bindings()["psid"].tolist()) == [1, 2]


def test_an_operator_drops_what_a_server_told(tmp_path: Path) -> None:
    """Bound for it alone, waiting for room, or in the way of others: all of it goes, what others bound stays."""

    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path, most=2)) as service:
            service.hear(lease(1, b4="2001:db8:1:1::1"), lease(2, b4="2001:db8:1:2::2"), lease(3, b4="2001:db8:1:3::3"))
            await service.until({1: "DHCP", 2: "DHCP"})
            row = service.leases.edge.requestor.leases.bindings()[:1].copy()
            row["psid"], row["b4"][0, 3:] = 9, 7  # of another subscriber
            await service.control.bind(row, Source.OPERATOR)
            with pytest.raises(KeyError):
                await service.leases.drop("192.0.2.1:547", False)
            assert await service.leases.drop(SERVER, True) == 3
            assert (len(service.leases.edge.requestor.leases), service.waiting) == (3, [3])
            assert await service.leases.drop(SERVER, False) == 3
            await service.until({9: "OPERATOR"})
            assert service.waiting == []

    asyncio.run(story())


# --- LQ-160, LQ-178: a lease as every server has it -------------------------------------------------------------------


def test_a_lease_is_shown_as_each_server_has_it(tmp_path: Path) -> None:
    async def story() -> None:
        settings, other = limited(tmp_path, most=9), "127.0.0.1:10"
        (server_,) = settings.leasequery.servers
        settings = replace(settings, leasequery=Leasequery((server_, replace(server_, port=10))))
        async with serving(tmp_path, settings) as service:
            service.hear(lease(1, 0), lease(2, 0))
            leases = service.leases.edge.requestor.leases
            now = asyncio.get_running_loop().time()
            leases.heard(other, rows(lease(1, 50, b4="2001:db8:7::1"), lease(5, 0, psid_len=7)), now)
            await service.until({1: "DHCP", 2: "DHCP"})
            wanted = LeaseFilter(ipv4=IPv4Network("198.51.100.10/32"))
            found, _ = await service.leases.leases(wanted, 100, "")
            views = {(one.server, one.lease.ports.psid): one.standing for one in found if one.lease.ports is not None}
            assert views == {
                (SERVER, 1): "other_server",
                (other, 1): "bound",
                (SERVER, 2): "bound",
                (other, 5): "other_division",
            }
            assert {str(one.lease.b4) for one in found if one.lease.ports and one.lease.ports.psid == 1} == {
                "2001:db8:100:1::1",
                "2001:db8:7::1",
            }

    asyncio.run(story())
