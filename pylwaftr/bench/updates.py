"""Look-ups while another core changes, replaces or enlarges the table: rates, and that every answer was right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pylwaftr import _core
from pylwaftr.bench import stats
from pylwaftr.bench.plan import PlanFault, Updates

IDLE, BUSY, WRITING = range(3)
REPLACING, GROWING = range(2)
CYCLES, MISSED, WRONG, UPDATED, REPLACED, REFUSED, JOB = range(1, 8)


def need_mib(plan: Updates) -> int:
    return 64  # the tables are not in DPDK's memory


def check(plan: Updates) -> None:
    """Raises PlanFault."""
    if plan.batch > min(plan.bindings) // 8:
        raise PlanFault(f"--batch {plan.batch}: more than an eighth of {min(plan.bindings)} bindings")
    seconds = plan.common.seconds
    if slow := [rate for rate in plan.rates if rate and plan.batch / rate > seconds]:
        raise PlanFault(
            f"--rates {slow[0]:g}: {plan.batch} updates, a batch, take longer than a window of {seconds:g} s: "
            "ask for a smaller --batch or more --seconds"
        )


def run(plan: Updates, lcore: int, control: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    writer = control if plan.writer_cpu is None else plan.writer_cpu
    results: list[dict[str, Any]] = []
    for bindings in plan.bindings:
        for at, rate in enumerate(plan.rates):
            say(
                f"{bindings} bindings, {f'{rate:g} updates/s' if rate else 'updates flat out'}, batches of {plan.batch}"
            )
            common = plan.common
            count = plan.jobs if at == 0 else 0
            windows, jobs = _core.bench_updates(
                bindings, plan.batch, rate, common.windows, common.seconds, lcore, writer, count
            )
            results.append(_result(windows, bindings, rate, plan.batch))
            if count:
                results += [_job(jobs[:, which], name, bindings) for which, name in enumerate(("replace", "grow"))]
    return results


def _job(windows: Any, name: str, bindings: int) -> dict[str, Any]:
    """A job of the writer that is read through: its time per binding, and the readers' answers meanwhile."""
    tsc_hz = _core.bench_tsc_hz()
    read = windows[windows[:, 0] > 0]  # a small table is done before the reader begins
    return {
        "name": f"updates.{name}",
        "unit": "bindings",
        "bindings": bindings,
        "frame_octets": 0,
        "features": [],
        **stats.costs(windows[:, JOB] / bindings, tsc_hz),
        "seconds": stats.seconds(windows[:, JOB] / tsc_hz),
        **({"look_up_meanwhile": stats.costs(stats.cycles(read), tsc_hz)} if len(read) else {}),
        "look_ups": int(windows[:, 0].sum()),
        "missed": int(windows[:, MISSED].sum()),
        "wrong": int(windows[:, WRONG].sum()),
        "refused": int(windows[:, REFUSED].sum()),
    }


def _result(windows: Any, bindings: int, rate: float, batch: int) -> dict[str, Any]:
    tsc_hz = _core.bench_tsc_hz()
    idle, busy, writing = (stats.cycles(windows[:, phase]) for phase in (IDLE, BUSY, WRITING))
    while_writing = windows[:, WRITING]
    rates = while_writing[:, UPDATED] / (while_writing[:, CYCLES] / tsc_hz)
    return {
        "name": "updates.find",
        "unit": "look-ups",
        "bindings": bindings,
        "frame_octets": 0,
        "features": [],
        "batch": batch,
        "wanted_updates_per_second": rate,
        **stats.costs(writing, tsc_hz),
        "other_core_idle": stats.costs(idle, tsc_hz),
        "other_core_busy": stats.costs(busy, tsc_hz),
        # 1 = writing costs the reader nothing beyond a busy neighbour.
        "rate_kept": stats.ratio(busy, writing),
        "updates_per_second": {"best": round(float(rates.max())), "median": round(float(np.median(rates)))},
        "look_ups": int(windows[:, :, 0].sum()),
        "look_ups_while_writing": int(while_writing[:, 0].sum()),
        "updates": int(while_writing[:, UPDATED].sum()),
        "replaced": int(while_writing[:, REPLACED].sum()),
        "missed": int(windows[:, :, MISSED].sum()),
        "wrong": int(windows[:, :, WRONG].sum()),
        "refused": int(windows[:, :, REFUSED].sum()),
    }
