"""Who wants which bindings, and what the table therefore has: the one way in for every source.

The table holds what is bound. What a source wants and does not get, because a source of higher precedence wants the
same key or another division of the address, waits in the shadow and is bound when the way is free (precedence.py).

A batch is judged as a whole: with a refusal it does nothing. What it did can be taken back (`undo`), in the reverse
order of what was done, for the store may not be able to keep it. Mostly nobody else wants what a batch names: then it
goes to the table as it is. Only for the addresses where somebody does, all that is wanted of them is looked at again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pylwaftr import row_sets
from pylwaftr.applied import Applied, as_given
from pylwaftr.changes import THERE, Keys, Refusal, Report, Source, etag
from pylwaftr.precedence import Shadow, divided_otherwise, division_of, winners
from pylwaftr.refusals import MOST, refusal, refused
from pylwaftr.row_sets import UNBOUND, Ids, Mask, Sourced, firsts
from pylwaftr.rows import BINDING_ROW, PACKED, Rows
from pylwaftr.table import ALL, Table

_PARAMS = ("overlap", "other_params_on_address")
_SOFT = (*_PARAMS, "outranked", "table_full")  # not faults of the row: others may have to give way
_KEYS_AT_ONCE = 1 << 20
_BYTE = np.uint64(8)
_FEW = 4  # so many times as many rows come as there are

Expected = Sequence[str | None]  # per row an etag, "" = must not be there, THERE = must be there, None = any


class Bindings:
    """One writer at a time. `get` may be called beside it."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._shadow = Shadow()
        self._generations = np.ones(len(Source), np.uint32)

    # --- what there is ---

    def get(self, ipv4: int, psid: int) -> tuple[Rows, int] | None:
        rows, sources = self.table.holders(np.array([ipv4], np.uint32), np.array([psid], np.uint16))
        return None if sources[0] == UNBOUND else (rows, int(sources[0]))

    def wanted_by(self, source: int, ipv4: int, psid: int) -> tuple[Rows, bool] | None:
        """What the source wants at exactly this key, and whether that waits."""
        waiting = self._shadow.rows  # in order, and never changed itself: a writer may be at work
        name = row_sets.key_of(ipv4, psid) << 8 | source
        at = bisect_left(range(len(waiting)), name, key=waiting.id_at)
        if at < len(waiting) and waiting.id_at(at) == name:
            return waiting.rows[at : at + 1], True
        found = self.get(ipv4, psid)
        if found is None or found[1] != source or int(found[0]["psid"][0]) != psid:
            return None
        return found[0], False

    def of(self, source: int, rows: Rows) -> Mask:
        """Which keys the source has, bound or waiting."""
        before = self._holders(rows["ipv4"], rows["psid"])
        names = row_sets.keys(rows)
        bound: Mask = (before.sources == source) & (before.keys() == names)
        return bound | self._waiting(names, source)

    def everything(self) -> Sourced:
        """All that is wanted, bound or waiting. The shadow is read first: a row that is bound meanwhile is in the table
        before it leaves the shadow."""
        waiting = self._shadow.rows
        rows, sources, _ = self.table.dump_chunk(0, ALL)
        bound = Sourced(rows, sources)
        if not len(waiting):
            return bound
        both = row_sets.found(waiting.ids(), row_sets.distinct(bound.ids()))[0]
        return Sourced.join([bound, waiting.select(~both)])

    def shadowed(self) -> Sourced:
        """In order of key; stays as it is."""
        return self._shadow.rows

    def bound_on(self, addresses: Ids) -> Sourced:
        """All that is bound of these addresses."""
        classes = [self.table.classify(address) for address in addresses.tolist()]
        counts = np.array([1 << length if use else 0 for use, _, length in classes], np.int64)
        parts = []
        for part in row_sets.slices(counts, _KEYS_AT_ONCE):
            count = counts[part]
            ipv4 = np.repeat(addresses[part].astype(np.uint32), count)
            psid = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            rows, sources = self.table.holders(ipv4, psid.astype(np.uint16))
            parts.append(Sourced(rows, sources).select(sources != UNBOUND))
        return Sourced.join(parts)

    # --- changes ---

    def begin(self, source: int) -> None:
        """From here on what the source puts is marked; `sweep` removes what was not put again."""
        self._generations[source] += 1

    def put(
        self, rows: Rows, source: int, *, expected: Expected = (), replacing: bool = False, validate_only: bool = False
    ) -> Applied:
        """`replacing`: of a replace-all, so the source's own rows that divide an address otherwise give way; a part of
        one is validated without asking for room, for what goes is not known."""
        if len(rows) == 1 and not validate_only and (done := self._put_one(rows, source, expected)) is not None:
            return done
        rows = row_sets.canonical(rows)
        before = self._holders(rows["ipv4"], rows["psid"])
        if refused := self._unexpected(rows, before, source, expected):
            return Applied(Report(refused=refused))
        foreign = (before.sources != UNBOUND) & (before.sources != source)
        if not foreign.any() and not self._shadow.beside(rows["ipv4"]).any():
            report = self.table.bind(rows, source, self._generation(source), validate_only=validate_only)
            if not report["refused"]:
                return as_given(rows, source, before, report, validate_only)
        if hard := self._faults(rows, source, replacing):
            told = tuple(refusal(rows[i], i, why) for i, why in sorted(hard.items())[:MOST])
            return Applied(Report(refused=told, more_refused=len(hard) - len(told)))
        return self._put_among_others(Sourced.of(rows, source), source, replacing, validate_only)

    def part_of_all(self, rows: Rows, source: int) -> Applied:
        """What a part of a replace-all would come to, if there is room; nothing is done."""
        return Bindings.put(self, rows, source, replacing=True, validate_only=True)

    def _put_one(self, rows: Rows, source: int, expected: Expected) -> Applied | None:
        """What `put` does with one row, if nothing waits and nobody objects; None: nothing was done. Beside a busy
        worker each step on an array takes 10 us, however short the array is, and `put` takes thirty."""
        octets = rows.tobytes()
        ipv4, psid, length, offset, _, _ = PACKED.unpack(octets)
        if len(self._shadow) or (length == 0 and (psid or offset)):
            return None
        holder, there = self.table.holder(ipv4, psid)
        if holder not in (UNBOUND, source):
            return None
        if (tag := expected[0] if expected else None) is not None:
            same_key = holder != UNBOUND and octets[4:6] == there[4:6]
            if tag != (etag(there, holder) if same_key else "") and not (tag == THERE and same_key):
                return None
        done = self.table.bind_one(octets, source, self._generation(source))
        if done is None:
            return None
        added, replaced, unchanged = (int(done == word) for word in ("added", "replaced", "unchanged"))
        counts = Report(added=added, replaced=replaced, unchanged=unchanged)
        if counts.unchanged:
            return Applied(counts)
        come = Sourced.of(rows, source)
        if holder == UNBOUND:
            return Applied(counts, come=come)
        return Applied(counts, gone=Sourced.of(np.frombuffer(there, BINDING_ROW), holder), come=come)

    def remove(
        self, keys: Keys, source: int, *, expected: Expected = (), over: bool = False, validate_only: bool = False
    ) -> Applied:
        """What the source does not have is not counted. `over`: also what lower sources have, and what only a higher
        one has is refused; one PSID then does not stand for a whole address."""
        before = self._holders(*keys)
        names = row_sets.joined_keys(*keys)
        bound = before.sources != UNBOUND
        if over:
            bound &= before.keys() == names
        # Else the PSID of a whole address is ignored, unless the source has a row of just this key that waits.
        names = np.where(bound & ~self._waiting(names, source), before.keys(), names)
        waiting = self._waiting(names, source)
        named = before.rows.copy()
        named["ipv4"], named["psid"] = row_sets.split_keys(names)
        refused = self._unexpected(named, before, source, expected)
        if over:
            barred = np.flatnonzero(bound & (before.sources < source) & ~waiting)
            refused += tuple(refusal(named[i], i, "outranked") for i in barred.tolist())
        if refused:
            return Applied(Report(refused=refused))
        mine = bound & ((before.sources == source) | (before.sources > source) & ~waiting & np.bool_(over))
        victims = before.select(mine)
        victims = victims.in_order(victims.ids())
        victims = victims.select(firsts(victims.ids()))
        shadows = self._shadow.rows.select(self._shadow.among(names[waiting] << _BYTE | np.uint64(source)))
        if validate_only:
            return Applied(Report(removed=len(victims) + len(shadows)))
        self._unbind(victims)
        return self._removed(victims, shadows)

    def sweep(self, source: int) -> Applied:
        """Removes what the source has not put since `begin`."""
        swept = Sourced.of(self.table.sweep(source, self._generation(source)), source)
        stale = (self._shadow.rows.sources == source) & (self._shadow.marks != self._generations[source])
        return self._removed(swept, self._shadow.rows.select(stale))

    def undo(self, applied: Applied) -> None:
        """The latest that was not undone yet."""
        if not applied.empty:
            self._restore(applied)
            self._shadow.change(applied.waits, applied.left, self._generations)

    # --- judging ---

    def _holders(self, ipv4: npt.NDArray[np.uint32], psid: npt.NDArray[np.uint16]) -> Sourced:
        if self.table.size > len(ipv4) // _FEW:
            return Sourced(*self.table.holders(ipv4, psid))
        # A first load: nearly all of its addresses are new, and to ask for those takes half as long as to bind them.
        found = Sourced(np.zeros(len(ipv4), BINDING_ROW), np.full(len(ipv4), UNBOUND, np.uint8))
        bound, _, _ = self.table.dump_chunk(0, ALL)
        addresses = row_sets.distinct(bound["ipv4"].astype(np.uint64))
        near = np.flatnonzero(row_sets.among_few(ipv4.astype(np.uint64), addresses))
        found.rows[near], found.sources[near] = self.table.holders(ipv4[near], psid[near])
        return found

    def _generation(self, source: int) -> int:
        return int(self._generations[source])

    def _unexpected(self, rows: Rows, before: Sourced, source: int, expected: Expected) -> tuple[Refusal, ...]:
        """A source's own row counts, even if it waits; else the one that is bound."""
        if not any(tag is not None for tag in expected):
            return ()
        waiting, at = self._shadow.find(row_sets.keys(rows) << _BYTE | np.uint64(source))
        refused = []
        for i, tag in enumerate(expected):
            if tag is None:
                continue
            now = ""
            if waiting[i]:
                now = etag(self._shadow.rows.rows[at[i]].tobytes(), source)
            elif before.sources[i] != UNBOUND and before.rows[i]["psid"] == rows[i]["psid"]:
                now = etag(before.rows[i].tobytes(), int(before.sources[i]))
            if now == tag or (tag == THERE and now):
                continue
            reason = "already_exists" if not tag else "etag_mismatch" if now else "not_found"
            refused.append(refusal(rows[i], i, reason, source if waiting[i] else None))
        return tuple(refused)

    def _faults(self, rows: Rows, source: int, replacing: bool) -> dict[int, str]:
        """Of the rows themselves, so that no other source's giving way would help."""
        judged = self.table.bind(rows, source, self._generation(source), validate_only=True)
        faults = {index: why for index, why in judged["refused"] if why not in _SOFT}
        names = row_sets.keys(rows)
        by_name = np.argsort(names, kind="stable")
        for index in by_name[~firsts(names[by_name])].tolist():
            faults.setdefault(index, "duplicate_in_batch")
        addresses = row_sets.distinct(rows["ipv4"].astype(np.uint64))
        own = Sourced.none() if replacing else self._wanted(addresses)
        own = own.select(own.sources == source)
        return faults | divided_otherwise(own.rows, rows, faults)

    def _waiting(self, names: Ids, source: int) -> Mask:
        return self._shadow.find(names << _BYTE | np.uint64(source))[0]

    def _wanted(self, addresses: Ids) -> Sourced:
        """All that is wanted of these addresses (sorted), bound or waiting."""
        waiting = self._shadow.on(addresses)
        return Sourced.join([self.bound_on(addresses), waiting])

    # --- where somebody may have to give way ---

    def _put_among_others(self, given: Sourced, source: int, replacing: bool, validate_only: bool) -> Applied:
        addresses = row_sets.distinct(given.rows["ipv4"].astype(np.uint64))
        wanted = self._wanted(addresses)
        others = wanted.select(~row_sets.found(wanted.ids(), row_sets.distinct(given.ids()))[0])
        if replacing:
            own = others.sources == source
            others = others.select(~own | (row_sets.params(others.rows) == division_of(given.rows, others.rows)))
        bound = self.bound_on(addresses)
        won, after = self._settled(addresses, bound, Sourced.join([others, given]))
        if not (replacing and validate_only) and not (full := self._room(given, bound, after)).ok:
            return Applied(full)
        won = won[len(others) :]
        known = row_sets.found(given.keys(), row_sets.distinct(bound.keys()))[0]
        unchanged = won & ~row_sets.found(given.ids(), row_sets.distinct(given.less(bound).ids()))[0]
        report = Report(
            added=int((won & ~known).sum()),
            replaced=int((won & known & ~unchanged).sum()),
            unchanged=int(unchanged.sum()),
            outranked=int((~won).sum()),
        )
        if validate_only:
            return Applied(report)
        if not self._install(after):
            return Applied(Report(refused=(refusal(given.rows[0], 0, "table_full"),)))
        self._shadow.mark(given, self._generations)
        if unchanged.any():  # for their mark
            self.table.bind(row_sets.select(given.rows, unchanged), source, self._generation(source))
        return replace(after, report=report)

    def _removed(self, victims: Sourced, shadows: Sourced) -> Applied:
        """The victims have left the table. Binds what waited for that."""
        self._shadow.change(shadows, Sourced.none(), self._generations)
        report = Report(removed=len(victims) + len(shadows))
        ipv4 = np.concatenate([victims.rows["ipv4"], shadows.rows["ipv4"]])
        addresses = row_sets.distinct(ipv4[self._shadow.beside(ipv4)].astype(np.uint64))
        removed = Applied(report, gone=victims, left=shadows)
        if not len(addresses):
            return removed
        _, after = self._settled(addresses, self.bound_on(addresses), self._wanted(addresses))
        if not self._install(after):
            self.undo(removed)
            first = Sourced.join([victims, shadows]).rows[0]
            return Applied(Report(refused=(refusal(first, 0, "table_full"),)))
        return replace(
            after,
            report=report,
            gone=Sourced.join([victims, after.gone]),
            left=Sourced.join([shadows, after.left]),
        )

    def _settled(self, addresses: Ids, bound: Sourced, wanted: Sourced) -> tuple[Mask, Applied]:
        """What has to change so that of all that is wanted of these addresses the right rows are bound."""
        won = winners(wanted)
        now, waiting = wanted.select(won), wanted.select(~won)
        waited = self._shadow.on(addresses)
        return won, Applied(
            Report(), gone=bound.less(now), come=now.less(bound), left=waited.less(waiting), waits=waiting.less(waited)
        )

    def _room(self, given: Sourced, bound: Sourced, after: Applied) -> Report:
        """Refuses what there is no room for."""
        names = row_sets.distinct(bound.keys())
        new = ~row_sets.found(after.come.keys(), names)[0]
        ended = ~row_sets.found(after.gone.keys(), row_sets.distinct(after.come.keys()))[0]
        excess = self.table.size + int(new.sum()) - int(ended.sum()) - self.table.capacity
        if excess <= 0:
            return Report()
        added = np.flatnonzero(~row_sets.found(given.keys(), names)[0])[-excess:]
        return refused(given.rows, added.tolist(), "table_full")

    # --- the table ---

    def _install(self, after: Applied) -> bool:
        """False, and nothing done, if the table cannot take it."""
        come = after.come.in_order(after.come.keys())
        taken, at = row_sets.found(after.gone.keys(), come.keys())
        if len(come):
            alike = row_sets.params(after.gone.rows) == row_sets.params(come.rows)[at]
            taken &= alike & (come.sources[at] <= after.gone.sources)
        self._unbind(after.gone.select(~taken))  # the others are replaced without a gap
        if not self._bind(after.come):
            self._restore(after)
            return False
        self._shadow.change(after.left, after.waits, self._generations)
        return True

    def _unbind(self, rows: Sourced) -> None:
        if len(rows):
            # In the name of the highest source: what goes was decided here.
            self.table.unbind(rows.rows["ipv4"].copy(), rows.rows["psid"].copy(), Source.CONFIG)

    def _bind(self, rows: Sourced) -> bool:
        """A row that has waited keeps its mark, so that a sweep finds it."""
        for source, part in rows.by_source():
            generation = self._generation(source)
            waiting, at = self._shadow.find(row_sets.keys(part) << _BYTE | np.uint64(source))
            stale = waiting.copy()
            stale[waiting] = self._shadow.marks[at[waiting]] != generation
            for marked, mask in ((generation, ~stale), ((generation - 1) & 0xFFFFFFFF, stale)):
                if mask.any() and self.table.bind(row_sets.select(part, mask), source, marked)["refused"]:
                    return False
        return True

    def _restore(self, applied: Applied) -> None:
        names = row_sets.distinct(np.concatenate([applied.come.keys(), applied.gone.keys()]))
        now = Sourced(*self.table.holders(*row_sets.split_keys(names)))
        self._unbind(now.select((now.sources != UNBOUND) & (now.keys() == names)))
        if not self._bind(applied.gone):
            raise RuntimeError("the table does not take back what it had")
