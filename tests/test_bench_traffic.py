"""Traffic through a live router at a rate by the clock: what is held up, and what is not bound, is counted as lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylwaftr import _core
from pylwaftr.api.client import Client
from pylwaftr.bench import live
from pylwaftr.bench.live import RING, Cpus, Live, Offer, Setup
from pylwaftr.bench.paced import Words
from pylwaftr.bench.sync_leases import Leases, Moves
from pylwaftr.bench.traffic import Load, Tally, Told, before_start
from pylwaftr.responder import journal

BOUND, FLEET = range(1000), 2000
RATE = 500_000.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, Client]]:
    setup = Setup(Cpus(), 4096, FLEET, BOUND)
    with live.router(tmp_path_factory.mktemp("router"), setup) as router, Client(router.target) as client:
        yield router, client


def load_of(running: tuple[Live, Client], over: range) -> Load:
    load = Load(*running, over)
    load.maximum = 2 * RATE
    return load


def received(words: Words) -> None:
    """Some frames, so the worker polls at that rate."""
    before = words.counts().given
    while words.counts().given == before:
        time.sleep(0.001)


def sound(told: Told) -> bool:
    """Nothing is lost that is not accounted for."""
    return told.lost == told.counts.missed + sum(told.drops.values()) and told.counts.waiting == 0


def test_what_is_bound_is_forwarded(running: tuple[Live, Client]) -> None:
    tally = Tally()
    with load_of(running, BOUND).meanwhile(tally):
        received(running[0].words)
    for told in (tally.busy[0], tally.idle[0]):
        assert sound(told)
        assert told.forwarded == told.counts.given > 0
        assert not told.drops
    assert tally.told()["traffic"]["forwarded"] == tally.busy[0].forwarded


def test_a_worker_that_is_held_up_loses_what_its_ring_does_not_hold(running: tuple[Live, Client]) -> None:
    tally, router = Tally(), running[0]
    with load_of(running, BOUND).meanwhile(tally):
        received(router.words)
        os.kill(router.process.pid, signal.SIGSTOP)
        time.sleep(0.05)
        os.kill(router.process.pid, signal.SIGCONT)
    told = tally.busy[0]
    assert told.gap_s > 0.045
    assert told.counts.missed > 2 * (0.045 * RATE / 2 - RING)
    assert sound(told)


@pytest.mark.parametrize("over, some", [(range(FLEET), True), (range(BOUND.stop, FLEET), False)], ids=["half", "none"])
def test_what_is_not_bound_is_lost(running: tuple[Live, Client], over: range, some: bool) -> None:
    tally = Tally()
    with load_of(running, over).meanwhile(tally):
        received(running[0].words)
        time.sleep(0.01)
    told = tally.busy[0]
    assert told.drops.keys() == {"drop_no_binding", "drop_source_validation"}
    assert told.lost > 0
    assert (told.forwarded > 0) is some
    assert sound(told)


def test_traffic_can_be_there_before_the_worker(tmp_path: Path) -> None:
    setup, tally = Setup(Cpus(), 4096, FLEET, BOUND), Tally()
    before = before_start(setup.cpus)
    with live.router(tmp_path, setup, Offer(RATE, BOUND)) as router, Client(router.target) as client:
        Load(router, client, BOUND).since(before, 2 * RATE, tally)
        assert 0 < router.forwarding_s <= router.ready_s
    assert tally.busy[0].forwarded > 0
    assert not tally.busy[0].drops
    assert sound(tally.busy[0])


def test_a_second_router_in_a_folder_counts_anew(tmp_path: Path) -> None:
    setup = Setup(Cpus(), 4096, FLEET, BOUND)
    for _ in range(2):
        before, tally = before_start(setup.cpus), Tally()
        with live.router(tmp_path, setup, Offer(RATE, BOUND)) as router, Client(router.target) as client:
            Load(router, client, BOUND).since(before, 2 * RATE, tally)
            assert router.forwarding_s > 0.2 * router.ready_s, "its worker cannot have begun before"
        assert sound(tally.busy[0])


def test_only_the_worker_has_its_cpu(running: tuple[Live, Client]) -> None:
    router = running[0]
    placement = router.cpus.placement
    if placement.shared:
        return  # one CPU
    for task in Path(f"/proc/{router.process.pid}/task").iterdir():
        wanted = placement.workers if task == router.worker() else placement.control
        assert os.sched_getaffinity(int(task.name)) == set(wanted), (task / "comm").read_text()
    with router.cpus.with_control():
        for task in Path("/proc/self/task").iterdir():
            assert os.sched_getaffinity(int(task.name)) == set(placement.control)
    assert os.sched_getaffinity(0) == router.cpus.allowed


def test_leases_are_those_of_the_fleet() -> None:
    leases, rows = Leases(200), _core.bench_rows(0, 200)
    for number in (0, 1, 63, 64, 199):
        change, row = journal.parse(leases.line(number)), rows[number]
        assert (int(change.ipv4), change.psid) == (row["ipv4"], row["psid"]) == leases.key(number)
        assert (change.offset, change.psid_len) == (row["psid_offset"], row["psid_len"])
        assert change.b4 is not None
        assert change.b4.packed == row["b4"].tobytes()


def test_moves_stay_in_their_prefix_and_differ() -> None:
    moves = Moves(Leases(200), among=10, total=25)
    found = [journal.parse(line) for line in moves.lines(0, 25)]
    addresses = [change.b4 for change in found if change.b4 is not None]
    assert len(set(addresses)) == 25
    assert [address.packed[:7] for address in addresses[:10]] == [address.packed[:7] for address in addresses[10:20]]
    assert moves.last == (4, addresses[-1])
    assert moves.leases.b4(4) not in addresses
