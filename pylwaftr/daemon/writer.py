"""The one writer of bindings: operations in their order, applied, made durable in groups, then acknowledged.

An operation is applied when it comes, also while others are on their way to the disk; what was applied meanwhile is
the next group there. So a binding forwards before it is durable, one fsync serves as many operations as came during the
last one, and table and disk work side by side. If the disk refuses, everything that was applied and is not durable is
taken back, latest first: also what came behind the refused group, for it was judged by what that had done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from pylwaftr.applied import Applied
from pylwaftr.bindings import Bindings
from pylwaftr.changes import Chain, Change, Record
from pylwaftr.daemon import batching
from pylwaftr.daemon.tidying import Tidying
from pylwaftr.rows import Rows
from pylwaftr.store import Commit, Store, StoreFault
from pylwaftr.telemetry.histogram import Histogram

log = logging.getLogger("pylwaftr")

T = TypeVar("T")

_GROUP_ROWS = 1 << 15  # what is applied in one go takes no further operation behind this many rows
_GROUP = 1 << 11  # operations
_INLINE_ROWS = 512  # so many are applied without a thread: below half a millisecond
_AHEAD_ROWS = 1 << 18  # with so many applied that wait for the disk, or operations, the next wait too
_AHEAD = 1 << 12

_OWN_FAULT = "the control side has a fault: see the log of the router"

Act = Callable[[], tuple[list[Applied], Any]]  # what was done, in order, and the answer
Alike = tuple[str, int]  # operations that may be one: what is done ("put", "remove"), for which source
Observer = Callable[[Applied], None]
Committed = Callable[[int, float, tuple[Change, ...]], None]  # revision, time, changes


class Closed(StoreFault):
    """The router is stopping, or its writer has ended: to ask again is in vain."""


@dataclass(slots=True)
class _Operation:
    act: Act
    rows: int
    records: Sequence[Record]
    answer: asyncio.Future[Any]
    alike: Alike | None = None
    given: Rows | None = None
    chain: Chain | None = None
    revision: int = 0
    done: list[Applied] = field(default_factory=list)
    result: Any = None
    fault: BaseException | None = None
    observes: bool = False  # the answer is an observer, of all that comes behind it
    trial: bool = False  # of the store, which refuses: it is no commit that anybody misses
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class _Group:
    """What was applied in one go, and what has to be durable before it is answered."""

    operations: list[_Operation]
    commits: list[Commit]
    at: float  # when it was in the table

    @property
    def rows(self) -> int:
        return sum(operation.rows for operation in self.operations)


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
        self._ahead: list[_Group] = []  # in the table, and not on the way to the disk yet
        self._on_way: list[_Group] = []  # to the disk
        self._wake, self._to_disk, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._turn = asyncio.Lock()  # the table has one writer: who applies, or who takes back
        self._closed = False
        self._disk = ThreadPoolExecutor(1, "store")  # the store has one caller at a time
        self._tasks: list[asyncio.Task[None]] = []
        self._tidying = Tidying(store, self.on_disk)
        self._applied_revision = 0  # that the last of the groups ahead will have
        self.revision = 0
        self.faults = 0  # groups of commits that the store refused
        self.refusing = False  # the last one was
        self.failed = False  # by a fault of the program: nothing is taken any more
        self.observers: list[Observer] = []  # told of what is bound otherwise, once that is durable
        self.seconds: defaultdict[int, Histogram] = defaultdict(Histogram)  # source -> from asked to answered

    def start(self, revision: int) -> None:
        self.revision = self._applied_revision = revision
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._write())]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        self._tidying.start()

    async def stop(self) -> None:
        """What was asked for before is still done."""
        self._closed = True
        self._wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1])
            self._to_disk.set()
            await asyncio.wait(self._tasks[1:])
        await self._tidying.stop()
        await self.on_disk(self._store.close)
        self._disk.shutdown()

    def do(
        self,
        act: Act,
        rows: int,
        records: Sequence[Record] = (),
        alike: Alike | None = None,
        given: Rows | None = None,
        chain: Chain | None = None,
        observes: bool = False,
        trial: bool = False,
    ) -> Awaitable[Any]:
        """The act's answer and the revision it has led to. Raises StoreFault: nothing was done.

        It has its place among the others when this returns, awaited or not. Who asks may go away: what was begun is
        finished. `alike` and `given`: a small operation on these rows, which may be done in one go with others of its
        kind. `chain` is broken if it is taken back. `observes`: the act answers with an observer, which is told what
        becomes durable behind it, and nothing of what was applied before. `trial`: is not counted if it is refused.
        """
        if self.failed:
            raise Closed(_OWN_FAULT)
        if self._closed:
            raise Closed("the router is stopping: nothing was done")
        answer = asyncio.get_running_loop().create_future()
        operation = _Operation(act, rows, records, answer, alike, given, chain, observes=observes, trial=trial)
        if rows <= _INLINE_ROWS and self._idle:
            self._took([operation], self._tried([operation]))
        else:
            self._waiting.append(operation)
            self._wake.set()
        return operation.answer

    @property
    def _idle(self) -> bool:
        """Else operations gather meanwhile: many together cost less."""
        return not (self._waiting or self._turn.locked() or self._ahead or self._on_way)

    def on_disk(self, act: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._disk, act)

    async def forget(self, before: float) -> None:
        await self._tidying.forget(before)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Who waits is told, and so is who comes: nothing would serve them."""
        if task.cancelled() or (fault := task.exception()) is None:
            return
        log.critical("no binding can be changed any more, restart the router: %r", fault, exc_info=fault)
        self.failed = True
        _refuse(self._waiting, Closed(_OWN_FAULT))
        self._waiting.clear()
        if task is self._tasks[1]:  # else what is applied still becomes durable
            groups, self._on_way, self._ahead = [*self._on_way, *self._ahead], [], []
            _refuse([operation for group in groups for operation in group.operations], Closed(_OWN_FAULT))
            self._room.set()

    # --- to the table ---

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._has_room()
                async with self._turn:
                    await self._serve(self._next())
            if self._closed:
                return

    async def _has_room(self) -> None:
        while sum(group.rows for group in self._ahead) >= _AHEAD_ROWS or len(self._ahead) >= _AHEAD:
            self._room.clear()
            await self._room.wait()

    def _next(self) -> list[_Operation]:
        group: list[_Operation] = []
        rows = 0
        while self._waiting and rows < _GROUP_ROWS and len(group) < _GROUP:
            operation = self._waiting.popleft()
            if not operation.answer.cancelled():
                group.append(operation)
                rows += operation.rows
        return group

    async def _serve(self, operations: list[_Operation]) -> None:
        group = None
        try:
            if sum(operation.rows for operation in operations) <= _INLINE_ROWS:
                group = self._tried(operations)
            else:
                self._tidying.busy()
                group = await asyncio.to_thread(self._tried, operations)
        finally:
            self._took(operations, group)

    def _tried(self, operations: list[_Operation]) -> _Group | None:
        """None, and nothing done, if the program has a fault: the next ones are served all the same."""
        try:
            return self._applied(operations)
        except Exception:
            log.exception("a change of bindings has failed")
            self._take_back(operations)
            return None

    def _took(self, operations: list[_Operation], group: _Group | None) -> None:
        if group is None or self.failed:
            _refuse(operations, StoreFault(_OWN_FAULT))
            return
        self._applied_revision += len(group.commits)
        self._ahead.append(group)
        self._to_disk.set()

    def _applied(self, group: list[_Operation]) -> _Group:
        for run in _runs(group):
            if len(run) == 1 or not batching.together(self._bindings, run):
                for operation in run:
                    self._apply(operation)
        at = self._clock()
        commits: list[Commit] = []
        for operation in group:
            if operation.fault is None and (operation.done or operation.records):
                changes = tuple(change for applied in operation.done for change in applied.changes())
                commits.append(Commit(changes, tuple(operation.records)))
            operation.revision = self._applied_revision + len(commits)
        return _Group(group, commits, at)

    def _apply(self, operation: _Operation) -> None:
        try:
            done, operation.result = operation.act()
            operation.done = [applied for applied in done if not applied.empty]
        except Exception as fault:  # of the program too: whoever asked is told, the others go on
            operation.fault = fault
            if operation.chain is not None:
                operation.chain.broken = True

    def _take_back(self, operations: Sequence[_Operation]) -> None:
        for operation in reversed(operations):
            for applied in reversed(operation.done):
                try:
                    self._bindings.undo(applied)
                except Exception:  # the others are taken back all the same
                    log.exception("a change of bindings is not kept, and could not be taken back: restart the router")

    # --- to the disk ---

    async def _write(self) -> None:
        while True:
            await self._to_disk.wait()
            self._to_disk.clear()
            while self._ahead:
                groups, self._ahead = self._ahead, []
                self._room.set()
                self._on_way = groups
                commits = [commit for group in groups for commit in group.commits]
                try:
                    if commits:
                        self.revision = await self.on_disk(partial(self._store.commit, commits, groups[-1].at))
                except StoreFault as fault:
                    await self._give_up(groups, fault)
                except Exception:
                    log.exception("a change of bindings has failed")
                    await self._give_up(groups, StoreFault(_OWN_FAULT))
                else:
                    if self.refusing and commits:
                        log.warning("changes of bindings are kept again")
                        self.refusing = False
                    self._tell(groups, commits)
                    self._on_way = []
            if self._closed and self._tasks[0].done():
                return

    def _tell(self, groups: list[_Group], commits: list[Commit]) -> None:
        """They are durable."""
        for revision, commit in enumerate(commits, self.revision - len(commits) + 1):
            self._committed(revision, groups[-1].at, commit.changes)
        for group in groups:
            for operation in group.operations:
                self._note(operation)
                if operation.observes and operation.fault is None:
                    self.observers.append(operation.result)
                _answer(operation)
        self._tidying.wanted(sum(group.rows for group in groups))

    async def _give_up(self, groups: list[_Group], fault: StoreFault) -> None:
        """Nothing of it is in the store. What was applied behind it goes with it."""
        asked = (operation for group in groups for operation in group.operations)
        self.faults += any((one.done or one.records) and not one.trial for one in asked)
        if not self.refusing:
            log.error("no change of bindings is kept until that is mended: %s", fault)
            self.refusing = True
        async with self._turn:
            groups, self._ahead = [*groups, *self._ahead], []
            operations = [operation for group in groups for operation in group.operations]
            try:
                await asyncio.to_thread(self._take_back, operations)
            finally:
                self._applied_revision = self.revision
                self._on_way = []
                _refuse(operations, fault)
                self._room.set()

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


def _refuse(operations: Iterable[_Operation], fault: StoreFault) -> None:
    """Also who changed nothing: what he was told rested on what was taken back."""
    for operation in operations:
        if operation.chain is not None:
            operation.chain.broken = True
        if not operation.answer.done():
            operation.answer.set_exception(operation.fault or type(fault)(str(fault)))


def _answer(operation: _Operation) -> None:
    if operation.answer.done():
        return
    if operation.fault is not None:
        operation.answer.set_exception(operation.fault)
    else:
        operation.answer.set_result((operation.result, operation.revision))
