"""Stands before every method: who calls, may they, what came of it. Streams are read and written here, in bounds of
time; so a servicer takes an iterator and gives one."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from pylwaftr.api import errors, security
from pylwaftr.api.errors import ApiError
from pylwaftr.api.generated.lwaftr.v1 import options_pb2
from pylwaftr.api.limits import Limits
from pylwaftr.api.security import Caller, Roles

log = logging.getLogger("pylwaftr.api")

Context = aio.ServicerContext[Any, Any]
Act = Callable[[Any, Context], Awaitable[Any]]
Read = Callable[[bytes], Any]

# Of the call that runs.
caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller")


class Guarded:
    """Services are registered here as with a server, which then has their methods with the gate before them: one step
    of the event loop less for each call than by an interceptor."""

    def __init__(self, server: aio.Server, roles: Roles, limits: Limits) -> None:
        self._server, self._gate = server, Gate(roles, limits)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Of generated code, which names the same methods one by one too: without the gate they go nowhere."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        guarded = {name: self._gate.before(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))


class Gate:
    """Requests and metadata are never logged: they may hold secrets.

    It does not know the server, which has its methods: gRPC's has to go with its last reference, for it names itself
    in the log when it is collected unstarted, and who keeps the record has a freed object.
    """

    def __init__(self, roles: Roles, limits: Limits) -> None:
        self._roles, self._limits = roles, limits

    def before(self, method: str, handler: Any) -> Any:
        read = handler.request_deserializer
        if handler.request_streaming:
            make, act = grpc.stream_stream_rpc_method_handler, self._both_ways(handler.stream_stream, read)
        elif handler.response_streaming:
            make, act = grpc.stream_stream_rpc_method_handler, self._one_way(handler.unary_stream, read)
        else:
            make, act = grpc.stream_unary_rpc_method_handler, _single(handler.unary_unary, read, self._limits.idle_s)
        # All of them as streams of requests: gRPC would wait for ever for the only one, and the call has its place.
        # Without a deserializer the octets come here, and what is no message gets a status of ours.
        return make(self._guarded(method, act), None, handler.response_serializer)

    def _guarded(self, method: str, act: Act) -> Act:
        needs = (security.NEEDS | security.OPEN).get(method, options_pb2.ROLE_UNSPECIFIED)

        async def guarded(request: Any, context: Context) -> Any:
            who = self._roles.caller(context)
            caller.set(who)
            try:
                admit(who, needs)
                answer = await act(request, context)
            except aio.AbortError:  # of health's Check: it has its status
                raise
            except aio.InternalError as gone:  # the stream is closed
                log.debug("%s by %s: left: %s", method, who.name, gone)
                return None
            except Exception as raised:
                fault = errors.api_error(raised) or _own_fault(method, raised)
                level = logging.INFO if needs > options_pb2.ROLE_VIEWER else logging.DEBUG
                log.log(level, "%s by %s: %s %s", method, who.name, fault.code.name, fault.reason)
                await context.abort(fault.code, fault.message[: errors.MAX_MESSAGE], errors.trailer(fault))
            if needs > options_pb2.ROLE_VIEWER:
                log.info("%s by %s (%s): done", method, who.name, security.role_name(who.role))
            return answer

        return guarded

    def _one_way(self, inner: Callable[..., Any], read: Read) -> Act:
        async def act(_: Any, context: Context) -> None:
            await self._write(inner(await _only(context, read, self._limits.idle_s), context), context)

        return act

    def _both_ways(self, inner: Callable[..., Any], read: Read) -> Act:
        async def act(_: Any, context: Context) -> None:
            await self._write(inner(Incoming(context, read, self._limits.idle_s), context), context)

        return act

    async def _write(self, answers: Any, context: Context) -> None:
        async with contextlib.aclosing(answers):
            async for answer in answers:
                try:
                    # wait_for() of Python 3.11 forgets a cancellation that comes as the write ends: a client's leaving.
                    async with asyncio.timeout(self._limits.write_s):
                        await context.write(answer)
                except TimeoutError:
                    text = f"a message was not taken for {self._limits.write_s:g} s"
                    raise ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CLIENT", text) from None


class Incoming(AsyncIterator[Any]):
    """What a client sends in a stream. A client that sends nothing is left, unless work for it was `under_way`."""

    def __init__(self, context: Context, read: Read, idle_s: float) -> None:
        self._context, self._read, self._idle_s = context, read, idle_s
        self.under_way: Callable[[], bool] = lambda: False

    def __aiter__(self) -> Incoming:
        return self

    async def __anext__(self) -> Any:
        coming = asyncio.ensure_future(self._context.read())
        try:
            while True:
                excused = self.under_way()
                if (await asyncio.wait([coming], timeout=self._idle_s))[0]:
                    break
                if not excused and not self.under_way():
                    text = f"nothing came for {self._idle_s:g} s; what was answered is done, send the rest anew"
                    raise ApiError(grpc.StatusCode.ABORTED, "STREAM_IDLE", text)
        finally:
            coming.cancel()
        octets: Any = coming.result()
        if octets is aio.EOF:
            raise StopAsyncIteration
        return _message(self._read, octets)


def _single(inner: Callable[..., Any], read: Read, idle_s: float) -> Act:
    async def act(_: Any, context: Context) -> Any:
        return await inner(await _only(context, read, idle_s), context)

    return act


async def _only(context: Context, read: Read, idle_s: float) -> Any:
    try:
        async with asyncio.timeout(idle_s):
            octets: Any = await context.read()
    except TimeoutError:
        text = f"the request did not come within {idle_s:g} s"
        raise ApiError(grpc.StatusCode.ABORTED, "STREAM_IDLE", text) from None
    if octets is aio.EOF:  # also of a message that was too large, of which gRPC itself has told the client
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "NOT_A_MESSAGE", "no request came")
    return _message(read, octets)


def _message(read: Read, octets: bytes) -> Any:
    try:
        return read(octets)
    except DecodeError:
        text = f"the {len(octets)} octets are no message of this method"
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "NOT_A_MESSAGE", text) from None


def admit(who: Caller, needs: int) -> None:
    if needs == options_pb2.ROLE_UNSPECIFIED or who.role < needs:
        wanted, has = security.role_name(needs), security.role_name(who.role)
        message = f"{who.name} is {has}, this takes {wanted}; api.roles of the router's configuration decides"
        raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW", message, {"has": has, "needs": wanted})


def _own_fault(method: str, raised: Exception) -> ApiError:
    number = uuid.uuid4().hex[:12]
    log.error("%s: fault %s", method, number, exc_info=raised)
    message = f"a fault of the router; its log has more under {number}"
    return ApiError(grpc.StatusCode.INTERNAL, "INTERNAL", message, {"fault": number})
