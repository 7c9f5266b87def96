"""The binding table from outside: what a look-up returns, how much it holds, and a dictionary as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylwaftr import _core
from tests.table_model import Model, Row
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
    WHOLE,
    array,
    b4,
    columns,
    make,
    row,
    rows_of,
    unbind,
)


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
        rows, sources = table.holders(*columns((ipv4, psid) for _, ipv4, psid, _ in asked))
        for (what, _, _, holder), got, source in zip(asked, rows_of(rows), sources.tolist(), strict=True):
            there = None if source == _core.NO_SOURCE else (got, source)
            assert there == holder, what
            assert there is not None or got == Row(0, 0, 0, 0, bytes(16), bytes(16)), what


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
    ipv4s, psids = columns(keys)
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
