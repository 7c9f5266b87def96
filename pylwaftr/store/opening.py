"""Finding the state again: what is whole is used, what is damaged is named and set aside."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from pylwaftr.store import Record, StoreFault, journal, segments, snapshot, wal
from pylwaftr.store.files import TEMPORARY, Damaged, reason_of, set_aside, sync_folder
from pylwaftr.store.journal import Batch, DamagedEntry, Entry, Journal, Meta
from pylwaftr.store.segments import BIND, UNBIND, Segment
from pylwaftr.store.snapshot import Live
from pylwaftr.store.upkeep import DATABASE, apply, opened, rebuilt

TRIED = 1 << 18  # numbers of changes between unreadable pages, 12 us each: nothing is forwarded meanwhile


@dataclass(slots=True)
class Found:
    log: Journal
    meta: Meta
    live: Live
    files: list[Segment]
    records: dict[str, dict[bytes, bytes]]
    damage: list[str] = field(default_factory=list)


def find(folder: Path, stamp: str) -> Found:
    """Raises StoreFault if the folder cannot be used at all."""
    damage: list[str] = []
    try:
        for leftover in folder.glob(f"*{TEMPORARY}"):
            leftover.unlink()
        log, salvaged = _database(folder, stamp, damage)
        meta = log.meta()
        if salvaged is not None:
            meta = _restored(folder, log, salvaged, stamp, damage)
        files = _files(folder, log, stamp, damage)
        live = _snapshot(folder, meta, stamp, damage)
        _good_log(folder, log, live, files, stamp, damage)
        if salvaged is not None or (meta.snapshot and not live.number):
            files = _whole(folder, log, files, stamp, damage)
            live = rebuilt(folder, log, files, meta.folded, live)
            meta = _new_snapshot(folder, log, live, meta)
        else:
            apply(live, log.entries(live.number), folder)
        records = _records(folder, log, stamp, damage)
        _tidy(folder, log, meta, stamp, damage)
    except (sqlite3.Error, OSError) as fault:
        raise StoreFault(reason_of(fault, folder)) from None
    return Found(log, meta, live, files, records, damage)


# --- the journal -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Salvage:
    """What could be read of a journal that SQLite calls damaged."""

    meta: Meta = field(default_factory=Meta)
    batch: Batch = field(default_factory=Batch)
    untried: int = 0  # numbers of changes


def _database(folder: Path, stamp: str, damage: list[str]) -> tuple[Journal, Salvage | None]:
    path = folder / DATABASE
    beside = path.with_name(path.name + "-wal")
    octets, index = (_octets(file) for file in (beside, path.with_name(path.name + "-shm")))
    lacking = "" if path.exists() or not _others(folder) else "is missing, but other files of the state are there"
    why = lacking
    if not lacking:
        try:
            log = Journal(journal.connect(path))
            log.create()
            frames = log.wal_frames()
            if frames >= 0 and (lost := wal.committed_frames(octets, index) - frames) > 0:
                damage.append(wal.keep(beside, octets, lost, stamp))
            if not (why := log.sound() or _behind(folder, log.meta())):
                return log, None
            log.close()
        except (sqlite3.DatabaseError, Damaged) as fault:
            if isinstance(fault, sqlite3.OperationalError):
                raise
            why = str(fault)
    aside = None
    if path.exists():
        aside = set_aside(path, stamp)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    salvage = _salvaged(aside) if aside is not None else Salvage()
    log = Journal(journal.connect(path))
    log.create()
    counts = f"{len(salvage.batch.entries)} changes and {len(salvage.batch.records)} records of it could be read"
    if salvage.untried:
        counts += f" ({salvage.untried} numbers that changes may have were not tried: {TRIED} are the most)"
    damage.append(f"{path} {why}; {counts}" + (f"; it is kept as {aside.name}" if aside else ""))
    return log, salvage


def _octets(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _behind(folder: Path, meta: Meta) -> str:
    """Snapshots and files that changes were folded into are made of changes that are durable: a journal that does not
    know of these has lost them. "" if it has not. A file of one change may be of a commit that was cut short."""
    names = [path.name for path in folder.glob(f"*{snapshot.SUFFIX}")]
    names += [path.name for path in folder.glob(f"*-*{segments.SUFFIX}")]
    found = (re.match("(?:[0-9a-f]{16}-)?([0-9a-f]{16})", name) for name in names)
    last = max((int(name[1], 16) for name in found if name), default=0)
    return f"has changes up to {meta.number} alone, other files up to {last}" if last > meta.number else ""


def _others(folder: Path) -> bool:
    return any(folder.glob(f"*{segments.SUFFIX}")) or any(folder.glob(f"*{snapshot.SUFFIX}"))


def _salvaged(path: Path) -> Salvage:
    salvage = Salvage()
    with contextlib.suppress(sqlite3.Error):
        log = Journal(journal.connect(path))
        with contextlib.suppress(sqlite3.Error, Damaged, TypeError, KeyError):
            salvage.meta = log.meta()
        salvage.batch.entries, salvage.untried = _readable_entries(log, salvage.meta.number)
        with contextlib.suppress(sqlite3.Error):
            for space, key, value, good in log.records():
                if good:
                    salvage.batch.records.append(Record(space, key, value))
        log.close()
    return salvage


def _readable_entries(log: Journal, last: int) -> tuple[list[Entry], int]:
    """From both ends up to the pages that SQLite cannot read, and what is between them one by one: such a page costs
    the changes that lie on it, and no others. With how many numbers were not tried.
    """
    found: dict[int, Entry] = {}
    with contextlib.suppress(sqlite3.Error):
        for entry in log.readable():
            found[entry.number] = entry
        return list(found.values()), 0
    low = max(found, default=0)
    high = (last or low + TRIED) + 1
    with contextlib.suppress(sqlite3.Error):
        for entry in log.readable(backwards=True):
            if entry.number <= low:
                break
            found[entry.number] = entry
            high = entry.number
    numbers = range(low + 1, high)
    few = TRIED // 2
    tried = numbers if len(numbers) <= TRIED else chain(numbers[:few], numbers[-few:])
    for number in tried:
        with contextlib.suppress(sqlite3.Error):
            if (one := log.entry(number)) is not None:
                found[number] = one
    return [found[number] for number in sorted(found)], max(0, len(numbers) - TRIED)


def _restored(folder: Path, log: Journal, salvage: Salvage, stamp: str, damage: list[str]) -> Meta:
    """A new journal for the files that are there and what could be read of the old one."""
    names = [path.name for path in sorted(folder.glob(f"*{segments.SUFFIX}"))]
    files = [file for file in opened(folder, names)[0] if not file.uniform or file.op in (BIND, UNBIND)]
    salvage.batch.segments = [file.path.name for file in files]
    snapshots = sorted(path.name for path in folder.glob(f"*{snapshot.SUFFIX}"))
    lives = []
    for name in snapshots:
        try:
            lives.append((snapshot.read(folder / name), name))
        except Damaged as fault:
            damage.append(f"{folder / str(fault)}" + _aside(folder / name, stamp))
    live, name = max(lives, key=lambda found: found[0].number, default=(Live(), ""))
    entries = salvage.batch.entries
    known = salvage.meta
    ended = [0, live.number, *(file.last for file in files), *(entry.number for entry in entries)]
    # What is folded is in files; without the journal's own word, all that is in files is.
    folded = known.folded or max([0, live.number, *(file.last for file in files if not file.uniform)])
    meta = Meta(
        revision=max([known.revision, live.revision, *(entry.revision for entry in entries)]) + 1,
        number=max(known.number, *ended),
        at=max([known.at, 0, *(file.ended for file in files), *(entry.at for entry in entries)]),
        folded=folded,
        floor=0,
        snapshot=name,
    )
    meta = replace(meta, floor=meta.revision)  # what is missing in between nobody knows: watchers list again
    log.write(salvage.batch, meta)
    damage.append(f"{folder / DATABASE} was made anew from {len(files)} files of events and {len(lives)} snapshots")
    return meta


# --- the rest --------------------------------------------------------------------------------------------------------


def _files(folder: Path, log: Journal, stamp: str, damage: list[str]) -> list[Segment]:
    files, damaged = opened(folder, log.segments())
    _leave(folder, log, damaged, stamp, damage)
    return files


def _whole(folder: Path, log: Journal, files: list[Segment], stamp: str, damage: list[str]) -> list[Segment]:
    """Those all of which can be read: what is bound is made of them."""
    damaged = []
    for file in files:
        try:
            for _ in file.all_rows():
                pass
        except Damaged as fault:
            damaged.append((file.path.name, str(fault)))
    _leave(folder, log, damaged, stamp, damage)
    names = {name for name, _ in damaged}
    return [file for file in files if file.path.name not in names]


def _leave(folder: Path, log: Journal, damaged: list[tuple[str, str]], stamp: str, damage: list[str]) -> None:
    for name, why in damaged:
        damage.append(f"{folder / why}; what it had is missing in the history" + _aside(folder / name, stamp))
    if damaged:
        log.fold(log.meta(), (), [name for name, _ in damaged], 0)


def _aside(path: Path, stamp: str) -> str:
    return f"; it is kept as {set_aside(path, stamp).name}" if path.exists() else ""


def _snapshot(folder: Path, meta: Meta, stamp: str, damage: list[str]) -> Live:
    if not meta.snapshot:
        return Live()
    try:
        return snapshot.read(folder / meta.snapshot)
    except Damaged as fault:
        aside = _aside(folder / meta.snapshot, stamp)
        damage.append(f"{folder / str(fault)}; the bindings were found again in the history{aside}")
        return Live()


def _new_snapshot(folder: Path, log: Journal, live: Live, meta: Meta) -> Meta:
    live.revision, live.number = meta.revision, meta.number
    meta = replace(meta, snapshot=f"{meta.number:016x}-again{snapshot.SUFFIX}")
    snapshot.write(folder / meta.snapshot, live)
    log.fold(meta, (), (), 0)
    return meta


def _good_log(folder: Path, log: Journal, live: Live, files: list[Segment], stamp: str, damage: list[str]) -> None:
    """Takes out of the log what is damaged of the changes that the snapshot does not have."""
    for entry in _good_entries(log, damage, live.number):
        try:
            entry.content(folder)
        except Damaged as fault:
            damage.append(f"{folder / str(fault)}; what it had is missing" + _aside(folder / (entry.file or ""), stamp))
            log.drop([entry.number])
            log.fold(log.meta(), (), [entry.file or ""], 0)
            files[:] = [file for file in files if file.path.name != entry.file]


def _good_entries(log: Journal, damage: list[str], after: int) -> Iterator[Entry]:
    while True:
        try:
            for entry in log.entries(after):
                after = entry.number
                yield entry
            return
        except DamagedEntry as fault:
            after = fault.entry.number
            damage.append(f"{fault}; the {fault.entry.count} rows of revision {fault.entry.revision} are missing")
            log.drop([after])


def _records(folder: Path, log: Journal, stamp: str, damage: list[str]) -> dict[str, dict[bytes, bytes]]:
    found: dict[str, dict[bytes, bytes]] = {}
    bad = []
    for space, key, value, good in log.records():
        if good:
            found.setdefault(space, {})[key] = value
        else:
            bad.append((space, key, value))
    if bad:
        aside = folder / f"records.damaged-{stamp}"
        aside.write_text("".join(" ".join(map(_shown, columns)) + "\n" for columns in bad))
        log.drop(records=[(space, key) for space, key, _ in bad])
        damage.append(f"{len(bad)} records of {folder / DATABASE} have wrong checksums; they are kept as {aside.name}")
    return found


def _shown(column: object) -> str:
    return column.hex() if isinstance(column, bytes) else str(column)


def _tidy(folder: Path, log: Journal, meta: Meta, stamp: str, damage: list[str]) -> None:
    """Files that no transaction knows: of commits that were never acknowledged, or no longer needed.

    Where something was damaged they may be what the damaged thing named, so files of events are set aside.
    """
    known = {*log.segments(), *log.files(), meta.snapshot}
    found = bool(damage)
    for suffix in (segments.SUFFIX, snapshot.SUFFIX):
        for path in folder.glob(f"*{suffix}"):
            if path.name in known:
                continue
            if found and suffix == segments.SUFFIX:
                damage.append(f"{path} is named by nothing that is left{_aside(path, stamp)}")
            else:
                path.unlink(missing_ok=True)
    sync_folder(folder)
