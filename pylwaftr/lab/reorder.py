"""A relay that puts packets out of order: `python -m pylwaftr.lab.reorder DEVICE EVERY`.

The kernel that forwards into the TUN device gets each packet back from it, every EVERYth one later: after the next
three, or when a few milliseconds brought no other. (Not every kernel has netem.)
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

from ..b4.host import open_tun

_BEHIND = 3
_HOLD_MS = 5


class Shuffle:
    """Which packets leave now."""

    def __init__(self, every: int) -> None:
        self._every, self._count = every, 0
        self._held: bytes | None = None
        self._passed = 0

    def take(self, packet: bytes) -> list[bytes]:
        self._count += 1
        if self._held is None:
            if self._count % self._every:
                return [packet]
            self._held, self._passed = packet, 0
            return []
        self._passed += 1
        return [packet] if self._passed < _BEHIND else [packet, *self.release()]

    def release(self) -> list[bytes]:
        held, self._held = self._held, None
        return [] if held is None else [held]


def relay(tun: int, shuffle: Shuffle) -> None:
    poll = select.poll()
    poll.register(tun, select.POLLIN)
    while True:
        if not poll.poll(_HOLD_MS):
            _write(tun, shuffle.release())
            continue
        try:
            while True:
                _write(tun, shuffle.take(os.read(tun, 65535)))
        except BlockingIOError:
            continue


def _write(tun: int, packets: list[bytes]) -> None:
    for packet in packets:
        os.write(tun, packet)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    device, every = sys.argv[1], int(sys.argv[2])
    tun = open_tun(device)
    subprocess.run(["ip", "link", "set", device, "mtu", "1540", "txqueuelen", "5000", "up"], check=True)
    print("ready", flush=True)
    relay(tun, Shuffle(every))


if __name__ == "__main__":
    main()
