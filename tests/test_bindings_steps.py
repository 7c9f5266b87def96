"""Bindings of several sources: any steps against a naive model, one row against several, and many rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylwaftr import _core, row_sets
from pylwaftr.applied import Applied
from pylwaftr.bindings import Bindings
from pylwaftr.changes import Op, etag
from tests.bindings_made import (
    A1,
    A2,
    A3,
    CONFIG,
    DHCP,
    OPERATOR,
    PCP,
    bound_of,
    make,
    row,
    shadow_of,
)
from tests.bindings_model import Bound, Model, Wanted
from tests.table_model import Row
from tests.table_rows import array, columns, rows_of


def replay(bound: Bound, waiting: Wanted, applied: Applied) -> None:
    """The changes as a watcher and the store apply them."""
    for change in applied.changes():
        for one in rows_of(change.rows):
            if change.op is Op.BIND:
                bound[one.key] = one, change.source
            elif change.op is Op.UNBIND:
                assert bound.pop(one.key) == (one, change.source)
            elif change.op is Op.SHADOW:
                waiting[change.source, one.key] = one
            else:
                assert waiting.pop((change.source, one.key)) == one


SOURCES = st.sampled_from([CONFIG, OPERATOR, DHCP, PCP])
ROWS = st.builds(
    row,
    psid=st.integers(0, 4),
    k=st.sampled_from([0, 1, 2, 2, 2, 2]),
    to=st.integers(1, 3),
    ipv4=st.sampled_from([A1, A1, A2, A3]),
    a=st.sampled_from([0, 0, 0, 0, 1]),
)
PUT = st.tuples(st.just("put"), SOURCES, st.lists(ROWS, min_size=1, max_size=6), st.booleans())
NAMES = st.lists(st.tuples(st.sampled_from([A1, A2, A3]), st.integers(0, 3)), min_size=1, max_size=6)
REMOVE = st.tuples(st.just("remove"), SOURCES, NAMES, st.just(False))
SWEEP = st.tuples(st.just("sweep"), SOURCES, st.just(None), st.just(False))
BEGIN = st.tuples(st.just("begin"), SOURCES, st.just(None), st.just(False))


def act(bindings: Bindings, what: str, source: int, given: Any, replacing: bool) -> Applied | None:
    if what == "put":
        return bindings.put(array(given), source, replacing=replacing)
    if what == "remove":
        return bindings.remove(columns(given), source)
    if what == "sweep":
        return bindings.sweep(source)
    return bindings.begin(source)


def foretell(model: Model, what: str, source: int, given: Any, replacing: bool) -> bool:
    if what == "put":
        return model.put(given, source, replacing)
    if what == "remove":
        return model.remove(given, source)
    if what == "sweep":
        return model.sweep(source)
    model.fresh = {name for name in model.fresh if name[0] != source}
    return True


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.one_of(PUT, PUT, PUT, REMOVE, REMOVE, SWEEP, BEGIN), st.booleans()), max_size=25))
def test_what_is_bound_follows_from_what_is_wanted(steps: Any) -> None:
    bindings, model = make(capacity=7), Model(7)
    bound: Bound = {}
    waiting: Wanted = {}
    for step, taken_back in steps:
        before = dict(model.wanted), model.status()
        applied = act(bindings, *step)
        ok = foretell(model, *step)
        if applied is not None:
            assert applied.report.ok == ok, applied.report
            after = model.status()
            model.fresh |= {name for name, was in before[1].items() if was and not after.get(name, True)}
            if taken_back and step[0] != "sweep":
                bindings.undo(applied)
                model.wanted = before[0]
                model.fresh |= {name for name, was in before[1].items() if after.get(name) != was}
            else:
                replay(bound, waiting, applied)
        assert bound_of(bindings) == model.bound() == bound
        assert shadow_of(bindings) == model.waiting() == waiting


def test_many_rows_keep_their_order_and_contents() -> None:
    rows = _core.bench_rows(0, 50_000)
    mixed = row_sets.take(rows, np.random.default_rng(1).permutation(len(rows)))
    bindings = make(capacity=50_000)
    for source in (PCP, DHCP, CONFIG):
        changed = mixed.copy()
        changed["b4"][:, 15] += source
        assert bindings.put(changed, source).report.ok
    assert len(bindings.shadowed()) == 100_000
    assert bindings.remove((mixed["ipv4"], mixed["psid"]), CONFIG).report.removed == 50_000
    assert {by for _, by in bound_of(bindings).values()} == {DHCP}


def _told(applied: Applied) -> tuple[Any, ...]:
    sides = (applied.gone, applied.come, applied.left, applied.waits)
    return applied.report, [(s.rows.tobytes(), s.sources.tolist()) for s in sides]


ONES = st.builds(
    row, psid=st.sampled_from([0, 1, 2, 65]), k=st.sampled_from([0, 6, 6, 6, 7]), to=st.integers(1, 3), a=st.just(0)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(ONES, st.sampled_from(range(4)), st.sampled_from([None, "", "other", "now"])), max_size=12))
def test_one_row_comes_to_what_several_come_to(steps: list[tuple[Row, int, str | None]]) -> None:
    short, long = make(capacity=4), make(capacity=4)
    long._put_one = lambda *_: None  # type: ignore[method-assign,assignment]
    for one, source, wanted in steps:
        held = short.get(one.ipv4, one.psid)
        now = "" if held is None else etag(held[0].tobytes(), held[1])
        expected = () if wanted is None else ((now if wanted == "now" else wanted),)
        done = [_told(bindings.put(array([one]), source, expected=expected)) for bindings in (short, long)]
        assert done[0] == done[1]
    assert (bound_of(short), shadow_of(short)) == (bound_of(long), shadow_of(long))


@pytest.mark.parametrize(
    "there", [row(3), row(0, 0), row(3, ipv4=0xC6336401)], ids=["a key", "a whole address", "another"]
)
@pytest.mark.parametrize("source", [OPERATOR, PCP])
def test_many_rows_for_an_almost_empty_table(there: Row, source: int) -> None:
    """What is there is found among the thousands that come, though they are not looked up one by one."""
    bindings = make((OPERATOR, [there]), capacity=5000)
    wanted = [row(n % 64, ipv4=A1 + n // 64) for n in range(2000)]
    if there.k == 0:
        wanted = [row(0, 0, ipv4=A1, to=9), *wanted[64:]]
    applied = bindings.put(array(wanted), source)
    own, among = source == OPERATOR, there.ipv4 == A1
    report = applied.report
    same = among and there in wanted
    assert report.ok
    assert report.unchanged == int(own and same)
    assert report.replaced == int(own and among and not same)
    assert report.outranked == int(not own and among)
    assert rows_of(applied.gone.rows) == ([there] if report.replaced else [])
    assert len(bound_of(bindings)) == len({one.key for one in [*wanted, there]})
