"""The HTTP port of the metrics, in a thread of its own: scrapes and the control side do not wait for each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server

import pylwaftr
from pylwaftr import _build_info
from pylwaftr.config.values import Endpoint
from pylwaftr.daemon.router import COUNTERS, StartFault
from pylwaftr.telemetry.counter_names import families
from pylwaftr.telemetry.exposition import Exposition
from pylwaftr.telemetry.metrics import Families, RouterCollector
from pylwaftr.telemetry.values import Watched


class MetricsPort:
    """Raises StartFault."""

    def __init__(self, listen: Endpoint, watched: Watched) -> None:
        table = families(COUNTERS)
        exposition = Exposition(table, watched.counters, _registry(watched, lambda _: ()))
        try:
            self._server, self._thread = start_http_server(listen.port, listen.host, _registry(watched, table))
        except OSError as fault:
            raise StartFault(f"metrics.listen: {listen}: {fault.strerror}; choose another, or null for none") from None
        server: Any = self._server
        server.daemon_threads = False  # close() waits for a scrape that is under way
        server.set_app(_quick(exposition, server.get_app()))

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def close(self) -> None:
        """Not on the event loop's thread: a scrape may wait for that."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _registry(watched: Watched, counters: Families) -> CollectorRegistry:
    registry = CollectorRegistry()
    build = {"version": pylwaftr.__version__, "march": _build_info.MARCH, "dpdk": _build_info.DPDK}
    registry.register(RouterCollector(watched, counters, build))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def _quick(exposition: Exposition, library: WSGIApplication) -> WSGIApplication:
    """A scrape of everything is ours; the rest (other methods, a choice of names) is prometheus_client's."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or environ.get("QUERY_STRING") or environ["PATH_INFO"] == "/favicon.ico":
            return library(environ, start_response)
        accept, encoding = environ.get("HTTP_ACCEPT", ""), environ.get("HTTP_ACCEPT_ENCODING", "")
        headers, octets = exposition.render(accept, encoding)
        start_response("200 OK", headers)
        return [octets]

    return app
