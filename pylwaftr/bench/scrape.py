"""A scrape of the metrics: of any router, and of a stand-in for one with 16 workers."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np

from pylwaftr import _core
from pylwaftr.bench.latencies import latencies
from pylwaftr.config.values import Endpoint
from pylwaftr.daemon.metrics_port import MetricsPort
from pylwaftr.daemon.router import COUNTERS
from pylwaftr.telemetry.histogram import Reading
from pylwaftr.telemetry.values import Fill, Value


def scraped(name: str, url: str, count: int, goal: str = "") -> dict[str, Any]:
    took = []
    for _ in range(count + 1):  # the first finds nothing warm
        began = time.perf_counter()
        with urllib.request.urlopen(url) as answer:
            octets = len(answer.read())
        took.append(time.perf_counter() - began)
    return {**latencies(name, took[1:], goal), "octets": octets}


def many_workers(count: int) -> dict[str, Any]:
    port = MetricsPort(Endpoint("127.0.0.1", 0), _ManyWorkers())
    try:
        return scraped("api.scrape, 16 workers", f"http://127.0.0.1:{port.port}/metrics", count, "<= 5 ms")
    finally:
        port.close()


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
