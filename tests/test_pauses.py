"""What keeps the event loop from waiting: the interpreter's settings, and threads that give way."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from pylwaftr.daemon import pauses


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


def test_the_collector_looks_seldom_and_never_again_at_what_stays() -> None:
    pauses.shorten()
    assert sys.getswitchinterval() == pytest.approx(0.001)
    assert gc.get_threshold()[0] > 10_000
    assert gc.isenabled()
    kept = [[number] for number in range(1000)]
    pauses.settled()
    assert gc.get_freeze_count() > len(kept)
    assert not any(found is kept for found in gc.get_objects())


def nice_of(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def test_a_thread_gives_way_and_no_other_does() -> None:
    before = nice_of(threading.get_native_id())
    found: list[int] = []

    def work() -> None:
        pauses.give_way()
        found.append(nice_of(threading.get_native_id()))
        pauses.give_way()  # and no more than there is
        pauses.give_way()
        found.append(nice_of(threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [min(19, before + 10), 19]
    assert nice_of(threading.get_native_id()) == before
