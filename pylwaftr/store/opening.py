"""Finding the state again: what is whole is used, what is damaged is named and set aside."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from pylwaftr.store import Record, StoreFault, journal, segments, snapshot
from pylwaftr.store.files import TEMPORARY, Damaged, reason_of, set_aside, sync_folder
from pylwaftr.store.journal import Batch, DamagedEntry, Entry, Journal, Meta
from pylwaftr.store.segments import BIND, UNBIND, Segment
from pylwaftr.store.snapshot import Live
from pylwaftr.store.upkeep import DATABASE, apply, opened, rebuilt

_WAL_HEADER = struct.Struct(">8I")
_FRAME_HEADER = 24
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
            live = rebuilt(folder, log, files, meta.folded, live)
            meta = _new_snapshot(folder, log, live, meta)
        else:
            apply(live, log.entries(live.number), folder)
        records = _records(folder, log, stamp, damage)
        _tidy(folder, log, meta, None if salvaged is None else stamp)
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
    wal = path.with_name(path.name + "-wal")
    octets = wal.read_bytes() if wal.exists() else b""
    lacking = "" if path.exists() or not _others(folder) else "is missing, but other files of the state are there"
    why = lacking
    if not lacking:
        try:
            log = Journal(journal.connect(path))
            log.create()
            if (lost := committed_frames(octets) - log.wal_frames()) > 0:
                damage.append(_lost_frames(wal, octets, lost, stamp))
            if not (why := log.sound()):
                log.meta()
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


def _others(folder: Path) -> bool:
    return any(folder.glob(f"*{segments.SUFFIX}")) or any(folder.glob(f"*{snapshot.SUFFIX}"))


def committed_frames(wal: bytes) -> int:
    """How many frames of a write-ahead log SQLite should find, judged by the marks of the frames alone.

    SQLite ends at the first frame with a wrong checksum and says nothing. The frames of this round have the salts of
    the header; those of the round before, which may follow, have others.
    """
    if len(wal) < _WAL_HEADER.size:
        return 0
    _, _, page, _, *salts, _, _ = _WAL_HEADER.unpack_from(wal)
    size = _FRAME_HEADER + page
    count = (len(wal) - _WAL_HEADER.size) // size if page else 0
    frames = np.frombuffer(wal, np.uint8, count * size, _WAL_HEADER.size).reshape(count, size)
    head = np.ascontiguousarray(frames[:, :16]).view(">u4")
    ours = (head[:, 2] == salts[0]) & (head[:, 3] == salts[1]) & (head[:, 1] != 0)
    return int(np.flatnonzero(ours)[-1]) + 1 if ours.any() else 0


def _lost_frames(wal: Path, octets: bytes, lost: int, stamp: str) -> str:
    aside = wal.with_name(f"{wal.name}.damaged-{stamp}")
    aside.write_bytes(octets)
    why = "damaged, or the power went while they were written"
    return f"{wal}: the last {lost} pages are not usable ({why}); it is kept as {aside.name}"


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
    for name, why in damaged:
        damage.append(f"{folder / why}; what it had is missing in the history" + _aside(folder / name, stamp))
    if damaged:
        log.fold(log.meta(), (), [name for name, _ in damaged], 0)
    return files


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
        aside.write_text("".join(f"{space} {bytes(key).hex()} {bytes(value).hex()}\n" for space, key, value in bad))
        log.drop(records=[(space, key) for space, key, _ in bad])
        damage.append(f"{len(bad)} records of {folder / DATABASE} have wrong checksums; they are kept as {aside.name}")
    return found


def _tidy(folder: Path, log: Journal, meta: Meta, keep: str | None) -> None:
    """Files that no transaction knows: of commits that were never acknowledged, or no longer needed.

    After a loss of the journal nobody knows, so files of events are set aside (`keep`: the stamp).
    """
    known = {*log.segments(), *log.files(), meta.snapshot}
    for suffix in (segments.SUFFIX, snapshot.SUFFIX):
        for path in folder.glob(f"*{suffix}"):
            if path.name not in known and keep is not None and suffix == segments.SUFFIX:
                set_aside(path, keep)
            elif path.name not in known:
                path.unlink(missing_ok=True)
    sync_folder(folder)
