"""The other services over a real socket: router, settings, packets, counters, PCP, leasequery, health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2

from pylwaftr.api.backend import Difference, Ended, Planned
from pylwaftr.api.channel import Stubs
from pylwaftr.api.client import CallFailed, Client, open_async_channel
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2, counters_pb2, pcp_pb2
from pylwaftr.api.generated.lwaftr.v1 import router_pb2 as pb
from pylwaftr.api.plain import plain as plain_values
from pylwaftr.config import Fault, load_text
from pylwaftr.daemon.pcp_view import PcpView
from tests.api_router import Diagnostics, Leases, Pcp, Served, many, parts
from tests.config_text import text

pytest_plugins = ("tests.api_fixtures",)


def plain(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def test_status(client: Client) -> None:
    assert plain(client.status()) == {
        "version": "0.1.0",
        "started": "2023-11-14T22:13:20.500Z",
        "revision": "0",
        "bindings": "7",
        "max_bindings": "100",
        "parts": {"dataplane": True, "store": True},
        "remarks": ["a link is down"],
    }


def test_facts_are_plain_values_however_deep() -> None:
    part = pb.Part(name="0")
    part.facts.update({"lcore": 1, "queues": [{"rx_packets": 7}, {"rx_packets": 8}], "shares": [0.5, 2.0], "on": {}})
    assert plain_values(part) == {
        "name": "0",
        "facts": {"lcore": 1, "queues": [{"rx_packets": 7}, {"rx_packets": 8}], "shares": [0.5, 2], "on": {}},
    }


def test_ports_workers_and_neighbours(client: Client) -> None:
    assert [(one.name, dict(one.facts)) for one in client.ports()] == [
        ("v4", {"side": "v4", "link_up": True, "mac": "02:00:00:00:04:01", "mtu": 1500})
    ]
    assert [(one.name, dict(one.facts)) for one in client.workers()] == [("0", {"lcore": 1, "busy": 0.25})]
    assert [(one.name, dict(one.facts)) for one in client.neighbors()] == [
        ("v6", {"state": "reachable", "address": "2001:db8::1", "mac": None})
    ]


def test_counters(client: Client) -> None:
    assert [one.name for one in client.describe_counters()] == ["rx_v4", "tx_v6", "drop_no_binding_v4"]
    sample = client.counters(per_worker=True)
    assert dict(sample.counters) == {"rx_v4": 15, "tx_v6": 13, "drop_no_binding_v4": 2}
    assert [list(worker.values) for worker in sample.workers] == [[5, 3, 2], [10, 10, 0]]
    assert not client.counters().workers


def test_a_stream_of_counters(client: Client) -> None:
    samples = client.stream_counters(0.1)
    times = [next(samples).at.ToNanoseconds() for _ in range(3)]
    assert 0.05e9 < times[1] - times[0] < 5e9
    for wrong in (0.01, 7200):
        with pytest.raises(CallFailed, match="the range is"):
            next(client.stream_counters(wrong))


def test_settings(client: Client) -> None:
    assert (client.settings().yaml, client.settings().etag) == ("api: {}\n", "e1")
    found = client.validate_settings("softwire: {hop_limit: 300}")
    assert (found.valid, [(one.line, one.path, one.warning) for one in found.faults]) == (
        False,
        [(3, "softwire.hop_limit", False)],
    )
    assert client.validate_settings("warn").valid
    diff = client.diff_settings()
    assert [(one.path, one.needs_restart) for one in diff.differences] == [
        ("softwire.hop_limit", False),
        ("dataplane.lcores", True),
    ]
    assert client.apply_settings("x: 1", validate_only=True).etag == "e1"
    done = client.apply_settings("x: 1", etag=diff.etag)
    assert ([one.path for one in done.applied], done.etag, done.revision) == (["softwire.hop_limit"], "e2", 9)
    assert client.settings().yaml == "x: 1"


APPLIED = [  # yaml, etag, code, reason, violations
    ("bad", "", "INVALID_ARGUMENT", "SETTINGS_FAULTY", ["softwire.hop_limit"]),
    ("restart", "", "FAILED_PRECONDITION", "RESTART_NEEDED", []),
    ("", "e0", "ABORTED", "ETAG_MISMATCH", ["etag"]),
]


@pytest.mark.parametrize("yaml, etag, code, reason, paths", APPLIED, ids=[row[3] for row in APPLIED])
def test_settings_that_are_not_applied(
    client: Client, yaml: str, etag: str, code: str, reason: str, paths: list[str]
) -> None:
    with pytest.raises(CallFailed) as caught:
        client.apply_settings(yaml, etag=etag)
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert [path for path, _ in caught.value.violations] == paths
    assert client.settings().etag == "e1"


def test_some_settings_are_always_there(client: Client) -> None:
    """ "*" is whatever the state, as everywhere."""
    assert client.apply_settings("x: 1", etag="*").etag == "e2"


def test_of_very_many_faults_the_first_are_told_and_how_many_more(client: Client, router: Any) -> None:
    long = "\u00fc" * 5000  # 10000 octets

    async def validate(text: str | None) -> list[Fault]:
        warnings = [Fault("f.yaml", line, "a", "b", True) for line in range(2000)]
        return [*warnings, *(Fault("f.yaml", line, long, long) for line in range(150_000))]

    router.settings.validate = validate
    found = client.validate_settings("x: 1")
    assert not found.valid
    assert (len(found.faults), {one.warning for one in found.faults}) == (1000, {False})
    assert found.faults[-1].message == "and 151001 more, which are not listed"
    assert len(found.faults[0].message.encode()) <= 1024 < 4 * len(found.faults[0].path.encode())
    assert [one.line for one in found.faults[:999]] == list(range(999))


def test_settings_larger_than_a_message(client: Client, router: Any) -> None:
    router.settings.yaml = "# \u00fc\n" * 900_000
    with pytest.raises(CallFailed) as caught:
        client.settings()
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "TOO_LARGE")
    assert caught.value.metadata == {"file": "/etc/pylwaftr.yaml"}


def test_values_that_differ_are_cut(client: Client, router: Any) -> None:
    async def diff(text: str | None) -> Planned:
        return Planned((Difference("pcp.pools", "x" * 3_000_000, "y" * 3_000_000),))

    router.settings.diff = diff
    [found] = client.diff_settings("x: 1").differences
    assert (found.path, len(found.before), found.after[-5:]) == ("pcp.pools", 4096, "y ...")


def test_explain(client: Client) -> None:
    stories = client.explain([("v4", b"\x01\x02", False), ("v6", b"\x03", True)])
    assert [(one.number, one.side, one.packet, one.verdict) for one in stories] == [
        (1, "v4", "0102", "drop_x"),
        (2, "v6", "03", "drop_x"),
    ]
    assert (stories[0].steps[0].stage, stories[0].sent[0].packet) == ("link", "y")


WRONG: list[tuple[str, Callable[[Client], Any], str, str]] = [
    ("no frames", lambda c: c.explain([]), "INVALID_FIELD", "frames"),
    ("too many frames", lambda c: c.explain([("v4", b"x", False)] * 257), "INVALID_FIELD", "frames"),
    ("a third side", lambda c: c.explain([("v5", b"x", False)]), "INVALID_FIELD", "frames[0].side"),
    ("an empty frame", lambda c: c.explain([("v4", b"", False)]), "INVALID_FIELD", "frames[0].octets"),
    ("too long", lambda c: list(c.capture(pb.CaptureRequest(seconds=1e6))), "INVALID_FIELD", "seconds"),
    ("not a time", lambda c: list(c.capture(pb.CaptureRequest(seconds=float("nan")))), "INVALID_FIELD", "seconds"),
    ("too short", lambda c: list(c.capture(pb.CaptureRequest(snap_length=3))), "INVALID_FIELD", "snap_length"),
    ("relative", lambda c: list(c.capture(pb.CaptureRequest(file="a.pcapng"))), "INVALID_FIELD", "file"),
    ("no filter", lambda c: list(c.capture(pb.CaptureRequest(filter="refuse"))), "CAPTURE_REFUSED", ""),
    ("a page of a thief", lambda c: list(c.pcp_mappings(page_size=20000)), "INVALID_FIELD", "page_size"),
    ("half an address", lambda c: list(c.pcp_mappings(ipv4="198.51")), "INVALID_FIELD", "ipv4"),
    ("host bits", lambda c: c.pcp_release(b4="2001:db8::1/56"), "INVALID_FIELD", "b4_ipv6"),
    ("a release of nothing", lambda c: c.pcp_release("198.51.100.1", 9), "MAPPING_NOT_FOUND", ""),
    ("a server of others", lambda c: c.resync("192.0.2.1:547"), "SOURCE_NOT_FOUND", ""),
    ("leases of others", lambda c: c.drop_leases("192.0.2.1:547"), "SOURCE_NOT_FOUND", ""),
    ("leases of nobody", lambda c: c.drop_leases(""), "INVALID_FIELD", "name"),
]


@pytest.mark.parametrize("what, ask, reason, path", WRONG, ids=[row[0] for row in WRONG])
def test_refused(client: Client, what: str, ask: Callable[[Client], Any], reason: str, path: str) -> None:
    with pytest.raises(CallFailed) as caught:
        ask(client)
    assert (caught.value.reason, [found for found, _ in caught.value.violations]) == (reason, [path] if path else [])


def test_a_capture_comes_in_pieces_and_ends_with_its_client(client: Client, router: Any) -> None:
    pieces = list(client.capture(pb.CaptureRequest(packets=3)))
    assert [piece.pcapng for piece in pieces] == [b"piece0", b"piece1", b"piece2"]
    assert pieces[-1].state.written == 2
    diagnostics: Diagnostics = router.diagnostics
    diagnostics.pieces = 10_000
    call = client.stubs.router.Capture(pb.CaptureRequest())
    next(call)
    with pytest.raises(CallFailed) as caught:  # one at a time
        list(client.capture(pb.CaptureRequest()))
    assert caught.value.reason == "TOO_MANY_STREAMS"
    call.cancel()
    for _ in range(100):
        if diagnostics.closed == 2:
            break
        client.health()
    assert diagnostics.closed == 2


def test_pcp(client: Client, router: Any) -> None:
    pcp: Pcp = router.pcp
    found = list(client.pcp_mappings(page_size=2))
    assert [(one.binding.psid, one.subscriber, one.protocol) for one in found] == [
        (psid, "2001:db8:1::/56", 17) for psid in (1, 2, 3)
    ]
    assert [(one.ipv4, one.total, one.used, one.quarantined) for one in client.pcp_pools()] == [
        ("198.51.100.0/24", 15872, 3, 1)
    ]
    assert client.pcp_release("198.51.100.1", 2, validate_only=True) == 1
    assert client.pcp_release("198.51.100.1", 2) == 1
    assert client.pcp_release(b4="2001:db8:1::/56") == 2
    assert (client.pcp_announce(), pcp.announced, len(pcp.rows)) == (3, 1, 0)


def test_leasequery(client: Client, router: Any) -> None:
    leases: Leases = router.leasequery
    (source,) = client.lease_sources()
    assert (source.name, source.state, source.lag.ToMilliseconds()) == ("[2001:db8::67]:547", "active", 250)
    assert (source.conflicts, source.quarantined, source.queued, source.received, source.sent) == (2, 3, 4, 70, 5)
    assert (source.last_fault, source.last_fault_time.seconds) == ("lost", 1_699_999_991)
    assert (source.bulk, source.skew.ToMilliseconds()) == ("idle", -1500)
    assert client.resync() == client.resync(source.name) == [source.name]
    assert leases.asked == [source.name] * 2
    assert (client.drop_leases(source.name, validate_only=True), leases.dropped) == (1000, [])
    assert (client.drop_leases(source.name), leases.dropped) == (1000, [source.name])


@pytest.mark.parametrize("ask", [lambda c: c.resync(), lambda c: c.drop_leases("[2001:db8::67]:547")])
def test_leasequery_that_a_fault_has_ended(
    ask: Callable[[Client], Any], client: Client, router: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end(*_: Any) -> None:
        raise Ended("restart the router")

    for name in ("resync", "drop"):
        monkeypatch.setattr(router.leasequery, name, end)
    with pytest.raises(CallFailed) as failed:
        ask(client)
    assert (failed.value.code, failed.value.reason) == ("FAILED_PRECONDITION", "PART_ENDED")


def test_leases(client: Client) -> None:
    for size in (1, 3, 100):
        found = list(client.leases(page_size=size))
        assert [(one.psid, one.b4_ipv6, one.standing) for one in found] == [
            (0, "", "no_b4"),
            (1, "2001:db8:1::1", "bound"),
            (2, "", "no_b4"),
            (3, "2001:db8:3::1", "bound"),
        ]
    one = found[1]
    assert (one.name, one.ipv4, one.psid_len, one.state, one.client_id) == (
        *("[2001:db8::67]:547", "198.51.100.1", 6, "ACTIVE"),
        b"\xff\0",
    )
    assert (one.told.seconds, one.last_transaction.seconds, one.expires.seconds) == tuple(
        1_700_000_000 + more for more in (0, -10, 3600)
    )
    assert not one.HasField("start_of_state")
    assert [one.psid for one in client.leases(kept_out=True)] == [0, 2]


FAULTY_LEASES = [
    ({"name": "[2001:db8::1]:547"}, "NOT_FOUND", "SOURCE_NOT_FOUND"),
    ({"ipv4": "2001:db8::1"}, "INVALID_ARGUMENT", "INVALID_FIELD"),
    ({"b4": "192.0.2.1"}, "INVALID_ARGUMENT", "INVALID_FIELD"),
    ({"page_size": 1 << 30}, "INVALID_ARGUMENT", "INVALID_FIELD"),
]


@pytest.mark.parametrize("wanted, code, reason", FAULTY_LEASES)
def test_leases_that_nobody_can_list(client: Client, wanted: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(CallFailed) as failed:
        list(client.leases(**wanted))
    assert (failed.value.code, failed.value.reason) == (code, reason)


@pytest.mark.parametrize("method", ["ListMappings", "ListPools", "ReleaseMappings", "Announce"])
def test_pcp_that_a_reload_switches_off(client: Client, router: Any, method: str) -> None:
    router.pcp.enabled = False
    with pytest.raises(CallFailed) as caught:
        client._ask(getattr(client.stubs.pcp, method), getattr(pcp_pb2, f"{method}Request")())
    assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "PCP_DISABLED")


def test_whether_pcp_is_on_is_what_the_settings_in_force_say() -> None:
    texts = [text(f"pcp: {{enabled: {word}}}") for word in ("true", "false", "true")]
    configs = iter([load_text(one) for one in texts])
    view: Any = PcpView(cast(Any, None), lambda: next(configs), cast(Any, None))
    assert [view.enabled for _ in texts] == [True, False, True]


OFF: list[tuple[str, Callable[[Client], Any], str, str]] = [
    ("explain", lambda c: c.explain([("v4", b"x", False)]), "UNIMPLEMENTED", "NOT_AVAILABLE"),
    ("capture", lambda c: list(c.capture(pb.CaptureRequest())), "UNIMPLEMENTED", "NOT_AVAILABLE"),
    ("pools", lambda c: c.pcp_pools(), "FAILED_PRECONDITION", "PCP_DISABLED"),
    ("announce", lambda c: c.pcp_announce(), "FAILED_PRECONDITION", "PCP_DISABLED"),
    ("sources", lambda c: c.lease_sources(), "FAILED_PRECONDITION", "LEASEQUERY_DISABLED"),
    ("leases", lambda c: list(c.leases()), "FAILED_PRECONDITION", "LEASEQUERY_DISABLED"),
]


@pytest.mark.parametrize("what, ask, code, reason", OFF, ids=[row[0] for row in OFF])
def test_what_is_switched_off(what: str, ask: Callable[[Client], Any], code: str, reason: str) -> None:
    bare = replace(parts(), diagnostics=None, pcp=None, leasequery=None)
    with Served(bare) as served, Client(served.target) as client, pytest.raises(CallFailed) as caught:
        ask(client)
    assert (caught.value.code, caught.value.reason) == (code, reason)


def test_health_of_the_parts(client: Client, served: Served) -> None:
    assert [client.health(part) for part in ("", "dataplane", "store")] == ["SERVING"] * 3
    with pytest.raises(CallFailed) as caught:
        client.health("pcp")
    assert caught.value.code == "NOT_FOUND"
    seen = client.stubs.health_watch(health_pb2.HealthCheckRequest(service=""))
    assert next(seen).status == health_pb2.HealthCheckResponse.SERVING
    served.do(served.running.health("pcp", False))
    assert (client.health("pcp"), client.health("")) == ("NOT_SERVING", "SERVING")  # it forwards all the same
    served.do(served.running.health("store", False))
    assert (client.health("store"), client.health("")) == ("NOT_SERVING", "NOT_SERVING")
    assert next(seen).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not client.status().parts["store"]


def test_the_generated_code_serves_asyncio_too(served: Served) -> None:
    async def ask() -> list[Any]:
        async with open_async_channel(served.target, None) as channel:
            stubs = Stubs(channel)  # type: ignore[arg-type]
            sample = await stubs.counters.GetCounters(counters_pb2.GetCountersRequest())  # type: ignore[misc]
            events = stubs.bindings.WatchBindings(bindings_pb2.WatchBindingsRequest())
            return [sample.counters["rx_v4"], (await events.read()).kind]  # type: ignore[attr-defined]

    assert asyncio.run(ask()) == [15, bindings_pb2.WatchBindingsResponse.MARKER]
    assert len(many(3)) == 3
