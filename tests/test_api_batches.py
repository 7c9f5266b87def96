"""Batches of a stream that are under way together: how many, in which order, and what a refused one ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pylwaftr.api.binding_streams import AT_ONCE
from pylwaftr.api.bindings_service import BindingService
from pylwaftr.api.client import Client
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2 as pb
from pylwaftr.api.once import Once
from tests.api_router import Bindings, Served, many, parts
from tests.test_api_streams import TIGHT, refusal, until


class Held(Bindings):
    """Batches wait in it until it is opened, and are then done in their order."""

    opened = False
    came = done = most = 0

    @property
    def running(self) -> int:
        return self.came - self.done

    async def bind(self, rows: Any, source: int, **how: Any) -> Any:  # type: ignore[override]
        return await self._in_turn(lambda: super(Held, self).bind(rows, source, **how))

    async def feed(self, replacement: Any, rows: Any) -> Any:
        return await self._in_turn(lambda: super(Held, self).feed(replacement, rows))

    async def _in_turn(self, act: Callable[[], Awaitable[Any]]) -> Any:
        number, self.came = self.came, self.came + 1
        self.most = max(self.most, self.running)
        while not self.opened or self.done != number:
            await asyncio.sleep(0.005)
        try:
            return await act()
        finally:
            self.done += 1


@pytest.mark.parametrize("replace", [False, True], ids=["load", "replace"])
def test_batches_of_a_stream_are_under_way_together_and_no_more_than_some(replace: bool) -> None:
    held = Held()
    pieces = [many(10, n * 10).tobytes() for n in range(3 * AT_ONCE)]
    seen: list[int] = []
    with Served(parts(held), limits=TIGHT) as served, Client(served.target) as client, ThreadPoolExecutor(1) as pool:
        load = pool.submit(client.load, pieces, lambda one: seen.append(one.rows), replace=replace)
        until(lambda: held.running == AT_ONCE)
        time.sleep(0.6)  # longer than a client may send nothing: it is not the client who is late
        assert (held.most, seen) == (AT_ONCE, [])
        held.opened = True
        report = load.result().report
    assert (report.added, report.replaced) == (10, 10 * len(pieces) - 10)  # the same keys, in the order of the stream
    assert {octets for octets, _ in held.held.values()} == {one.tobytes() for one in many(10, 10 * len(pieces) - 10)}
    assert seen == [*range(10, 10 * len(pieces) + 1, 10), 10 * len(pieces)]


def test_the_place_of_a_client_that_left_is_free_when_its_batches_are_over() -> None:
    held, gone = Held(), threading.Event()

    def requests() -> Iterator[pb.LoadBindingsRequest]:
        yield pb.LoadBindingsRequest(start=pb.LoadStart())
        yield pb.LoadBindingsRequest(rows=many(5).tobytes())
        gone.wait(60)

    with Served(parts(held), limits=TIGHT) as served, Client(served.target) as client:
        calls = [client.stubs.bindings.LoadBindings(requests()) for _ in range(TIGHT.loads)]
        until(lambda: held.running == TIGHT.loads)
        for call in calls:
            call.cancel()
        gone.set()
        time.sleep(0.3)
        assert refusal(lambda: client.load(b"")).reason == "TOO_MANY_STREAMS"
        held.opened = True
        until(lambda: held.running == 0)
        assert client.load(b"").done


@pytest.mark.parametrize("method", ["LoadBindings", "ReplaceBindings"])
def test_a_stream_that_is_left_is_over_at_once(method: str) -> None:
    bindings, ended = Bindings(), []

    async def requests() -> AsyncIterator[pb.LoadBindingsRequest]:
        yield pb.LoadBindingsRequest(start=pb.LoadStart())
        yield pb.LoadBindingsRequest(rows=many(5).tobytes())
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(method)

    async def left() -> None:
        await bindings.start()
        streams = BindingService(parts(bindings), TIGHT, Once(TIGHT))
        answers = getattr(streams, method)(requests(), None)
        assert (await anext(answers)).rows == 5
        await asyncio.sleep(0)
        await answers.aclose()
        assert bindings.abandoned == int(method == "ReplaceBindings")
        await asyncio.sleep(0)
        assert ended == [method]
        await bindings.stop()

    asyncio.run(left())


@pytest.mark.parametrize("replace", [False, True], ids=["load", "replace"])
@pytest.mark.parametrize("what", ["by the table", "by itself"])
def test_behind_a_refused_batch_none_is_done(replace: bool, what: str) -> None:
    held = Held()
    bad = many(10, 10)
    bad["psid_len"][3], bad["psid"][3] = (6, 64) if what == "by itself" else (0, 0)
    if what == "by the table":
        bad[3] = bad[4]
    pieces = [many(10).tobytes(), bad.tobytes(), many(10, 20).tobytes(), many(10, 30).tobytes()]
    with Served(parts(held), limits=TIGHT) as served, Client(served.target) as client, ThreadPoolExecutor(1) as pool:
        load = pool.submit(refusal, lambda: client.load(pieces, replace=replace))
        until(lambda: held.running == (1 if what == "by itself" else 4))
        held.opened = True
        fault = load.result()
    assert fault.violations[0][0] == ("rows[13].psid" if what == "by itself" else "rows[14]")
    assert {octets for octets, _ in held.held.values()} == {one.tobytes() for one in many(10)}
    assert held.abandoned == int(replace)
