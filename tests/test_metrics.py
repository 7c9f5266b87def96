"""The metrics endpoint: what the router shows, and what a scrape says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pylwaftr.telemetry.histogram import Histogram, Reading
from pylwaftr.telemetry.metrics import RouterCollector
from pylwaftr.telemetry.values import Fill, Value

BUILD = {"version": "1.2.3", "march": "x86-64-v3", "dpdk": "22.11"}


class Shown:
    """A router of two workers, the second with a quarter of the frames."""

    def counters(self) -> npt.NDArray[np.uint64]:
        return np.array([[3], [1]], np.uint64)

    def workers(self) -> Sequence[Mapping[str, Any]]:
        return [
            {"lcore": 1, "queues": [{"rx_packets": 200}, {"rx_packets": 100}]},
            {"lcore": 2, "queues": [{"rx_packets": 100}]},
        ]

    def ports(self) -> Sequence[Mapping[str, Any]]:
        return [{"device": "net_tap0,iface=x", "link_up": True, "rx_missed": 5, "rx_errors": 1, "tx_errors": 2}]

    def neighbors(self) -> Mapping[str, Mapping[str, Any]]:
        return {"v4": {"mac": b"123456"}, "v6": {"mac": None}}

    def fill(self) -> Fill:
        return Fill(bindings=90, room=95, slots=100, memory=5000, reader_memory=3000)

    def bindings_by_source(self) -> Mapping[str, int]:
        return {"config": 40, "pcp": 50}

    def health(self) -> Mapping[str, bool]:
        return {"dataplane": True, "store": False}

    def update_seconds(self) -> Mapping[str, Reading]:
        histogram = Histogram()
        for seconds in (0.0001, 0.002, 99.0):
            histogram.add(seconds)
        return {"pcp": histogram.read()}

    def services(self) -> Iterable[Value]:
        yield Value("lwaftr_pcp_requests", "PCP requests answered", "counter", {"result": "0"}, 7)
        yield Value("lwaftr_pcp_requests", "PCP requests answered", "counter", {"result": "8"}, 1)
        yield Value("lwaftr_pcp_mappings", "PCP mappings", "gauge", {}, 50)


@pytest.fixture
def scraped() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry()
    registry.register(RouterCollector(Shown(), BUILD))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


# name, labels, value
ROWS = [
    ("lwaftr_build_info", {"version": "1.2.3", "march": "x86-64-v3", "dpdk": "22.11"}, 1),
    ("lwaftr_worker_share", {"worker": "0", "lcore": "1"}, 0.75),
    ("lwaftr_worker_share", {"worker": "1", "lcore": "2"}, 0.25),
    ("lwaftr_port_up", {"port": "net_tap0"}, 1),
    ("lwaftr_port_missed_packets_total", {"port": "net_tap0"}, 5),
    ("lwaftr_port_error_packets_total", {"port": "net_tap0", "direction": "tx"}, 2),
    ("lwaftr_next_hop_resolved", {"side": "v4"}, 1),
    ("lwaftr_next_hop_resolved", {"side": "v6"}, 0),
    ("lwaftr_part_healthy", {"part": "dataplane"}, 1),
    ("lwaftr_part_healthy", {"part": "store"}, 0),
    ("lwaftr_bindings", {"source": "pcp"}, 50),
    ("lwaftr_table_room", {}, 95),
    ("lwaftr_table_fill_ratio", {}, 0.9),
    ("lwaftr_table_memory_bytes", {"part": "writer"}, 2000),
    ("lwaftr_update_seconds_bucket", {"source": "pcp", "le": "0.0001"}, 1),
    ("lwaftr_update_seconds_bucket", {"source": "pcp", "le": "0.0025"}, 2),
    ("lwaftr_update_seconds_bucket", {"source": "pcp", "le": "10.0"}, 2),
    ("lwaftr_update_seconds_count", {"source": "pcp"}, 3),
    ("lwaftr_pcp_requests_total", {"result": "8"}, 1),
    ("lwaftr_pcp_mappings", {}, 50),
]


@pytest.mark.parametrize("name, labels, value", ROWS, ids=[f"{row[0]}{sorted(row[1].values())}" for row in ROWS])
def test_a_scrape(scraped: dict[Any, float], name: str, labels: dict[str, str], value: float) -> None:
    assert scraped[name, tuple(sorted(labels.items()))] == value
