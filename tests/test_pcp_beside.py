"""PCP and what others bind: noted late, and never too late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network
from typing import cast

import pytest

from pylwaftr import framing, rows
from pylwaftr.applied import Applied
from pylwaftr.changes import Change, Record, Report, Source
from pylwaftr.config import Config
from pylwaftr.config.services import Pool
from pylwaftr.daemon import pcp_beside
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.pcp_beside import PcpBeside
from pylwaftr.pcp.codec import MapResponse, decode_response
from pylwaftr.pcp.outcome import Outcome
from pylwaftr.pcp.settings import Settings
from pylwaftr.row_sets import Sourced
from pylwaftr.store import StoreFault
from tests.test_daemon_pcp import BR, request

POOL = Pool(IPv4Network("203.0.113.7/32"), 0, 6, ((0, 1023),), "rfc7753")
Observer = Callable[[Applied], None]
OTHER = bytes.fromhex("20010db8020000000000000000000001")


class Bound:
    """The writer, as far as PCP sees it."""

    def __init__(self) -> None:
        self.records: dict[str, dict[bytes, bytes]] = {}
        self.there = Sourced.none()
        self.tell: Observer = lambda applied: None
        self.full = False
        self.commits = 0

    async def observe_all(self, begin: Callable[[Sourced], Observer]) -> None:
        self.tell = begin(self.there)

    async def commit(self, changes: Sequence[Change], records: Sequence[Record], source: int) -> Report:
        if self.full:
            raise StoreFault("no space left on device")
        self.commits += 1
        return Report()


def others(*psids: int, source: Source = Source.OPERATOR) -> Sourced:
    address = int(POOL.ipv4.network_address)
    return Sourced.of(rows.array(rows.row(address, 0, 6, psid, OTHER, BR) for psid in psids), source)


def came(*psids: int) -> Applied:
    return Applied(Report(), come=others(*psids))


def went(*psids: int) -> Applied:
    return Applied(Report(), gone=others(*psids))


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pcp_beside, "_settings", lambda _: Settings((POOL,), BR, per_subscriber=100))
        monkeypatch.setattr(pcp_beside, "_AGAIN_S", 0.01)
        self.bound, self.sent = Bound(), list[bytes]()
        self.beside = PcpBeside(cast(Config, None), cast(Control, self.bound), self.sent.extend)
        self.pool = self.beside.service.server.pools

    def free(self) -> int:
        (pool,) = self.pool()
        return pool.free


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_pcp_decides_beside_what_was_bound_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The set that it would give is an operator's since a moment; nobody follows yet."""

    async def test() -> None:
        world = World(monkeypatch)
        await world.beside.begin(damaged=False, enabled=False)
        world.bound.tell(came(1))
        world.bound.tell(came(2))
        task = asyncio.create_task(world.beside.service.run())
        world.beside.service.punted([request()])
        await until(lambda: bool(world.sent))
        task.cancel()
        datagram = framing.strip(world.sent[0])
        assert datagram is not None
        response = decode_response(datagram.payload)
        assert isinstance(response, MapResponse)
        assert response.external_port == 3 * 1024

    run(test)


def test_what_was_bound_is_noted_without_a_request_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        world = World(monkeypatch)
        monkeypatch.setattr(pcp_beside, "_QUIET_S", 0.01)
        await world.beside.begin(damaged=False, enabled=False)
        before = world.free()
        task = asyncio.create_task(world.beside.follow())
        world.bound.tell(came(1, 2))
        world.bound.tell(came(3))
        await until(lambda: world.free() == before - 3)
        world.bound.tell(went(2))
        await until(lambda: world.free() == before - 2)
        task.cancel()

    run(test)


def test_order_is_kept_where_changes_are_noted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound, removed and bound again: the last counts."""

    async def test() -> None:
        world = World(monkeypatch)
        world.bound.there = others(9)
        await world.beside.begin(damaged=False, enabled=False)
        before = world.free()
        for applied in (came(1), came(2), went(1), went(9), came(1), went(2)):
            world.bound.tell(applied)
        await world.beside.service.settle(lambda _: Outcome())
        assert world.free() == before

    run(test)


def test_what_pcp_has_bound_itself_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        world = World(monkeypatch)
        world.bound.there = others(1, source=Source.PCP)
        await world.beside.begin(damaged=False, enabled=False)
        before = world.free()
        world.bound.tell(Applied(Report(), come=others(2, source=Source.PCP)))
        await world.beside.service.settle(lambda _: Outcome())
        assert world.free() == before

    run(test)


def test_a_mapping_in_the_way_ends_when_the_store_can_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        world = World(monkeypatch)
        monkeypatch.setattr(pcp_beside, "_QUIET_S", 0.01)
        beside, bound = world.beside, world.bound
        await beside.begin(damaged=False, enabled=False)
        serving = asyncio.create_task(beside.service.run())
        beside.service.punted([request()])
        await until(lambda: bool(world.sent))
        serving.cancel()
        bound.full = True
        bound.tell(came(1))
        with pytest.raises(StoreFault):
            await beside.service.settle(lambda _: Outcome())
        assert beside.service.server.active == 1
        bound.full = False
        following = asyncio.create_task(beside.follow())
        await until(lambda: beside.service.server.active == 0)
        following.cancel()

    run(test)
