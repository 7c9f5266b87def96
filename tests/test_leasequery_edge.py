"""Requestor and server over real sockets: TLS, octets injected in clear text, how long a change takes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
import trustme

from pylwaftr.daemon.leasequery import Edge, Endpoint
from pylwaftr.dhcp.codec6 import Ask, frame
from pylwaftr.dhcp.events import Saved
from pylwaftr.dhcp.profiles import PROFILES, Kind
from pylwaftr.responder import journal
from pylwaftr.responder.daemon import Client, Service, Sources, Tail, tails
from pylwaftr.responder.database import Database
from pylwaftr.responder.server import Settings
from tests.leasequery_peer import BR, lease, reply
from tests.leasequery_sockets import (
    SERVER,
    Router,
    change,
    contexts,
    listening,
    on_a_loop,
    requesting,
    requestor,
    until,
)
from tests.leasequery_vectors import DUID


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


WAYS = [("W", False), ("W", True), ("N", False), ("N", True), ("S", True)]


@pytest.mark.parametrize("profile, secure", WAYS, ids=["W", "W, STARTTLS", "N", "N, DHCPTLS", "S, STARTTLS"])
@on_a_loop
async def test_leases_reach_the_router_and_follow_changes(profile: str, secure: bool, authority: trustme.CA) -> None:
    server_tls, client_tls = contexts(authority)
    database = Database()
    database.apply([change(1), change(2)])
    settings = Settings(SERVER, secure, secure, br=BR.packed, server_id=b"\xc0\0\2\1")
    service = Service(database, settings, server_tls if secure else None)
    port, router = await listening(service, profile == "N"), Router()
    asked, tls = requestor(secure, profile=profile), client_tls if secure else None
    async with requesting(port, asked, router.apply, tls=tls) as edge:
        await router.until(lambda: set(router.bound) == {1, 2})
        await router.until(lambda: Saved.of(router.saved.get("A", b"")).resync is False)
        for psid in range(3, 40):
            service.apply([change(psid)], live=True)
            await router.until(lambda psid=psid: psid in router.bound)  # type: ignore[misc]
        service.apply([change(1, "RELEASED")], live=True)
        await router.until(lambda: 1 not in router.bound)
        assert not await edge.query(IPv6Address("2001:db8::77"))
        assert await edge.query(IPv6Address("2001:db8:0::5")) is (profile != "N")  # which has no such query


@pytest.mark.parametrize("native", [False, True])
@on_a_loop
async def test_a_dhcpv4_message_has_a_tls_record_of_its_own(native: bool, authority: trustme.CA) -> None:
    """RFC 7724: one write a message is one record a message. DHCPv6 messages share records."""
    server_tls, client_tls = contexts(authority)
    profile = PROFILES["N" if native else "W"]

    def end(record: bytes) -> int:
        """Octets of the last message in it."""
        at = 0
        while at + 2 + int.from_bytes(record[at : at + 2]) < len(record):
            at += 2 + int.from_bytes(record[at : at + 2])
        return len(record) - at - 2

    database = Database()
    database.apply([change(psid) for psid in range(1, 6)])
    port = await listening(Service(database, Settings(SERVER, True, True), server_tls), native)
    sock, loop = socket.socket(), asyncio.get_running_loop()
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, frame(profile.tls_request(1)))
    assert profile.hear((await loop.sock_recv(sock, 4096))[2:], DUID, 0).word is None
    took, gives = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_tls.wrap_bio(took, gives, server_hostname="127.0.0.1")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            await loop.sock_sendall(sock, gives.read())
            took.write(await loop.sock_recv(sock, 1 << 16))
    tls.write(frame(profile.bulk(DUID, 2, Ask())))
    await loop.sock_sendall(sock, gives.read())
    records: list[bytes] = []
    while not records or profile.hear(records[-1][-end(records[-1]) :], DUID, 0).kind is not Kind.DONE:
        try:
            records.append(tls.read(1 << 16))  # not more than a record
        except ssl.SSLWantReadError:
            took.write(await loop.sock_recv(sock, 1 << 16))
    assert (len(records) == 6) is native
    assert all(end(record) == len(record) - 2 for record in records) is native
    sock.close()


REFUSALS: list[tuple[str, Callable[[trustme.CA], tuple[ssl.SSLContext, ssl.SSLContext]], str]] = [
    ("another CA", lambda ca: (contexts(trustme.CA(), False)[0], contexts(ca)[1]), "127.0.0.1"),
    ("another name", lambda ca: contexts(ca), "other.example"),
    ("no client certificate", lambda ca: (contexts(ca)[0], _bare(ca)), "127.0.0.1"),
]


def _bare(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@pytest.mark.parametrize("what, make, name", REFUSALS, ids=[row[0] for row in REFUSALS])
@on_a_loop
async def test_no_leases_without_a_certificate_that_fits(
    what: str, make: Any, name: str, authority: trustme.CA
) -> None:
    server_tls, client_tls = make(authority)
    database = Database()
    database.apply([change(1)])
    port, router = await listening(Service(database, Settings(SERVER, True, True), server_tls)), Router()
    asked = requestor(True, 1.0)
    async with requesting(port, asked, router.apply, tls=client_tls, name=name):
        await asyncio.sleep(0.01)
        await until(lambda: asked.sessions["A"].state in ("waiting", "polling"))
        assert asked.sessions["A"].counts["connects_active"] == 1
        assert router.bound == {}


class Injector(asyncio.Protocol):
    """Answers STARTTLS, and puts a reply with a lease behind it in clear text: with it, or a moment later."""

    def __init__(self, server_tls: ssl.SSLContext, later: bool) -> None:
        self.tls, self.later = server_tls, later
        self.through_tls = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data[2] != 23:
            self.through_tls += data if not self.later else b""
            return
        go_ahead = b"\0\4\7" + data[3:6]
        injected = reply(0xA001, 0, lease(1))
        if self.later:
            self.transport.write(go_ahead)
            asyncio.get_running_loop().call_later(0.05, self.transport.write, injected)
        else:
            self.transport.write(go_ahead + injected)
            asyncio.ensure_future(self._tls())  # noqa: RUF006

    async def _tls(self) -> None:
        loop = asyncio.get_running_loop()
        self.transport = await loop.start_tls(self.transport, self, self.tls, server_side=True)


@pytest.mark.parametrize("later", [False, True], ids=["in one segment", "a moment later"])
@on_a_loop
async def test_what_was_injected_in_clear_text_is_not_read_as_if_tls_had_carried_it(
    later: bool, authority: trustme.CA
) -> None:
    server_tls, client_tls = contexts(authority)
    router, made = Router(), []

    def factory() -> Injector:
        made.append(Injector(server_tls, later))
        return made[-1]

    listener = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    asked = requestor(True, 1.0)
    asked.sessions["A"]._parts.xid = 0xA001 - 2
    async with requesting(port, asked, router.apply, tls=client_tls):
        await until(lambda: asked.sessions["A"].state == "waiting" and made)
        await asyncio.sleep(0.1)
        assert (router.bound, made[0].through_tls) == ({}, b"")
        assert asked.leases.take().bind.size == 0


@on_a_loop
async def test_the_stream_reader_of_asyncio_would_fall_for_it(authority: trustme.CA) -> None:
    """Why the edge has protocols of its own: the same attack on streams. When this fails, asyncio has been mended."""
    server_tls, client_tls = contexts(authority, client_ca=False)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(6)
        writer.write(b"\0\4\7\0\0\1" + b"injected")
        await writer.drain()
        await writer.start_tls(server_tls)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\0\4\x17\0\0\1")
    await reader.readexactly(6)
    await asyncio.sleep(0.05)
    await writer.start_tls(client_tls, server_hostname="127.0.0.1")
    assert await reader.readexactly(8) == b"injected"
    writer.close()


@on_a_loop
async def test_a_server_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    """Its journal is all it needs; the router has every lease at every moment."""
    file, router = tmp_path / "journal", Router()
    file.write_text("".join(journal.line(change(psid)) + "\n" for psid in (1, 2, 3)))
    port, running = 0, None
    for round_ in range(3):
        service = Service(Database(), Settings(SERVER), None)
        growing = tails(service, Sources(journal=file))
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda service=service: Client(service), "127.0.0.1", port)  # type: ignore[misc]
        port = listener.sockets[0].getsockname()[1]
        if running is None:
            edge = Edge(requestor(), {"A": Endpoint("127.0.0.1", port)}, router.apply)
            running = asyncio.create_task(edge.run())
        await router.until(lambda: set(router.bound) == {1, 2, 3} | set(range(10, 10 + round_)))  # noqa: B023
        with file.open("a") as out:
            out.write(journal.line(change(10 + round_)) + "\n")
        for tail in growing:
            tail.read()
        await router.until(lambda: 10 + round_ in router.bound)  # noqa: B023
        listener.close()
        for client in list(service.clients):
            client._transport.abort()  # type: ignore[union-attr]
        assert len(router.bound) == 4 + round_
    assert running is not None
    running.cancel()


@pytest.mark.parametrize("lines, since", [(["ACTIVE"], 1), ([], None)], ids=["a shorter journal", "an empty one"])
def test_what_was_before_the_journal_is_not_known(lines: list[str], since: int | None, tmp_path: Path) -> None:
    """It may have been replaced while nobody looked: a catch-up would not have the leases that ended before."""
    file, begun = tmp_path / "leases", int(time.time())
    file.write_text("".join(journal.line(replace(change(1, state), at=begun - 100)) + "\n" for state in lines))
    service = Service(Database(), Settings(SERVER), None)
    tails(service, Sources(journal=file))
    at = begun - 100 if since is not None else begun
    database = service.database
    assert [database.since(at - 1) is None, database.since(at) is None] == [True, True]
    assert database.since(int(time.time()) + 2) is not None


class Racing(Tail):
    """Somebody writes and replaces at the worst moment: after the last line was read."""

    def _replaced(self) -> bool:
        found = super()._replaced()
        if not found and not (self._path.parent / "done").exists():
            (self._path.parent / "done").touch()
            with self._path.open("ab") as out:
                out.write(b"last\n")
            (self._path.parent / "new").write_bytes(b"first\n")
            (self._path.parent / "new").rename(self._path)
        return found


def test_the_last_line_before_a_file_is_replaced_is_read(tmp_path: Path) -> None:
    file, seen = tmp_path / "leases", list[str]()
    file.write_bytes(b"one\n")
    tail = Racing(file, lambda lines, live: seen.extend(lines))
    tail.read()
    tail.read()
    assert seen == ["one", "last", "first"]


def test_a_file_that_is_replaced_and_one_that_grows_in_pieces(tmp_path: Path) -> None:
    file, seen = tmp_path / "leases", list[str]()
    tail = Tail(file, lambda lines, live: seen.extend(lines))
    tail.read()
    file.write_bytes(b"one\ntw")
    tail.read()
    with file.open("ab") as out:
        out.write(b"o\n")
    tail.read()
    (tmp_path / "new").write_bytes(b"three\n")
    (tmp_path / "new").rename(file)
    tail.read()
    tail.read()
    assert seen == ["one", "two", "three"]
