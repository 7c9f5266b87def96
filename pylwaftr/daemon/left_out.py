"""Leases that the table had no room for, until there is some or they end."""

from __future__ import annotations

import numpy as np

from pylwaftr import row_sets
from pylwaftr.rows import Rows, no_rows


class LeftOut:
    """Each key once; who waits longest is the first."""

    def __init__(self) -> None:
        self.rows: Rows = no_rows()

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: Rows) -> None:
        self.forget(rows)
        self.rows = np.concatenate([self.rows, rows])

    def forget(self, *told: Rows) -> None:
        """These have ended, or are tried now."""
        for rows in told if len(self.rows) else ():
            self.rows = row_sets.without(self.rows, rows)

    def take(self, room: int) -> Rows:
        """No more of them than there is room for; the others wait on."""
        first, self.rows = self.rows[:room], self.rows[room:]
        return first
