"""A process that measures does not outlive the one that asked for it, which may be killed: nobody would hear the
answer, and a core would be busy with it for minutes.

`python -m pylwaftr.bench.parent COMMAND...` is that command, for programs that are not of the benchmarks alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence

PR_SET_PDEATHSIG = 1  # prctl(2); execve(2) keeps it
_NAME = "PYLWAFTR_BENCH_PARENT"


def named(environment: Mapping[str, str]) -> dict[str, str]:
    """For children of this process that call `end_with_parent`."""
    return {**environment, _NAME: str(os.getpid())}


def end_with_parent() -> None:
    """Kills this process when the thread ends that started it, so that has to be one that waits for it.

    A parent that ended before the kernel was asked is not told of: another one has its place then.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    found = str(os.getppid())
    if os.environ.get(_NAME, found) != found:
        raise SystemExit("whoever asked for this measurement has ended")


def main(command: Sequence[str]) -> None:
    end_with_parent()
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    main(sys.argv[1:])
