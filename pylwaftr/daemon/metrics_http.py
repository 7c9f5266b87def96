"""Answers GET and HEAD, HTTP/1.0, for whoever comes: also for those that say nothing, drip, or do not read.

A connection has a thread, and there are at most so many; if none of them ends, one more takes the place of the oldest.
Who is silent for `patience_s` is sent away, and nobody keeps close() waiting.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, TCPServer
from typing import Any, NamedTuple

from pylwaftr.config.values import Endpoint

log = logging.getLogger("pylwaftr")

CONNECTIONS = 64
PATIENCE_S = 10.0  # what Prometheus waits by default
_FULL_S = 0.2  # so long for one to end before the oldest is cut off
_POLL_S = 0.1  # for the end
_CLOSING_S = 2.0  # for answers that are on their way


class Answer(NamedTuple):
    status: HTTPStatus
    headers: list[tuple[str, str]]
    content: bytes


Answerer = Callable[[str, "Message[str, str]"], Answer]  # of path with query, and headers


def plain(status: HTTPStatus, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, [("Content-Type", "text/plain; charset=utf-8"), *headers], f"{text}\n".encode())


class HttpServer(TCPServer):
    """Raises OSError."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, listen: Endpoint, answer: Answerer, connections: int = CONNECTIONS, patience_s: float = PATIENCE_S
    ) -> None:
        self.answer = answer
        self._room = threading.Semaphore(connections)
        self._open: dict[threading.Thread, socket.socket] = {}  # the oldest first
        self._lock = threading.Lock()  # of that
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, *_, address = found[0]
        handler = type("Handler", (_Handler,), {"timeout": patience_s})
        super().__init__(address, handler)  # type: ignore[arg-type]  # an IPv6 address has four parts
        self._serving = threading.Thread(target=self.serve_forever, args=(_POLL_S,), name="metrics", daemon=True)
        self._serving.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        most = 0
        while not self._room.acquire(timeout=_FULL_S):
            most += 1  # one that is being answered may not end at once
            self._cut(socket.SHUT_RDWR, most)
        thread = threading.Thread(target=self._handle, args=(request, client_address), daemon=True)
        with self._lock:
            self._open[thread] = request
        try:
            thread.start()
        except RuntimeError:  # no more threads
            self._gone(thread)
            raise

    def _handle(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # it went away
        except Exception:
            log.exception("metrics: a request failed")
        finally:
            self._gone(threading.current_thread())
            self.shutdown_request(request)

    def _gone(self, thread: threading.Thread) -> None:
        with self._lock:
            del self._open[thread]
        self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("metrics: a connection was not taken")

    def close(self) -> None:
        """Answers that are on their way get a little time, requests that are not complete none."""
        self.shutdown()
        self.server_close()
        self._serving.join()
        end = time.monotonic() + _CLOSING_S
        threads = list(self._open)
        self._cut(socket.SHUT_RD, len(threads))
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._cut(socket.SHUT_RDWR, len(threads))
        for thread in threads:
            thread.join()

    def _cut(self, how: int, most: int) -> None:
        """The oldest."""
        with self._lock:
            for request in [*self._open.values()][:most]:
                with suppress(OSError):  # the other side was faster
                    request.shutdown(how)


class _Handler(BaseHTTPRequestHandler):
    def version_string(self) -> str:
        return "pylwaftr"

    def __init__(self, request: Any, client_address: Any, server: BaseServer) -> None:
        assert isinstance(server, HttpServer)
        self._answer = server.answer
        super().__init__(request, client_address, server)  # which handles the request

    def do_GET(self) -> None:
        self._send(self._answer(self.path, self.headers))

    def do_HEAD(self) -> None:
        self._send(self._answer(self.path, self.headers))

    def _other(self) -> None:
        allowed = ("Allow", "GET, HEAD")
        self._send(plain(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command} is not for this port: GET or HEAD", allowed))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _other

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for header in (*answer.headers, ("Content-Length", str(len(answer.content)))):
            self.send_header(*header)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def log_message(self, format: str, *args: Any) -> None:
        pass
