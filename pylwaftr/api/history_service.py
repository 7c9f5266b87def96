"""HistoryService: the lives of bindings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from pylwaftr.api import translate
from pylwaftr.api.backend import Parts
from pylwaftr.api.generated.lwaftr.v1 import history_pb2 as pb
from pylwaftr.api.generated.lwaftr.v1 import history_pb2_grpc
from pylwaftr.api.limits import Limits, Slots
from pylwaftr.store import Life

Context = aio.ServicerContext[Any, Any]


LIVES = 512  # in a message

Answers = AsyncGenerator[pb.LivesResponse, None]
Parted = AsyncGenerator[Sequence[Life], None]


class HistoryService(history_pb2_grpc.HistoryServiceServicer):
    def __init__(self, parts: Parts, limits: Limits) -> None:
        self._backend = parts.backend
        self._slots = Slots(limits.histories, "queries of the history")

    async def WhoHeld(self, request: pb.WhoHeldRequest, context: Context) -> Answers:
        port, fields = None, translate.Fields()
        with fields:
            address, _ = translate.from_key(request.ipv4, 0)
        if request.HasField("port"):
            with fields:
                port = translate.from_port(request.port, "port")
        with fields:
            began, ended = _interval(request)
        fields.end()
        async for message in self._messages(self._backend.who_held(translate.ipv4(address), port, began, ended)):
            yield message

    async def ListLives(self, request: pb.ListLivesRequest, context: Context) -> Answers:
        fields = translate.Fields()
        with fields:
            prefix = translate.prefix6(request.b4_ipv6, "b4_ipv6")
        with fields:
            began, ended = _interval(request)
        fields.end()
        async for message in self._messages(self._backend.lives_of(prefix, began, ended)):
            yield message

    async def _messages(self, parts: Parted) -> Answers:
        """The next part is read when the client has taken this one, so no history is ever all in memory."""
        with self._slots.one():
            async with aclosing(parts):
                async for part in parts:
                    for start in range(0, len(part), LIVES):
                        yield await asyncio.to_thread(_message, part[start : start + LIVES])


def _message(lives: Sequence[Life]) -> pb.LivesResponse:
    return pb.LivesResponse(lives=translate.lives(lives))


def _interval(request: pb.WhoHeldRequest | pb.ListLivesRequest) -> tuple[float, float]:
    def given(name: str, moment: Timestamp) -> Timestamp | None:
        return moment if request.HasField(name) else None

    return translate.interval(given("began", request.began), given("ended", request.ended))
