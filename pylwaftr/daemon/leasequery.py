"""The outer file of the leasequery requestor: connections to the servers, TLS, timers; leases to whoever applies them.

Octets go straight from the transport to the session, never through a StreamReader: one of those would hand out octets
that came in clear text as if TLS had carried them (asyncio of Python 3.11 does). From the go-ahead on nothing is read
in clear text: what comes is TLS, or the handshake fails.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import cast

from pylwaftr.api.backend import Ended
from pylwaftr.dhcp.events import Channel, Open, Secure, Shut
from pylwaftr.dhcp.leases import Changes
from pylwaftr.dhcp.requestor import Output, Requestor, Server
from pylwaftr.inside_tls import Inside

log = logging.getLogger("pylwaftr.leasequery")

Apply = Callable[[Changes, Mapping[str, bytes | None]], Awaitable[None]]
GATHER_S = 0.02  # a commit of many leases costs little more than one of a few
ENDED = "leasequery has ended by a fault, which the log names; what is bound forwards on; restart the router"
LINGER_S = 5.0  # a connection that is over waits for the server's end of it
READ = 1 << 20  # octets of a bulk that are taken at once
QUIET_S = 0.1  # inside TLS it waits for as long a pause before it says so
REPORTS_S, REPORTS_MOST = 10.0, 20  # so many reports about leases are logged in so many seconds
# Reports about a server, not about one lease of many: all of them are logged.
_OF_SESSIONS = ("lonely", "resync_late", "active_refused", "bulk_refused", "rebased", "base_time_ahead")
ALARMS = (*_OF_SESSIONS, "no_b4_often", "mass_removal", "other_offset", "low_ports")


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int
    source: str | None = None
    tls: ssl.SSLContext | None = None
    name: str | None = None  # expected in the certificate


class Edge:
    """`apply` is awaited for one batch after the other; what is heard meanwhile is the next batch."""

    def __init__(self, requestor: Requestor, endpoints: Mapping[str, Endpoint], apply: Apply) -> None:
        self.requestor, self._endpoints, self._apply = requestor, dict(endpoints), apply
        self.under_way = Output()  # what is being applied
        self.ended = False  # by a fault, or by who cancelled it: nothing is heard or applied any more
        self._again = False
        self._settled: list[asyncio.Future[None]] = []  # who waits until what was heard before is applied
        self._loop = asyncio.get_running_loop()
        self._links: dict[tuple[str, Channel], _Link] = {}
        self._ending: set[_Link] = set()  # closed by us, and not yet by the server
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self._waiting: dict[IPv6Address, list[asyncio.Future[bool]]] = {}
        self._logged_at, self._logged = float("-inf"), 0

    async def run(self) -> None:
        """Until it is cancelled, or `apply` fails."""
        try:
            self._now()
            self.requestor.open(time.monotonic())
            self.after()
            while True:
                await self._news.wait()
                self._news.clear()
                if self.requestor.flooded:
                    await asyncio.sleep(GATHER_S)
                await self._turn()
        finally:
            self._close()

    async def _turn(self) -> None:
        settled = self._settled.copy()
        output = self.requestor.take(self._now())
        self._obey(output)
        again, self._again = self._again, False
        if len(output.changes) or output.saved or again:
            self.under_way = output
            await self._apply(output.changes, output.saved)
            self.under_way = Output()
        for waiting in settled:
            self._settled.remove(waiting)
            if not waiting.done():
                waiting.set_result(None)
        if self.requestor.leases.judging:  # others have their turn before the next part
            self._news.set()
            await asyncio.sleep(0)

    async def settled(self) -> None:
        """Returns when all that was heard until now is applied. Raises Ended."""
        if self.ended:
            raise Ended(ENDED)
        self._settled.append(answer := self._loop.create_future())
        self._news.set()
        await answer

    def apply_again(self) -> None:
        """What may be bound depends on more than leases, and that has changed."""
        self._again = True
        self._news.set()

    def reconfigure(self, servers: Sequence[Server], endpoints: Mapping[str, Endpoint], anew: Container[str]) -> None:
        self._endpoints = dict(endpoints)
        self.requestor.reconfigure(servers, anew, self._now())
        self.after()

    def resync(self, server: str | None = None) -> None:
        self.requestor.resync(self._now(), server)
        self.after()

    def drop(self, server: str) -> None:
        self.requestor.drop(server, self._now())
        self.after()

    async def query(self, b4: IPv6Address) -> bool:
        """Whether a server knows a lease of that B4; asks at most once in ten seconds, waits a second at most."""
        if self.ended or not self.requestor.query(b4, self._now()):
            return False
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.setdefault(b4, []).append(answer)
        self.after()
        return await answer

    # --- the crank ---

    def _now(self) -> float:
        """Not the loop's clock: libuv reads that once in a turn, and in whole milliseconds."""
        now = time.monotonic()
        self.requestor.set_unix_offset(time.time() - now)
        return now

    def after(self) -> None:
        """After every call into the requestor: what it wants done now, and when it wants to be called again."""
        if self.ended:
            return
        self._obey(self.requestor.take(time.monotonic(), changes=False))
        self._news.set()
        for (server, channel), link in list(self._links.items()):
            link.send(self.requestor.data_to_send(server, channel))
        due = self.requestor.timer()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due is None else self._loop.call_at(due, self._timed)

    def _timed(self) -> None:
        self.requestor.handle_timer(self._now())
        self.after()

    def _obey(self, output: Output) -> None:
        for server, command in output.commands:
            key = (server, command.channel)
            match command:
                case Open():
                    self._links[key] = link = _Link(self, server, command.channel)
                    self._spawn(link.connect(self._endpoints[server]))
                case Secure():
                    self._links[key].pause()
                    self._spawn(self._links[key].start_tls(self._endpoints[server]))
                case Shut(reason=reason):
                    link = self._links.pop(key)
                    self._ending.add(link)
                    link.shut()
                    log.info("%s: %s connection closed: %s", server, command.channel.value, reason)
        for server, move in output.moves:
            log.info(
                "%s: %s: %s, was %s%s",
                *(server, move.channel.value, move.after, move.before, f" ({move.reason})" if move.reason else ""),
            )
        for report in output.reports:
            self._log(report.name, report.server, report.text)
        for b4, found in output.answered:
            for answer in self._waiting.pop(b4, ()):
                if not answer.done():
                    answer.set_result(found)

    def _log(self, name: str, server: str, text: str) -> None:
        if name in ALARMS:
            log.warning("%s: %s: %s", server, name, text)
            return
        now = time.monotonic()
        if now >= self._logged_at + REPORTS_S:
            if self._logged > REPORTS_MOST:
                log.warning("%d more reports about leases", self._logged - REPORTS_MOST)
            self._logged_at, self._logged = now, 0
        self._logged += 1
        if self._logged <= REPORTS_MOST:
            log.warning("%s: %s: %s", server, name, text)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _close(self) -> None:
        self.ended = True
        for waiting in self._settled:
            if not waiting.done():
                waiting.set_exception(Ended(ENDED))
        for answers in self._waiting.values():
            for answer in answers:
                answer.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        for link in (*self._links.values(), *self._ending):
            link.drop()
        self._links.clear()

    # --- what links say ---

    def is_current(self, link: _Link) -> bool:
        return self._links.get((link.server, link.channel)) is link

    def up(self, link: _Link) -> None:
        if self.is_current(link):
            self.requestor.connected(link.server, link.channel, self._now())
            self.after()

    def secured(self, link: _Link) -> None:
        if self.is_current(link):
            self.requestor.secured(link.server, link.channel, self._now())
            self.after()

    def received(self, link: _Link, data: bytes | memoryview) -> None:
        if self.is_current(link):
            self.requestor.feed(link.server, link.channel, data, self._now())
            self.after()

    def down(self, link: _Link, reason: str) -> None:
        self._ending.discard(link)
        if self.is_current(link):
            del self._links[link.server, link.channel]
            self.requestor.closed(link.server, link.channel, self._now(), reason)
            self.after()


class _Link(asyncio.BufferedProtocol):
    """One TCP connection, in clear text at first. With TLS octets come from Inside."""

    def __init__(self, edge: Edge, server: str, channel: Channel) -> None:
        self._edge, self.server, self.channel = edge, server, channel
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._gone = self._upgrading = False
        self._heard_at = float("-inf")
        self._in = memoryview(bytearray())

    async def connect(self, to: Endpoint) -> None:
        source = None if to.source is None else (to.source, 0)
        try:
            await self._loop.create_connection(lambda: self, to.host, to.port, local_addr=source)
        except (OSError, UnicodeError) as fault:  # of names that idna takes for none
            why = getattr(fault, "strerror", None) or fault
            self._edge.down(self, f"cannot connect to {to.host} port {to.port}: {why}")
            return
        if self._gone:
            self.shut()
        else:
            self._edge.up(self)

    async def start_tls(self, to: Endpoint) -> None:
        """The go-ahead was the last that came in clear text; the session has made sure of it."""
        assert self._transport is not None
        if to.tls is None:
            self.shut()
            self._edge.down(self, "TLS is wanted, and there is no TLS setting for this server")
            return
        self._upgrading = True
        plain, inside = self._transport, Inside(self.heard, self)
        try:
            secure = await self._loop.start_tls(
                plain, inside, to.tls, server_hostname=to.name or to.host, ssl_handshake_timeout=30
            )
        except (OSError, ssl.SSLError) as fault:
            plain.abort()
            self._edge.down(self, f"no TLS: {str(fault) or 'the server gave up in the handshake and does not say why'}")
            return
        if secure is None or self._gone:
            plain.abort()
            self._edge.down(self, "closed during the TLS handshake")
            return
        self._transport = secure
        self._edge.secured(self)
        inside.open()

    def send(self, octets: bytes) -> None:
        if octets and self._transport is not None:
            self._transport.write(octets)

    def pause(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()

    def shut(self) -> None:
        """FIN, and what still comes is read and thrown away: unread octets would make it a reset (RFC 6926 section
        7.8). A server that does not read, or never ends, is not waited for."""
        self._gone = True
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size():
            transport.abort()
        elif self._upgrading or not transport.can_write_eof():
            self._close_when_quiet(transport, time.monotonic() + LINGER_S)
        elif not transport.is_closing():
            transport.write_eof()
            self._loop.call_later(LINGER_S, transport.abort)

    def _close_when_quiet(self, transport: asyncio.Transport, latest: float) -> None:
        """TLS has an end of its own, but asyncio cuts off who still talks when he gets it."""
        now = time.monotonic()
        if now >= self._heard_at + QUIET_S or now >= latest:
            transport.close()
        elif not transport.is_closing():
            self._loop.call_later(QUIET_S, self._close_when_quiet, transport, latest)

    def drop(self) -> None:
        """Nobody is there any more to read."""
        self._gone = True
        if self._transport is not None:
            self._transport.close()

    def heard(self, data: bytes | memoryview) -> None:
        self._heard_at = time.monotonic()
        self._edge.received(self, data)

    # --- asyncio.BufferedProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have its methods and not its name
        self._in = memoryview(bytearray(READ))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._in

    def buffer_updated(self, nbytes: int) -> None:
        self.heard(self._in[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:
        self._edge.down(self, f"lost: {exc}" if exc else "closed by the server")
