"""PCP beside the other sources of bindings: it begins with what they have bound, and follows what they bind.

None of it is needed to forward: what PCP had bound is bound again with all the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from pylwaftr import row_sets
from pylwaftr.applied import Applied
from pylwaftr.changes import Source
from pylwaftr.config import Config
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.pcp import SPACE, Inject, PcpService
from pylwaftr.daemon.writer import Closed
from pylwaftr.pcp import settings as pcp_settings
from pylwaftr.pcp.mapping import EPOCH_KEY
from pylwaftr.pcp.outcome import Outcome
from pylwaftr.pcp.server import PcpServer
from pylwaftr.row_sets import Sourced
from pylwaftr.rows import Rows, no_rows
from pylwaftr.store import StoreFault

log = logging.getLogger("pylwaftr")

_AGAIN_S = 1.0
_BEGIN_AGAIN_S = 0.1  # not when leasequery asks again: the two would be refused together for ever
_QUIET_S, _PATIENCE_S = 0.25, 5.0
_TOGETHER = 1 << 12  # rows: about a millisecond, in which the event loop waits


class PcpBeside:
    def __init__(self, config: Config, control: Control, inject: Inject) -> None:
        self._control = control
        self.service = PcpService(PcpServer(_settings(config), time.time()), control, inject)
        self._heard: deque[Applied] = deque()  # is to be noted, in order
        self._wake = asyncio.Event()

    async def begin(self, damaged: bool, enabled: bool) -> None:
        """`damaged`: records may be missing. Raises StoreFault."""
        server, records = self.service.server, self._control.records.get(SPACE, {})
        loaded = await self.service.settle(lambda now: server.load(records, now, damaged))
        others = no_rows()

        def begun(bound: Sourced) -> Callable[[Applied], None]:
            nonlocal others
            others = _without(bound)
            return self._hear

        await self._observed(begun)
        await self.service.settle(lambda now: server.reserve(others, now))
        self.service.catch_up = self._catch_up  # from here on: what was heard comes behind what was there
        began_anew = EPOCH_KEY in loaded.records  # mappings that B4s still use may be unknown here
        if enabled and began_anew:
            server.announce(time.time(), others)

    async def _observed(self, begun: Callable[[Sourced], Callable[[Applied], None]]) -> None:
        """A store that fails is asked again: that was about what others changed."""
        while True:
            try:
                return await self._control.observe_all(begun)
            except Closed:
                raise
            except StoreFault as fault:
                log.error("PCP: %s; trying again", fault)
                await asyncio.sleep(_BEGIN_AGAIN_S)

    async def follow(self) -> None:
        """What others bind is noted some time when no more comes. Many rows together take half as long, and while they
        are loaded the control core has other things to do; PCP itself catches up before it decides."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._quiet()
            try:
                await self.service.settle(lambda _: Outcome())
            except StoreFault:
                await asyncio.sleep(_AGAIN_S)
                self._wake.set()

    async def _quiet(self) -> None:
        until, seen = time.monotonic() + _PATIENCE_S, 0
        while len(self._heard) > seen and time.monotonic() < until:
            seen = len(self._heard)
            await asyncio.sleep(_QUIET_S)

    def _hear(self, applied: Applied) -> None:
        self._heard.append(applied)
        self._wake.set()

    async def _catch_up(self) -> bool:
        """PCP leaves alone what others bind. False: a mapping was in the way, and the store could not take its end."""
        server = self.service.server
        while self._heard:
            applied, now = self._next(), time.time()
            gone, come = _without(applied.gone), _without(applied.come)
            if len(gone):
                server.unreserve(gone, now, come)
            if len(come) and not await self.service.settled(server.reserve(come, now)):
                server.unreserve(come, now)  # what was noted of it goes before the next try
                self._heard.appendleft(Applied(applied.report, come=applied.come))
                return False
            await asyncio.sleep(0)
        return True

    def _next(self) -> Applied:
        """Changes that only bind are noted together, and in pieces."""
        first = self._heard.popleft()
        if not len(first.gone) and len(first.come) > _TOGETHER:
            self._heard.appendleft(replace(first, come=first.come.part(slice(_TOGETHER, None))))
            return replace(first, come=first.come.part(slice(_TOGETHER)))
        parts, rows = [first.come], len(first.come)
        while not len(first.gone) and self._heard and not len(self._heard[0].gone) and rows < _TOGETHER:
            parts.append(self._heard.popleft().come)
            rows += len(parts[-1])
        return first if len(parts) == 1 else Applied(first.report, come=Sourced.join(parts))

    def announce(self, softwires: Rows) -> int:
        count = self.service.server.announce(time.time(), softwires)
        self.service.wake()
        return count

    def reconfigure(self, config: Config) -> None:
        self.service.server.reconfigure(_settings(config))


def _without(rows: Sourced) -> Rows:
    return row_sets.select(rows.rows, rows.sources != Source.PCP) if len(rows) else rows.rows


def _settings(config: Config) -> pcp_settings.Settings:
    room = config.dataplane.max_bindings
    return pcp_settings.from_config(config.pcp, config.subscribers, config.softwire.br_addresses[0], room)
