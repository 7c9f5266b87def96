"""The running data plane and its services, as API and metrics see them. Nothing here waits or disturbs a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pylwaftr.api.backend import Overview
from pylwaftr.daemon.router import COUNTERS, CounterInfo, Router
from pylwaftr.telemetry.histogram import Reading
from pylwaftr.telemetry.values import Fill, Value

T = TypeVar("T")

_TURN_S = 5.0


class Machine:
    """Implements api.backend.Machine and telemetry.metrics.Watched."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._loop = asyncio.get_running_loop()
        self._started = time.time()
        self.remarks: list[str] = []  # of the services
        # Of the services that are switched on, set as they start.
        self.healthy: dict[str, bool] = {"dataplane": True}
        self.values: list[Callable[[], Iterable[Value]]] = []
        self.sources: Callable[[], Mapping[str, int]] = dict
        self.updates: Callable[[], Mapping[str, Reading]] = dict

    @property
    def counter_infos(self) -> Sequence[CounterInfo]:
        return COUNTERS

    def counters(self) -> npt.NDArray[np.uint64]:
        return self._router.engine.counters()

    def overview(self) -> Overview:
        table = self._router.table
        return Overview(self._started, table.size, table.capacity, (*self._router.remarks(), *self.remarks))

    def ports(self) -> Sequence[Mapping[str, Any]]:
        return self._router.engine.ports()

    def neighbors(self) -> Mapping[str, Mapping[str, Any]]:
        return self._router.engine.neighbors()

    def workers(self) -> Sequence[Mapping[str, Any]]:
        return self._router.engine.worker_stats()

    def fill(self) -> Fill:
        table = self._router.table
        return Fill(table.size, table.capacity, table.slots, table.memory, table.reader_memory)

    def bindings_by_source(self) -> Mapping[str, int]:
        return self.sources()

    def health(self) -> Mapping[str, bool]:
        return self.healthy

    def update_seconds(self) -> Mapping[str, Reading]:
        return self._on_loop(self.updates)

    def services(self) -> Iterable[Value]:
        return self._on_loop(lambda: [value for values in self.values for value in values()])

    def _on_loop(self, read: Callable[[], T]) -> T:
        """A scrape has a thread of its own, and what services hold changes only between turns of the loop."""

        async def turn() -> T:
            return read()

        return asyncio.run_coroutine_threadsafe(turn(), self._loop).result(_TURN_S)
