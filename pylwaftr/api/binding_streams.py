"""The long streams of BindingService: load, replace, dump, watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import grpc
from grpc import aio

from pylwaftr.api import errors, translate
from pylwaftr.api.backend import Event, Listed, ListFilter, Parts, Replacement, Report, SettingsView
from pylwaftr.api.errors import ApiError
from pylwaftr.api.gate import Incoming
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2 as pb
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2_grpc
from pylwaftr.api.limits import Limits, Mutex, Slots
from pylwaftr.api.translate import Invalid, invalid
from pylwaftr.changes import Chain, Op, Source, summed
from pylwaftr.config.row_checks import Surroundings
from pylwaftr.rows import BINDING_ROW, Rows

DUMP_ROWS = 65536  # in one message
WATCH_ROWS, WATCH_BINDINGS = 8192, 1024
AT_ONCE = 6  # batches of a load: on the way to the table, to the disk, and back

Context = aio.ServicerContext[Any, Any]
Requests = AsyncIterator[pb.LoadBindingsRequest]
Answers = AsyncGenerator[pb.LoadProgress, None]
Feed = Callable[[Rows], Awaitable[Report]]


class BindingStreams(bindings_pb2_grpc.BindingServiceServicer):
    def __init__(self, parts: Parts, limits: Limits) -> None:
        self._backend, self._settings = parts.backend, parts.settings
        self._loads = Slots(limits.loads, "loads")
        self._dumps = Slots(limits.dumps, "dumps")
        self._watches = Slots(limits.watches, "watches")
        self._replacing = Mutex(
            "REPLACEMENT_RUNNING", "another client replaces all bindings; try again when it is done"
        )

    @property
    def _around(self) -> Surroundings:
        return self._settings.around

    async def LoadBindings(self, requests: Requests, context: Context) -> Answers:
        with self._loads.one():
            validate_only = await _started(requests)
            made = self._whole(requests, None) if validate_only else self._load(requests)
            async with aclosing(made) as answers:
                async for progress in answers:
                    yield progress

    async def ReplaceBindings(self, requests: Requests, context: Context) -> Answers:
        with self._loads.one(), self._replacing.held():
            validate_only = await _started(requests)
            replacement = None if validate_only else await self._backend.replace_all(Source.OPERATOR)
            async with aclosing(self._whole(requests, replacement, replacing=True)) as answers:
                async for progress in answers:
                    yield progress

    async def _load(self, requests: Requests) -> Answers:
        chain = Chain()
        load = _Load(self._settings, lambda rows: self._backend.bind(rows, Source.OPERATOR, chain=chain), go_on=False)
        try:
            async with aclosing(load.run(requests)) as answers:
                async for progress in answers:
                    yield progress
        except BaseException:  # also the client's leaving, whose place is free when its batches are over
            await asyncio.shield(load.settled())
            raise
        yield load.done(Report(revision=self._backend.revision))

    async def _whole(self, requests: Requests, replacement: Replacement | None, replacing: bool = False) -> Answers:
        """Has an end of its own, which may refuse too. Without a replacement it is only judged."""
        whole = replacement or self._backend.rehearse(Source.OPERATOR, replacing=replacing)
        load = _Load(self._settings, whole.feed, go_on=replacement is None)
        try:
            async with aclosing(load.run(requests)) as answers:
                async for progress in answers:
                    yield progress
        except BaseException:  # also the client's leaving
            await asyncio.shield(_given_up(load, whole))
            raise
        last = await asyncio.shield(whole.finish())
        if not last.ok:
            raise errors.refused(last, "rows[{}]")
        yield load.done(last)

    async def DumpBindings(
        self, request: pb.DumpBindingsRequest, context: Context
    ) -> AsyncGenerator[pb.DumpBindingsResponse, None]:
        wanted, page = binding_filter(request.filter), ""
        with self._dumps.one():
            while True:
                listed = await self._listed(wanted, DUMP_ROWS, page)
                sources = (listed.sources + 1).astype("u1").tobytes()
                rows = translate.packed(listed.rows)
                yield pb.DumpBindingsResponse(rows=rows, sources=sources, revision=listed.revision)
                page = listed.next
                if not page:
                    return

    async def _listed(self, wanted: ListFilter, size: int, page: str) -> Listed:
        mark = blake2b(repr(wanted).encode(), digest_size=4).hexdigest()
        head, _, inner = page.partition(".")
        try:
            if page and (head != mark or not inner):
                raise ValueError
            listed = await self._backend.list(wanted, size, inner)
        except ValueError:
            raise invalid("page_token", "is none that this filter gave; begin with the first page") from None
        return replace(listed, next=listed.next and f"{mark}.{listed.next}")

    async def WatchBindings(
        self, request: pb.WatchBindingsRequest, context: Context
    ) -> AsyncGenerator[pb.WatchBindingsResponse, None]:
        after = request.after_revision if request.HasField("after_revision") else None
        if after is not None and after > self._backend.revision:
            text = f"is {after}, and the router is at {self._backend.revision}: it has another state than that one"
            raise invalid("after_revision", f"{text}; begin with a snapshot")
        with self._watches.one():
            events = self._backend.watch(after)
            try:
                marked = after is not None
                async for event in events:
                    for message in _messages(event, marked, request.packed):
                        yield message
                    marked = marked or event.marker
                # It has no end of its own; a status OK would tell a client that there is nothing more to come.
                text = "the router is ending; go on behind the last revision when it is back"
                raise ApiError(grpc.StatusCode.UNAVAILABLE, "ROUTER_ENDING", text)
            finally:
                if (close := getattr(events, "aclose", None)) is not None:
                    await close()


def binding_filter(given: pb.BindingFilter) -> ListFilter:
    ipv4, b4, source, fields = None, None, None, translate.Fields()
    if given.ipv4:
        with fields:
            found = translate.prefix4(given.ipv4, "filter.ipv4")
            ipv4 = int(found.network_address), int(found.broadcast_address)
    if given.b4_ipv6:
        with fields:
            b4 = translate.prefix6(given.b4_ipv6, "filter.b4_ipv6")
    with fields:
        source = translate.from_source(given.source, "filter.source")
    fields.end()
    return ListFilter(ipv4, b4, source, given.shadowed)


def _messages(event: Event, marked: bool, packed: bool) -> Iterator[pb.WatchBindingsResponse]:
    """One after the other: an event may hold a whole table."""
    at = translate.timestamp(event.at)
    if event.marker or event.change is None:
        yield pb.WatchBindingsResponse(kind=pb.WatchBindingsResponse.MARKER, revision=event.revision, at=at)
        return
    change, kind = event.change, pb.WatchBindingsResponse.SNAPSHOT
    if marked:
        bound = change.op is Op.BIND
        kind = pb.WatchBindingsResponse.BOUND if bound else pb.WatchBindingsResponse.UNBOUND
    size = WATCH_ROWS if packed else WATCH_BINDINGS
    source = translate.to_source(change.source)
    for start in range(0, len(change.rows), size):
        part = change.rows[start : start + size]
        message = pb.WatchBindingsResponse(kind=kind, revision=event.revision, at=at, source=source)
        if packed:
            message.rows = translate.packed(part)
        else:
            message.bindings.extend(translate.bindings(part, translate.all_of(change.source, len(part))))
        yield message


async def _given_up(load: _Load, replacement: Replacement) -> None:
    await load.settled()
    await replacement.abandon()


async def _started(requests: Requests) -> bool:
    """Whether it is for validation only."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "start":
        raise invalid("start", "is not in the first message of the stream")
    return first.start.validate_only


def _looked_at(task: asyncio.Future[Any]) -> None:
    """Its client may have gone; then nobody else asks what became of it."""
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True, slots=True)
class _Batch:
    first: int  # number of its first row
    count: int
    report: asyncio.Future[Report] | Invalid


class _Load:
    """Feeds the batches of a stream, some at once, and answers each in its turn."""

    def __init__(self, settings: SettingsView, feed: Feed, go_on: bool) -> None:
        self._settings, self._feed, self._go_on = settings, feed, go_on
        self._begun = self._rows = self._refused = 0
        self._total = Report()
        self._fault: Invalid | Report | None = None
        self._places = asyncio.Semaphore(AT_ONCE)
        self._under_way: asyncio.Queue[_Batch | None] = asyncio.Queue()
        self._running: set[asyncio.Future[Report]] = set()
        self._reader: asyncio.Task[None] | None = None

    async def settled(self) -> None:
        """Batches that were begun are finished although their client has left, and no more are begun."""
        if self._reader is not None:
            self._reader.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def run(self, requests: Requests) -> Answers:
        """Raises for the first refused batch; with `go_on` at the end."""
        if isinstance(requests, Incoming):
            requests.under_way = lambda: bool(self._running)
        self._reader = asyncio.create_task(self._read(requests))
        self._reader.add_done_callback(_looked_at)
        try:
            while (batch := await self._under_way.get()) is not None:
                yield await self._answer(batch)
                self._places.release()
                if self._fault is not None and not self._go_on:
                    raise self._error(self._fault)
            await self._reader  # what was wrong with the stream itself
        finally:
            self._reader.cancel()
        if self._fault is not None:
            raise self._error(self._fault)

    def _error(self, first: Invalid | Report) -> Exception:
        """What was wrong first, with the number of all that was."""
        if isinstance(first, Invalid):
            return Invalid(first.violations, self._refused, first.reason)
        return errors.refused(replace(first, more_refused=self._refused - len(first.refused)), "rows[{}]")

    async def _read(self, requests: Requests) -> None:
        try:
            async for message in requests:
                match message.WhichOneof("part"):
                    case "rows":
                        await self._places.acquire()
                        batch = self._begin(message.rows)
                        self._under_way.put_nowait(batch)
                        if isinstance(batch.report, Invalid) and not self._go_on:
                            return
                    case "end":
                        return
                    case "start":
                        raise invalid("start", "comes again; it is the first message of a stream and no other")
                    case _:
                        raise invalid("rows", "are missing, and so is end: a message behind the first has one of them")
            # A client that vanished ends its stream like one that is done, and may not have the rest swept.
            done = "nothing was changed" if self._go_on else "what was answered is bound, and nothing was removed"
            text = f"the stream ended without `end`; {done}"
            raise ApiError(grpc.StatusCode.ABORTED, "STREAM_BROKEN_OFF", text)
        finally:
            self._under_way.put_nowait(None)

    def _begin(self, octets: bytes) -> _Batch:
        first, count = self._begun, len(octets) // BINDING_ROW.itemsize
        self._begun += count
        try:
            rows = translate.from_packed(octets, self._settings.around, first, translate.MAX_REFUSALS)
        except Invalid as fault:
            return _Batch(first, count, fault)
        running = asyncio.ensure_future(self._feed(rows))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        running.add_done_callback(_looked_at)
        return _Batch(first, count, running)

    async def _answer(self, batch: _Batch) -> pb.LoadProgress:
        progress = pb.LoadProgress()
        if isinstance(batch.report, Invalid):
            progress.refused.extend(translate.refusals_of(batch.report, batch.first))
            self._refused += batch.report.total
            self._fault = self._fault or batch.report
        else:
            report = await asyncio.shield(batch.report)
            self._refused += report.refused_count
            progress.refused.extend(translate.refusals(report.refused[: translate.MAX_REFUSALS], batch.first))
            if report.refused and self._fault is None:
                numbered = tuple(replace(one, index=one.index + batch.first) for one in report.refused)
                self._fault = replace(report, refused=numbered)
            self._add(report)
        self._rows += batch.count
        progress.rows, progress.refused_count, progress.held = self._rows, self._refused, self._total.held
        progress.report.CopyFrom(translate.report(self._total))
        return progress

    def _add(self, more: Report) -> None:
        self._total = summed([self._total, more])

    def done(self, last: Report) -> pb.LoadProgress:
        self._add(last)
        return pb.LoadProgress(rows=self._rows, report=translate.report(self._total), done=True)
