"""The requestor on sockets: servers for it to ask, ours and one that says what a test wants, and who gets its news."""

from __future__ import annotations

import asyncio
import functools
import gc
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any, ParamSpec

import trustme

from pylwaftr.daemon.leasequery import Edge, Endpoint
from pylwaftr.dhcp.connection import Timers
from pylwaftr.dhcp.events import Saved
from pylwaftr.dhcp.leasequery import Settings
from pylwaftr.dhcp.leases import Policy
from pylwaftr.dhcp.requestor import Requestor, Server
from pylwaftr.responder.daemon import Listen, Service, listen
from pylwaftr.responder.database import Change
from pylwaftr.rows import text6
from tests.leasequery_peer import BR
from tests.leasequery_vectors import DUID

P = ParamSpec("P")
Apply = Callable[[Any, Any], Awaitable[None]]
SERVER = b"\0\3\0\1server"


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs a test for a minute at most; nothing is left over."""

    async def whole(story: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(60):
            await story
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0.02)  # transports close

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(whole(test(*args, **kwargs)))
        gc.collect()  # what complains of being left over does it here

    return run


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


# --- who asks, and who gets the news ----------------------------------------------------------------------------------


class Router:
    """What the edge gives to the router."""

    def __init__(self) -> None:
        self.bound: dict[int, str] = {}
        self.saved: dict[str, bytes] = {}
        self.changed = asyncio.Event()

    async def apply(self, changes: Any, saved: Any) -> None:
        for row in changes.unbind:
            del self.bound[int(row["psid"])]
        for row in changes.bind:
            self.bound[int(row["psid"])] = text6(row["b4"].tobytes())
        self.saved |= saved
        self.changed.set()

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def requestor(secure: bool = False, scale: float = 0.01, saved: Saved | None = None, profile: str = "W") -> Requestor:
    settings = Settings(DUID, profile, secure, (), Timers(scale=scale))
    return Requestor([Server(settings, Policy("A"))], BR.packed, saved={"A": (saved or Saved()).octets()})


@asynccontextmanager
async def running(edge: Edge) -> AsyncIterator[Edge]:
    task = asyncio.create_task(edge.run())
    try:
        yield edge
    finally:
        task.cancel()


def requesting(
    port: int, asked: Requestor | None = None, apply: Apply | None = None, **reached: Any
) -> AbstractAsyncContextManager[Edge]:
    """Who listens at this port of 127.0.0.1 is asked."""
    at = Endpoint("127.0.0.1", port, **reached)
    return running(Edge(asked or requestor(), {"A": at}, apply or Router().apply))


# --- who is asked -----------------------------------------------------------------------------------------------------


def change(psid: int, state: str = "ACTIVE", n: int = 0) -> Change:
    b4 = IPv6Address(f"2001:db8:{n:x}::{psid:x}") if state == "ACTIVE" else None
    return Change(
        int(time.time()), IPv4Address("198.51.100.10"), state, 0, 6, psid, b4, b"\xff\0\0\0\1" + bytes([psid, n])
    )


async def listening(service: Service, native: bool = False) -> int:
    listener = await listen(service, Listen("127.0.0.1", 0, native))
    return int(listener.sockets[0].getsockname()[1])


def contexts(authority: trustme.CA, client_ca: bool = True) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.issue_cert("router.example").configure_cert(client)
    authority.configure_trust(client)
    if client_ca:
        server.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(server)
    return server, client


class Scripted:
    """A server that says what it is told to. It reads nothing on but what `query` is asked for."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def listen(self) -> None:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            await self.came.put((reader, writer))

        listener = await asyncio.start_server(take, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]

    async def query(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
        """The next connection, and the transaction-id of what it asks."""
        reader, writer = await self.came.get()
        length = int.from_bytes(await reader.readexactly(2))
        return reader, writer, int.from_bytes((await reader.readexactly(length))[1:4])

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def scripted(asked: Requestor | None = None, apply: Apply | None = None) -> AsyncIterator[tuple[Scripted, Edge]]:
    """One of those, and who asks it."""
    server = Scripted()
    await server.listen()
    try:
        async with requesting(server.port, asked, apply) as edge:
            yield server, edge
    finally:
        server.close()
