"""Packets between the TUN device and the tunnel, a batch at a time."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from ..core import B4, BINDING_LOST, OUTER, Outcome
from ..inner_udp import Datagram
from .sockets import path_mtu

_LONGEST = 65535
_BATCH = 64  # packets a wake-up: one side must not starve the other
_TICK_S = 10.0


class Forwarder:
    """The packets' way between the TUN device and the tunnel; what is done with each is core.py's."""

    def __init__(self, b4: B4, tun: int, tunnel: socket.socket, errors: socket.socket) -> None:
        self._b4, self._tun, self._tunnel, self._errors = b4, tun, tunnel, errors
        self._up = bytearray(OUTER + _LONGEST)  # the outer header is written in front of what the device gave
        self._up_view = memoryview(self._up)
        self._up_room = [self._up_view[OUTER:]]
        self._down = bytearray(_LONGEST)
        self._down_view = memoryview(self._down)
        self._down_room = [self._down_view]
        self.on_message: Callable[[Datagram], None] = lambda message: None
        self.on_unbound: Callable[[], None] = lambda: None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._tun, self._from_tun)
        loop.add_reader(self._tunnel, self._from_tunnel)
        loop.add_reader(self._errors, self._from_errors)
        self._tick()

    def stop(self) -> None:
        for source in (self._tun, self._tunnel, self._errors):
            self._loop.remove_reader(source)

    def rebind(self, tunnel: socket.socket, errors: socket.socket) -> None:
        """The softwire's own address is another one."""
        for source in (self._tunnel, self._errors):
            self._loop.remove_reader(source)
            source.close()
        self._tunnel, self._errors = tunnel, errors
        self._loop.add_reader(tunnel, self._from_tunnel)
        self._loop.add_reader(errors, self._from_errors)

    def close(self) -> None:
        self._tunnel.close()
        self._errors.close()

    def send(self, packet: bytes) -> None:
        """A whole packet into the tunnel."""
        try:
            self._tunnel.send(packet)
        except OSError as fault:
            self._not_sent(fault)

    def _tick(self) -> None:
        self._b4.tick(self._loop.time())
        self._loop.call_later(_TICK_S, self._tick)

    def _from_tun(self) -> None:
        encapsulate, send, view, buffer = self._b4.encapsulate, self._tunnel.send, self._up_view, self._up
        for _ in range(_BATCH):
            try:
                length = os.readv(self._tun, self._up_room)
            except BlockingIOError:
                return
            end = encapsulate(buffer, OUTER + length)
            if not end:
                self._emit(self._b4.from_lan(bytes(view[OUTER : OUTER + length])))
                continue
            try:
                send(view[:end])
            except OSError as fault:
                self._not_sent(fault)

    def _from_tunnel(self) -> None:
        receive, decapsulate, aftr = self._tunnel.recvmsg_into, self._b4.decapsulate, self._b4.aftr
        view, buffer = self._down_view, self._down
        for _ in range(_BATCH):
            try:
                length, extra, _flags, _from = receive(self._down_room, 32)
            except BlockingIOError:
                return
            except OSError:  # an ICMPv6 error about what we sent shows on the connected socket too
                continue
            traffic_class = extra[0][2][0] if extra else 0
            ready = decapsulate(buffer, length, traffic_class)
            if ready:
                self._write(view[:ready])
            else:
                self._emit(self._b4.from_tunnel(aftr, traffic_class, bytes(view[:length])))

    def _from_errors(self) -> None:
        for _ in range(_BATCH):
            try:
                message, source = self._errors.recvfrom(_LONGEST)
            except OSError:
                return
            packed = socket.inet_pton(socket.AF_INET6, source[0].partition("%")[0])
            outcome = self._b4.from_icmp6(packed, message, self._loop.time())
            self._emit(outcome)
            if outcome.event == BINDING_LOST:
                self.on_unbound()

    def _emit(self, outcome: Outcome) -> None:
        for packet in outcome.wan:
            self.send(packet)
        for packet in outcome.lan:
            self._write(packet)
        if outcome.message is not None:
            self.on_message(outcome.message)

    def _write(self, packet: bytes | memoryview) -> None:
        try:
            os.write(self._tun, packet)
        except OSError:
            self._b4.counters["drop tun-refused"] += 1

    def _not_sent(self, fault: OSError) -> None:
        self._b4.counters["drop tunnel-refused"] += 1
        if fault.errno == errno.EMSGSIZE:  # the link became smaller than the path MTU we know
            self._b4.lower_path_mtu(path_mtu(self._tunnel), self._loop.time())
