"""DPDK's environment layer: started once in the life of a process."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from pylwaftr import _core
from pylwaftr.daemon.router import StartFault

log = logging.getLogger("pylwaftr")


def start_eal(vector: list[str], python_cpus: Iterable[int] | None) -> None:
    """Threads that Python has already, and those that it will start, are kept to `python_cpus`."""
    log.log(logging.DEBUG if python_cpus is None else logging.INFO, "EAL arguments: %s", " ".join(vector))
    ours = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    try:
        _core.eal_init(vector)
    except _core.EalError as fault:
        raise StartFault(str(fault)) from None
    if python_cpus is None:
        return
    for thread in ours:
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(thread, python_cpus)


def stop_eal() -> None:
    _core.eal_cleanup()
    log_eal()


def log_eal() -> None:
    for line in _core.eal_log():
        log.debug("DPDK: %s", line)
