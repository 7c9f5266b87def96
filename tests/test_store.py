"""The embedded store: what is found again, the history of bindings, what watchers are told, upkeep and retention."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylwaftr.store import Change, Commit, Compacted, Record, StoreFault, history
from pylwaftr.store.sqlite import SqliteStore
from tests.store_rows import (
    A1,
    A2,
    BIND,
    EVER,
    SHADOW,
    TINY,
    UNBIND,
    UNSHADOW,
    bound,
    kept_up,
    many,
    one,
    opened,
    prefix,
    row,
    rows,
    shown,
)

FIRST = IPv4Address(A1)

# What is committed one after the other -> what is bound (PSID -> source, B4), what waits.
STATES = [
    ("nothing", [], {}, {}),
    ("one", [one(BIND, row(3))], {3: (1, 1)}, {}),
    ("another B4", [one(BIND, row(3)), one(BIND, row(3, 2))], {3: (1, 2)}, {}),
    ("another source", [one(BIND, row(3)), one(BIND, row(3), 0)], {3: (0, 1)}, {}),
    ("gone", [one(BIND, rows(row(3), row(4))), one(UNBIND, row(3))], {4: (1, 1)}, {}),
    ("gone and there again", [one(BIND, row(3)), one(UNBIND, row(3)), one(BIND, row(3, 5))], {3: (1, 5)}, {}),
    (
        "out of order, in a file of its own",
        [one(BIND, rows(*(row(n) for n in (5, 1, 4, 2, 3)))), one(UNBIND, row(4))],
        {1: (1, 1), 2: (1, 1), 3: (1, 1), 5: (1, 1)},
        {},
    ),
    (
        "two sources in one commit",
        [Commit((Change(UNBIND, 0, row(1)), Change(BIND, 2, row(2)), Change(BIND, 3, row(3))))],
        {2: (2, 1), 3: (3, 1)},
        {},
    ),
    (
        "waiting",
        [Commit((Change(BIND, 0, row(3)), Change(SHADOW, 2, row(3, 2)), Change(SHADOW, 3, row(3, 3))))],
        {3: (0, 1)},
        {(2, 3): 2, (3, 3): 3},
    ),
    (
        "waiting no more",
        [
            Commit((Change(SHADOW, 2, row(3, 2)), Change(SHADOW, 3, row(3, 3)))),
            Commit((Change(BIND, 2, row(3, 2)), Change(UNSHADOW, 2, row(3, 2)))),
        ],
        {3: (2, 2)},
        {(3, 3): 3},
    ),
    (
        "many that wait",
        [one(SHADOW, rows(*(row(n, n) for n in range(6))), 2), one(UNSHADOW, rows(*(row(n) for n in range(5))), 2)],
        {},
        {(2, 5): 5},
    ),
]


@pytest.mark.parametrize("upkeep", [False, True], ids=["as written", "after upkeep"])
@pytest.mark.parametrize("what, commits, there, waiting", STATES, ids=[r[0] for r in STATES])
def test_what_is_found_again(tmp_path: Path, what: str, commits: Any, there: Any, waiting: Any, upkeep: bool) -> None:
    store, state = opened(tmp_path, TINY)
    assert (state.revision, state.bindings, state.set_aside) == (0, {}, ())
    for number, commit in enumerate(commits, 1):
        assert store.commit([commit], 1000.0 + number) == number
        if upkeep:
            store.forget(0.0)  # folds
            kept_up(store)
    store.close()
    store, state = opened(tmp_path, TINY)
    assert state.revision == len(commits)
    assert {psid: found for (_, psid), found in bound(state).items()} == there
    assert {
        (source, int(cell["psid"])): int(cell["b4"][15]) for source, part in state.shadowed.items() for cell in part
    } == waiting
    assert state.set_aside == ()
    store.close()


def test_records_are_found_again(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    puts = [Record("pcp", b"a", b"1"), Record("pcp", b"b", b""), Record("leasequery", b"a", b"2")]
    assert store.commit([Commit((), tuple(puts)), one(BIND, row(1), records=[Record("pcp", b"c", b"3")])], 1.0) == 2
    later = (Record("pcp", b"a", None), Record("pcp", b"c", b"4"), Record("pcp", b"c", b"5"), Record("pcp", b"x", None))
    assert store.commit([Commit((), later)], 2.0) == 3
    store.close()
    store, state = opened(tmp_path)
    assert state.revision == 3
    assert state.records == {"pcp": {b"b": b"", b"c": b"5"}, "leasequery": {b"a": b"2"}}
    store.close()


# --- history ---------------------------------------------------------------------------------------------------------

OFFSET6 = row(5, 7, 6, A2, 6)  # ports 1024 + 5 * 16 ..., and so on in each block of 1024

# Time -> what happens; then what is asked: address, port, from, until -> PSID, B4, source, began, ended.
STORY = [
    (100.0, one(BIND, rows(row(3, 1), row(4, 1)))),
    (200.0, one(BIND, row(3, 2))),
    (300.0, one(UNBIND, row(3, 2))),
    (400.0, one(BIND, row(3, 3), 2)),
    (500.0, Commit((Change(BIND, 1, row(3, 3)), Change(BIND, 1, OFFSET6)))),  # another source, the same B4
    (600.0, Commit((Change(UNBIND, 1, row(3, 3)), Change(UNBIND, 1, row(4, 1)), Change(BIND, 3, row(0, 9, 0))))),
]
SET3 = 3 * 1024
QUESTIONS = [
    ("before anything", A1, SET3, 0.0, 99.0, []),
    ("while the first had it", A1, SET3 + 7, 150.0, 150.0, [(3, 1, 1, 100.0, 200.0)]),
    ("another set", A1, 4 * 1024, 150.0, 150.0, [(4, 1, 1, 100.0, 600.0)]),
    ("nobody's set", A1, 5 * 1024, 0.0, 599.0, []),
    ("across a change", A1, SET3 + 1023, 150.0, 250.0, [(3, 1, 1, 100.0, 200.0), (3, 2, 1, 200.0, 300.0)]),
    ("in a gap", A1, SET3, 310.0, 390.0, []),
    ("at a border both", A1, SET3, 200.0, 200.0, [(3, 1, 1, 100.0, 200.0), (3, 2, 1, 200.0, 300.0)]),
    ("a change of source", A1, SET3, 450.0, 550.0, [(3, 3, 2, 400.0, 500.0), (3, 3, 1, 500.0, 600.0)]),
    ("now the whole address", A1, 80, 700.0, 9e9, [(0, 9, 3, 600.0, None)]),
    ("all of an address", A1, None, 350.0, 450.0, [(4, 1, 1, 100.0, 600.0), (3, 3, 2, 400.0, 500.0)]),
    ("with an offset", A2, 1024 + 5 * 16, 550.0, 550.0, [(5, 7, 1, 500.0, None)]),
    ("with an offset, last block", A2, 64512 + 5 * 16 + 15, 550.0, 550.0, [(5, 7, 1, 500.0, None)]),
    ("with an offset, a port of no set", A2, 5 * 16, 550.0, 550.0, []),
    ("an address of nobody", A2 + 5, None, 0.0, 9e9, []),
]


def told(folder: Path, upkeep: Callable[[SqliteStore], Any]) -> SqliteStore:
    store, _ = opened(folder, TINY)
    for at, commit in STORY:
        store.commit([commit], at)
        upkeep(store)
    return store


def fold(store: SqliteStore) -> None:
    store.forget(0.0)


WAYS = [("in the log", lambda store: None), ("in files", fold), ("as it comes", kept_up)]


@pytest.mark.parametrize("way", [w[1] for w in WAYS], ids=[w[0] for w in WAYS])
@pytest.mark.parametrize("what, ipv4, port, began, ended, lives", QUESTIONS, ids=[q[0] for q in QUESTIONS])
def test_who_held(
    tmp_path: Path, way: Any, what: str, ipv4: int, port: Any, began: Any, ended: Any, lives: Any
) -> None:
    store = told(tmp_path, way)
    assert shown(store.who_held(IPv4Address(ipv4), port, began, ended)) == lives
    store.close()
    store, _ = opened(tmp_path, TINY)
    assert shown(store.who_held(IPv4Address(ipv4), port, began, ended)) == lives
    store.close()


B4_QUESTIONS = [
    ("a B4", "2001:db8:1::3/128", EVER, [(3, 3, 2, 400.0, 500.0), (3, 3, 1, 500.0, 600.0)]),
    ("a B4 at a time", "2001:db8:1::3/128", (550.0, 550.0), [(3, 3, 1, 500.0, 600.0)]),
    ("nobody", "2001:db8:2::/48", EVER, []),
    ("a subscriber's prefix", "2001:db8:1::/64", (0.0, 150.0), [(3, 1, 1, 100.0, 200.0), (4, 1, 1, 100.0, 600.0)]),
    ("all", "::/0", (650.0, 9e9), [(0, 9, 3, 600.0, None), (5, 7, 1, 500.0, None)]),
]


@pytest.mark.parametrize("way", [w[1] for w in WAYS], ids=[w[0] for w in WAYS])
@pytest.mark.parametrize("what, net, times, lives", B4_QUESTIONS, ids=[q[0] for q in B4_QUESTIONS])
def test_lives_of(tmp_path: Path, way: Any, what: str, net: str, times: Any, lives: Any) -> None:
    store = told(tmp_path, way)
    assert shown(store.lives_of(prefix(net), *times)) == lives
    store.close()


def test_a_clock_that_goes_back_reorders_nothing(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    for at, to in ((100.0, 1), (50.0, 2), (101.0, 3)):
        store.commit([one(BIND, row(3, to))], at)
    assert shown(store.who_held(FIRST, None, *EVER)) == [
        (3, 1, 1, 100.0, 100.0),
        (3, 2, 1, 100.0, 101.0),
        (3, 3, 1, 101.0, None),
    ]
    store.close()


Step = tuple[int, bool, list[int]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.booleans(), st.lists(st.integers(0, 15), min_size=1, max_size=9, unique=True)),
        max_size=30,
    ),
    st.sets(st.integers(0, 29)),
)
def test_history_of_random_changes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step], restarts: set[int]
) -> None:
    """Against lists of what was bound at each moment."""
    folder = tmp_path_factory.mktemp("random")
    store, _ = opened(folder, TINY)
    live: dict[int, tuple[int, float]] = {}
    lives: list[tuple[int, int, int, float, float | None]] = []
    for number, (to, binds, psids) in enumerate(steps):
        at = 10.0 * (number + 1)
        psids = psids if binds else [psid for psid in psids if psid in live]
        if not psids:
            continue
        store.commit([one(BIND if binds else UNBIND, rows(*(row(psid, to) for psid in psids)))], at)
        for psid in psids:
            if psid in live:
                was, since = live.pop(psid)
                lives.append((psid, was, 1, since, at))
            if binds:
                live[psid] = to, at
        kept_up(store)
        if number in restarts:
            store.close()
            store, state = opened(folder, TINY)
            assert bound(state) == {(A1, psid): (1, now) for psid, (now, _) in live.items()}
            assert state.set_aside == ()
    every = {*lives, *((psid, to, 1, since, None) for psid, (to, since) in live.items())}
    assert set(shown(store.who_held(FIRST, None, *EVER))) == every
    assert set(shown(store.lives_of(prefix("::/0"), *EVER))) == every
    half = 10.0 * (len(steps) // 2)
    assert store.forget(half) == sum(life[4] is not None and life[4] < half for life in lives)
    assert set(shown(store.who_held(FIRST, None, *EVER))) == {life for life in every if not (life[4] or 1e9) < half}
    store.close()
    store, state = opened(folder, TINY)
    assert bound(state) == {(A1, psid): (1, now) for psid, (now, _) in live.items()}
    store.close()


def test_a_whole_history_is_read_by_address_and_then_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the pieces that are looked at together end within an address."""
    monkeypatch.setattr(history, "BLOCK", 1)
    monkeypatch.setattr(history, "_PART", 1)
    store = told(tmp_path, fold)
    lives = [(int(life.row["ipv4"][0]), life.began) for life in store.lives_of(prefix("::/0"), *EVER)]
    assert lives == sorted(lives)
    assert len({ipv4 for ipv4, _ in lives}) > 1
    store.close()


# --- changes for watchers --------------------------------------------------------------------------------------------


def test_changes_are_told_from_a_revision_on(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store.commit([one(BIND, row(1)), Commit((), (Record("pcp", b"k", b"v"),))], 1.0)
    store.commit([Commit((Change(UNBIND, 1, row(1)), Change(BIND, 2, many(0, 20_000))))], 2.0)
    told = [(revision, at, change.op, change.source, len(change.rows)) for revision, at, change in store.changes(0)]
    assert told == [(1, 1.0, BIND, 1, 1), (3, 2.0, UNBIND, 1, 1), (3, 2.0, BIND, 2, 20_000)]
    assert [revision for revision, _, _ in store.changes(1)] == [3, 3]
    assert list(store.changes(3)) == []
    with pytest.raises(Compacted):
        store.changes(4)
    store.close()


def test_old_changes_are_compacted(tmp_path: Path) -> None:
    store, _ = opened(tmp_path, TINY)
    for number in range(40):
        store.commit([one(BIND, row(number % 16, number))], float(number))
        kept_up(store)
    floor = next(after for after in range(41) if not _compacted(store, after))
    assert 20 < floor < 40
    assert [revision for revision, _, _ in store.changes(floor)] == list(range(floor + 1, 41))
    assert len(list(store.who_held(FIRST, None, *EVER))) == 40
    store.close()


def _compacted(store: SqliteStore, after: int) -> bool:
    try:
        store.changes(after)
    except Compacted:
        return True
    return False


def test_a_reader_that_is_overtaken_is_told(tmp_path: Path) -> None:
    store, _ = opened(tmp_path, TINY)
    for number in range(100):
        store.commit([one(BIND, row(number % 16))], float(number))
    slow = store.changes(0)
    next(slow)
    for number in range(100):
        store.commit([one(BIND, row(number % 16))], 100.0 + number)
        kept_up(store)
    with pytest.raises(Compacted):
        list(slow)
    store.close()


# --- files -------------------------------------------------------------------------------------------------------


def test_files_are_put_together(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    for number in range(10):
        store.commit([one(BIND, many(0, 20_000, number))], float(number))
    assert len(list(tmp_path.glob("*.events"))) == 10
    assert kept_up(store) == 1
    assert len(store.retained()) == 3
    ports = list(store.who_held(FIRST, 5 * 1024, *EVER))
    assert [life.began for life in ports] == [float(number) for number in range(10)]
    assert store.forget(5.5) == 5 * 20_000
    assert len(list(store.who_held(FIRST, 5 * 1024, *EVER))) == 5
    store.close()
    store, state = opened(tmp_path)
    assert np.array_equal(state.bindings[1], many(0, 20_000, 9))
    store.close()


def test_two_processes(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    with pytest.raises(StoreFault, match=r"is in use by process [0-9]+: stop that, or choose another state\.directory"):
        SqliteStore(tmp_path, 0.0)
    store.close()
    opened(tmp_path)[0].close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFault, match=r"cannot be used \(Not a directory|File exists\)"):
        SqliteStore(tmp_path / "file" / "state", 0.0)
