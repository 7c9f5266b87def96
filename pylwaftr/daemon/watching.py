"""What watchers are told: the latest changes, which all of them read, and behind these what the store still has.

Nothing is queued for a watcher. He knows the last revision he was told; if he is slow he falls behind the latest
changes and reads from the store, and behind that he is told to list again (Compacted).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import islice

from pylwaftr.api.backend import Event
from pylwaftr.changes import Change, Op
from pylwaftr.daemon.views import View
from pylwaftr.rows import Rows
from pylwaftr.store import Compacted, Store

_RECENT_ROWS = 1 << 18
_RECENT = 1 << 14  # commits
_PART = 1 << 14  # rows of an event of a snapshot
_AT_ONCE = 256  # changes that are read from the store in one go

_SHOWN = (Op.BIND, Op.UNBIND)


class Watching:
    def __init__(self, store: Store, view: Callable[[], Awaitable[View]]) -> None:
        self._store, self._view = store, view
        self._recent: deque[tuple[int, float, tuple[Change, ...]]] = deque()
        self._rows = 0
        self._floor = 0  # what is behind this revision is recent
        self._revision = 0
        self._news = asyncio.Event()
        self._closed = False

    def start(self, revision: int) -> None:
        self._floor = self._revision = revision

    def close(self) -> None:
        """Watches end."""
        self._closed = True
        self._news.set()

    def committed(self, revision: int, at: float, changes: tuple[Change, ...]) -> None:
        self._recent.append((revision, at, changes))
        self._revision = revision
        self._rows += _size(changes)
        # One commit may be larger than the limit: whoever is up to date reads it from here all the same.
        while len(self._recent) > 1 and (self._rows > _RECENT_ROWS or len(self._recent) > _RECENT):
            self._floor, _, gone = self._recent.popleft()
            self._rows -= _size(gone)
        self._news.set()
        self._news = asyncio.Event()

    def behind(self, revision: int) -> list[tuple[Change, ...]] | None:
        """The changes of the revisions behind this one, if they are recent."""
        if revision < self._floor:
            return None
        return [changes for _, _, changes in self._after(revision)]

    async def watch(self, after: int | None) -> AsyncIterator[Event]:
        if after is None:
            view, now = await self._view(), time.time()
            for event in _snapshot(view, now):
                yield event
                await asyncio.sleep(0)
            yield Event(view.revision, now, None, marker=True)
            after = view.revision
        elif after > self._revision:
            raise Compacted(f"revision {after} has not been yet: it is of another state")
        while not self._closed:
            news = self._news
            if after < self._floor:
                until = self._revision
                async for event in self._from_store(after, until):
                    yield event
                after = until
                continue
            for revision, at, changes in list(self._after(after)):
                for change in changes:
                    if change.op in _SHOWN:
                        yield Event(revision, at, change)
                after = revision
            if after == self._revision:
                await news.wait()

    def _after(self, revision: int) -> Iterator[tuple[int, float, tuple[Change, ...]]]:
        if not self._recent:
            return iter(())
        return islice(self._recent, max(0, revision + 1 - self._recent[0][0]), None)

    async def _from_store(self, after: int, until: int) -> AsyncIterator[Event]:
        found = await asyncio.to_thread(self._store.changes, after)
        while part := await asyncio.to_thread(lambda: list(islice(found, _AT_ONCE))):
            for revision, at, change in part:
                if revision <= until and change.op in _SHOWN:
                    yield Event(revision, at, change)


def _size(changes: tuple[Change, ...]) -> int:
    return sum(len(change.rows) for change in changes)


def _snapshot(view: View, at: float) -> Iterator[Event]:
    for start in range(0, len(view.rows), _PART):
        rows: Rows = view.rows.rows[start : start + _PART]
        sources = view.rows.sources[start : start + _PART]
        for source in sorted(set(sources.tolist())):
            part = rows if (sources == source).all() else rows[sources == source]
            yield Event(view.revision, at, Change(Op.BIND, source, part))
