"""The embedded store: a SQLite journal, files of events for the history, a snapshot for a fast start.

A commit writes its rows packed and in order into the journal, a bulk change into a file of its own, so the journal is
at once durability, what watchers are told, and history. From time to time small changes are folded into files
(upkeep.py), so the journal stays small and an address is found in the history by a few binary searches.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path

from pylwaftr import row_sets
from pylwaftr.store import Change, Commit, Compacted, Job, Life, State, StoreFault, journal, opening, segments
from pylwaftr.store.files import Damaged, Lock, faults, reading, reason_of, set_aside
from pylwaftr.store.history import History, micros
from pylwaftr.store.journal import Batch, DamagedEntry, Entry, Journal, Meta
from pylwaftr.store.segments import OPS, UNBIND, Events
from pylwaftr.store.upkeep import DATABASE, Fold, Merge, mergeable, opened


@dataclass(frozen=True, slots=True)
class Limits:
    bulk: int = 1 << 14  # rows from which a change has a file of its own
    fold_changes: int = 4096  # small changes, or their rows, that are folded together
    fold_rows: int = 1 << 17
    snapshot_rows: int = 1 << 19  # rows since the last snapshot
    kept_changes: int = 10_000  # the log for watchers that come back: changes, and rows
    kept_rows: int = 1 << 21


class SqliteStore:
    """`load` first. Then one caller at a time, on any thread; but `changes`, `who_held` and `lives_of` may be asked on
    other threads meanwhile."""

    def __init__(self, folder: Path, opened_at: float, limits: Limits | None = None) -> None:
        self._folder = folder
        self._stamp = datetime.fromtimestamp(opened_at, UTC).strftime("%Y%m%dT%H%M%SZ")
        self._limits = limits or Limits()
        self._lock = Lock(folder)
        self._log: Journal | None = None
        self._meta = Meta()
        self._unfolded = [0, 0]  # small changes, and their rows
        self._since_snapshot = 0  # rows
        self._new_files = True  # since it was last asked whether some should be put together
        self._file = (0, 0)  # device and number of the database
        self._refused = False  # the last commit
        self.lost: list[str] = []  # what was found damaged while running

    # --- the Store protocol ---

    def load(self) -> State:
        found = opening.find(self._folder, self._stamp)
        self._log, self._meta = found.log, found.meta
        self._file = self._there()
        self._unfolded = list(found.log.size(found.meta.folded))
        self._since_snapshot = sum(entry.count for entry in found.log.entries(found.live.number))
        return State(
            revision=found.meta.revision,
            at=found.meta.at / 1e6,
            bindings=dict(found.live.bound.by_source()),
            shadowed=dict(found.live.waiting.by_source()),
            records=found.records,
            set_aside=tuple(found.damage),
        )

    def commit(self, commits: Sequence[Commit], at: float) -> int:
        log = self._opened()
        if self._there() != self._file:
            raise StoreFault(
                f"{self._folder / DATABASE} has been taken away or replaced: stop the router, then mend it"
            )
        meta = replace(self._meta, at=max(self._meta.at, micros(at)))  # a clock that is set back reorders no history
        batch = Batch()
        try:
            if (
                self._refused
            ):  # what that commit left in the log looks like frames of it: the next round has other salts
                log.wal_frames()
                self._refused = False
            for one in commits:
                meta = replace(meta, revision=meta.revision + 1)
                for change in one.changes:
                    if len(change.rows):
                        meta = replace(meta, number=meta.number + 1)
                        self._enter(batch, meta, change)
                batch.records += one.records
            log.write(batch, meta)
        except (sqlite3.Error, OSError) as fault:
            self._refused = True
            for entry in batch.entries:
                if entry.file is not None:
                    with contextlib.suppress(OSError):
                        (self._folder / entry.file).unlink(missing_ok=True)
            raise StoreFault(reason_of(fault, self._folder)) from None
        self._meta = meta
        small = [entry.count for entry in batch.entries if entry.file is None]
        self._unfolded = [self._unfolded[0] + len(small), self._unfolded[1] + sum(small)]
        self._since_snapshot += sum(entry.count for entry in batch.entries)
        self._new_files |= bool(batch.segments)
        return meta.revision

    def changes(self, after: int) -> Iterator[tuple[int, float, Change]]:
        """Raises Compacted at once, or while it is read slowly."""
        with reading(self._folder), closing(self._reader()) as connection:
            meta = Journal(connection).meta()
        if not meta.floor <= after <= meta.revision:
            raise Compacted(f"revision {after} is not among {meta.floor} to {meta.revision}, which are kept")
        return self._changes(after, meta.number)

    def who_held(self, ipv4: IPv4Address, port: int | None, began: float, ended: float) -> Iterator[Life]:
        return self._asked(lambda history: history.who_held(ipv4, port, began, ended))

    def lives_of(self, prefix: IPv6Network, began: float, ended: float) -> Iterator[Life]:
        return self._asked(lambda history: history.lives_of(prefix, began, ended))

    def forget(self, before: float) -> int:
        dropped = 0
        for job in self.retention(before):
            job.run()
            self.adopt(job)
            dropped += job.dropped if isinstance(job, Merge) else 0
        return dropped

    def close(self) -> None:
        if self._log is not None:
            with contextlib.suppress(sqlite3.Error):
                self._log.close()
            self._log = None
        self._lock.release()

    # --- upkeep: the job's run() on any thread, everything else in the store's turn ---

    def upkeep(self) -> Job | None:
        """The next thing to do, if there is one."""
        limits = self._limits
        changes, rows = self._unfolded
        due = changes >= limits.fold_changes or rows >= limits.fold_rows or self._since_snapshot >= limits.snapshot_rows
        if due:
            return Fold(self._folder, self._meta)
        if not self._new_files:
            return None
        inputs = mergeable(self._files(self._opened()))
        self._new_files = bool(inputs)
        return Merge(self._folder, inputs) if inputs else None

    def retained(self) -> list[str]:
        """The files of the history."""
        return self._opened().segments()

    def retention(self, before: float) -> Iterator[Job]:
        """What has to be run and adopted, one after the other, to forget lives that ended before that time."""
        if any(self._unfolded):
            yield Fold(self._folder, self._meta)
        limit = micros(before)
        inputs = [file for file in self._files(self._opened()) if file.began < limit]
        if inputs:
            yield Merge(self._folder, inputs, limit)

    def adopt(self, job: Job) -> tuple[str, ...]:
        known = len(self.lost)
        with faults(self._folder):
            if isinstance(job, Merge) and job.damage:
                self._give_up(job.damage)
            else:
                self._try(job)
        return tuple(self.lost[known:])

    def _try(self, job: Job) -> None:
        try:
            self._adopt(job)
        except sqlite3.OperationalError as fault:
            if "full" in str(fault) and isinstance(job, Fold | Merge):  # after other faults the commit may be there
                job.drop()
            raise

    def _adopt(self, job: Job) -> None:
        log = self._opened()
        if isinstance(job, Fold):
            folded = job.meta.number
            forget = min(folded, log.kept(self._limits.kept_changes, self._limits.kept_rows))
            meta = replace(self._meta, folded=folded, snapshot=job.snapshot)
            add, remove = [job.events] if job.events else [], []
            self._since_snapshot = sum(entry.count for entry in log.entries(folded))
        else:
            assert isinstance(job, Merge)
            forget = log.last_before(job.before, self._meta.folded) if job.before is not None else 0
            meta = self._meta
            add, remove = [job.events] if job.events else [], [file.path.name for file in job.inputs]
        meta = replace(meta, floor=max(meta.floor, log.revision_of(forget)))
        before = self._meta
        log.fold(meta, add, remove, forget)
        self._meta = meta
        self._unfolded = list(log.size(meta.folded))
        self._new_files |= bool(add)
        if isinstance(job, Fold) and job.damage:
            aside = set_aside(self._folder / before.snapshot, self._stamp).name
            self.lost.append(f"{self._folder / job.damage}; it is kept as {aside}, nothing is lost")
        known = {*log.segments(), *log.files()}
        for name in (*remove, before.snapshot):
            if name and name != meta.snapshot and name not in known:
                (self._folder / name).unlink(missing_ok=True)

    # --- inside ---

    def _enter(self, batch: Batch, meta: Meta, change: Change) -> None:
        rows = row_sets.canonical(change.rows)
        names = row_sets.keys(rows)
        if (sorting := row_sets.order(names)) is not None:
            rows = row_sets.take(rows, sorting)
        op = OPS.index(change.op)
        head = (meta.number, meta.revision, meta.at, op, change.source, len(rows))
        if len(rows) < self._limits.bulk:
            batch.entries.append(Entry(*head, rows.tobytes(), None))
            return
        name = f"{meta.number:016x}{segments.SUFFIX}"
        batch.entries.append(Entry(*head, None, name))
        events = Events.of(rows, meta.at, meta.number, op, change.source)
        segments.write(self._folder / name, [events], uniform=True)
        if op <= UNBIND:
            batch.segments.append(name)

    def _changes(self, after: int, until: int) -> Iterator[tuple[int, float, Change]]:
        with reading(self._folder), closing(self._reader()) as connection:
            log = Journal(connection)
            last = after
            for entry in log.entries(0, until, revision=after):
                if entry.revision > last and log.meta().floor > last:
                    raise Compacted(f"the changes behind revision {last} are no longer kept")
                last = entry.revision
                try:
                    rows = entry.content(self._folder)
                except Damaged as fault:
                    raise StoreFault(f"{fault}: list, then watch from the list's revision") from None
                yield entry.revision, entry.at / 1e6, Change(OPS[entry.op], entry.source, rows)

    def _asked(self, question: Callable[[History], Iterator[Life]]) -> Iterator[Life]:
        try:
            with reading(self._folder):
                yield from question(self._history())
        except DamagedEntry as fault:
            raise StoreFault(self._give_up_entry(fault)) from None
        except Damaged as fault:
            raise StoreFault(self._give_up(str(fault))) from None

    def _history(self) -> History:
        for _ in range(10):  # a file may be replaced between reading its name and opening it
            with closing(self._reader()) as connection:
                log = Journal(connection)
                log.begin()
                meta, names = log.meta(), log.segments()
                small = [e.events(self._folder) for e in log.entries(meta.folded, meta.number, small=True)]
                log.end()
            files, damaged = opened(self._folder, names)
            if all((self._folder / name).exists() for name, _ in damaged):
                break
        if damaged:
            raise Damaged("; ".join(why for _, why in damaged))
        return History(files, Events.join([part for part in small if part.op[0] <= UNBIND]))

    def _give_up(self, why: str) -> str:
        """A damaged file of the history is set aside, so that the next question is answered without it."""
        name = why.partition(segments.SUFFIX)[0] + segments.SUFFIX
        kept = ""
        with contextlib.suppress(sqlite3.Error, OSError), closing(journal.connect(self._folder / DATABASE)) as other:
            other.execute("DELETE FROM segments WHERE name = ?", (name,))
            kept = f" and kept as {set_aside(self._folder / name, self._stamp).name}"
        text = f"{self._folder / why}: it was taken out of the history{kept}; ask again for what is left"
        self.lost.append(text)
        return text

    def _give_up_entry(self, fault: DamagedEntry) -> str:
        with contextlib.suppress(sqlite3.Error), closing(journal.connect(self._folder / DATABASE)) as other:
            Journal(other).drop([fault.entry.number])
        text = (
            f"{self._folder}: {fault}; its {fault.entry.count} rows are missing in the history: ask again for the rest"
        )
        self.lost.append(text)
        return text

    def _files(self, log: Journal) -> list[segments.Segment]:
        return opened(self._folder, log.segments())[0]

    def _opened(self) -> Journal:
        if self._log is None:
            raise StoreFault(f"{self._folder} is not open: load it first")
        return self._log

    def _reader(self) -> sqlite3.Connection:
        return journal.connect(self._folder / DATABASE, query_only=True)

    def _there(self) -> tuple[int, int]:
        """What is written to a file that has no name any more is gone with the process."""
        try:
            found = (self._folder / DATABASE).stat()
        except OSError:
            return -1, -1
        return found.st_dev, found.st_ino
