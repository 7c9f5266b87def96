"""BindingService, all but its long streams. It translates and calls the backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
from grpc import aio

from pylwaftr.api import errors, gate, translate
from pylwaftr.api.backend import Listed, ListFilter, Parts, Report
from pylwaftr.api.binding_streams import BindingStreams, binding_filter
from pylwaftr.api.errors import ApiError
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2 as pb
from pylwaftr.api.generated.lwaftr.v1 import common_pb2
from pylwaftr.api.limits import Limits
from pylwaftr.api.once import Once
from pylwaftr.api.translate import invalid
from pylwaftr.changes import THERE, Keys, Source
from pylwaftr.rows import Rows, text4
from pylwaftr.store import Life

MAX_LIVES = 1000  # of a look-up
FEW = 256  # bindings that are translated on the spot

Context = aio.ServicerContext[Any, Any]


class BindingService(BindingStreams):
    def __init__(self, parts: Parts, limits: Limits, once: Once) -> None:
        super().__init__(parts, limits)
        self._once = once

    async def CreateBinding(self, request: pb.CreateBindingRequest, context: Context) -> common_pb2.Binding:
        rows = translate.from_binding(request.binding, self._around)

        def work() -> Coroutine[Any, Any, common_pb2.Binding]:
            how: dict[str, Any] = {"validate_only": request.validate_only, "expected": ("",)}
            return _made(rows, self._backend.bind(rows, Source.OPERATOR, **how))

        return await self._once.do(gate.caller.get().name, "CreateBinding", request, work)

    async def GetBinding(self, request: pb.GetBindingRequest, context: Context) -> common_pb2.Binding:
        key = translate.from_key(request.ipv4, request.psid)
        source = translate.from_source(request.source, "source")
        if source is not None:
            wanted = self._backend.wanted_by(source, *key)
            if wanted is None:
                raise _missing(*key, Source(source))
            return translate.binding(wanted[0][0], source, waits=wanted[1])
        return translate.binding(*self._bound(*key))

    def _bound(self, ipv4: int, psid: int) -> tuple[np.void, int]:
        """Of exactly this key: one PSID does not stand for a whole address."""
        found = self._backend.get(ipv4, psid)
        if found is None or int(found[0]["psid"][0]) != psid:
            raise self._not_bound(ipv4, psid)
        return found[0][0], found[1]

    def _not_bound(self, ipv4: int, psid: int) -> ApiError:
        found = self._backend.get(ipv4, psid)
        return _missing(ipv4, psid, whole=found is not None and int(found[0]["psid"][0]) != psid)

    async def ListBindings(self, request: pb.ListBindingsRequest, context: Context) -> pb.ListBindingsResponse:
        fields = translate.Fields()
        with fields:
            size = translate.page_size(request.page_size)
        with fields:
            wanted = binding_filter(request.filter)
        fields.end()
        listed = await self._listed(wanted, size, request.page_token)
        made = await translated(listed, waits=request.filter.shadowed)
        return pb.ListBindingsResponse(
            bindings=made,
            next_page_token=listed.next,
            revision=listed.revision,
        )

    async def UpdateBinding(self, request: pb.UpdateBindingRequest, context: Context) -> common_pb2.Binding:
        rows = translate.from_binding(request.binding, self._around)

        # What is there has to be there still when it is replaced.
        expected = request.etag or (None if request.allow_missing else THERE)

        def work() -> Coroutine[Any, Any, common_pb2.Binding]:
            how: dict[str, Any] = {"validate_only": request.validate_only, "expected": (expected,)}
            return _made(rows, self._backend.bind(rows, Source.OPERATOR, **how))

        return await self._once.do(gate.caller.get().name, "UpdateBinding", request, work)

    async def DeleteBinding(self, request: pb.DeleteBindingRequest, context: Context) -> pb.DeleteBindingResponse:
        key = translate.from_key(request.ipv4, request.psid)
        keys = np.array([key[0]], np.uint32), np.array([key[1]], np.uint16)

        async def work() -> pb.DeleteBindingResponse:
            expected = (request.etag,) if request.etag else ()  # without one, several are done together
            try:
                done = await self._unbind(keys, expected, request.validate_only, "ipv4")
            except ApiError as fault:
                if fault.reason != "BINDING_NOT_FOUND":
                    raise
                if not request.allow_missing:
                    raise self._not_bound(*key) from None
                return pb.DeleteBindingResponse(revision=self._backend.revision)
            if not done.removed and not request.allow_missing:
                raise self._not_bound(*key)
            return pb.DeleteBindingResponse(revision=done.revision)

        return await self._once.do(gate.caller.get().name, "DeleteBinding", request, work)

    async def BatchBind(self, request: pb.BatchBindRequest, context: Context) -> pb.BatchReport:
        packed = _either(bool(request.bindings), request.rows, "bindings")
        if packed:
            rows = translate.from_packed(request.rows, self._around)
        else:
            rows = translate.from_bindings(request.bindings, self._around)
        expected = _etags(request.etags, len(rows))

        async def work() -> pb.BatchReport:
            done = await self._backend.bind(
                rows, Source.OPERATOR, validate_only=request.validate_only, expected=expected
            )
            if not done.ok:
                raise errors.refused(done, "rows[{}]" if packed else "bindings[{}]")
            return translate.report(done)

        return await self._once.do(gate.caller.get().name, "BatchBind", request, work)

    async def BatchUnbind(self, request: pb.BatchUnbindRequest, context: Context) -> pb.BatchReport:
        keys: Keys
        packed = _either(bool(request.keys), request.rows, "keys")
        if packed:
            rows = translate.unchecked_rows(request.rows)
            keys = rows["ipv4"].copy(), rows["psid"].copy()
        else:
            keys = translate.from_keys(request.keys)
        expected = _etags(request.etags, len(keys[0]))

        async def work() -> pb.BatchReport:
            path = "rows[{}]" if packed else "keys[{}]"
            return translate.report(await self._unbind(keys, expected, request.validate_only, path))

        return await self._once.do(gate.caller.get().name, "BatchUnbind", request, work)

    async def _unbind(self, keys: Keys, expected: Sequence[str | None], validate_only: bool, path: str) -> Report:
        done = await self._backend.unbind(keys, Source.OPERATOR, validate_only=validate_only, expected=expected)
        if not done.ok:
            raise errors.refused(done, path)
        return done

    async def Lookup(self, request: pb.LookupRequest, context: Context) -> pb.LookupResponse:
        which = request.WhichOneof("what")
        if which is None:
            raise invalid("endpoint", "is missing, and so is b4_ipv6; give one of them")
        at, port, fields = None, None, translate.Fields()
        if request.HasField("at"):
            with fields:
                at = translate.seconds(request.at, "at")
        if which == "b4_ipv6":
            with fields:
                prefix = translate.prefix6(request.b4_ipv6, "b4_ipv6")
            fields.end()
            if at is not None:
                return await _lives(self._backend.lives_of(prefix, at, at))
            return await self._all_that(ListFilter(b4=prefix))
        with fields:
            address, _ = translate.from_key(request.endpoint.ipv4, 0, "endpoint.")
        if request.endpoint.HasField("port"):
            with fields:
                port = translate.from_port(request.endpoint.port, "endpoint.port")
        fields.end()
        if at is not None:
            return await _lives(self._backend.who_held(translate.ipv4(address), port, at, at))
        if port is None:
            return await self._all_that(ListFilter(ipv4=(address, address)))
        found = self._backend.lookup(address, port)
        return pb.LookupResponse(
            lives=[] if found is None else [common_pb2.Life(binding=translate.binding(found[0][0], found[1]))]
        )

    async def _all_that(self, wanted: ListFilter) -> pb.LookupResponse:
        listed = await self._backend.list(wanted, MAX_LIVES, "")
        found = await translated(listed)
        return pb.LookupResponse(lives=[common_pb2.Life(binding=one) for one in found], truncated=bool(listed.next))


async def _made(rows: Rows, begun: Awaitable[Report]) -> common_pb2.Binding:
    done = await begun
    if not done.ok:
        raise errors.refused(done, "binding")
    return translate.binding(rows[0], Source.OPERATOR, waits=bool(done.outranked))


async def translated(listed: Listed, waits: bool = False) -> list[common_pb2.Binding]:
    """Many take milliseconds, in which the event loop has other things to do."""
    if len(listed.rows) <= FEW:
        return translate.bindings(listed.rows, listed.sources, waits)
    return await asyncio.to_thread(translate.bindings, listed.rows, listed.sources, waits)


async def _lives(parts: AsyncGenerator[Sequence[Life], None]) -> pb.LookupResponse:
    found: list[Life] = []
    async with aclosing(parts):
        async for part in parts:
            found += part
            if len(found) > MAX_LIVES:
                break
    return pb.LookupResponse(lives=translate.lives(found[:MAX_LIVES]), truncated=len(found) > MAX_LIVES)


def _missing(ipv4: int, psid: int, source: Source | None = None, whole: bool = False) -> ApiError:
    text = f"{text4(ipv4)} PSID {psid} is not " + ("bound" if source is None else f"wanted by {source.label}")
    text += "; the whole address is, which is PSID 0" if whole else ""
    return ApiError(grpc.StatusCode.NOT_FOUND, "BINDING_NOT_FOUND", text, {"ipv4": text4(ipv4), "psid": str(psid)})


def _either(listed: bool, rows: bytes, name: str) -> bool:
    """Whether it is packed."""
    if listed and rows:
        raise invalid("rows", f"are given and {name} too; give one of them")
    return bool(rows)


def _etags(given: Sequence[str], count: int) -> tuple[str | None, ...]:
    if given and len(given) != count:
        raise invalid("etags", f"has {len(given)} elements for {count} bindings; give none or one for each")
    return tuple(etag or None for etag in given)
