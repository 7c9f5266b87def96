"""A disk without room, a limit of the file size, and a store that is not open."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pylwaftr.store import Change, Commit, Record, StoreFault
from pylwaftr.store.journal import Journal
from pylwaftr.store.sqlite import Limits, SqliteStore
from tests.store_rows import BIND, EVER, bound, kept_up, many, one, opened, prefix, row


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


@contextmanager
def largest(octets: int) -> Iterator[None]:
    """No file may grow beyond that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (octets, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_file_size_limit(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store.commit([one(BIND, row(1))], 1.0)
    with largest(100_000):
        for rows in (many(64, 30_000), many(64, 10_000)):
            with pytest.raises(StoreFault, match="so nothing was done"):
                store.commit([one(BIND, rows)], 2.0)
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


def test_upkeep_that_finds_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    """It is tried again each minute, and what is made of changes has another name each time."""
    store, _ = opened(tmp_path, Limits(fold_changes=2))
    store.commit([one(BIND, many(0, 10_000)), one(BIND, row(1))], 1.0)
    kept_up(store)
    for number in range(3):
        store.commit([one(BIND, row(2, number)), one(BIND, row(3, number))], 2.0 + number)
        before = sorted(path.name for path in tmp_path.iterdir())
        with largest(300_000), pytest.raises(StoreFault, match="full"):  # the snapshot does not fit
            kept_up(store)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert kept_up(store) == 1
    store.close()
    store, found = opened(tmp_path)
    assert (found.set_aside, len(bound(found))) == ((), 10_000)
    store.close()


def test_what_upkeep_has_made_goes_if_the_journal_has_no_room_for_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = opened(tmp_path, Limits(fold_changes=2))
    store.commit([one(BIND, row(1)), one(BIND, row(2))], 1.0)
    before = sorted(path.name for path in tmp_path.iterdir())
    for text, stays in (("database or disk is full", False), ("disk I/O error", True)):

        def refuse(*_: object, text: str = text) -> None:
            raise sqlite3.OperationalError(text)

        monkeypatch.setattr(Journal, "fold", refuse)
        with pytest.raises(StoreFault):
            kept_up(store)
        assert (sorted(path.name for path in tmp_path.iterdir()) != before) is stays  # it may be in the journal
    store.close()
