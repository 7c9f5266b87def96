"""Upkeep of the store's files in the background; commits go on meanwhile, and many rows that come go first."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pylwaftr.daemon import pauses
from pylwaftr.store import Job, Store, StoreFault

log = logging.getLogger("pylwaftr")

_RETRY_S = 60.0  # upkeep that failed
_QUIET_S = 0.5  # without many rows: a load of which more comes would have sent it
_PATIENCE_S = 30.0  # then it is done beside the load
_OFTEN = 256  # small changes after which there may be something to do

OnDisk = Callable[[Callable[[], Any]], Awaitable[Any]]


class Tidying:
    def __init__(self, store: Store, on_disk: OnDisk) -> None:
        self._store, self._on_disk = store, on_disk
        self._background = ThreadPoolExecutor(1, "upkeep", initializer=pauses.give_way)
        self._wanted = asyncio.Event()
        self._turn = asyncio.Lock()  # one job at a time: another could take away what it reads
        self._task: asyncio.Task[None] | None = None
        self._few = 0
        self._busy_at = float("-inf")

    def start(self) -> None:
        self.busy()  # with starting
        self._task = asyncio.create_task(self._run())
        self._wanted.set()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._background.shutdown()

    def busy(self) -> None:
        """Many rows are under way."""
        self._busy_at = time.monotonic()

    def wanted(self, rows: int) -> None:
        """So many rows were committed. To ask the store costs a turn of its thread, so it is not asked each time."""
        self._few += 1
        if rows >= _OFTEN or self._few >= _OFTEN:
            self._few = 0
            self._wanted.set()

    async def forget(self, before: float) -> None:
        async with self._turn:
            jobs = self._store.retention(before)
            while (job := await self._on_disk(lambda: next(jobs, None))) is not None:
                await self._work(job)

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._quiet()
                async with self._turn:
                    while (job := await self._on_disk(self._store.upkeep)) is not None:
                        await self._work(job)
            except StoreFault as fault:
                log.error("the state is not tidied: %s", fault)
            except Exception:
                log.exception("the state is not tidied")
            else:
                continue
            await asyncio.sleep(_RETRY_S)
            self._wanted.set()

    async def _quiet(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        while (now := time.monotonic()) < min(until, self._busy_at + _QUIET_S):
            await asyncio.sleep(min(until, self._busy_at + _QUIET_S) - now)

    async def _work(self, job: Job) -> None:
        await asyncio.get_running_loop().run_in_executor(self._background, job.run)
        for text in await self._on_disk(lambda: self._store.adopt(job)):
            log.error("damaged state: %s", text)
