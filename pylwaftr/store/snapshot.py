"""The bindings of one moment in a file, for a fast start: bound rows, then those that wait, each in order.

header    magic, version, revision, number of the last change in it, bound rows, waiting rows, checksum of the body,
          checksum of the header; little-endian
body      bound rows, their sources, waiting rows, their sources
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pylwaftr import row_sets
from pylwaftr.row_sets import Ids, Sourced
from pylwaftr.rows import BINDING_ROW
from pylwaftr.store.files import Damaged, Written, write_whole
from pylwaftr.store.segments import BIND, SHADOW, UNBIND, Events

MAGIC = b"\x89LWLIVE\n"
VERSION = 1
SUFFIX = ".bindings"

_HEADER = struct.Struct("<8sHHIQQQQ")
_CHECK = struct.Struct("<I")
_SIZE = _HEADER.size + _CHECK.size


@dataclass(slots=True)
class Live:
    """What is bound and what waits. Kept in order of key, and of key and source."""

    revision: int = 0
    number: int = 0  # of the last change in it
    bound: Sourced = field(default_factory=Sourced.none)
    waiting: Sourced = field(default_factory=Sourced.none)

    def apply(self, events: Events) -> None:
        """What they come to: of each key, and of each key and source that waits, the last one counts."""
        is_bound = events.op <= UNBIND
        bound, waiting = events.select(is_bound), events.select(~is_bound)
        if len(bound):
            self.bound = _applied(self.bound, self.bound.keys(), bound, bound.keys())
        if len(waiting):
            ids = waiting.keys() << np.uint64(8) | waiting.source
            self.waiting = _applied(self.waiting, self.waiting.ids(), waiting, ids)


def _applied(base: Sourced, base_ids: Ids, events: Events, ids: Ids) -> Sourced:
    if not row_sets.ascending(ids) or not row_sets.firsts(ids).all():
        sorting = np.lexsort((events.number, ids))
        last = np.append(row_sets.firsts(ids[sorting])[1:], True)
        events, ids = events.take(sorting[last]), ids[sorting[last]]
    come = (events.op == BIND) | (events.op == SHADOW)
    put = Sourced(row_sets.select(events.rows, come), events.source[come])
    return row_sets.patched(base, base_ids, ids[~come], put, ids[come])[0]


def write(path: Path, live: Live) -> None:
    columns: list[Any] = [live.bound.rows, live.bound.sources, live.waiting.rows, live.waiting.sources]
    body = [np.ascontiguousarray(column).view(np.uint8).data for column in columns]
    check = 0
    for part in body:
        check = zlib.crc32(part, check)
    counts = (len(live.bound), len(live.waiting))
    header = _HEADER.pack(MAGIC, VERSION, 0, check, live.revision, live.number, *counts)

    def into(file: Written) -> None:
        file.write(header + _CHECK.pack(zlib.crc32(header)))
        for part in body:
            file.write(part)

    write_whole(path, into)


def read(path: Path) -> Live:
    try:
        with path.open("rb") as file:
            octets = np.empty(path.stat().st_size, np.uint8)
            octets = octets[: file.readinto(octets.data)]
    except OSError as fault:
        raise Damaged(f"{path.name} cannot be read ({fault.strerror})") from None
    header = octets[:_SIZE].tobytes()
    if len(header) < _SIZE or not header.startswith(MAGIC):
        raise Damaged(f"{path.name} is no snapshot, or only its beginning")
    if zlib.crc32(header[: _HEADER.size]) != _CHECK.unpack_from(header, _HEADER.size)[0]:
        raise Damaged(f"{path.name}: the header has a wrong checksum")
    _, version, _, check, revision, number, bound, waiting = _HEADER.unpack_from(header)
    if version != VERSION:
        raise Damaged(f"{path.name} is of version {version}; this program reads version {VERSION}")
    size = BINDING_ROW.itemsize + 1
    if len(octets) != _SIZE + size * (bound + waiting):
        raise Damaged(f"{path.name} should have {_SIZE + size * (bound + waiting)} octets and has {len(octets)}")
    if zlib.crc32(octets[_SIZE:].data) != check:
        raise Damaged(f"{path.name}: the rows have a wrong checksum")
    split = _SIZE + size * bound
    return Live(revision, number, _sourced(octets, _SIZE, bound), _sourced(octets, split, waiting))


def _sourced(octets: Any, start: int, count: int) -> Sourced:
    end = start + BINDING_ROW.itemsize * count
    rows = np.frombuffer(octets[start:end], BINDING_ROW, count)
    return Sourced(rows, octets[end : end + count])
