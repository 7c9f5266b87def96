"""A lease service over the core's table and a store, without servers: news are put in where a session would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pylwaftr import _core, config, rows
from pylwaftr.api.backend import ListFilter
from pylwaftr.changes import Source
from pylwaftr.config import Config
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.leases import LeaseService, found
from pylwaftr.rows import Rows
from tests.control_life import FailingStore, table
from tests.leasequery_peer import rows as lease_rows
from tests.test_run import config_file

SERVER = "127.0.0.1:9"


def limited(folder: Path, most: int = 1) -> Config:
    path = config_file(folder)
    with path.open("a") as more:  # nobody is there
        more.write('leasequery: {servers: [{address: "127.0.0.1", port: 9, require_tls: false}]}\n')
    loaded = config.load(path)
    return replace(loaded, subscribers=replace(loaded.subscribers, mask=56, max_softwires=most))


@dataclass
class Service:
    control: Control
    leases: LeaseService
    table: _core.BindingTable

    def hear(self, *told: Any) -> None:
        requestor, now = self.leases.edge.requestor, asyncio.get_running_loop().time()
        requestor.leases.heard(SERVER, lease_rows(*told), now)
        self.leases.edge.after()

    async def bound(self) -> dict[int, str]:
        """PSID -> source."""
        listed = await self.control.list(ListFilter(), 1000, "")
        sources = (Source(one).name for one in listed.sources.tolist())
        return dict(zip(listed.rows["psid"].tolist(), sources, strict=True))

    async def until(self, bound: dict[int, str]) -> None:
        async with asyncio.timeout(60):
            while await self.bound() != bound:
                await asyncio.sleep(0.01)

    async def until_true(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)

    @property
    def waiting(self) -> list[int]:
        return sorted(self.leases._quarantine.waiting["psid"].tolist())


@asynccontextmanager
async def serving(
    folder: Path, settings: Config, own: Rows | None = None, capacity: int = 100_000
) -> AsyncIterator[Service]:
    """One life of it; `own`: the bindings of the configuration."""
    bindings = table(capacity)
    control = Control(bindings, FailingStore(folder / "state", 0.0))
    await control.start(rows.no_rows() if own is None else own)
    service = LeaseService(settings, found(settings), control, bindings)
    await service.begin()
    work = asyncio.create_task(service.edge.run())
    try:
        yield Service(control, service, bindings)
        assert not work.done() or work.result() is None
    finally:
        work.cancel()
        await control.stop()
