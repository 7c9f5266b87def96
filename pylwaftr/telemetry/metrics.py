"""What Prometheus scrapes beside the counter table. Everything is read at the scrape; no binding has a label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pylwaftr.telemetry.values import Value, Watched


class RouterCollector(Collector):
    def __init__(self, watched: Watched, build: Mapping[str, str]) -> None:
        self._watched, self._build = watched, build

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("lwaftr_build", "Version, and what it was built for", value=dict(self._build))
        yield from self._workers()
        yield from self._ports()
        yield from self._table()
        yield from self._updates()
        yield from _services(self._watched.services())

    def _workers(self) -> Iterator[Metric]:
        queues = GaugeMetricFamily(
            "lwaftr_worker_share",
            "Part of all frames that this worker took from ports (before rss: software hands over); even: 1/workers",
            labels=["worker", "lcore"],
        )
        workers = self._watched.workers()
        received = [sum(int(queue["rx_packets"]) for queue in worker["queues"]) for worker in workers]
        whole = sum(received) or 1
        for number, (worker, own) in enumerate(zip(workers, received, strict=True)):
            queues.add_metric([str(number), str(worker["lcore"])], own / whole)
        yield queues

    def _ports(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("lwaftr_port_up", "1 while the link is up", labels=["port"])
        missed = CounterMetricFamily(
            "lwaftr_port_missed_packets", "Frames the port lost for want of a descriptor", labels=["port"]
        )
        errors = CounterMetricFamily("lwaftr_port_error_packets", "Frames with errors", labels=["port", "direction"])
        for port in self._watched.ports():
            name = str(port["device"]).partition(",")[0]
            up.add_metric([name], float(port["link_up"]))
            missed.add_metric([name], float(port["rx_missed"]))
            errors.add_metric([name, "rx"], float(port["rx_errors"]))
            errors.add_metric([name, "tx"], float(port["tx_errors"]))
        resolved = GaugeMetricFamily("lwaftr_next_hop_resolved", "1 while the next hop's MAC is known", labels=["side"])
        for side, neighbor in self._watched.neighbors().items():
            resolved.add_metric([side], float(neighbor["mac"] is not None))
        healthy = GaugeMetricFamily("lwaftr_part_healthy", "1 while this part serves", labels=["part"])
        for part, well in self._watched.health().items():
            healthy.add_metric([part], float(well))
        yield from (up, missed, errors, resolved, healthy)

    def _table(self) -> Iterator[Metric]:
        fill = self._watched.fill()
        bindings = GaugeMetricFamily("lwaftr_bindings", "Bindings that forward", labels=["source"])
        for source, count in self._watched.bindings_by_source().items():
            bindings.add_metric([source], count)
        yield bindings
        yield GaugeMetricFamily("lwaftr_table_room", "Bindings that fit", value=fill.room)
        yield GaugeMetricFamily("lwaftr_table_fill_ratio", "Part of the slots in use", value=fill.bindings / fill.slots)
        memory = GaugeMetricFamily("lwaftr_table_memory_bytes", "Memory of the table", labels=["part"])
        memory.add_metric(["readers"], fill.reader_memory)
        memory.add_metric(["writer"], fill.memory - fill.reader_memory)
        yield memory

    def _updates(self) -> Iterator[Metric]:
        text = "From a change's arrival to its being durable and in the fast path"
        family = HistogramMetricFamily("lwaftr_update_seconds", text, labels=["source"])
        for source, reading in self._watched.update_seconds().items():
            family.add_metric([source], list(reading.buckets), reading.total)
        yield family


def _services(values: Iterable[Value]) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for value in values:
        if value.name not in families:
            kind = CounterMetricFamily if value.kind == "counter" else GaugeMetricFamily
            families[value.name] = kind(value.name, value.help, labels=list(value.labels))
        families[value.name].add_metric(list(value.labels.values()), value.value)
    yield from families.values()
