"""The HTTP port of the metrics, in a thread of its own: scrapes and the control side do not wait for each other."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server

import pylwaftr
from pylwaftr import _build_info
from pylwaftr.config.values import Endpoint
from pylwaftr.daemon.router import COUNTERS, StartFault
from pylwaftr.telemetry.counter_names import families
from pylwaftr.telemetry.metrics import RouterCollector, Watched


class MetricsPort:
    """Raises StartFault."""

    def __init__(self, listen: Endpoint, watched: Watched) -> None:
        registry = CollectorRegistry()
        build = {"version": pylwaftr.__version__, "march": _build_info.MARCH, "dpdk": _build_info.DPDK}
        registry.register(RouterCollector(watched, families(COUNTERS), build))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(listen.port, listen.host, registry)
        except OSError as fault:
            raise StartFault(f"metrics.listen: {listen}: {fault.strerror}; choose another, or null for none") from None
        server: Any = self._server
        server.daemon_threads = False  # close() waits for a scrape that is under way

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def close(self) -> None:
        """Not on the event loop's thread: a scrape may wait for that."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
