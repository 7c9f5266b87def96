"""Bindings of several sources: who wins, what waits, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pylwaftr.changes import THERE, etag
from pylwaftr.refusals import TEXTS
from tests.bindings_made import (
    A1,
    A2,
    CONFIG,
    DHCP,
    OPERATOR,
    PCP,
    bound_of,
    counts,
    make,
    row,
    shadow_of,
)
from tests.table_model import Row
from tests.table_rows import array, columns

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
    ("a PSID of a whole address, by an operator", [(OPERATOR, [WHOLE])], (OPERATOR, [5], True), 0, {0: OPERATOR}, {}),
    ("of a lower one's whole address", [(DHCP, [WHOLE])], (OPERATOR, [5], True), 0, {0: DHCP}, {}),
    ("of the configuration's whole address", [(CONFIG, [WHOLE])], (OPERATOR, [5], True), 0, {0: CONFIG}, {}),
    ("a whole address, by an operator", [(DHCP, [WHOLE])], (OPERATOR, [0, 5], True), 1, {}, {}),
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
    names = columns((A1, psid) for psid in psids)
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
        removal = bindings.remove(columns([(A1, 9), (A1, 3)]), source, expected=(None, expected)).report
        assert [(r.index, r.reason) for r in removal.refused] == seen


def test_an_operator_cannot_remove_what_the_configuration_binds() -> None:
    bindings = make((CONFIG, [row(3)]))
    report = bindings.remove(columns([(A1, 4), (A1, 3)]), OPERATOR, over=True).report
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
    assert bindings.remove(columns([(A1, 5)]), CONFIG).report.removed == 1  # DHCP's old row 5 is bound meanwhile
    assert bound_of(bindings)[A1, 5][1] == DHCP
    assert bindings.sweep(DHCP).report.removed == 2
    assert {name[1]: by for name, (_, by) in bound_of(bindings).items()} == {3: CONFIG, 4: CONFIG, 6: DHCP}
    assert list(shadow_of(bindings)) == [(DHCP, (A1, 4))]


@pytest.mark.parametrize("late, found", [(False, {DHCP}), (True, {CONFIG, DHCP})], ids=["between", "behind both"])
def test_a_row_is_found_once_that_is_bound_while_all_is_looked_at(late: bool, found: set[int]) -> None:
    """It waits, and what it waits for goes between the looks at the shadow and the table, or behind both."""
    bindings = make((CONFIG, [row(3)]), (DHCP, [row(3, to=2)]))
    table = bindings.table

    class Between:
        def dump_chunk(self, start: int, most: int) -> Any:
            before = table.dump_chunk(start, most)
            bindings.table = table
            assert bindings.remove(columns([(A1, 3)]), CONFIG).report.removed
            return before if late else table.dump_chunk(start, most)

    bindings.table = Between()  # type: ignore[assignment]
    everything = bindings.everything()
    assert bindings.table is table
    assert sorted(everything.sources.tolist()) == sorted(found)
