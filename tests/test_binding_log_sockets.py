"""The stream to a syslog collector over real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pylwaftr.api.backend import Event
from pylwaftr.changes import Op
from pylwaftr.config.services import Syslog
from pylwaftr.config.values import Endpoint
from pylwaftr.daemon import binding_log
from tests.test_binding_log import event

NEWS = [event(number, Op.BIND, number) for number in (1, 2, 3)]


class Backend:
    """Tells one revision after the other, each when it is asked for."""

    revision = 3

    def __init__(self) -> None:
        self.go = [asyncio.Event() for _ in range(4)]

    async def watch(self, after: int) -> AsyncIterator[Event]:
        for news in NEWS:
            if news.revision > after:
                await self.go[news.revision].wait()
                yield news


@pytest.mark.parametrize("reset", [False, True])
def test_a_collector_that_closes_while_nothing_happens_loses_no_message(
    reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding_log, "_RETRY_S", 0.0)

    async def test() -> None:
        backend, heard, closed, done = Backend(), bytearray(), asyncio.Event(), asyncio.Event()
        connections = 0

        async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            if connections == 1:
                heard.extend(await reader.readuntil(b"]"))
                if reset:
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.close()
                await writer.wait_closed()
                closed.set()
            else:
                heard.extend(await reader.read())
                writer.close()
                done.set()

        server = await asyncio.start_server(collect, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        wanted = Syslog(Endpoint("127.0.0.1", port), "tcp", "local0")
        stream: Any = binding_log.stream
        task = asyncio.create_task(stream(backend, wanted, 0))
        backend.go[1].set()
        await closed.wait()
        await asyncio.sleep(0.05)  # the end of the stream is on its way
        backend.go[2].set()
        await asyncio.sleep(0.05)
        backend.go[3].set()
        await asyncio.wait_for(task, 10)
        await done.wait()
        server.close()
        assert connections == 2
        frames = []
        while heard:  # RFC 6587 section 3.4.1
            length, _, rest = bytes(heard).partition(b" ")
            frames.append(rest[: int(length)])
            heard = bytearray(rest[int(length) :])
        assert [frame.split(b'psid="')[1][:1] for frame in frames] == [b"1", b"2", b"3"]

    asyncio.run(asyncio.wait_for(test(), 30))
