"""The nftables rules in force, changed off the packets' way: nft takes 10 ms and more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address

from ..host import HostOptions, load_rules, remove_rules
from ..nft import Forward
from ..softwire import Ports


class Rules:
    def __init__(self, host: HostOptions) -> None:
        self._host = host
        self._lock = asyncio.Lock()
        self._asked = 0
        self._done = 0
        # What they are to be; read when they are made, so that several changes are one.
        self.napt: tuple[IPv4Address, Ports] | None = None
        self.forwards: Callable[[], tuple[Forward, ...]] = lambda: host.forwards

    async def apply(self) -> None:
        """Returns when all that was wanted at the call is in force. Raises HostError."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._done >= mine:
                return  # the one before us took our change along
            now = self._asked
            if self.napt is None:
                await asyncio.to_thread(remove_rules, self._host)
            else:
                ipv4, ports = self.napt
                await asyncio.to_thread(load_rules, self._host, ipv4, ports, self.forwards())
            self._done = now
