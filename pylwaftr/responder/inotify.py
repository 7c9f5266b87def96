"""The kernel tells when files of a folder grow or give way to others: inotify(7), which Python has no module for."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_MODIFY, _MOVED_TO, _CREATE = 0x2, 0x80, 0x100
_READ = 1 << 16


@contextlib.contextmanager
def told(folders: Iterable[Path], call: Callable[[], None]) -> Iterator[bool]:
    """Calls when something in these folders has changed. False: the kernel does not tell; so look now and then, as it
    also says nothing of what other hosts write to a network's file system."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(_NONBLOCK_CLOEXEC)
    if descriptor < 0:
        yield False
        return

    def heard() -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(descriptor, _READ)
        call()

    loop = asyncio.get_running_loop()
    try:
        watches = [libc.inotify_add_watch(descriptor, os.fsencode(f), _MODIFY | _MOVED_TO | _CREATE) for f in folders]
        loop.add_reader(descriptor, heard)
        yield all(watch >= 0 for watch in watches)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
