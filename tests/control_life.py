"""One life of a control side over the core's table and a store that can be made to fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pylwaftr import _core
from pylwaftr.api.backend import ListFilter
from pylwaftr.changes import Source
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.restoring import Restored
from pylwaftr.rows import Rows
from pylwaftr.store import Change, Commit, StoreFault
from pylwaftr.store.sqlite import SqliteStore
from tests.store_rows import A1, rows

CONFIG, OPERATOR, DHCP, PCP = Source
Test = Callable[[Control], Awaitable[Any]]


class FailingStore(SqliteStore):
    """Refuses commits while `broken`, and counts them."""

    broken = False
    slow_s = 0.0
    slow_read_s = 0.0
    commits: Sequence[int] = ()

    def commit(self, commits: Sequence[Commit], at: float) -> int:
        time.sleep(self.slow_s)
        if self.broken:
            raise StoreFault("the disk is full")
        self.commits = (*self.commits, len(commits))
        return super().commit(commits, at)

    def changes(self, after: int) -> Iterator[tuple[int, float, Change]]:
        time.sleep(self.slow_read_s)
        return super().changes(after)


def table(capacity: int = 100_000) -> _core.BindingTable:
    return _core.BindingTable(capacity, [], [])


def run(folder: Path, test: Test, config: Rows | None = None, capacity: int = 100_000) -> Restored:
    """One life of the router."""

    async def life() -> Restored:
        control = Control(table(capacity), FailingStore(folder, time.time()))
        restored = await control.start(rows() if config is None else config)
        try:
            await asyncio.wait_for(test(control), 60)
        finally:
            await control.stop()
        return restored

    return asyncio.run(life())


async def nothing(control: Control) -> None:
    pass


def keys(*psids: int) -> tuple[Any, Any]:
    return np.full(len(psids), A1, np.uint32), np.array(psids, np.uint16)


def cell(found: tuple[Rows, int] | None) -> tuple[int, int, int] | None:
    """PSID, last octet of the B4, source."""
    return None if found is None else (int(found[0]["psid"][0]), int(found[0]["b4"][0][15]), found[1])


async def listed(control: Control, wanted: ListFilter | None = None, size: int = 1000) -> list[tuple[int, int]]:
    """PSID and source, over all pages."""
    found: list[tuple[int, int]] = []
    page = ""
    while True:
        answer = await control.list(wanted or ListFilter(), size, page)
        assert len(answer.rows) <= size
        found += zip(answer.rows["psid"].tolist(), answer.sources.tolist(), strict=True)
        page = answer.next
        if not page:
            return found


def store_of(control: Control) -> FailingStore:
    store = control._store
    assert isinstance(store, FailingStore)
    return store
