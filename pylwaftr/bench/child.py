"""The measuring process: DPDK starts once in the life of a process, so every run of `pylwaftr bench` has its own.

Reads a plan as JSON from standard input. Writes one JSON object a line: {"progress": text} while it measures, at last
{"document": {machine, results}} or {"fault": sentence, "bad_input": whether another plan would help}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pylwaftr import _core, eal_args
from pylwaftr.bench import forward, machine, plan, ports, scaling, table, under_test, updates
from pylwaftr.bench import start as starting
from pylwaftr.bench.parent import end_with_parent
from pylwaftr.config import ConfigFaults
from pylwaftr.daemon.router import StartFault

LCORE = 1  # the measured one; EAL's main lcore sleeps
Say = Callable[[str], None]
_BAD_INPUT = (plan.PlanFault, eal_args.PlacementFault, ConfigFaults)
_FAULTS = (
    *_BAD_INPUT,
    ports.Unanswered,
    eal_args.MemoryFault,
    _core.EalError,
    _core.PortError,
    StartFault,
    OSError,
    MemoryError,
)


@dataclass(frozen=True, slots=True)
class Running:
    """DPDK is up."""

    placement: eal_args.Placement
    hugepages: str
    remarks: tuple[str, ...]


def memory_for(wanted: str, need_mib: int, free_mib: int) -> eal_args.Memory:
    """Never in files: several runs may stand side by side, and nothing attaches to them."""
    if wanted != "never" and free_mib >= need_mib:
        return eal_args.Memory(("--in-memory",))
    have = f"{need_mib} MiB of hugepages are needed and {free_mib} MiB are free (scripts/hugepages.sh)"
    if wanted == "always":
        raise eal_args.MemoryFault(have)
    remark = "packet buffers and rte_hash lie in 4 KiB pages, which costs them speed"
    return eal_args.Memory(
        ("--no-huge", "--no-shconf", "-m", str(need_mib)), remark if wanted == "never" else f"{remark}: {have}"
    )


def start(common: plan.Common, need_mib: int) -> Running:
    allowed = os.sched_getaffinity(0)
    if common.cpu is not None:
        available("--cpu", [common.cpu], allowed)
    return start_on([max(allowed) if common.cpu is None else common.cpu], common.hugepages, need_mib)


def available(option: str, cpus: Iterable[int], allowed: Iterable[int]) -> None:
    """Raises PlanFault."""
    if missing := sorted(set(cpus) - set(allowed)):
        raise plan.PlanFault(f"{option}: CPU {_listed(missing)} is not available here: choose from {_listed(allowed)}")


def _listed(cpus: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(cpus)))


def start_on(cpus: Sequence[int], hugepages: str, need_mib: int, pci: Sequence[str] = ()) -> Running:
    placement = eal_args.place(cpus, sorted(os.sched_getaffinity(0)))
    memory = memory_for(hugepages, need_mib, machine.free_hugepages_mib())
    remarks = [] if memory.remark is None else [memory.remark]
    if placement.shared:
        remarks.append("the measured CPUs are all there are: whatever else runs here is measured too")
    os.sched_setaffinity(0, placement.control)
    _core.eal_init(eal_args.vector(placement, memory, pci, "error", (), telemetry=False))
    return Running(placement, "none" if "--no-huge" in memory.arguments else "hugetlb", tuple(remarks))


def _ports(wanted: plan.Ports, say: Say) -> tuple[Running, list[dict[str, Any]], list[str]]:
    say("reading the bindings")
    under = under_test.read(wanted)
    specs = ports.devices(wanted)
    allowed = os.sched_getaffinity(0)
    available("--cpus", wanted.cpus, allowed)
    cpus = wanted.cpus or (max(allowed),)
    pci = [spec.name for spec in specs if spec.pci]
    running = start_on(cpus, wanted.hugepages, ports.need_mib(wanted), pci)
    remarks: list[str] = []
    return running, ports.run(wanted, under, specs, running.placement.lcores, remarks, say), remarks


def _scaling(wanted: plan.Scaling, say: Say) -> tuple[Running, list[dict[str, Any]], list[dict[str, Any]]]:
    available("--cpus", wanted.cpus, os.sched_getaffinity(0))
    cpus = scaling.cpus_of(wanted)
    running = start_on(cpus, wanted.common.hugepages, scaling.need_mib(wanted, cpus))
    host = scaling.Host(cpus, tuple(sorted({*running.placement.control, *cpus})))
    results, models = scaling.run(wanted, host, say)
    if not scaling.ran_together(results):
        apart = "others had the CPUs of workers for some of the time: what workers cost each other is not seen"
        running = replace(running, remarks=(*running.remarks, apart))
    return running, results, models


def measure(wanted: plan.Plan, say: Say) -> dict[str, Any]:
    """The document. Starts DPDK."""
    remarks: list[str] = []
    more: dict[str, Any] = {}
    match wanted:
        case plan.Forward():
            running = start(wanted.common, forward.need_mib(wanted))
            results = forward.run(wanted, LCORE, say)
        case plan.Scaling():
            running, results, more["model"] = _scaling(wanted, say)
        case plan.Table():
            running = start(wanted.common, table.need_mib(wanted))
            results = table.run(wanted, LCORE, say)
        case plan.Updates():
            updates.check(wanted)
            available("--writer-cpu", [] if wanted.writer_cpu is None else [wanted.writer_cpu], os.sched_getaffinity(0))
            running = start(wanted.common, updates.need_mib(wanted))
            if wanted.writer_cpu in running.placement.workers:
                raise plan.PlanFault("--writer-cpu: that is the CPU that looks up: name another one, or another --cpu")
            results = updates.run(wanted, LCORE, running.placement.control[0], say)
        case plan.Start():
            running = start(wanted.common, starting.need_mib(wanted))
            results = starting.run(wanted, LCORE, say)
        case plan.Ports():
            running, results, remarks = _ports(wanted, say)
    described = machine.describe(_core.bench_tsc_hz(), running.hugepages, *running.placement.workers)
    return {
        "machine": {**described, "remarks": [*running.remarks, *remarks]},
        "commit": machine.commit(),
        "plan": plan.to_json(wanted),
        "results": results,
        **more,
    }


def _write(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> int:
    end_with_parent()
    wanted = plan.from_json(json.load(sys.stdin))
    try:
        document = measure(wanted, lambda text: _write({"progress": text}))
    except _FAULTS as fault:
        _write({"fault": str(fault) or "not enough memory", "bad_input": isinstance(fault, _BAD_INPUT)})
        return 1
    _write({"document": document})
    return 0


if __name__ == "__main__":
    sys.exit(main())
