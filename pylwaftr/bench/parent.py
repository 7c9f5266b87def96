"""A process that measures does not outlive the one that asked for it, which may be killed: nobody would hear the
answer, and a core would be busy with it for minutes."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> None:
    """Kills this process when the thread ends that started it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
