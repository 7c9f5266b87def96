"""Files of the state directory: written whole or not at all, held by one process, set aside when they are damaged."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pylwaftr.store import StoreFault

TEMPORARY = ".part"
PIECE = 1 << 21  # octets
OWNER = 0o600  # of every file: who held which address when is personal, whatever the mode of the folder


class Damaged(Exception):
    """A file is not what was written: half of it, or a checksum that is wrong. Says why."""


class Written:
    """A file on its way to the disk, piece by piece: a commit beside waits for one of them, where it would wait for
    all that the file system has of a large file. Beside 48 MB the slowest took 35 ms, and in pieces 7.5
    (median of ten)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._since = file, 0

    def write(self, octets: bytes | memoryview) -> None:
        whole = memoryview(octets)
        for start in range(0, len(whole), PIECE):
            self._since += self._file.write(whole[start : start + PIECE])
            if self._since >= PIECE:
                self._file.flush()
                os.fdatasync(self._file.fileno())
                self._since = 0

    def seek(self, place: int) -> None:
        self._file.seek(place)


def write_whole(path: Path, write: Callable[[Written], None]) -> None:
    """On the disk when it returns. A crash leaves the file as it was, or a .part file, which is nobody's."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb", opener=private) as file:
            write(Written(file))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def private(path: str, flags: int) -> int:
    """For `open`: what is made is its owner's only."""
    return os.open(path, flags, OWNER)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path, stamp: str) -> Path:
    """A damaged file keeps its contents for whoever can read them, under a name that says so."""
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    path.rename(aside)
    return aside


def reason_of(fault: BaseException, folder: Path) -> str:
    """For a StoreFault: what failed and what helps."""
    text = str(fault)
    if (isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)) or "full" in text:
        return f"{folder}: the disk is full, so nothing was done; make room there"
    return f"{folder}: the state cannot be written ({_words(fault)}), so nothing was done; check the disk"


def _words(fault: BaseException) -> str:
    return (isinstance(fault, OSError) and fault.strerror) or str(fault)


@contextlib.contextmanager
def faults(folder: Path) -> Iterator[None]:
    """What goes wrong with files in here is a StoreFault."""
    try:
        yield
    except (sqlite3.Error, OSError, Damaged) as fault:
        raise StoreFault(reason_of(fault, folder)) from None


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """The same for questions; what is damaged is left to who knows what to do about it."""
    try:
        yield
    except (sqlite3.Error, OSError) as fault:
        raise StoreFault(f"{folder}: the state cannot be read ({_words(fault)}); check the disk") from None


class Lock:
    """Two processes with one state directory would each undo what the other promised."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self._file = os.fdopen(os.open(folder / "lock", flags, OWNER), "a+")
        except OSError as fault:
            remedy = "make it, or choose another state.directory"
            raise StoreFault(f"{folder} cannot be used ({fault.strerror}): {remedy}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise StoreFault(f"{folder} is in use by {holder}: stop that, or choose another state.directory") from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the name
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()}")
            self._file.flush()

    def release(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
