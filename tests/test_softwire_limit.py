"""An operator's bindings under the limit of softwires a subscriber may have: refused beyond it, by prefix, exactly."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from pylwaftr.daemon.control import Control
from pylwaftr.daemon.restoring import Restored
from pylwaftr.rows import Rows
from pylwaftr.store import Change, Op, StoreFault
from pylwaftr.subscriber import Subscribers
from tests.control_life import CONFIG, DHCP, OPERATOR, keys, listed, nothing, run, store_of
from tests.store_rows import row, rows

NEXT = 1 << 72  # a B4 of the next /56


def limited(folder: Path, test: object, most: int | None = 1, config: Rows | None = None) -> Restored:
    async def within(control: Control) -> None:
        await control.limit_operator(56, most)
        await test(control)  # type: ignore[operator]

    return run(folder, within, config)


async def refused(control: Control, part: Rows, source: int = OPERATOR) -> list[int]:
    report = await control.bind(part, source)
    assert all(refusal.reason == "subscriber_limit" for refusal in report.refused)
    return [refusal.index for refusal in report.refused]


def test_a_second_softwire_of_a_subscriber_is_refused_and_nothing_is_done(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        assert await refused(control, row(1, to=1)) == []
        assert await refused(control, row(2, to=1)) == []  # another set of the same softwire
        assert await refused(control, row(3, to=NEXT)) == []  # another subscriber
        assert await refused(control, rows(row(4, to=1), row(5, to=2), row(6, to=NEXT + 1))) == [1, 2]
        report = await control.bind(row(5, to=2), OPERATOR, validate_only=True)
        assert "raise subscribers.max_softwires" in report.refused[0].text
        assert await listed(control) == [(1, 1), (2, 1), (3, 1)]

    limited(tmp_path, test)


def test_by_default_an_operator_binds_as_many_as_wanted(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        assert await refused(control, rows(*(row(psid, to=psid + 1) for psid in range(1, 40)))) == []

    run(tmp_path / "never set", test)
    limited(tmp_path / "switched off", test, most=None)


def test_what_is_bound_when_the_limit_comes_stays_and_counts(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.bind(rows(row(1, to=1), row(2, to=2)), OPERATOR)
        await control.limit_operator(56, 2)
        assert await refused(control, row(3, to=3)) == [0]
        assert await refused(control, row(3, to=2)) == []
        await control.limit_operator(56, 3)
        assert await refused(control, row(4, to=3)) == []

    run(tmp_path, test)
    assert run(tmp_path, nothing).bound == 4  # a restart takes nothing away


def test_bindings_of_others_count(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.commit([Change(Op.BIND, DHCP, row(2, to=2))], [], DHCP)
        assert await refused(control, row(3, to=3)) == [0]
        assert await refused(control, row(4, to=2)) == []
        assert await refused(control, row(9, to=NEXT + 1)) == [0]  # beside the configuration's
        assert await refused(control, row(1, to=5)) == []  # waits behind the configuration's, and is no softwire

    limited(tmp_path, test, config=row(1, to=NEXT))


def test_a_softwire_that_goes_makes_room(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        assert await refused(control, row(1, to=1)) == []
        assert await refused(control, row(1, to=2)) == []  # takes its own place
        assert await refused(control, row(2, to=1)) == [0]
        await control.unbind(keys(1), OPERATOR)
        assert await refused(control, row(2, to=1)) == []

    limited(tmp_path, test)


def test_at_once_is_one_after_the_other(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        found = await asyncio.gather(*(refused(control, row(psid, to=psid)) for psid in range(1, 9)))
        assert sorted(map(len, found)) == [0] + [1] * 7

    limited(tmp_path, test)


def test_what_the_store_refused_is_not_counted(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        store_of(control).broken = True
        with pytest.raises(StoreFault):
            await control.bind(row(1, to=1), OPERATOR)
        store_of(control).broken = False
        assert await refused(control, row(2, to=2)) == []

    limited(tmp_path, test)


def test_a_replacement_of_all_is_counted_by_itself(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.bind(rows(row(1, to=1), row(2, to=NEXT)), OPERATOR)
        replacement = await control.replace_all(OPERATOR)
        assert (await replacement.feed(row(3, to=2))).ok  # the one before goes at the end
        report = await replacement.feed(row(4, to=3))
        assert [refusal.reason for refusal in report.refused] == ["subscriber_limit"]
        await replacement.abandon()
        replacement = await control.replace_all(OPERATOR)
        assert (await replacement.feed(row(5, to=7))).ok
        assert (await replacement.finish()).ok
        assert await refused(control, row(6, to=8)) == [0]
        assert await refused(control, row(6, to=7)) == []

    limited(tmp_path, test)


def test_a_replacement_that_is_only_judged_is_counted_by_itself(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        await control.bind(rows(row(1, to=1), row(2, to=1)), OPERATOR)
        await control.commit([Change(Op.BIND, DHCP, row(3, to=NEXT))], [], DHCP)

        async def judged(part: Rows, replacing: bool = True) -> list[str]:
            report = await control.rehearse(OPERATOR, replacing=replacing).feed(part)
            return [refusal.reason for refusal in report.refused]

        assert await judged(row(4, to=2), replacing=False) == ["subscriber_limit"]
        assert await judged(row(4, to=2)) == []
        assert await judged(rows(row(4, to=2), row(5, to=3))) == ["subscriber_limit"]
        assert await judged(row(4, to=NEXT + 1)) == ["subscriber_limit"]  # what others have stays
        assert await listed(control) == [(1, OPERATOR), (2, OPERATOR), (3, DHCP)]

    limited(tmp_path, test)


def test_rows_of_a_replacement_that_wait_are_no_softwires(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        replacement = await control.replace_all(OPERATOR)
        report = await replacement.feed(rows(row(1, to=5), row(2, to=NEXT + 1)))
        assert (report.added, report.outranked) == (1, 1)
        assert (await replacement.feed(row(3, to=6))).ok
        assert [refusal.reason for refusal in (await replacement.feed(row(4, to=7))).refused] == ["subscriber_limit"]
        await replacement.abandon()

    limited(tmp_path, test, config=row(1, to=1 << 76))


@pytest.mark.parametrize("replacing", [False, True], ids=["load", "replace"])
def test_batches_that_are_only_judged_are_judged_together(tmp_path: Path, replacing: bool) -> None:
    async def test(control: Control) -> None:
        await control.bind(row(9, to=NEXT), OPERATOR)
        trial = control.rehearse(OPERATOR, replacing=replacing)

        async def judged(part: Rows) -> bool:
            return (await trial.feed(part)).ok

        assert await judged(row(1, to=1))
        assert not await judged(row(2, to=2))
        assert await judged(row(3, to=1))  # also behind one that was refused
        assert await judged(row(9, to=NEXT + 1))  # takes its own place
        assert not await judged(row(8, to=NEXT))
        assert await refused(control, row(2, to=2)) == []  # it was only a count

    limited(tmp_path, test)


def test_counts_stay_those_of_the_table(tmp_path: Path) -> None:
    async def test(control: Control) -> None:
        draw = random.Random(1)
        for _ in range(300):
            source, psid, to = draw.choice([OPERATOR, OPERATOR, DHCP, CONFIG]), draw.randrange(8), draw.randrange(1, 6)
            part = row(psid, to=to + draw.choice([0, NEXT]))
            store_of(control).broken = draw.random() < 0.2
            try:
                if draw.random() < 0.6:
                    await control.bind(part, source)
                else:
                    await control.unbind(keys(psid), source)
            except StoreFault:
                pass
            bound, _, _ = control._table.dump_chunk(0, 1 << 40)
            counted, anew = control._bindings._limit, Subscribers(56, 2)
            assert counted is not None
            anew.add(bound)
            for address in (1, NEXT):
                b4 = bytes(row(1, to=address)["b4"][0])
                assert counted.softwires(b4) == anew.softwires(b4)

    limited(tmp_path, test, most=2)
