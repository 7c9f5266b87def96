"""PCP on the LAN side: the sockets of proxy.py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address

from ..host import HostError
from ..proxy import Proxy
from .plan import Report
from .rules import Rules

_LONGEST = 2048
_BATCH = 64
_MOST_WAITING = 256  # requests whose rules are being made; more are dropped, and asked again


class LanServer:
    def __init__(self, proxy: Proxy, servers: list[socket.socket], rules: Rules, report: Report) -> None:
        self.proxy, self._servers, self._rules, self._report = proxy, servers, rules, report
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.on_scarce: Callable[[], None] = lambda: None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        for server in self._servers:
            loop.add_reader(server, self._read, server)
        self.transmit()

    def stop(self) -> None:
        for server in self._servers:
            self._loop.remove_reader(server)
            server.close()
        if self._timer is not None:
            self._timer.cancel()

    def transmit(self) -> None:
        """What is due, and the timer for what is not yet."""
        for datagram, to in self.proxy.datagrams_to_send(self._loop.time()):
            for server in self._servers:
                self._send(server, datagram, to)
        if self._timer is not None:
            self._timer.cancel()
        due = self.proxy.timer()
        self._timer = None if due is None else self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        if self.proxy.handle_timer(self._loop.time()):
            self._spawn_apply()
        self.transmit()

    def _spawn_apply(self) -> None:
        async def apply() -> None:
            try:
                await self._rules.apply()
            except HostError as fault:
                self._report(f"LAN mappings: {fault}")

        self._keep(self._loop.create_task(apply()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read(self, server: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                datagram, (address, port) = server.recvfrom(_LONGEST)
            except OSError:
                return
            if len(self._tasks) < _MOST_WAITING:
                self._answer(server, datagram, (IPv4Address(address), port))

    def _answer(self, server: socket.socket, datagram: bytes, source: tuple[IPv4Address, int]) -> None:
        outcome = self.proxy.receive(datagram, source, self._loop.time())
        if outcome.reply is None:
            return
        if not outcome.changed:
            self._send(server, outcome.reply, source)
            return

        async def reply() -> None:
            try:
                await self._rules.apply()
                answer = outcome.reply
            except HostError as fault:
                self._report(f"LAN mapping for {source[0]}: {fault}")
                self.proxy.revert(outcome)
                answer = outcome.failure
            if answer is not None:
                self._send(server, answer, source)
            self.transmit()

        self._keep(self._loop.create_task(reply()))
        if self.proxy.wants_more():
            self.on_scarce()

    @staticmethod
    def _send(server: socket.socket, datagram: bytes, to: tuple[IPv4Address, int]) -> None:
        with suppress(OSError):  # it asks again
            server.sendto(datagram, (str(to[0]), to[1]))
