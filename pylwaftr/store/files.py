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
OWNER = 0o600  # of every file: who held which address when is personal, whatever the mode of the folder


class Damaged(Exception):
    """A file is not what was written: half of it, or a checksum that is wrong. Says why."""


def write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """On the disk when it returns. A crash leaves the file as it was, or a .part file, which is nobody's."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb", opener=private) as file:
            write(file)
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
    if isinstance(fault, OSError) and fault.strerror:
        text = fault.strerror
    return f"{folder}: the state cannot be written ({text}), so nothing was done; check the disk"


@contextlib.contextmanager
def faults(folder: Path) -> Iterator[None]:
    """What goes wrong with files in here is a StoreFault."""
    try:
        yield
    except (sqlite3.Error, OSError, Damaged) as fault:
        raise StoreFault(reason_of(fault, folder)) from None


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
