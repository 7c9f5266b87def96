"""RouterService and CounterService."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.struct_pb2 import Struct
from grpc import aio

import pylwaftr
from pylwaftr.api import gate, translate
from pylwaftr.api.backend import Difference, Parts
from pylwaftr.api.errors import ApiError
from pylwaftr.api.generated.lwaftr.v1 import counters_pb2, counters_pb2_grpc, options_pb2, router_pb2_grpc
from pylwaftr.api.generated.lwaftr.v1 import router_pb2 as pb
from pylwaftr.api.limits import Limits, Slots
from pylwaftr.api.once import Once
from pylwaftr.api.translate import Invalid, Violation, clipped, invalid
from pylwaftr.capture import Wanted
from pylwaftr.changes import THERE
from pylwaftr.config import Fault
from pylwaftr.explain.story import Given, Story
from pylwaftr.rows import text6

MAX_FRAMES, MAX_FRAME = 256, 16384
MAX_YAML = 4_000_000  # octets: a message has 4 MiB
MAX_FAULTS, MAX_TEXT, MAX_VALUE = 1000, 1024, 4096  # in an answer; octets of a text, and of a value
MIN_INTERVAL_S, MAX_INTERVAL_S = 0.1, 3600.0

Context = aio.ServicerContext[Any, Any]


class CounterService(counters_pb2_grpc.CounterServiceServicer):
    def __init__(self, parts: Parts, limits: Limits) -> None:
        self._machine = parts.machine
        self._slots = Slots(limits.samplers, "streams of counters")

    async def DescribeCounters(self, _: object, context: Context) -> counters_pb2.DescribeCountersResponse:
        return counters_pb2.DescribeCountersResponse(
            counters=[
                counters_pb2.CounterDescription(
                    name=one.name, kind=one.kind, unit=one.unit, requirement=one.requirement, help=one.help
                )
                for one in self._machine.counter_infos
            ]
        )

    async def GetCounters(
        self, request: counters_pb2.GetCountersRequest, context: Context
    ) -> counters_pb2.CounterSample:
        return self._sample(request.per_worker)

    async def StreamCounters(
        self, request: counters_pb2.StreamCountersRequest, context: Context
    ) -> AsyncGenerator[counters_pb2.CounterSample, None]:
        wanted = request.interval.seconds + request.interval.nanos / 1e9 if request.HasField("interval") else 1.0
        if not MIN_INTERVAL_S <= wanted <= MAX_INTERVAL_S:
            raise invalid("interval", f"is {wanted:.9g} s; the range is {MIN_INTERVAL_S:g} s to {MAX_INTERVAL_S:g} s")
        with self._slots.one():
            due = time.monotonic()
            while True:
                yield self._sample(request.per_worker)
                due = max(due + wanted, time.monotonic())  # a client that was slow gets no burst
                await asyncio.sleep(due - time.monotonic())

    def _sample(self, per_worker: bool) -> counters_pb2.CounterSample:
        values = self._machine.counters()
        totals = values.sum(axis=0, dtype=np.uint64).tolist()
        names = [one.name for one in self._machine.counter_infos]
        workers = enumerate(values.tolist()) if per_worker else ()
        return counters_pb2.CounterSample(
            at=translate.timestamp(time.time()),
            counters=dict(zip(names, totals, strict=True)),
            workers=[counters_pb2.WorkerCounters(worker=number, values=own) for number, own in workers],
        )


class RouterService(router_pb2_grpc.RouterServiceServicer):
    def __init__(self, parts: Parts, once: Once, health: Callable[[], Mapping[str, bool]]) -> None:
        self._parts, self._once, self._health = parts, once, health
        self._captures = Slots(1, "capture")

    async def GetStatus(self, _: object, context: Context) -> pb.Status:
        seen = self._parts.machine.overview()
        return pb.Status(
            version=pylwaftr.__version__,
            started=translate.timestamp(seen.started),
            revision=self._parts.backend.revision,
            bindings=seen.bindings,
            max_bindings=seen.max_bindings,
            parts=self._health(),
            remarks=seen.remarks,
        )

    async def ListPorts(self, _: object, context: Context) -> pb.ListPortsResponse:
        found = self._parts.machine.ports()
        return pb.ListPortsResponse(ports=[_part(str(one.get("side", at)), one) for at, one in enumerate(found)])

    async def ListWorkers(self, _: object, context: Context) -> pb.ListWorkersResponse:
        found = self._parts.machine.workers()
        return pb.ListWorkersResponse(workers=[_part(str(at), one) for at, one in enumerate(found)])

    async def ListNeighbors(self, _: object, context: Context) -> pb.ListNeighborsResponse:
        found = self._parts.machine.neighbors()
        return pb.ListNeighborsResponse(neighbors=[_part(name, one) for name, one in found.items()])

    async def GetSettings(self, _: object, context: Context) -> pb.Settings:
        now = self._parts.settings.now()
        if len(now.yaml.encode()) > MAX_YAML:
            text = f"{now.file} has more than {MAX_YAML} octets, which is too much for a message; read it on the router"
            raise ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE", text, {"file": now.file})
        return pb.Settings(yaml=now.yaml, file=now.file, etag=now.etag, applied=translate.timestamp(now.applied))

    async def ValidateSettings(
        self, request: pb.ValidateSettingsRequest, context: Context
    ) -> pb.ValidateSettingsResponse:
        faults = await self._parts.settings.validate(request.yaml or None)
        return pb.ValidateSettingsResponse(valid=all(fault.warning for fault in faults), faults=_faults(faults))

    async def DiffSettings(self, request: pb.DiffSettingsRequest, context: Context) -> pb.DiffSettingsResponse:
        etag = self._parts.settings.now().etag
        found = await self._parts.settings.diff(request.yaml or None)
        return pb.DiffSettingsResponse(
            differences=_differences(found.differences), etag=etag, warnings=_faults(found.warnings)
        )

    async def ApplySettings(self, request: pb.ApplySettingsRequest, context: Context) -> pb.ApplySettingsResponse:
        etag = None if request.etag in ("", THERE) else request.etag  # some settings are always in force

        async def work() -> pb.ApplySettingsResponse:
            done = await self._parts.settings.apply(request.yaml or None, etag, validate_only=request.validate_only)
            return pb.ApplySettingsResponse(
                applied=_differences(done.differences),
                etag=done.etag,
                revision=done.revision,
                warnings=_faults(done.warnings),
            )

        return await self._once.do(gate.caller.get().name, "ApplySettings", request, work)

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        if self._parts.diagnostics is None:
            raise _switched_off("explain")
        given = _frames(request.frames)
        return pb.ExplainResponse(stories=[_story(one) for one in await self._parts.diagnostics.explain(given)])

    async def Capture(self, request: pb.CaptureRequest, context: Context) -> AsyncGenerator[pb.CaptureResponse, None]:
        if self._parts.diagnostics is None:
            raise _switched_off("capture")
        wanted = _wanted(request)
        if wanted.file:  # written by the router, with its rights
            gate.admit(gate.caller.get(), options_pb2.ROLE_ADMIN)
        with self._captures.one():
            async with contextlib.AsyncExitStack() as stack:
                pieces = self._parts.diagnostics.capture(wanted)
                if (close := getattr(pieces, "aclose", None)) is not None:
                    stack.push_async_callback(close)
                async for piece in pieces:
                    state = piece.state
                    told = pb.CaptureState(
                        state=state.state,
                        ended_by=state.ended_by,
                        seen=state.seen,
                        written=state.written,
                        missed=state.missed,
                        octets=state.octets,
                    )
                    yield pb.CaptureResponse(pcapng=piece.octets, state=told)


def _part(name: str, facts: Mapping[str, Any]) -> pb.Part:
    made = Struct()
    made.update({key: _plain(value) for key, value in facts.items()})
    return pb.Part(name=name, facts=made)


def _plain(value: Any) -> Any:
    """As JSON has it: octets are MAC or IPv6 addresses, or hexadecimal."""
    if isinstance(value, bytes):
        return text6(value) if len(value) == 16 else value.hex(":")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(inner) for inner in value.tolist()]
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return value.item() if isinstance(value, np.generic) else str(value)


def _differences(found: Sequence[Difference]) -> list[pb.SettingsDifference]:
    return [
        pb.SettingsDifference(
            path=clipped(one.path, MAX_TEXT),
            before=clipped(one.before, MAX_VALUE),
            after=clipped(one.after, MAX_VALUE),
            needs_restart=one.needs_restart,
        )
        for one in found
    ]


def _faults(found: Sequence[Fault]) -> list[pb.SettingsFault]:
    """Of very many the first, errors before warnings, and one that says how many more there are."""
    if len(found) > MAX_FAULTS:
        told = sorted(found, key=lambda one: one.warning)[: MAX_FAULTS - 1]
        text = f"and {len(found) - len(told)} more, which are not listed"
        found = [*told, Fault(told[-1].file, told[-1].line, "", text, all(one.warning for one in found))]
    return [
        pb.SettingsFault(
            file=one.file,
            line=one.line,
            path=clipped(one.path, MAX_TEXT),
            message=clipped(one.message, MAX_TEXT),
            warning=one.warning,
        )
        for one in found
    ]


def _switched_off(what: str) -> ApiError:
    return ApiError(grpc.StatusCode.UNIMPLEMENTED, "NOT_AVAILABLE", f"this router was started without {what}")


def _frames(frames: Sequence[pb.Frame]) -> list[Given]:
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise invalid("frames", f"has {len(frames)} elements; the range is 1 to {MAX_FRAMES}")
    found = []
    for index, frame in enumerate(frames):
        if frame.side not in ("v4", "v6"):
            found.append(Violation(f"frames[{index}].side", f"is {frame.side[:20]!r}; write v4 or v6"))
        if not 1 <= len(frame.octets) <= MAX_FRAME:
            text = f"has {len(frame.octets)} octets; the range is 1 to {MAX_FRAME}"
            found.append(Violation(f"frames[{index}].octets", text))
    if found:
        raise Invalid(found)
    return [Given(frame.side, frame.octets, frame.bare) for frame in frames]


def _story(told: Story) -> pb.Story:
    return pb.Story(
        number=told.number,
        side=told.side,
        packet=told.packet,
        steps=[pb.StoryStep(stage=step.stage, text=step.text) for step in told.steps],
        verdict=told.verdict,
        kind=told.kind,
        requirement=told.requirement,
        reason=told.reason,
        also=told.also,
        sent=[pb.StorySent(side=side, packet=packet) for side, packet in told.sent],
    )


def _wanted(request: pb.CaptureRequest) -> Wanted:
    packets, seconds, snap = request.packets or 10_000, request.seconds or 60.0, request.snap_length or 2048
    found = []
    if packets > 1_000_000_000:
        found.append(Violation("packets", f"is {packets}; the range is 1 to 1000000000"))
    if not 0.001 <= seconds <= 86400:
        found.append(Violation("seconds", f"is {seconds:g}; the range is 0.001 to 86400"))
    if not 14 <= snap <= 16384:
        found.append(Violation("snap_length", f"is {snap}; the range is 14 to 16384"))
    if request.file and not request.file.startswith("/"):
        found.append(Violation("file", "is no absolute path on the router"))
    for name, text in (("filter", request.filter), ("file", request.file)):
        if "\0" in text:
            found.append(Violation(name, "has a NUL in it; take it out"))
    if found:
        raise Invalid(found)
    return Wanted(request.file, packets, seconds, snap, request.filter)
