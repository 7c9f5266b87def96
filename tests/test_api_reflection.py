"""The API as a stranger finds it: a channel and reflection, no generated code; messages come from descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.api_router import Served, parts


class Stranger:
    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._database = ProtoReflectionDescriptorDatabase(self._channel)
        self._pool = DescriptorPool(self._database)

    def services(self) -> list[str]:
        return sorted(self._database.get_services())

    def methods(self, service: str) -> list[str]:
        return [method.name for method in self._pool.FindServiceByName(service).methods]

    def call(self, service: str, method: str, **fields: Any) -> Any:
        described = self._pool.FindServiceByName(service).FindMethodByName(method)
        request = GetMessageClass(described.input_type)(**fields)
        call = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(described.output_type).FromString,
        )
        return call(request, timeout=10)


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    with Served(parts()) as served:
        yield Stranger(served.target)


def test_everything_is_listed(stranger: Stranger) -> None:
    assert stranger.services() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "lwaftr.v1.BindingService",
        "lwaftr.v1.CounterService",
        "lwaftr.v1.HistoryService",
        "lwaftr.v1.LeasequeryService",
        "lwaftr.v1.PcpService",
        "lwaftr.v1.RouterService",
    ]
    assert stranger.methods("lwaftr.v1.HistoryService") == ["WhoHeld", "ListLives"]


def test_the_health_of_all_parts(stranger: Stranger) -> None:
    statuses = stranger.call("grpc.health.v1.Health", "List").statuses
    assert {name: one.status for name, one in statuses.items()} == {"": 1, "dataplane": 1, "store": 1}


def test_a_binding_is_made_and_found(stranger: Stranger) -> None:
    service = "lwaftr.v1.BindingService"
    made = stranger.call(service, "CreateBinding", binding={"ipv4": "203.0.113.5", "b4_ipv6": "2001:db8:1::1"})
    found = stranger.call(service, "Lookup", endpoint={"ipv4": "203.0.113.5", "port": 2077})
    assert found.lives[0].binding.etag == made.etag
    assert found.lives[0].binding.b4_ipv6 == "2001:db8:1::1"


def test_an_error_is_a_standard_one(stranger: Stranger) -> None:
    """google.rpc.Status with one ErrorInfo and the paths of the fields."""
    with pytest.raises(grpc.RpcError) as caught:
        stranger.call("lwaftr.v1.BindingService", "BatchBind", bindings=[{"ipv4": "203.0.113.5"}])
    trailers = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (3, caught.value.details())
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert [detail.Unpack(kind) for detail, kind in zip(status.details, (info, bad), strict=True)] == [True, True]
    assert (info.reason, info.domain, dict(info.metadata)) == ("INVALID_FIELD", "lwaftr", {"violations": "1"})
    assert [(one.field, one.description) for one in bad.field_violations] == [("bindings[0].b4_ipv6", "is missing")]
