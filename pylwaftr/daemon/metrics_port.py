"""The HTTP port of the metrics, in threads of its own: scrapes and the control side do not wait for each other."""

from __future__ import annotations

import logging
import threading
from email.message import Message
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

import pylwaftr
from pylwaftr import _build_info
from pylwaftr.config.values import Endpoint
from pylwaftr.daemon.metrics_http import Answer, HttpServer, plain
from pylwaftr.daemon.router import COUNTERS, StartFault
from pylwaftr.telemetry.counter_names import families
from pylwaftr.telemetry.exposition import Exposition
from pylwaftr.telemetry.metrics import RouterCollector
from pylwaftr.telemetry.values import Watched

log = logging.getLogger("pylwaftr")

PATH = "/metrics"


class MetricsPort:
    """Raises StartFault."""

    def __init__(self, listen: Endpoint, watched: Watched) -> None:
        self._exposition = Exposition(families(COUNTERS), watched.counters, _rest(watched))
        self._turns = threading.Lock()  # many scrapes at once leave the interpreter to the control side in between
        try:
            self._server = HttpServer(listen, self._answer)
        except OSError as fault:
            raise StartFault(f"metrics.listen: {listen}: {fault.strerror}; choose another, or null for none") from None

    @property
    def port(self) -> int:
        return self._server.port

    def close(self) -> None:
        """Not on the event loop's thread: a scrape may wait for that."""
        self._server.close()

    def _answer(self, target: str, headers: Message[str, str]) -> Answer:
        try:
            parts = urlsplit(target)
        except ValueError:  # http://[
            return plain(HTTPStatus.BAD_REQUEST, "no URL")
        if parts.path not in (PATH, "/"):
            return plain(HTTPStatus.NOT_FOUND, f"not here; {PATH} is")
        if parts.path == "/":
            return plain(HTTPStatus.OK, f"pylwaftr {pylwaftr.__version__}: {PATH}")
        return self._scrape(parse_qs(parts.query).get("name[]", []), headers)

    def _scrape(self, names: list[str], headers: Message[str, str]) -> Answer:
        try:
            with self._turns:
                told, octets = self._exposition.render(
                    headers.get("Accept", ""), headers.get("Accept-Encoding", ""), names
                )
        except TimeoutError:  # of Machine
            return plain(HTTPStatus.SERVICE_UNAVAILABLE, "the control side is too busy to tell", ("Retry-After", "5"))
        except Exception:
            log.exception("metrics: a scrape failed")
            return plain(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the program: see the log")
        return Answer(HTTPStatus.OK, told, octets)


def _rest(watched: Watched) -> CollectorRegistry:
    """All but the counter table."""
    build = {"version": pylwaftr.__version__, "march": _build_info.MARCH, "dpdk": _build_info.DPDK}
    registry = CollectorRegistry()
    registry.register(RouterCollector(watched, build))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
