"""The stream of beginnings and ends of bindings to a syslog collector (history.syslog)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from pylwaftr.api.backend import Backend
from pylwaftr.changes import Op
from pylwaftr.config.services import Syslog
from pylwaftr.store import Compacted, StoreFault
from pylwaftr.telemetry import syslog

log = logging.getLogger("pylwaftr")

_RETRY_S = 5.0


async def stream(backend: Backend, wanted: Syslog, after: int) -> None:
    """Behind a revision, until watches end. A collector that was away is told what happened meanwhile, as far as it is
    kept."""
    while True:
        try:
            await _until_broken(backend, wanted, after)
            return  # watches end when the router stops
        except Compacted:
            log.warning("history.syslog: revisions behind %d are no longer kept: some changes were not sent", after)
            after = backend.revision
        except StoreFault as fault:  # they cannot be read, now or later
            log.warning("history.syslog: %s: some changes were not sent", fault)
            after = backend.revision
        except _Broken as broken:
            after = broken.after
            log.warning("history.syslog: %s: %s; trying again", wanted.server, broken)
            await asyncio.sleep(_RETRY_S)


class _Broken(Exception):
    """`after`: the last revision that was sent."""

    def __init__(self, after: int, why: str) -> None:
        self.after = after
        super().__init__(why)


async def _until_broken(backend: Backend, wanted: Syslog, after: int) -> None:
    host, pid = socket.gethostname(), os.getpid()
    try:
        writer = await _Writer.to(wanted)
    except OSError as fault:
        raise _Broken(after, str(fault)) from None
    try:
        async for event in backend.watch(after):
            after = event.revision - 1  # its events are sent again if one of them cannot be
            if event.change is not None and event.change.op in (Op.BIND, Op.UNBIND):
                for message in syslog.messages(event.change, event.at, wanted.facility, host, pid):
                    await writer.send(message)
            after = event.revision
    except OSError as fault:
        raise _Broken(after, str(fault)) from None
    finally:
        writer.close()


class _Writer:
    def __init__(
        self,
        reader: asyncio.StreamReader | None = None,
        writer: asyncio.StreamWriter | None = None,
        datagrams: socket.socket | None = None,
    ) -> None:
        self._reader, self._writer, self._datagrams = reader, writer, datagrams

    @classmethod
    async def to(cls, wanted: Syslog) -> _Writer:
        if wanted.transport == "tcp":
            return cls(*await asyncio.open_connection(wanted.server.host, wanted.server.port))
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(wanted.server.host, wanted.server.port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        datagrams = socket.socket(family, kind, protocol)
        datagrams.connect(address)
        datagrams.setblocking(False)
        return cls(datagrams=datagrams)

    async def send(self, message: bytes) -> None:
        if self._writer is not None and self._reader is not None:
            # What is written now nobody would read; and a transport of uvloop that was reset raises no OSError.
            if self._writer.is_closing() or self._reader.at_eof():
                raise ConnectionResetError("the collector has closed the connection")
            self._writer.write(syslog.framed(message))
            await self._writer.drain()
        elif self._datagrams is not None:
            await asyncio.get_running_loop().sock_sendall(self._datagrams, message)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._datagrams is not None:
            self._datagrams.close()
