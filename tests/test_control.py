"""The control side: one writer, group commits, what is taken back, restarts, reloads and replacements."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pylwaftr import _core
from pylwaftr.api.backend import Busy, ListFilter
from pylwaftr.changes import Change, Op, Record, Report, etag
from pylwaftr.daemon import services
from pylwaftr.daemon.control import CommitRefused, Control
from pylwaftr.daemon.restoring import ConfigRefused, Restored
from pylwaftr.rows import Rows
from pylwaftr.store import StoreFault
from tests.control_life import (
    CONFIG,
    DHCP,
    OPERATOR,
    PCP,
    FailingStore,
    cell,
    keys,
    listed,
    nothing,
    run,
    store_of,
    table,
)
from tests.store_rows import A1, EVER, many, opened, row, rows, shown

# --- changes ---------------------------------------------------------------------------------------------------------


def test_what_is_acknowledged_forwards_and_is_found_again(tmp_path: Path) -> None:
    async def first(control: Control) -> None:
        assert await control.bind(rows(row(3), row(4)), OPERATOR) == Report(added=2, revision=1)
        assert await control.bind(row(3, 2), OPERATOR) == Report(replaced=1, revision=2)
        assert await control.bind(row(3, 2), OPERATOR) == Report(unchanged=1, revision=2)
        assert await control.bind(row(3, 9), DHCP) == Report(outranked=1, revision=3)
        assert await control.unbind(keys(4, 5), OPERATOR) == Report(removed=1, revision=4)
        assert (await control.bind(row(5, k=7), OPERATOR)).refused[0].reason == "other_params_on_address"
        assert cell(control.get(A1, 3)) == cell(control.lookup(A1, 3 * 1024 + 5)) == (3, 2, OPERATOR)
        assert control.get(A1, 4) is None is control.lookup(A1, 4 * 1024)
        assert control.revision == 4

    async def second(control: Control) -> None:
        assert control.revision == 4
        assert cell(control.get(A1, 3)) == (3, 2, OPERATOR)
        assert await control.unbind(keys(3), OPERATOR) == Report(removed=1, revision=5)
        assert cell(control.get(A1, 3)) == (3, 9, DHCP)  # had waited

    run(tmp_path, first)
    assert run(tmp_path, second) == Restored(1, (), ())


LOOK_UPS = [
    ("whole address", row(0, 1, 0), 80, True),
    ("whole address, no port", row(0, 1, 0), None, True),
    ("shared address, no port", row(3), None, False),
    ("first port of a set", row(3), 3072, True),
    ("last port of a set", row(3), 4095, True),
    ("another's port", row(3), 4096, False),
    ("offset 6", row(5, 1, 6, A1, 6), 1024 + 80, True),
    ("offset 6, a port below the first block", row(5, 1, 6, A1, 6), 80, False),
]


@pytest.mark.parametrize("what, bound, port, found", LOOK_UPS, ids=[r[0] for r in LOOK_UPS])
def test_lookup(tmp_path: Path, what: str, bound: Rows, port: int | None, found: bool) -> None:
    async def test(control: Control) -> None:
        await control.bind(bound, OPERATOR)
        assert (control.lookup(A1, port) is not None) == found
        assert (_core_find(control, port) is not None) == found

    run(tmp_path, test)


def _core_find(control: Control, port: int | None) -> Any:
    core = control._table
    assert isinstance(core, _core.BindingTable)
    return core.find(A1, port)


def test_conditions_and_validation_change_nothing(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        assert await control.bind(row(3), OPERATOR, validate_only=True) == Report(added=1)
        assert await control.bind(row(3), OPERATOR, expected=[""]) == Report(added=1, revision=1)
        tag = etag(row(3).tobytes(), OPERATOR)
        refused = (await control.bind(row(3, 2), OPERATOR, expected=[""])).refused
        assert [r.reason for r in refused] == ["already_exists"]
        assert (await control.bind(row(3, 2), OPERATOR, expected=[tag])).replaced == 1
        assert [r.reason for r in (await control.unbind(keys(3), OPERATOR, expected=[tag])).refused] == [
            "etag_mismatch"
        ]
        assert (await control.unbind(keys(3), OPERATOR, validate_only=True)).removed == 1
        assert cell(control.get(A1, 3)) == (3, 2, OPERATOR)

    run(tmp_path, test)


def test_a_store_that_fails_takes_the_whole_group_back(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.bind(rows(row(1), row(2)), OPERATOR)
        store = store_of(control)
        store.slow_s, before = 0.3, asyncio.ensure_future(control.bind(row(9), OPERATOR))
        await asyncio.sleep(0.01)  # that one is on its way: what follows is one group
        group = [
            control.bind(row(3), OPERATOR),
            control.bind(row(3, 2), PCP),
            control.unbind(keys(1), OPERATOR),
            control.bind(row(2, 5), DHCP),
            control.bind(row(2, 7), OPERATOR),
            control.bind(row(2, 7), OPERATOR),  # unchanged, as it seems
            control.commit([Change(Op.BIND, PCP, row(8))], [Record("pcp", b"k", b"v")], PCP),
        ]
        waiting = asyncio.gather(*group, return_exceptions=True)
        await before
        store.broken = True
        answers = await waiting
        assert [str(answer) for answer in answers] == ["the disk is full"] * len(group)
        assert control.store_faults == 1
        assert sorted(await listed(control)) == [(1, OPERATOR), (2, OPERATOR), (9, OPERATOR)]
        assert await listed(control, ListFilter(shadowed=True)) == []
        store.broken = False
        assert await control.bind(row(3), OPERATOR) == Report(added=1, revision=3)

    run(tmp_path, test)
    store, state = opened(tmp_path)
    assert (state.revision, state.records) == (3, {})
    store.close()


def test_a_store_that_refuses_is_tried_until_it_takes_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(control: Control) -> None:
        assert control.store_serves
        store_of(control).broken = True
        for number in range(3):
            with pytest.raises(StoreFault):
                await control.bind(row(number), OPERATOR)
        await control.try_store()
        assert (control.store_serves, control.store_faults, control.revision) == (False, 3, 0)  # not the trial
        await control.bind(row(1), OPERATOR, validate_only=True)  # is not asked of the store
        assert not control.store_serves
        store_of(control).broken = False
        await control.try_store()
        assert control.store_serves
        assert (await control.bind(row(1), OPERATOR)).added == 1

    run(tmp_path, test)
    text = "no change of bindings is kept until that is mended: the disk is full"
    assert [record.message for record in caplog.records] == [text, "changes of bindings are kept again"]
    assert run(tmp_path, nothing).bound == 1


def test_the_health_of_the_store_is_that_of_its_last_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if nobody changes a binding meanwhile: the router itself finds out that the disk has room again."""
    monkeypatch.setattr(services, "_HEALTH_S", 0.01)

    async def test(control: Control) -> None:
        healthy: dict[str, bool] = {}
        router = object.__new__(services.Services)
        router.machine, router.control = SimpleNamespace(healthy=healthy), control  # type: ignore[assignment]
        router.settings = SimpleNamespace(config=SimpleNamespace(pcp=SimpleNamespace(enabled=False)))  # type: ignore[assignment]
        router.leases = router._api = router.pcp = None
        watched = asyncio.create_task(router._watch_health())

        async def until(store: bool) -> None:
            while healthy.get("store") is not store:
                assert not watched.done(), watched.exception()
                await asyncio.sleep(0.01)

        await until(True)
        store_of(control).broken = True
        with pytest.raises(StoreFault):
            await control.bind(row(1), OPERATOR)
        await until(False)
        store_of(control).broken = False
        await until(True)
        assert healthy.keys() == {"store"}
        watched.cancel()

    run(tmp_path, test)


def test_an_engine_s_records_and_bindings_are_one_revision(tmp_path: Path) -> None:
    async def first(control: Control) -> None:
        await control.bind(row(1), CONFIG)
        asked = [Change(Op.BIND, PCP, rows(row(1, 5), row(2, 5))), Change(Op.UNBIND, PCP, row(7))]
        report = await control.commit(asked, [Record("pcp", b"k", b"v")], PCP)
        assert report == Report(added=1, outranked=1, revision=2)
        assert await control.commit([], [Record("pcp", b"l", b"w")], PCP) == Report(revision=3)
        asked = [Change(Op.UNBIND, PCP, row(2)), Change(Op.BIND, PCP, row(1, k=7))]
        with pytest.raises(CommitRefused, match="have the same psid_offset and psid_len") as refused:
            await control.commit(asked, [Record("pcp", b"k", b"x")], PCP)
        assert refused.value.report.refused[0].reason == "other_params_on_address"
        assert cell(control.get(A1, 2)) == (2, 5, PCP)

    async def second(control: Control) -> None:
        assert control.records == {"pcp": {b"k": b"v", b"l": b"w"}}
        assert control.revision == 4  # the configuration no longer has PSID 1
        assert cell(control.get(A1, 1)) == (1, 5, PCP)

    run(tmp_path, first)
    run(tmp_path, second)


def test_small_operations_that_wait_are_one_commit(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        store = store_of(control)
        store.slow_s = 0.3
        first = asyncio.ensure_future(control.bind(row(0), OPERATOR))
        await asyncio.sleep(0.01)
        reports = await asyncio.gather(*(control.bind(row(n % 60, n // 60), DHCP) for n in range(1, 100)))
        assert await first == Report(added=1, revision=1)
        # PSID 0 is the operator's, and from 60 on PSIDs come again: what meets with others is done one by one.
        assert sum(r.added for r in reports) == 59
        assert sum(r.outranked for r in reports) == 1
        assert sum(r.replaced for r in reports) == 39
        store.commits = ()
        removals = await asyncio.gather(*(control.unbind(keys(n), DHCP) for n in range(1, 60)))
        assert {(r.removed, r.revision) for r in removals} <= {(1, control.revision), (1, control.revision - 1)}
        assert sum(store.commits) <= 2

    run(tmp_path, test)


@pytest.mark.parametrize("what", ["alike", "mixed"])
def test_operations_at_once_are_as_one_after_the_other(tmp_path: Path, what: str) -> None:
    random = np.random.default_rng(7)
    steps = [(int(random.integers(3)), int(random.integers(20)), int(random.integers(1, 4))) for _ in range(400)]
    if what == "alike":
        steps = [(0, psid, to) for _, psid, to in steps]

    def ask(control: Control, kind: int, psid: int, to: int) -> Awaitable[Report]:
        return control.unbind(keys(psid), DHCP) if kind == 1 else control.bind(row(psid, to), DHCP)

    async def together(control: Control) -> None:
        counts.append([_plain(r) for r in await asyncio.gather(*(ask(control, *step) for step in steps))])
        ends.append(sorted(await listed(control)))

    async def one_by_one(control: Control) -> None:
        counts.append([_plain(await ask(control, *step)) for step in steps])
        ends.append(sorted(await listed(control)))

    counts: list[list[Any]] = []
    ends: list[list[Any]] = []
    run(tmp_path / "a", together)
    run(tmp_path / "b", one_by_one)
    assert counts[0] == counts[1]
    assert ends[0] == ends[1]
    histories = [_history(tmp_path / name) for name in "ab"]
    assert histories[0] == histories[1]


def test_whole_addresses_that_go_at_once_go_by_any_psid(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.bind(rows(*(row(k=0, ipv4=A1 + n) for n in range(3))), DHCP)
        store_of(control).slow_s = 0.3
        first = asyncio.ensure_future(control.bind(row(1, ipv4=A1 + 9), DHCP))
        await asyncio.sleep(0.01)  # that one is on its way: what follows waits, and may be one
        named = [(np.array([A1 + n], np.uint32), np.array([psid], np.uint16)) for n, psid in ((0, 5), (1, 0), (2, 7))]
        removals = await asyncio.gather(*(control.unbind(key, DHCP) for key in named))
        assert [report.removed for report in removals] == [1, 1, 1]
        assert (await first).added == 1

    run(tmp_path, test)


def _plain(report: Report) -> tuple[int, ...]:
    return report.added, report.replaced, report.unchanged, report.removed, len(report.refused)


def _history(folder: Path) -> list[tuple[int, int]]:
    store, _ = opened(folder)
    lives = sorted((psid, to) for psid, to, *_ in shown(store.who_held(IPv4Address(A1), None, *EVER)))
    store.close()
    return lives


def test_who_goes_away_leaves_no_half_work(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        store_of(control).slow_s = 0.3
        asked = [asyncio.ensure_future(control.bind(row(n), DHCP)) for n in range(3)]
        await asyncio.sleep(0.02)
        for task in asked:
            task.cancel()
        await asyncio.sleep(0)
        assert (await control.bind(row(9), DHCP)).added == 1
        assert {psid for psid, _ in await listed(control)} == {0, 1, 2, 9} - {1, 2} | {
            psid for psid in (1, 2) if control.get(A1, psid)
        }

    run(tmp_path, test)
    run(tmp_path, nothing)


def test_what_waits_at_the_end_is_still_done(tmp_path: Path) -> None:
    async def life() -> list[Any]:
        control = Control(table(), FailingStore(tmp_path, 0.0))
        await control.start(rows())
        asked = [asyncio.ensure_future(control.bind(row(n), DHCP)) for n in range(5)]
        await asyncio.sleep(0)
        await control.stop()
        with pytest.raises(StoreFault, match="is stopping"):
            await control.bind(row(9), DHCP)
        return await asyncio.gather(*asked)

    assert sum(report.added for report in asyncio.run(life())) == 5
    assert run(tmp_path, nothing).bound == 5


# --- configuration and replacements ----------------------------------------------------------------------------------


def test_the_configuration_wins_and_is_in_the_history(tmp_path: Path) -> None:
    async def first(control: Control) -> None:
        await control.bind(row(1, 5), OPERATOR)  # waits behind the configuration
        await control.bind(row(2, 5), OPERATOR)
        report = await control.reload(rows(row(2, 7), row(3, 7)))
        assert (report.added, report.replaced, report.removed, report.revision) == (1, 1, 1, 4)
        assert [cell(control.get(A1, n)) for n in (1, 2, 3)] == [(1, 5, 1), (2, 7, 0), (3, 7, 0)]
        with pytest.raises(ConfigRefused, match=r"1 refused, the first: 203\.0\.113\.1 PSID 70/6"):
            await control.reload(rows(row(70)))
        assert [cell(control.get(A1, n)) for n in (1, 2, 3)] == [(1, 5, 1), (2, 7, 0), (3, 7, 0)]
        assert (await control.reload(rows(row(2, 7), row(3, 7)))).unchanged == 2

    run(tmp_path, first, config=row(1))
    restored = run(tmp_path, nothing, config=row(2, 7))
    assert restored.bound == 2
    store, state = opened(tmp_path)
    assert state.revision == 5  # the difference of the last start: PSID 3 went
    lives = [(*life[:3], life[4] is None) for life in shown(store.who_held(IPv4Address(A1), None, *EVER))]
    assert lives == [(1, 1, 0, False), (2, 5, 1, False), (1, 5, 1, True), (2, 7, 0, True), (3, 7, 0, False)]
    store.close()


def test_a_configuration_that_fills_the_table_can_be_replaced(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        assert (await control.reload(many(10, 20, 2))).added == 10
        assert (await control.reload(many(1000, 20, 2))).added == 20
        with pytest.raises(ConfigRefused, match="table is full"):
            await control.reload(many(0, 21))
        assert len(await listed(control)) == 20

    run(tmp_path, test, config=many(0, 20), capacity=20)


def test_rows_that_no_longer_fit_are_named(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.bind(many(0, 30), OPERATOR)

    run(tmp_path, test)
    restored = run(tmp_path, nothing, capacity=20)
    assert restored.bound == 20
    assert {refusal.reason for refusal in restored.dropped} == {"table_full"}
    assert len(restored.dropped) == 10
    assert run(tmp_path, nothing, capacity=20) == Restored(20, (), ())


def test_replace_all(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.bind(many(0, 1000), OPERATOR)
        await control.bind(many(2000, 10), DHCP)
        replacement = await control.replace_all(OPERATOR)
        with pytest.raises(Busy, match="bindings of an operator is under way"):
            await control.replace_all(OPERATOR)
        assert (await replacement.feed(many(500, 400))).unchanged == 400
        assert (await replacement.feed(many(900, 400))).added == 300
        assert len(await listed(control)) == 1310
        done = await replacement.finish()
        assert (done.removed, done.revision) == (500, 4)
        assert len(await listed(control)) == 810
        other = await control.replace_all(OPERATOR)
        await other.feed(many(0, 1))
        await other.abandon()
        assert len(await listed(control)) == 811
        await (await control.replace_all(OPERATOR)).finish()
        assert len(await listed(control)) == 10

    run(tmp_path, test)
