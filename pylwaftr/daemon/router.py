"""Table, ports and workers of this process, and what can be seen of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pylwaftr import _core, rows
from pylwaftr.config import Config, binding_rows, core_settings
from pylwaftr.eal_args import Buffers

log = logging.getLogger("pylwaftr")


class StartFault(Exception):
    """The router cannot start or go on; the text is one sentence with the remedy."""


class CounterInfo(NamedTuple):
    name: str
    kind: str
    unit: str
    requirement: str
    help: str


COUNTERS: tuple[CounterInfo, ...] = tuple(CounterInfo(*entry) for entry in _core.COUNTERS)

Totals = npt.NDArray[np.uint64]  # one value per counter, summed over the workers


@dataclass(frozen=True, slots=True)
class Sample:
    """What a watcher of a running router sees."""

    at: float
    totals: Totals
    neighbors: dict[str, Any]
    ports: list[dict[str, Any]]


class Router:
    """Table, ports and workers of this process."""

    def __init__(
        self,
        config: Config,
        table: _core.BindingTable,
        devices: Sequence[str],
        lcores: Sequence[int],
        buffers: Buffers,
        secret: int,
        split_queues: bool = False,
    ) -> None:
        self.table = table
        try:
            self.engine = _core.Engine(
                core_settings(config),
                table,
                list(devices),
                list(lcores),
                mbufs=buffers.count,
                data_room=buffers.data_room,
                held_limit=buffers.held_limit,
                offloads=config.dataplane.offloads,
                split_queues=split_queues,
                secret=secret,
                rss=config.dataplane.rss,
                rx_descriptors=config.dataplane.rx_descriptors,
            )
        except (_core.PortError, _core.EalError) as fault:
            raise StartFault(str(fault)) from None
        for remark in self.remarks():
            log.warning("%s", remark)

    def remarks(self) -> list[str]:
        """What could not be set up as asked for; where the table's memory lies may change while it fills and grows."""
        return [*self.engine.remarks, *self.table.remarks]

    def start(self) -> None:
        try:
            self.engine.start()
        except (_core.PortError, _core.EalError) as fault:
            raise StartFault(str(fault)) from None

    def inject(self, packets: Sequence[bytes]) -> None:
        """Whole IPv6 packets for the IPv6 side. What does not fit the ring is lost, as on a wire."""
        if packets:
            lengths = np.fromiter(map(len, packets), np.uint32, len(packets))
            self.engine.inject(b"".join(packets), lengths)

    def totals(self) -> Totals:
        return np.asarray(self.engine.counters().sum(axis=0, dtype=np.uint64))

    def sample(self) -> Sample:
        return Sample(time.monotonic(), self.totals(), self.engine.neighbors(), self.engine.ports())


def empty_table(config: Config, nodes: Sequence[int] = ()) -> _core.BindingTable:
    """`nodes`: the NUMA nodes of the workers."""
    sides = config.interfaces
    own_v4 = [int(own.ip) for own in sides.v4.addresses]
    own_v6: list[Any] = [own.ip.packed for own in sides.v6.addresses] + [
        br.packed for br in config.softwire.br_addresses
    ]
    try:
        return _core.BindingTable(
            config.dataplane.max_bindings,
            own_v4,
            own_v6,
            accounts=config.dataplane.binding_counters,
            nodes=list(nodes),
        )
    except MemoryError:
        raise StartFault("not enough memory for the binding table: lower dataplane.max_bindings") from None


def bound_table(config: Config) -> _core.BindingTable:
    """With the bindings of the configuration."""
    table, wanted = empty_table(config), binding_rows(config)
    report = table.bind(wanted, _core.SOURCE_CONFIG, 0)
    if report["refused"]:
        index, reason = report["refused"][0]
        count = len(report["refused"])
        raise StartFault(f"bindings: {count} refused, the first is {rows.describe(wanted[index])}: {reason}")
    return table
