"""The binding service over a real socket, asked by the typed client: what is sent, answered, and held then."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from pylwaftr.api.channel import failed
from pylwaftr.api.client import Binding, BindingFilter, BindingKey, Client, Life, Source, pack, unpack
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2 as pb
from pylwaftr.rows import BINDING_ROW
from tests.api_router import BR, Bindings, Served, many, one, parts, refusal

pytest_plugins = ("tests.api_fixtures",)

B4 = "2001:db8:1::1"
_, OPERATOR, _, PCP = range(4)
SHARED = Binding(ipv4="203.0.113.5", psid_len=6, psid=33, b4_ipv6=B4)


def held(bindings: Bindings) -> int:
    return len(bindings.held)


# --- one binding


def test_a_binding_is_made_found_changed_and_removed(client: Client, bindings: Bindings) -> None:
    made = client.create(SHARED)
    assert (made.source, made.br_ipv6) == (Source.SOURCE_OPERATOR, "2001:db8:aa::1")
    assert [(ports.first, ports.last) for ports in made.ports] == [(33792, 34815)]
    assert client.get("203.0.113.5", 33) == made
    assert client.lookup_port("203.0.113.5", 33792) == [Life(binding=made)]
    assert client.lookup_port("203.0.113.5", 33791) == []
    moved = client.update(Binding(ipv4="203.0.113.5", psid_len=6, psid=33, b4_ipv6="2001:db8:2::1"), etag=made.etag)
    assert moved.etag != made.etag
    assert client.delete("203.0.113.5", 33, etag=moved.etag) == bindings.revision == 3
    assert held(bindings) == 0


def test_a_prefix_becomes_the_address_of_the_b4(client: Client) -> None:
    made = client.create(Binding(ipv4="203.0.113.5", psid_len=6, psid=33, b4_ipv6="2001:db8:1::/64"))
    assert made.b4_ipv6 == "2001:db8:1::cb00:7105:21"


def test_ports_of_a_set_with_an_offset(client: Client) -> None:
    made = client.create(Binding(ipv4="203.0.113.5", psid_len=8, psid=0x34, psid_offset=6, b4_ipv6=B4))
    assert [(ports.first, ports.last) for ports in made.ports][:2] == [(1232, 1235), (2256, 2259)]
    assert len(made.ports) == 63


NOT_DONE = [  # what is asked of a router that has SHARED, code, reason
    ("create it again", lambda c, _: c.create(SHARED), "ALREADY_EXISTS", "BINDING_EXISTS"),
    ("get another", lambda c, _: c.get("203.0.113.5", 34), "NOT_FOUND", "BINDING_NOT_FOUND"),
    ("delete another", lambda c, _: c.delete("203.0.113.5", 34), "NOT_FOUND", "BINDING_NOT_FOUND"),
    ("delete with an old etag", lambda c, _: c.delete("203.0.113.5", 33, etag="old"), "ABORTED", "ETAG_MISMATCH"),
    ("update with an old etag", lambda c, _: c.update(SHARED, etag="old"), "ABORTED", "ETAG_MISMATCH"),
    (
        "update another",
        lambda c, _: c.update(Binding(ipv4="203.0.113.6", b4_ipv6=B4)),
        "NOT_FOUND",
        "BINDING_NOT_FOUND",
    ),
    (
        "another length of the same address",
        lambda c, _: c.create(Binding(ipv4="203.0.113.5", psid_len=7, psid=1, b4_ipv6=B4)),
        "FAILED_PRECONDITION",
        "OTHER_PARAMS_ON_ADDRESS",
    ),
    ("a page too large", lambda c, _: list(c.bindings(page_size=10001)), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("a look-up of nothing", lambda c, s: c._ask(s.Lookup, pb.LookupRequest()), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("a look-up of port 65536", lambda c, _: c.lookup_port("203.0.113.5", 65536), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("a time before the calendar", lambda c, _: c.lookup_b4(B4, at=-1e12), "INVALID_ARGUMENT", "INVALID_FIELD"),
]


@pytest.mark.parametrize("what, ask, code, reason", NOT_DONE, ids=[row[0] for row in NOT_DONE])
def test_refused(
    client: Client, bindings: Bindings, what: str, ask: Callable[[Client, Any], Any], code: str, reason: str
) -> None:
    client.create(SHARED)
    if what.startswith("a time"):
        fault = refusal(lambda: _lookup_at(client, -(1 << 60)))
    else:
        fault = refusal(lambda: ask(client, client.stubs.bindings))
    assert (fault.code, fault.reason) == (code, reason)
    assert (bindings.revision, held(bindings)) == (1, 1)


def _lookup_at(client: Client, seconds: int) -> Any:
    request = pb.LookupRequest(b4_ipv6=B4)
    request.at.seconds = seconds
    return client._ask(client.stubs.bindings.Lookup, request)


def test_deleting_what_is_not_there_may_be_right(client: Client) -> None:
    assert client.delete("203.0.113.5", 33, allow_missing=True) == 0


def test_validate_only_changes_nothing(client: Client, bindings: Bindings) -> None:
    assert client.create(SHARED, validate_only=True).etag
    assert client.bind([SHARED], validate_only=True).added == 1
    assert held(bindings) == 0
    client.create(SHARED)
    assert client.delete("203.0.113.5", 33, validate_only=True) == 1
    assert client.update(SHARED, validate_only=True).psid == 33
    assert (held(bindings), bindings.revision) == (1, 1)


# --- batches

FIELDS = [  # fields, the violations
    ({"ipv4": "203.0.113.500"}, ["ipv4"]),
    ({"ipv4": ""}, ["ipv4"]),
    ({"ipv4": "127.0.0.1"}, ["ipv4"]),
    ({"ipv4": "192.0.0.2"}, ["ipv4"]),
    ({"b4_ipv6": "fe80::1"}, ["b4_ipv6"]),
    ({"b4_ipv6": "2001:db8::1/64"}, ["b4_ipv6"]),
    ({"b4_ipv6": "ff02::1"}, ["b4_ipv6"]),
    ({"br_ipv6": "203.0.113.1"}, ["br_ipv6"]),
    ({"br_ipv6": "2001:db8:bb::1"}, ["br_ipv6"]),
    ({"b4_ipv6": "2001:db8:aa::1"}, ["b4_ipv6"]),
    ({"psid": 64}, ["psid"]),
    ({"psid": 70000}, ["psid"]),
    ({"psid_len": 17}, ["psid_len"]),
    ({"psid_len": 12, "psid_offset": 6}, ["psid_len"]),
    ({"psid_len": 0}, ["psid"]),
    ({"ipv4": "x", "psid": 70000, "b4_ipv6": ""}, ["b4_ipv6", "ipv4", "psid"]),
]


@pytest.mark.parametrize("fields, wrong", FIELDS, ids=[str(row[0]) for row in FIELDS])
def test_a_bad_field_is_named_by_its_path_and_nothing_is_bound(
    client: Client, bindings: Bindings, fields: dict[str, Any], wrong: list[str]
) -> None:
    good = {"ipv4": "203.0.113.5", "psid_len": 6, "psid": 1, "b4_ipv6": B4}
    fault = refusal(lambda: client.bind([SHARED, Binding(**(good | fields)), SHARED]))
    assert (fault.code, fault.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert sorted(path for path, _ in fault.violations) == [f"bindings[1].{name}" for name in wrong]
    fault = refusal(lambda: client.create(Binding(**(good | fields))))
    assert sorted(path for path, _ in fault.violations) == [f"binding.{name}" for name in wrong]
    assert held(bindings) == 0


def test_bad_packed_rows_are_named_by_their_index(client: Client, bindings: Bindings) -> None:
    rows = many(10)
    rows["psid_len"][3], rows["psid"][3] = 6, 64
    rows["psid"][5] = 1  # without a length: the whole address would be given away
    rows["ipv4"][7] = 0x7F000001
    rows["br"][8, 15] = 2  # none of the router's
    fault = refusal(lambda: client.bind(rows.tobytes()))
    assert [path for path, _ in fault.violations] == ["rows[3].psid", "rows[5].psid", "rows[7].ipv4", "rows[8].br_ipv6"]
    assert (fault.metadata, held(bindings)) == ({"violations": "4"}, 0)


def test_rows_of_uneven_length(client: Client) -> None:
    fault = refusal(lambda: client.bind(bytes(41)))
    assert (fault.reason, fault.violations[0][0]) == ("INVALID_FIELD", "rows")


def test_a_batch_is_all_or_nothing(client: Client, bindings: Bindings) -> None:
    client.create(SHARED)
    other = Binding(ipv4="203.0.113.6", b4_ipv6=B4)
    fault = refusal(lambda: client.bind([other, other]))
    assert (fault.code, fault.reason) == ("INVALID_ARGUMENT", "DUPLICATE_IN_BATCH")
    assert fault.violations[0][0] == "bindings[1]"
    assert held(bindings) == 1
    report = client.bind([other, SHARED])
    assert (report.added, report.unchanged, report.revision) == (1, 1, 2)
    assert client.unbind([("203.0.113.6", 0), ("203.0.113.7", 0)]).removed == 1


def test_more_faults_than_a_trailer_holds_are_counted(client: Client) -> None:
    fault = refusal(lambda: client.bind([Binding(ipv4="no", b4_ipv6=B4) for _ in range(5000)]))
    assert fault.metadata["violations"] == "5000"
    assert 10 <= len(fault.violations) <= 64


def test_etags_of_a_batch(client: Client, bindings: Bindings) -> None:
    first = client.create(SHARED)
    request = pb.BatchBindRequest(bindings=[SHARED], etags=["old"])
    fault = refusal(lambda: client._ask(client.stubs.bindings.BatchBind, request))
    assert (fault.code, fault.reason) == ("ABORTED", "ETAG_MISMATCH")
    unbind = pb.BatchUnbindRequest(keys=[BindingKey(ipv4="203.0.113.5", psid=33)], etags=[first.etag])
    assert client._ask(client.stubs.bindings.BatchUnbind, unbind).removed == 1
    fault = refusal(lambda: client._ask(client.stubs.bindings.BatchBind, pb.BatchBindRequest(etags=["a"])))
    assert fault.violations[0][0] == "etags"


def test_a_full_table() -> None:
    bindings = Bindings(capacity=20)
    with Served(parts(bindings)) as served, Client(served.target) as client:
        client.bind(many(20).tobytes())
        fault = refusal(lambda: client.bind(many(22, 5).tobytes()))
    assert (fault.code, fault.reason) == ("RESOURCE_EXHAUSTED", "TABLE_FULL")
    assert [path for path, _ in fault.violations] == ["rows[20]", "rows[21]"]
    assert bindings.revision == 1


def test_a_store_that_cannot_write(client: Client, bindings: Bindings) -> None:
    bindings.broken = "/var/lib/pylwaftr: no space left on the device; free some"
    fault = refusal(lambda: client.create(SHARED))
    assert (fault.code, fault.reason, fault.message) == ("UNAVAILABLE", "STORE_FAULT", bindings.broken)
    assert held(bindings) == 0


# --- request ids


def test_the_same_request_is_done_once(client: Client, bindings: Bindings) -> None:
    request = pb.CreateBindingRequest(binding=SHARED, request_id=str(uuid.uuid4()))
    create = client.stubs.bindings.CreateBinding
    assert create(request) == create(request)
    assert (bindings.revision, bindings.calls) == (1, 1)
    request.binding.psid = 34
    with pytest.raises(grpc.RpcError) as caught:
        create(request)
    fault = failed(caught.value)
    assert (fault.code, fault.reason, fault.violations[0][0]) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED", "request_id")


def test_a_failed_request_is_not_remembered(client: Client, bindings: Bindings) -> None:
    request = pb.CreateBindingRequest(binding=SHARED, request_id="x")
    bindings.broken = "no"
    with pytest.raises(grpc.RpcError):
        client.stubs.bindings.CreateBinding(request)
    bindings.broken = ""
    assert client.stubs.bindings.CreateBinding(request).psid == 33


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_change_is_finished_although_its_client_gave_up(client: Client, bindings: Bindings) -> None:
    bindings.pause_s = 0.5
    request = pb.CreateBindingRequest(binding=SHARED, request_id="slow")
    with pytest.raises(grpc.RpcError) as caught:
        client.stubs.bindings.CreateBinding(request, timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert client.stubs.bindings.CreateBinding(request, timeout=30).psid == 33  # waits for the first
    assert (bindings.calls, bindings.revision) == (1, 1)


def test_so_is_one_without_an_id(client: Client, bindings: Bindings) -> None:
    bindings.pause_s = 0.3
    call = client.stubs.bindings.CreateBinding.future(pb.CreateBindingRequest(binding=SHARED))
    until(lambda: bindings.calls == 1)
    call.cancel()
    until(lambda: bool(bindings.held))


# --- lists, look-ups, history


def test_pages_hold_every_binding_once(client: Client, bindings: Bindings) -> None:
    client.load(many(25).tobytes())
    found = list(client.bindings(page_size=10))
    assert [found[0].ipv4, found[-1].ipv4, len({one.ipv4 for one in found})] == ["10.0.0.0", "10.0.0.24", 25]
    assert not found[0].ports  # of one binding only


FILTERS = [
    (BindingFilter(ipv4="10.0.0.0/30"), 4),
    (BindingFilter(ipv4="10.0.0.3"), 1),
    (BindingFilter(b4_ipv6="2001:db8::1"), 1),
    (BindingFilter(b4_ipv6="2001:db8::/127"), 1),
    (BindingFilter(source=Source.SOURCE_OPERATOR), 25),
    (BindingFilter(source=Source.SOURCE_PCP), 0),
]


@pytest.mark.parametrize("wanted, count", FILTERS, ids=[str(row[0]).strip() for row in FILTERS])
def test_filters(client: Client, wanted: BindingFilter, count: int) -> None:
    client.load(many(25).tobytes())
    assert len(list(client.bindings(wanted))) == count
    assert sum(len(rows) for rows, _ in client.dump(wanted)) == 40 * count


def test_a_page_token_of_somebody_else(client: Client) -> None:
    client.load(many(25).tobytes())
    page = client.stubs.bindings.ListBindings(pb.ListBindingsRequest(page_size=10)).next_page_token
    other = BindingFilter(ipv4="10.0.0.0/28")
    for request in (
        pb.ListBindingsRequest(page_token="nonsense"),
        pb.ListBindingsRequest(page_token=page[:-1] + "-"),
        pb.ListBindingsRequest(page_token=page, filter=other),
    ):
        fault = refusal(lambda request=request: client._ask(client.stubs.bindings.ListBindings, request))  # type: ignore[misc]
        assert fault.violations[0][0] == "page_token"


def test_a_dump_is_the_rows_as_they_are(client: Client) -> None:
    rows = many(70_000)
    client.load(rows.tobytes())
    parts_ = list(client.dump())
    assert b"".join(octets for octets, _ in parts_) == rows.tobytes()
    assert b"".join(sources for _, sources in parts_) == bytes([Source.SOURCE_OPERATOR]) * 70_000


def test_rows_without_numpy_are_the_same() -> None:
    rows = np.concatenate([one("203.0.113.5", 6, 33), many(3)])
    assert pack(unpack(rows.tobytes())) == rows.tobytes()
    assert np.frombuffer(pack([Binding(ipv4="1.2.3.4", b4_ipv6="::1")]), BINDING_ROW)["br"].any() == np.False_


def test_the_lives_of_bindings(client: Client, served: Served, bindings: Bindings) -> None:
    for bindings.now, source, b4 in ((1000.25, PCP, B4), (2000.0, OPERATOR, "2001:db8:2::1")):
        served.do(bindings.put(one("203.0.113.5", 6, 33, b4), source))
    lives = list(client.who_held("203.0.113.5", 33792, 1500, 1600))
    assert [(life.began.ToNanoseconds(), life.ended.ToNanoseconds()) for life in lives] == [(1000250000000, 2 * 10**12)]
    assert lives[0].binding.source == Source.SOURCE_PCP
    assert [life.HasField("ended") for life in client.who_held("203.0.113.5", None)] == [True, False]
    assert [life.binding.b4_ipv6 for life in client.lives_of("2001:db8:2::/48")] == ["2001:db8:2::1"]
    assert [life.binding.b4_ipv6 for life in client.lookup_port("203.0.113.5", 33792, at=1999.0)] == [B4]
    assert [life.binding.b4_ipv6 for life in client.lookup_b4("2001:db8:2::1", at=time.time())] == ["2001:db8:2::1"]
    fault = refusal(lambda: list(client.who_held("203.0.113.5", None, 2000, 1000)))
    assert fault.violations[0][0] == "ended"


def test_whoever_has_a_prefix(client: Client) -> None:
    client.load(many(3000).tobytes())
    assert [life.binding.ipv4 for life in client.lookup_b4("2001:db8::1")] == ["10.0.0.0"]
    answer = client.stubs.bindings.Lookup(pb.LookupRequest(b4_ipv6="2001:db8::/32"))
    assert (len(answer.lives), answer.truncated) == (1000, True)
    assert [life.binding.ipv4 for life in client.lookup_port("10.0.0.7")] == ["10.0.0.7"]


def test_the_br_address_of_the_configuration_is_taken(client: Client, bindings: Bindings) -> None:
    rows = many(2)
    rows["br"] = 0
    client.bind(rows.tobytes())
    assert {octets[24:40] for octets, _ in bindings.held.values()} == {BR}
