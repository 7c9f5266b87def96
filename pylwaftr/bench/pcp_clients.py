"""Simulated lwB4s (`b4.storm`) in a process of their own, which shares the control core when there is no third one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from pylwaftr.b4.storm import Storm, StormPlan
from pylwaftr.bench.pcp import BR
from pylwaftr.bench.pcp_way import LINK, STEP, Way

PREFIX = IPv6Network("2001:db8::/32")
_LENGTH = struct.Struct("!I")
_PACKET = struct.Struct("!H")


def _lwb4s(to: socket.socket, count: int, seed: int) -> None:
    """Packets out and in, a report whenever all of them are bound."""
    storm = Storm(StormPlan(IPv6Address(BR), PREFIX, count), random.Random(seed))
    began = time.monotonic()
    storm.start(began)
    pending, told = bytearray(), False
    wait = 0.0
    while True:
        # What is there is heard first: an answer that lies about looks like a server whose clock is behind.
        while select.select([to], [], [], wait)[0]:
            data = to.recv(1 << 18)
            if not data:
                return
            pending += data
            for packet in _packets(pending):
                storm.receive(packet, time.monotonic())
            wait = 0.0
        now = time.monotonic()
        if packets := storm.take(now, STEP):
            _say(to, b"".join(_PACKET.pack(len(one)) + one for one in packets))
        due = storm.timer()
        wait = 0.0 if packets else 0.05 if due is None else min(max(0.0, due - now), 0.05)
        if storm.all_bound_after is None:
            told = False
        elif not told:
            told = True
            now = time.monotonic()
            _say(to, b"\0" + json.dumps(storm.report(now) | {"began": began, "ended": now}).encode())


def _say(to: socket.socket, message: bytes) -> None:
    to.sendall(_LENGTH.pack(len(message)) + message)


def _packets(pending: bytearray) -> list[bytes]:
    found, at = [], 0
    while at + 2 <= len(pending) and at + 2 + (size := int.from_bytes(pending[at : at + 2])) <= len(pending):
        found.append(bytes(pending[at + 2 : at + 2 + size]))
        at += 2 + size
    del pending[:at]
    return found


class Clients:
    """Our end of their process."""

    def __init__(self, count: int, seed: int) -> None:
        ours, theirs = socket.socketpair()
        self._ours = ours
        self._process = multiprocessing.get_context("spawn").Process(target=_lwb4s, args=(theirs, count, seed))
        self._process.start()
        theirs.close()
        self.reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.way: Way | None = None

    async def serve(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._ours, limit=1 << 22)
        while True:
            size = _LENGTH.unpack(await reader.readexactly(4))[0]
            message = await reader.readexactly(size)
            if message[0] == 0 and message[1:2] == b"{":
                self.reports.put_nowait(json.loads(message[1:]))
            elif self.way is not None:
                self.way.feed([LINK + packet for packet in _packets(bytearray(message))])

    def answer(self, frames: Sequence[bytes]) -> None:
        self._writer.write(b"".join(_PACKET.pack(len(frame) - 14) + frame[14:] for frame in frames))

    def attach(self, way: Way) -> None:
        way.answered = self.answer
        self.way = way

    def hold(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process.pid is not None:
            os.kill(self._process.pid, number)

    def cpu_s(self) -> float:
        return cpu_s(self._process.pid)

    async def close(self) -> None:
        self.go_on()
        self._writer.close()
        await asyncio.to_thread(self._process.join, 10)
        if self._process.is_alive():
            self._process.kill()


def cpu_s(process: int | None) -> float:
    """CPU time of its threads but those of DPDK that poll, to the microsecond."""
    used = 0
    for task in Path(f"/proc/{process or 'self'}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if not (task / "comm").read_text().startswith(_POLLING):
                used += int((task / "schedstat").read_text().split()[0])
    return used / 1e9


_POLLING = ("dpdk-worker", "lcore-worker", "rte-worker")
