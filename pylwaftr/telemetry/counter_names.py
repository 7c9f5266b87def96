"""The counter table as Prometheus families: names, types and texts follow from each counter's name, kind and unit.

kind        family                          labels beside worker
rx, tx      lwaftr_rx_packets_total         side
edge        lwaftr_edge_packets_total       edge      where a received packet went
drop        lwaftr_drop_packets_total       reason    why it went nowhere
held        lwaftr_held_packets (gauge)     reason    what it waits for
info        lwaftr_NAME_total               side, for names with v4 or v6 before the unit
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pylwaftr.telemetry.values import Described

_SIDES = ("v4", "v6")


_DIRECTION = {"rx": "received", "tx": "sent"}


def place(counter: Described) -> tuple[str, str, str, str]:
    """Family (without _total), label beside worker ("" = none), its value, and the family's help."""
    what, kind = counter.name, counter.kind
    if kind in ("rx", "tx"):
        return f"lwaftr_{kind}_packets", "side", what.removeprefix(f"{kind}_"), f"Frames, {_DIRECTION[kind]}"
    if kind == "edge":
        return "lwaftr_edge_packets", "edge", what, "Received packets by where they went"
    if kind == "drop":
        return "lwaftr_drop_packets", "reason", what.removeprefix("drop_"), "Received packets that were dropped"
    if kind == "held":
        return "lwaftr_held_packets", "reason", what.removeprefix("held_"), "Received packets that wait"
    words = what.split("_")
    sides = [word for word in words if word in _SIDES]
    if len(sides) == 1 and words[0] in _DIRECTION and words[-1] == "bytes":
        return f"lwaftr_{words[0]}_bytes", "side", sides[0], f"Octets of frames, {_DIRECTION[words[0]]}"
    return f"lwaftr_{what}", "", "", counter.help


def families(counters: Sequence[Described]) -> Callable[[npt.NDArray[np.uint64]], Iterable[Metric]]:
    """A function from [worker, counter] to the families."""
    places = [place(counter) for counter in counters]

    def collect(values: npt.NDArray[np.uint64]) -> Iterator[Metric]:
        found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for column, (counter, (name, label, value, help_)) in enumerate(zip(counters, places, strict=True)):
            labels = [label, "worker"] if label else ["worker"]
            if name not in found:
                made = GaugeMetricFamily if counter.kind == "held" else CounterMetricFamily
                found[name] = made(name, help_, labels=labels)
            for worker, count in enumerate(values[:, column].tolist()):
                found[name].add_metric([value, str(worker)] if label else [str(worker)], count)
        yield from found.values()

    return collect
