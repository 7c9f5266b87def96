"""Leasequery servers come, go and change while the router runs: over real sockets, and nothing is unbound in vain."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from pylwaftr.daemon.leasequery import Edge, Endpoint
from pylwaftr.dhcp.connection import Timers
from pylwaftr.dhcp.events import Channel, Open
from pylwaftr.dhcp.leasequery import Settings as SessionSettings
from pylwaftr.dhcp.leases import Leases, Policy
from pylwaftr.dhcp.requestor import Requestor, Server
from pylwaftr.responder.daemon import Service
from pylwaftr.responder.database import Database
from pylwaftr.responder.server import Settings
from pylwaftr.rows import text6
from tests.leasequery_peer import BR, CATCH_UP_COMPLETE, SETTLED, A, B, Peer, data, ended, lease, reply, rows, started
from tests.leasequery_peer import psids as bound_psids
from tests.leasequery_peer import server as peer_server
from tests.leasequery_sockets import SERVER, Router, change, listening, on_a_loop, running, until
from tests.leasequery_vectors import DUID, T0

TIMERS = Timers(scale=0.01)


def server(name: str, timers: Timers = TIMERS, **policy: Any) -> Server:
    return Server(SessionSettings(DUID, "W", False, (), timers), Policy(name, **policy))


class World:
    """A requestor, and servers that have leases of these PSIDs."""

    def __init__(self) -> None:
        self.router = Router()
        self.unbound: list[int] = []
        self.services: dict[str, Service] = {}
        self.endpoints: dict[str, Endpoint] = {}

    async def serve(self, **leases: list[int]) -> None:
        for name, psids in leases.items():
            database = Database()
            database.apply([change(psid) for psid in psids])
            self.services[name] = Service(database, Settings(SERVER + name.encode()), None)
            self.endpoints[name] = Endpoint("127.0.0.1", await listening(self.services[name]))

    async def apply(self, changes: Any, saved: Any) -> None:
        self.unbound += changes.unbind["psid"].tolist()
        await self.router.apply(changes, saved)

    def running(self, *servers: Server) -> AbstractAsyncContextManager[Edge]:
        return running(Edge(Requestor(servers, BR.packed), self.endpoints, self.apply))

    def take(self, edge: Edge, *servers: Server, anew: tuple[str, ...] = ()) -> None:
        edge.reconfigure(servers, self.endpoints, anew)

    async def until(self, *psids: int, also: Callable[[], bool] = lambda: True) -> None:
        await self.router.until(lambda: set(self.router.bound) == set(psids) and also())


async def settled(edge: Edge, *names: str) -> None:
    await until(lambda: all(edge.requestor.sessions[name].current for name in names))


@on_a_loop
async def test_a_server_comes_and_the_other_goes_on_undisturbed() -> None:
    world = World()
    await world.serve(a=[1, 2], b=[3])
    async with world.running(server("a")) as edge:
        await world.until(1, 2)
        session = edge.requestor.sessions["a"]
        world.take(edge, server("a"), server("b"))
        await world.until(1, 2, 3)
        await settled(edge, "a", "b")
        assert edge.requestor.sessions["a"] is session
        assert session.counts["connects_active"] == 1
        assert world.unbound == []


@on_a_loop
async def test_the_leases_of_a_server_that_goes_are_withdrawn_unless_another_has_them() -> None:
    world = World()
    await world.serve(a=[1, 2], b=[2, 3])
    async with world.running(server("a"), server("b")) as edge:
        await world.until(1, 2, 3)
        await settled(edge, "a", "b")
        world.take(edge, server("b"))
        await world.until(2, 3, also=lambda: "a" in world.router.saved)
        assert world.unbound == [1]
        assert world.router.saved["a"] is None  # or it would go on from there if it were configured again
        await until(lambda: not world.services["a"].clients)


@on_a_loop
async def test_a_server_in_the_place_of_another_takes_its_leases_over_without_a_gap() -> None:
    world = World()
    await world.serve(a=[1, 2, 3], b=[1, 2])
    async with world.running(server("a")) as edge:
        await world.until(1, 2, 3)
        await settled(edge, "a")
        world.take(edge, server("b"))
        await world.until(1, 2)
        assert world.unbound == [3]  # when the new one had told all it has


@on_a_loop
async def test_without_any_server_leases_end_when_their_hold_is_over() -> None:
    world = World()
    await world.serve(a=[1])
    async with world.running(server("a", hold_s=0.3)) as edge:
        await world.until(1)
        await settled(edge, "a")
        world.take(edge)
        assert len(edge.requestor.leases) == 1
        await world.until()


@pytest.mark.parametrize(
    "changed, anew", [(server("a", Timers(scale=0.02)), ()), (server("a"), ("a",))], ids=["session", "connection"]
)
@on_a_loop
async def test_another_way_to_reach_a_server_is_another_connection_to_it(
    changed: Server, anew: tuple[str, ...]
) -> None:
    world = World()
    await world.serve(a=[1, 2])
    async with world.running(server("a")) as edge:
        await world.until(1, 2)
        await settled(edge, "a")
        first = edge.requestor.sessions["a"]
        world.take(edge, changed, anew=anew)
        assert edge.requestor.sessions["a"] is not first
        await settled(edge, "a")
        world.services["a"].apply([change(3)], live=True)
        await world.until(1, 2, 3)
        assert world.unbound == []
        assert edge.requestor.sessions["a"].counts["queries_bulk"] == 0  # it has gone on from where it was


NEWER = {"ended": (ended(lease(1), 50), {}), "elsewhere": (lease(1, 50, b4="2001:db8:a::1"), {1: "2001:db8:a::1"})}
LATER = {  # what makes both servers' words of lease 1 be compared once more
    "bulk": lambda peer: peer.requestor.leases.heard("B", rows(replace(lease(1), base=T0 + 70)), 70, bulk=True),
    "policy": lambda peer: peer.requestor.leases.judge_anew(Policy("B", priority=1)),
}


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("word", NEWER)
def test_another_way_to_reach_a_server_makes_its_word_no_older_than_another_s(word: str, later: str) -> None:
    """RFC 6926 section 7.6: the later transaction counts, whoever is connected to anew."""
    news, left = NEWER[word]
    peer = Peer(peer_server("A"), peer_server("B"), saved=SETTLED)
    peer.open()
    for name, xid in (("A", A), ("B", B)):
        peer.connect(Channel.ACTIVE, 0, xid, name)
        peer.recv(reply(xid, 0, lease(1)), Channel.ACTIVE, 0, name)
    peer.recv(data(A, 50, news), Channel.ACTIVE, 50, "A")
    peer.requestor.reconfigure([peer_server("A"), peer_server("B")], ("A",), 60)
    LATER[later](peer)
    peer.after(70)
    assert {key[3]: b4 for key, b4 in peer.table.items()} == left


@pytest.mark.parametrize("compiled", [True, False])
def test_what_a_server_says_next_is_newer_when_it_is_heard_anew(compiled: bool) -> None:
    """Whatever its clock shows by then; and from there on times tell again."""
    leases = Leases([Policy("A")], BR.packed, compiled=compiled)
    leases.heard("A", rows(lease(1, 1000)), 0)
    leases.reorder("A")
    leases.heard("A", rows(lease(1, 900, b4="2001:db8:9::9")), 0, bulk=True)
    leases.heard("A", rows(ended(lease(1), 890)), 0)
    assert [text6(row["b4"].tobytes()) for row in leases.bindings()] == ["2001:db8:9::9"]


@on_a_loop
async def test_other_pools_judge_the_leases_that_there_are() -> None:
    world = World()
    await world.serve(a=[1])
    async with world.running(server("a")) as edge:
        await world.until(1)
        await settled(edge, "a")
        session = edge.requestor.sessions["a"]
        world.take(edge, server("a", pools=(IPv4Network("203.0.113.0/24"),)))
        await world.until()
        assert edge.requestor.sessions["a"] is session
        world.take(edge, server("a"))
        await world.until(1)


def test_a_server_that_waits_for_its_next_attempt_waits_on() -> None:
    peer = started()
    peer.lost(Channel.ACTIVE, 5)
    peer.lost(Channel.BULK, 5)
    due = peer.session().timer()
    peer.taken(Open, Channel.ACTIVE)
    peer.requestor.reconfigure([peer_server(), peer_server("B")], (), 6)
    peer.after(6)
    assert (peer.taken(Open, Channel.ACTIVE), peer.taken(Open, Channel.ACTIVE, "B")) == (False, True)
    assert (peer.session().state, peer.session().timer()) == ("waiting", due)


def test_what_was_bound_before_a_restart_asks_no_server() -> None:
    """It takes the place of a lease that has ended, at the tunnel address of another client."""
    b4, one = "2001:db8::77", lease(5, 100, psid_len=7)
    old = started(None, lease(2, b4=b4))
    peer = Peer(restored=old.saved)
    peer.table = dict(old.table)
    peer.requestor.restore(old.requestor.leases.bindings(), 0, 3600)
    peer.open()
    peer.accept(Channel.ACTIVE, 0, A, then=data(A, 0, status=CATCH_UP_COMPLETE))
    peer.recv(data(A, 100, one) + data(A, 100, lease(1, 100, ipv4="198.51.100.99", b4=b4)), Channel.ACTIVE, 100)
    assert bound_psids(peer) == {1, 5}
    peer.recv(data(A, 101, ended(one, 101)), Channel.ACTIVE, 101)
    assert bound_psids(peer) == {1, 2}
    assert "b4_shared" in [report.name for out in peer.outputs for report in out.reports]


def test_what_wider_pools_let_in_is_bound_at_once() -> None:
    """The full bulk that other pools lead to takes its time."""
    peer = started(None, lease(1), pools=(IPv4Network("203.0.113.0/24"),))
    assert bound_psids(peer) == set()
    peer.requestor.reconfigure([peer_server()], (), 10)
    peer.after(10)
    assert (bound_psids(peer), peer.session().saved.resync) == ({1}, True)


@on_a_loop
async def test_the_same_servers_are_no_change() -> None:
    world = World()
    await world.serve(a=[1])
    async with world.running(server("a")) as edge:
        await world.until(1)
        await settled(edge, "a")
        world.take(edge, server("a"))
        assert edge.requestor.sessions["a"].counts["connects_active"] == 1
        assert edge.requestor.data_to_send("a", Channel.ACTIVE) == b""
        assert not edge.requestor.sessions["a"].saved.resync
