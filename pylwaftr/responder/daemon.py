"""The outer file of the leasequery server: sockets, TLS, files, clocks.

The octets of a client go straight from the transport to its Connection, never through a StreamReader: one of those
would hand out octets that came in clear text as if TLS had carried them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from pylwaftr.inside_tls import Inside
from pylwaftr.responder import inotify, journal, kea
from pylwaftr.responder.database import Change, Changes, Database, rows_of
from pylwaftr.responder.server import SEND_S, UNASKED_S, Connection, Counts, Settings

log = logging.getLogger("leasequery-server")

POLL_S, SELDOM_S = 0.002, 0.25  # how often growing files are looked at; where the kernel tells of them
TICK_S = 1.0
TURN = 16  # pieces for one client, then it is another one's turn
BUFFER = 1 << 18  # octets that may wait for a client
READ = 1 << 20


class Service:
    """What all clients share."""

    def __init__(self, database: Database, settings: Settings, tls: ssl.SSLContext | None, most: int = 1000) -> None:
        self.database, self.settings, self.tls, self.most = database, settings, tls, most
        self.counts = Counts()
        self.clients: set[Client] = set()
        self._woken = False

    def apply(self, changes: Sequence[Change], live: bool) -> None:
        self.take(rows_of(changes), live)

    def take(self, changes: Changes, live: bool) -> None:
        """`live`: they happened just now, and clients wait for them."""
        self.database.take(changes, int(time.time()) if live else None)
        if len(changes) and live:
            self.wake()

    def wake(self) -> None:
        """All active clients, soon and once for all that happens until then."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._pump_all)

    def _pump_all(self) -> None:
        self._woken = False
        for client in [client for client in self.clients if client.connection.is_active]:
            client.pump()

    def tick(self) -> None:
        if self.database.expire(int(time.time())):
            self.wake()
        now = asyncio.get_running_loop().time()
        for client in list(self.clients):
            client.tick(now)

    def close(self) -> None:
        for client in list(self.clients):
            client.farewell()


class Client(asyncio.Protocol):
    def __init__(self, service: Service, native: bool = False) -> None:
        """`native`: DHCPv4 (TCP 67)."""
        self._service, self._native = service, native
        self._loop = asyncio.get_running_loop()
        self.connection = Connection(service.database, service.settings, service.counts, native)
        self._transport: asyncio.Transport | None = None
        self._paused_at: float | None = None
        self._held = False  # nothing is read: it has asked enough for now
        self._upgrade: asyncio.Task[None] | None = None
        self._again: asyncio.Handle | None = None
        self._peer = "?"

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, made)
        if self._transport is None:
            self._peer = str(transport.get_extra_info("peername", ("?",))[0])
            if len(self._service.clients) >= self._service.most:
                log.warning("%s: refused, there are %d clients already", self._peer, self._service.most)
                transport.abort()
                return
            log.info("%s: connected", self._peer)
        self._transport = transport
        transport.set_write_buffer_limits(high=BUFFER)
        self._service.clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.clients.discard(self)
        log.info("%s: gone%s", self._peer, f": {exc}" if exc else "")

    def data_received(self, data: bytes) -> None:
        self.connection.feed(data, self._loop.time())
        self.pump()

    def pause_writing(self) -> None:
        self._paused_at = self._loop.time()

    def resume_writing(self) -> None:
        self._paused_at = None
        self.pump()

    def pump(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or self._upgrade is not None:
            return
        there_is_more = self._write(transport)
        if self._held is not self.connection.is_full:
            self._held = not self._held
            (transport.pause_reading if self._held else transport.resume_reading)()
        if there_is_more:
            if self._again is None:  # others first
                self._again = self._loop.call_soon(self._go_on)
        elif self.connection.wants_tls:
            transport.pause_reading()  # what comes now is the client's handshake
            self._upgrade = self._loop.create_task(self._start_tls(transport))
        elif self.connection.done and self._paused_at is None:
            transport.close()

    def _write(self, transport: asyncio.Transport) -> bool:
        """What may be written in one turn; whether there may be more."""
        for _ in range(TURN):
            if self._paused_at is not None:
                return False
            octets = self.connection.produce(self._loop.time(), int(time.time()))
            if not octets:
                return False
            for piece in _records(octets) if self._native else (octets,):
                transport.write(piece)
        return True

    def _go_on(self) -> None:
        self._again = None
        self.pump()

    async def _start_tls(self, transport: asyncio.Transport) -> None:
        assert self._service.tls is not None
        inside = Inside(self.data_received, self)
        try:
            secure = await self._loop.start_tls(
                transport, inside, self._service.tls, server_side=True, ssl_handshake_timeout=30
            )
        except (OSError, ssl.SSLError) as fault:
            log.warning("%s: no TLS: %s", self._peer, fault)
            transport.abort()
            return
        if secure is None:
            transport.abort()
            return
        self._transport = secure
        secure.set_write_buffer_limits(high=BUFFER)
        self._upgrade = None
        self.connection.secured()
        inside.open()
        self.pump()

    def tick(self, now: float) -> None:
        if self._paused_at is not None and now - self._paused_at >= SEND_S:
            log.warning("%s: has not read for %.0f seconds", self._peer, SEND_S)
            if self._transport is not None:
                self._transport.abort()
        elif self._paused_at is None and self._transport is not None and self.connection.unasked(now):
            log.info("%s: has asked nothing for %.0f seconds", self._peer, UNASKED_S)
            self._transport.close()
        due = self.connection.timer()
        if due is not None and now >= due:
            self.pump()

    def farewell(self) -> None:
        if self._transport is not None and self._paused_at is None:
            self._transport.write(self.connection.terminate(int(time.time())))
            self._transport.close()


def _records(octets: bytes) -> Iterator[bytes]:
    """RFC 7724 section 6.1: a DHCPv4 message has a TLS record of its own."""
    at = 0
    while at < len(octets):
        end = at + 2 + int.from_bytes(octets[at : at + 2])
        yield octets[at:end]
        at = end


class Tail:
    """Lines of a file that others append to, and that may be replaced by a new one of the same name."""

    def __init__(self, path: Path, take: Callable[[list[str], bool], None]) -> None:
        self._path, self._take = path, take
        self._file: BinaryIO | None = None
        self._lines = journal.Lines()
        self._fault = ""  # why it cannot be opened, as the log has it

    def read(self, live: bool = True) -> None:
        while self._file is not None or self._open():
            assert self._file is not None
            replaced = self._replaced()  # before the last look, or lines written in between would be lost
            while data := self._file.read(READ):
                self._take(self._lines.feed(data), live)
            if not replaced:
                return
            self._file.close()
            self._file = None
            self._lines = journal.Lines()

    def _open(self) -> bool:
        try:
            self._file = self._path.open("rb")
        except OSError as fault:
            if str(fault) != self._fault and not isinstance(fault, FileNotFoundError):
                log.error("cannot be read for now: %s", fault)
            self._fault = str(fault)
            return False
        self._fault = ""
        return True

    def _replaced(self) -> bool:
        assert self._file is not None
        mine = os.fstat(self._file.fileno())
        try:
            now = self._path.stat()
        except OSError:
            return False
        return mine.st_ino != now.st_ino or now.st_size < self._file.tell()


@dataclass(frozen=True, slots=True)
class Sources:
    journal: Path | None = None
    kea_leases: Path | None = None
    kea: kea.Leases | None = None


def tails(service: Service, sources: Sources) -> list[Tail]:
    """Reads all there is, and returns who reads what comes."""
    found = []
    if sources.kea_leases is not None:
        reader = sources.kea or kea.Leases()

        def take_kea(lines: list[str], live: bool) -> None:
            service.apply(_read(lines, lambda text: reader.line(text, int(time.time()))), live)

        for suffix in (".2", ".1"):  # what Kea's cleanup has set aside
            Tail(Path(f"{sources.kea_leases}{suffix}"), take_kea).read(live=False)
        found.append(Tail(sources.kea_leases, take_kea))
        # The file has leases, not all that ever happened.
        service.database.unknown_until(int(time.time()))
    if sources.journal is not None:

        def take_journal(lines: list[str], live: bool) -> None:
            service.take(journal.read(lines, _left_out), live)

        found.append(Tail(sources.journal, take_journal))
    for tail in found:
        tail.read(live=False)
    if sources.journal is not None:
        first = service.database.first_change
        service.database.unknown_until(int(time.time()) if first is None else first)
    return found


def _read(lines: list[str], parse: Callable[[str], Change | None]) -> list[Change]:
    changes = []
    for text in lines:
        try:
            change = parse(text)
        except journal.FAULTS as fault:
            _left_out(text, fault)
            continue
        if change is not None:
            changes.append(change)
    return changes


def _left_out(text: str, fault: Exception) -> None:
    log.error("a line was left out: %s: %s", fault, text[:200])


def context(cert: Path, key: Path, ca: Path | None) -> ssl.SSLContext:
    """TLS 1.2 at least (RFC 9325); with a CA, clients have to show a certificate of it."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_cert_chain(cert, key)
    if ca is not None:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(ca)
    return made


@dataclass(frozen=True, slots=True)
class Listen:
    host: str
    port: int
    native: bool = False


def run(service: Service, at: Sequence[Listen], sources: Sources, ready: Callable[[list[int]], None]) -> None:
    asyncio.run(serve(service, at, sources, ready))


async def serve(
    service: Service, at: Sequence[Listen], sources: Sources, ready: Callable[[list[int]], None] | None = None
) -> None:
    """Until SIGTERM or SIGINT. `ready` gets the ports."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    growing = tails(service, sources)
    listeners = [await listen(service, where) for where in at]
    bound = [listener.sockets[0].getsockname()[1] for listener in listeners]
    for where, port in zip(at, bound, strict=True):
        kind = "DHCPv4" if where.native else "DHCPv6"
        log.info("%d leases; listening on %s port %d (%s)", len(service.database), where.host, port, kind)
    if ready is not None:
        ready(bound)

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.critical("the program ends: %r", fault)
            stop.set()

    work = [loop.create_task(_follow(growing, sources)), loop.create_task(_ticks(service))]
    for task in work:
        task.add_done_callback(ended)
    try:
        await stop.wait()
        for task in work:
            if task.done():
                task.result()  # who started the program learns of it too
    finally:
        for task in work:
            task.cancel()
        for listener in listeners:
            listener.close()
        service.close()
        await asyncio.sleep(0)


async def listen(service: Service, at: Listen) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Client(service, at.native), at.host, at.port, backlog=512)


async def _follow(growing: Sequence[Tail], sources: Sources) -> None:
    def read() -> None:
        for tail in growing:
            tail.read()

    folders = {path.parent for path in (sources.journal, sources.kea_leases) if path is not None}
    with inotify.told(folders, read) as is_told:
        while growing:
            read()
            await asyncio.sleep(SELDOM_S if is_told else POLL_S)


async def _ticks(service: Service) -> None:
    while True:
        service.tick()
        await asyncio.sleep(TICK_S)
