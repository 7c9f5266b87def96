"""A damaged journal: its pages, what it says of itself, and the write-ahead log beside it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from pylwaftr.store import StoreFault, opening, wal
from pylwaftr.store.journal import Journal, Meta
from pylwaftr.store.sqlite import Limits
from tests.store_files import (
    AT,
    LARGE,
    LIMITS,
    STAMP,
    counts,
    crashed,
    cut,
    flip,
    folded,
    in_journal,
    journal,
    made,
)
from tests.store_rows import A1, A3, BIND, EVER, bound, many, one, opened, row


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
VOUCHED = (  # for a number that cannot be
    f"UPDATE meta SET value = CASE name WHEN 'number' THEN {ABSURD}"
    f" WHEN 'check_sum' THEN {Meta(CHANGES, ABSURD, 100_000_000).check_sum()} ELSE value END"
)
LEAVES = [  # what else is harmed, which pages, how many changes beside theirs, whether all numbers are tried
    ("", [3], 0, True),
    ("", [2, 4], 0, True),
    ("", [0], 0, True),
    ("", [-1], 0, True),
    ("DELETE FROM meta", [3], 0, True),
    ("DELETE FROM meta", [-1], 0, True),
    ("DELETE FROM meta WHERE name = 'format'", [3], 0, True),
    (f"UPDATE meta SET value = {ABSURD} WHERE name = 'number'", [3], 0, True),
    (f"UPDATE meta SET value = {ABSURD} WHERE name = 'number'", [-1], 0, True),
    (VOUCHED, [3], 0, True),
    (VOUCHED, [-1], 0, False),
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


# --- what it says of itself -----------------------------------------------------------------------------------------

SUM = "with a wrong checksum which changes count"
META = [  # statement, how it is named
    ("UPDATE meta SET value = 1 WHERE name = 'number'", SUM),  # numbers would be given out again
    ("UPDATE meta SET value = 0 WHERE name = 'revision'", SUM),
    ("UPDATE meta SET value = 'abc' WHERE name = 'number'", SUM),
    ("UPDATE meta SET value = NULL WHERE name = 'snapshot'", SUM),
    ("DELETE FROM meta WHERE name = 'at'", SUM),
    ("DELETE FROM meta WHERE name = 'format'", SUM),
    ("DELETE FROM meta WHERE name = 'check_sum'", SUM),
    ("UPDATE meta SET value = 'x' WHERE name = 'format'", SUM),
    ("UPDATE meta SET name = 'formed' WHERE name = 'floor'", "does not say which changes count"),
    ("DELETE FROM meta", "has changes and does not say which of them count"),
]


@pytest.mark.parametrize("statement, named", META)
def test_a_journal_that_is_wrong_about_itself(tmp_path: Path, statement: str, named: str) -> None:
    made(tmp_path)
    in_journal(tmp_path, statement)
    store, found = opened(tmp_path, LIMITS, AT)
    assert named in found.set_aside[0]
    assert "6 changes and 2 records of it could be read" in found.set_aside[0]
    assert counts(found) == (LARGE + 2, 1, 2)
    assert store.commit([one(BIND, row(2, 5, ipv4=A3 + 50_000))], 200.0) == found.revision + 1
    store.close()
    store, again = opened(tmp_path, LIMITS, AT)
    assert (again.set_aside, counts(again)) == ((), (LARGE + 3, 1, 2))
    store.close()


def test_a_state_without_that_checksum_is_of_an_earlier_program(tmp_path: Path) -> None:
    made(tmp_path)
    in_journal(tmp_path, "DELETE FROM meta WHERE name = 'check_sum'")
    in_journal(tmp_path, "UPDATE meta SET value = 1 WHERE name = 'format'")
    store, found = opened(tmp_path, LIMITS, AT)
    assert (found.set_aside, counts(found)) == ((), (LARGE + 2, 1, 2))
    store.commit([one(BIND, row(2, 5, ipv4=A3 + 50_000))], 200.0)
    store.close()
    in_journal(tmp_path, "UPDATE meta SET value = 0 WHERE name = 'revision'")  # now it has one
    store, found = opened(tmp_path, LIMITS, AT)
    assert SUM in found.set_aside[0]
    store.close()


@pytest.mark.parametrize("column, value", [("value", "'text'"), ("key", "7"), ("space", "x'00'")])
def test_a_record_of_another_type(tmp_path: Path, column: str, value: str) -> None:
    made(tmp_path)
    in_journal(tmp_path, f"UPDATE records SET {column} = {value} WHERE key = x'6b'")
    store, found = opened(tmp_path, LIMITS, AT)
    assert found.records == {"pcp": {b"l": b"w"}}
    assert f"kept as records.damaged-{STAMP}" in found.set_aside[0]
    assert len((tmp_path / f"records.damaged-{STAMP}").read_text().splitlines()) == 1
    store.close()
    store, found = opened(tmp_path, LIMITS, AT)
    assert (found.set_aside, found.records) == ((), {"pcp": {b"l": b"w"}})
    store.close()


def test_a_file_whose_name_the_journal_has_wrong_is_kept(tmp_path: Path) -> None:
    made(tmp_path)
    name = folded(tmp_path).name
    in_journal(tmp_path, f"UPDATE segments SET name = '{name[:-7]}_events' WHERE name = '{name}'")
    store, found = opened(tmp_path, LIMITS, AT)
    assert counts(found) == (LARGE + 2, 1, 2)
    assert [path.name for path in tmp_path.glob("*.damaged-*")] == [f"{name}.damaged-{STAMP}"]
    assert f"{name} is named by nothing that is left; it is kept as {name}.damaged-{STAMP}" in found.set_aside[1]
    store.close()


# --- the write-ahead log ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame, named", [(None, False), (30, True), (-1, True)], ids=["whole", "middle", "end"])
def test_a_damaged_write_ahead_log_is_named(tmp_path: Path, frame: int | None, named: bool) -> None:
    """SQLite itself ends silently at the first frame that is wrong."""
    crashed(tmp_path)
    log = tmp_path / "state.db-wal"
    frames = (log.stat().st_size - 32) // 4120
    if frame is not None:
        flip(log, 32 + 4120 * (frame % frames) + 100)
    store, found = opened(tmp_path, at=AT)
    assert (len(bound(found)) == 20) is not named
    assert bool(found.set_aside) is named
    if named:
        assert f"state.db-wal.damaged-{STAMP}" in found.set_aside[0]
        assert (tmp_path / f"state.db-wal.damaged-{STAMP}").stat().st_size == wal_size(frames)
    store.close()


def wal_size(frames: int) -> int:
    return 32 + 4120 * frames


def gone(wal: Path) -> None:
    wal.unlink()


def headless(wal: Path) -> None:
    flip(wal, 17)  # of the salts


def halved(wal: Path) -> None:
    cut(wal, 0.5)


def emptied(wal: Path) -> None:
    cut(wal, 0)


@pytest.mark.parametrize("harm", [gone, headless, halved, emptied])
@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
def test_a_write_ahead_log_that_is_shorter_than_it_was(
    tmp_path: Path, harm: Callable[[Path], None], index: bool
) -> None:
    """The index of a process that was killed knows how long it was; without it other files tell."""
    crashed(tmp_path, fold_changes=8)
    files = list(tmp_path.glob("*.events"))
    harm(tmp_path / "state.db-wal")
    if not index:
        (tmp_path / "state.db-shm").unlink()
    store, found = opened(tmp_path, at=AT)
    named = "\n".join(found.set_aside)
    assert ("pages are not usable" in named or "is missing or empty, and had" in named) == (index or harm is headless)
    assert "has changes up to" in named
    assert len(bound(found)) == 16  # what was folded
    assert all(path.exists() for path in files)
    assert len(list(store.who_held(IPv4Address(A1), None, *EVER))) == 16
    store.close()
    store, found = opened(tmp_path, at=AT)
    assert (found.set_aside, len(bound(found))) == ((), 16)
    store.close()


@pytest.mark.parametrize("harm", [gone, headless, halved, emptied])
def test_a_shorter_log_is_named_where_no_other_file_tells(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    crashed(tmp_path)
    harm(tmp_path / "state.db-wal")
    store, found = opened(tmp_path, at=AT)
    assert len(bound(found)) < 20
    assert "state.db-wal" in found.set_aside[0]
    store.close()


def test_a_log_that_was_begun_anew_has_lost_nothing(tmp_path: Path) -> None:
    """Frames of the round before follow those of this one, and the index of a store that was closed is gone."""
    store, _ = opened(tmp_path)
    for number in range(3):
        for psid in range(400):
            store.commit([one(BIND, row(psid % 64, number))], float(number))
        octets, index = ((tmp_path / f"state.db-{end}").read_bytes() for end in ("wal", "shm"))
        assert wal.committed_frames(octets, index) == wal.committed_frames(octets)
        twin = tmp_path / f"twin{number}"
        shutil.copytree(tmp_path, twin, ignore=shutil.ignore_patterns("twin*"))
        (twin / "lock").unlink()
        copy, found = opened(twin)
        assert (found.set_aside, found.revision) == ((), 400 * (number + 1))
        copy.close()
    store.close()


def test_what_a_refused_commit_has_left_in_the_log_is_not_taken_for_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose fsync failed is in the log, whole: the next one may not use the same salts in front of it."""

    def salts() -> bytes:
        return journal(tmp_path).with_name(journal(tmp_path).name + "-wal").read_bytes()[16:24]

    def refused(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    store, _ = opened(tmp_path, LIMITS, AT)
    store.commit([one(BIND, row(0, 1))], AT)
    before = salts()
    store.commit([one(BIND, row(1, 1))], AT)
    assert salts() == before
    with monkeypatch.context() as broken:
        broken.setattr(Journal, "write", refused)
        with pytest.raises(StoreFault):
            store.commit([one(BIND, row(2, 1))], AT)
    store.commit([one(BIND, row(2, 1))], AT)
    assert salts() != before
    store.close()


def test_while_another_process_checkpoints_the_log_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed(tmp_path)
    monkeypatch.setattr(Journal, "wal_frames", lambda _: -1)  # so SQLite says it
    store, found = opened(tmp_path, LIMITS, AT)
    assert (found.revision, found.set_aside) == (20, ())
    store.close()
