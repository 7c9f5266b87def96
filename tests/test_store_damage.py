"""Damaged and half-written files: found, named, set aside, and what is whole is used. And a disk that is full."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.store import Change, Commit, Record, State, StoreFault, opening
from pylwaftr.store.sqlite import Limits, SqliteStore
from tests.store_rows import A1, A3, BIND, EVER, SHADOW, bound, kept_up, many, one, opened, prefix, row

AT = 1_700_000_000.0
STAMP = "20231114T221320Z"
LARGE = 20_000  # rows of a change with a file of its own
LIMITS = Limits(fold_rows=10_000, snapshot_rows=15_000)


def made(folder: Path) -> None:
    """A snapshot, files of history of both kinds, and a journal with changes and records behind them."""
    store, _ = opened(folder, LIMITS)
    store.commit([one(BIND, many(0, LARGE))], 100.0)
    store.commit([one(SHADOW, row(3, 9), 2)], 101.0)
    store.commit([one(BIND, many(0, 6000, 2))], 102.0)
    store.commit([one(BIND, many(6000, 6000, 2))], 103.0)
    assert kept_up(store) == 1
    store.commit([one(BIND, row(0, 5, ipv4=A3 + 50_000), records=[Record("pcp", b"k", b"v")])], 104.0)
    store.commit([one(BIND, row(1, 5, ipv4=A3 + 50_000), records=[Record("pcp", b"l", b"w")])], 105.0)
    store.close()


def flip(path: Path, at: int) -> None:
    octets = bytearray(path.read_bytes())
    octets[at] ^= 0x10
    path.write_bytes(octets)


def cut(path: Path, keep: float) -> None:
    os.truncate(path, int(path.stat().st_size * keep))


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def snapshot(folder: Path) -> Path:
    return only(folder, "*.bindings")


def bulk(folder: Path) -> Path:
    return only(folder, "0000000000000001.events")


def folded(folder: Path) -> Path:
    return only(folder, "*-*.events")


def journal(folder: Path) -> Path:
    return folder / "state.db"


def in_journal(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(journal(folder))
    connection.execute(statement)
    connection.commit()
    connection.close()


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


def test_one_unreadable_page_costs_the_changes_on_it_alone(tmp_path: Path) -> None:
    """The rows of a large change lie on pages of their own, and each names the next."""
    store, _ = opened(tmp_path, Limits(bulk=1 << 20, fold_changes=1 << 20, fold_rows=1 << 20))
    for number in range(5):
        store.commit([one(BIND, row(number, 5, ipv4=A3 + 50_000))], 100.0 + number)
    store.commit([one(BIND, many(0, 3000))], 110.0)
    for number in range(5, 10):
        store.commit([one(BIND, row(number, 5, ipv4=A3 + 50_000))], 120.0 + number)
    store.close()
    page = 4096 * (journal(tmp_path).stat().st_size // 8192)  # in the middle
    with journal(tmp_path).open("r+b") as stream:
        stream.seek(page)
        stream.write(b"\x7f\xff\xff\xff")
    store, found = opened(tmp_path, LIMITS, AT)
    assert counts(found)[0] == 10
    assert "10 changes and 0 records of it could be read" in found.set_aside[0]
    assert not any("\n" in text for text in found.set_aside)
    store.close()


CHANGES = 300  # 60 of them on a page
ABSURD = 1 << 61
LEAVES = [  # what else is harmed, which pages, how many changes beside theirs, whether all numbers are tried
    ("", [3], 0, True),
    ("", [2, 4], 0, True),
    ("", [0], 0, True),
    ("", [-1], 0, True),
    ("DELETE FROM meta", [3], 0, True),
    ("DELETE FROM meta", [-1], 0, True),
    ("DELETE FROM meta WHERE name = 'format'", [3], 0, True),
    (f"UPDATE meta SET value = {ABSURD} WHERE name = 'number'", [3], 0, True),
    (f"UPDATE meta SET value = {ABSURD} WHERE name = 'number'", [-1], 0, False),
    (f"UPDATE log SET number = {ABSURD} WHERE number = {CHANGES}", [3], 1, True),
    (f"UPDATE log SET number = -{ABSURD} WHERE number = 1", [3], 1, True),
    ("UPDATE log SET op = 999 WHERE number = 1", [3], 1, True),
]


@pytest.mark.parametrize("statement, pages, more, all_tried", LEAVES)
def test_unreadable_pages_of_small_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, pages: list[int], more: int, all_tried: bool
) -> None:
    monkeypatch.setattr(opening, "TRIED", 200)
    limits = Limits(fold_changes=1 << 20, fold_rows=1 << 20)
    store, _ = opened(tmp_path, limits)
    store.commit([one(BIND, many(number, 1)) for number in range(CHANGES)], 100.0)
    store.close()
    if statement:
        in_journal(tmp_path, statement)
    lost = more
    with journal(tmp_path).open("r+b") as stream:
        octets = stream.read()
        # Leaves of tables with numbers; the first page is of the schema.
        leaves = [at for at in range(4096, len(octets), 4096) if octets[at] == 0x0D]
        leaves.sort(key=lambda at: key_of(octets, at))
        for leaf in (leaves[page] for page in pages):
            lost += int.from_bytes(octets[leaf + 3 : leaf + 5])
            stream.seek(leaf)
            stream.write(bytes(4096))
    store, found = opened(tmp_path, limits, AT)
    assert counts(found)[0] == CHANGES - lost
    assert f"{CHANGES - lost} changes and 0 records" in found.set_aside[0]
    assert ("were not tried: 200 are the most" in found.set_aside[0]) is not all_tried
    store.close()


def key_of(octets: bytes, page: int) -> int:
    """Of the first cell: behind its length, in groups of 7 bits."""
    at = page + int.from_bytes(octets[page + 8 : page + 10])
    key, length_is_over = 0, False
    for octet in octets[at : at + 18]:
        if length_is_over:
            key = key << 7 | octet & 0x7F
        if octet < 0x80:
            if length_is_over:
                break
            length_is_over = True
    return key


def counts(state: State) -> tuple[int, int, int]:
    records = sum(len(part) for part in state.records.values())
    return len(bound(state)), sum(len(part) for part in state.shadowed.values()), records


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


def test_half_written_files_of_a_crash_are_nobodys(tmp_path: Path) -> None:
    made(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "0000000000000099.events.part").write_bytes(b"half")
    shutil.copy(bulk(tmp_path), tmp_path / "0000000000000098.events")
    store, found = opened(tmp_path)
    assert (found.set_aside, counts(found)) == ((), (ALL, 1, 2))
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


CRASHED = """
import os, sys
from pathlib import Path
from tests.store_rows import *
store, _ = opened(Path(sys.argv[1]))
for number in range(20):
    store.commit([one(BIND, row(number, number + 1))], float(number))
os._exit(0)
"""


@pytest.mark.parametrize("frame, named", [(None, False), (30, True), (-1, True)], ids=["whole", "middle", "end"])
def test_a_damaged_write_ahead_log_is_named(tmp_path: Path, frame: int | None, named: bool) -> None:
    """SQLite itself ends silently at the first frame that is wrong."""
    subprocess.run([sys.executable, "-c", CRASHED, str(tmp_path)], check=True)
    wal = tmp_path / "state.db-wal"
    frames = (wal.stat().st_size - 32) // 4120
    if frame is not None:
        flip(wal, 32 + 4120 * (frame % frames) + 100)
    store, found = opened(tmp_path, at=AT)
    assert (len(bound(found)) == 20) is not named
    assert bool(found.set_aside) is named
    if named:
        assert f"state.db-wal.damaged-{STAMP}" in found.set_aside[0]
        assert (tmp_path / f"state.db-wal.damaged-{STAMP}").stat().st_size == wal_size(frames)
    store.close()


def wal_size(frames: int) -> int:
    return 32 + 4120 * frames


# --- no room ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


FULL = "the disk is full, so nothing was done; make room there"


@pytest.mark.needs_root
@pytest.mark.parametrize("count", [200_000, 10_000], ids=["a file of its own", "in the journal"])
def test_a_full_disk(small_disk: Path, count: int) -> None:
    folder = small_disk / "state"
    store, _ = opened(folder)
    store.commit([one(BIND, row(1), records=[Record("pcp", b"k", b"v")])], 1.0)
    (small_disk / "ballast").write_bytes(bytes(small_disk_free(small_disk) - 300_000))
    with pytest.raises(StoreFault, match=FULL):
        store.commit([Commit((Change(BIND, 1, many(64, count)),), (Record("pcp", b"k", None),))], 2.0)
    assert not list(folder.glob("*.part"))
    (small_disk / "ballast").unlink()
    assert store.commit([one(BIND, row(2))], 3.0) == 2
    store.close()
    store, found = opened(folder)
    assert (found.revision, len(bound(found)), found.records) == (2, 2, {"pcp": {b"k": b"v"}})
    assert len(list(store.lives_of(prefix("::/0"), *EVER))) == 2
    store.close()


def small_disk_free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def test_a_file_size_limit(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store.commit([one(BIND, row(1))], 1.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        for rows in (many(64, 30_000), many(64, 10_000)):
            with pytest.raises(StoreFault, match="so nothing was done"):
                store.commit([one(BIND, rows)], 2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert store.commit([one(BIND, row(2))], 3.0) == 2
    store.close()
    store, found = opened(tmp_path)
    assert (found.revision, len(bound(found)), found.set_aside) == (2, 2, ())
    store.close()


def test_a_store_that_is_not_open(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, 0.0)
    with pytest.raises(StoreFault, match="load it first"):
        store.commit([one(BIND, row(1))], 1.0)
    store.close()


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
    in_journal(tmp_path, "UPDATE meta SET value = 2 WHERE name = 'format'")
    before = sorted(path.name for path in tmp_path.iterdir())
    store = SqliteStore(tmp_path, AT)
    with pytest.raises(StoreFault, match="of a newer version of this program"):
        store.load()
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir() if "-" not in path.name) == [
        n for n in before if "-" not in n
    ]
