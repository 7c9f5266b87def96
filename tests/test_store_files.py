"""Files of the state: written in pieces, not taken away under a running router, asked for without being made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from pylwaftr.row_sets import Sourced
from pylwaftr.store import StoreFault, files, snapshot
from pylwaftr.store.files import PIECE, Written, write_whole
from pylwaftr.store.snapshot import Live
from tests.store_rows import A1, BIND, EVER, bound, kept_up, many, one, opened, prefix, row


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of files when they were brought to the disk."""
    sizes: list[int] = []

    def watched(of: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            sizes.append(os.fstat(descriptor).st_size)
            of(descriptor)

        return sync

    monkeypatch.setattr(files.os, "fdatasync", watched(os.fdatasync))
    return sizes


@pytest.mark.parametrize("sizes", [[1], [3 * PIECE + 5], [PIECE - 1, 2, PIECE, 7], [PIECE // 3] * 10, [0]])
def test_a_large_file_goes_to_the_disk_in_pieces(tmp_path: Path, synced: list[int], sizes: list[int]) -> None:
    """A commit beside waits for what the file system has not written yet."""
    parts = [bytes([number + 1]) * size for number, size in enumerate(sizes)]

    def into(file: Written) -> None:
        for part in parts:
            file.write(part)
        file.seek(0)
        file.write(b"x")

    write_whole(tmp_path / "file", into)
    assert (tmp_path / "file").read_bytes() == b"x" + b"".join(parts)[1:]
    steps = [after - before for before, after in zip([0, *synced], synced, strict=False)]
    assert all(step < 2 * PIECE for step in steps)
    assert sum(sizes) - sum(steps) < PIECE


def test_a_snapshot_goes_to_the_disk_in_pieces(tmp_path: Path, synced: list[int]) -> None:
    rows = many(0, 4 * PIECE // 40)
    snapshot.write(tmp_path / "x", Live(bound=Sourced.of(rows, 1)))
    assert len(synced) >= 3
    assert snapshot.read(tmp_path / "x").bound.rows.tobytes() == rows.tobytes()


def replaced(folder: Path) -> None:
    twin = folder.with_name("twin")
    shutil.copytree(folder, twin)
    shutil.rmtree(folder)
    twin.rename(folder)


def unlinked(folder: Path) -> None:
    (folder / "state.db").unlink()


@pytest.mark.parametrize("harm", [shutil.rmtree, replaced, unlinked])
@pytest.mark.parametrize("count", [1, 20_000])
def test_nothing_is_acknowledged_that_is_written_to_a_file_without_a_name(
    tmp_path: Path, harm: Callable[[Path], object], count: int
) -> None:
    folder = tmp_path / "state"
    store, _ = opened(folder)
    store.commit([one(BIND, row(1))], 1.0)
    harm(folder)
    with pytest.raises(StoreFault, match=r"state\.db has been taken away or replaced: stop the router"):
        store.commit([one(BIND, many(64, count))], 2.0)
    store.close()


@pytest.mark.parametrize("harm", [shutil.rmtree, unlinked])
def test_a_question_about_a_state_that_was_taken_away_is_refused_and_makes_none(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    folder = tmp_path / "state"
    store, _ = opened(folder)
    store.commit([one(BIND, row(1))], 1.0)
    harm(folder)
    for asked in (store.who_held(IPv4Address(A1), None, *EVER), store.lives_of(prefix("::/0"), *EVER)):
        with pytest.raises(StoreFault, match="the state cannot be read"):
            list(asked)
    with pytest.raises(StoreFault, match="the state cannot be read"):
        store.changes(0)
    assert not (folder / "state.db").exists()
    store.close()


def test_a_journal_that_is_overwritten_while_it_runs_is_named(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    for number in range(50):
        store.commit([one(BIND, many(number * 100, 100))], 1.0)
    with (tmp_path / "state.db-wal").open("r+b") as stream:
        stream.truncate(32)
    with (tmp_path / "state.db").open("r+b") as stream:
        stream.write(b"\x7f" * (tmp_path / "state.db").stat().st_size)
    with pytest.raises(StoreFault, match="the state cannot be read"):
        list(store.who_held(IPv4Address(A1), None, *EVER))
    with pytest.raises(StoreFault, match="the state cannot be"):
        list(store.changes(0))
    store.close()


def test_a_folder_with_signs_that_an_address_of_a_file_would_need_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "100% of?it#all"
    store, _ = opened(folder)
    store.commit([one(BIND, row(1))], 1.0)
    assert len(list(store.who_held(IPv4Address(A1), None, *EVER))) == 1
    store.close()
    store, found = opened(folder)
    assert len(bound(found)) == 1
    assert kept_up(store) == 0
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
