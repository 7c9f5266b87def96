"""Streams of batches that come to one whole: all bindings of a source anew, and the trial of a stream.

A replacement binds what comes at once, and marked; at its end what bears no mark is swept. So what stays is never
interrupted. If there is no room for the new beside the old, it is held, and all that comes behind it, so that the order
is that of the stream. At the end what is held and known is marked, then the rest is swept, then what is held and new is
bound: one operation, in which the table is never fuller than before or after.

A trial binds nothing. Each batch is judged as it comes, and at the end whether there is room for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pylwaftr import row_sets
from pylwaftr.applied import Applied
from pylwaftr.bindings import Bindings
from pylwaftr.changes import Chain, Refusal, Report, summed
from pylwaftr.daemon.softwire_limit import LimitedBindings
from pylwaftr.precedence import division_of, winners
from pylwaftr.refusals import MOST, refusal, refused
from pylwaftr.row_sets import Ids, Index, Mask, Sourced
from pylwaftr.rows import Rows, no_rows

_PARAMS = np.uint64(16)  # bits behind an address: (k, a), 0 = the whole of it

Done = list[Applied]
Do = Callable[..., Awaitable[tuple[Report, int]]]  # that of the writer


class _Ids:
    """A set that grows, of ids of a stream."""

    def __init__(self) -> None:
        self.parts: list[Ids] = []  # sorted, each more than twice as long as the next

    def add(self, part: Ids) -> None:
        """Sorted, each once."""
        while self.parts and len(self.parts[-1]) <= 2 * len(part):
            part = row_sets.distinct(np.concatenate([self.parts.pop(), part]))
        if len(part):
            self.parts.append(part)


@dataclass(slots=True)
class Gathered:
    """Rows of a stream with their numbers in it. Of a key the last row counts."""

    most: int  # keys that can be bound; so what is here is bounded too
    parts: list[tuple[Rows, Index]] = field(default_factory=list)
    count: int = 0
    too_many: bool = False

    def add(self, rows: Rows, first: int) -> tuple[Refusal, ...]:
        if len(rows) and not self.too_many:
            self.parts.append((row_sets.canonical(rows), np.arange(first, first + len(rows))))
            self.count += len(rows)
            if self.count > 2 * self.most:  # keys that come again take no room
                self.too_many = len(self.all()[0]) > self.most
        if not len(rows) or not self.too_many:
            return ()
        self.parts, self.count = [], 0
        return (refusal(rows[-1], len(rows) - 1, "table_full"),)

    def alike(self, rows: Rows) -> Mask:
        """Which are here, and the last of their key."""
        names, alike = row_sets.keys(rows), np.zeros(len(rows), np.bool_)
        for part, _ in self.parts:
            here = row_sets.keys(part)
            by_name = np.argsort(here)
            found, at = row_sets.found(names, here[by_name])
            alike[found] = row_sets.same(rows[found], row_sets.take(part, by_name[at[found]]))
        return alike

    def all(self) -> tuple[Rows, Index]:
        rows = np.concatenate([rows for rows, _ in self.parts]) if self.parts else no_rows()
        numbers = np.concatenate([numbers for _, numbers in self.parts]) if self.parts else np.zeros(0, np.intp)
        names = row_sets.keys(rows)
        by_name = np.argsort(names, kind="stable")[::-1]
        last = np.sort(by_name[row_sets.firsts(names[by_name])])
        rows, numbers = row_sets.take(rows, last), numbers[last]
        self.parts, self.count = [(rows, numbers)], len(rows)
        return rows, numbers


class Divisions:
    """How the rows of a stream divide their addresses: beside those of one message, those of another do not overlap."""

    def __init__(self) -> None:
        self._ids = _Ids()  # address, then (k, a)

    def judge(self, rows: Rows) -> Report:
        rows = row_sets.canonical(rows)
        mine = rows["ipv4"].astype(np.uint64) << _PARAMS | row_sets.params(rows)
        ids = row_sets.distinct(mine)
        others: dict[int, int] = {}  # what divides its address otherwise -> as another message has it
        for part in self._ids.parts:
            at = np.searchsorted(part, ids >> _PARAMS << _PARAMS)
            at[at == len(part)] = 0
            bad = (part[at] >> _PARAMS == ids >> _PARAMS) & (part[at] != ids)
            others |= dict(zip(ids[bad].tolist(), part[at[bad]].tolist(), strict=True))
        if not others:
            self._ids.add(ids)
            return Report()
        found = []
        bad = np.flatnonzero(np.isin(mine, np.array(list(others), np.uint64)))
        for i in bad[:MOST].tolist():
            whole = not (int(mine[i]) & 0xFFFF and others[int(mine[i])] & 0xFFFF)
            found.append(refusal(rows[i], i, "overlap" if whole else "other_params_on_address"))
        return Report(refused=tuple(found), more_refused=len(bad) - len(found))


class Replacing:
    """Implements api.backend.Replacement."""

    def __init__(self, do: Do, bindings: LimitedBindings, source: int, over: Callable[[], None]) -> None:
        self._do, self._bindings, self._source, self._over = do, bindings, source, over
        self._chain = Chain()
        self._held, self._divisions = Gathered(bindings.table.capacity), Divisions()
        self._came = 0
        self._ended = False

    async def feed(self, rows: Rows) -> Report:
        def act() -> tuple[Done, Report]:
            first, self._came = self._came, self._came + len(rows)
            if self._chain.broken:
                return [], Report()
            done, report = self._fed(rows, first)
            self._chain.broken = not report.ok
            return done, report

        return dated(*await self._do(act, len(rows), given=rows, chain=self._chain))

    def _fed(self, rows: Rows, first: int) -> tuple[Done, Report]:
        if not (divided := self._divisions.judge(rows)).ok:
            return [], divided
        if not self._held.count:
            done = self._bindings.put(rows, self._source, replacing=True)
            if done.report.ok or any(one.reason != "table_full" for one in done.report.refused):
                return [done], done.report
        if not (judged := self._bindings.part_of_all(rows, self._source).report).ok:
            return [], judged
        if full := self._held.add(rows, first):
            return [], Report(refused=full)
        return [], Report(held=len(rows))

    async def finish(self) -> Report:
        try:
            return dated(*await self._do(self._finished, self._bindings.table.size + self._held.count))
        finally:
            await self.abandon()

    def _finished(self) -> tuple[Done, Report]:
        if not self._held.count:
            done = [self._bindings.sweep(self._source)]
            return done, done[0].report
        rows, numbers = self._held.all()
        known = self._bindings.of(self._source, rows)
        done = []
        for mask in (known, None, ~known):
            if mask is None:
                done.append(self._bindings.sweep(self._source))
                continue
            done.append(self._bindings.put(row_sets.select(rows, mask), self._source, replacing=True))
            if not done[-1].report.ok:
                for applied in reversed(done[:-1]):
                    self._bindings.undo(applied)
                named = numbers[mask]
                return [], _numbered(done[-1].report, named)
        return done, summed([applied.report for applied in done])

    async def abandon(self) -> None:
        """What was fed and is bound stays, and so does what was not fed."""
        if not self._ended:
            self._ended = True
            self._over()


class Trial:
    """Implements api.backend.Replacement, and changes nothing."""

    def __init__(self, do: Do, bindings: LimitedBindings, source: int, replacing: bool) -> None:
        self._do, self._bindings, self._source, self._replacing = do, bindings, source, replacing
        self._chain = Chain()
        self._all, self._divisions = Gathered(bindings.table.capacity), Divisions()
        self._names = _Ids()  # keys
        self._came = self._new = 0

    async def feed(self, rows: Rows) -> Report:
        def act() -> tuple[Done, Report]:
            first, self._came = self._came, self._came + len(rows)
            how: dict[str, Any] = {"replacing": self._replacing, "validate_only": True, "chain": self._chain}
            report = self._bindings.put(rows, self._source, **how).report
            if report.ok and not (bad := self._divisions.judge(rows)).ok:
                report = bad
            elif report.ok:
                report = self._beside(rows, report)
                if full := self._all.add(rows, first):
                    report = Report(refused=full)
            self._new += report.added
            return [], report

        anew = self._bindings.counts_anew(self._chain, self._replacing)
        return dated(*await self._do(act, self._bindings.table.size if anew else len(rows)))

    def _beside(self, rows: Rows, report: Report) -> Report:
        """What it comes to, with the rows of the stream that came before bound."""
        if self._all.too_many:
            return report
        rows = row_sets.canonical(rows)
        names = row_sets.distinct(row_sets.keys(rows))
        known = np.zeros(len(names), np.bool_)
        for part in self._names.parts:
            known |= row_sets.found(names, part)[0]
        self._names.add(names[~known])
        if not known.any():
            return report
        there = row_sets.found(row_sets.keys(rows), names[known])[0]
        same = there & self._all.alike(rows)
        fresh, again, anew = (self._counted(rows, mask) for mask in (~there, same, there & ~same))
        unchanged = fresh.unchanged + int(same.sum()) - again.outranked
        replaced = fresh.replaced + int((there & ~same).sum()) - anew.outranked
        return replace(report, added=fresh.added, replaced=replaced, unchanged=unchanged)

    def _counted(self, rows: Rows, mask: Mask) -> Report:
        """Some of the rows by themselves; their softwires are counted already."""
        part = row_sets.select(rows, mask)
        return Bindings.put(self._bindings, part, self._source, replacing=self._replacing, validate_only=True).report

    async def finish(self) -> Report:
        return dated(*await self._do(self._judged, self._bindings.table.size + self._all.count))

    def _judged(self) -> tuple[Done, Report]:
        """What would go, and whether there is room."""
        table = self._bindings.table
        if self._all.too_many or (not self._replacing and table.size + self._new <= table.capacity):
            return [], Report()
        rows, numbers = self._all.all()
        new, now = Sourced.of(rows, self._source), self._bindings.everything()
        others = now.select(~row_sets.found(now.ids(), row_sets.distinct(new.ids()))[0])
        removed = 0
        if self._replacing:
            own = others.select(others.sources == self._source)
            others = others.select(others.sources != self._source)
            division = division_of(rows, own.rows)  # those that divide an address otherwise give way, and are not swept
            removed = int(((division == row_sets.params(own.rows)) | (division == 0xFFFF)).sum())
        won = winners(Sourced.join([others, new]))
        excess = int(won.sum()) - table.capacity
        if excess <= 0:
            return [], Report(removed=removed)
        beyond = np.flatnonzero(won[len(others) :])[-excess:]
        return [], _numbered(refused(rows, beyond.tolist(), "table_full"), numbers)

    async def abandon(self) -> None:
        """Nothing was begun."""


def _numbered(report: Report, numbers: Index) -> Report:
    """By the places in the stream."""
    return replace(report, refused=tuple(replace(one, index=int(numbers[one.index])) for one in report.refused))


def dated(report: Report, revision: int) -> Report:
    return replace(report, revision=revision)
