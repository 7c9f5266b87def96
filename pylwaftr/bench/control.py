"""`pylwaftr bench api | pcp | sync`: the control side. One JSON document each, and the same as lines for people."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pylwaftr import _core
from pylwaftr.bench import api, child, machine, pcp, pcp_storm, pcp_way, plan, sync
from pylwaftr.daemon import pauses

Say = Callable[[str], None]
ROUTERS = "auto"  # the router is a process of its own and takes hugepages if there are enough


def run_api(wanted: api.Plan, say: Say) -> dict[str, Any]:
    return _document("api", asdict(wanted), lambda: api.run(wanted, say), ROUTERS)


def run_sync(wanted: sync.Plan, say: Say) -> dict[str, Any]:
    return _document("sync", asdict(wanted), lambda: sync.run(wanted, say), ROUTERS)


def run_pcp(core: pcp.Plan, way: pcp_way.Plan, storm: pcp_storm.Plan, say: Say) -> dict[str, Any]:
    """Starts DPDK in this process."""
    running = child.start(plan.Common(), pcp_way.NEED_MIB)
    pauses.shorten()

    def results() -> list[dict[str, Any]]:
        say("the server's core")
        found = pcp.results(core)
        found.append(pcp.memory(core))
        with tempfile.TemporaryDirectory(prefix="pylwaftr-bench-") as folder:
            found += pcp_way.run(way, Path(folder), say)
            return found + pcp_storm.run(storm, Path(folder), child.LCORE, say)

    return _document(
        "pcp",
        {"core": asdict(core), **asdict(way), "storm": asdict(storm)},
        results,
        running.hugepages,
        running.remarks,
    )


def _document(
    kind: str,
    wanted: dict[str, Any],
    results: Callable[[], list[dict[str, Any]]],
    hugepages: str = "none",
    remarks: tuple[str, ...] = (),
) -> dict[str, Any]:
    before = [round(value, 2) for value in os.getloadavg()]
    found = results()
    described = machine.describe(_core.bench_tsc_hz() if _core.eal_running() else 0, hugepages, _last_cpu())
    return {
        "machine": {**described, "load_average_before": before, "remarks": list(remarks)},
        "commit": machine.commit(),
        "plan": {"kind": kind, **wanted},
        "results": found,
    }


def _last_cpu() -> int:
    """Where the router's worker is."""
    return max(os.sched_getaffinity(0))


def lines(document: dict[str, Any]) -> Iterator[str]:
    about = document["machine"]
    yield f"{about['cpu']}, {about['cores']} CPUs, load {about['load_average_before'][0]} to {about['load_average'][0]}"
    yield from (f"note: {remark}" for remark in about["remarks"])
    yield "times and rates: best (median)"
    for result in document["results"]:
        goal = f"   [{result['goal']}]" if result.get("goal") else ""
        yield ""
        yield f"{result['name']}{goal}"
        for name, value in result.items():
            if name not in ("name", "goal", "unit", "apart"):
                yield f"  {name.replace('_', ' ')}: {_text(value)}"


def _text(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:,}" if isinstance(value, int | float) else str(value)
    if value.keys() == {"best", "median"}:
        return f"{value['best']:,} ({value['median']:,})"
    return ", ".join(f"{name.replace('_', ' ')} {_text(one)}" for name, one in value.items())
