"""A router of its own for the benchmarks of the control side: what `pylwaftr run` does, with a state folder.

Its ports are net_null with sources of traffic behind them (router_process.py): frames arrive at a rate by the clock and
wait in a ring as a NIC's, so a worker that is held up for too long loses them, and that is counted. Traffic goes over
bindings by formula, `_core.bench_rows()`, by their numbers.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pylwaftr import _core, binding_files, eal_args
from pylwaftr.api.client import CallFailed, Client
from pylwaftr.bench import parent
from pylwaftr.bench.paced import Words

BR = "2001:db8:ffff::1"
MACS = ("02:00:00:00:00:04", "02:00:00:00:00:06")
PEER = "02:00:00:00:00:99"
RING = 4096  # dataplane.rx_descriptors: what common NICs have at most (ice, mlx5)
READY_S, STOP_S, SETTLE_S = 120.0, 60.0, 20.0
_QUIET, _QUIET_S = 0.05, 0.3  # the control side uses less than this share of a CPU for so long


class LiveFault(Exception):
    """The router did not come up; the text says what it said."""


@dataclass(frozen=True, slots=True)
class Cpus:
    """The router's worker has the last one for itself. Clients stay with the control side: one on the worker's CPU
    would take it away."""

    allowed: frozenset[int] = field(default_factory=lambda: frozenset(os.sched_getaffinity(0)))

    @property
    def placement(self) -> eal_args.Placement:
        return eal_args.place([max(self.allowed)], self.allowed)

    @contextmanager
    def with_control(self) -> Iterator[None]:
        """This process, and those that it starts meanwhile."""
        _keep_to(self.placement.control)
        try:
            yield
        finally:
            _keep_to(self.allowed)


def _keep_to(cpus: Iterable[int]) -> None:
    """All threads that are there; those that come do as the one that starts them."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(int(task.name), cpus)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a router is made of."""

    cpus: Cpus
    room: int  # bindings that fit
    fleet: int  # traffic may go over the first so many bindings of the formula
    resident: range  # of them those of the configuration
    more: dict[str, Any] = field(default_factory=dict)  # sections of the configuration


@dataclass(frozen=True, slots=True)
class Offer:
    """Traffic that is there before the worker is."""

    rate: float
    over: range


@dataclass(frozen=True, slots=True)
class Live:
    """A router that is ready."""

    process: subprocess.Popen[str]
    target: str
    metrics: str
    words: Words
    cpus: Cpus
    began: float  # perf_counter
    ready_s: float  # from then to its saying so
    forwarding_s: float  # and to its worker's having received a packet; without an offer the same

    @property
    def forwarding_at(self) -> float:
        return self.began + self.forwarding_s

    def memory(self, name: str) -> int:
        """MiB: VmRSS or VmHWM of /proc/…/status, and the hugepages, which the kernel counts by themselves."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return sum(int(status[one].split()[0]) for one in (name, "HugetlbPages")) // 1024

    def control_cpu_s(self) -> float:
        """CPU time of all threads but the worker: what neighbours on the machine cannot stretch."""
        ticks = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            head, _, tail = (task / "stat").read_text().rpartition(")")
            if not _is_worker(head.partition("(")[2]):
                ticks += sum(map(int, tail.split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def worker(self) -> Path:
        """Its folder below /proc."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return next(task for task in tasks if _is_worker((task / "comm").read_text()))

    def settle(self) -> bool:
        """Background work behind a job has been done; False when there is still some after SETTLE_S."""
        end = time.perf_counter() + SETTLE_S
        while time.perf_counter() < end:
            before = self.control_cpu_s()
            time.sleep(_QUIET_S)
            if self.control_cpu_s() - before <= _QUIET * _QUIET_S:
                return True
        return False


def _is_worker(name: str) -> bool:
    """Threads of DPDK that poll: their CPU time says nothing."""
    return name.startswith(("dpdk-worker", "lcore-worker", "rte-worker"))


def environment() -> dict[str, str]:
    """Compiled modules are kept, as where it is installed: from the second start on they are there."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    folder = Path(tempfile.gettempdir()) / f"pylwaftr-bench-{os.geteuid()}"
    return parent.named({"PYTHONPYCACHEPREFIX": str(folder)} | kept)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def router(folder: Path, setup: Setup, offer: Offer | None = None) -> Iterator[Live]:
    """State of an earlier router in the folder is taken up. Raises LiveFault."""
    api, metrics = free_port(), free_port()
    config, shared = folder / "router.yaml", folder / "words"
    config.write_text(yaml.safe_dump(_configuration(folder, setup, api, metrics)))
    shared.unlink(missing_ok=True)  # what an earlier router's worker has counted
    words = Words(shared)
    if offer is not None:
        words.offer(offer.rate, offer.over)
    command = [sys.executable, "-m", "pylwaftr.bench.router_process", *map(str, (config, shared, setup.fleet))]
    process, began = _launched(command, folder, setup.cpus)
    try:
        times = _wait(process, began, folder, words if offer is not None else None)
        scraped = f"http://127.0.0.1:{metrics}/metrics"
        yield Live(process, f"127.0.0.1:{api}", scraped, words, setup.cpus, began, *times)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _launched(command: list[str], folder: Path, cpus: Cpus) -> tuple[subprocess.Popen[str], float]:
    """It chooses among all CPUs, wherever this thread is kept to."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus.allowed)
    try:
        with (folder / "router.log").open("a") as log:
            began = time.perf_counter()
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment()), began
    finally:
        os.sched_setaffinity(0, before)


def _wait(process: subprocess.Popen[str], began: float, folder: Path, words: Words | None) -> tuple[float, float]:
    """Seconds to `ready`, and to the first packet that was received."""
    assert process.stdout is not None
    forwarding = None
    while words is not None and not select.select([process.stdout], [], [], 0.002)[0]:
        if forwarding is None and words.counts().given:
            forwarding = time.perf_counter() - began
    line = process.stdout.readline()
    if line.strip() != "ready":
        said = (folder / "router.log").read_text().strip().splitlines()
        raise LiveFault("the router did not start: " + "; ".join(said[-2:]))
    ready = time.perf_counter() - began
    return ready, forwarding or ready


def _configuration(folder: Path, setup: Setup, api: int, metrics: int) -> dict[str, Any]:
    resident = folder / "resident.snapshot"
    binding_files.save(resident, _core.bench_rows(setup.resident.start, len(setup.resident)))
    v4 = {"port": "net_null0,no-rx=1", "addresses": ["192.0.2.1/24"], "next_hop": "192.0.2.254"}
    v6 = {"port": "net_null1,no-rx=1", "addresses": ["2001:db8:fffe::2/64"], "next_hop": "2001:db8:fffe::1"}
    for side, mac in zip((v4, v6), MACS, strict=True):
        side |= {"mac": mac, "next_hop_mac": PEER}
    return {
        "dataplane": {
            "max_bindings": setup.room,
            "lcores": list(setup.cpus.placement.workers),
            "rx_descriptors": RING,
        },
        "interfaces": {"v4": v4, "v6": v6},
        "softwire": {"br_addresses": [BR]},
        "bindings": {"file": str(resident)},
        "api": {"listen": f"127.0.0.1:{api}"},
        "metrics": {"listen": f"127.0.0.1:{metrics}"},
        "state": {"directory": str(folder / "state")},
        "logging": {"level": "warning"},
    } | setup.more


def wait_for(client: Client, ipv4: str, psid: int, limit_s: float = 60.0, pause_s: float = 0.0) -> float:
    """The time (perf_counter) at which the table has that binding."""
    end = time.perf_counter() + limit_s
    while True:
        try:
            client.get(ipv4, psid)
            return time.perf_counter()
        except CallFailed as fault:
            if fault.code != "NOT_FOUND":
                raise
        if time.perf_counter() > end:
            raise TimeoutError(f"{ipv4} PSID {psid} is not bound after {limit_s:.0f} seconds")
        time.sleep(pause_s)
