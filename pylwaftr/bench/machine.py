"""What was measured on, for whoever reads the numbers later."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from pylwaftr import _core

ROOT = Path(__file__).resolve().parents[2]


def cpu_model(cpuinfo: str) -> str:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def commit(root: Path = ROOT) -> str:
    """The commit of the source tree, with a mark if the tree differs from it; `unknown` outside of one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def free_hugepages_mib() -> int:
    free = 0
    for size in Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        kibibytes = int(size.name.removeprefix("hugepages-").removesuffix("kB"))
        free += int((size / "free_hugepages").read_text()) * kibibytes // 1024
    return free


def _built_for() -> tuple[str, str]:
    try:
        from pylwaftr._build_info import DPDK, MARCH
    except ModuleNotFoundError:
        return "unknown", "unknown"
    return MARCH, DPDK


def _transparent() -> str:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    return text.partition("[")[2].partition("]")[0] or "unknown"


def describe(tsc_hz: int, hugepages: str, *cpus: int) -> dict[str, Any]:
    march, dpdk = _built_for()
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "tsc_hz": tsc_hz,
        "cores": os.cpu_count(),
        "measured_cpu": cpus[0],
        "measured_cpus": list(cpus),
        "kernel": platform.release(),
        "hugepages": hugepages,  # of DPDK's own memory
        "transparent_hugepages": _transparent(),  # what the binding table asks for
        "isa": march,
        "table_scan": _core.table_scan(),  # how the binding table searches a bucket on this CPU
        "dpdk": dpdk,
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }
