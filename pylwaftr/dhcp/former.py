"""Leases of servers that are not there: what was bound before a restart, and for a server that is configured no more.

They forward on until every server has told all it has, and for a time at most; any news of a server is better.
"""

from __future__ import annotations

import numpy as np

from pylwaftr.dhcp.codec_lease import LEASE_ROW, Has, State
from pylwaftr.dhcp.records import ACTIVE, NONE
from pylwaftr.dhcp.slots import keys_of
from pylwaftr.dhcp.winners import Outcome, Winners
from pylwaftr.rows import Rows

FORMER = "former"  # the server that they are of
NUMBER = 0
_RANK = 1_000_000  # behind every other


class Former:
    def __init__(self, winners: Winners) -> None:
        self._winners = winners
        self.claims = winners.add(NUMBER, FORMER, _RANK)
        self.unswept: set[str] = set()  # servers without a full bulk since the start
        self.inherits = False  # also of servers that went: whatever the others may tell of

    def restore(self, rows: Rows, until: float) -> None:
        """They are bound already, so only what does not stay is a change."""
        winners, keys = self._winners, keys_of(rows)
        winners.make_room(len(rows))
        slots = winners.table.make(keys)
        leases = np.zeros(len(rows), LEASE_ROW)
        for name in ("ipv4", "psid", "psid_len", "psid_offset", "b4"):
            leases[name] = rows[name]
        leases["state"], leases["has"] = State.ACTIVE, Has.B4 | Has.PORTS
        self.claims.rows[slots], self.claims.verdict[slots] = leases, ACTIVE
        self.claims.deadline[slots] = until
        self.claims.next_due = until
        winners.table.fits(slots)
        winners.table.program(slots, rows["b4"], NUMBER)

    def inherit(self, number: int, until: float) -> None:
        """What is bound for the sake of a server alone, before that goes."""
        winners, count, self.inherits = self._winners, self._winners.table.count, True
        claims = winners.claims[number]
        alone = (claims.verdict[:count] == ACTIVE) & (winners.table.owner[:count] == number)
        for other, theirs in winners.claims.items():
            if other not in (number, NUMBER):
                alone &= theirs.verdict[:count] == NONE
        slots = np.flatnonzero(alone).astype(np.int32)
        self.claims.rows[slots], self.claims.verdict[slots], self.claims.deadline[slots] = (
            claims.rows[slots],
            ACTIVE,
            until,
        )
        self.claims.next_due = min(self.claims.next_due, until)

    def sweep(self, out: Outcome) -> None:
        """If every server has told all it has."""
        if not self.unswept:
            self._winners.forget(self.claims, out)
            self.inherits = False
