"""What the control side answers: lists in pages, watches, history; and that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pylwaftr import _core
from pylwaftr.api.backend import Event, ListFilter
from pylwaftr.changes import Record
from pylwaftr.daemon import watching
from pylwaftr.daemon.control import Control
from pylwaftr.store import Compacted, Life
from tests.control_life import DHCP, OPERATOR, PCP, FailingStore, keys, listed, nothing, run, store_of, table
from tests.store_rows import A1, A2, BIND, EVER, UNBIND, b4, many, prefix, row, rows

# --- lists -----------------------------------------------------------------------------------------------------------

FILTERS = [
    ("all", ListFilter(), 2010),
    ("an address", ListFilter(ipv4=(A1 + 1, A1 + 1)), 64),
    ("a range of addresses", ListFilter(ipv4=(A1 + 1, A1 + 2)), 128),
    ("a wide range", ListFilter(ipv4=(A1, A1 + 1000)), 2010),
    ("a source", ListFilter(source=DHCP), 10),
    ("a B4", ListFilter(b4=prefix("2000::5:1/128")), 1),
    ("a prefix of B4s", ListFilter(b4=prefix("2000::/16"), source=OPERATOR), 2000),
    ("another prefix", ListFilter(b4=prefix("2001:db8::/32")), 0),
    ("both", ListFilter(ipv4=(A1, A1 + 3), source=DHCP), 0),
    ("what waits", ListFilter(shadowed=True), 20),
    ("what waits of a source", ListFilter(shadowed=True, source=PCP), 10),
]


def test_lists(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.bind(many(0, 2000), OPERATOR)
        await control.bind(many(2000, 10), DHCP)
        await control.bind(many(0, 10, 3), DHCP)
        await control.bind(many(0, 10, 4), PCP)
        for what, wanted, count in FILTERS:
            for size in (7, 1000, 3000):
                assert len(await listed(control, wanted, size)) == count, what
        for page in ("nonsense", "-", "1-", "1--5", "1-fffffffffffffff", "1-2-3"):
            with pytest.raises(ValueError, match="page token"):
                await control.list(ListFilter(), 10, page)

    run(tmp_path, test)


def test_pages_are_of_one_revision(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.bind(many(0, 100), OPERATOR)
        first = await control.list(ListFilter(), 50, "")
        await control.bind(many(50, 1, 9), OPERATOR)
        await control.unbind((many(60, 1)["ipv4"].copy(), many(60, 1)["psid"].copy()), OPERATOR)
        rest = await control.list(ListFilter(), 100, first.next)
        assert (rest.revision, len(rest.rows), rest.rows["b4"][0][15]) == (1, 50, 1)
        now = await control.list(ListFilter(), 1000, "")
        assert (now.revision, len(now.rows), now.rows["b4"][50][15]) == (3, 99, 9)
        control._views.close()  # as after a minute
        late = await control.list(ListFilter(), 100, first.next)
        assert (late.revision, len(late.rows), late.rows["b4"][0][15]) == (3, 49, 9)

    run(tmp_path, test)


def test_a_view_is_carried_forward(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        random = np.random.default_rng(3)
        for number in range(60):
            first, count = int(random.integers(200)), int(random.integers(1, 80))
            some = many(first, count, number)
            if random.integers(3):
                await control.bind(some, int(random.integers(4)))
            else:
                await control.unbind((some["ipv4"].copy(), some["psid"].copy()), int(random.integers(4)))
            found = await control.list(ListFilter(), 1000, "")
            assert found.revision == control.revision
            core = control._table
            whole, sources, _ = core.dump_chunk(0, 10_000)
            order = np.lexsort((whole["psid"], whole["ipv4"]))
            assert np.array_equal(found.rows, whole[order])
            assert np.array_equal(found.sources, sources[order])

    run(tmp_path, test)


# --- watches ---------------------------------------------------------------------------------------------------------


def told(event: Event) -> tuple[Any, ...]:
    if event.change is None:
        return event.revision, "marker"
    return event.revision, event.change.op, event.change.source, len(event.change.rows)


async def take(events: Any, count: int) -> list[tuple[Any, ...]]:
    return [told(await asyncio.wait_for(anext(events), 60)) for _ in range(count)]


def test_a_watch_begins_with_a_snapshot(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.bind(many(0, 20_000), OPERATOR)
        await control.bind(row(1, ipv4=A2 + 9000), DHCP)
        events = control.watch(None)
        snapshot = await take(events, 4)
        assert sum(event[3] for event in snapshot[:-1]) == 20_001
        assert {event[:2] for event in snapshot[:-1]} == {(2, BIND)}
        assert snapshot[-1] == (2, "marker")
        await control.bind(row(1, 5, ipv4=A2 + 9000), OPERATOR)
        await control.unbind((np.array([A2 + 9000], np.uint32), np.array([1], np.uint16)), OPERATOR)
        assert await take(events, 2) == [(3, BIND, OPERATOR, 1), (4, BIND, DHCP, 1)]
        await control.unbind((np.array([A2 + 9000], np.uint32), np.array([1], np.uint16)), DHCP)
        assert await take(events, 1) == [(5, UNBIND, DHCP, 1)]

    run(tmp_path, test)


def test_a_watch_goes_on_where_it_was(tmp_path: Path) -> None:
    async def first(control: Control) -> None:
        for number in range(5):
            await control.bind(row(number), DHCP)

    async def second(control: Control) -> None:
        with pytest.raises(Compacted):
            await anext(control.watch(6))
        events = control.watch(2)
        assert await take(events, 3) == [(n, BIND, DHCP, 1) for n in (3, 4, 5)]
        waiting = asyncio.ensure_future(take(events, 1))
        await asyncio.sleep(0.01)
        await control.commit([], [Record("pcp", b"k", b"v")], PCP)  # nothing to tell
        await control.bind(row(9), DHCP)
        assert await waiting == [(7, BIND, DHCP, 1)]

    run(tmp_path, first)
    run(tmp_path, second)


def test_a_slow_watcher_reads_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_RECENT", 10)

    async def test(control: Control) -> None:
        events = control.watch(0)
        await control.bind(row(0), DHCP)
        assert await take(events, 1) == [(1, BIND, DHCP, 1)]
        for number in range(1, 60):
            await control.bind(row(number), DHCP)
        assert len(control._watching._recent) == 10
        assert await take(events, 59) == [(n, BIND, DHCP, 1) for n in range(2, 61)]
        late = control.watch(0)
        store_of(control).slow_read_s = 0.3
        told_later = asyncio.ensure_future(take(late, 63))
        await asyncio.sleep(0.01)  # it has begun to read from the store
        await asyncio.gather(control.bind(row(60), DHCP), control.unbind(keys(60), DHCP))
        await asyncio.sleep(0.5)
        await control.bind(row(61), DHCP)
        assert [event[0] for event in await told_later] == list(range(1, 64))

    run(tmp_path, test)


def test_a_watch_ends_with_the_router(tmp_path: Path) -> None:
    async def life() -> list[Any]:
        control = Control(table(), FailingStore(tmp_path, 0.0))
        await control.start(rows())
        waiting = asyncio.ensure_future(_all(control.watch(0)))
        await asyncio.sleep(0.01)
        await control.stop()
        return await asyncio.wait_for(waiting, 30)

    assert asyncio.run(life()) == []


async def _all(events: Any) -> list[Any]:
    return [event async for event in events]


# --- history, and the event loop -------------------------------------------------------------------------------------


async def everything(parts: AsyncIterator[Sequence[Life]]) -> list[Life]:
    return [life async for part in parts for life in part]


def test_history_and_retention(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        begin = time.time()
        for to in range(1, 4):
            await control.bind(row(3, to), DHCP)
        lives = await everything(control.who_held(IPv4Address(A1), 3072, *EVER))
        assert [life.row["b4"][0].tobytes() for life in lives] == [b4(1), b4(2), b4(3)]
        assert all(begin <= life.began <= time.time() for life in lives)
        assert len(await everything(control.lives_of(prefix("2001:db8:1::2/128"), *EVER))) == 1
        await control.forget(time.time() + 1)
        assert len(await everything(control.who_held(IPv4Address(A1), 3072, *EVER))) == 1

    run(tmp_path, test)


@pytest.mark.slow
def test_the_event_loop_goes_on_beside_a_million_rows(tmp_path: Path) -> None:
    """Work on many rows is done in threads: others have their turns meanwhile, far more than the steps it has."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.002)
            turns += 1

    async def test(control: Control) -> None:
        beside = asyncio.ensure_future(others())
        assert (await control.bind(made, OPERATOR)).added == 1_000_000
        bound = turns
        assert len((await control.list(ListFilter(source=OPERATOR), 50_000, "")).rows) == 50_000
        beside.cancel()
        assert bound > 20
        assert turns - bound > 5

    made = _core.bench_rows(0, 1_000_000)
    run(tmp_path, test, capacity=1_000_000)
    assert run(tmp_path, nothing, capacity=1_000_000).bound == 1_000_000
