"""Clients that take places and do nothing with them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pylwaftr.api.channel import failed
from pylwaftr.api.client import Client
from pylwaftr.api.limits import Limits
from pylwaftr.api.server import Health
from tests.api_router import Served, parts

CALLS = 4


@pytest.fixture
def never() -> Iterator[Callable[[], Iterator[bytes]]]:
    """Requests that do not come until the test is over."""
    over = threading.Event()

    def requests() -> Iterator[bytes]:
        over.wait()
        yield from ()

    yield requests
    over.set()


@pytest.mark.parametrize(
    "method",
    [
        "lwaftr.v1.BindingService/GetBinding",
        "lwaftr.v1.BindingService/CreateBinding",
        "lwaftr.v1.BindingService/WatchBindings",
        "lwaftr.v1.BindingService/LoadBindings",
        "grpc.health.v1.Health/Check",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_calls_without_a_request_lock_nobody_out(method: str, never: Callable[[], Iterator[bytes]]) -> None:
    with Served(parts(), limits=Limits(idle_s=0.5, calls=CALLS)) as served:
        with grpc.insecure_channel(served.target) as channel:
            call = channel.stream_stream(f"/{method}")
            for answers in [call(never()) for _ in range(CALLS)]:
                with pytest.raises(grpc.RpcError) as caught:
                    next(answers)
                fault = failed(caught.value)
                assert (fault.code, fault.reason) == ("ABORTED", "STREAM_IDLE")
        with Client(served.target) as client:
            assert client.status().revision == 0


def test_a_call_that_ends_without_a_request() -> None:
    with Served(parts()) as served, grpc.insecure_channel(served.target) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream("/lwaftr.v1.BindingService/GetBinding")(iter(())))
        fault = failed(caught.value)
        assert (fault.code, fault.reason) == ("INVALID_ARGUMENT", "NOT_A_MESSAGE")


def _answered(watch: Any) -> bool:
    try:
        return bool(next(watch).status == health_pb2.HealthCheckResponse.SERVING)
    except grpc.RpcError:
        return False


def test_more_watches_of_health_than_allowed() -> None:
    wanted = health_pb2.HealthCheckRequest()
    with Served(parts(), limits=Limits(health_watches=2)) as served, grpc.insecure_channel(served.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        watches = [stub.Watch(wanted) for _ in range(2)]
        assert [next(watch).status for watch in watches] == [health_pb2.HealthCheckResponse.SERVING] * 2
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(wanted))
        fault = failed(caught.value)
        assert (fault.code, fault.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS")
        watches[0].cancel()
        while not _answered(stub.Watch(wanted)):
            pass  # until the router has heard of it


def test_a_watcher_of_health_that_takes_nothing_holds_nobody_up() -> None:
    """Not the parts whose health changes, and not the end of the router."""

    async def test() -> None:
        healthy = Health(Limits())
        await healthy.set("store", True)
        slow: Any = healthy.servicer.Watch(health_pb2.HealthCheckRequest(service="store"), None)
        assert (
            await anext(slow)
        ).status == health_pb2.HealthCheckResponse.SERVING  # on its way until it is asked again
        async with asyncio.timeout(10):
            await healthy.set("store", False)
            assert (await anext(slow)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            await healthy.leave()
        await slow.aclose()

    asyncio.run(test())
