"""The one writer of bindings: operations in their order, applied, made durable in groups, then acknowledged.

While a group is on its way to the disk, what comes meanwhile waits and is the next group: so one fsync serves as many
operations as came during the last one. If the disk refuses, the whole group is taken back, latest first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pylwaftr.bindings import Applied, Bindings
from pylwaftr.changes import Change, Record
from pylwaftr.daemon import batching
from pylwaftr.rows import Rows
from pylwaftr.store import Commit, Job, Store, StoreFault
from pylwaftr.telemetry.histogram import Histogram

log = logging.getLogger("pylwaftr")

T = TypeVar("T")

_GROUP_ROWS = 1 << 18  # a group takes no further operation behind this many rows
_GROUP = 1 << 11  # operations
_INLINE_ROWS = 512  # so many are applied without a thread: below half a millisecond
_RETRY_S = 60.0  # upkeep that failed

Act = Callable[[], tuple[list[Applied], Any]]  # what was done, in order, and the answer
Alike = tuple[str, int]  # operations that may be one: what is done ("put", "remove"), for which source
Committed = Callable[[int, float, tuple[Change, ...]], None]  # revision, time, changes


class Closed(StoreFault):
    """The router is stopping."""


@dataclass(slots=True)
class _Operation:
    act: Act
    rows: int
    records: Sequence[Record]
    answer: asyncio.Future[Any]
    alike: Alike | None = None
    given: Rows | None = None
    revision: int = 0
    done: list[Applied] = field(default_factory=list)
    result: Any = None
    fault: BaseException | None = None
    began: float = field(default_factory=time.monotonic)


def _runs(group: list[_Operation]) -> Iterator[list[_Operation]]:
    """Neighbours that may be one; the others alone."""
    run: list[_Operation] = []
    for operation in group:
        if run and (operation.alike is None or operation.alike != run[0].alike):
            yield run
            run = []
        run.append(operation)
    if run:
        yield run


class Writer:
    def __init__(self, bindings: Bindings, store: Store, clock: Callable[[], float], committed: Committed) -> None:
        self._bindings, self._store, self._clock, self._committed = bindings, store, clock, committed
        self._waiting: deque[_Operation] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._disk = ThreadPoolExecutor(1, "store")  # the store has one caller at a time
        self._tasks: list[asyncio.Task[None]] = []
        self._upkeep_wanted = asyncio.Event()
        self._upkeep_turn = asyncio.Lock()  # one job at a time: another could take away what it reads
        self.revision = 0
        self.faults = 0  # commits that the store refused
        self.observers: list[Callable[[Applied], None]] = []  # told of what is bound otherwise, once that is durable
        self.seconds: defaultdict[int, Histogram] = defaultdict(Histogram)  # source -> from asked to answered

    def start(self, revision: int) -> None:
        self.revision = revision
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._keep_up())]
        self._upkeep_wanted.set()

    async def stop(self) -> None:
        """What was asked for before is still done."""
        self._closed = True
        self._wake.set()
        if self._tasks:
            await self._tasks[0]
            self._tasks[1].cancel()
            await asyncio.gather(self._tasks[1], return_exceptions=True)
        await self.on_disk(self._store.close)
        self._disk.shutdown()

    async def do(
        self,
        act: Act,
        rows: int,
        records: Sequence[Record] = (),
        alike: Alike | None = None,
        given: Rows | None = None,
    ) -> Any:
        """The act's answer and the revision it has led to. Raises StoreFault: nothing was done.

        Who asks may go away: what was begun is finished. `alike` and `given`: a small operation on these rows, which
        may be done in one go with others of its kind.
        """
        if self._closed:
            raise Closed("the router is stopping: nothing was done")
        operation = _Operation(act, rows, records, asyncio.get_running_loop().create_future(), alike, given)
        self._waiting.append(operation)
        self._wake.set()
        return await operation.answer

    def on_disk(self, act: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._disk, act)

    # --- groups ---

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while group := self._group():
                try:
                    await self._serve(group)
                except Exception:  # of the program: the next group is served all the same
                    log.exception("a change of bindings has failed")
                    self._refuse(group, StoreFault("the control side has a fault: see the log of the router"))
                self._upkeep_wanted.set()
            if self._closed:
                return

    def _group(self) -> list[_Operation]:
        group: list[_Operation] = []
        rows = 0
        while self._waiting and rows < _GROUP_ROWS and len(group) < _GROUP:
            operation = self._waiting.popleft()
            if not operation.answer.cancelled():
                group.append(operation)
                rows += operation.rows
        return group

    async def _serve(self, group: list[_Operation]) -> None:
        try:
            if sum(operation.rows for operation in group) <= _INLINE_ROWS:
                commits = self._applied(group)
            else:
                commits = await asyncio.to_thread(self._applied, group)
        except Exception:  # none of it is in the store
            await asyncio.to_thread(self._take_back, group)
            raise
        at = self._clock()
        if commits:
            try:
                self.revision = await self.on_disk(lambda: self._store.commit(commits, at))
            except Exception as fault:
                self.faults += 1
                await asyncio.to_thread(self._take_back, group)
                if not isinstance(fault, StoreFault):
                    raise
                self._refuse(group, fault)
                return
        for revision, commit in enumerate(commits, self.revision - len(commits) + 1):
            self._committed(revision, at, commit.changes)
        for operation in group:
            self._note(operation)
            self._answer(operation)

    def _note(self, operation: _Operation) -> None:
        for applied in operation.done:
            for observer in self.observers:
                try:
                    observer(applied)
                except Exception:  # what was done is durable, whatever becomes of them
                    log.exception("a part of the control side does not know what is bound")
        if operation.done:
            first = operation.done[0]
            some = first.come if len(first.come) else first.gone
            if len(some):
                self.seconds[int(some.sources[0])].add(time.monotonic() - operation.began)

    def _applied(self, group: list[_Operation]) -> list[Commit]:
        """Applies them; what has to be durable before they are answered."""
        for run in _runs(group):
            if len(run) == 1 or not batching.together(self._bindings, run):
                for operation in run:
                    self._apply(operation)
        commits: list[Commit] = []
        for operation in group:
            if operation.fault is None and (operation.done or operation.records):
                changes = tuple(change for applied in operation.done for change in applied.changes())
                commits.append(Commit(changes, tuple(operation.records)))
            operation.revision = self.revision + len(commits)
        return commits

    def _apply(self, operation: _Operation) -> None:
        try:
            done, operation.result = operation.act()
            operation.done = [applied for applied in done if not applied.empty]
        except Exception as fault:  # of the program too: whoever asked is told, the others go on
            operation.fault = fault

    def _take_back(self, group: list[_Operation]) -> None:
        for operation in reversed(group):
            for applied in reversed(operation.done):
                self._bindings.undo(applied)

    def _refuse(self, group: list[_Operation], fault: StoreFault) -> None:
        """Also to who changed nothing: what he was told rested on what was taken back."""
        for operation in group:
            if not operation.answer.done():
                operation.answer.set_exception(operation.fault or type(fault)(str(fault)))

    def _answer(self, operation: _Operation) -> None:
        if operation.answer.done():
            return
        if operation.fault is not None:
            operation.answer.set_exception(operation.fault)
        else:
            operation.answer.set_result((operation.result, operation.revision))

    # --- upkeep ---

    async def _keep_up(self) -> None:
        """Folds and merges files in the background; commits go on meanwhile."""
        while True:
            await self._upkeep_wanted.wait()
            self._upkeep_wanted.clear()
            try:
                async with self._upkeep_turn:
                    while (job := await self.on_disk(self._store.upkeep)) is not None:
                        await self._work(job)
            except StoreFault as fault:
                log.error("the state is not tidied: %s", fault)
            except Exception:
                log.exception("the state is not tidied")
            else:
                continue
            await asyncio.sleep(_RETRY_S)
            self._upkeep_wanted.set()

    async def forget(self, before: float) -> None:
        async with self._upkeep_turn:
            jobs = self._store.retention(before)
            while (job := await self.on_disk(lambda: next(jobs, None))) is not None:
                await self._work(job)

    async def _work(self, job: Job) -> None:
        await asyncio.to_thread(job.run)
        await self.on_disk(lambda: self._store.adopt(job))
