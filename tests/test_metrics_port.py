"""The port of the metrics and clients of every kind: paths, methods, many at once, and those that keep it waiting."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pylwaftr.config.values import Endpoint
from pylwaftr.daemon import metrics_http
from pylwaftr.daemon.metrics_http import Answer, HttpServer, plain
from pylwaftr.daemon.metrics_port import MetricsPort
from pylwaftr.daemon.router import COUNTERS, StartFault
from tests.test_metrics import Shown

LOCAL = Endpoint("127.0.0.1", 0)
WAIT_S = 60.0


class Told(Shown):
    """As the test wants it."""

    fault: Exception | None = None

    def counters(self) -> npt.NDArray[np.uint64]:
        return np.zeros((2, len(COUNTERS)), np.uint64)

    def ports(self) -> Sequence[Mapping[str, Any]]:
        if self.fault is not None:
            raise self.fault
        return super().ports()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def port(told: Told) -> Iterator[int]:
    running = MetricsPort(LOCAL, told)
    yield running.port
    running.close()


def asked(port: int, method: str, target: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.putrequest(method, target, skip_host=True)
    connection.endheaders()
    answer = connection.getresponse()
    return answer, answer.read()


REQUESTS = [  # method, target, status, what the answer begins with
    ("GET", "/metrics", 200, b"# HELP lwaftr_"),
    ("GET", "/metrics?", 200, b"# HELP lwaftr_"),
    ("GET", "http://router:9464/metrics", 200, b"# HELP lwaftr_"),  # RFC 9112 section 3.2.2
    ("GET", "/", 200, b"pylwaftr "),
    ("GET", "/metric", 404, b"not here; /metrics is"),
    ("GET", "/metrics/../etc/passwd", 404, b"not here"),
    ("GET", "http://[", 400, b"no URL"),
    ("HEAD", "/metrics", 200, b""),
    ("HEAD", "/favicon.ico", 404, b""),
    ("POST", "/metrics", 405, b"POST is not for this port"),
    ("OPTIONS", "/metrics", 405, b"OPTIONS is not for this port"),
    ("BREW", "/metrics", 501, b""),
    ("GET", "/" + 70000 * "x", 414, b""),
]


@pytest.mark.parametrize("method, target, status, begin", REQUESTS, ids=[f"{r[0]} {r[1][:30]}" for r in REQUESTS])
def test_a_request(port: int, method: str, target: str, status: int, begin: bytes) -> None:
    answer, content = asked(port, method, target)
    assert (answer.status, content[: len(begin)]) == (status, begin)
    if status == 405:
        assert answer.headers["Allow"] == "GET, HEAD"


def test_head_has_the_headers_of_get_and_no_content(port: int) -> None:
    named = ("Content-Type", "Vary")
    (get, content), (head, nothing) = asked(port, "GET", "/metrics"), asked(port, "HEAD", "/metrics")
    assert nothing == b""
    assert [head.headers[name] for name in named] == [get.headers[name] for name in named]
    assert abs(int(head.headers["Content-Length"]) - len(content)) < 100  # the process's own values change


def test_a_busy_control_side_is_no_fault(port: int, told: Told) -> None:
    told.fault = TimeoutError()
    answer, content = asked(port, "GET", "/metrics")
    assert (answer.status, content) == (503, b"the control side is too busy to tell\n")


def test_a_fault_is_logged_and_the_next_scrape_works(
    port: int, told: Told, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    told.fault = KeyError("x")
    assert asked(port, "GET", "/metrics")[0].status == 500
    assert [(record.message, record.exc_info is not None) for record in caplog.records] == [
        ("metrics: a scrape failed", True)
    ]
    assert capfd.readouterr().err == ""  # the log has its own form
    told.fault = None
    assert asked(port, "GET", "/metrics")[0].status == 200


def test_many_at_once(port: int) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(asked(port, "GET", "/metrics")[0].status)) for _ in range(99)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert found == 99 * [200]


def test_a_port_that_is_taken_is_named(port: int, told: Told) -> None:
    with pytest.raises(StartFault, match=f"^metrics.listen: 127.0.0.1:{port}: Address already in use; choose another"):
        MetricsPort(Endpoint("127.0.0.1", port), told)


def test_ipv6(told: Told) -> None:
    running = MetricsPort(Endpoint("::1", 0), told)
    with socket.create_connection(("::1", running.port), WAIT_S) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(15) == b"HTTP/1.0 200 OK"
    running.close()


# --- clients that keep it waiting -------------------------------------------------------------------------------------

FOREVER_S = 1e6


def hello(path: str, headers: object) -> Answer:
    return plain(HTTPStatus.OK, "hello")


def connected(server: HttpServer, octets: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), WAIT_S)
    client.sendall(octets)
    return client


def heard(client: socket.socket) -> bytes:
    """Until the server closes."""
    with client:
        parts = iter(lambda: client.recv(65536), b"")
        return b"".join(parts)


@pytest.mark.parametrize("begun", [b"", b"GET /metrics HTTP/1.1\r\nHos"], ids=["says nothing", "stops in the middle"])
def test_who_is_silent_does_not_keep_the_router_from_its_end(begun: bytes) -> None:
    server = HttpServer(LOCAL, hello, patience_s=FOREVER_S)
    clients = [connected(server, begun) for _ in range(5)]
    assert heard(connected(server, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"hello\n")  # those before are taken
    server.close()
    for client in clients:
        heard(client)  # it is closed


def test_who_does_not_read_does_not_keep_the_router_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_http, "_CLOSING_S", 0.01)
    much = Answer(HTTPStatus.OK, [], bytes(100 << 20))  # no socket holds so much
    server = HttpServer(LOCAL, lambda path, headers: much, patience_s=FOREVER_S)
    with connected(server, b"GET / HTTP/1.0\r\n\r\n") as client:
        assert client.recv(4) == b"HTTP"
        server.close()


def test_an_answer_on_its_way_is_ended_by_the_stop_not_cut_off() -> None:
    asked, go = threading.Event(), threading.Event()

    def slow(path: str, headers: object) -> Answer:
        asked.set()
        go.wait(WAIT_S)
        return hello(path, headers)

    server = HttpServer(LOCAL, slow)
    client = connected(server, b"GET / HTTP/1.0\r\n\r\n")
    assert asked.wait(WAIT_S)
    closing = threading.Thread(target=server.close)
    closing.start()
    go.set()
    assert heard(client).endswith(b"hello\n")
    closing.join(WAIT_S)
    assert not closing.is_alive()


def test_who_is_silent_is_sent_away() -> None:
    server = HttpServer(LOCAL, hello, patience_s=0.05)
    assert heard(connected(server)) == b""
    server.close()


def test_newcomers_take_the_place_of_those_that_only_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_http, "_FULL_S", 0.05)
    server = HttpServer(LOCAL, hello, connections=2, patience_s=FOREVER_S)
    held = [connected(server) for _ in range(6)]
    assert heard(connected(server, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"hello\n")
    assert [heard(client) for client in held[:5]] == 5 * [b""]
    server.close()
    assert heard(held[5]) == b""
