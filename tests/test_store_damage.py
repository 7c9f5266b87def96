"""Damaged and half-written files: found, named, set aside, and what is whole is used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.store import StoreFault
from pylwaftr.store.sqlite import Limits, SqliteStore
from tests.store_files import (
    AT,
    LARGE,
    LIMITS,
    STAMP,
    bulk,
    counts,
    cut,
    flip,
    folded,
    in_journal,
    journal,
    made,
    only,
    snapshot,
)
from tests.store_rows import A1, A3, BIND, EVER, kept_up, many, one, opened, row

ALL = LARGE + 2  # rows that are bound
DAMAGE: list[tuple[str, Callable[[Path], object], str, str, int, int, int]] = [
    # what, how, named as, set aside, rows bound, rows that wait, records
    (
        "a snapshot, one bit",
        lambda d: flip(snapshot(d), 5000),
        "the rows have a wrong checksum",
        ".bindings",
        ALL,
        1,
        2,
    ),
    ("a snapshot's header", lambda d: flip(snapshot(d), 20), "the header has a wrong checksum", ".bindings", ALL, 1, 2),
    ("half a snapshot", lambda d: cut(snapshot(d), 0.5), "octets and has", ".bindings", ALL, 1, 2),
    ("an empty snapshot", lambda d: cut(snapshot(d), 0), "or only its beginning", ".bindings", ALL, 1, 2),
    ("no snapshot", lambda d: snapshot(d).unlink(), "No such file", "", ALL, 1, 2),
    ("a file of events, its header", lambda d: flip(bulk(d), 30), "wrong checksum", ".events", ALL, 1, 2),
    ("a file of events, its index", lambda d: flip(bulk(d), -3), "wrong checksum", ".events", ALL, 1, 2),
    ("half a file of events", lambda d: cut(folded(d), 0.5), "octets and has", ".events", ALL, 1, 2),
    ("no file of events", lambda d: folded(d).unlink(), "cannot be read", "", ALL, 1, 2),
    (
        "a change of the journal",
        lambda d: in_journal(d, "UPDATE log SET rows = zeroblob(40) WHERE number = 5"),
        "change 5 of the journal has a wrong checksum; the 1 rows of revision 5 are missing",
        "",
        ALL - 1,
        1,
        2,
    ),
    (
        "a column of the journal",
        lambda d: in_journal(d, "UPDATE log SET op = 999 WHERE number = 5"),
        "change 5 of the journal has a wrong checksum; the 1 rows of revision 5 are missing",
        "",
        ALL - 1,
        1,
        2,
    ),
    (
        "a record",
        lambda d: in_journal(d, "UPDATE records SET value = x'00' WHERE key = x'6b'"),
        "1 records",
        "records",
        ALL,
        1,
        1,
    ),
    ("the journal's first page", lambda d: flip(journal(d), 3), "is not a database", "state.db", LARGE, 1, 0),
    ("half a journal", lambda d: cut(journal(d), 0.5), "state.db", "state.db", LARGE, 1, 0),
    ("no journal", lambda d: journal(d).unlink(), "is missing", "", LARGE, 1, 0),
]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state")
    made(folder)
    return folder


@pytest.mark.parametrize("what, harm, named, aside, rows, waiting, records", DAMAGE, ids=[d[0] for d in DAMAGE])
def test_damage(
    tmp_path: Path, state: Path, what: str, harm: Any, named: str, aside: str, rows: int, waiting: int, records: int
) -> None:
    folder = tmp_path / "state"
    shutil.copytree(state, folder)
    harm(folder)
    store, found = opened(folder, LIMITS, AT)
    assert named in "\n".join(found.set_aside)
    assert counts(found) == (rows, waiting, records)
    kept = [path.name for path in folder.glob(f"*.damaged-{STAMP}")]
    assert [name for name in kept if aside and aside in name] == kept
    assert bool(kept) == bool(aside)
    assert all(name in "\n".join(found.set_aside) for name in kept)
    # It goes on, and the next start finds nothing wrong.
    revision = store.commit([one(BIND, row(2, 5, ipv4=A3 + 50_000))], 200.0)
    assert revision > 6 or "journal" in what
    store.forget(0.0)
    assert len(list(store.who_held(IPv4Address(A3 + 50_000), None, *EVER))) >= 1
    store.close()
    store, found = opened(folder, LIMITS, AT)
    assert found.set_aside == ()
    assert counts(found) == (rows + 1, waiting, records)
    store.close()


def test_a_damaged_block_of_the_history_is_not_read_over(tmp_path: Path) -> None:
    made(tmp_path)
    flip(bulk(tmp_path), 5000)  # in the first block, which a start does not read
    store, found = opened(tmp_path, LIMITS, AT)
    assert found.set_aside == ()
    elsewhere = IPv4Address(A1 + 200)
    assert len(list(store.who_held(elsewhere, 0, *EVER))) == 1
    with pytest.raises(StoreFault, match=r"block 0 of 5 has a wrong checksum: it was taken out.*ask again"):
        list(store.who_held(IPv4Address(A1), 0, *EVER))
    assert only(tmp_path, f"*.events.damaged-{STAMP}").name in store.lost[0]
    assert len(list(store.who_held(IPv4Address(A1), 0, *EVER))) == 1  # of another file
    store.close()


@pytest.mark.parametrize("also", [bulk, folded])
@pytest.mark.parametrize("harm", [snapshot, journal])
def test_two_damaged_files(tmp_path: Path, harm: Callable[[Path], Path], also: Callable[[Path], Path]) -> None:
    """What is bound is found again in the files that are whole."""
    made(tmp_path)
    flip(also(tmp_path), 5000)
    if harm is journal:
        snapshot(tmp_path).unlink()
    flip(harm(tmp_path), 3)
    store, found = opened(tmp_path, LIMITS, AT)
    assert any("block 0 of" in text and "wrong checksum" in text for text in found.set_aside)
    rows, _, records = counts(found)
    assert 12_000 <= rows <= ALL
    assert records == (0 if harm is journal else 2)
    store.commit([one(BIND, row(2, 5, ipv4=A3 + 50_000))], 200.0)
    store.forget(0.0)
    store.close()
    store, found = opened(tmp_path, LIMITS, AT)
    assert (found.set_aside, counts(found)[0]) == ((), rows + 1)
    store.close()


def test_half_written_files_of_a_crash_are_nobodys(tmp_path: Path) -> None:
    made(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "0000000000000099.events.part").write_bytes(b"half")
    shutil.copy(bulk(tmp_path), tmp_path / "0000000000000098.events")
    store, found = opened(tmp_path)
    assert (found.set_aside, counts(found)) == ((), (ALL, 1, 2))
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_damage_that_upkeep_finds_is_set_aside(tmp_path: Path) -> None:
    made(tmp_path)
    store, _ = opened(tmp_path, Limits(fold_changes=1, snapshot_rows=1), AT)
    flip(snapshot(tmp_path), 5000)
    store.commit([one(BIND, row(2, 5, ipv4=A3 + 50_000))], 106.0)
    assert kept_up(store) == 1
    assert "the rows have a wrong checksum; it is kept as" in store.lost[0]
    for number in range(7):
        store.commit([one(BIND, many(0, LARGE, number))], 200.0 + number)
    flip(bulk(tmp_path), 5000)
    kept_up(store)
    assert "block 0 of 5 has a wrong checksum: it was taken out of the history" in store.lost[1]
    assert len(list(tmp_path.glob(f"*.damaged-{STAMP}"))) == 2
    store.close()
    store, found = opened(tmp_path, LIMITS, AT)
    assert (found.set_aside, counts(found)) == ((), (ALL + 1, 1, 2))
    store.close()


def test_a_state_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    made(tmp_path)
    in_journal(tmp_path, "UPDATE meta SET value = 3 WHERE name = 'format'")
    before = sorted(path.name for path in tmp_path.iterdir())
    store = SqliteStore(tmp_path, AT)
    with pytest.raises(StoreFault, match="of a newer version of this program"):
        store.load()
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir() if "-" not in path.name) == [
        n for n in before if "-" not in n
    ]
