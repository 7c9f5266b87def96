"""A storm's packets through a TUN device or straight onto a link, as fast as one thread can."""

from __future__ import annotations

import os
import random
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Any, Protocol

from ..host import HostError, open_tun, route_storm
from ..storm import Storm, StormPlan

_ETH_P_IPV6 = 0x86DD
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_BUFFER = 64 << 20
_LONGEST = 2048
_SENT_AT_ONCE, _TAKEN_AT_ONCE = 32, 128  # answers go first: they are what makes room
_LOOK_S = 0.2  # how late the end of the time may be noticed


class Link(Protocol):
    def fileno(self) -> int: ...
    def send(self, packet: bytes) -> None: ...
    def receive(self) -> bytes: ...


class TunLink:
    """The kernel routes what the device gives it, so it needs a route to the lwAFTR and IPv6 forwarding."""

    def __init__(self, name: str, prefix: IPv6Network, undo: ExitStack) -> None:
        self._tun = open_tun(name)
        undo.callback(os.close, self._tun)
        route_storm(name, prefix)

    def fileno(self) -> int:
        return self._tun

    def send(self, packet: bytes) -> None:
        os.write(self._tun, packet)

    def receive(self) -> bytes:
        return os.read(self._tun, _LONGEST)


class PacketLink:
    """Frames to the router's MAC address; the kernel answers its solicitations for the interface's own address."""

    def __init__(self, interface: str, mac: bytes, undo: ExitStack) -> None:
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IPV6))
            self._socket.bind((interface, _ETH_P_IPV6))
        except OSError as fault:
            raise HostError(
                f"{interface}: {fault.strerror}: name an interface that is up, and run this as root"
            ) from None
        undo.callback(self._socket.close)
        self._socket.setblocking(False)
        for option in (_SO_RCVBUFFORCE, _SO_SNDBUFFORCE):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self._to = (interface, _ETH_P_IPV6, 0, 0, mac)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, packet: bytes) -> None:
        self._socket.sendto(packet, self._to)

    def receive(self) -> bytes:
        return self._socket.recv(_LONGEST)


@dataclass(frozen=True, slots=True)
class StormRun:
    storm: StormPlan
    seconds: float
    until_bound: bool  # end as soon as all are bound
    tun: str | None  # or interface and mac
    interface: str = ""
    mac: bytes = b""
    seed: int | None = None


def run_storm(plan: StormRun, progress: Callable[[str], None]) -> dict[str, Any]:
    with ExitStack() as undo:
        link: Link
        if plan.tun is not None:
            link = TunLink(plan.tun, plan.storm.prefix, undo)
        else:
            link = PacketLink(plan.interface, plan.mac, undo)
        storm = Storm(plan.storm, random.Random(plan.seed) if plan.seed is not None else random.SystemRandom())
        return _turn(plan, storm, link, progress)


def _turn(plan: StormRun, storm: Storm, link: Link, progress: Callable[[str], None]) -> dict[str, Any]:
    began = now = time.monotonic()
    storm.start(now)
    said = began
    while now - began < plan.seconds and not (plan.until_bound and storm.bound == plan.storm.count):
        taken = _receive(storm, link)
        packets = storm.take(now, _SENT_AT_ONCE)
        for packet in packets:
            try:
                link.send(packet)
            except OSError:  # a full queue; it is sent again
                storm.counts["not sent"] += 1
        if not taken and not packets:
            due = storm.timer()
            wait = _LOOK_S if due is None else min(max(due - now, 0.0), _LOOK_S)
            select.select([link], [], [], wait)
        now = time.monotonic()
        if now - said >= 1:
            said = now
            progress(f"{now - began:.0f} s: {storm.bound} of {plan.storm.count} bound")
    return storm.report(now)


def _receive(storm: Storm, link: Link) -> int:
    for count in range(_TAKEN_AT_ONCE):
        try:
            packet = link.receive()
        except OSError:
            return count
        storm.receive(packet, time.monotonic())
    return _TAKEN_AT_ONCE
