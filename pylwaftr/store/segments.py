"""Files of events: what happened to bindings, in order of (address, PSID), then of time.

A bulk change goes into a file of its own at once; small ones are put together later (upkeep.py). A file never changes.
All numbers are little-endian. Header, blocks of 4096 events (the last one has the rest), index:

    header   magic, version, flags, count, first and last number, first and last time, op, source, checksum of the
             index, checksum of the header
    block    rows, and unless all events are of one change (flag 1): times, numbers, ops, sources
    index    of each block: first key u64, then: checksum u32

A block is checked when it is read for the first time, so opening a large history costs nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pylwaftr import row_sets
from pylwaftr.row_sets import Ids, Index, Mask
from pylwaftr.rows import BINDING_ROW, Rows, no_rows
from pylwaftr.store import Op
from pylwaftr.store.files import Damaged, Written, write_whole

MAGIC = b"\x89LWEVNT\n"
VERSION = 1
BLOCK = 4096
SUFFIX = ".events"

_HEADER = struct.Struct("<8sHHIQQQqqBB2xI")
_CHECK = struct.Struct("<I")
_SIZE = _HEADER.size + _CHECK.size
_UNIFORM = 1
_META = 18  # octets of an event beside its row

OPS = (Op.BIND, Op.UNBIND, Op.SHADOW, Op.UNSHADOW)
BIND, UNBIND, SHADOW, UNSHADOW = range(4)


@dataclass(frozen=True, slots=True)
class Events:
    """`at`: microseconds since 1970. `number`: counts the changes of this store; it orders what has the same key."""

    rows: Rows
    at: npt.NDArray[np.int64]
    number: npt.NDArray[np.uint64]
    op: npt.NDArray[np.uint8]
    source: npt.NDArray[np.uint8]

    @staticmethod
    def none() -> Events:
        empty = np.zeros(0, np.uint8)
        return Events(no_rows(), np.zeros(0, np.int64), np.zeros(0, np.uint64), empty, empty)

    @staticmethod
    def of(rows: Rows, at: int, number: int, op: int, source: int) -> Events:
        n = len(rows)
        return Events(
            rows,
            np.full(n, at, np.int64),
            np.full(n, number, np.uint64),
            np.full(n, op, np.uint8),
            np.full(n, source, np.uint8),
        )

    @staticmethod
    def join(parts: Sequence[Events]) -> Events:
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:
            return parts[0] if parts else Events.none()
        columns: Iterable[Any] = zip(*((p.rows, p.at, p.number, p.op, p.source) for p in parts), strict=True)
        return Events(*(np.concatenate(column) for column in columns))

    def __len__(self) -> int:
        return len(self.rows)

    def keys(self) -> Ids:
        return row_sets.keys(self.rows)

    def take(self, index: Index) -> Events:
        rows = row_sets.take(self.rows, index)
        return Events(rows, self.at[index], self.number[index], self.op[index], self.source[index])

    def select(self, mask: Mask) -> Events:
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def span(self, low: int, high: int) -> Events:
        """Of events in order, those of low <= key <= high."""
        names = self.keys()
        part = slice(int(np.searchsorted(names, np.uint64(low))), int(np.searchsorted(names, np.uint64(high), "right")))
        return Events(self.rows[part], self.at[part], self.number[part], self.op[part], self.source[part])

    def in_order(self) -> Events:
        names = self.keys()
        same_or_later = (names[1:] > names[:-1]) | (names[1:] == names[:-1]) & (self.number[1:] >= self.number[:-1])
        return self if same_or_later.all() else self.take(np.lexsort((self.number, names)))


@dataclass(slots=True)
class _Totals:
    count: int = 0
    first: int = 1 << 63
    last: int = 0
    began: int = 1 << 62
    ended: int = -(1 << 62)
    starts: list[int] = field(default_factory=list)
    checks: list[int] = field(default_factory=list)

    def add(self, events: Events, check: int) -> None:
        self.count += len(events)
        self.first, self.last = min(self.first, int(events.number.min())), max(self.last, int(events.number.max()))
        self.began, self.ended = min(self.began, int(events.at.min())), max(self.ended, int(events.at.max()))
        self.starts.append(int(row_sets.keys(events.rows[:1])[0]))
        self.checks.append(check)


def write(path: Path, parts: Iterable[Events], uniform: bool = False) -> None:
    """`parts` in order; each but the last has a multiple of BLOCK events. `uniform`: all are of one change."""

    def into(file: Written) -> None:
        totals = _Totals()
        file.write(bytes(_SIZE))
        op = source = 0
        for part in parts:
            op, source = int(part.op[0]), int(part.source[0])
            for begin in range(0, len(part), BLOCK):
                _write_block(file, part, slice(begin, begin + BLOCK), uniform, totals)
        index = np.array(totals.starts, "<u8").tobytes() + np.array(totals.checks, "<u4").tobytes()
        file.write(index)
        flags = _UNIFORM if uniform else 0
        span = (totals.first, totals.last, totals.began, totals.ended)
        header = _HEADER.pack(
            MAGIC, VERSION, flags, 0, totals.count, *span, op if uniform else 0, source if uniform else 0,
            zlib.crc32(index),
        )  # fmt: skip
        file.seek(0)
        file.write(header + _CHECK.pack(zlib.crc32(header)))

    write_whole(path, into)


def _write_block(file: Written, part: Events, where: slice, uniform: bool, totals: _Totals) -> None:
    events = Events(part.rows[where], part.at[where], part.number[where], part.op[where], part.source[where])
    columns: list[Any] = [np.ascontiguousarray(events.rows).view(np.uint8)]
    if not uniform:
        columns += [events.at, events.number, events.op, events.source]
    check = 0
    for column in columns:
        octets = np.ascontiguousarray(column).view(np.uint8).data
        check = zlib.crc32(octets, check)
        file.write(octets)
    totals.add(events, check)


class Segment:
    """A file of events, open for reading: by any thread, also when it has been deleted meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._octets = np.memmap(path, np.uint8, "r")
        except (ValueError, OSError) as fault:
            raise Damaged(f"{path.name} cannot be read ({fault})") from None
        header = self._octets[:_SIZE].tobytes()
        if len(header) < _SIZE or not header.startswith(MAGIC):
            raise Damaged(f"{path.name} is no file of events, or only its beginning")
        if zlib.crc32(header[: _HEADER.size]) != _CHECK.unpack_from(header, _HEADER.size)[0]:
            raise Damaged(f"{path.name}: the header has a wrong checksum")
        _, version, flags, _, count, *span, op, source, check = _HEADER.unpack_from(header)
        if version != VERSION:
            raise Damaged(f"{path.name} is of version {version}; this program reads version {VERSION}")
        self.count: int = count
        self.first, self.last, self.began, self.ended = span  # numbers, times
        self.op, self.source, self.uniform = op, source, bool(flags & _UNIFORM)
        self._event = BINDING_ROW.itemsize + (0 if self.uniform else _META)
        blocks = -(-count // BLOCK)
        end = _SIZE + count * self._event
        if len(self._octets) != end + 12 * blocks:
            raise Damaged(f"{path.name} should have {end + 12 * blocks} octets and has {len(self._octets)}")
        index = self._octets[end:].tobytes()
        if zlib.crc32(index) != check:
            raise Damaged(f"{path.name}: the index has a wrong checksum")
        self.starts: Ids = np.frombuffer(index, "<u8", blocks)
        self._checks = np.frombuffer(index, "<u4", blocks, 8 * blocks)
        self._checked = np.zeros(blocks, np.bool_)

    def rows(self, block: int) -> Rows:
        start, count = self._place(block)
        octets = self._octets[start : start + count * self._event]
        if not self._checked[block]:
            if zlib.crc32(octets.data) != self._checks[block]:
                raise Damaged(f"{self.path.name}: block {block} of {len(self.starts)} has a wrong checksum")
            self._checked[block] = True
        return np.frombuffer(octets, BINDING_ROW, count)

    def block(self, block: int) -> Events:
        rows = self.rows(block)
        start, count = self._place(block)
        if self.uniform:
            return Events.of(rows, self.began, self.first, self.op, self.source)
        octets = self._octets[start + count * BINDING_ROW.itemsize : start + count * self._event]
        return Events(
            rows,
            np.frombuffer(octets, "<i8", count),
            np.frombuffer(octets, "<u8", count, 8 * count),
            np.frombuffer(octets, np.uint8, count, 16 * count),
            np.frombuffer(octets, np.uint8, count, 17 * count),
        )

    def _place(self, block: int) -> tuple[int, int]:
        return _SIZE + block * BLOCK * self._event, min(BLOCK, self.count - block * BLOCK)

    def blocks(self, low: int, high: int) -> range:
        """Those that may have events of low <= key <= high."""
        first = int(np.searchsorted(self.starts, np.uint64(low))) - 1
        return range(max(first, 0), int(np.searchsorted(self.starts, np.uint64(high), "right")))

    def between(self, low: int, high: int) -> Events:
        return Events.join([self.block(block).span(low, high) for block in self.blocks(low, high)])

    def all_rows(self) -> Iterator[Rows]:
        return (self.rows(block) for block in range(len(self.starts)))

    def whole(self) -> Rows:
        """The rows of all blocks."""
        if self.uniform:
            for block in range(len(self.starts)):
                self.rows(block)
            return np.frombuffer(self._octets[_SIZE : _SIZE + self.count * self._event], BINDING_ROW, self.count)
        return np.concatenate([no_rows(), *self.all_rows()])
