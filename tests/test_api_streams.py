"""Long streams and clients that behave badly: loads, replacements, watches, stalls, floods; with a clear status."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from pylwaftr.api.channel import Stubs, failed
from pylwaftr.api.client import Binding, CallFailed, Client, LoadProgress, WatchEvent, unpack
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2 as pb
from pylwaftr.api.limits import Limits
from pylwaftr.config.services import Api
from pylwaftr.config.values import Endpoint
from pylwaftr.store import Compacted
from tests.api_router import Bindings, Served, many, parts

TIGHT = Limits(loads=2, watches=2, idle_s=2.0, write_s=0.5)


@pytest.fixture
def bindings() -> Bindings:
    return Bindings()


@pytest.fixture
def served(bindings: Bindings) -> Iterator[Served]:
    with Served(parts(bindings), limits=Limits(loads=TIGHT.loads, watches=TIGHT.watches)) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.target) as made:
        yield made


@pytest.fixture
def hurried(bindings: Bindings) -> Iterator[Client]:
    """A client whose router waits for nobody."""
    with Served(parts(bindings), limits=TIGHT) as served, Client(served.target) as made:
        yield made


def refusal(call: Callable[[], Any]) -> CallFailed:
    with pytest.raises((CallFailed, grpc.RpcError)) as caught:
        call()
    return caught.value if isinstance(caught.value, CallFailed) else failed(caught.value)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- load


def test_a_load_tells_how_far_it_is(client: Client, bindings: Bindings) -> None:
    seen: list[LoadProgress] = []
    last = client.load(many(100_000).tobytes(), seen.append)
    assert [(one.rows, one.done) for one in seen] == [
        (32768, False),
        (65536, False),
        (98304, False),
        (100_000, False),
        (100_000, True),
    ]
    assert (last.report.added, last.report.revision, len(bindings.held)) == (100_000, 4, 100_000)


def test_a_refused_batch_ends_the_load_and_names_its_rows(client: Client, bindings: Bindings) -> None:
    rows = many(100_000)
    rows["psid_len"][40_000], rows["psid"][40_000] = 6, 64
    seen: list[LoadProgress] = []
    fault = refusal(lambda: client.load(rows.tobytes(), seen.append))
    assert (fault.code, fault.reason, fault.violations[0][0]) == (
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "rows[40000].psid",
    )
    assert [(one.index, one.field) for one in seen[-1].refused] == [(40_000, "psid")]
    assert (seen[-1].report.added, len(bindings.held)) == (32768, 32768)  # the batch before was answered


def test_validation_goes_to_the_end(client: Client, bindings: Bindings) -> None:
    rows = many(100_000)
    for index in (5, 40_000, 99_999):
        rows["psid_len"][index], rows["psid"][index] = 6, 64
    seen: list[LoadProgress] = []
    fault = refusal(lambda: client.load(rows.tobytes(), seen.append, validate_only=True))
    assert fault.reason == "INVALID_FIELD"
    assert [one.index for progress in seen for one in progress.refused] == [5, 40_000, 99_999]
    assert (seen[-1].refused_count, len(bindings.held)) == (3, 0)
    assert (fault.metadata["violations"], fault.message[-13:]) == ("3", " (and 2 more)")


def test_validation_counts_what_the_table_refuses_in_all_messages(client: Client, bindings: Bindings) -> None:
    rows = many(70_000)
    for index in (5, 40_000):
        rows[index] = rows[index + 1]
    fault = refusal(lambda: client.load(rows.tobytes(), validate_only=True))
    assert (fault.reason, fault.metadata) == ("DUPLICATE_IN_BATCH", {"index": "6", "violations": "2"})
    assert fault.violations[0][0] == "rows[6]"


def test_what_the_table_refuses_has_its_place_in_the_stream(client: Client, bindings: Bindings) -> None:
    client.create(Binding(ipv4="10.0.200.0", psid_len=6, psid=1, b4_ipv6="2001:db8:9::9"))
    seen: list[LoadProgress] = []
    fault = refusal(lambda: client.load(many(60_000).tobytes(), seen.append))
    assert (fault.code, fault.reason, fault.violations[0][0]) == ("FAILED_PRECONDITION", "OVERLAP", "rows[51200]")
    assert [(one.index, one.reason) for one in seen[-1].refused] == [(51_200, "OVERLAP")]


STREAMS = [  # messages, reason
    ([], "INVALID_FIELD"),
    ([pb.LoadBindingsRequest(rows=bytes(40))], "INVALID_FIELD"),
    ([pb.LoadBindingsRequest(start=pb.LoadStart())] * 2, "INVALID_FIELD"),
    ([pb.LoadBindingsRequest(start=pb.LoadStart()), pb.LoadBindingsRequest()], "INVALID_FIELD"),
    ([pb.LoadBindingsRequest(start=pb.LoadStart()), pb.LoadBindingsRequest(rows=bytes(39))], "INVALID_FIELD"),
    ([pb.LoadBindingsRequest(start=pb.LoadStart()), pb.LoadBindingsRequest(rows=bytes(40 * 65537))], "TOO_MANY"),
]


@pytest.mark.parametrize(
    "messages, reason", STREAMS, ids=["nothing", "no start", "two starts", "empty", "uneven", "too many rows"]
)
@pytest.mark.parametrize("method", ["LoadBindings", "ReplaceBindings"])
def test_streams_that_are_none(client: Client, method: str, messages: list[Any], reason: str) -> None:
    fault = refusal(lambda: list(getattr(client.stubs.bindings, method)(iter(messages))))
    assert (fault.code, fault.reason) == ("INVALID_ARGUMENT", reason)


def test_a_message_that_says_nothing_is_not_taken_for_another_start(client: Client) -> None:
    messages = [pb.LoadBindingsRequest(start=pb.LoadStart()), pb.LoadBindingsRequest()]
    fault = refusal(lambda: list(client.stubs.bindings.LoadBindings(iter(messages))))
    assert [path for path, _ in fault.violations] == ["rows"]
    assert "comes again" not in fault.message


@pytest.mark.parametrize("octets", [41, 40 * 65537], ids=["uneven", "too many"])
def test_a_message_that_is_no_rows_has_its_place_in_the_stream(client: Client, octets: int) -> None:
    parts = ({"start": {}}, {"rows": many(3).tobytes()}, {"rows": bytes(octets)})
    answers = client.stubs.bindings.LoadBindings(iter([pb.LoadBindingsRequest(**part) for part in parts]))
    assert next(answers).rows == 3
    assert [(one.index, one.field) for one in next(answers).refused] == [(3, "")]
    assert "behind the first 3 rows of the stream" in refusal(lambda: next(answers)).message


# --- replace


def test_replace_removes_what_was_not_sent(client: Client, bindings: Bindings) -> None:
    client.load(many(100).tobytes())
    last = client.load(many(40, b4_seed=1000).tobytes(), replace=True)
    assert (last.report.replaced, last.report.removed, last.done, len(bindings.held)) == (40, 60, True, 40)


def test_a_broken_replacement_removes_nothing(client: Client, bindings: Bindings) -> None:
    client.load(many(100).tobytes())
    rows = many(10)
    rows["ipv4"][9] = 0
    assert refusal(lambda: client.load(rows.tobytes(), replace=True)).reason == "INVALID_FIELD"
    assert (len(bindings.held), bindings.abandoned) == (100, 1)


def test_a_client_that_disappears_in_a_replacement(client: Client, bindings: Bindings) -> None:
    client.load(many(100).tobytes())
    gone = threading.Event()

    def requests() -> Iterator[pb.LoadBindingsRequest]:
        yield pb.LoadBindingsRequest(start=pb.LoadStart())
        yield pb.LoadBindingsRequest(rows=many(5).tobytes())
        gone.wait(60)

    call = client.stubs.bindings.ReplaceBindings(requests())
    assert next(call).rows == 5
    call.cancel()
    until(lambda: bindings.abandoned == 1)
    gone.set()
    assert len(bindings.held) == 100


def test_a_batch_that_has_begun_is_finished_before_its_replacement_is_given_up(
    client: Client, bindings: Bindings
) -> None:
    bindings.pause_s = 0.5
    gone = threading.Event()

    def requests() -> Iterator[pb.LoadBindingsRequest]:
        yield pb.LoadBindingsRequest(start=pb.LoadStart())
        yield pb.LoadBindingsRequest(rows=many(5).tobytes())
        gone.wait(60)

    call = client.stubs.bindings.ReplaceBindings(requests())
    until(lambda: bindings.calls == 1)
    call.cancel()
    until(lambda: bindings.abandoned == 1)
    assert (len(bindings.held), bindings.revision) == (5, 1)
    gone.set()


@pytest.mark.parametrize("method", ["LoadBindings", "ReplaceBindings"])
def test_a_stream_without_its_end_broke_off(client: Client, bindings: Bindings, method: str) -> None:
    client.load(many(100).tobytes())
    requests = [pb.LoadBindingsRequest(start=pb.LoadStart()), pb.LoadBindingsRequest(rows=many(5).tobytes())]
    fault = refusal(lambda: list(getattr(client.stubs.bindings, method)(iter(requests))))
    assert (fault.code, fault.reason, len(bindings.held)) == ("ABORTED", "STREAM_BROKEN_OFF", 100)


def test_a_trial_without_its_end_says_that_nothing_was_changed(client: Client) -> None:
    requests = [pb.LoadBindingsRequest(start=pb.LoadStart(validate_only=True))]
    fault = refusal(lambda: list(client.stubs.bindings.LoadBindings(iter(requests))))
    assert (fault.reason, fault.message) == ("STREAM_BROKEN_OFF", "the stream ended without `end`; nothing was changed")


def test_two_replacements_at_once(client: Client, bindings: Bindings) -> None:
    wait = threading.Event()

    def requests() -> Iterator[pb.LoadBindingsRequest]:
        yield pb.LoadBindingsRequest(start=pb.LoadStart())
        yield pb.LoadBindingsRequest(rows=many(5).tobytes())
        wait.wait(60)
        yield pb.LoadBindingsRequest(end=pb.LoadEnd())

    call = client.stubs.bindings.ReplaceBindings(requests())
    assert next(call).rows == 5
    fault = refusal(lambda: client.load(many(7).tobytes(), replace=True))
    assert (fault.code, fault.reason) == ("ABORTED", "REPLACEMENT_RUNNING")
    wait.set()
    assert list(call)[-1].done
    assert client.load(many(7).tobytes(), replace=True).done


# --- bad manners


def test_a_load_that_stalls_is_ended(hurried: Client, bindings: Bindings) -> None:
    wait = threading.Event()

    def requests() -> Iterator[pb.LoadBindingsRequest]:
        yield pb.LoadBindingsRequest(start=pb.LoadStart())
        yield pb.LoadBindingsRequest(rows=many(5).tobytes())
        wait.wait(60)

    fault = refusal(lambda: list(hurried.stubs.bindings.LoadBindings(requests())))
    wait.set()
    assert (fault.code, fault.reason) == ("ABORTED", "STREAM_IDLE")
    assert len(bindings.held) == 5  # what was answered is done


def test_a_message_of_100_megabytes_is_refused(client: Client, bindings: Bindings) -> None:
    fault = refusal(lambda: _unlimited(client, bytes(100 << 20)))
    assert fault.code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in fault.message
    assert (bindings.calls, client.health()) == (0, "SERVING")


def _target(client: Client) -> str:
    found: str = client._channel._channel.target().decode()  # type: ignore[attr-defined]
    return found


def _unlimited(client: Client, rows: bytes) -> None:
    with grpc.insecure_channel(_target(client), [("grpc.max_send_message_length", -1)]) as channel:
        method = channel.unary_unary("/lwaftr.v1.BindingService/BatchBind")
        method(b"\x12" + _varint(len(rows)) + rows, timeout=30)


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])


GARBAGE = [b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", bytes(3)]


@pytest.mark.parametrize("octets", GARBAGE, ids=["no tags", "a length beyond the end", "field 0"])
def test_octets_that_are_no_message(client: Client, octets: bytes) -> None:
    target = client._channel._channel.target().decode()  # type: ignore[attr-defined]
    with grpc.insecure_channel(target) as channel:
        method = channel.unary_unary("/lwaftr.v1.BindingService/BatchBind")
        fault = refusal(lambda: method(octets, timeout=10))
    assert (fault.code, fault.reason) == ("INVALID_ARGUMENT", "NOT_A_MESSAGE")
    assert client.health() == "SERVING"


def test_a_method_that_does_not_exist(client: Client) -> None:
    target = client._channel._channel.target().decode()  # type: ignore[attr-defined]
    with grpc.insecure_channel(target) as channel:
        fault = refusal(lambda: channel.unary_unary("/lwaftr.v1.BindingService/DropAll")(b"", timeout=10))
    assert fault.code == "UNIMPLEMENTED"


def test_a_question_whose_deadline_is_over_ends(client: Client, bindings: Bindings) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def listing(*_: object) -> object:
        begun.set()
        try:
            return await asyncio.sleep(60)
        finally:
            ended.set()

    bindings.list = listing  # type: ignore[method-assign,assignment]
    for seconds in (0.3, 3.0, 30.0):  # a busy machine may not have begun
        with pytest.raises(grpc.RpcError) as caught:
            client.stubs.bindings.ListBindings(pb.ListBindingsRequest(), timeout=seconds)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if begun.is_set():
            break
    assert ended.wait(30)


def test_more_loads_than_allowed(client: Client) -> None:
    wait = threading.Event()

    def requests() -> Iterator[pb.LoadBindingsRequest]:
        yield pb.LoadBindingsRequest(start=pb.LoadStart())
        yield pb.LoadBindingsRequest(rows=many(1).tobytes())
        wait.wait(60)
        yield pb.LoadBindingsRequest(end=pb.LoadEnd())

    calls = [client.stubs.bindings.LoadBindings(requests()) for _ in range(2)]
    for call in calls:
        next(call)
    fault = refusal(lambda: client.load(b""))
    assert (fault.code, fault.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS")
    wait.set()
    for call in calls:
        list(call)
    assert client.load(b"").done


# --- watch


def test_snapshot_marker_changes(client: Client) -> None:
    client.load(many(2000).tobytes())
    events = client.watch()
    kinds = [next(events) for _ in range(3)]
    assert [event.kind for event in kinds] == [WatchEvent.SNAPSHOT, WatchEvent.SNAPSHOT, WatchEvent.MARKER]
    assert [len(event.bindings) for event in kinds] == [1024, 976, 0]
    made = client.create(Binding(ipv4="203.0.113.5", b4_ipv6="2001:db8:1::1"))
    client.delete("203.0.113.5")
    bound, unbound = next(events), next(events)
    assert (bound.kind, bound.revision, bound.bindings[0].etag) == (WatchEvent.BOUND, 2, made.etag)
    assert (unbound.kind, unbound.revision, unbound.bindings[0].ipv4) == (WatchEvent.UNBOUND, 3, "203.0.113.5")
    assert abs(unbound.at.ToSeconds() - time.time()) < 60


def test_a_watch_goes_on_from_a_revision(client: Client, bindings: Bindings) -> None:
    for last in range(3):
        client.create(Binding(ipv4=f"203.0.113.{last}", b4_ipv6="2001:db8:1::1"))
    events = client.watch(after=1, packed=True)
    found = [next(events), next(events)]
    assert [(event.kind, event.revision) for event in found] == [(WatchEvent.BOUND, 2), (WatchEvent.BOUND, 3)]
    assert [next(unpack(event.rows)).ipv4 for event in found] == ["203.0.113.1", "203.0.113.2"]
    fault = refusal(lambda: next(client.watch(after=4)))
    assert (fault.code, fault.violations[0][0]) == ("INVALID_ARGUMENT", "after_revision")

    async def compacted(after: int) -> Any:
        raise Compacted
        yield

    bindings.watch = compacted
    fault = refusal(lambda: next(client.watch(after=1)))
    assert (fault.code, fault.reason) == ("OUT_OF_RANGE", "COMPACTED")


def test_a_watch_does_not_end_well_when_the_router_ends(client: Client, served: Served, bindings: Bindings) -> None:
    """Status OK would say that there is nothing more to come."""
    events = client.watch()
    assert next(events).kind == WatchEvent.MARKER
    served.loop.call_soon_threadsafe(bindings.end_watches)
    fault = refusal(lambda: next(events))
    assert (fault.code, fault.reason) == ("UNAVAILABLE", "ROUTER_ENDING")


def test_a_watch_that_nobody_reads_is_ended(hurried: Client, bindings: Bindings) -> None:
    """The client takes the first message and no more; the router sees the window close. gRPC may widen it until the
    whole snapshot fits, if it is not told otherwise."""
    hurried.load(many(200_000).tobytes())
    narrow = grpc.insecure_channel(_target(hurried), [("grpc.http2.bdp_probe", 0)])
    call = Stubs(narrow).bindings.WatchBindings(pb.WatchBindingsRequest(packed=True))
    next(call)

    def two_more() -> bool:
        others = [hurried.stubs.bindings.WatchBindings(pb.WatchBindingsRequest(packed=True)) for _ in range(2)]
        try:
            for other in others:
                next(other)
        except grpc.RpcError:
            return False  # the slot of the first is not free yet, or of those that tried before
        finally:
            for other in others:
                other.cancel()
        return True

    assert hurried.health() == "SERVING"
    until(two_more)
    assert hurried.health() == "SERVING"
    fault = refusal(lambda: list(call))
    assert (fault.code, fault.reason) == ("RESOURCE_EXHAUSTED", "SLOW_CLIENT")
    narrow.close()


def test_a_watcher_that_left_frees_its_place(client: Client) -> None:
    def watched() -> bool:
        call = client.stubs.bindings.WatchBindings(pb.WatchBindingsRequest())
        try:
            next(call)
        except grpc.RpcError:
            return False  # the router has not heard yet that the last one left
        call.cancel()
        return True

    for _ in range(6):  # of two
        end = time.monotonic() + 60
        while not watched():
            assert time.monotonic() < end
            time.sleep(0.02)


def test_following_survives_a_restart_of_the_router() -> None:
    bindings = Bindings()
    first = Served(parts(bindings))
    with first:
        port = first.running.port
        client = Client(first.target)
        events = client.follow(packed=True)
        assert next(events).kind == WatchEvent.MARKER
        for last in range(3):
            client.create(Binding(ipv4=f"203.0.113.{last}", b4_ipv6="2001:db8:1::1"))
            assert next(events).revision == last + 1
    with Served(parts(bindings), Api(Endpoint("127.0.0.1", port), None, False, ())):
        client.create(Binding(ipv4="203.0.113.9", b4_ipv6="2001:db8:1::1"))
        found = [next(events), next(events)]
    assert [event.revision for event in found] == [3, 4]  # the last one seen may have come in part: it comes again
    client.close()
