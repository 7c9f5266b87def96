"""The binding table alone, against DPDK's rte_hash and against no table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pylwaftr import _core
from pylwaftr.bench import stats
from pylwaftr.bench.plan import Table

RTE_OCTETS = 80  # a binding takes in rte_hash at most, values beside it
LOOK_UPS = ("find", "mixed")
_UNITS = {"find": "look-ups", "insert": "insertions", "remove": "removals", "mixed": "operations"}


def need_mib(plan: Table) -> int:
    """Of DPDK's memory: rte_hash rounds up to a power of two."""
    return 64 + (max(plan.bindings) * 2 * RTE_OCTETS // (1 << 20) if plan.rte_hash else 0)


def run(plan: Table, lcore: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for bindings in plan.bindings:
        say(f"filling tables of {bindings} bindings")
        table = _core.BenchTable(bindings, plan.rte_hash, lcore)
        results.append(_built(table, bindings, plan.rte_hash))
        works = ["keys", *(name for work in plan.works for name in _with_rival(work, plan.rte_hash))]
        say(f"{', '.join(plan.works)} at {bindings} bindings")
        windows = table.measure(works, plan.common.windows, plan.common.seconds)
        cycles = {work: stats.cycles(windows[:, at]) for at, work in enumerate(works)}
        faults = {work: int(windows[:, at, 2].sum()) for at, work in enumerate(works)}
        if any(faults.values()):
            raise AssertionError(f"operations that failed: {faults}")
        results += [_compared(work, bindings, cycles) for work in plan.works]
        del table  # before the next one: rte_hash takes DPDK's memory
    return results


def _with_rival(work: str, rte_hash: bool) -> list[str]:
    return [work, f"rte_{work}"] if rte_hash else [work]


def _compared(work: str, bindings: int, cycles: dict[str, Any]) -> dict[str, Any]:
    tsc_hz = _core.bench_tsc_hz()
    result: dict[str, Any] = {
        "name": f"table.{work}",
        "unit": _UNITS[work],
        "bindings": bindings,
        "frame_octets": 0,
        "features": [],
        **stats.costs(cycles[work], tsc_hz),
    }
    rival = cycles.get(f"rte_{work}")
    if rival is not None:
        result["rte_hash"] = stats.costs(rival, tsc_hz)
        result["times_faster_than_rte_hash"] = stats.ratio(rival, cycles[work])
    if work in LOOK_UPS:
        result["floor"] = stats.costs(cycles["keys"], tsc_hz)
    if work == "find":
        result["distance_to_floor"] = stats.ratio(cycles[work], cycles["keys"])
        if rival is not None:  # without the making of keys, which both pay
            keys = float(cycles["keys"].min())
            result["times_faster_net"] = round((float(rival.min()) - keys) / (float(cycles[work].min()) - keys), 3)
    return result


def _built(table: Any, bindings: int, rte_hash: bool) -> dict[str, Any]:
    tsc_hz = _core.bench_tsc_hz()
    cycles, octets, writer = table.built
    result: dict[str, Any] = {
        "name": "table.build",
        "unit": "bindings",
        "bindings": bindings,
        "frame_octets": 0,
        "features": [],
        **stats.costs(np.array(cycles) / bindings, tsc_hz),
        "octets_per_binding": round(octets / bindings, 2),
        "writer_octets_per_binding": round(writer / bindings, 2),
    }
    if rte_hash:
        rival, rival_octets, _ = table.rte_built
        result["rte_hash"] = {
            **stats.costs(np.array(rival) / bindings, tsc_hz),
            "octets_per_binding": round(rival_octets / bindings, 2),
        }
    return result
