"""The counter table as Prometheus families: one table, three forms (names, JSON, metrics)."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from pylwaftr.daemon.router import COUNTERS
from pylwaftr.telemetry.counter_names import families, place

VALUES = np.arange(2 * len(COUNTERS), dtype=np.uint64).reshape(2, -1)


class Table(Collector):
    def collect(self) -> list[Metric]:
        return list(families(COUNTERS)(VALUES))


@pytest.fixture(scope="module")
def scraped() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    registry = CollectorRegistry()
    registry.register(Table())
    parsed = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in parsed for s in family.samples}


# counter, family as scraped, label
ROWS = [
    ("rx_v4", "lwaftr_rx_packets_total", {"side": "v4"}),
    ("tx_v6", "lwaftr_tx_packets_total", {"side": "v6"}),
    ("rx_v6_bytes", "lwaftr_rx_bytes_total", {"side": "v6"}),
    ("encap", "lwaftr_edge_packets_total", {"edge": "encap"}),
    ("drop_no_binding", "lwaftr_drop_packets_total", {"reason": "no_binding"}),
    ("held_fragment_v4", "lwaftr_held_packets", {"reason": "fragment_v4"}),
    ("hairpin_bytes", "lwaftr_hairpin_bytes_total", {}),
    ("icmp4_suppressed", "lwaftr_icmp4_suppressed_total", {}),
    ("busy_cycles", "lwaftr_busy_cycles_total", {}),
]


@pytest.mark.parametrize("counter, family, label", ROWS, ids=[row[0] for row in ROWS])
def test_a_counter_is_where_it_belongs(
    scraped: dict[tuple[str, frozenset[tuple[str, str]]], float], counter: str, family: str, label: dict[str, str]
) -> None:
    column = [info.name for info in COUNTERS].index(counter)
    for worker in range(2):
        assert scraped[family, frozenset((label | {"worker": str(worker)}).items())] == VALUES[worker, column]


def test_every_counter_is_there_once(scraped: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> None:
    assert len(scraped) == VALUES.size
    assert sorted(scraped.values()) == VALUES.ravel().tolist()


def test_a_name_ends_in_its_unit() -> None:
    for info in COUNTERS:
        name = place(info)[0]
        assert not name.endswith("_total")
        assert "octets" not in name
