"""The control side of a running router from outside: bulk load, import, dump, single changes, scrape, start.

The router is in a process of its own (live.py) and forwards half of what it can meanwhile (traffic.py). What it says is
durable: SQLite store, synchronous writes. Every load starts with an empty state folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pylwaftr import _core, binding_files
from pylwaftr.api.client import Binding, Client
from pylwaftr.bench import live, scrape, traffic
from pylwaftr.bench.latencies import latencies, ms, pair, times
from pylwaftr.bench.live import Cpus, Live, Offer, Setup
from pylwaftr.bench.traffic import Load, Tally, Windows
from pylwaftr.rows import Rows, text4, text6

Say = Callable[[str], None]
SPARE = 100_000  # room beside the bindings


@dataclass(frozen=True, slots=True)
class Plan:
    bindings: int = 1_000_000
    rounds: int = 3  # of what takes seconds
    creates: int = 1000
    create_rounds: int = 5
    scrapes: int = 50
    resident: int = 4_096  # bindings of the configuration: traffic goes to them while others are loaded
    after_start_s: float = 1.0  # so long it forwards on
    windows: Windows = field(default_factory=Windows)


QUICK = Plan(
    bindings=5_000, rounds=1, creates=20, scrapes=3, resident=1024, after_start_s=0.2, windows=Windows(3, 0.02)
)


def run(plan: Plan, say: Say) -> list[dict[str, Any]]:
    cpus = Cpus()
    with tempfile.TemporaryDirectory(prefix="pylwaftr-bench-") as name, cpus.with_control():
        bench = _Bench(plan, say, Path(name), cpus)
        return [*bench.loads(), *bench.with_all(), *bench.starts(), *bench.imports()]


@dataclass
class _Bench:
    plan: Plan
    say: Say
    folder: Path
    cpus: Cpus
    last: Path = field(init=False)  # of the last load
    maximum: float = field(init=False)  # of a router with all

    @property
    def loaded(self) -> range:
        return range(self.plan.bindings)

    @property
    def others(self) -> range:
        return range(self.loaded.stop, self.loaded.stop + self.plan.creates)

    @property
    def resident(self) -> range:
        return range(self.others.stop, self.others.stop + self.plan.resident)

    @contextmanager
    def _router(self, folder: Path, offer: Offer | None = None) -> Iterator[tuple[Live, Client]]:
        folder.mkdir(exist_ok=True)
        fleet = self.resident.stop
        setup = Setup(self.cpus, fleet + SPARE, fleet, self.resident)
        with live.router(folder, setup, offer) as router, Client(router.target, timeout_s=60) as client:
            yield router, client

    def _load(self, router: Live, client: Client, over: range) -> Load:
        load = Load(router, client, over)
        load.find_maximum(self.plan.windows)
        return load

    # --- bulk load over gRPC

    def loads(self) -> Iterator[dict[str, Any]]:
        whole, forwarding, peaks, starts, cpu, tally = [], [], [], [], [], Tally()
        rows = _rows(self.loaded)
        octets = rows.tobytes()
        for number in range(self.plan.rounds):
            self.last = self.folder / f"load{number}"
            self.say(f"loading {len(rows)} bindings, round {number + 1}")
            with self._router(self.last) as (router, client):
                starts.append(router.ready_s)
                load = self._load(router, client, self.resident)
                before = router.memory("VmRSS")
                watch = _Watch(router.target, rows[-1])
                with load.meanwhile(tally):
                    began, cpu_before = time.perf_counter(), router.control_cpu_s()
                    report = client.load(octets).report
                    whole.append(time.perf_counter() - began)
                    forwarding.append(watch.seen_at() - began)
                    cpu.append(router.control_cpu_s() - cpu_before)
                peaks.append(router.memory("VmHWM"))
                _expect(report.added, len(rows), "bindings loaded")
        yield {
            **times("api.load", whole, "<= 5 s to durable, <= 2 s to forwarding, <= 700 MiB; no packet lost"),
            "bindings": len(rows),
            "to_forwarding_s": pair(forwarding),
            "cpu_seconds": pair(cpu),
            "peak_rss_mib": max(peaks),
            "rss_before_mib": before,
            **tally.told(),
        }
        yield times("api.start, empty", starts)

    # --- what is asked of a router that has them all

    def with_all(self) -> Iterator[dict[str, Any]]:
        with self._router(self.last) as (router, client):
            load = self._load(router, client, self.loaded)
            self.maximum = load.maximum
            yield self._dump(client, load)
            yield from self._create(router, client, load)
            self.say("scraping")
            yield _under(load, lambda: scrape.scraped("api.scrape, this router", router.metrics, self.plan.scrapes))
            yield _under(load, lambda: scrape.many_workers(self.plan.scrapes))

    def _dump(self, client: Client, load: Load) -> dict[str, Any]:
        took, tally = [], Tally()
        for number in range(self.plan.rounds):
            self.say(f"dump, round {number + 1}")
            with load.meanwhile(tally):
                began = time.perf_counter()
                count = sum(len(sources) for _, sources in client.dump())
                took.append(time.perf_counter() - began)
            _expect(count, len(self.loaded) + len(self.resident), "bindings dumped")
        return {**times("api.dump", took, "<= 3 s; no packet lost"), "bindings": count, **tally.told()}

    def _create(self, router: Live, client: Client, load: Load) -> Iterator[dict[str, Any]]:
        """Call by call; until it is acknowledged (durable, and in the table), and until it forwards: a change bears the
        time at which it was in the table, and a watch tells it afterwards."""
        self.say("single changes")
        wanted = [_binding(row) for row in _rows(self.others)]
        acknowledged, began, tally = [], [], Tally()
        before = client.status().revision
        cpu = 0.0
        for number in range(self.plan.create_rounds):
            with load.meanwhile(tally):
                cpu -= router.control_cpu_s()
                for binding in wanted[number :: self.plan.create_rounds]:
                    began.append(time.time())
                    client.create(binding)
                    acknowledged.append(time.time() - began[-1])
                cpu += router.control_cpu_s()
        forwarded = [event.at.ToNanoseconds() / 1e9 for event in islice(client.watch(before), len(wanted))]
        found = latencies("api.create, to acknowledged", acknowledged, "no packet lost")
        yield found | {"cpu_ms_each": ms(cpu / len(wanted)), **tally.told()}
        took = [at - start for at, start in zip(forwarded, began, strict=True)]
        yield latencies("api.create, to forwarding", took, "median <= 1 ms, p99 <= 5 ms")
        with load.meanwhile(Tally()):
            health = [_timed(client.health) for _ in wanted]
        yield latencies("api.health, for comparison", health)

    # --- a start with traffic that waits for the first poll

    def starts(self) -> Iterator[dict[str, Any]]:
        ready, forwarding, tally = [], [], Tally()
        bindings = self.resident.stop
        for number in range(self.plan.rounds):
            self.say(f"starting with {bindings} bindings, round {number + 1}")
            before = traffic.before_start(self.cpus)
            with self._router(self.last, Offer(self.maximum * traffic.SHARE, self.loaded)) as (router, client):
                time.sleep(self.plan.after_start_s)
                Load(router, client, self.loaded).since(before, self.maximum, tally)
                ready.append(router.ready_s)
                forwarding.append(router.forwarding_s)
                _expect(client.status().bindings, bindings, "bindings after the start")
        yield {
            **times("api.start, with all", ready, "<= 2 s to forwarding; no packet lost"),
            "to_forwarding_s": pair(forwarding),
            "bindings": bindings,
            **tally.told(),
        }

    # --- a file by the command

    def imports(self) -> Iterator[dict[str, Any]]:
        file = self.folder / "bindings.csv"
        binding_files.save(file, _rows(self.loaded))
        took, tally = [], Tally()
        for number in range(self.plan.rounds):
            self.say(f"importing a file, round {number + 1}")
            with self._router(self.folder / f"import{number}") as (router, client):
                command = [sys.executable, "-m", "pylwaftr", "bindings", "import", str(file), "--json"]
                command += ["--server", router.target]
                with self._load(router, client, self.resident).meanwhile(tally):
                    began = time.perf_counter()
                    done = subprocess.run(command, capture_output=True, text=True, check=True, env=live.environment())
                    took.append(time.perf_counter() - began)
                _expect(json.loads(done.stdout)["rows"], len(self.loaded), "rows imported")
        yield {
            **times("api.import", took, "<= 8 s; no packet lost"),
            "bindings": len(self.loaded),
            "file_octets": file.stat().st_size,
            **tally.told(),
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


def _under(load: Load, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    tally = Tally()
    with load.meanwhile(tally):
        result = work()
    return result | tally.told()


def _rows(numbers: range) -> Rows:
    rows: Rows = _core.bench_rows(numbers.start, len(numbers))
    return rows


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


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
