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
_BACKGROUND = 10  # nice: a tenth of the weight of the others


def shorten() -> None:
    """Once, when the process begins."""
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(*_THRESHOLDS)


def settled() -> None:
    """What is there now will stay: it is not looked at again."""
    gc.collect()
    gc.freeze()


def give_way() -> None:
    """The calling thread works only while nobody else of this CPU wants to: the control side has one core, and its
    background work would take half of it for the time of a fold. For a thread that does nothing else, for only a
    privileged one comes back."""
    me = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, me, min(19, os.getpriority(os.PRIO_PROCESS, me) + _BACKGROUND))
