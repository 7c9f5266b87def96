"""The SQLite file: changes that are in no file of events yet, the records, and which other files belong to the state.

`number` counts changes, `revision` counts commits. What a commit wrote is on the disk when it returns (WAL with
synchronous=FULL). SQLite has no checksums of its own, so what matters carries one.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pylwaftr.rows import BINDING_ROW, Rows
from pylwaftr.store import Record, StoreFault
from pylwaftr.store.files import OWNER, Damaged
from pylwaftr.store.segments import Events, Segment

FORMAT = 2  # 1 had no checksum of `meta`
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log(number INTEGER PRIMARY KEY, revision INTEGER NOT NULL, at INTEGER NOT NULL,
  op INTEGER NOT NULL, source INTEGER NOT NULL, count INTEGER NOT NULL, rows BLOB, file TEXT,
  check_sum INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS log_revision ON log(revision);
CREATE TABLE IF NOT EXISTS segments(name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records(space TEXT, key BLOB, value BLOB NOT NULL, check_sum INTEGER NOT NULL,
  PRIMARY KEY(space, key)) WITHOUT ROWID;
"""
_COLUMNS = "number, revision, at, op, source, count, rows, file, check_sum"
_HEAD = struct.Struct("<QQqBBQ")
_PAGE = 64  # entries that are read at a time
_TOGETHER = 1 << 17  # rows of small changes
T = TypeVar("T")

_RUNS = (512, 128, 32, 8, 1)  # rows that one statement writes


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. `rows` in order of key, or in a file of events."""

    number: int
    revision: int
    at: int
    op: int
    source: int
    count: int
    rows: bytes | None
    file: str | None

    def check_sum(self) -> int:
        head = _HEAD.pack(self.number, self.revision, self.at, self.op, self.source, self.count)
        return zlib.crc32(self.rows if self.rows is not None else (self.file or "").encode(), zlib.crc32(head))

    def has(self, check_sum: object) -> bool:
        try:
            return self.check_sum() == check_sum
        except (struct.error, TypeError):  # a column is not even what a change may have there
            return False

    def columns(self) -> tuple[Any, ...]:
        head = (self.number, self.revision, self.at, self.op, self.source, self.count)
        return (*head, self.rows, self.file, self.check_sum())

    def content(self, folder: Path) -> Rows:
        if self.rows is not None:
            return np.frombuffer(self.rows, BINDING_ROW)
        return Segment(folder / (self.file or "")).whole()

    def events(self, folder: Path) -> Events:
        return Events.of(self.content(folder), self.at, self.number, self.op, self.source)


def together(entries: Iterable[Entry], folder: Path) -> Iterator[Events]:
    """Small changes by the thousand: an array of each would be most of the work."""
    small: list[Entry] = []
    rows = 0
    for entry in entries:
        rows += entry.count
        if entry.rows is None or rows > _TOGETHER:
            yield _joined(small)
            small, rows = [], entry.count
        if entry.rows is None:
            yield entry.events(folder)
        else:
            small.append(entry)
    yield _joined(small)


def _joined(entries: Sequence[Entry]) -> Events:
    """All of them with their rows in them."""
    rows = np.frombuffer(b"".join(entry.rows or b"" for entry in entries), BINDING_ROW)
    counts = [entry.count for entry in entries]

    def column(values: list[int], kind: type[np.generic]) -> npt.NDArray[Any]:
        return np.repeat(np.array(values, kind), counts)

    return Events(
        rows,
        column([entry.at for entry in entries], np.int64),
        column([entry.number for entry in entries], np.uint64),
        column([entry.op for entry in entries], np.uint8),
        column([entry.source for entry in entries], np.uint8),
    )


@dataclass(frozen=True, slots=True)
class Meta:
    revision: int = 0
    number: int = 0
    at: int = 0  # of the last commit
    folded: int = 0  # changes up to this number are in files of events
    floor: int = 0  # changes of revisions behind this one are in the log one by one
    snapshot: str = ""  # file name

    def check_sum(self) -> int:
        return zlib.crc32(repr([getattr(self, name) for name in Meta.__slots__]).encode())


@dataclass(slots=True)
class Batch:
    """What one transaction writes."""

    entries: list[Entry] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    segments: list[str] = field(default_factory=list)


def connect(path: Path, query_only: bool = False) -> sqlite3.Connection:
    if not path.exists() and not query_only:  # SQLite makes the files beside it alike
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, OWNER))
    # A question makes no file: it would be an empty state in the place of one that has been taken away.
    mode = "rw" if query_only else "rwc"
    name = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(name, timeout=10, isolation_level=None, check_same_thread=False, uri=True)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute(f"PRAGMA query_only={int(query_only)}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


class Journal:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # --- reading ---

    def begin(self) -> None:
        """What is read until `end` is of one moment."""
        self._connection.execute("BEGIN")

    def end(self) -> None:
        self._connection.execute("ROLLBACK")

    def meta(self) -> Meta:
        values = dict(self._connection.execute("SELECT name, value FROM meta").fetchall())
        if not values:
            if self._connection.execute("SELECT 1 FROM log LIMIT 1").fetchone():
                raise Damaged("has changes and does not say which of them count")
            return Meta()
        form, check = values.pop("format", None), values.pop("check_sum", None)
        if isinstance(form, int) and form > FORMAT:
            raise StoreFault("the state is of a newer version of this program: use that, or another state.directory")
        try:
            meta = Meta(**values)
        except TypeError:
            raise Damaged("does not say which changes count") from None
        if form != 1 and (form != FORMAT or check != meta.check_sum()):
            raise Damaged("says with a wrong checksum which changes count")
        return meta

    def segments(self) -> list[str]:
        return [name for (name,) in self._connection.execute("SELECT name FROM segments ORDER BY name")]

    def entries(self, after: int, until: int = 1 << 62, *, revision: int = 0, small: bool = False) -> Iterator[Entry]:
        """Those behind number `after`, in order; a damaged one raises Damaged, and asking behind it goes on."""
        condition = "number > ? AND number <= ? AND revision > ?" + (" AND file IS NULL" if small else "")
        query = f"SELECT {_COLUMNS} FROM log WHERE {condition} ORDER BY number LIMIT {_PAGE}"
        while found := self._connection.execute(query, (after, until, revision)).fetchall():
            for *columns, check_sum in found:
                entry = Entry(*columns)
                if not entry.has(check_sum):
                    raise DamagedEntry(entry)
                yield entry
            after = found[-1][0]

    def readable(self, backwards: bool = False) -> Iterator[Entry]:
        """Those with the right checksum, from one end up to the first page that SQLite cannot read: sqlite3.Error.

        The last one before that page is not among them: the interpreter asks for the next before it hands one out.
        """
        query = f"SELECT {_COLUMNS} FROM log NOT INDEXED ORDER BY number {'DESC' if backwards else 'ASC'}"
        for *columns, check_sum in self._connection.execute(query):
            entry = Entry(*columns)
            if entry.has(check_sum):
                yield entry

    def entry(self, number: int) -> Entry | None:
        """None if there is none, or none with the right checksum. No other page is read than those that it lies on."""
        found = self._connection.execute(f"SELECT {_COLUMNS} FROM log WHERE number = ?", (number,)).fetchone()
        if found is None or not (entry := Entry(*found[:-1])).has(found[-1]):
            return None
        return entry

    def size(self, after: int) -> tuple[int, int]:
        """Small changes behind number `after`, and their rows."""
        query = "SELECT count(*), coalesce(sum(count), 0) FROM log WHERE number > ? AND file IS NULL"
        entries, rows = self._connection.execute(query, (after,)).fetchone()
        return entries, rows

    def kept(self, entries: int, rows: int) -> int:
        """The number up to which the log may be forgotten if the last so many changes and rows are kept."""
        query = "SELECT number, count FROM log ORDER BY number DESC LIMIT ?"
        for number, count in self._connection.execute(query, (entries + 1,)):
            rows -= count
            entries -= 1
            if rows < 0 or entries < 0:
                return int(number)
        return 0

    def files(self) -> set[str]:
        """Of changes that are still in the log."""
        return {name for (name,) in self._connection.execute("SELECT file FROM log WHERE file IS NOT NULL")}

    def records(self) -> Iterator[tuple[str, bytes, bytes, bool]]:
        """Space, key, value, and whether the checksum is right."""
        for space, key, value, check in self._connection.execute("SELECT space, key, value, check_sum FROM records"):
            try:
                good = _record_sum(space, key, value) == check
            except (AttributeError, TypeError):  # a column is not even of the type that a record has there
                good = False
            yield space, key, value, good

    def sound(self) -> str:
        """What SQLite finds wrong with its file; "" is nothing."""
        found = [text for (text,) in self._connection.execute("PRAGMA quick_check(3)")]
        return "" if found == ["ok"] else "; ".join(" ".join(text.split()) for text in found)

    def wal_frames(self) -> int:
        """That are in use; behind it they are in the database too. -1: another process is at it."""
        return int(self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])

    # --- writing: each call is one transaction ---

    def create(self) -> None:
        self._connection.executescript(_SCHEMA)

    def write(self, batch: Batch, meta: Meta) -> None:
        with _Transaction(self._connection):
            entries = batch.entries
            rows = [
                (e.number, e.revision, e.at, e.op, e.source, e.count, e.rows, e.file, e.check_sum()) for e in entries
            ]
            self._insert(f"INSERT INTO log({_COLUMNS})", _runs(rows))
            self._records(batch.records)
            self._add_segments(batch.segments)
            self._meta(meta)

    def fold(self, meta: Meta, add: Iterable[str], remove: Iterable[str], forget_log: int) -> None:
        """Files of events come in the place of others or of changes of the log up to number `forget_log`."""
        with _Transaction(self._connection):
            self._connection.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in remove])
            self._add_segments(add)
            self._connection.execute("DELETE FROM log WHERE number <= ?", (forget_log,))
            self._meta(meta)

    def drop(self, numbers: Iterable[int] = (), records: Iterable[tuple[str, bytes]] = ()) -> None:
        with _Transaction(self._connection):
            self._connection.executemany("DELETE FROM log WHERE number = ?", [(number,) for number in numbers])
            self._connection.executemany("DELETE FROM records WHERE space = ? AND key = ?", list(records))

    def revision_of(self, number: int) -> int:
        """Of the last change up to this one that is in the log; 0 if there is none."""
        query = "SELECT coalesce(max(revision), 0) FROM log WHERE number <= ?"
        return int(self._connection.execute(query, (number,)).fetchone()[0])

    def last_before(self, at: int, until: int) -> int:
        """The number of the last change up to `until` that is older than `at`."""
        query = "SELECT coalesce(max(number), 0) FROM log WHERE at < ? AND number <= ?"
        return int(self._connection.execute(query, (at, until)).fetchone()[0])

    def close(self) -> None:
        self._connection.close()

    def _records(self, records: Iterable[Record]) -> None:
        last = {(record.space, record.key): record.value for record in records}
        put = [(s, k, v, _record_sum(s, k, v)) for (s, k), v in last.items() if v is not None]
        self._insert("INSERT OR REPLACE INTO records", _runs(put))
        gone = [name for name, value in last.items() if value is None]
        self._connection.executemany("DELETE FROM records WHERE space = ? AND key = ?", gone)

    def _add_segments(self, names: Iterable[str]) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO segments VALUES(?)", [(name,) for name in names])

    def _meta(self, meta: Meta) -> None:
        values = {name: getattr(meta, name) for name in Meta.__slots__}
        values |= {"format": FORMAT, "check_sum": meta.check_sum()}
        self._insert("INSERT OR REPLACE INTO meta", [list(values.items())])

    def _insert(self, into: str, runs: Iterable[Sequence[Sequence[Any]]]) -> None:
        for run in runs:
            places = ", ".join([f"({', '.join('?' * len(run[0]))})"] * len(run))
            self._connection.execute(f"{into} VALUES {places}", list(chain.from_iterable(run)))


class DamagedEntry(Damaged):
    def __init__(self, entry: Entry) -> None:
        super().__init__(f"change {entry.number} of the journal has a wrong checksum")
        self.entry = entry


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, fault: object, trace: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _runs(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """In a few lengths, so that their statements stay prepared.

    Each statement waits for the interpreter, which a busy event loop may keep for its switch interval: with a statement
    a row, a commit of a hundred records took a hundred of these.
    """
    at = 0
    while at < len(rows):
        count = next(length for length in _RUNS if length <= len(rows) - at)
        yield rows[at : at + count]
        at += count


def _record_sum(space: str, key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key, _space_sum(space)))


@cache
def _space_sum(space: str) -> int:
    return zlib.crc32(space.encode())
