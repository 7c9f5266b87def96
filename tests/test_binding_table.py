"""The binding table from outside: what is refused, what a look-up returns, and a dictionary as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylwaftr import _core
from tests.table_model import Key, Model, Row

CONFIG, OPERATOR, DHCP, PCP = _core.SOURCE_CONFIG, _core.SOURCE_OPERATOR, _core.SOURCE_DHCP, _core.SOURCE_PCP
NONE, WHOLE, SHARED = (0, 0, 0), (_core.USE_WHOLE, 0, 0), _core.USE_SHARED

A1, A2 = 0xCB007101, 0xCB007102  # 203.0.113.1, .2
OWN4 = 0xC0000201
BR, BR2 = bytes.fromhex("20010db800aa00000000000000000001"), bytes.fromhex("20010db800aa00000000000000000002")


def b4(n: int) -> bytes:
    return bytes.fromhex("20010db80001") + n.to_bytes(10)


def row(ipv4: int = A1, psid: int = 0, k: int = 6, a: int = 0, to: bytes = b4(1), br: bytes = BR) -> Row:
    return Row(ipv4, psid, k, a, to, br)


def array(rows: Sequence[Row]) -> np.ndarray[Any, Any]:
    made = np.zeros(len(rows), _core.BINDING_ROW)
    for cell, one in zip(made, rows, strict=True):
        cell["ipv4"], cell["psid"], cell["psid_len"], cell["psid_offset"] = one.ipv4, one.psid, one.k, one.a
        cell["b4"], cell["br"] = np.frombuffer(one.b4, np.uint8), np.frombuffer(one.br, np.uint8)
    return made


def rows_of(made: np.ndarray[Any, Any]) -> list[Row]:
    return [
        Row(
            int(c["ipv4"]),
            int(c["psid"]),
            int(c["psid_len"]),
            int(c["psid_offset"]),
            c["b4"].tobytes(),
            c["br"].tobytes(),
        )
        for c in made
    ]


def unbind(table: _core.BindingTable, keys: Sequence[Key], source: int) -> dict[str, Any]:
    return table.unbind(np.array([k[0] for k in keys], np.uint32), np.array([k[1] for k in keys], np.uint16), source)


def make(rows: Sequence[Row] = (), capacity: int = 100, source: int = OPERATOR) -> _core.BindingTable:
    table = _core.BindingTable(capacity, [OWN4], [BR, BR2])
    assert table.bind(array(rows), source, 1)["refused"] == []
    return table


def one_by_one(rows: Sequence[Row]) -> _core.BindingTable:
    """A running table that got there by changes: other rows came and went, and each row had another softwire before."""
    table = make([row(A1 + 100, n) for n in range(40)])
    for n, one in enumerate(rows):
        table.bind(array([Row(one.ipv4, one.psid, one.k, one.a, b4(900 + n), BR2)]), DHCP, 1)
        assert table.bind(array([one]), OPERATOR, 2)["replaced"] == 1
    unbind(table, [(A1 + 100, n) for n in range(20)], OPERATOR)
    assert {one.psid for one in rows_of(table.sweep(OPERATOR, 2))} == set(range(20, 40))
    return table


WAYS: list[Callable[[Sequence[Row]], _core.BindingTable]] = [make, one_by_one]
ROWS = [row(A1, n, 6, 6, b4(n), (BR, BR2)[n % 2]) for n in (0, 1, 52, 63)] + [row(A2, 0, 0, 0, b4(77))]

LOOK_UPS = [  # what, address, port (None = a protocol without ports), who gets it
    ("first port of a set", A1, 1024, ROWS[0]),
    ("port of another set", A1, 1024 + 16, ROWS[1]),
    ("last port of the last set", A1, 65535, ROWS[3]),
    ("port of a set that nobody has", A1, 1024 + 32, None),
    ("port that belongs to nobody", A1, 1023, None),
    ("shared address without a port", A1, None, None),
    ("whole address, any port", A2, 0, ROWS[4]),
    ("whole address without a port", A2, None, ROWS[4]),
    ("address that is not there", A2 + 1, 1024, None),
    ("address of the same /24", A1 + 100, 80, None),
    ("address 0.0.0.0", 0, 0, None),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what, ipv4, port, owner", LOOK_UPS)
def test_look_up(way: Any, what: str, ipv4: int, port: int | None, owner: Row | None) -> None:
    assert way(ROWS).find(ipv4, port) == (None if owner is None else (owner.b4, owner.br))


@pytest.mark.parametrize("way", WAYS)
def test_a_changed_table_is_the_loaded_table(way: Any) -> None:
    table = way(ROWS)
    assert sorted(rows_of(table.dump()), key=lambda r: r.key) == sorted(ROWS, key=lambda r: r.key)
    assert table.classify(A1) == (SHARED, 6, 6)
    assert table.classify(A2) == WHOLE
    assert table.classify(A1 + 100) == NONE
    assert len(table) == table.size == len(ROWS)


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


def test_as_many_fit_as_were_promised() -> None:
    """Small tables too, where a handful of buckets has to take what the hash gives them."""
    random = np.random.default_rng(1)
    for capacity in [*range(1, 120), 500, 5000]:
        table = _core.BindingTable(capacity)
        rows = array([row()] * capacity)
        rows["ipv4"] = 0x0A000000 + random.choice(1 << 20, capacity, replace=False)
        rows["psid_len"] = 0
        assert table.bind(rows, CONFIG, 1)["added"] == capacity == table.capacity


def test_a_table_that_grows_keeps_all_it_has() -> None:
    rows = [row(psid=psid, to=b4(psid)) for psid in range(50)]
    table = make(rows, capacity=50)
    assert table.bind(array([row(ipv4=A2)]), OPERATOR, 1)["refused"] == [(0, "table_full")]
    table.grow(5_000)
    assert (table.capacity, table.size) == (5_000, 50)
    assert table.slots >= 5_000
    assert set(rows_of(table.dump())) == set(rows)
    more = _core.bench_rows(0, 4_950)
    assert table.bind(more, OPERATOR, 1)["added"] == 4_950
    assert table.bind(array([row(ipv4=A2)]), OPERATOR, 1)["refused"] == [(0, "table_full")]
    for one in rows:
        assert table.find_key(one.ipv4, one.psid) == (one.b4, one.br)


def test_a_table_does_not_shrink() -> None:
    table = make(capacity=100)
    table.grow(100)
    with pytest.raises(ValueError, match="room for 100"):
        table.grow(99)
    assert table.capacity == 100


def test_a_million_bindings_at_95_percent() -> None:
    n = 1_000_000
    rows = np.zeros(n, _core.BINDING_ROW)
    rows["ipv4"], rows["psid"], rows["psid_len"] = 0x0A000000 + np.arange(n) // 64, np.arange(n) % 64, 6
    rows["b4"][:, 0], rows["b4"][:, 8:] = 0x20, np.arange(n).astype(">u8").view(np.uint8).reshape(n, 8)
    rows["br"][:] = np.frombuffer(BR, np.uint8)
    table = _core.BindingTable(n)
    shuffled = rows[np.random.default_rng(2).permutation(n)]
    assert table.bind(shuffled, CONFIG, 1)["added"] == n
    assert n / table.slots >= 0.949
    assert table.reader_memory / n <= 27
    assert table.memory / n <= 32
    bound, to, br = table.find_keys(rows["ipv4"].copy(), rows["psid"].copy())
    assert bound.all()
    assert np.array_equal(to, rows["b4"])
    assert np.array_equal(br, rows["br"])
    assert np.array_equal(np.sort(table.dump(), order=["ipv4", "psid"]), rows)


def test_dump_in_chunks() -> None:
    rows = [row(psid=n, to=b4(n)) for n in range(50)]
    table = make(rows)
    table.bind(array(rows[20:30]), CONFIG, 1)
    got: list[Row] = []
    by: dict[int, int] = {}
    start, chunks = 0, 0
    while chunks == 0 or start != 0:
        chunk, sources, start = table.dump_chunk(start, 7)
        assert len(chunk) == len(sources) <= 7
        by |= zip(chunk["psid"].tolist(), sources.tolist(), strict=True)
        got += rows_of(chunk)
        chunks += 1
    assert sorted(got, key=lambda r: r.psid) == rows
    assert by == {n: CONFIG if 20 <= n < 30 else OPERATOR for n in range(50)}
    assert chunks >= 8


ASKED = [  # what, address, PSID, who has it
    ("a set", A1, 52, (ROWS[2], OPERATOR)),
    ("another set of the address", A1, 1, (ROWS[1], OPERATOR)),
    ("a set that a higher source took over", A1, 63, (ROWS[3], CONFIG)),
    ("a set that nobody has", A1, 2, None),
    ("a whole address", A2, 0, (ROWS[4], OPERATOR)),
    ("a whole address, whatever PSID", A2, 9, (ROWS[4], OPERATOR)),
    ("an address that is not there", A2 + 1, 0, None),
]


def test_who_holds() -> None:
    table = make(ROWS)
    table.bind(array([ROWS[3]]), CONFIG, 1)
    for asked in (*([one] for one in ASKED), ASKED, ASKED * 40):
        ipv4, psid = np.array([one[1] for one in asked], np.uint32), np.array([one[2] for one in asked], np.uint16)
        rows, sources = table.holders(ipv4, psid)
        for (what, _, _, holder), got, source in zip(asked, rows_of(rows), sources.tolist(), strict=True):
            there = None if source == _core.NO_SOURCE else (got, source)
            assert there == holder, what
            assert there is not None or got == Row(0, 0, 0, 0, bytes(16), bytes(16)), what


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


addresses = st.sampled_from([A1, A2, A1 + 256, OWN4, 0x7F000001])
divisions = st.sampled_from([(6, 0), (6, 0), (6, 6), (0, 0), (0, 3), (2, 14), (9, 8), (16, 0)])
batches = st.lists(
    st.builds(
        lambda ipv4, psid, division, to, br: Row(ipv4, psid, division[0], division[1], to, br),
        addresses, st.sampled_from([0, 1, 2, 3, 63, 64]), divisions, st.sampled_from([b4(1), b4(2), BR]),
        st.sampled_from([BR, BR2]),
    ),
    max_size=5,
)  # fmt: skip
sources = st.sampled_from([CONFIG, OPERATOR, DHCP, PCP])
generations = st.integers(0, 2)
operations = st.one_of(
    st.tuples(st.just("bind"), batches, sources, generations),
    st.tuples(st.just("unbind"), st.lists(st.tuples(addresses, st.integers(0, 3)), min_size=1, max_size=3), sources),
    st.tuples(st.just("sweep"), sources, generations),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(operations, max_size=30))
def test_the_table_is_a_dictionary(run: list[tuple[Any, ...]]) -> None:
    own = {"own_v4": frozenset([OWN4]), "own_v6": frozenset([BR, BR2])}
    table, model = make(capacity=7), Model(7, **own)
    for name, *arguments in run:
        if name == "bind":
            batch, source, generation = arguments
            foretold = model.bind(batch, source, generation, validate_only=True)
            assert table.bind(array(batch), source, generation, validate_only=True) == foretold
            assert table.bind(array(batch), source, generation) == model.bind(batch, source, generation)
        elif name == "unbind":
            keys, source = arguments
            assert unbind(table, keys, source) == model.unbind(keys, source)
        else:
            assert {one.key: one for one in rows_of(table.sweep(*arguments))} == model.sweep(*arguments)
        assert {one.key: one for one in rows_of(table.dump())} == model.rows
        assert len(table) == len(model.rows)
        for ipv4 in (A1, A2, A1 + 256, OWN4):
            params = model.params_of(ipv4)
            use = NONE if params is None else WHOLE if params[1] == 0 else (SHARED, *params)
            assert table.classify(ipv4) == use
    keys = [(ipv4, psid) for ipv4 in (A1, A2, A1 + 256, OWN4) for psid in range(66)]
    ipv4s, psids = np.array([k[0] for k in keys], np.uint32), np.array([k[1] for k in keys], np.uint16)
    rows, by = table.holders(ipv4s, psids)
    for key, one, source in zip(keys, rows_of(rows), by.tolist(), strict=True):
        assert model.holder(*key) == (None if source == _core.NO_SOURCE else (one, source))
    bound, to, br = table.find_keys(ipv4s, psids)
    found = {key: (to[n].tobytes(), br[n].tobytes()) for n, key in enumerate(keys) if bound[n]}
    assert found == {key: (one.b4, one.br) for key, one in model.rows.items()}


def test_sizes_by_source() -> None:
    """Bind, take over by a higher source, unbind, sweep: each source's count follows."""
    table = _core.BindingTable(100)
    first = array([row(psid=n, to=b4(n + 1)) for n in range(8)])

    def sizes() -> list[int]:
        return [table.size_of(source) for source in range(4)]

    table.bind(first, _core.SOURCE_PCP, 0)
    assert sizes() == [0, 0, 0, 8]
    table.bind(first[:3], _core.SOURCE_OPERATOR, 0)
    assert sizes() == [0, 3, 0, 5]
    table.unbind(first["ipv4"][:1], first["psid"][:1], _core.SOURCE_OPERATOR)
    assert sizes() == [0, 2, 0, 5]
    table.bind(first[3:4], _core.SOURCE_PCP, 1)
    table.sweep(_core.SOURCE_PCP, 1)
    assert sizes() == [0, 2, 0, 1]
    assert not table.bind(first, _core.SOURCE_PCP, 1)["added"]
    assert sizes() == [0, 2, 0, 1]
