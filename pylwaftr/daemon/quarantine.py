"""Leases over their subscriber's limit of softwires wait here until there is room (RFC 7785 section 5)."""

from __future__ import annotations

import numpy as np

from pylwaftr import row_sets
from pylwaftr.bindings import Applied
from pylwaftr.rows import Rows, no_rows
from pylwaftr.subscriber import Subscribers


class Quarantine:
    """Counts the softwires of all sources, and parts leases into those that may be bound and those that wait."""

    def __init__(self, mask: int, max_softwires: int, bound: Rows) -> None:
        """`bound`: all that is bound now; what changes from here on is observed."""
        self.waiting: Rows = no_rows()
        self._subscribers = Subscribers(mask, max_softwires)
        self._subscribers.add(bound)

    def limit(self, mask: int, max_softwires: int) -> None:
        """From the next `admit` on; what is bound stays."""
        self._subscribers.reconfigure(mask, max_softwires)

    def observe(self, applied: Applied) -> None:
        """What is bound otherwise now, whoever did it."""
        if len(applied.gone):
            self._subscribers.remove(applied.gone.rows)
        if len(applied.come):
            self._subscribers.add(applied.come.rows)

    def admit(self, unbind: Rows, bind: Rows, held: Rows) -> tuple[Rows, Rows]:
        """(unbind, bind) of these that may be done. `held`: what leases have bound at the keys of both, up to now.

        A lease that is bound keeps its place, wherever it renews from; then it is the turn of those that wait.
        """
        before, stay = self.waiting, no_rows()
        if len(before):
            stay = _without(before, np.concatenate([unbind, bind]))
            unbind = _without(unbind, before)
        bound = _among(bind, held)
        wanted = np.concatenate([row_sets.select(bind, bound), stay, row_sets.select(bind, ~bound)])
        refused = self._subscribers.refused(wanted, held)
        if not refused.any():
            self.waiting = no_rows()
            return unbind, wanted
        self.waiting = row_sets.select(wanted, refused)
        over = _without(self.waiting, before)  # may have been bound, or wait in the shadow, as it was before
        return np.concatenate([unbind, over]) if len(over) else unbind, row_sets.select(wanted, ~refused)


def _without(rows: Rows, others: Rows) -> Rows:
    """Those whose keys are not among the others'."""
    return row_sets.select(rows, ~_among(rows, others))


def _among(rows: Rows, others: Rows) -> row_sets.Mask:
    """Which have keys of the others."""
    return row_sets.found(row_sets.keys(rows), row_sets.distinct(row_sets.keys(others)))[0]
