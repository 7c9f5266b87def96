"""Leases over their subscriber's limit of softwires wait here until there is room (RFC 7785 section 5)."""

from __future__ import annotations

import numpy as np

from pylwaftr import row_sets
from pylwaftr.applied import Applied
from pylwaftr.changes import Source
from pylwaftr.rows import Rows, no_rows
from pylwaftr.subscriber import Subscribers


class Quarantine:
    """Counts the softwires of all sources, and parts leases into those that may be bound and those that wait."""

    def __init__(self, mask: int, max_softwires: int, bound: Rows) -> None:
        """`bound`: all that is bound now; what changes from here on is observed."""
        self.waiting: Rows = no_rows()
        self._over: Rows = no_rows()  # of them, those that are bound yet
        self._index: tuple[Rows, Rows, row_sets.Ids] | None = None  # those that wait by subscriber; of which `waiting`
        self._subscribers = Subscribers(mask, max_softwires)
        self._subscribers.add(bound)

    def limit(self, mask: int, max_softwires: int) -> None:
        """From the next `admit` on; what is bound stays."""
        self._subscribers.reconfigure(mask, max_softwires)
        self._index = None

    def observe(self, applied: Applied) -> None:
        """What is bound otherwise now, whoever did it."""
        if len(applied.gone):
            self._subscribers.remove(applied.gone.rows)
        if len(applied.come) and self._subscribers.add(applied.come.rows):
            self._see_over(row_sets.select(applied.come.rows, applied.come.sources == Source.DHCP))

    def _see_over(self, come: Rows) -> None:
        """Leases that were let in while there was room, and are bound only now that there is none: they waited behind
        another source, or somebody was faster."""
        crowded = row_sets.select(come, self._subscribers.crowded(come))
        if not len(crowded):
            return
        over = row_sets.select(crowded, self._subscribers.refused(crowded, crowded))
        if len(over):
            self._over = np.concatenate([row_sets.without(self._over, over), over])
            self.waiting = np.concatenate([row_sets.without(self.waiting, over), over])

    def makes_room(self, gone: Rows) -> bool:
        """Whether some that wait may be bound now that these have gone, or some are bound that have to wait."""
        if len(self._over):
            return True
        if not len(gone) or not len(self.waiting):
            return False
        return not self._subscribers.refused(self._near(gone)).all()

    def _near(self, gone: Rows) -> Rows:
        """Those that wait of the subscribers of these, and a few others perhaps."""
        if self._index is None or self._index[0] is not self.waiting:
            ids = self._ids(self.waiting)
            order = np.argsort(ids, kind="stable")
            self._index = self.waiting, row_sets.take(self.waiting, order), ids[order]
        _, waiting, ids = self._index
        wanted = row_sets.distinct(self._ids(gone))
        first = np.searchsorted(ids, wanted)
        counts = np.searchsorted(ids, wanted, "right") - first
        behind = np.cumsum(counts) - counts
        return row_sets.take(waiting, np.repeat(first - behind, counts) + np.arange(counts.sum()))

    def _ids(self, rows: Rows) -> row_sets.Ids:
        """Of their subscribers; two may share one."""
        mask = np.frombuffer(((1 << 128) - (1 << 128 - self._subscribers.mask)).to_bytes(16), np.uint64)
        words = np.ascontiguousarray(rows["b4"]).view(np.uint64).reshape(-1, 2) & mask
        found: row_sets.Ids = words[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ words[:, 1]
        return found

    def admit(self, unbind: Rows, bind: Rows, held: Rows) -> tuple[Rows, Rows]:
        """(unbind, bind) of these that may be done. `held`: what leases have bound at the keys of both, up to now.

        A lease that is bound keeps its place, wherever it renews from; then it is the turn of those that wait.
        """
        before, over, stay = self.waiting, self._over, no_rows()
        if len(over):
            held = np.concatenate([held, row_sets.without(over, held)])
            before, self._over = row_sets.without(before, over), no_rows()
        if len(before) or len(over):
            stay = row_sets.without(np.concatenate([before, over]), np.concatenate([unbind, bind]))
            unbind = row_sets.without(unbind, before)
        bound = row_sets.among(bind, held)
        wanted = np.concatenate([row_sets.select(bind, bound), stay, row_sets.select(bind, ~bound)])
        refused = self._subscribers.refused(wanted, held)
        if not refused.any():
            self.waiting = no_rows()
            return unbind, wanted
        self.waiting = row_sets.select(wanted, refused)
        ends = row_sets.without(self.waiting, before)  # may have been bound, or wait in the shadow, as it was before
        return np.concatenate([unbind, ends]) if len(ends) else unbind, row_sets.select(wanted, ~refused)
