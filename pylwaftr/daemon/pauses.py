"""How long anything may hold up the event loop: settings of an interpreter that has to answer in milliseconds."""

from __future__ import annotations

import gc
import os
import sys
import threading

_SWITCH_S = 0.001  # threads that work on arrays give way to the event loop so soon
# Young objects are those of requests under way and have no cycles, so looking at them often finds nothing. A look at
# all objects takes 0.1 s with 100,000 mappings.
_THRESHOLDS = 20_000, 20, 20
# gRPC's server reads its sockets in the thread that waits for calls, not in a pool of threads where each hop costs a
# switch: beside a busy worker a single create forwards 7 % sooner (four pairs of runs).
_GRPC = "-event_engine_listener"
_BACKGROUND = 10  # nice: a tenth of the weight of the others


def shorten() -> None:
    """Once, when the process begins, before gRPC is loaded. What the environment says of gRPC is left as it is."""
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(*_THRESHOLDS)
    os.environ.setdefault("GRPC_EXPERIMENTS", _GRPC)


def settled() -> None:
    """What is there now will stay: it is not looked at again."""
    gc.collect()
    gc.freeze()


def give_way() -> None:
    """The calling thread works only while nobody else of this CPU wants to: the control side has one core, and its
    background work would take half of it for the time of a fold. For a thread that does nothing else, for only a
    privileged one comes back.

    1,200 creates beside a fold, two runs each on a busy machine: the slowest answer after 12 and 36 ms instead of 58
    and 97, p99 to forwarding 1.9 and 2.2 ms instead of 2.5 and 2.7; the fold took up to twice as long. It may hold the
    interpreter while another process has the CPU; a run beside one that never sleeps was not the slower for it.
    """
    me = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, me, min(19, os.getpriority(os.PRIO_PROCESS, me) + _BACKGROUND))
