"""The gRPC server: built from the configuration's section `api` and the parts of the router."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from pylwaftr.api import security
from pylwaftr.api.backend import Parts
from pylwaftr.api.bindings_service import BindingService
from pylwaftr.api.gate import Guarded
from pylwaftr.api.generated.lwaftr.v1 import (
    bindings_pb2_grpc,
    counters_pb2_grpc,
    history_pb2_grpc,
    leasequery_pb2_grpc,
    pcp_pb2_grpc,
    router_pb2_grpc,
)
from pylwaftr.api.history_service import HistoryService
from pylwaftr.api.limits import Limits, Slots
from pylwaftr.api.once import Once
from pylwaftr.api.provisioning_service import LeasequeryService, PcpService
from pylwaftr.api.router_service import CounterService, RouterService
from pylwaftr.api.security import ApiFault
from pylwaftr.config.services import Api

__all__ = ["ApiFault", "Running", "start"]

# Parts whose fault is that of the whole: without the others it forwards what is bound, and takes changes.
VITAL = ("dataplane", "store")


class Running:
    """A server that serves."""

    def __init__(self, server: aio.Server, port: int, parts: Health, once: Once, roles: security.Roles) -> None:
        self._server, self._health, self._once = server, parts, once
        self.port, self.roles = port, roles

    async def health(self, part: str, serves: bool) -> None:
        """Of dataplane, store, pcp or leasequery."""
        await self._health.set(part, serves)

    async def stop(self, grace_s: float = 2.0) -> None:
        """New calls are refused at once, running ones cut after the grace; changes that have begun are finished."""
        await self._health.leave()
        await self._server.stop(grace_s)
        await self._once.finish()


class Health:
    """grpc.health.v1: each part, and the whole as ""."""

    def __init__(self, limits: Limits) -> None:
        self.parts: dict[str, bool] = {}
        self.servicer = _HealthServicer(self.parts, limits)

    async def set(self, part: str, serves: bool) -> None:
        self.parts[part] = serves
        await self.servicer.set(part, _word(serves))
        await self.servicer.set("", _word(all(self.parts.get(vital, False) for vital in VITAL)))

    async def leave(self) -> None:
        await self.servicer.enter_graceful_shutdown()


class _HealthServicer(health.aio.HealthServicer):
    """With List, which grpcio-health-checking has for threads only."""

    _server_status: dict[str, Any]  # the library's, which Check reads

    def __init__(self, parts: Mapping[str, bool], limits: Limits) -> None:
        super().__init__()
        self._news = asyncio.Event()
        self._parts, self._watches = parts, Slots(limits.health_watches, "watches of health")

    async def Watch(self, request: Any, context: Any) -> Any:
        """The library's holds a lock while it writes, and who sets a status waits for that. Anybody may watch who may
        connect, and a watch that nobody ends keeps the place of a call."""
        unknown, last = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN, None
        with self._watches.one():
            while True:
                news, status = self._news, self._server_status.get(request.service, unknown)
                if status != last:
                    last = status
                    yield health_pb2.HealthCheckResponse(status=status)
                await news.wait()

    async def _set(self, service: str, status: Any) -> None:
        self._server_status[service] = status
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def List(self, _: Any, context: Any) -> Any:
        asked = [health_pb2.HealthCheckRequest(service=part) for part in ("", *self._parts)]
        messages: Any = health_pb2  # whose types do not know List yet
        return messages.HealthListResponse(statuses={one.service: await self.Check(one, context) for one in asked})


def _word(serves: bool) -> Any:
    return health_pb2.HealthCheckResponse.SERVING if serves else health_pb2.HealthCheckResponse.NOT_SERVING


async def start(api: Api, parts: Parts, limits: Limits | None = None) -> Running:
    """Serves on api.listen until stop(). Port 0 takes a free one. Raises ApiFault."""
    limits, roles = limits or Limits(), security.Roles(api)
    server = aio.server(options=_options(limits), maximum_concurrent_rpcs=limits.calls)
    guarded: Any = Guarded(server, roles, limits)  # stands in for the server
    healthy, once = Health(limits), Once(limits)
    await healthy.set("dataplane", True)
    await healthy.set("store", True)
    bindings_pb2_grpc.add_BindingServiceServicer_to_server(BindingService(parts, limits, once), guarded)
    counters_pb2_grpc.add_CounterServiceServicer_to_server(CounterService(parts, limits), guarded)
    router = RouterService(parts, once, lambda: healthy.parts)
    router_pb2_grpc.add_RouterServiceServicer_to_server(router, guarded)
    history_pb2_grpc.add_HistoryServiceServicer_to_server(HistoryService(parts, limits), guarded)
    pcp_pb2_grpc.add_PcpServiceServicer_to_server(PcpService(parts, once), guarded)
    leasequery_pb2_grpc.add_LeasequeryServiceServicer_to_server(LeasequeryService(parts, once), guarded)
    # Health and reflection: for whoever may connect.
    health_pb2_grpc.add_HealthServicer_to_server(healthy.servicer, guarded)
    told = reflection.aio.ReflectionServicer((*security.SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(told, guarded)  # type: ignore[no-untyped-call]
    port = _listen(server, api)
    await server.start()
    return Running(server, port, healthy, once, roles)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.message_octets),
        ("grpc.max_send_message_length", limits.message_octets),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        # A call that a busy router has not looked at yet waits until its deadline; after 30 s gRPC would cancel it.
        ("grpc.server_max_unrequested_time_in_server", 3600),
        ("grpc.so_reuseport", 0),  # two routers on one port would share clients between them
        # Clients that vanished without a word are noticed after half a minute.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 3),
    ]


def _listen(server: aio.Server, api: Api) -> int:
    if api.listen is None:
        raise ApiFault("api.listen is null: there is no API to serve")
    if api.tls is None and not api.listen.loopback and not api.allow_plaintext:
        remedy = "give api.tls, listen on a loopback address, or set api.allow_plaintext: true"
        raise ApiFault(f"api.listen: {api.listen} can be reached by others without TLS; {remedy}")
    address = str(api.listen)
    try:
        if api.tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, security.credentials(api.tls))
    except RuntimeError:
        raise ApiFault(f"api.listen: {address} cannot be listened on: it is taken, or not of this machine") from None
