"""What the server lets clients take: of memory, of streams, of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from pylwaftr.api.errors import ApiError


@dataclass(frozen=True, slots=True)
class Limits:
    message_octets: int = 4 << 20
    streams_per_connection: int = 100
    calls: int = 256  # at the same time, of all clients
    loads: int = 4
    watches: int = 64
    samplers: int = 64  # streams of counters
    histories: int = 8
    dumps: int = 8
    health_watches: int = 32
    idle_s: float = 60.0  # how long a load may send nothing
    write_s: float = 30.0  # how long a client may not take a message
    remembered: int = 4096  # answers kept for their request_id
    remembered_octets: int = 16 << 20
    remembered_s: float = 600.0


class Slots:
    """At most so many at once; who comes when all are taken is told, and does not wait."""

    def __init__(self, count: int, what: str) -> None:
        self._free, self._count, self._what = count, count, what

    @contextmanager
    def one(self) -> Iterator[None]:
        if self._free == 0:
            message = f"{self._count} {self._what} run already, which is the limit; try again later"
            raise ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class Mutex:
    """One at a time, and the other is told."""

    def __init__(self, reason: str, message: str) -> None:
        self._taken, self._reason, self._message = False, reason, message

    @contextmanager
    def held(self) -> Iterator[None]:
        if self._taken:
            raise ApiError(grpc.StatusCode.ABORTED, self._reason, self._message)
        self._taken = True
        try:
            yield
        finally:
            self._taken = False
