"""bench_scaling.py [--json] [--bindings N]: one worker on each CPU alone, then on all CPUs at the same time.

Each worker is a `pylwaftr bench forward` of its own. Workers share nothing but their table, which they only read: what
they cost each other is what the hardware shares, a core's units between hyper-threads, L3 and memory between cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WINDOWS, SECONDS = 150, 0.005  # all workers have to be at it at the same time for most of it


def started(cpu: int, bindings: str) -> subprocess.Popen[str]:
    arguments = ["--directions", "both", "--bindings", bindings, "--windows", str(WINDOWS), "--seconds", str(SECONDS)]
    command = [sys.executable, "-m", "pylwaftr", "bench", "forward", *arguments, "--cpu", str(cpu), "--json"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def mpps(worker: subprocess.Popen[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """The machine, and the best and median rate."""
    text, _ = worker.communicate()
    if worker.returncode:
        raise SystemExit(f"a worker ended with {worker.returncode}")
    document = json.loads(text)
    return document, document["results"][0]["mpps"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bindings", default="1M")
    given = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    alone = []
    for cpu in cpus:
        document, rate = mpps(started(cpu, given.bindings))
        alone.append(rate)
    together = [mpps(worker)[1] for worker in [started(cpu, given.bindings) for cpu in cpus]]
    sums = {kind: sum(rate[kind] for rate in together) for kind in ("best", "median")}
    mean = {kind: sum(rate[kind] for rate in alone) / len(alone) for kind in ("best", "median")}
    result = {
        "machine": document["machine"],
        "commit": document["commit"],
        "bindings": given.bindings,
        "cpus": cpus,
        "alone_mpps": alone,
        "together_mpps": together,
        "sum_mpps": sums,
        "scaling": {kind: round(sums[kind] / mean[kind], 3) for kind in sums},
    }
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        for cpu, one, both in zip(cpus, alone, together, strict=True):
            print(f"CPU {cpu}: {one['best']:.1f} ({one['median']:.1f}) Mpps alone, {both['best']:.1f} with the others")
        print(f"together {sums['best']:.1f} ({sums['median']:.1f}) Mpps, {result['scaling']['median']:.2f} times one")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
