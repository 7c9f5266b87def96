"""Work on the files of the state that can wait: it is done on any thread while commits go on.

A job reads what no longer changes and writes new files (`run`); then, in the store's turn, one transaction lets these
take the place of the old (`SqliteStore.adopt`). A crash in between leaves files that nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pylwaftr.store import journal, segments, snapshot
from pylwaftr.store.files import Damaged, faults
from pylwaftr.store.history import History, ends
from pylwaftr.store.journal import Entry, Journal, Meta
from pylwaftr.store.segments import BIND, BLOCK, UNBIND, Events, Segment
from pylwaftr.store.snapshot import Live

DATABASE = "state.db"

_AT_ONCE = 1 << 19  # rows of changes that are put together before they are applied
_FILES = 8  # of about one size that are put together
_SMALLEST = 1 << 16  # events; files below are all of one size


@dataclass(slots=True)
class Fold:
    """The small changes of the log become a file of events, and all changes a new snapshot."""

    folder: Path
    meta: Meta
    events: str = ""  # file names
    snapshot: str = ""
    damage: str = ""  # what is wrong with the snapshot before

    def run(self) -> None:
        with faults(self.folder), closing(journal.connect(self.folder / DATABASE, query_only=True)) as connection:
            try:
                self._write(Journal(connection))
            except BaseException:
                self.drop()
                raise

    def drop(self) -> None:
        """What it has made will not be used: on a full disk each try would take more of it."""
        for name in (self.events, self.snapshot):
            if name and name != self.meta.snapshot:
                (self.folder / name).unlink(missing_ok=True)

    def _write(self, log: Journal) -> None:
        until = self.meta.number
        small = (entry for entry in log.entries(self.meta.folded, until, small=True) if entry.op in (BIND, UNBIND))
        history = Events.join(list(journal.together(small, self.folder)))
        if len(history):
            self.events = f"{self.meta.folded + 1:016x}-{until:016x}{segments.SUFFIX}"
            segments.write(self.folder / self.events, [history.in_order()])
        live = self._base(log)
        apply(live, log.entries(live.number, until), self.folder)
        live.revision, live.number = self.meta.revision, until
        self.snapshot = f"{until:016x}{snapshot.SUFFIX}"
        snapshot.write(self.folder / self.snapshot, live)

    def _base(self, log: Journal) -> Live:
        if not self.meta.snapshot:
            return Live()
        try:
            return snapshot.read(self.folder / self.meta.snapshot)
        except Damaged as fault:
            self.damage = str(fault)
            return rebuilt(self.folder, log, opened(self.folder, log.segments())[0], self.meta.folded, Live())


def apply(live: Live, entries: Iterator[Entry], folder: Path) -> None:
    """Many changes together: each application copies all that is bound."""
    waiting: list[Events] = []
    rows = 0
    for events in journal.together(entries, folder):
        waiting.append(events)
        rows += len(events)
        if rows > _AT_ONCE:
            live.apply(Events.join(waiting))
            waiting.clear()
            rows = 0
    live.apply(Events.join(waiting))


@dataclass(slots=True)
class Merge:
    """Files of events become one. With `before`, lives that ended before that time are left out."""

    folder: Path
    inputs: Sequence[Segment]
    before: int | None = None
    events: str = ""
    dropped: int = 0
    damage: str = ""  # what is wrong with one of the inputs: then there is no new file

    def run(self) -> None:
        with faults(self.folder):
            try:
                self._write()
            except Damaged as fault:
                self.damage = str(fault)

    def drop(self) -> None:
        if self.events:
            (self.folder / self.events).unlink(missing_ok=True)

    def _write(self) -> None:
        parts = self._blocks()
        first = next(parts, None)
        if first is None:
            return
        low, high = min(i.first for i in self.inputs), max(i.last for i in self.inputs)
        number = 0
        while not self.events or (self.folder / self.events).exists():
            self.events = f"{low:016x}-{high:016x}-{number}{segments.SUFFIX}"
            number += 1
        segments.write(self.folder / self.events, _chain(first, parts))

    def _blocks(self) -> Iterator[Events]:
        """As many as make whole blocks, then the rest."""
        kept = Events.none()
        for part in History(self.inputs, Events.none()).parts():
            kept = Events.join([kept, self._left_of(part)])
            whole = len(kept) - len(kept) % BLOCK
            if whole:
                yield kept.take(np.arange(whole))
                kept = kept.take(np.arange(whole, len(kept)))
        if len(kept):
            yield kept

    def _left_of(self, events: Events) -> Events:
        if self.before is None or not len(events):
            return events
        bind = events.op == BIND
        over = np.where(bind, ends(events), events.at) < self.before
        self.dropped += int((over & bind).sum())
        return events.select(~over)


def _chain(first: Events, rest: Iterator[Events]) -> Iterator[Events]:
    yield first
    yield from rest


def mergeable(files: Sequence[Segment]) -> list[Segment]:
    """Files of about one size, when there are enough: so a history of n events is in about log n files."""
    levels: dict[int, list[Segment]] = {}
    for file in files:
        level = max(file.count // _SMALLEST, 1).bit_length() // 3  # factors of eight
        levels.setdefault(level, []).append(file)
    return next((found[:_FILES] for _, found in sorted(levels.items()) if len(found) >= _FILES), [])


def rebuilt(folder: Path, log: Journal, files: Sequence[Segment], folded: int, base: Live) -> Live:
    """Without a snapshot, or behind an old one: what the history says. Of what waited, what the log still has."""
    known = base.number
    for part in History(files, Events.none()).parts():
        base.apply(part.select(part.number > known))
    shadows = (entry for entry in log.entries(known, folded) if entry.op not in (BIND, UNBIND))
    apply(base, shadows, folder)
    # Files of bulk changes were in the history above; to apply them again in their turn does no harm.
    apply(base, log.entries(max(known, folded)), folder)
    return base


def opened(folder: Path, names: Sequence[str]) -> tuple[list[Segment], list[tuple[str, str]]]:
    """The files, and those that are damaged with what is wrong."""
    found, damaged = [], []
    for name in names:
        try:
            found.append(Segment(folder / name))
        except Damaged as fault:
            damaged.append((name, str(fault)))
    return sorted(found, key=lambda segment: segment.first), damaged
