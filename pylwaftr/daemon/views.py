"""All bindings of one revision, in order: for lists in pages and the beginning of a watch.

The table has no order and does not stand still. So whoever lists gets a view: a copy in order of key, made from the
table once and from then on carried forward by the changes of later revisions. It is kept while it is used, so the pages
of one list are of one revision if they are asked for within `KEPT_S`; later a page goes on behind its last key in the
bindings of that moment.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from pylwaftr import row_sets
from pylwaftr.api.backend import Listed, ListFilter
from pylwaftr.changes import Change
from pylwaftr.row_sets import Ids, Mask, Sourced
from pylwaftr.store.history import inside
from pylwaftr.store.segments import OPS, Events
from pylwaftr.store.snapshot import Live

KEPT_S = 60.0
_KEPT = 2  # views; each has about 50 MB for a million bindings
_SCAN = 1 << 16  # rows that are looked at together
_SMALL = 1 << 17  # rows of changes that are carried into a view rather than reading the table again

Pending = Callable[[int], list[tuple[Change, ...]] | None]  # the changes behind a revision; None: no longer at hand
Dump = Callable[[], Awaitable[tuple[Sourced, int]]]  # all bindings in any order, and their revision


@dataclass(frozen=True, slots=True)
class View:
    revision: int
    rows: Sourced
    ids: Ids  # of the rows, ascending


class Views:
    def __init__(self, dump: Dump, pending: Pending) -> None:
        self._dump, self._pending = dump, pending
        self._views: OrderedDict[int, View] = OrderedDict()
        self._making = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

    async def at(self, revision: int) -> View:
        """Of this revision or a later one."""
        async with self._making:
            newest = next(reversed(self._views.values()), None)
            view = newest if newest is not None and newest.revision >= revision else await self._made(newest, revision)
            self._keep(view)
            return view

    def kept(self, revision: int) -> View | None:
        return self._views.get(revision)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._views.clear()

    async def _made(self, newest: View | None, revision: int) -> View:
        changes = None if newest is None else self._pending(newest.revision)
        if (
            newest is not None
            and changes is not None
            and sum(len(c.rows) for these in changes for c in these) <= _SMALL
        ):
            return await asyncio.to_thread(_carried, newest, changes)
        rows, revision = await self._dump()
        return await asyncio.to_thread(_ordered, rows, revision)

    def _keep(self, view: View) -> None:
        self._views[view.revision] = view
        self._views.move_to_end(view.revision)
        while len(self._views) > _KEPT:
            self._views.popitem(last=False)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(KEPT_S, self._views.clear)


def _ordered(rows: Sourced, revision: int) -> View:
    ids = rows.ids()
    rows = rows.in_order(ids)
    return View(revision, rows, ids if row_sets.ascending(ids) else np.sort(ids))


def _carried(view: View, changes: list[tuple[Change, ...]]) -> View:
    every = [change for these in changes for change in these]
    live = Live(bound=view.rows)
    live.apply(Events.join([Events.of(c.rows, 0, i, OPS.index(c.op), c.source) for i, c in enumerate(every)]))
    return View(view.revision + len(changes), live.bound, live.bound.ids())


# --- pages -----------------------------------------------------------------------------------------------------------


def token(revision: int, after: int) -> str:
    return f"{revision:x}-{after:x}"


def parsed(page: str) -> tuple[int, int]:
    """Revision, and the id behind which to go on. Raises ValueError."""
    if not (parts := re.fullmatch("([0-9a-f]{1,16})-([0-9a-f]{1,14})", page)):
        raise ValueError(f"{page!r} is no page token")
    return int(parts[1], 16), int(parts[2], 16)


def page_of(view: View, wanted: ListFilter, size: int, after: int | None) -> Listed:
    """The next rows that match; the filter's addresses are found by search, the rest by looking."""
    low, high = wanted.ipv4 or (0, 0xFFFFFFFF)
    begin = int(np.searchsorted(view.ids, np.uint64(low << 24)))
    end = int(np.searchsorted(view.ids, np.uint64((high + 1) << 24)))
    if after is not None:
        begin = max(begin, int(np.searchsorted(view.ids, np.uint64(after), "right")))
    found: list[Sourced] = []
    count = 0
    plain = wanted.b4 is None and wanted.source is None
    step = size + 1 if plain else max(_SCAN, size + 1)
    for start in range(begin, end, step):
        part = slice(start, min(start + step, end))
        rows = Sourced(view.rows.rows[part], view.rows.sources[part])
        found.append(rows if plain else rows.select(_matching(rows, wanted)))
        count += len(found[-1])
        if count > size:
            break
    every = Sourced.join(found)
    shown = Sourced(every.rows[:size].copy(), every.sources[:size].copy())
    last = Sourced(shown.rows[-1:], shown.sources[-1:])
    more = token(view.revision, int(last.ids()[0])) if len(every) > size else ""
    return Listed(shown.rows, shown.sources, view.revision, more)


def _matching(rows: Sourced, wanted: ListFilter) -> Mask:
    mask = np.ones(len(rows), np.bool_)
    if wanted.source is not None:
        mask &= rows.sources == wanted.source
    if wanted.b4 is not None:
        mask &= inside(rows.rows, wanted.b4)
    return mask
