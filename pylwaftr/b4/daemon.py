"""The outer file of the lwB4: sockets, clock, signals and tasks; the packets' way is core.py's.

The tunnel is a raw socket of protocol 4. Its kernel reassembles outer fragments, steps over extension headers, and
hands over packets between the softwire's two addresses alone, for the socket is bound to the one and connected to the
other (RFC 7596 section 5.2: discard what is not from the lwAFTR). Outer headers and outer fragments are ours.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace

from . import nft
from .core import B4, BINDING_LOST, OUTER, Options, Outcome
from .host import HostError, HostOptions, install, interface_towards, open_tun, turn_gro_off
from .softwire import Softwire

_IPV6_MTU, _IPV6_HDRINCL, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 24, 36, 32, 33
_SOCKET_BUFFER = 8 << 20
_LONGEST = 65535
_BATCH = 64  # packets a wake-up: one side must not starve the other
_TICK_S = 10.0

Report = Callable[[str], None]


class UnboundError(Exception):
    """The lwAFTR says that it has no binding for us, and the policy is to stop (RFC 7596 section 5.1)."""


def open_tunnel(softwire: Softwire) -> socket.socket:
    try:
        tunnel = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_IPIP)
    except PermissionError:
        raise HostError("raw sockets need root (CAP_NET_RAW): run this as root") from None
    tunnel.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
    tunnel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
        tunnel.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)
    _bind(tunnel, softwire)
    try:
        tunnel.connect((str(softwire.aftr), 0))
    except OSError as fault:
        raise HostError(f"no way to the lwAFTR {softwire.aftr}: {fault.strerror}: add an IPv6 route") from None
    return tunnel


def open_icmp6(softwire: Softwire) -> socket.socket:
    """Errors about the tunnel, from any router on the way: types 1 to 4."""
    errors = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    blocked = struct.pack("=8I", 0xFFFFFFFF & ~0x1E, *[0xFFFFFFFF] * 7)
    errors.setsockopt(socket.IPPROTO_ICMPV6, 1, blocked)  # ICMPV6_FILTER
    _bind(errors, softwire)
    return errors


def _bind(sock: socket.socket, softwire: Softwire) -> None:
    sock.setblocking(False)
    try:
        sock.bind((str(softwire.source), 0))
    except OSError as fault:
        if fault.errno != errno.EADDRNOTAVAIL:
            raise
        raise HostError(
            f"the tunnel source {softwire.source} is not an address of this machine: add it, or name --wan"
        ) from None


def flush_connections() -> None:
    """RFC 7596 section 5.1: no mapping of another address or port set lives on. Deletes the marked connections."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netfilter:  # NETLINK_NETFILTER
        # CTA_MARK and CTA_MARK_MASK: lengths and types in host order, values in network order
        mark, mask = struct.pack("!I", nft.MARK), struct.pack("!I", nft.MARK_MASK)
        attributes = struct.pack("=HH", 8, 8) + mark + struct.pack("=HH", 8, 21) + mask
        body = struct.pack("!BBH", socket.AF_INET, 0, 0) + attributes
        head = struct.pack("=IHHII", 16 + len(body), (1 << 8) | 2, 1, 1, 0)  # IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST
        with suppress(OSError):  # a kernel without connection tracking has nothing to flush
            netfilter.send(head + body)


class Daemon:
    def __init__(self, b4: B4, tun: int, tunnel: socket.socket, errors: socket.socket, report: Report) -> None:
        self._b4, self._tun, self._tunnel, self._errors, self._report = b4, tun, tunnel, errors, report
        self._up = bytearray(OUTER + _LONGEST)  # the outer header is written in front of what the device gave
        self._up_view = memoryview(self._up)
        self._up_room = [self._up_view[OUTER:]]
        self._down = bytearray(_LONGEST)
        self._down_view = memoryview(self._down)
        self._down_room = [self._down_view]
        self._unbound_at = float("-inf")
        self.unbound = asyncio.Event()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._tun, self._from_tun)
        loop.add_reader(self._tunnel, self._from_tunnel)
        loop.add_reader(self._errors, self._from_errors)
        self._tick()

    def stop(self) -> None:
        for source in (self._tun, self._tunnel, self._errors):
            self._loop.remove_reader(source)

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
                self._lost()

    def _lost(self) -> None:
        """One line a minute: every packet that goes out may bring such an error back."""
        self.unbound.set()
        if self._loop.time() - self._unbound_at >= 60:
            self._unbound_at = self._loop.time()
            self._report("the lwAFTR has no binding for this lwB4 (ICMPv6 1/5)")

    def _emit(self, outcome: Outcome) -> None:
        for packet in outcome.wan:
            try:
                self._tunnel.send(packet)
            except OSError as fault:
                self._not_sent(fault)
        for packet in outcome.lan:
            self._write(packet)

    def _write(self, packet: bytes | memoryview) -> None:
        try:
            os.write(self._tun, packet)
        except OSError:
            self._b4.counters["drop tun-refused"] += 1

    def _not_sent(self, fault: OSError) -> None:
        self._b4.counters["drop tunnel-refused"] += 1
        if fault.errno == errno.EMSGSIZE:  # the link became smaller than the path MTU we know
            self._b4.lower_path_mtu(path_mtu(self._tunnel), self._loop.time())


def path_mtu(tunnel: socket.socket) -> int:
    """What the kernel knows of the way to the lwAFTR."""
    return tunnel.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)


def run(softwire: Softwire, host: HostOptions, core: Options, stop_when_unbound: bool, report: Report) -> None:
    """Until SIGTERM or SIGINT; SIGUSR1 shows the counters. `core.mtu` 0: as the kernel knows the path."""
    asyncio.run(_serve(softwire, host, core, stop_when_unbound, report))


async def _serve(softwire: Softwire, host: HostOptions, core: Options, stop_when_unbound: bool, report: Report) -> None:
    with ExitStack() as undo:
        tun = open_tun(host.tun)
        undo.callback(os.close, tun)
        install(softwire, host, undo)
        tunnel = undo.enter_context(open_tunnel(softwire))
        errors = undo.enter_context(open_icmp6(softwire))
        turn_gro_off(interface_towards(softwire.aftr), tunnel.fileno(), undo)
        flush_connections()
        undo.callback(flush_connections)
        drawn = replace(core, mtu=core.mtu or path_mtu(tunnel), first_identification=secrets.randbits(32))
        b4 = B4(softwire, drawn)
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, lambda: report(_shown(b4)))
        daemon = Daemon(b4, tun, tunnel, errors, report)
        daemon.start(loop)
        undo.callback(daemon.stop)
        report(f"ready: {softwire.ipv4} on {host.tun} through {softwire.aftr}, path MTU {b4.path_mtu}")
        await _until(stop, daemon.unbound if stop_when_unbound else None)
        report(_shown(b4))


async def _until(stop: asyncio.Event, unbound: asyncio.Event | None) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in (stop, unbound) if event is not None]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    if unbound is not None and unbound.is_set():
        raise UnboundError("the lwAFTR has no binding for this lwB4")


def _shown(b4: B4) -> str:
    return "counters: " + (", ".join(f"{name} {n}" for name, n in sorted(b4.counters.items())) or "no drops")
