"""Changes are done once: to the end although their client hangs up, and not again for the same request_id."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from pylwaftr.api.limits import Limits
from pylwaftr.api.translate import invalid

MAX_ID = 64

Answer = TypeVar("Answer", bound=Message)


class WithId(Protocol):
    @property
    def request_id(self) -> str: ...
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


@dataclass(slots=True)
class _Kept:
    task: asyncio.Task[Any]
    content: bytes  # digest of the request
    octets: int = 0
    until: float = field(default=0.0)


class Once:
    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._kept: OrderedDict[tuple[str, str, str], _Kept] = OrderedDict()
        self._octets = 0
        self._running: set[asyncio.Task[Any]] = set()

    async def do(
        self, client: str, method: str, request: WithId, work: Callable[[], Coroutine[Any, Any, Answer]]
    ) -> Answer:
        """The answer of `work`, or that of an earlier call with the same id. Raises Invalid and what `work` raises."""
        if not request.request_id:
            return await asyncio.shield(self._start(work))
        if len(request.request_id) > MAX_ID:
            raise invalid("request_id", f"has {len(request.request_id)} characters, at most {MAX_ID} are taken")
        key = (client, method, request.request_id)
        self._forget()
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _Kept(self._start(work), _digest(request))
            kept.until = self._clock() + self._limits.remembered_s
            kept.task.add_done_callback(lambda _: self._ended(key, kept))
        elif kept.content != _digest(request):
            text = "was used for another request before; give each intention an id of its own"
            raise invalid("request_id", text, "REQUEST_ID_REUSED")
        answer: Answer = await asyncio.shield(kept.task)
        return answer

    def _start(self, work: Callable[[], Coroutine[Any, Any, Answer]]) -> asyncio.Task[Answer]:
        task = asyncio.create_task(work())
        self._running.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # its client may have gone; then nobody else asks

    def _ended(self, key: tuple[str, str, str], kept: _Kept) -> None:
        if kept.task.cancelled() or kept.task.exception() is not None:
            self._kept.pop(key, None)
            return
        kept.octets = kept.task.result().ByteSize()
        self._octets += kept.octets
        self._forget()

    def _forget(self) -> None:
        """What is too old, and the oldest of too many; never what is still being done."""
        now = self._clock()
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            crowded = len(self._kept) > self._limits.remembered or self._octets > self._limits.remembered_octets
            if not oldest.task.done() or not (crowded or oldest.until <= now):
                return
            self._octets -= oldest.octets
            del self._kept[key]

    async def finish(self) -> None:
        """Waits for what has begun."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._running, return_exceptions=True)


def _digest(request: WithId) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
