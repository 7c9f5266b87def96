"""One to many workers of one router: an Engine as `pylwaftr run` has it, a queue of each port for each worker, one
binding table, and on each queue a source that brings as many frames as the worker polls.

Teams of workers take turns, window by window: each CPU alone, then 2, 3, … together. A window is an engine of its own,
started for it and stopped behind it, so that no worker of another team runs meanwhile, not even over empty queues.
What a worker forwards is told by the wall clock and by the CPU time that it had: others on the machine take some of the
first.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pylwaftr import _core, eal_args
from pylwaftr.bench import forward, scaling_model, shares, stats
from pylwaftr.bench.plan import OF_A_LANE, PlanFault, Scaling, frame_octets, frames

DEVICES = ("net_null0,copy=0,no-rx=1", "net_null1,copy=0,no-rx=1")
SIDES = ("v4", "v6")
WAYS = {"both": ("encap", "decap"), "encap": ("encap",), "decap": ("decap",), "hairpin": ("hairpin",)}
UNLIMITED = (1 << 64) - 1
LEAST_WARMING_S = 0.005  # buffers and code of a worker that has just begun
BEGIN_S = 10.0
FRAGMENTS = 512  # that may wait: there are none
WHOLE_CPU = 0.9  # of the time
READ_SHARE = 0.01  # of a window, that reading the counters may take
_NAMES = [entry[0] for entry in _core.COUNTERS]
LEFT = [_NAMES.index(name) for name in ("encap", "decap", "hairpin")]

Team = tuple[int, ...]  # positions of CPUs
Cells = npt.NDArray[np.float64]  # [round, worker], Mpps


@dataclass(frozen=True, slots=True)
class Host:
    cpus: tuple[int, ...]  # of the workers, lcore 1 the first
    control: tuple[int, ...]  # that the process may run on


@dataclass(frozen=True, slots=True)
class Case:
    direction: str
    bindings: int
    size: str
    feature: str
    tcp: bool


@dataclass(frozen=True, slots=True)
class Window:
    mpps: list[float]  # by worker
    share: list[float]  # of the time that it had its CPU
    queues: list[dict[str, int]]  # by worker: side -> frames, from the start of the workers on


def cpus_of(plan: Scaling) -> tuple[int, ...]:
    """As many as the largest team has. Raises PlanFault."""
    allowed = os.sched_getaffinity(0)
    wanted = plan.cpus or scaling_model.cores_first(allowed)
    if len(set(wanted)) < len(wanted):
        raise PlanFault("--cpus: each CPU once")
    most = max(plan.workers, default=len(wanted))
    if most > len(wanted):
        raise PlanFault(f"{most} workers need {most} CPUs, and there are {len(wanted)}")
    for feature in plan.features:
        if found := set(feature.split("+")) & set(OF_A_LANE):
            raise PlanFault(f"--features: {', '.join(sorted(found))}: not with several workers")
    return tuple(wanted[:most])


def teams_of(plan: Scaling, cpus: int) -> list[Team]:
    """Each alone, then so many of the first together."""
    together = sorted(set(plan.workers or range(2, cpus + 1)) - {1})
    return [(position,) for position in range(cpus)] + [tuple(range(count)) for count in together]


def _buffers(workers: int) -> eal_args.Buffers:
    return eal_args.buffers(forward.MTU6, len(DEVICES), workers, FRAGMENTS)


def need_mib(plan: Scaling, cpus: Sequence[int]) -> int:
    return _buffers(len(cpus)).mebibytes(eal_args.SMALL_PAGE)


# --- a window -----------------------------------------------------------------------------------------------------


class Rig:
    """One case on one table."""

    def __init__(self, case: Case, table: _core.BindingTable, host: Host) -> None:
        self._case, self._table, self._host = case, table, host
        self._clocks = cpu_clocks()
        self._settings = forward.settings(case.feature)
        self._octets = dict(zip(SIDES, frames(case.size), strict=True))

    def window(self, team: Team, seconds: float) -> Window:
        buffers = _buffers(len(team))
        mine = {self._host.cpus[position] for position in team}
        os.sched_setaffinity(0, set(self._host.control) - mine or mine)
        engine = _core.Engine(
            self._settings, self._table, list(DEVICES), [position + 1 for position in team],
            mbufs=buffers.count, data_room=buffers.data_room, held_limit=buffers.held_limit, secret=1,
        )  # fmt: skip
        try:
            clocks = [self._clocks[position + 1] for position in team]
            return self._measured(engine, clocks, max(seconds * forward.SHARE_OF_WARMING, LEAST_WARMING_S), seconds)
        finally:
            engine.close()

    def _sources(self, engine: _core.Engine) -> list[_core.BenchSource]:
        """Each brings other frames."""
        workers = engine.worker_stats()
        words = iter(_lines_of(len(workers) * len(SIDES)))
        made: list[_core.BenchSource] = []
        for worker in workers:
            for side, queue in zip(SIDES, worker["queues"], strict=True):
                for way in WAYS[self._case.direction]:
                    if (way == "encap") == (side == "v4"):
                        made.append(
                            _core.BenchSource(
                                queue["port"], queue["queue"], way, self._case.bindings, self._octets[side],
                                engine.macs()[side], next(words), tcp=self._case.tcp, seed=len(made) + 1,
                            )
                        )  # fmt: skip
        return made

    def _measured(self, engine: _core.Engine, clocks: Sequence[int], warm: float, seconds: float) -> Window:
        sources = self._sources(engine)
        try:
            engine.start()
            _until_all_forward(engine)
            time.sleep(warm)
            before = _read(engine, clocks, seconds)
            time.sleep(seconds)
            after = _read(engine, clocks, seconds)
            while not (after.left > before.left).all() and after.at - before.at < BEGIN_S:  # others had its CPU
                time.sleep(seconds)
                after = _read(engine, clocks, seconds)
            engine.stop()
        finally:
            for source in sources:
                source.detach()
        queues = [
            {side: int(queue["rx_packets"]) for side, queue in zip(SIDES, worker["queues"], strict=True)}
            for worker in engine.worker_stats()
        ]
        lost = sum(sum(of.values()) for of in queues) - int(_left(engine).sum())
        if lost:
            raise AssertionError(f"{lost} packets left by no edge")
        took = after.at - before.at
        return Window(
            [float(n) / took / 1e6 for n in after.left - before.left],
            [min(1.0, max(had / took, 1e-6)) for had in after.cpu - before.cpu],
            queues,
        )


def _lines_of(sources: int) -> npt.NDArray[np.uint64]:
    """Words for so many: what one worker writes lies in no cache line of another's."""
    each, line = 16, 8
    memory = np.zeros(sources * each + line, np.uint64)
    first = -memory.ctypes.data // 8 % line
    words = memory[first : first + sources * each].reshape(sources, each)
    words[:, 0] = UNLIMITED
    return words


def _left(engine: _core.Engine) -> npt.NDArray[np.uint64]:
    return np.asarray(engine.counters()[:, LEFT].sum(axis=1, dtype=np.uint64))


def _until_all_forward(engine: _core.Engine) -> None:
    end = time.monotonic() + BEGIN_S
    while not _left(engine).all():
        if time.monotonic() > end:
            raise AssertionError("a worker forwards nothing")
        time.sleep(0.001)


@dataclass(frozen=True, slots=True)
class Reading:
    at: float
    left: npt.NDArray[np.uint64]  # packets, by worker
    cpu: npt.NDArray[np.float64]  # seconds that it had its CPU


def _read(engine: _core.Engine, clocks: Sequence[int], seconds: float) -> Reading:
    """Once more if this thread lost its CPU in between."""
    for _ in range(100):
        began = time.perf_counter()
        left = _left(engine)
        cpu = np.array([time.clock_gettime(clock) for clock in clocks])
        ended = time.perf_counter()
        if ended - began < seconds * READ_SHARE:
            break
    return Reading((began + ended) / 2, left, cpu)


def cpu_clocks() -> dict[int, int]:
    """lcore -> the clock of its thread's CPU time, as clock_getcpuclockid() makes it of a thread."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        if name := re.fullmatch(r"\w+-worker-?(\d+)", (task / "comm").read_text().strip()):
            found[int(name[1])] = ~int(task.name) << 3 | 6
    return found


# --- all of them --------------------------------------------------------------------------------------------------


def run(plan: Scaling, host: Host, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Results, and the model of each case."""
    results: list[dict[str, Any]] = []
    models: list[dict[str, Any]] = []
    teams = teams_of(plan, len(host.cpus))
    for bindings in plan.bindings:
        table = forward.filled(bindings, range(1, len(host.cpus) + 1))
        for feature in plan.features:
            for direction, size in ((d, s) for d in plan.directions for s in plan.sizes):
                case = Case(direction, bindings, size, feature, plan.tcp)
                say(f"{direction}, {size} octets, {bindings} bindings, {feature}")
                found = list(_case(plan, case, table, host, teams, say))
                results += found
                models.append(_model(plan, case, table, host, found))
    return results, models


def _case(
    plan: Scaling,
    case: Case,
    table: _core.BindingTable,
    host: Host,
    teams: Sequence[Team],
    say: Callable[[str], None],
) -> Iterable[dict[str, Any]]:
    rig = Rig(case, table, host)
    windows: dict[Team, list[Window]] = {team: [] for team in teams}
    for number in range(plan.common.windows):
        say(
            f"{case.direction}, {case.size} octets, {case.bindings} bindings, {case.feature}: "
            f"window {number + 1} of {plan.common.windows}"
        )
        for team in teams:
            windows[team].append(rig.window(team, plan.common.seconds))
    alone = Run.of([windows[team] for team in teams if len(team) == 1])
    yield _result(case, host, tuple(range(len(host.cpus))), alone, alone)
    for team in teams:
        if len(team) > 1:
            yield _together(case, host, team, Run.of([windows[team]]), alone, windows[team])


@dataclass(frozen=True, slots=True)
class Run:
    """[round, worker]."""

    mpps: Cells
    share: Cells
    each: bool  # one behind the other, not together

    @staticmethod
    def of(windows: Sequence[Sequence[Window]]) -> Run:
        """One list of a team, or one of each that was alone."""
        mpps = np.hstack([np.array([window.mpps for window in of]) for of in windows])
        share = np.hstack([np.array([window.share for window in of]) for of in windows])
        return Run(mpps, share, each=len(windows) > 1 or mpps.shape[1] == 1)

    def costs(self, rates: Cells, alone: Cells) -> dict[str, Any]:
        """Of rates by the wall clock or by CPU time. `alone`: what each of these CPUs had so."""
        workers = 1 if self.each else rates.shape[1]
        sums = rates.mean(axis=1) if self.each else rates.sum(axis=1)
        best = float(rates.max(axis=0).mean()) if self.each else float(sums.max())
        median = float(np.median(sums))
        megahertz = workers * _core.bench_tsc_hz() / 1e6
        return {
            "cycles_per_packet": stats.pair(megahertz / best, megahertz / median),
            "mpps": stats.pair(best, median, 6),
            "ratio": stats.pair(best / float(alone.max(axis=0).mean()), float(np.median(sums / alone.mean(axis=1)))),
        }


def _result(case: Case, host: Host, team: Team, run: Run, alone: Run) -> dict[str, Any]:
    """Of those that were alone one behind the other: the mean of them."""
    workers = 1 if run.each else len(team)
    base_mpps, base_share = alone.mpps[:, list(team)], alone.share[:, list(team)]
    return {
        "name": f"scaling.{workers}",
        "unit": "packets",
        "workers": workers,
        "cpus": [host.cpus[position] for position in team],
        "direction": case.direction,
        "bindings": case.bindings,
        "size": case.size,
        "frame_octets": frame_octets(case.direction, case.size),
        "transport": "tcp" if case.tcp else "udp",
        "features": [] if case.feature == "default" else case.feature.split("+"),
        # Cycles are those of a worker for each of its packets.
        **run.costs(run.mpps, base_mpps),
        "of_cpu_time": run.costs(run.mpps / run.share, base_mpps / base_share),
        "by_worker": [
            {
                "cpu": host.cpus[position],
                "mpps": stats.pair(float(each.max()), float(np.median(each)), 6),
                "cpu_share": round(float(np.median(share)), 3),
            }
            for position, each, share in zip(team, run.mpps.T, run.share.T, strict=True)
        ],
    }


def _together(case: Case, host: Host, team: Team, run: Run, alone: Run, windows: Sequence[Window]) -> dict[str, Any]:
    result = _result(case, host, team, run, alone)
    load = run.mpps * len(team) / run.mpps.sum(axis=1)[:, None]  # 1 = an even share
    for at, one in enumerate(result["by_worker"]):
        one["load"] = round(float(np.median(load[:, at])), 3)
        one["packets"] = {side: sum(window.queues[at][side] for window in windows) for side in SIDES}
    spread = {"least": load.min(axis=1), "most": load.max(axis=1)}
    return result | {"load": {name: round(float(np.median(each)), 3) for name, each in spread.items()}}


def _model(
    plan: Scaling, case: Case, table: _core.BindingTable, host: Host, results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    alone, own = results[0], results[0]["of_cpu_time"]
    cache = scaling_model.core_cache(host.cpus[0]) if plan.cache_mib is None else int(plan.cache_mib * eal_args.MIB)
    found = scaling_model.model(
        scaling_model.Case(
            direction=case.direction,
            bindings=case.bindings,
            frame_octets=alone["frame_octets"],
            alone_mpps=own["mpps"]["best"],
            cycles=own["cycles_per_packet"]["best"],
            second_buckets=shares.buckets(table, case.bindings)["second"],
            table_octets=table.reader_memory,
            cache_octets=cache,
            memory_gbytes=plan.memory_gbytes,
            line_gbits=plan.line_gbits,
            siblings=siblings_ratio(results, scaling_model.core_of),
        )
    )
    counts = sorted({one["workers"] for one in results if one["workers"] > 1} | set(shares.QUEUES))
    return {**found, "queues": shares.over_queues(case.direction, case.bindings, counts)}


def siblings_ratio(results: Iterable[dict[str, Any]], core_of: Callable[[int], tuple[int, int]]) -> float | None:
    """Of two workers on one core, if there was such a team, and if they ran at the same time."""
    found = list(results)
    if not ran_together(found):
        return None
    for result in found:
        if result["workers"] == 2 and len({core_of(cpu) for cpu in result["cpus"]}) == 1:
            return float(result["of_cpu_time"]["ratio"]["median"])
    return None


def ran_together(results: Iterable[dict[str, Any]]) -> bool:
    """Workers that had their CPUs for nearly all of the time: else it is not seen what they cost each other."""
    return all(one["cpu_share"] >= WHOLE_CPU for result in results for one in result["by_worker"])
