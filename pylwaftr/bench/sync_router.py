"""Leases into a running router that forwards half of what it can meanwhile: a bulk, a resync, changes, a stream.

Durable, like everything that a router says. Bulk and resync end when the router says that nothing is owed and nothing
waits; a change when it was in the table, which its watch tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pylwaftr.api.client import Client
from pylwaftr.bench import live, traffic
from pylwaftr.bench.latencies import latencies, ms
from pylwaftr.bench.live import Cpus, Live, Offer, Setup
from pylwaftr.bench.sync_leases import Leases, LeaseServer, Moves, lease_server
from pylwaftr.bench.traffic import Load, Tally, Windows

Say = Callable[[str], None]
READY_S = 600.0
LOOK_S = 0.05  # how often a router is asked
APART_S = 0.02  # between changes one by one
FEED_S = 0.005  # between lines of the stream


@dataclass(frozen=True, slots=True)
class Plan:
    leases: int = 1_000_000
    windows: int = 7
    changes: int = 100  # one by one
    rate: int = 24_000  # changes a second, above the goal: what is fed is what can be shown
    seconds: float = 5.0
    resident: int = 4_096  # bindings of the configuration: traffic goes to them during the first bulk
    maximum: Windows = field(default_factory=Windows)

    @property
    def changed(self) -> range:
        """Leases that begin one by one."""
        return range(self.leases, self.leases + self.changes)

    @property
    def static(self) -> range:
        return range(self.changed.stop, self.changed.stop + self.resident)

    @property
    def room(self) -> int:
        return self.static.stop + 65_536

    def moves(self, leases: Leases) -> Moves:
        """Of half of the leases at most: traffic goes to the others."""
        total = int(self.rate * self.seconds)
        return Moves(leases, min(total, self.leases // 2), total)


QUICK = Plan(leases=4_000, windows=2, changes=5, rate=500, seconds=0.5, resident=1024, maximum=Windows(3, 0.02))


def run(plan: Plan, leases: Leases, cpus: Cpus, folder: Path, say: Say) -> list[dict[str, Any]]:
    """A journal and a server anew: what was done with the one before would be in the way."""
    journal = folder / "journal2"
    say(f"writing a journal of {plan.leases} leases")
    leases.write(journal, range(plan.leases))
    with lease_server(journal) as server:
        return list(_Run(plan, leases, cpus, folder, journal, server, say).results())


@dataclass(frozen=True, slots=True)
class _Run:
    plan: Plan
    leases: Leases
    cpus: Cpus
    folder: Path
    journal: Path
    server: LeaseServer
    say: Say

    def results(self) -> Iterator[dict[str, Any]]:
        self.say("the greatest rate of a router without leases")
        with self._router("alone", {}) as (router, client):
            load = Load(router, client, self.plan.static)
            load.find_maximum(self.plan.maximum)
        servers = [{"address": "127.0.0.1", "port": self.server.port, "profile": "W", "require_tls": False}]
        before, offer = traffic.before_start(self.cpus), Offer(load.maximum * traffic.SHARE, self.plan.static)
        with self._router("leases", {"leasequery": {"servers": servers}}, offer) as (router, client):
            self.say("the bulk of a router")
            yield self._bulk(router, client, before, load.maximum)
            all_leases = Load(router, client, range(self.plan.leases))
            all_leases.find_maximum(self.plan.maximum)
            self.say("a resync of a router")
            yield self._resync(router, client, all_leases)
            self.say("changes of a router")
            yield self._changes(router, client, all_leases)
            self.say("a stream of changes of a router")
            yield self._stream(router, client)

    @contextmanager
    def _router(self, name: str, more: dict[str, Any], offer: Offer | None = None) -> Iterator[tuple[Live, Client]]:
        place = self.folder / name
        place.mkdir()
        setup = Setup(self.cpus, self.plan.room, self.plan.static.stop, self.plan.static, more)
        with live.router(place, setup, offer) as router, Client(router.target, timeout_s=60) as client:
            yield router, client

    def _bulk(self, router: Live, client: Client, before: traffic.Reading, maximum: float) -> dict[str, Any]:
        """It begins to ask as it says that it is ready. Traffic goes to the bindings of the configuration."""
        began, cpu, server_cpu, tally = time.perf_counter(), router.control_cpu_s(), self.server.cpu_s(), Tally()
        while (bound := client.status().bindings) < self.plan.leases + self.plan.resident:
            if time.perf_counter() - began > READY_S:
                raise TimeoutError(f"{bound} bindings after {READY_S:.0f} seconds")
            time.sleep(LOOK_S)
        took = time.perf_counter() - began
        cpu, server_cpu = router.control_cpu_s() - cpu, self.server.cpu_s() - server_cpu
        _until_current(client)
        Load(router, client, self.plan.static).since(before, maximum, tally)
        return {
            "name": "sync.router, bulk",
            "goal": "<= 5 s; no packet lost",
            "leases": self.plan.leases,
            "seconds": round(took, 2),
            "cpu_seconds": round(cpu, 2),
            "server_cpu_seconds": round(server_cpu, 2),
            "leases_per_s": round(self.plan.leases / took),
            "peak_rss_mib": router.memory("VmHWM"),
            **tally.told(),
        }

    def _resync(self, router: Live, client: Client, load: Load) -> dict[str, Any]:
        """All leases anew, and a sweep. Traffic goes to all of them."""
        tally = Tally()
        with load.meanwhile(tally):
            began, cpu, server_cpu = time.perf_counter(), router.control_cpu_s(), self.server.cpu_s()
            client.resync()
            _until_current(client)
            took = time.perf_counter() - began
            cpu, server_cpu = router.control_cpu_s() - cpu, self.server.cpu_s() - server_cpu
        return {
            "name": "sync.router, resync",
            "goal": "no packet lost",
            "leases": client.lease_sources()[0].leases,
            "bindings": client.status().bindings,
            "seconds": round(took, 2),
            "cpu_seconds": round(cpu, 2),
            "server_cpu_seconds": round(server_cpu, 2),
            **tally.told(),
        }

    def _changes(self, router: Live, client: Client, load: Load) -> dict[str, Any]:
        """From the line in the journal to the binding in the table, of which a watch tells afterwards: nobody asks
        meanwhile."""
        began, tally, revision = {}, Tally(), client.status().revision
        with load.meanwhile(tally), self.journal.open("a") as out:
            cpu, server_cpu = router.control_cpu_s(), self.server.cpu_s()
            for number in self.plan.changed:
                time.sleep(APART_S)
                line, key = self.leases.line(number), (str(self.leases.ipv4(number)), self.leases.key(number)[1])
                began[key] = time.time()
                out.write(line)
                out.flush()
            live.wait_for(client, *key, pause_s=LOOK_S)
            cpu, server_cpu = router.control_cpu_s() - cpu, self.server.cpu_s() - server_cpu
        took: list[float] = []
        for event in client.watch(revision):
            at = event.at.ToNanoseconds() / 1e9
            took += [at - began[one.ipv4, one.psid] for one in event.bindings]
            if len(took) == len(began):
                break
        return {
            **latencies("sync.router, change", took, "median <= 5 ms; no packet lost"),
            "cpu_ms_each": ms(cpu / len(took)),
            "server_cpu_ms_each": ms(server_cpu / len(took)),
            **tally.told(),
        }

    def _stream(self, router: Live, client: Client) -> dict[str, Any]:
        """Traffic goes to the leases that do not change."""
        moves, tally = self.plan.moves(self.leases), Tally()
        load = Load(router, client, range(moves.among, self.plan.leases))
        load.find_maximum(self.plan.maximum)
        lines = list(moves.lines(0, moves.total))  # before: whoever makes them has the control side's CPU
        with load.meanwhile(tally):
            cpu, began = router.control_cpu_s(), time.perf_counter()
            self._feed(lines, began)
            fed = time.perf_counter()
            number, b4 = moves.last
            while client.get(str(self.leases.ipv4(number)), self.leases.key(number)[1]).b4_ipv6 != str(b4):
                if time.perf_counter() - fed > READY_S:
                    raise TimeoutError("the last change has not arrived")
                time.sleep(0.002)
            done = time.perf_counter()
            cpu = router.control_cpu_s() - cpu
        return {
            "name": "sync.router, stream",
            "goal": ">= 20000 changes/s; no packet lost",
            "changes": moves.total,
            "per_s": round(moves.total / (done - began)),
            "cpu_microseconds_each": round(cpu / moves.total * 1e6, 1),
            "fed_per_s": round(moves.total / (fed - began)),
            "behind_at_the_end_ms": round((done - fed) * 1e3, 1),
            **tally.told(),
        }

    def _feed(self, lines: list[str], began: float) -> None:
        sent = 0
        with self.journal.open("a") as out:
            while sent < len(lines):
                due = min(len(lines), int((time.perf_counter() - began) * self.plan.rate))
                out.writelines(lines[sent:due])
                out.flush()
                sent = due
                time.sleep(FEED_S)


def _until_current(client: Client) -> None:
    """All that the server knows is in the table, and what it does not know is not."""
    end = time.perf_counter() + READY_S
    while True:
        source = client.lease_sources()[0]
        if not source.queued and not source.lag.ToNanoseconds():
            return
        if time.perf_counter() > end:
            raise TimeoutError(f"leases are not current after {READY_S:.0f} seconds: {source.state}")
        time.sleep(LOOK_S)
