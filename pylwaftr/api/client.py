"""A typed client for automation: one method a question, messages in and out, CallFailed when nothing was done.

It needs neither the compiled core nor DPDK nor numpy:

    with Client("router.example.net:50051", tls=Tls(ca, cert, key)) as router:
        router.create(Binding(ipv4="203.0.113.5", psid_len=6, psid=33, b4_ipv6="2001:db8:1::/64"))
        for life in router.lookup_port("203.0.113.5", 33792):
            print(life.binding.b4_ipv6)

Changes carry a request_id of their own, so one that had no answer is sent once more without being done twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2

from pylwaftr.api.channel import DEFAULT_TARGET, CallFailed, Stubs, Tls, failed, open_async_channel, open_channel, told
from pylwaftr.api.generated.lwaftr.v1 import (
    bindings_pb2,
    counters_pb2,
    history_pb2,
    leasequery_pb2,
    pcp_pb2,
    router_pb2,
)
from pylwaftr.api.generated.lwaftr.v1.bindings_pb2 import BatchReport, BindingFilter, LoadProgress
from pylwaftr.api.generated.lwaftr.v1.bindings_pb2 import WatchBindingsResponse as WatchEvent
from pylwaftr.api.generated.lwaftr.v1.common_pb2 import Binding, BindingKey, Life, Source
from pylwaftr.api.generated.lwaftr.v1.counters_pb2 import CounterSample
from pylwaftr.api.generated.lwaftr.v1.router_pb2 import DiffSettingsResponse as SettingsPlan
from pylwaftr.api.rows_plain import ROW, pack, unpack

__all__ = [
    "ROW",
    "BatchReport",
    "Binding",
    "BindingFilter",
    "BindingKey",
    "CallFailed",
    "Client",
    "CounterSample",
    "Life",
    "LoadProgress",
    "SettingsPlan",
    "Source",
    "Stubs",
    "Tls",
    "WatchEvent",
    "failed",
    "open_async_channel",
    "pack",
    "unpack",
]

ROWS_A_MESSAGE = 32768
RETRY_S = (0.1, 0.5, 2.0)

Answer = TypeVar("Answer")
Moment = float | datetime | None  # seconds since 1970


class Client:
    """`timeout_s` bounds every call but the streams, which may take as long as they move. `retry_s`: the pauses after
    which a change without an answer is sent again."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        tls: Tls | None = None,
        timeout_s: float = 10.0,
        retry_s: Sequence[float] = RETRY_S,
    ) -> None:
        self._channel = open_channel(target, tls)
        self.stubs = Stubs(self._channel)  # for calls that have no method here
        self._timeout_s, self._retry_s = timeout_s, retry_s

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    # --- bindings

    def create(self, binding: Binding, *, validate_only: bool = False) -> Binding:
        request = bindings_pb2.CreateBindingRequest(binding=binding, validate_only=validate_only, request_id=_id())
        return self._change(self.stubs.bindings.CreateBinding, request)

    def get(self, ipv4: str, psid: int = 0, *, source: Source | str | None = None) -> Binding:
        """What is bound; or what a source (SOURCE_OPERATOR) wants there, which may wait."""
        request = bindings_pb2.GetBindingRequest(ipv4=ipv4, psid=psid, source=source)
        return self._ask(self.stubs.bindings.GetBinding, request)

    def update(
        self, binding: Binding, *, etag: str = "", allow_missing: bool = False, validate_only: bool = False
    ) -> Binding:
        request = bindings_pb2.UpdateBindingRequest(
            binding=binding, etag=etag, allow_missing=allow_missing, validate_only=validate_only, request_id=_id()
        )
        return self._change(self.stubs.bindings.UpdateBinding, request)

    def delete(
        self, ipv4: str, psid: int = 0, *, etag: str = "", allow_missing: bool = False, validate_only: bool = False
    ) -> int:
        """The revision from which on it is gone."""
        request = bindings_pb2.DeleteBindingRequest(
            ipv4=ipv4, psid=psid, etag=etag, allow_missing=allow_missing, validate_only=validate_only, request_id=_id()
        )
        return self._change(self.stubs.bindings.DeleteBinding, request).revision

    def bind(self, bindings: Iterable[Binding] | bytes, *, validate_only: bool = False) -> BatchReport:
        """All or none; packed rows as bytes."""
        request = bindings_pb2.BatchBindRequest(validate_only=validate_only, request_id=_id())
        if isinstance(bindings, bytes):
            request.rows = bindings
        else:
            request.bindings.extend(bindings)
        return self._change(self.stubs.bindings.BatchBind, request)

    def unbind(self, keys: Iterable[tuple[str, int]] | bytes, *, validate_only: bool = False) -> BatchReport:
        """All or none; (IPv4 address, PSID) each, or packed rows as bytes."""
        request = bindings_pb2.BatchUnbindRequest(validate_only=validate_only, request_id=_id())
        if isinstance(keys, bytes):
            request.rows = keys
        else:
            request.keys.extend(BindingKey(ipv4=ipv4, psid=psid) for ipv4, psid in keys)
        return self._change(self.stubs.bindings.BatchUnbind, request)

    def bindings(self, wanted: BindingFilter | None = None, page_size: int = 1000) -> Iterator[Binding]:
        page = ""
        while True:
            request = bindings_pb2.ListBindingsRequest(page_size=page_size, page_token=page, filter=wanted)
            answer = self._ask(self.stubs.bindings.ListBindings, request)
            yield from answer.bindings
            page = answer.next_page_token
            if not page:
                return

    def dump(self, wanted: BindingFilter | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Packed rows, and one octet of Source for each."""
        with told():
            for part in self.stubs.bindings.DumpBindings(bindings_pb2.DumpBindingsRequest(filter=wanted)):
                yield part.rows, part.sources

    def load(
        self,
        rows: bytes | Iterable[bytes],
        seen: Callable[[LoadProgress], None] | None = None,
        *,
        replace: bool = False,
        validate_only: bool = False,
    ) -> LoadProgress:
        """Bulk load; `replace` removes afterwards what was not among the rows. `seen` is shown each progress."""
        method = self.stubs.bindings.ReplaceBindings if replace else self.stubs.bindings.LoadBindings
        last = LoadProgress()
        with told():
            for progress in method(_load_requests(rows, validate_only)):
                last = progress
                if seen is not None:
                    seen(progress)
        return last

    def watch(self, after: int | None = None, packed: bool = False) -> Iterator[WatchEvent]:
        """Snapshot, marker, changes; with `after` only the changes behind that revision. Ends with CallFailed."""
        request = bindings_pb2.WatchBindingsRequest(after_revision=after, packed=packed)
        with told():
            yield from self.stubs.bindings.WatchBindings(request)

    def follow(self, after: int | None = None, packed: bool = False) -> Iterator[WatchEvent]:
        """As watch(), but goes on where it was when the router was away, and anew where changes are compacted: whoever
        follows begins anew too with every SNAPSHOT that comes behind a change."""
        resume, pause = after, RETRY_S[0]
        last = after
        while True:
            try:
                for event in self.watch(resume, packed):
                    pause = RETRY_S[0]
                    if event.kind == WatchEvent.MARKER:
                        resume = last = event.revision
                    elif event.kind != WatchEvent.SNAPSHOT:
                        if last is not None and event.revision > last:
                            resume = last
                        last = event.revision
                    yield event
            except CallFailed as fault:
                if fault.reason == "COMPACTED" or (resume is not None and fault.reason == "INVALID_FIELD"):
                    resume = last = None
                elif fault.code != "UNAVAILABLE" and fault.reason != "SLOW_CLIENT":
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 10.0)

    def lookup_port(self, ipv4: str, port: int | None = None, at: Moment = None) -> Iterable[Life]:
        """Who has the port (None: any port of the address), or had it then."""
        request = bindings_pb2.LookupRequest(endpoint=bindings_pb2.Endpoint(ipv4=ipv4, port=port), at=_moment(at))
        answer = self._ask(self.stubs.bindings.Lookup, request)
        if answer.truncated and at is not None:
            return self.who_held(ipv4, port, at, at)
        return self._now(BindingFilter(ipv4=ipv4)) if answer.truncated else list(answer.lives)

    def lookup_b4(self, b4: str, at: Moment = None) -> Iterable[Life]:
        """What a B4, or all B4s of a prefix, have; or had then. Very many come as they are asked for."""
        answer = self._ask(self.stubs.bindings.Lookup, bindings_pb2.LookupRequest(b4_ipv6=b4, at=_moment(at)))
        if answer.truncated and at is not None:
            return self.lives_of(b4, at, at)
        return self._now(BindingFilter(b4_ipv6=b4)) if answer.truncated else list(answer.lives)

    def _now(self, wanted: BindingFilter) -> Iterator[Life]:
        return (Life(binding=one) for one in self.bindings(wanted))

    # --- history

    def who_held(self, ipv4: str, port: int | None, began: Moment = None, ended: Moment = None) -> Iterator[Life]:
        request = history_pb2.WhoHeldRequest(ipv4=ipv4, port=port, began=_moment(began), ended=_moment(ended))
        with told():
            for part in self.stubs.history.WhoHeld(request):
                yield from part.lives

    def lives_of(self, b4: str, began: Moment = None, ended: Moment = None) -> Iterator[Life]:
        request = history_pb2.ListLivesRequest(b4_ipv6=b4, began=_moment(began), ended=_moment(ended))
        with told():
            for part in self.stubs.history.ListLives(request):
                yield from part.lives

    # --- the router

    def describe_counters(self) -> list[counters_pb2.CounterDescription]:
        request = counters_pb2.DescribeCountersRequest()
        return list(self._ask(self.stubs.counters.DescribeCounters, request).counters)

    def counters(self, per_worker: bool = False) -> CounterSample:
        return self._ask(self.stubs.counters.GetCounters, counters_pb2.GetCountersRequest(per_worker=per_worker))

    def stream_counters(self, interval_s: float = 1.0, per_worker: bool = False) -> Iterator[CounterSample]:
        interval = Duration()
        interval.FromMicroseconds(round(interval_s * 1e6))
        with told():
            yield from self.stubs.counters.StreamCounters(
                counters_pb2.StreamCountersRequest(interval=interval, per_worker=per_worker)
            )

    def status(self) -> router_pb2.Status:
        return self._ask(self.stubs.router.GetStatus, router_pb2.GetStatusRequest())

    def ports(self) -> list[router_pb2.Part]:
        return list(self._ask(self.stubs.router.ListPorts, router_pb2.ListPortsRequest()).ports)

    def workers(self) -> list[router_pb2.Part]:
        return list(self._ask(self.stubs.router.ListWorkers, router_pb2.ListWorkersRequest()).workers)

    def neighbors(self) -> list[router_pb2.Part]:
        return list(self._ask(self.stubs.router.ListNeighbors, router_pb2.ListNeighborsRequest()).neighbors)

    def health(self, part: str = "") -> str:
        """SERVING or NOT_SERVING; of dataplane, store, pcp, leasequery, or "" for the whole."""
        answer = self._ask(self.stubs.health_check, health_pb2.HealthCheckRequest(service=part))
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def settings(self) -> router_pb2.Settings:
        return self._ask(self.stubs.router.GetSettings, router_pb2.GetSettingsRequest())

    def validate_settings(self, yaml: str = "") -> router_pb2.ValidateSettingsResponse:
        return self._ask(self.stubs.router.ValidateSettings, router_pb2.ValidateSettingsRequest(yaml=yaml))

    def diff_settings(self, yaml: str = "") -> SettingsPlan:
        return self._ask(self.stubs.router.DiffSettings, router_pb2.DiffSettingsRequest(yaml=yaml))

    def apply_settings(
        self, yaml: str = "", *, etag: str = "", validate_only: bool = False
    ) -> router_pb2.ApplySettingsResponse:
        """Reload: of the router's file, or of this text, which then replaces it."""
        request = router_pb2.ApplySettingsRequest(yaml=yaml, etag=etag, validate_only=validate_only, request_id=_id())
        return self._change(self.stubs.router.ApplySettings, request)

    def explain(self, frames: Iterable[tuple[str, bytes, bool]]) -> list[router_pb2.Story]:
        """(side, octets, whether they start at the IP header) each."""
        made = [router_pb2.Frame(side=side, octets=octets, bare=bare) for side, octets, bare in frames]
        return list(self._ask(self.stubs.router.Explain, router_pb2.ExplainRequest(frames=made)).stories)

    def capture(self, wanted: router_pb2.CaptureRequest) -> Iterator[router_pb2.CaptureResponse]:
        with told():
            yield from self.stubs.router.Capture(wanted)

    # --- PCP and leasequery

    def pcp_mappings(self, b4: str = "", ipv4: str = "", page_size: int = 1000) -> Iterator[pcp_pb2.Mapping]:
        page = ""
        while True:
            request = pcp_pb2.ListMappingsRequest(page_size=page_size, page_token=page, b4_ipv6=b4, ipv4=ipv4)
            answer = self._ask(self.stubs.pcp.ListMappings, request)
            yield from answer.mappings
            page = answer.next_page_token
            if not page:
                return

    def pcp_pools(self) -> list[pcp_pb2.Pool]:
        return list(self._ask(self.stubs.pcp.ListPools, pcp_pb2.ListPoolsRequest()).pools)

    def pcp_release(self, ipv4: str = "", psid: int = 0, *, b4: str = "", validate_only: bool = False) -> int:
        """By address and PSID, or all of a B4 or prefix; how many there were."""
        request = pcp_pb2.ReleaseMappingsRequest(validate_only=validate_only, request_id=_id())
        if b4:
            request.b4_ipv6 = b4
        else:
            request.key.CopyFrom(BindingKey(ipv4=ipv4, psid=psid))
        return self._change(self.stubs.pcp.ReleaseMappings, request).released

    def pcp_announce(self) -> int:
        """How many softwires will hear it."""
        return self._change(self.stubs.pcp.Announce, pcp_pb2.AnnounceRequest(request_id=_id())).softwires

    def lease_sources(self) -> list[leasequery_pb2.LeaseSource]:
        return list(self._ask(self.stubs.leasequery.ListSources, leasequery_pb2.ListSourcesRequest()).sources)

    def leases(
        self, name: str = "", *, ipv4: str = "", b4: str = "", kept_out: bool = False, page_size: int = 1000
    ) -> Iterator[leasequery_pb2.Lease]:
        """As servers told of them, with what has become of them. `kept_out`: active ones that are not bound."""
        page = ""
        while True:
            request = leasequery_pb2.ListLeasesRequest(
                name=name, ipv4=ipv4, b4_ipv6=b4, kept_out=kept_out, page_size=page_size, page_token=page
            )
            answer = self._ask(self.stubs.leasequery.ListLeases, request)
            yield from answer.leases
            page = answer.next_page_token
            if not page:
                return

    def resync(self, name: str = "") -> list[str]:
        request = leasequery_pb2.ResyncRequest(name=name, request_id=_id())
        return list(self._change(self.stubs.leasequery.Resync, request).names)

    def drop_leases(self, name: str, validate_only: bool = False) -> int:
        """All that a server told of; it is asked anew. How many leases it called active."""
        request = leasequery_pb2.DropRequest(name=name, request_id=_id(), validate_only=validate_only)
        return int(self._change(self.stubs.leasequery.Drop, request).leases)

    def _ask(self, method: grpc.UnaryUnaryMultiCallable[Any, Answer], request: Any) -> Answer:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise failed(error) from None

    def _change(self, method: grpc.UnaryUnaryMultiCallable[Any, Answer], request: Any) -> Answer:
        """The connection may break before the answer; the request_id makes asking again harmless."""
        for pause in self._retry_s:
            try:
                return self._ask(method, request)
            except CallFailed as fault:
                if not fault.unreachable:
                    raise
            time.sleep(pause)
        return self._ask(method, request)


def _id() -> str:
    return os.urandom(16).hex()


def _moment(at: Moment) -> Timestamp | None:
    if at is None:
        return None
    made = Timestamp()
    if isinstance(at, datetime):
        made.FromDatetime(at.astimezone(UTC).replace(tzinfo=None))
    else:
        made.FromMicroseconds(round(at * 1e6))
    return made


def _load_requests(rows: bytes | Iterable[bytes], validate_only: bool) -> Iterator[bindings_pb2.LoadBindingsRequest]:
    yield bindings_pb2.LoadBindingsRequest(start=bindings_pb2.LoadStart(validate_only=validate_only))
    size = ROWS_A_MESSAGE * ROW.size
    for piece in [rows] if isinstance(rows, bytes) else rows:
        for start in range(0, len(piece), size):
            yield bindings_pb2.LoadBindingsRequest(rows=piece[start : start + size])
    yield bindings_pb2.LoadBindingsRequest(end=bindings_pb2.LoadEnd())
