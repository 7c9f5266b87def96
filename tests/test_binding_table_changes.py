"""Changes to the binding table: what is refused and leaves nothing behind, what is taken, what is only foretold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pylwaftr import _core
from tests.table_rows import (
    A1,
    A2,
    BR,
    BR2,
    CONFIG,
    DHCP,
    NONE,
    OPERATOR,
    OWN4,
    PCP,
    SHARED,
    array,
    b4,
    make,
    row,
    rows_of,
    unbind,
)

REFUSED = [  # what, rows of the operator in the table, batch, source, refusals
    ("a + k above 16", [], [row(k=8, a=9)], OPERATOR, [(0, "bad_params")]),
    ("k above 16", [], [row(k=17)], OPERATOR, [(0, "bad_params")]),
    ("offset above 16 on a whole address", [], [row(k=0, a=17)], OPERATOR, [(0, "bad_params")]),
    ("PSID of k bits", [], [row(psid=63), row(psid=64)], OPERATOR, [(1, "psid_range")]),
    ("own IPv4 address", [], [row(OWN4)], OPERATOR, [(0, "own_address")]),
    ("softwire to ourselves", [], [row(to=BR2)], OPERATOR, [(0, "own_address")]),
    ("softwire to its own BR", [], [row(to=b4(5), br=b4(5))], OPERATOR, [(0, "own_address")]),
    ("multicast B4", [], [row(to=b"\xff" + bytes(15))], OPERATOR, [(0, "bad_address")]),
    ("unspecified BR", [], [row(br=bytes(16))], OPERATOR, [(0, "bad_address")]),
    ("multicast IPv4", [], [row(0xE0000001)], OPERATOR, [(0, "bad_address")]),
    ("192.0.0.2", [], [row(0xC0000002)], OPERATOR, [(0, "bad_address")]),
    ("other a and k", [row(psid=3)], [row(psid=4, k=6, a=6)], OPERATOR, [(0, "other_params_on_address")]),
    ("other k for its only row", [row(psid=3)], [row(psid=3, k=7)], OPERATOR, [(0, "other_params_on_address")]),
    ("other k in the batch", [], [row(psid=3), row(psid=4, k=7)], OPERATOR, [(1, "other_params_on_address")]),
    ("whole beside shared", [row(psid=3)], [row(k=0)], OPERATOR, [(0, "overlap")]),
    ("shared beside whole", [row(k=0)], [row(psid=0, k=1)], OPERATOR, [(0, "overlap")]),
    ("both in the batch", [], [row(k=0), row(psid=0, k=1)], OPERATOR, [(1, "overlap")]),
    ("twice", [], [row(psid=3), row(psid=2), row(psid=3, to=b4(2))], OPERATOR, [(2, "duplicate_in_batch")]),
    ("twice in order", [], [row(psid=3), row(psid=3, to=b4(2))], OPERATOR, [(1, "duplicate_in_batch")]),
    ("whole twice, with PSIDs", [], [row(k=0, psid=1), row(k=0, psid=2)], OPERATOR, [(1, "duplicate_in_batch")]),
    ("lower source", [row()], [row(psid=1), row(to=b4(2))], PCP, [(1, "outranked")]),
    (
        "everything at once, in order of the rows",
        [row()],
        [row(k=17), row(psid=5), row(psid=64), row(to=b4(2)), row(psid=5)],
        DHCP,
        [(0, "bad_params"), (2, "psid_range"), (3, "outranked"), (4, "duplicate_in_batch")],
    ),
]


@pytest.mark.parametrize("what, there, batch, source, refused", REFUSED)
def test_refused_and_nothing_done(what: str, there: Any, batch: Any, source: int, refused: Any) -> None:
    table = make(there)
    changes = table.changes
    report = table.bind(array(batch), source, 2)
    assert report == {"added": 0, "replaced": 0, "unchanged": 0, "removed": 0, "refused": refused}
    assert rows_of(table.dump()) == there
    assert table.changes == changes
    # A refused batch leaves nothing behind: its sound rows alone are taken.
    sound = [one for n, one in enumerate(batch) if n not in dict(refused)]
    assert table.bind(array(sound), source, 2)["added"] == len(sound)


TAKEN = [  # what, in the table by the operator, batch, source, what the report says
    ("valid edges", [], [row(k=16, psid=65535), row(A2, k=1, a=15, psid=1)], OPERATOR, {"added": 2}),
    ("whole address ignores PSID and offset", [], [row(k=0, psid=9, a=16)], OPERATOR, {"added": 1}),
    ("new softwire, same source", [row()], [row(to=b4(2), br=BR2)], OPERATOR, {"replaced": 1}),
    ("higher source takes over", [row()], [row(to=b4(2))], CONFIG, {"replaced": 1}),
    ("the same again", [row()], [row()], OPERATOR, {"unchanged": 1}),
    ("lower source beside it", [row()], [row(psid=1)], PCP, {"added": 1}),
    ("no rows", [row()], [], OPERATOR, {}),
]


@pytest.mark.parametrize("what, there, batch, source, counted", TAKEN)
def test_taken(what: str, there: Any, batch: Any, source: int, counted: dict[str, int]) -> None:
    table = make(there)
    report = table.bind(array(batch), source, 2)
    assert report == {"added": 0, "replaced": 0, "unchanged": 0, "removed": 0, "refused": [], **counted}
    for one in batch:
        assert table.find_key(*one.key) == (one.b4, one.br)


def test_higher_source_keeps_what_it_took_over() -> None:
    table = make([row()], source=PCP)
    assert table.bind(array([row()]), CONFIG, 1)["unchanged"] == 1
    assert len(table.sweep(PCP, 9)) == 0
    assert table.bind(array([row(to=b4(2))]), PCP, 2)["refused"] == [(0, "outranked")]
    assert unbind(table, [(A1, 0)], PCP)["refused"] == [(0, "outranked")]


def test_an_address_changes_its_parameters_when_its_last_binding_has_gone() -> None:
    table = make([row(psid=3), row(psid=4)])
    assert unbind(table, [(A1, 3)], OPERATOR)["removed"] == 1
    assert table.bind(array([row(k=8)]), OPERATOR, 1)["refused"] == [(0, "other_params_on_address")]
    assert unbind(table, [(A1, 4)], OPERATOR)["removed"] == 1
    assert table.classify(A1) == NONE
    assert table.bind(array([row(k=8, psid=200, a=4)]), OPERATOR, 1)["added"] == 1
    assert table.classify(A1) == (SHARED, 4, 8)


def test_full_is_an_error_that_loses_nothing() -> None:
    table = make([row(psid=n, to=b4(n)) for n in range(60)], capacity=62)
    batch = [row(psid=n, to=b4(100 + n)) for n in range(58, 64)]  # two replaced, four new, room for two
    assert table.bind(array(batch), OPERATOR, 2)["refused"] == [(4, "table_full"), (5, "table_full")]
    assert table.find_key(A1, 59) == (b4(59), BR)
    assert table.find_key(A1, 60) is None
    assert table.bind(array(batch[:4]), OPERATOR, 2) == {
        "added": 2, "replaced": 2, "unchanged": 0, "removed": 0, "refused": [],
    }  # fmt: skip


FORETOLD = [  # what, in the table by the operator, batch, source, what would be done
    ("new, another, the same", [row(), row(psid=1)], [row(psid=2), row(to=b4(2)), row(psid=1)], OPERATOR,
     {"added": 1, "replaced": 1, "unchanged": 1}),
    ("another BR address, never seen", [row()], [row(br=b4(0xBB))], OPERATOR, {"replaced": 1}),
    ("one that may not be", [row()], [row(psid=1), row(psid=64)], PCP, {"refused": [(1, "psid_range")]}),
    ("an address of other parameters", [row()], [row(A2, k=9)], PCP, {"added": 1}),
]  # fmt: skip


@pytest.mark.parametrize("what, there, batch, source, report", FORETOLD, ids=[one[0] for one in FORETOLD])
def test_validated_only(what: str, there: Any, batch: Any, source: int, report: dict[str, Any]) -> None:
    table = make(there)
    before = table.changes, table.reader_memory
    expected = {"added": 0, "replaced": 0, "unchanged": 0, "removed": 0, "refused": [], **report}
    assert table.bind(array(batch), source, 2, validate_only=True) == expected
    assert sorted(rows_of(table.dump()), key=lambda one: one.key) == there
    assert (table.changes, table.reader_memory) == before
    assert table.classify(A2) == NONE
    assert len(table.sweep(OPERATOR, 1)) == 0  # the generation stands too
    assert table.bind(array(batch), source, 2) == expected  # nothing was left behind


def test_an_array_of_something_else_is_a_type_error() -> None:
    table = make()
    with pytest.raises(TypeError):
        table.bind(np.zeros(3), OPERATOR, 1)
    with pytest.raises(TypeError):
        table.unbind(np.zeros(3), np.zeros(3, np.uint16), OPERATOR)
    with pytest.raises(ValueError, match="source"):
        table.bind(array([row()]), 4, 1)
    with pytest.raises(ValueError, match="one length"):
        table.unbind(np.zeros(3, np.uint32), np.zeros(2, np.uint16), OPERATOR)
    with pytest.raises(ValueError, match="16 octets"):
        _core.BindingTable(10, [], [b"short"])
