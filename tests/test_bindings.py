"""Bindings of several sources: who wins, what waits, what is refused; and a naive model as the oracle."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylwaftr import _core, row_sets
from pylwaftr.bindings import Applied, Bindings
from pylwaftr.changes import THERE, Op, Report, etag
from pylwaftr.refusals import TEXTS
from tests.bindings_model import Bound, Model, Wanted
from tests.table_model import Key, Row

CONFIG, OPERATOR, DHCP, PCP = range(4)
A1, A2, A3 = 0xCB007101, 0xCB007102, 0xCB007103
BR = bytes.fromhex("20010db800aa00000000000000000001")


def row(psid: int = 0, k: int = 6, to: int = 1, ipv4: int = A1, a: int = 0) -> Row:
    return Row(ipv4, psid, k, a, bytes.fromhex("20010db80001") + to.to_bytes(10), BR)


def array(rows: Iterable[Row]) -> np.ndarray[Any, Any]:
    rows = list(rows)
    made = np.zeros(len(rows), _core.BINDING_ROW)
    for cell, one in zip(made, rows, strict=True):
        cell["ipv4"], cell["psid"], cell["psid_len"], cell["psid_offset"] = one.ipv4, one.psid, one.k, one.a
        cell["b4"], cell["br"] = np.frombuffer(one.b4, np.uint8), np.frombuffer(one.br, np.uint8)
    return made


def plain(cell: Any) -> Row:
    numbers = (int(cell[name]) for name in ("ipv4", "psid", "psid_len", "psid_offset"))
    return Row(*numbers, cell["b4"].tobytes(), cell["br"].tobytes())


def keys(names: Iterable[Key]) -> tuple[Any, Any]:
    names = list(names)
    return np.array([name[0] for name in names], np.uint32), np.array([name[1] for name in names], np.uint16)


def bound_of(bindings: Bindings) -> Bound:
    rows, sources, _ = bindings.table.dump_chunk(0, 1 << 20)  # type: ignore[attr-defined]
    return {(r := plain(cell)).key: (r, int(source)) for cell, source in zip(rows, sources, strict=True)}


def shadow_of(bindings: Bindings) -> Wanted:
    waiting = bindings.shadowed()
    return {(int(s), (r := plain(c)).key): r for c, s in zip(waiting.rows, waiting.sources, strict=True)}


def make(*puts: tuple[int, list[Row]], capacity: int = 1000) -> Bindings:
    bindings = Bindings(_core.BindingTable(capacity, [], [BR]))
    for source, rows in puts:
        assert bindings.put(array(rows), source).report.ok
    return bindings


def counts(report: Report) -> dict[str, int]:
    names = ("added", "replaced", "unchanged", "removed", "outranked")
    return {name: value for name in names if (value := getattr(report, name))}


# --- rows: what is there, what a source puts, what is bound and waits then -------------------------------------------

WHOLE = row(0, 0, 9)
PUTS = [
    # what, before, (source, rows), counts, bound (key -> source, B4), waiting
    ("nobody else", [], (DHCP, [row(3)]), {"added": 1}, {3: (DHCP, 1)}, {}),
    ("the same again", [(DHCP, [row(3)])], (DHCP, [row(3)]), {"unchanged": 1}, {3: (DHCP, 1)}, {}),
    ("another B4", [(DHCP, [row(3)])], (DHCP, [row(3, to=2)]), {"replaced": 1}, {3: (DHCP, 2)}, {}),
    ("a higher one", [(DHCP, [row(3)])], (CONFIG, [row(3, to=2)]), {"replaced": 1}, {3: (CONFIG, 2)}, {(DHCP, 3): 1}),
    ("a lower one", [(DHCP, [row(3)])], (PCP, [row(3, to=2)]), {"outranked": 1}, {3: (DHCP, 1)}, {(PCP, 3): 2}),
    (
        "a lower one beside it",
        [(DHCP, [row(3)])],
        (PCP, [row(3, to=2), row(4, to=4)]),
        {"outranked": 1, "added": 1},
        {3: (DHCP, 1), 4: (PCP, 4)},
        {(PCP, 3): 2},
    ),
    (
        "a whole address of a higher one",
        [(DHCP, [row(3), row(4)])],
        (OPERATOR, [WHOLE]),
        {"added": 1},
        {0: (OPERATOR, 9)},
        {(DHCP, 3): 1, (DHCP, 4): 1},
    ),
    (
        "a whole address of a lower one",
        [(OPERATOR, [row(3)])],
        (DHCP, [WHOLE]),
        {"outranked": 1},
        {3: (OPERATOR, 1)},
        {(DHCP, 0): 9},
    ),
    (
        "who waits with other contents",
        [(CONFIG, [row(3)]), (DHCP, [row(3, to=2)])],
        (DHCP, [row(3, to=5)]),
        {"outranked": 1},
        {3: (CONFIG, 1)},
        {(DHCP, 3): 5},
    ),
    (
        "a division that three want otherwise",
        [(PCP, [row(3, 5)]), (DHCP, [row(3, 7)])],
        (OPERATOR, [row(3, 6)]),
        {"replaced": 1},
        {3: (OPERATOR, 1)},
        {(PCP, 3): 1, (DHCP, 3): 1},
    ),
]


@pytest.mark.parametrize("what, before, put, counted, bound, waiting", PUTS, ids=[r[0] for r in PUTS])
def test_put(what: str, before: Any, put: Any, counted: Any, bound: Any, waiting: Any) -> None:
    bindings = make(*before)
    then = bound_of(bindings), shadow_of(bindings)
    source, rows = put
    foretold = bindings.put(array(rows), source, validate_only=True)
    assert foretold.empty
    assert (bound_of(bindings), shadow_of(bindings)) == then
    applied = bindings.put(array(rows), source)
    assert counts(applied.report) == counts(foretold.report) == counted
    assert {psid: (by, r.b4[-1]) for (_, psid), (r, by) in bound_of(bindings).items()} == bound
    assert {(by, psid): r.b4[-1] for (by, (_, psid)), r in shadow_of(bindings).items()} == waiting
    bindings.undo(applied)
    assert (bound_of(bindings), shadow_of(bindings)) == then


REMOVALS = [
    # what, before, (source, PSIDs, over), removed, bound, waiting
    ("its own", [(DHCP, [row(3)])], (DHCP, [3], False), 1, {}, {}),
    ("named twice", [(DHCP, [row(3)])], (DHCP, [3, 3], False), 1, {}, {}),
    ("nobody's", [(DHCP, [row(3)])], (DHCP, [4], False), 0, {3: DHCP}, {}),
    ("another's", [(PCP, [row(3)])], (DHCP, [3], False), 0, {3: PCP}, {}),
    ("a lower one's, by an operator", [(PCP, [row(3)])], (OPERATOR, [3], True), 1, {}, {}),
    ("any PSID of a whole address", [(DHCP, [WHOLE])], (DHCP, [77], False), 1, {}, {}),
    ("a winner", [(CONFIG, [row(3)]), (DHCP, [row(3, to=2)])], (CONFIG, [3], False), 1, {3: DHCP}, {}),
    ("what waits", [(CONFIG, [row(3)]), (DHCP, [row(3, to=2)])], (DHCP, [3], False), 1, {3: CONFIG}, {}),
    (
        "what waits behind a whole address",
        [(CONFIG, [WHOLE]), (DHCP, [row(3)])],
        (DHCP, [3], False),
        1,
        {0: CONFIG},
        {},
    ),
    (
        "the one that divided the address",
        [(CONFIG, [row(3)]), (PCP, [row(4)]), (DHCP, [row(5, 7), row(6, 7)])],
        (CONFIG, [3], False),
        1,
        {5: DHCP, 6: DHCP},
        {4: PCP},
    ),
    (
        "one of two that wait",
        [(CONFIG, [WHOLE]), (DHCP, [row(3)]), (PCP, [row(4, 7)])],
        (CONFIG, [0], False),
        1,
        {3: DHCP},
        {4: PCP},
    ),
]


@pytest.mark.parametrize("what, before, remove, removed, bound, waiting", REMOVALS, ids=[r[0] for r in REMOVALS])
def test_remove(what: str, before: Any, remove: Any, removed: int, bound: Any, waiting: Any) -> None:
    bindings = make(*before)
    then = bound_of(bindings), shadow_of(bindings)
    source, psids, over = remove
    names = keys((A1, psid) for psid in psids)
    assert bindings.remove(names, source, over=over, validate_only=True).report.removed == removed
    assert (bound_of(bindings), shadow_of(bindings)) == then
    applied = bindings.remove(names, source, over=over)
    assert counts(applied.report) == ({"removed": removed} if removed else {})
    assert {psid: by for (_, psid), (_, by) in bound_of(bindings).items()} == bound
    assert {psid: by for by, (_, psid) in shadow_of(bindings)} == waiting
    bindings.undo(applied)
    assert (bound_of(bindings), shadow_of(bindings)) == then


REFUSALS = [
    # what, before, (source, rows), refused
    ("PSID of k bits", [], (DHCP, [row(64), row(63)]), [(0, "psid_range")]),
    ("its own whole address", [(DHCP, [WHOLE])], (DHCP, [row(3)]), [(0, "overlap")]),
    ("its own division", [(DHCP, [row(3)])], (DHCP, [row(4), row(5, 7)]), [(1, "other_params_on_address")]),
    (
        "its own that waits",
        [(CONFIG, [WHOLE]), (DHCP, [row(3)])],
        (DHCP, [row(4, 7)]),
        [(0, "other_params_on_address")],
    ),
    ("twice", [(CONFIG, [row(3)])], (DHCP, [row(3), row(4), row(3, to=7)]), [(2, "duplicate_in_batch")]),
    ("two divisions in a batch", [(CONFIG, [WHOLE])], (DHCP, [row(3), WHOLE]), [(1, "overlap")]),
    (
        "all faults at once",
        [(CONFIG, [row(3)])],
        (DHCP, [row(3), row(200), row(4), row(4), row(5, a=15)]),
        [(1, "psid_range"), (3, "duplicate_in_batch"), (4, "bad_params")],
    ),
    ("more than the table has", [], (DHCP, [row(n) for n in range(5)]), [(4, "table_full")]),
    (
        "more than it has, behind others",
        [(CONFIG, [row(0), row(1)])],
        (DHCP, [row(n) for n in range(6)]),
        [(4, "table_full"), (5, "table_full")],
    ),
]


@pytest.mark.parametrize("what, before, put, refused", REFUSALS, ids=[r[0] for r in REFUSALS])
def test_refused(what: str, before: Any, put: Any, refused: Any) -> None:
    bindings = make(*before, capacity=4)
    then = bound_of(bindings), shadow_of(bindings)
    for validate_only in (True, False):
        applied = bindings.put(array(put[1]), put[0], validate_only=validate_only)
        assert applied.empty
        assert [(r.index, r.reason) for r in applied.report.refused] == refused
        assert all(TEXTS[r.reason] in r.text for r in applied.report.refused)
    assert (bound_of(bindings), shadow_of(bindings)) == then


def tag(one: Row, source: int) -> str:
    return etag(array([one]).tobytes(), source)


CONDITIONS = [
    # what, before, who, expected, reason
    ("must not exist, and does not", [], DHCP, "", None),
    ("must not exist, and does", [(DHCP, [row(3)])], DHCP, "", "already_exists"),
    ("must not exist, and another's does", [(PCP, [row(3)])], DHCP, "", "already_exists"),
    ("must be as read", [(DHCP, [row(3)])], DHCP, tag(row(3), DHCP), None),
    ("was changed", [(DHCP, [row(3, to=8)])], DHCP, tag(row(3), DHCP), "etag_mismatch"),
    ("is gone", [], DHCP, tag(row(3), DHCP), "not_found"),
    ("must be there, and is", [(PCP, [row(3)])], DHCP, THERE, None),
    ("must be there, and waits", [(CONFIG, [row(3)]), (DHCP, [row(3, to=4)])], DHCP, THERE, None),
    ("must be there, and is not", [(DHCP, [row(4)])], DHCP, THERE, "not_found"),
    ("another's as read", [(PCP, [row(3)])], DHCP, tag(row(3), PCP), None),
    ("own that waits", [(CONFIG, [row(3)]), (DHCP, [row(3, to=4)])], DHCP, tag(row(3, to=4), DHCP), None),
    ("whole address instead", [(DHCP, [WHOLE])], DHCP, "", None),
]


@pytest.mark.parametrize("what, before, source, expected, reason", CONDITIONS, ids=[r[0] for r in CONDITIONS])
def test_conditions(what: str, before: Any, source: int, expected: str, reason: str | None) -> None:
    bindings = make(*before)
    report = bindings.put(array([row(9), row(3, to=5)]), source, expected=(None, expected), validate_only=True).report
    seen = [(r.index, r.reason) for r in report.refused if r.reason in ("already_exists", "etag_mismatch", "not_found")]
    assert seen == ([(1, reason)] if reason else [])
    if what != "whole address instead":
        removal = bindings.remove(keys([(A1, 9), (A1, 3)]), source, expected=(None, expected)).report
        assert [(r.index, r.reason) for r in removal.refused] == seen


def test_an_operator_cannot_remove_what_the_configuration_binds() -> None:
    bindings = make((CONFIG, [row(3)]))
    report = bindings.remove(keys([(A1, 4), (A1, 3)]), OPERATOR, over=True).report
    assert [(r.index, r.reason) for r in report.refused] == [(1, "outranked")]
    assert report.refused[0].text == "203.0.113.1 PSID 3/6: it is bound by the configuration; change it there"


def test_a_replacement_may_divide_addresses_otherwise() -> None:
    bindings = make((DHCP, [row(3), row(4), row(1, ipv4=A2), row(2, ipv4=A2)]))
    bindings.begin(DHCP)
    assert bindings.put(array([row(3, 7), row(1, ipv4=A2)]), DHCP, replacing=True).report.ok
    assert sorted(bound_of(bindings)) == [(A1, 3), (A2, 1), (A2, 2)]
    applied = bindings.sweep(DHCP)
    assert applied.report.removed == 1
    assert sorted(bound_of(bindings)) == [(A1, 3), (A2, 1)]
    bindings.undo(applied)
    assert sorted(bound_of(bindings)) == [(A1, 3), (A2, 1), (A2, 2)]


def test_rows_that_waited_are_swept_too() -> None:
    bindings = make((CONFIG, [row(3), row(4), row(5)]), (DHCP, [row(n, to=n) for n in (3, 4, 5, 6)]))
    bindings.begin(DHCP)
    assert bindings.put(array([row(4, to=4), row(6, to=6)]), DHCP, replacing=True).report.ok
    assert bindings.remove(keys([(A1, 5)]), CONFIG).report.removed == 1  # DHCP's old row 5 is bound for the time being
    assert bound_of(bindings)[A1, 5][1] == DHCP
    assert bindings.sweep(DHCP).report.removed == 2
    assert {name[1]: by for name, (_, by) in bound_of(bindings).items()} == {3: CONFIG, 4: CONFIG, 6: DHCP}
    assert list(shadow_of(bindings)) == [(DHCP, (A1, 4))]


# --- random steps ---------------------------------------------------------------------------------------------------


def replay(bound: Bound, waiting: Wanted, applied: Applied) -> None:
    """The changes as a watcher and the store apply them."""
    for change in applied.changes():
        for cell in change.rows:
            one = plain(cell)
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
        return bindings.remove(keys(given), source)
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
    assert [plain(cell) for cell in applied.gone.rows] == ([there] if report.replaced else [])
    assert len(bound_of(bindings)) == len({one.key for one in [*wanted, there]})
