"""PCP and what others bind: noted late, and never too late."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, cast

import pytest

from pylwaftr import framing, rows
from pylwaftr.api.backend import ListFilter
from pylwaftr.applied import Applied
from pylwaftr.changes import Change, Record, Report, Source
from pylwaftr.config import Config
from pylwaftr.config.services import Pool
from pylwaftr.daemon import pcp_beside
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.pcp_beside import PcpBeside
from pylwaftr.daemon.pcp_view import PcpView
from pylwaftr.daemon.writer import Closed
from pylwaftr.pcp.codec import MapResponse, decode_response
from pylwaftr.pcp.numbers import Result
from pylwaftr.pcp.outcome import Outcome
from pylwaftr.pcp.settings import Settings
from pylwaftr.row_sets import Sourced
from pylwaftr.store import StoreFault
from tests import control_life
from tests.test_daemon_pcp import B4, BR, request

POOL = Pool(IPv4Network("203.0.113.7/32"), 0, 6, ((0, 1023),), "rfc7753")
Observer = Callable[[Applied], None]
OTHER, THIRD = (bytes.fromhex(f"20010db80{n}0000000000000000000001") for n in (2, 3))


class Bound:
    """The writer, as far as PCP sees it."""

    def __init__(self) -> None:
        self.records: dict[str, dict[bytes, bytes]] = {}
        self.there = Sourced.none()
        self.tell: Observer = lambda applied: None
        self.full = False
        self.commits = 0
        self.refusals: list[StoreFault] = []  # to who observes

    async def observe_all(self, begin: Callable[[Sourced], Observer]) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
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
    def __init__(self, monkeypatch: pytest.MonkeyPatch, control: Control | None = None) -> None:
        monkeypatch.setattr(pcp_beside, "_settings", lambda _: Settings((POOL,), BR, per_subscriber=100))
        monkeypatch.setattr(pcp_beside, "_AGAIN_S", 0.01)
        monkeypatch.setattr(pcp_beside, "_BEGIN_AGAIN_S", 0.01)
        self.bound, self.sent = Bound(), list[bytes]()
        self.beside = PcpBeside(cast(Config, None), control or cast(Control, self.bound), self.sent.extend)
        self.pool = self.beside.service.server.pools

    def free(self) -> int:
        (pool,) = self.pool()
        return pool.free


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_a_store_that_refuses_others_does_not_keep_pcp_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        world = World(monkeypatch)
        world.bound.refusals = [StoreFault("no space left on device")] * 2
        world.bound.there = others(1)
        await world.beside.begin(damaged=False, enabled=False)
        (pool,) = world.pool()
        assert (world.bound.refusals, pool.free) == ([], pool.sets - 1)

    run(test)


def test_a_writer_that_has_ended_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        world = World(monkeypatch)
        world.bound.refusals = [Closed("the router is stopping")]
        with pytest.raises(Closed):
            await world.beside.begin(damaged=False, enabled=False)

    run(test)


def test_its_own_record_that_is_refused_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its epoch, which would begin again with each start."""

    async def test() -> None:
        world = World(monkeypatch)
        world.bound.full = True
        with pytest.raises(StoreFault):
            await world.beside.begin(damaged=False, enabled=False)

    run(test)


def test_pcp_decides_beside_what_was_bound_while_its_turn_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping's end is made durable in the same turn, and meanwhile an operator is told that he has the next set."""

    async def test() -> None:
        world = World(monkeypatch)
        service = world.beside.service
        await world.beside.begin(damaged=False, enabled=False)
        ending = Outcome(records={b"a mapping": None})
        monkeypatch.setattr(service.server, "timer", lambda: 0.0)
        monkeypatch.setattr(service.server, "handle_timer", lambda now: ending)
        commit = world.bound.commit

        async def acknowledged(*given: Any) -> Report:
            if not world.bound.commits:
                world.bound.tell(came(1))
            return await commit(*given)

        world.bound.commits = 0  # the epoch was one
        monkeypatch.setattr(world.bound, "commit", acknowledged)
        service.punted([request()])
        await service._take_turn()
        assert _port(world.sent) == 2 * 1024

    run(test)


def _answer(sent: Sequence[bytes]) -> MapResponse:
    """The only one."""
    (packet,) = sent
    datagram = framing.strip(packet)
    assert datagram is not None
    response = decode_response(datagram.payload)
    assert isinstance(response, MapResponse)
    return response


def _port(sent: Sequence[bytes]) -> int:
    return _answer(sent).external_port


def outranking(world: World, monkeypatch: pytest.MonkeyPatch, *psids: int) -> None:
    """While the next commit of PCP is on its way an operator's bindings, which were asked for before, become durable:
    what PCP wants of their keys waits behind them, and is kept."""
    commit = world.bound.commit

    async def outranked(*given: Any) -> Report:
        monkeypatch.setattr(world.bound, "commit", commit)
        report = await commit(*given)
        world.bound.tell(came(*psids))
        return replace(report, outranked=1)

    monkeypatch.setattr(world.bound, "commit", outranked)


@pytest.mark.parametrize("renewed", [False, True], ids=["new", "renewed"])
def test_what_an_operator_has_by_then_is_not_told_as_granted(monkeypatch: pytest.MonkeyPatch, renewed: bool) -> None:
    """The B4 gets another set; who was granted one that nobody else has is told of it, and once."""

    async def test() -> None:
        world = World(monkeypatch)
        service = world.beside.service
        await world.beside.begin(damaged=False, enabled=False)
        if renewed:
            service.punted([request(), request(b4=OTHER)])
            await service._take_turn()
            world.sent.clear()
        outranking(world, monkeypatch, 1)
        service.punted([request(), request(b4=OTHER)])
        await service._take_turn()
        assert _port(world.sent) == 2 * 1024
        world.sent.clear()
        await service._take_turn()
        assert _port(world.sent) == 3 * 1024
        assert service.server.active == 2

    run(test)


def test_a_binding_on_its_way_to_the_disk_is_not_granted_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PCP does not know of it yet when it decides, and the control core lets its row wait behind that."""

    async def test(control: Control) -> None:
        monkeypatch.setattr(control_life.FailingStore, "slow_s", 0.1)
        world = World(monkeypatch, control)
        service = world.beside.service
        await world.beside.begin(damaged=False, enabled=False)
        bound = asyncio.ensure_future(control.bind(others(1).rows, Source.OPERATOR))
        service.punted([request()])
        for _ in range(2):
            await service._take_turn()
        assert ((await bound).added, _port(world.sent)) == (1, 2 * 1024)
        assert await control_life.listed(control) == [(1, Source.OPERATOR), (2, Source.PCP)]
        assert await control_life.listed(control, ListFilter(shadowed=True)) == []

    control_life.run(tmp_path, test)


def answers(sent: Sequence[bytes]) -> dict[bytes, int]:
    """Result by B4."""
    found = {}
    for packet in sent:
        datagram = framing.strip(packet)
        assert datagram is not None
        found[datagram.br] = int(decode_response(datagram.payload).result)  # type: ignore[union-attr]
    return found


FULL = Result.NO_RESOURCES
# what the table has no binding for, its room, who asks, results by B4
REFUSED: list[tuple[str, int, list[bytes], dict[bytes, Result]]] = [
    ("the router's own", 9, [BR], {BR: Result.NOT_AUTHORIZED}),
    ("more than there is room for", 2, [OTHER, THIRD], {OTHER: Result.SUCCESS, THIRD: FULL}),
    ("both", 2, [BR, OTHER, THIRD], {BR: Result.NOT_AUTHORIZED, OTHER: Result.SUCCESS, THIRD: FULL}),
]


@pytest.mark.parametrize("what, room, asking, results", REFUSED, ids=[row[0] for row in REFUSED])
def test_what_the_table_refuses_one_b4_is_refused_to_no_other(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    what: str,
    room: int,
    asking: list[bytes],
    results: dict[bytes, Result],
) -> None:
    """They ask together with a B4 that renews."""

    async def test(control: Control) -> None:
        world = World(monkeypatch, control)
        service = world.beside.service
        await world.beside.begin(damaged=False, enabled=False)
        service.punted([request()])
        await service._take_turn()
        world.sent.clear()
        service.punted([*(request(b4=b4) for b4 in asking), request()])
        await service._take_turn()
        assert answers(world.sent) == results | {B4: Result.SUCCESS}
        assert service.healthy
        counted = Counter(Result(result).name for result in answers(world.sent).values())
        assert service.server.counters == counted + Counter(SUCCESS=1)  # and the first grant
        assert len(await control_life.listed(control)) == service.server.active

    control_life.run(tmp_path, test, capacity=room)


def test_who_gets_no_other_set_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        world = World(monkeypatch)
        service = world.beside.service
        await world.beside.begin(damaged=False, enabled=False)
        outranking(world, monkeypatch, *range(64))
        service.punted([request()])
        for _ in range(2):
            await service._take_turn()
        answer = _answer(world.sent)
        assert (answer.result, answer.lifetime) == (Result.NO_RESOURCES, 30)
        assert service.server.active == 0

    run(test)


def test_nothing_is_told_while_the_store_cannot_take_the_end_of_what_was_granted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        world = World(monkeypatch)
        service = world.beside.service
        await world.beside.begin(damaged=False, enabled=False)
        outranking(world, monkeypatch, 1)
        tell = world.bound.tell

        def told(applied: Applied) -> None:
            world.bound.full = True
            tell(applied)

        monkeypatch.setattr(world.bound, "tell", told)
        service.punted([request()])
        await service._take_turn()
        assert (world.sent, service.healthy) == ([], False)
        world.bound.full = False
        service.punted([request()])  # the B4 asks again
        await service._take_turn()
        assert _port(world.sent) == 2 * 1024

    run(test)


@pytest.mark.parametrize("displaced, released", [((), 2), ((1,), 1), ((1, 2), 0)], ids=["none", "one", "all"])
def test_a_mapping_that_gave_way_is_no_fault_of_a_release(
    monkeypatch: pytest.MonkeyPatch, displaced: tuple[int, ...], released: int
) -> None:
    """The operator binds sets of mappings, and releases all mappings at once."""

    async def test() -> None:
        world = World(monkeypatch)
        service = world.beside.service
        await world.beside.begin(damaged=False, enabled=False)
        service.punted([request(), request(b4=OTHER)])
        await service._take_turn()
        assert service.server.active == 2
        view = PcpView(service, lambda: cast(Config, None), lambda: None)  # type: ignore[arg-type, return-value]
        if displaced:
            world.bound.tell(came(*displaced))
        assert await view.release(None, None, validate_only=True) == 2
        assert await view.release(None, None, validate_only=False) == released
        assert service.server.active == 0

    run(test)


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
        assert _port(world.sent) == 3 * 1024

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
