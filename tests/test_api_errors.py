"""What a refused call tells: every field at fault, in trailers that clients take whatever the request holds."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pylwaftr.api import errors
from pylwaftr.api.channel import failed
from pylwaftr.api.client import Binding, BindingFilter, BindingKey, Client
from pylwaftr.api.errors import ApiError
from pylwaftr.api.generated.lwaftr.v1 import (
    bindings_pb2,
    bindings_pb2_grpc,
    history_pb2,
    leasequery_pb2,
    pcp_pb2,
    router_pb2,
)
from pylwaftr.api.translate import Violation
from tests.api_router import Bindings, Served, many, one, refusal

pytest_plugins = ("tests.api_fixtures",)

TAKEN = 8192  # octets of trailers that a client takes by default
B4 = "2001:db8:1::1"


FRAMES = [router_pb2.Frame(side=side, octets=octets) for side, octets in (("v5", b""), ("v4", b"x"), ("v6", b""))]

BAD: list[tuple[str, Callable[[Client], Any], Any, list[str]]] = [  # method, its stub, request, the fields at fault
    (
        "get",
        lambda c: c.stubs.bindings.GetBinding,
        bindings_pb2.GetBindingRequest(ipv4="x", psid=70000),
        ["ipv4", "psid"],
    ),
    (
        "delete",
        lambda c: c.stubs.bindings.DeleteBinding,
        bindings_pb2.DeleteBindingRequest(ipv4="x", psid=70000),
        ["ipv4", "psid"],
    ),
    (
        "unbind",
        lambda c: c.stubs.bindings.BatchUnbind,
        bindings_pb2.BatchUnbindRequest(keys=[BindingKey(ipv4="x", psid=70000), BindingKey(ipv4="y")]),
        ["keys[0].ipv4", "keys[0].psid", "keys[1].ipv4"],
    ),
    (
        "list",
        lambda c: c.stubs.bindings.ListBindings,
        bindings_pb2.ListBindingsRequest(page_size=10001, filter=BindingFilter(ipv4="x", b4_ipv6="y")),
        ["page_size", "filter.ipv4", "filter.b4_ipv6"],
    ),
    (
        "look-up by port",
        lambda c: c.stubs.bindings.Lookup,
        bindings_pb2.LookupRequest(endpoint=bindings_pb2.Endpoint(ipv4="x", port=70000), at=Timestamp(nanos=-1)),
        ["at", "endpoint.ipv4", "endpoint.port"],
    ),
    (
        "look-up by B4",
        lambda c: c.stubs.bindings.Lookup,
        bindings_pb2.LookupRequest(b4_ipv6="x", at=Timestamp(nanos=-1)),
        ["at", "b4_ipv6"],
    ),
    (
        "dump",
        lambda c: c.stubs.bindings.DumpBindings,
        bindings_pb2.DumpBindingsRequest(filter=BindingFilter(ipv4="x", b4_ipv6="y", source=9)),  # type: ignore[arg-type]
        ["filter.ipv4", "filter.b4_ipv6", "filter.source"],
    ),
    (
        "who held",
        lambda c: c.stubs.history.WhoHeld,
        history_pb2.WhoHeldRequest(ipv4="x", port=70000, began={"nanos": -1}, ended={"nanos": -1}),
        ["ipv4", "port", "began", "ended"],
    ),
    (
        "list lives",
        lambda c: c.stubs.history.ListLives,
        history_pb2.ListLivesRequest(b4_ipv6="x", began={"nanos": -1}),
        ["b4_ipv6", "began"],
    ),
    (
        "mappings",
        lambda c: c.stubs.pcp.ListMappings,
        pcp_pb2.ListMappingsRequest(b4_ipv6="x", ipv4="y", page_size=10001),
        ["b4_ipv6", "ipv4", "page_size"],
    ),
    (
        "leases",
        lambda c: c.stubs.leasequery.ListLeases,
        leasequery_pb2.ListLeasesRequest(b4_ipv6="x", ipv4="y", page_size=10001),
        ["b4_ipv6", "ipv4", "page_size"],
    ),
    (
        "explain",
        lambda c: c.stubs.router.Explain,
        router_pb2.ExplainRequest(frames=FRAMES),
        ["frames[0].side", "frames[0].octets", "frames[2].octets"],
    ),
    (
        "capture",
        lambda c: c.stubs.router.Capture,
        router_pb2.CaptureRequest(packets=1 << 40, seconds=-1, snap_length=3, file="relative"),
        ["packets", "seconds", "snap_length", "file"],
    ),
    (
        "capture with a NUL",
        lambda c: c.stubs.router.Capture,
        router_pb2.CaptureRequest(filter="ip\0", file="/tmp/\0"),
        ["filter", "file"],
    ),
]


@pytest.mark.parametrize("what, stub, asked, paths", BAD, ids=[row[0] for row in BAD])
def test_every_field_at_fault_is_named(
    client: Client, what: str, stub: Callable[[Client], Any], asked: Any, paths: list[str]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub(client)(asked))
    fault = failed(caught.value)
    assert (fault.code, fault.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert [path for path, _ in fault.violations] == paths
    assert fault.metadata == {"violations": str(len(paths))}


def test_keys_in_unusual_forms_are_the_same_however_many(client: Client, bindings: Bindings) -> None:
    """Only what looks usual is parsed as a column, the rest one by one: beyond the violations of an error too."""
    rows = many(200)
    client.bind(rows.tobytes())
    report = client.unbind([(f" 10.0.0.{psid}", 0) for psid in range(200)])
    assert (report.removed, len(bindings.held)) == (200, 0)


ETAGS: list[tuple[str, Callable[[Client], Any], str]] = [
    ("update", lambda c: c.update(Binding(ipv4="203.0.113.5", b4_ipv6=B4), etag="old"), "etag"),
    ("delete", lambda c: c.delete("203.0.113.5", etag="old"), "etag"),
    ("settings", lambda c: c.apply_settings("x: 1", etag="old"), "etag"),
    (
        "batch",
        lambda c: c._ask(
            c.stubs.bindings.BatchUnbind,
            bindings_pb2.BatchUnbindRequest(
                keys=[BindingKey(ipv4="203.0.113.9"), BindingKey(ipv4="203.0.113.5")], etags=["", "old"]
            ),
        ),
        "etags[1]",
    ),
]


@pytest.mark.parametrize("what, call, path", ETAGS, ids=[row[0] for row in ETAGS])
def test_an_etag_that_does_not_match_is_the_field_at_fault(
    client: Client, what: str, call: Callable[[Client], Any], path: str
) -> None:
    client.create(Binding(ipv4="203.0.113.5", b4_ipv6="2001:db8:2::1"))
    fault = refusal(lambda: call(client))
    assert (fault.reason, [at for at, _ in fault.violations]) == ("ETAG_MISMATCH", [path])


def test_a_set_that_is_not_bound_is_named_by_its_psid(client: Client, bindings: Bindings) -> None:
    """By a key nobody knows how its address is divided."""
    request = bindings_pb2.BatchUnbindRequest(keys=[BindingKey(ipv4="203.0.113.5", psid=4)], etags=["*"])
    fault = refusal(lambda: client._ask(client.stubs.bindings.BatchUnbind, request))
    assert fault.message == "203.0.113.5 PSID 4: it is not bound"


LONG = ["x" * 9000, "\U0001f600" * 9000, "%" * 9000, "\n" * 9000]


@pytest.mark.parametrize("text", LONG, ids=["plain", "of four octets", "percent signs", "line ends"])
def test_trailers_fit_whatever_is_in_them(text: str) -> None:
    made = ApiError(grpc.StatusCode.INVALID_ARGUMENT, "X", text, {"paths": text}, [Violation(text, text)] * 99)
    status = errors.status(made)
    message = quote(made.message.encode(), safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    details = base64.b64encode(status.SerializeToString())
    assert len(message) + len(details) < TAKEN - 1024  # names of trailers, and what servers and proxies add
    assert status.message == made.message != ""
    assert made.message.endswith(" ...")
    assert made.message[:100] == text[:100] or len(text.encode()) > len(text)


def test_a_refusal_of_long_and_foreign_text_arrives(served: Served) -> None:
    """gRPC puts another status in the place of one whose trailers are too long; between two limits, now and then."""
    text = "\U0001f600" * 1000
    asked = bindings_pb2.CreateBindingRequest(binding=Binding(ipv4=text, b4_ipv6=text))
    with grpc.insecure_channel(served.target) as channel:
        create = bindings_pb2_grpc.BindingServiceStub(channel).CreateBinding
        for _ in range(30):
            with pytest.raises(grpc.RpcError) as caught:
                create(asked)
            fault = failed(caught.value)
            assert (fault.code, fault.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
            assert fault.violations[0][0] == "binding.ipv4"


def test_what_waits_has_its_psid_in_the_refusal(client: Client, served: Served, bindings: Bindings) -> None:
    """The configuration has the whole address; an operator's set of it waits."""
    served.do(bindings.put(one("203.0.113.2"), 0))
    client.bind(one("203.0.113.2", 5, 4).tobytes())
    fault = refusal(lambda: client.delete("203.0.113.2", 4, etag="old"))
    assert fault.reason == "ETAG_MISMATCH"
    assert fault.message.startswith("203.0.113.2 PSID 4: an operator has one that waits")
