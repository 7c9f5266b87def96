"""The writer ahead of the disk: what forwards before it is durable, what is taken back, what a stream's fault ends;
and upkeep, which lets a load go first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.applied import Applied
from pylwaftr.changes import Chain, Report
from pylwaftr.daemon import tidying
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.tidying import Tidying
from pylwaftr.daemon.writer import Closed
from pylwaftr.store import Job, StoreFault
from tests.control_life import DHCP, OPERATOR, FailingStore, cell, keys, listed, run, store_of, table
from tests.store_rows import A1, EVER, many, opened, row, rows, shown


def test_a_change_forwards_before_those_ahead_of_it_are_durable(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        store_of(control).slow_s = 0.4
        first = asyncio.ensure_future(control.bind(row(1), OPERATOR))
        await asyncio.sleep(0.02)  # on its way to the disk
        second = asyncio.ensure_future(control.bind(row(2), OPERATOR))
        await asyncio.sleep(0.02)
        assert (cell(control.get(A1, 1)), cell(control.get(A1, 2))) == ((1, 1, OPERATOR), (2, 1, OPERATOR))
        assert (first.done(), second.done(), control.revision) == (False, False, 0)
        assert [await first, await second] == [Report(added=1, revision=1), Report(added=1, revision=2)]

    run(tmp_path, test)


def test_its_time_is_that_at_which_it_forwards(tmp_path: Path) -> None:
    """The benchmark of single changes rests on it."""
    found: list[Any] = []

    async def life() -> None:
        def clock() -> float:
            found.append(cell(control.get(A1, 5)))
            return 2e9

        control = Control(table(), FailingStore(tmp_path, 0.0), clock)
        await control.start(rows())
        await control.bind(row(5), OPERATOR)
        await control.stop()

    asyncio.run(life())
    assert found == [(5, 1, OPERATOR)]
    store, _ = opened(tmp_path)
    assert [life[3] for life in shown(store.who_held(IPv4Address(A1), None, *EVER))] == [2e9]
    store.close()


def test_a_store_that_fails_takes_back_what_was_done_ahead(tmp_path: Path) -> None:
    """Latest first: the second replaced what the first had bound."""

    async def test(control: Control) -> None:
        await control.bind(rows(row(1), row(2)), OPERATOR)
        store = store_of(control)
        store.slow_s, store.broken = 0.4, True
        first = asyncio.ensure_future(control.bind(row(1, 5), OPERATOR))
        await asyncio.sleep(0.02)
        behind = [
            asyncio.ensure_future(control.bind(row(1, 6), OPERATOR)),
            asyncio.ensure_future(control.unbind(keys(2), OPERATOR)),
            asyncio.ensure_future(control.bind(many(0, 600, 9), DHCP)),  # in a thread
        ]
        await asyncio.sleep(0.05)
        assert cell(control.get(A1, 1)) == (1, 6, OPERATOR)
        answers = await asyncio.gather(first, *behind, return_exceptions=True)
        assert [str(answer) for answer in answers] == ["the disk is full"] * 4
        assert (cell(control.get(A1, 1)), cell(control.get(A1, 2))) == ((1, 1, OPERATOR), (2, 1, OPERATOR))
        assert await listed(control) == [(1, OPERATOR), (2, OPERATOR)]
        store.slow_s, store.broken = 0.0, False
        assert await control.bind(row(3), OPERATOR) == Report(added=1, revision=2)

    run(tmp_path, test)


@pytest.mark.parametrize("what", ["refused", "not kept"])
def test_behind_a_broken_batch_of_a_stream_none_is_done(tmp_path: Path, what: str) -> None:
    async def test(control: Control) -> None:
        store, chain = store_of(control), Chain()
        store.slow_s = 0.05
        first = asyncio.ensure_future(control.bind(row(1), OPERATOR, chain=chain))
        if what == "refused":
            bad: Awaitable[Any] = control.bind(rows(row(2), row(3, k=7)), OPERATOR, chain=chain)
        else:
            store.broken = True
            bad = first
        last = asyncio.ensure_future(control.bind(row(4), OPERATOR, chain=chain))
        if what == "refused":
            assert not (await bad).ok
            assert (await first).added == 1
        else:
            with pytest.raises(StoreFault):
                await bad
            store.broken = False
        await asyncio.gather(last, return_exceptions=True)
        late = await control.bind(row(5), OPERATOR, chain=chain)
        assert late.added == 0
        assert [psid for psid, _ in await listed(control)] == ([1] if what == "refused" else [])
        assert await control.bind(row(6), OPERATOR) == Report(added=1, revision=control.revision)  # of nobody's stream

    run(tmp_path, test)


# --- faults of the program -------------------------------------------------------------------------------------------


def test_behind_a_fault_in_a_stream_s_batch_none_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(control: Control) -> None:
        chain = Chain()
        with monkeypatch.context() as faulty:
            faulty.setattr(control._bindings, "put", lambda *_, **how: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await control.bind(row(1), OPERATOR, chain=chain)
        assert (await control.bind(row(2), OPERATOR, chain=chain)).added == 0
        assert await listed(control) == []

    run(tmp_path, test)


def test_what_cannot_be_taken_back_stops_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(control: Control) -> None:
        undo = control._bindings.undo

        def fails_for_two(applied: Applied) -> None:
            if applied.come.rows["psid"].tolist() == [2]:
                raise RuntimeError("the table does not take back what it had")
            undo(applied)

        monkeypatch.setattr(control._bindings, "undo", fails_for_two)
        store = store_of(control)
        store.slow_s, store.broken = 0.02, True
        each = ((1, OPERATOR), (2, OPERATOR), (3, DHCP))
        asked = [asyncio.ensure_future(control.bind(row(psid), source)) for psid, source in each]
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert [str(answer) for answer in answers] == ["the disk is full"] * 3
            assert [psid for psid, _ in await listed(control)] == [2]
            store.broken = False
            assert (await control.bind(row(4), OPERATOR)).added == 1
        assert not control.failed

    run(tmp_path, test)


@pytest.mark.parametrize("part, act", [("_watching", "committed"), ("_writer._tidying", "busy")], ids=["disk", "table"])
def test_a_writer_that_ends_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str, act: str
) -> None:
    async def test(control: Control) -> None:
        monkeypatch.setattr(attrgetter(part)(control), act, lambda *_: 1 // 0)
        store_of(control).slow_s = 0.02
        async with asyncio.timeout(60):
            asked = [asyncio.ensure_future(control.bind(many(part, 600), OPERATOR)) for part in (0, 600, 1200)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(answer, StoreFault) for answer in answers)
            assert control.failed
            with pytest.raises(Closed, match="see the log"):
                await control.bind(row(1), OPERATOR)

    run(tmp_path, test)
    assert "critical" in [record.levelname.lower() for record in caplog.records]


# --- upkeep ----------------------------------------------------------------------------------------------------------


class _Store:
    """Counts how often it is asked for work, and has none."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def upkeep(self) -> Job | None:
        self.asked.append(time.monotonic())
        return None


@asynccontextmanager
async def _kept(busy: bool) -> AsyncIterator[tuple[_Store, Tidying]]:
    """Upkeep of it that has just been started, while somebody loads or not."""

    async def on_disk(act: Callable[[], Any]) -> Any:
        return act()

    store = _Store()
    kept = Tidying(store, on_disk)  # type: ignore[arg-type]
    if busy:
        kept.busy()
    kept.start()
    yield store, kept
    await kept.stop()


def test_upkeep_waits_until_a_load_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "_QUIET_S", 0.5)

    async def test() -> None:
        async with _kept(busy=True) as (store, kept):
            for _ in range(5):
                await asyncio.sleep(0.02)
                kept.busy()
                kept.wanted(1 << 15)
            busy_until = time.monotonic()
            while not store.asked:
                await asyncio.sleep(0.01)
            assert store.asked[0] >= busy_until

    asyncio.run(test())


def test_upkeep_is_not_put_off_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "_QUIET_S", 60.0)
    monkeypatch.setattr(tidying, "_PATIENCE_S", 0.05)

    async def test() -> None:
        async with _kept(busy=True) as (store, kept):
            while not store.asked:
                kept.busy()
                await asyncio.sleep(0.01)

    asyncio.run(test())


def test_few_changes_do_not_ask_for_upkeep_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "_QUIET_S", 0.0)

    async def test() -> None:
        async with _kept(busy=False) as (store, kept):
            while not store.asked:  # at the start
                await asyncio.sleep(0.01)
            for _ in range(255):
                kept.wanted(1)
            await asyncio.sleep(0.01)
            assert len(store.asked) == 1
            kept.wanted(1)
            while len(store.asked) < 2:
                await asyncio.sleep(0.01)

    asyncio.run(test())
