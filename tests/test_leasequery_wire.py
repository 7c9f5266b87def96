"""Requirements on the leasequery requestor that show on its sockets or in its log, by number."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
import trustme

from pylwaftr.config.services import LeaseServer
from pylwaftr.daemon import leasequery
from pylwaftr.daemon.lease_servers import of_config, tls_context
from pylwaftr.daemon.leasequery import REPORTS_MOST, Edge
from pylwaftr.dhcp.events import Channel
from pylwaftr.responder.daemon import Service
from pylwaftr.responder.database import Database
from pylwaftr.responder.server import Settings
from tests.leasequery_peer import SETTLED, data, done, lease, reply
from tests.leasequery_sockets import (
    SERVER,
    Router,
    Scripted,
    contexts,
    listening,
    on_a_loop,
    requesting,
    requestor,
    running,
    scripted,
    until,
)

Lines = Callable[[str], list[str]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Of the log, those with some words."""
    caplog.set_level(logging.INFO, "pylwaftr.leasequery")
    return lambda words: [record.getMessage() for record in caplog.records if words in record.getMessage()]


# --- LQ-061: nothing older than TLS 1.2 -------------------------------------------------------------------------------


def old_server(newest: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Its context and ours, of which both allow all that is old but for its version."""
    authority, ours = trustme.CA(), tls_context(None)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(old)
    authority.configure_trust(ours)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, newest
    for context in (old, ours):
        context.set_ciphers("ALL:@SECLEVEL=0")
    return old, ours


def shake_hands(listener: socket.socket, context: ssl.SSLContext) -> str:
    """A server that goes ahead with TLS. The version that both agreed on, or what it says to our refusal."""
    sock, _ = listener.accept()
    with sock:
        sock.sendall(b"\0\4\7" + sock.recv(6)[3:])
        try:
            with context.wrap_socket(sock, server_side=True) as secure:
                return secure.version() or ""
        except ssl.SSLError as fault:
            return fault.reason or ""


VERSIONS = [
    (ssl.TLSVersion.TLSv1_1, "UNSUPPORTED_PROTOCOL", "no TLS: [SSL: TLSV1_ALERT_PROTOCOL_VERSION]"),
    (ssl.TLSVersion.TLSv1_2, "TLSv1.2", "awaiting the reply, was open"),
]


@pytest.mark.parametrize("newest, end, line", VERSIONS, ids=["TLS 1.1", "TLS 1.2"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@on_a_loop
async def test_a_server_that_knows_no_tls_newer_than_1_1_is_refused(
    newest: ssl.TLSVersion, end: str, line: str, lines: Lines
) -> None:
    old, ours = old_server(newest)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.get_running_loop().run_in_executor(None, shake_hands, listener, old)
        async with requesting(listener.getsockname()[1], requestor(True, 1.0), tls=ours):
            assert await serving == end
            await until(lambda: lines(line))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@on_a_loop
async def test_a_handshake_that_the_server_just_drops_has_a_name_in_the_log(lines: Lines) -> None:
    old, ours = old_server(ssl.TLSVersion.TLSv1_1)
    port = await listening(Service(Database(), Settings(SERVER, True, True), old))  # which sends no alert
    async with requesting(port, requestor(True, 1.0), tls=ours):
        await until(lambda: lines("waiting, was TLS handshake (no TLS: the server gave up"))


# --- LQ-065: the end of a connection is FIN, and what still comes is read ---------------------------------------------


@on_a_loop
async def test_a_bulk_connection_ends_with_fin() -> None:
    router = Router()
    async with scripted(apply=router.apply) as (server, edge):
        _, active, xid = await server.query()
        active.write(reply(xid, 0))
        reader, writer, xid = await server.query()
        writer.write(reply(xid, 0, lease(1)) + done(xid))
        assert await reader.read() == b""  # to its end; a reset raises
        await router.until(lambda: 1 in router.bound)
        assert edge.requestor.sessions["A"].counts["connections_lost"] == 0


@on_a_loop
async def test_who_is_talking_when_we_close_sees_no_reset() -> None:
    """Octets that nobody reads would make one, and take with them what is on its way."""
    async with scripted() as (server, edge):
        reader, writer, xid = await server.query()
        writer.write(data(xid, 0, lease(1)))  # before any reply: the session closes
        assert await reader.read() == b""
        for _ in range(40):
            writer.write(data(xid, 0, lease(1)) * 1000)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert edge.requestor.sessions["A"].counts["broken_before_reply"] == 1
        await until(lambda: not edge._ending)


def talk_on(listener: socket.socket, context: ssl.SSLContext, pieces: int) -> bytes:
    """A server that sends data before any reply, so that we close, and goes on. What it hears at last."""
    sock, _ = listener.accept()
    sock.sendall(b"\0\4\7" + sock.recv(6)[3:])
    with context.wrap_socket(sock, server_side=True) as secure:
        xid = int.from_bytes(secure.recv(4096)[3:6])
        for _ in range(pieces):
            secure.sendall(data(xid, 0, lease(1)) * 50)
        end = secure.recv(4096)
        secure.unwrap()  # both have said that it is over
        return end


@pytest.mark.parametrize("pieces", [1, 500])
@on_a_loop
async def test_who_is_talking_inside_tls_when_we_close_is_heard_out(pieces: int) -> None:
    theirs, ours = contexts(trustme.CA(), client_ca=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.get_running_loop().run_in_executor(None, talk_on, listener, theirs, pieces)
        async with requesting(listener.getsockname()[1], requestor(True), tls=ours) as edge:
            assert await serving == b""
            assert edge.requestor.sessions["A"].counts["broken_before_reply"] == 1


@on_a_loop
async def test_who_ends_does_not_wait_for_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasequery, "LINGER_S", 3600.0)
    server = Scripted()
    await server.listen()
    async with requesting(server.port) as edge:
        reader, writer, xid = await server.query()
        writer.write(data(xid, 0))
        assert await reader.read() == b""  # and we do not close
        (link,) = edge._ending
    await until(lambda: link._transport is None or link._transport.get_extra_info("socket").fileno() < 0)
    server.close()


# --- LQ-066: what cannot be written is given up -----------------------------------------------------------------------


@pytest.mark.parametrize("channel, seconds", [(Channel.ACTIVE, 120), (Channel.BULK, 300)], ids=["active", "bulk"])
@on_a_loop
async def test_a_server_that_does_not_read_is_given_up(channel: Channel, seconds: float) -> None:
    """The timer is that of its silence: who does not read the query does not answer it."""
    async with scripted(requestor(scale=1.0)) as (server, edge):
        if channel is Channel.BULK:
            _, active, xid = await server.query()
            active.write(reply(xid, 0))
        reader, _ = await server.came.get()
        edge._links["A", channel].send(bytes(16 << 20))  # more than the buffers of both kernels take
        at = asyncio.get_running_loop().time()
        for later, there in ((seconds - 5, True), (seconds + 1, False)):
            edge.requestor.handle_timer(at + later)
            edge.after()
            assert (("A", channel) in edge._links) is there
        octets = 0
        while piece := await reader.read(1 << 20):
            octets += len(piece)
        assert octets < 16 << 20  # its end did not wait until all was written


# --- LQ-067: from which address ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [None, "127.0.0.2"])
@on_a_loop
async def test_it_connects_from_the_configured_address(source: str | None) -> None:
    server = Scripted()
    await server.listen()
    at = None if source is None else IPv4Address(source)
    one = LeaseServer("127.0.0.1", server.port, at, "W", False, None, (), (), 0, 300, 3600, 1.0)
    known, endpoints = of_config([one])
    async with running(Edge(leasequery.Requestor(known, bytes(16)), endpoints, Router().apply)):
        _, writer = await server.came.get()
        assert writer.get_extra_info("peername")[0] == (source or "127.0.0.1")
    server.close()


# --- LQ-126: reading goes on while the table is changed ---------------------------------------------------------------


@on_a_loop
async def test_a_stalled_table_stops_no_reading_and_changes_are_coalesced() -> None:
    batches: list[tuple[list[int], list[int]]] = []
    open_, stalled = asyncio.Event(), asyncio.Event()

    async def apply(changes: Any, saved: Any) -> None:
        batches.append((changes.unbind["psid"].tolist(), changes.bind["psid"].tolist()))
        if 1 in batches[0][1]:
            stalled.set()
            await open_.wait()

    asked = requestor(scale=1.0, saved=SETTLED)
    async with scripted(asked, apply) as (server, _edge):
        _, writer, xid = await server.query()
        writer.write(reply(xid, 0, lease(1)))
        await stalled.wait()
        for at in range(1, 2001):  # a softwire that moves all the time, another that comes and stays
            b4 = f"2001:db8:7:{at:x}::1"
            writer.write(data(xid, at, lease(2, at, b4=b4), lease(3 + at % 8, at, ipv4="198.51.100.11")))
            await writer.drain()
        count = asked.sessions["A"].counts
        await until(lambda: count["received_data"] == 2000)
        assert len(batches) == 1
        open_.set()
        await until(lambda: len(batches) == 2)
        await asyncio.sleep(0.05)
        ((unbind, bind),) = batches[1:]
        assert (unbind, sorted(bind)) == ([], list(range(2, 11)))
        moved = asked.leases.bindings()[["psid", "b4"]].tolist()
        assert bytes(dict(moved)[2]) == IPv6Address("2001:db8:7:7d0::1").packed


# --- LQ-133: deadlines are on the monotonic clock ---------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-30, 30], ids=["back", "ahead"])
@on_a_loop
async def test_a_step_of_the_wall_clock_ends_no_lease(hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    router, asked = Router(), requestor(scale=1.0, saved=SETTLED)
    async with scripted(asked, router.apply) as (server, edge):
        _, writer, xid = await server.query()
        writer.write(reply(xid, 0, lease(1, lifetime=3600)))
        await router.until(lambda: 1 in router.bound)
        due, silence = asked.leases.timer(), asked.sessions["A"].timer()
        stepped = time.time
        monkeypatch.setattr(leasequery.time, "time", lambda: stepped() + 3600 * hours)
        edge._timed()
        asked.leases.expire(edge._now())
        assert (asked.leases.timer(), asked.sessions["A"].timer()) == (due, silence)
        assert len(asked.leases) == 1
        writer.write(data(xid, 1, lease(2, 1, lifetime=60)))
        await router.until(lambda: 2 in router.bound)
        assert asyncio.get_running_loop().time() + 50 < (asked.leases.timer() or 0) < due + 1


# --- LQ-174: the log --------------------------------------------------------------------------------------------------


@on_a_loop
async def test_every_change_of_state_is_in_the_log_with_its_reason(lines: Lines) -> None:
    router = Router()
    async with scripted(requestor(scale=1.0), router.apply) as (server, _edge):
        _, active, xid = await server.query()
        active.write(reply(xid, 0))
        _, bulk, other = await server.query()
        bulk.write(reply(other, 0, lease(1)) + done(other))
        await router.until(lambda: 1 in router.bound)
        active.write(data(xid + 9, 0))
        await until(lambda: lines("waiting, was live"))
    assert lines("A: active: ") == [
        "A: active: connecting, was waiting",
        "A: active: open, was connecting",
        "A: active: awaiting the reply, was open",
        "A: active: live, was awaiting the reply",
        f"A: active: waiting, was live (transaction-id {xid + 9:#x} belongs to no query of this connection)",
    ]
    assert lines("A: bulk connection closed: complete")


@on_a_loop
async def test_reports_about_single_leases_are_limited(lines: Lines) -> None:
    async with scripted(requestor(scale=1.0)) as (server, edge):
        _, writer, xid = await server.query()
        writer.write(reply(xid, 0, *(lease(psid, b4=None) for psid in range(45))))
        await until(lambda: lines("A: no_b4: "))
        assert len(lines("A: no_b4: ")) == REPORTS_MOST
        assert len(lines("A: no_b4_often: ")) == 1  # an alarm is not among them
        edge._logged_at -= leasequery.REPORTS_S
        writer.write(data(xid, 1, lease(50, 1, b4=None)))
        await until(lambda: lines("more reports"))
        assert lines("more reports") == [f"{45 - REPORTS_MOST} more reports about leases"]
        await until(lambda: len(lines("A: no_b4: ")) == REPORTS_MOST + 1)
