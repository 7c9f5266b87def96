"""How a client reaches a router, and what it is told when a call fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio
from grpc_health.v1 import health_pb2_grpc

from pylwaftr.api.generated.lwaftr.v1 import (
    bindings_pb2_grpc,
    counters_pb2_grpc,
    history_pb2_grpc,
    leasequery_pb2_grpc,
    pcp_pb2_grpc,
    router_pb2_grpc,
)

DEFAULT_TARGET = "127.0.0.1:50051"
DETAILS = "grpc-status-details-bin"
OPTIONS = (
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.keepalive_time_ms", 30_000),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. Without `ca` the system's certificates decide, without `cert` and `key` the client has no name."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None  # expected in the router's certificate; None = the host of the target


class CallFailed(Exception):
    """A call that did nothing. `code` is gRPC's name, `reason` the stable name of docs/api.md."""

    def __init__(
        self,
        code: str,
        reason: str,
        message: str,
        metadata: dict[str, str] | None = None,
        violations: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.code, self.reason, self.message = code, reason, message
        self.metadata, self.violations = metadata or {}, violations  # (path of the field, what is wrong)
        super().__init__(message)

    @property
    def unreachable(self) -> bool:
        return self.code == "UNAVAILABLE" and not self.reason


def failed(error: grpc.RpcError) -> CallFailed:
    """From what gRPC raises, of sync and of async calls."""
    code, text = error.code(), error.details() or ""
    trailing: Any = error.trailing_metadata() or ()
    trailers: dict[str, str | bytes] = dict(trailing)
    info, violations = error_details_pb2.ErrorInfo(), []
    octets = trailers.get(DETAILS)
    for detail in status_pb2.Status.FromString(octets).details if isinstance(octets, bytes) else ():
        bad = error_details_pb2.BadRequest()
        if not detail.Unpack(info) and detail.Unpack(bad):
            violations += [(one.field, one.description) for one in bad.field_violations]
    return CallFailed(code.name, info.reason, text, dict(info.metadata), tuple(violations))


@contextmanager
def told() -> Iterator[None]:
    """Lets CallFailed out instead of gRPC's error."""
    try:
        yield
    except grpc.RpcError as error:
        raise failed(error) from None


def open_channel(target: str, tls: Tls | None) -> grpc.Channel:
    """Raises OSError for a file that cannot be read."""
    options = [*OPTIONS, *_name(tls)]
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, _credentials(tls), options)


def open_async_channel(target: str, tls: Tls | None) -> aio.Channel:
    options = [*OPTIONS, *_name(tls)]
    if tls is None:
        return aio.insecure_channel(target, options)
    return aio.secure_channel(target, _credentials(tls), options)


def _name(tls: Tls | None) -> list[tuple[str, str]]:
    named = tls is not None and tls.server_name is not None
    return [("grpc.ssl_target_name_override", tls.server_name)] if named and tls and tls.server_name else []


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    ca, cert, key = (file.read_bytes() if file is not None else None for file in (tls.ca, tls.cert, tls.key))
    return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass(slots=True)
class Stubs:
    """All services of a channel; the generated code as it is."""

    channel: grpc.Channel
    bindings: bindings_pb2_grpc.BindingServiceStub = field(init=False)
    counters: counters_pb2_grpc.CounterServiceStub = field(init=False)
    router: router_pb2_grpc.RouterServiceStub = field(init=False)
    history: history_pb2_grpc.HistoryServiceStub = field(init=False)
    pcp: pcp_pb2_grpc.PcpServiceStub = field(init=False)
    leasequery: leasequery_pb2_grpc.LeasequeryServiceStub = field(init=False)
    health_check: Any = field(init=False)
    health_watch: Any = field(init=False)

    def __post_init__(self) -> None:
        self.bindings = bindings_pb2_grpc.BindingServiceStub(self.channel)
        self.counters = counters_pb2_grpc.CounterServiceStub(self.channel)
        self.router = router_pb2_grpc.RouterServiceStub(self.channel)
        self.history = history_pb2_grpc.HistoryServiceStub(self.channel)
        self.pcp = pcp_pb2_grpc.PcpServiceStub(self.channel)
        self.leasequery = leasequery_pb2_grpc.LeasequeryServiceStub(self.channel)
        health: Any = health_pb2_grpc.HealthStub(self.channel)  # its stubs do not name the methods
        self.health_check, self.health_watch = health.Check, health.Watch
