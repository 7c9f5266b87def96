"""From a binary snapshot on disk to the first packets forwarded, when DPDK is up already."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pylwaftr import _core, binding_files
from pylwaftr.bench import forward, stats
from pylwaftr.bench.plan import Start, frames

BURST_S = 0.0005  # of forwarding: some bursts are enough to have forwarded
STEPS = ("read", "bind", "forward")


def need_mib(_plan: Start) -> int:
    return forward.MBUFS * 4096 // (1 << 20) + 64


def run(plan: Start, lcore: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    ports = _core.BenchPorts(list(forward.DEVICES), forward.MBUFS, forward.DATA_ROOM, [forward.MTU4, forward.MTU6])
    results = []
    with tempfile.TemporaryDirectory(prefix="pylwaftr-bench-") as folder:
        path = Path(folder) / "bindings.snapshot"
        for bindings in plan.bindings:
            say(f"writing a snapshot of {bindings} bindings")
            binding_files.save(path, _core.bench_rows(0, bindings))
            say(f"starting with {bindings} bindings")
            times = np.array([_once(ports, path, bindings, lcore) for _ in range(plan.times)])
            results.append(_result(times, bindings))
    return results


def _once(ports: Any, path: Path, bindings: int, lcore: int) -> list[float]:
    """Seconds of each step."""
    v4, v6 = frames("64")
    marks = [time.perf_counter()]
    loaded = binding_files.load(path, bytes(16))
    marks.append(time.perf_counter())
    table = _core.BindingTable(bindings)
    if table.bind(loaded.rows, _core.SOURCE_CONFIG, 1)["added"] != bindings:
        raise AssertionError("the table did not take the bindings of the snapshot")
    marks.append(time.perf_counter())
    lane = _core.BenchLane(ports, forward.settings("default"), table)
    windows = _core.bench_forward(
        ports, [(lane, "both", bindings, v4, v6, False, forward.MACS)], 1, BURST_S, 0.0, lcore
    )
    if windows[:, :, 2].any():
        raise AssertionError(f"packets left by no edge: {lane.counters()}")
    marks.append(time.perf_counter())
    return [float(step) for step in np.diff(marks)]


def _result(times: Any, bindings: int) -> dict[str, Any]:
    tsc_hz = _core.bench_tsc_hz()
    whole = times.sum(axis=1)
    return {
        "name": "start.snapshot",
        "unit": "bindings",
        "bindings": bindings,
        "frame_octets": 0,
        "features": [],
        **stats.costs(whole * tsc_hz / bindings, tsc_hz),
        "seconds": stats.seconds(whole),
        **{f"{step}_seconds": stats.seconds(times[:, at]) for at, step in enumerate(STEPS)},
    }
