"""SQLite's write-ahead log, looked at before SQLite does: how many of its frames should be found.

SQLite ends at the first frame that is wrong, and says nothing; of a log whose header is wrong it uses no frame. Frames
of this round have the salts of the header, those of the round before, which may follow, have others. The index beside
it (-shm) outlives a process that was killed, and tells of frames that are no longer there.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from pylwaftr.store.files import private

_HEADER = struct.Struct(">8I")
_FRAME_HEADER = 24
_PAGE = 4096
_INDEX = struct.Struct("=3I2BH2I8s8s8s")  # its header; native, there twice, then the frames that are in the database
_INDEX_VERSION = 3007000
_BIG_ENDIAN = 1  # of the checksums, in the magic number


def committed_frames(wal: bytes, index: bytes = b"") -> int:
    """How many SQLite should find, or should have found if the log is not there any more."""
    salts, indexed = _indexed(index)
    if len(wal) < _HEADER.size:
        done = struct.unpack_from("=I", index, 2 * _INDEX.size)[0] if indexed else 0
        return max(0, indexed - done)
    page = _PAGE
    ours = wal[_HEADER.size + 8 : _HEADER.size + 16]  # the first frame's: the best guess if the header is wrong
    if _is_whole(wal):
        page, ours = _HEADER.unpack_from(wal)[2], wal[16:24]
    there = _with_salts(wal, page, ours)
    return max(there, indexed) if salts == ours else there


def keep(wal: Path, octets: bytes, lost: int, stamp: str) -> str:
    """What there is to say of a log of which so many frames were not found."""
    if len(octets) < _HEADER.size:
        return f"{wal} is missing or empty, and had {lost} pages: what was changed last may be lost"
    aside = wal.with_name(f"{wal.name}.damaged-{stamp}")
    with open(aside, "wb", opener=private) as file:
        file.write(octets)
    why = "damaged, or the power went while they were written"
    return f"{wal}: the last {lost} pages are not usable ({why}); it is kept as {aside.name}"


def _with_salts(wal: bytes, page: int, salts: bytes) -> int:
    """The place of the last commit of that round."""
    size = _FRAME_HEADER + page
    count = (len(wal) - _HEADER.size) // size
    frames = np.frombuffer(wal, np.uint8, count * size, _HEADER.size).reshape(count, size)
    head = np.ascontiguousarray(frames[:, :16]).view(">u4")
    first, second = struct.unpack(">2I", salts.ljust(8, b"\0"))
    ours = (head[:, 2] == first) & (head[:, 3] == second) & (head[:, 1] != 0)
    return int(np.flatnonzero(ours)[-1]) + 1 if ours.any() else 0


def _is_whole(wal: bytes) -> bool:
    """The header: https://www.sqlite.org/fileformat2.html section 4.2."""
    magic, *_, first, second = _HEADER.unpack_from(wal)
    words = struct.unpack_from(">6I" if magic & _BIG_ENDIAN else "<6I", wal)
    one = two = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = (one + even + two) & 0xFFFFFFFF
        two = (two + odd + one) & 0xFFFFFFFF
    return (one, two) == (first, second)


def _indexed(index: bytes) -> tuple[bytes, int]:
    """The salts, and how many frames were committed with them; (b"", 0) if it says nothing."""
    size = _INDEX.size
    if len(index) < 2 * size + 4 or index[:size] != index[size : 2 * size]:
        return b"", 0
    version, _, _, begun, _, _, frames, _, _, salts, _ = _INDEX.unpack_from(index)
    return (salts, frames) if version == _INDEX_VERSION and begun == 1 else (b"", 0)
