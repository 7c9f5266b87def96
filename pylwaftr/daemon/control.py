"""The control side of a running router: every change of a binding goes through here, and every question about them.

An operation is applied to the table, written to the store, then acknowledged (writer.py). Reading never waits for that:
`get` and `lookup` ask the table, lists and watches a view (views.py), history the store. Work on many rows is done in
threads, in calls that leave the interpreter free, so the event loop goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Network
from itertools import islice
from typing import Any

import numpy as np

from pylwaftr import row_sets
from pylwaftr.api.backend import Busy, Event, Listed, ListFilter
from pylwaftr.applied import Applied
from pylwaftr.changes import Chain, Change, Keys, Op, Record, Report, Source, summed
from pylwaftr.daemon.batching import SMALL
from pylwaftr.daemon.replacing import Replacing, Trial, dated
from pylwaftr.daemon.restoring import ConfigRefused, Restored, restore
from pylwaftr.daemon.softwire_limit import LimitedBindings
from pylwaftr.daemon.views import View, Views, page_of, parsed, token
from pylwaftr.daemon.watching import Watching
from pylwaftr.daemon.writer import Writer
from pylwaftr.row_sets import Sourced
from pylwaftr.rows import BINDING_ROW, Rows
from pylwaftr.store import Life, Store, StoreFault
from pylwaftr.table import ALL, Table
from pylwaftr.telemetry.histogram import Reading

log = logging.getLogger("pylwaftr")

_FEW_ADDRESSES = 64  # are listed from the table itself
_DUMP = 1 << 17  # rows that the table gives at a time

_LIVES = 1 << 9  # that are read from the history at a time
_INLINE_PAGE = 1 << 11  # rows of a page that are copied without a thread

Expected = Sequence[str | None]
Begun = Coroutine[Any, Any, Report]  # has its place among the changes when it is made; to be awaited
Done = list[Applied]
Pending = list[tuple[Change, ...]] | None


class CommitRefused(StoreFault):
    """What an engine asked for cannot be; nothing was done."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__("; ".join(refusal.text for refusal in report.refused[:3]))


class Control:
    """Implements api.backend.Backend."""

    def __init__(self, table: Table, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._table, self._store, self._clock = table, store, clock
        self._bindings = LimitedBindings(table)
        self._writer = Writer(self._bindings, store, clock, self._committed)
        self._views = Views(self._dumped, self._pending)
        self._watching = Watching(store, lambda: self._views.at(self.revision))
        self._replacing: set[int] = set()
        self.records: Mapping[str, Mapping[bytes, bytes]] = {}  # as they were found at the start

    async def start(self, config: Rows) -> Restored:
        """Binds what was bound before. Raises StoreFault and ConfigRefused."""
        state, restored, revision = await asyncio.to_thread(restore, self._bindings, self._store, config, self._clock)
        self.records = state.records
        for text in restored.set_aside:
            log.warning("damaged state: %s", text)
        for refusal in restored.dropped[:10]:
            log.warning("no longer bound after the restart: %s", refusal.text)
        if len(restored.dropped) > 10:
            log.warning("no longer bound after the restart: %d more", len(restored.dropped) - 10)
        self._watching.start(revision)
        self._writer.start(revision)
        return restored

    def end_watches(self) -> None:
        self._watching.close()

    async def stop(self) -> None:
        """What was asked for is still done; watches end."""
        self.end_watches()
        await self._writer.stop()
        self._views.close()

    @property
    def revision(self) -> int:
        return self._writer.revision

    def observe(self, told: Callable[[Applied], None]) -> None:
        """From now on `told` hears what is bound otherwise, in order, once it is durable. It may not wait."""
        self._writer.observers.append(told)

    async def observe_all(self, begin: Callable[[Sourced], Callable[[Applied], None]]) -> None:
        """`begin` is given all that is bound, in a thread, and answers with who is told, exactly from there on: not of
        what was applied before and is durable only later. Raises StoreFault: nobody is told."""

        def act() -> tuple[Done, Callable[[Applied], None]]:
            rows, sources, _ = self._table.dump_chunk(0, ALL)
            return [], begin(Sourced(rows, sources))

        await self._writer.do(act, self._table.size, observes=True)

    def update_seconds(self) -> Mapping[str, Reading]:
        """By source: from a change's arrival to its being durable and in the table."""
        return {Source(source).name.lower(): seconds.read() for source, seconds in self._writer.seconds.items()}

    @property
    def store_faults(self) -> int:
        """Commits that the store could not take."""
        return self._writer.faults

    @property
    def store_serves(self) -> bool:
        """The last commit was taken."""
        return not self._writer.refusing and not self._writer.failed

    async def try_store(self) -> None:
        """Whether it takes commits again: one that changes nothing."""
        with suppress(StoreFault):
            await self._writer.do(lambda: ([], None), 0, [Record("store", b"tried", None)], trial=True)

    @property
    def failed(self) -> bool:
        """By a fault of the program: no binding can be changed any more."""
        return self._writer.failed

    # --- changes ---

    def bind(
        self,
        rows: Rows,
        source: int,
        *,
        validate_only: bool = False,
        expected: Expected = (),
        chain: Chain | None = None,
    ) -> Begun:
        def act() -> tuple[Done, Report]:
            if chain is not None and chain.broken:
                return [], Report()
            done = self._bindings.put(rows, source, expected=expected, validate_only=validate_only)
            if chain is not None and not done.report.ok:
                chain.broken = True
            return [done], done.report

        plain = len(rows) <= SMALL and chain is None and not expected and not validate_only
        alike = ("put", source) if plain else None
        return _reported(self._writer.do(act, len(rows), alike=alike, given=rows, chain=chain))

    def unbind(self, keys: Keys, source: int, *, validate_only: bool = False, expected: Expected = ()) -> Begun:
        """An operator also removes what DHCP or PCP have bound at the key."""

        def act() -> tuple[Done, Report]:
            over = source == Source.OPERATOR
            done = self._bindings.remove(keys, source, expected=expected, over=over, validate_only=validate_only)
            return [done], done.report

        plain = len(keys[0]) <= SMALL and not validate_only and not expected
        alike = ("remove", source) if plain else None
        return _reported(self._writer.do(act, len(keys[0]), alike=alike, given=_named(keys) if plain else None))

    def commit(self, changes: Sequence[Change], records: Sequence[Record], source: int) -> Begun:
        """An engine's bindings and what it has to remember about them, together. Raises CommitRefused, StoreFault.

        A binding that a higher source has is not refused: it waits, and is counted in `outranked`.
        """

        def act() -> tuple[Done, Report]:
            done: Done = []
            for change in changes:
                if change.op is Op.BIND:
                    done.append(self._bindings.put(change.rows, source))
                else:
                    done.append(self._bindings.remove((change.rows["ipv4"].copy(), change.rows["psid"].copy()), source))
                if not done[-1].report.ok:
                    for applied in reversed(done[:-1]):
                        self._bindings.undo(applied)
                    raise CommitRefused(done[-1].report)
            return done, summed([applied.report for applied in done])

        return _reported(self._writer.do(act, sum(len(change.rows) for change in changes), records))

    async def reload(self, config: Rows) -> Report:
        """The configuration's bindings are these from now on. Raises ConfigRefused."""

        def act() -> tuple[Done, Report]:
            rows, sources, _ = self._table.dump_chunk(0, ALL)
            mine = row_sets.select(rows, sources == Source.CONFIG)
            kept = row_sets.distinct(row_sets.keys(row_sets.canonical(config)))
            gone = row_sets.select(mine, ~row_sets.found(row_sets.keys(mine), kept)[0])
            removed = self._bindings.remove((gone["ipv4"].copy(), gone["psid"].copy()), Source.CONFIG)
            put = self._bindings.put(config, Source.CONFIG, replacing=True)  # room was made first
            if not put.report.ok:
                self._bindings.undo(removed)
                return [], put.report
            return [removed, put], summed([removed.report, put.report])

        report = dated(*await self._writer.do(act, max(len(config), self._table.size)))
        if not report.ok:
            raise ConfigRefused(report.refused)
        return report

    async def limit_operator(self, mask: int, most: int | None) -> None:
        """Softwires of a subscriber beyond which an operator's binding is refused; None: none. What is bound stays."""

        def act() -> tuple[Done, None]:
            self._bindings.limit_operator(mask, most)
            return [], None

        await self._writer.do(act, self._table.size)

    async def turn(self) -> None:
        """What was asked for before is done, or refused, when it returns."""
        with suppress(StoreFault):
            await self._writer.do(lambda: ([], None), 0)

    async def replace_all(self, source: int) -> Replacing:
        """Raises Busy."""
        if source in self._replacing:
            raise Busy(f"another replacement of all bindings of {Source(source).label} is under way: wait for its end")
        self._replacing.add(source)

        def begin() -> tuple[Done, None]:
            self._bindings.begin(source)
            return [], None

        try:
            touched = self._table.size if self._bindings.counts_anew(None, replacing=True) else 0
            await self._writer.do(begin, touched)
        except BaseException:
            self._replacing.discard(source)
            raise
        return Replacing(self._writer.do, self._bindings, source, lambda: self._replacing.discard(source))

    def rehearse(self, source: int, *, replacing: bool) -> Trial:
        return Trial(self._writer.do, self._bindings, source, replacing)

    async def forget(self, before: float) -> None:
        """Retention: lives that ended before that time leave the history."""
        await self._writer.forget(before)

    # --- questions ---

    def everything(self) -> Sourced:
        """All that is wanted, bound or waiting. Of many it takes a while: to be called in a thread."""
        return self._bindings.everything()

    def get(self, ipv4: int, psid: int) -> tuple[Rows, int] | None:
        return self._bindings.get(ipv4, psid)

    def wanted_by(self, source: int, ipv4: int, psid: int) -> tuple[Rows, bool] | None:
        return self._bindings.wanted_by(source, ipv4, psid)

    def lookup(self, ipv4: int, port: int | None) -> tuple[Rows, int] | None:
        use, offset, length = self._table.classify(ipv4)
        if not use or (length and (port is None or (offset and not port >> (16 - offset)))):
            return None
        psid = 0 if port is None else port >> (16 - offset - length) & ((1 << length) - 1)
        return self.get(ipv4, psid)

    async def list(self, wanted: ListFilter, page_size: int, page: str) -> Listed:
        """In order of address and PSID. The pages of a list are of one revision if they are asked for within a minute;
        later they go on behind the last key in the bindings of that moment. Raises ValueError for a bad page token."""
        of, after = (0, None) if not page else parsed(page)
        if wanted.shadowed:
            return await asyncio.to_thread(self._shadowed, wanted, page_size, after)
        view = self._views.kept(of) if page else None
        if view is None and wanted.ipv4 is not None and wanted.ipv4[1] - wanted.ipv4[0] < _FEW_ADDRESSES:
            view = await asyncio.to_thread(self._of_addresses, *wanted.ipv4)
        elif view is None:
            view = await self._views.at(self.revision)
        if wanted.b4 is None and wanted.source is None and page_size <= _INLINE_PAGE:
            return page_of(view, wanted, page_size, after)
        return await asyncio.to_thread(page_of, view, wanted, page_size, after)

    def watch(self, after: int | None) -> AsyncIterator[Event]:
        return self._watching.watch(after)

    def who_held(
        self, ipv4: IPv4Address, port: int | None, began: float, ended: float
    ) -> AsyncGenerator[Sequence[Life], None]:
        return self._asked(lambda: self._store.who_held(ipv4, port, began, ended))

    def lives_of(self, prefix: IPv6Network, began: float, ended: float) -> AsyncGenerator[Sequence[Life], None]:
        return self._asked(lambda: self._store.lives_of(prefix, began, ended))

    # --- inside ---

    async def _asked(self, question: Callable[[], Iterator[Life]]) -> AsyncGenerator[Sequence[Life], None]:
        try:
            found = question()
            while part := await asyncio.to_thread(lambda: list(islice(found, _LIVES))):
                yield part
        except StoreFault as fault:  # who asks is told, and so is who can mend it
            log.error("history: %s", fault)
            raise

    def _committed(self, revision: int, at: float, changes: tuple[Change, ...]) -> None:
        self._watching.committed(revision, at, changes)

    def _pending(self, revision: int) -> Pending:
        return self._watching.behind(revision)

    async def _dumped(self) -> tuple[Sourced, int]:
        """Between two groups of operations, so of one revision."""

        def act() -> tuple[Done, Sourced]:
            parts, start = [], 0
            while True:
                rows, sources, start = self._table.dump_chunk(start, _DUMP)
                parts.append(Sourced(rows, sources))
                if not start:
                    return [], Sourced.join(parts)

        found: tuple[Sourced, int] = await self._writer.do(act, self._table.size)
        return found

    def _of_addresses(self, low: int, high: int) -> View:
        rows = self._bindings.bound_on(np.arange(low, high + 1, dtype=np.uint64))
        return View(self.revision, rows, rows.ids())

    def _shadowed(self, wanted: ListFilter, size: int, after: int | None) -> Listed:
        rows = self._bindings.shadowed()
        listed = page_of(View(self.revision, rows, rows.ids()), wanted, size, after)
        return replace(listed, next=listed.next and token(0, parsed(listed.next)[1]))


def _named(keys: Keys) -> Rows:
    rows = np.zeros(len(keys[0]), BINDING_ROW)
    rows["ipv4"], rows["psid"], rows["psid_len"] = *keys, 16  # a key alone: nothing else of it is looked at
    return rows


async def _reported(answer: Awaitable[tuple[Report, int]]) -> Report:
    return dated(*await answer)
