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
        self.limit(mask, max_softwires, bound)
        self.waiting: Rows = no_rows()

    def limit(self, mask: int, max_softwires: int, bound: Rows) -> None:
        """Other limits from the next lease on. `bound`: all that is bound now."""
        self._subscribers = Subscribers(mask, max_softwires)
        self._subscribers.add(bound)

    def observe(self, applied: Applied) -> None:
        """What is bound otherwise now, whoever did it."""
        self._subscribers.remove(applied.gone.rows)
        self._subscribers.add(applied.come.rows)

    def admit(self, unbind: Rows, bind: Rows, held: Rows) -> tuple[Rows, Rows]:
        """(unbind, bind) of these that may be done. `held`: what leases have bound at the keys of both, up to now."""
        self._subscribers.remove(held)
        named = row_sets.distinct(row_sets.keys(np.concatenate([unbind, bind])))
        waited = row_sets.select(self.waiting, ~row_sets.found(row_sets.keys(self.waiting), named)[0])
        wanted = np.concatenate([waited, bind])
        refused = self._subscribers.refused(wanted)
        self.waiting = row_sets.select(wanted, refused)
        admitted = row_sets.select(wanted, ~refused)
        self._subscribers.add(held)  # until it is done, and observed
        over = _of(held, self.waiting)  # was bound, and is too much as it is now
        return np.concatenate([_of(unbind, held), over]), admitted


def _of(rows: Rows, others: Rows) -> Rows:
    """Those whose keys are among the others'."""
    return row_sets.select(rows, row_sets.found(row_sets.keys(rows), row_sets.distinct(row_sets.keys(others)))[0])
