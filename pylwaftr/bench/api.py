"""The control side of a running router from outside: bulk load, import, dump, single changes, scrape, start.

The router is `pylwaftr run` in a process of its own (live.py) whose data plane is as busy as it can be. What it says is
durable: SQLite store, synchronous writes. Every load starts with an empty state folder.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pylwaftr import _core, binding_files
from pylwaftr.api.client import Binding, Client
from pylwaftr.bench import live, stats
from pylwaftr.bench.live import Live, Traffic
from pylwaftr.config.values import Endpoint
from pylwaftr.daemon.metrics_port import MetricsPort
from pylwaftr.daemon.router import COUNTERS
from pylwaftr.rows import Rows, text4, text6
from pylwaftr.telemetry.histogram import Reading
from pylwaftr.telemetry.metrics import Fill, Value

Say = Callable[[str], None]
SPARE = 100_000  # room beside the bindings that are loaded


@dataclass(frozen=True, slots=True)
class Plan:
    bindings: int = 1_000_000
    rounds: int = 3  # of what takes seconds
    creates: int = 1000
    scrapes: int = 50


QUICK = Plan(bindings=5_000, rounds=1, creates=20, scrapes=3)


def run(plan: Plan, say: Say) -> list[dict[str, Any]]:
    rows = _core.bench_rows(0, plan.bindings + plan.creates)
    with tempfile.TemporaryDirectory(prefix="pylwaftr-bench-") as name:
        bench = _Bench(plan, say, Path(name), rows[: plan.bindings], rows[plan.bindings :])
        return [*bench.loads(), *bench.with_all(), *bench.imports(), _scrape_of_many(plan, say)]


@dataclass
class _Bench:
    plan: Plan
    say: Say
    folder: Path
    rows: Rows
    others: Rows
    last: Path = field(init=False)  # of the last load

    @property
    def room(self) -> int:
        return self.plan.bindings + SPARE

    @contextmanager
    def _router(self, folder: Path) -> Iterator[tuple[Live, Client]]:
        folder.mkdir(exist_ok=True)
        with live.router(folder, self.room) as router, Client(router.target, timeout_s=60) as client:
            yield router, client

    # --- bulk load over gRPC

    def loads(self) -> Iterator[dict[str, Any]]:
        whole, forwarding, peaks, starts, traffic, cpu = [], [], [], [], [], []
        octets = self.rows.tobytes()
        for number in range(self.plan.rounds):
            self.last = self.folder / f"load{number}"
            self.say(f"loading {len(self.rows)} bindings, round {number + 1}")
            with self._router(self.last) as (router, client):
                starts.append(router.ready_s)
                before = router.memory("VmRSS")
                watch = _Watch(router.target, self.rows[-1])
                meanwhile = Traffic(client)
                began, cpu_before = time.perf_counter(), router.control_cpu_s()
                report = client.load(octets).report
                whole.append(time.perf_counter() - began)
                forwarding.append(watch.seen_at() - began)
                cpu.append(router.control_cpu_s() - cpu_before)
                traffic.append(meanwhile.told())
                peaks.append(router.memory("VmHWM"))
                _expect(report.added, len(self.rows), "bindings loaded")
        yield {
            **_times("api.load", whole, "<= 5 s to durable, <= 2 s to forwarding, <= 700 MiB"),
            "bindings": len(self.rows),
            "to_forwarding_s": _pair(forwarding),
            "cpu_seconds": _pair(cpu),
            "peak_rss_mib": max(peaks),
            "rss_before_mib": before,
            "traffic": _sum(traffic),
        }
        yield _times("api.start, empty", starts, "")

    # --- what is asked of a router that has them all

    def with_all(self) -> Iterator[dict[str, Any]]:
        starts = []
        for number in range(self.plan.rounds):
            self.say(f"starting with {len(self.rows)} bindings, round {number + 1}")
            with self._router(self.last) as (router, client):
                starts.append(router.ready_s)
                _expect(client.status().bindings, len(self.rows) + 1, "bindings after the start")
        yield {**_times("api.start, with all", starts, "<= 2 s"), "bindings": len(self.rows)}
        with self._router(self.last) as (router, client):
            yield self._dump(client)
            with live.away_from_workers():  # a busy worker lets a client on its CPU wait for milliseconds
                yield from self._create(router, client)
                self.say("scraping")
                yield _scrape("api.scrape, this router", router.metrics, self.plan.scrapes)

    def _dump(self, client: Client) -> dict[str, Any]:
        took = []
        meanwhile = Traffic(client)
        for number in range(self.plan.rounds):
            self.say(f"dump, round {number + 1}")
            began = time.perf_counter()
            count = sum(len(sources) for _, sources in client.dump())
            took.append(time.perf_counter() - began)
            _expect(count, len(self.rows) + 1, "bindings dumped")
        return {**_times("api.dump", took, "<= 3 s"), "bindings": count, "traffic": meanwhile.told()}

    def _create(self, router: Live, client: Client) -> Iterator[dict[str, Any]]:
        """Call by call; until it is acknowledged (durable, and in the table), and until it forwards: a change bears the
        time at which it was in the table, and a watch tells it afterwards."""
        self.say("single changes")
        wanted = [_binding(row) for row in self.others]
        acknowledged, began = [], []
        before = client.status().revision
        meanwhile, cpu = Traffic(client), router.control_cpu_s()
        for binding in wanted:
            began.append(time.time())
            client.create(binding)
            acknowledged.append(time.time() - began[-1])
        cpu_ms = _ms((router.control_cpu_s() - cpu) / len(wanted))
        traffic = meanwhile.told()
        forwarded = [event.at.ToNanoseconds() / 1e9 for event in islice(client.watch(before), len(wanted))]
        found = _latencies("api.create, to acknowledged", acknowledged)
        yield found | {"cpu_ms_each": cpu_ms, "traffic": traffic}
        took = [at - start for at, start in zip(forwarded, began, strict=True)]
        yield _latencies("api.create, to forwarding", took, "median <= 1 ms, p99 <= 5 ms")
        yield _latencies("api.health, for comparison", [_timed(client.health) for _ in wanted])

    # --- a file by the command

    def imports(self) -> Iterator[dict[str, Any]]:
        file = self.folder / "bindings.csv"
        binding_files.save(file, self.rows)
        took, traffic = [], []
        for number in range(self.plan.rounds):
            self.say(f"importing a file, round {number + 1}")
            with self._router(self.folder / f"import{number}") as (router, client):
                command = [sys.executable, "-m", "pylwaftr", "bindings", "import", str(file), "--json"]
                meanwhile = Traffic(client)
                began = time.perf_counter()
                command += ["--server", router.target]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=live.environment())
                took.append(time.perf_counter() - began)
                traffic.append(meanwhile.told())
                _expect(json.loads(done.stdout)["rows"], len(self.rows), "rows imported")
        yield {
            **_times("api.import", took, "<= 8 s"),
            "bindings": len(self.rows),
            "file_octets": file.stat().st_size,
            "traffic": _sum(traffic),
        }


class _Watch:
    """Looks for a binding in a thread of its own, a hundred times a second."""

    def __init__(self, target: str, row: np.void) -> None:
        self._target, self._key = target, (text4(int(row["ipv4"])), int(row["psid"]))
        self._at = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        with Client(self._target, timeout_s=60) as client:
            self._at = live.wait_for(client, *self._key, pause_s=0.01)

    def seen_at(self) -> float:
        self._thread.join(60)
        return self._at


# --- scrape -----------------------------------------------------------------------------------------------------------


class _ManyWorkers:
    """Stands in for a router of 16 workers, which this machine has no cores for: telemetry.metrics.Watched."""

    workers_wanted = 16

    def __init__(self) -> None:
        self._counters = np.arange(self.workers_wanted * len(COUNTERS), dtype=np.uint64).reshape(-1, len(COUNTERS))
        self._counters <<= np.uint64(20)
        self._table = _core.BindingTable(1000)

    def counters(self) -> Any:
        return self._counters.copy()

    def workers(self) -> Any:
        queues = [{"port": port, "queue": 0, "rx_packets": 1 << 40} for port in range(2)]
        return [{"lcore": number + 1, "queues": queues} for number in range(self.workers_wanted)]

    def ports(self) -> Any:
        one = {"link_up": True, "rx_missed": 1, "rx_errors": 2, "tx_errors": 3}
        return [{"device": f"0000:81:00.{number}", **one} for number in range(2)]

    def neighbors(self) -> Any:
        return {side: {"mac": bytes(6)} for side in ("v4", "v6")}

    def fill(self) -> Fill:
        table = self._table
        return Fill(table.size, table.capacity, table.slots, table.memory, table.reader_memory)

    def bindings_by_source(self) -> dict[str, int]:
        return {"config": 1, "operator": 2, "dhcp": 3, "pcp": 4}

    def health(self) -> dict[str, bool]:
        return {"dataplane": True, "store": True, "pcp": True, "leasequery": True}

    def update_seconds(self) -> dict[str, Reading]:
        return {}

    def services(self) -> Iterator[Value]:
        yield from ()


def _scrape_of_many(plan: Plan, say: Say) -> dict[str, Any]:
    say("scraping 16 workers")
    port = MetricsPort(Endpoint("127.0.0.1", 0), _ManyWorkers())
    try:
        found = _scrape("api.scrape, 16 workers", f"http://127.0.0.1:{port.port}/metrics", plan.scrapes, "<= 5 ms")
    finally:
        port.close()
    return found


def _scrape(name: str, url: str, count: int, goal: str = "") -> dict[str, Any]:
    took = []
    for _ in range(count + 1):  # the first finds nothing warm
        began = time.perf_counter()
        with urllib.request.urlopen(url) as answer:
            octets = len(answer.read())
        took.append(time.perf_counter() - began)
    return {**_latencies(name, took[1:], goal), "octets": octets}


# --- numbers ----------------------------------------------------------------------------------------------------------


def _binding(row: np.void) -> Binding:
    return Binding(
        ipv4=text4(int(row["ipv4"])),
        psid_offset=int(row["psid_offset"]),
        psid_len=int(row["psid_len"]),
        psid=int(row["psid"]),
        b4_ipv6=text6(row["b4"].tobytes()),
    )


def _expect(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{found} {what}, not {wanted}")


def _pair(seconds: list[float]) -> dict[str, float]:
    return stats.pair(min(seconds), statistics.median(seconds))


def _times(name: str, seconds: list[float], goal: str) -> dict[str, Any]:
    return {"name": name, "goal": goal, "rounds": len(seconds), "seconds": _pair(seconds)}


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _latencies(name: str, seconds: list[float], goal: str = "") -> dict[str, Any]:
    ordered = sorted(seconds)
    return {
        "name": name,
        "goal": goal,
        "count": len(seconds),
        "ms": {
            "best": _ms(ordered[0]),
            "median": _ms(statistics.median(ordered)),
            "p99": _ms(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]),
        },
    }


def _sum(told: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "forwarded": sum(one["forwarded"] for one in told),
        "lost": sum(one["lost"] for one in told),
        "mpps": round(statistics.median(one["mpps"] for one in told), 3),
    }
