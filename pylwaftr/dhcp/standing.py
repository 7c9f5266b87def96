"""How each lease that a server told of stands, for people: bound, ended, or kept out by what."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp.codec_lease import LEASE_ROW, LeaseRows
from pylwaftr.dhcp.judging import Judge
from pylwaftr.dhcp.policies import Policy
from pylwaftr.dhcp.records import ACTIVE, GONE, OVERDUE, QUARANTINED, Slots
from pylwaftr.dhcp.slots import NOBODY, division_of
from pylwaftr.dhcp.winners import Winners


class Standing(IntEnum):
    ENDED = 0
    BOUND = 1  # or on its way to be
    OVERDUE = 2  # its lifetime is over, and nothing was heard of a renewal
    OTHER_SERVER = 3  # another server's word counts
    OTHER_DIVISION = 4  # its port set overlaps with those of better leases
    NO_B4 = 5
    BAD_B4 = 6
    OUTSIDE_POOLS = 7
    PSID_OFFSET = 8
    OWN_ADDRESS = 9
    NOT_KNOWN = 255  # it said nothing of the key


QUARANTINE = (
    Standing.NO_B4,
    Standing.BAD_B4,
    Standing.OWN_ADDRESS,
    Standing.OUTSIDE_POOLS,
    Standing.PSID_OFFSET,
)
CONFLICTS = (Standing.OTHER_SERVER, Standing.OTHER_DIVISION)

Standings = npt.NDArray[np.uint8]

_B4_WORD = int(LEASE_ROW.fields["b4"][1]) // 8  # type: ignore[index]
_BY_VERDICT = np.full(256, Standing.NOT_KNOWN, np.uint8)
_BY_VERDICT[[ACTIVE, GONE, OVERDUE]] = Standing.BOUND, Standing.ENDED, Standing.OVERDUE


def standings(winners: Winners, number: int, judge: Judge, policy: Policy, which: Slots | None = None) -> Standings:
    """Of what a server said, ended leases included; by slot, or of these slots."""
    table, claims = winners.table, winners.claims[number]
    slots = slice(table.count) if which is None else which
    verdict, owner = claims.verdict[slots], table.owner[slots]

    def slots_of(at: npt.NDArray[np.intp]) -> Slots:
        return at.astype(np.int32) if which is None else which[at]

    found: Standings = _BY_VERDICT[verdict]
    active = verdict == ACTIVE
    out = np.flatnonzero(active & (owner == NOBODY))
    divided = _divided_otherwise(winners, slots_of(out))
    found[out] = np.where(divided, Standing.OTHER_DIVISION, Standing.OTHER_SERVER)
    other = np.flatnonzero(active & (owner != NOBODY) & (owner != number))
    found[other[_differs(claims.rows, table.b4, slots_of(other))]] = Standing.OTHER_SERVER
    held = np.flatnonzero(verdict == QUARANTINED)
    if len(held):
        reasons = judge.reasons(policy, claims.rows[slots_of(held)])
        for name in reversed(list(reasons)):
            found[held[reasons[name]]] = Standing[name.upper()]
    return found


def _differs(rows: LeaseRows, b4: npt.NDArray[np.uint8], slots: Slots) -> npt.NDArray[np.bool_]:
    """Where the tunnel address is another one; by words, for of two servers in failover each has them all."""
    said, bound = rows.view(np.uint64).reshape(len(rows), -1), b4.view(np.uint64)
    found = np.zeros(len(slots), np.bool_)
    for word in range(2):
        found |= said[:, _B4_WORD + word][slots] != bound[:, word][slots]
    return found


def _divided_otherwise(winners: Winners, slots: Slots) -> npt.NDArray[np.bool_]:
    table = winners.table
    keys = table.keys[slots]
    at = table.places(keys)
    found: npt.NDArray[np.bool_] = (table.programmed[at] > 0) & (table.division[at] != division_of(keys))
    return found
