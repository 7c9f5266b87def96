"""Which of the wanted bindings are bound, when several sources want the same or what does not fit together.

An address is divided as the highest source that wants anything of it says (RFC 7597 section 5.1: one (a, k) for an
address). Of the rows that divide it so, the highest source has each key. All others wait in the shadow. So the outcome
depends on what is wanted, not on the order in which it was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pylwaftr import row_sets
from pylwaftr.row_sets import Ids, Mask, Sourced, firsts
from pylwaftr.rows import Rows

Marks = npt.NDArray[np.uint32]

_ADDRESS = np.uint64(24)  # bits below the address in an id
_BYTE = np.uint64(8)


def winners(wanted: Sourced) -> Mask:
    """Of all that is wanted of some addresses; an id is there once."""
    if not len(wanted):
        return np.zeros(0, np.bool_)
    ids = wanted.ids()
    address = ids >> _ADDRESS
    params = row_sets.params(wanted.rows)
    by_rank = np.argsort(address << _BYTE | wanted.sources, kind="stable")
    first = firsts(address[by_rank])
    division = np.empty(len(wanted), np.uint16)  # that of the highest source of the address
    division[by_rank] = params[by_rank][first][np.cumsum(first) - 1]
    fitting = np.flatnonzero(params == division)
    by_id = fitting[np.argsort(ids[fitting], kind="stable")]
    won = np.zeros(len(wanted), np.bool_)
    won[by_id[firsts(ids[by_id] >> _BYTE)]] = True
    return won


def divided_otherwise(own: Rows, rows: Rows, known: dict[int, str]) -> dict[int, str]:
    """Rows whose (a, k) is not that of the source's own rows of the address, or of the first one in the batch."""
    sound = np.ones(len(rows), np.bool_)
    sound[list(known)] = False
    index = np.flatnonzero(sound)
    every = np.concatenate([own, row_sets.take(rows, index)])
    params = row_sets.params(every)
    division = division_of(every, every)
    faults = {}
    for i in np.flatnonzero(params != division).tolist():
        if i >= len(own):
            whole = params[i] >> 8 == 0 or division[i] >> 8 == 0
            faults[int(index[i - len(own)])] = "overlap" if whole else "other_params_on_address"
    return faults


def division_of(of: Rows, rows: Rows) -> npt.NDArray[np.uint16]:
    """How the first row of `of` on its address divides it, for each of `rows`; all ones: there is none."""
    by_address = np.argsort(of["ipv4"], kind="stable")
    ipv4 = of["ipv4"][by_address].astype(np.uint64)
    first = firsts(ipv4)
    there, at = row_sets.found(rows["ipv4"].astype(np.uint64), ipv4[first])
    division = np.full(len(rows), 0xFFFF, np.uint16)
    division[there] = row_sets.params(of)[by_address][first][at[there]]
    return division


@dataclass(slots=True)
class Shadow:
    """The rows that wait, in order of id, and the generation each was asked for in."""

    rows: Sourced = field(default_factory=Sourced.none)
    ids: Ids = field(default_factory=lambda: np.zeros(0, np.uint64))
    marks: Marks = field(default_factory=lambda: np.zeros(0, np.uint32))

    def __len__(self) -> int:
        return len(self.rows)

    def on(self, addresses: Ids) -> Sourced:
        """The rows that wait for one of these addresses (sorted)."""
        first, end = self._ranges(addresses)
        counts = end - first
        return self.rows.take(np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts))

    def beside(self, ipv4: npt.NDArray[np.uint32]) -> Mask:
        """For which of the addresses something waits."""
        if not len(self):
            return np.zeros(len(ipv4), np.bool_)
        first, end = self._ranges(ipv4.astype(np.uint64))
        return end > first

    def _ranges(self, addresses: Ids) -> tuple[row_sets.Index, row_sets.Index]:
        return (
            np.searchsorted(self.ids, addresses << _ADDRESS),
            np.searchsorted(self.ids, addresses + np.uint64(1) << _ADDRESS),
        )

    def among(self, ids: Ids) -> Mask:
        return row_sets.found(self.ids, row_sets.distinct(ids))[0]

    def find(self, ids: Ids) -> tuple[Mask, row_sets.Index]:
        return row_sets.found(ids, self.ids)

    def change(self, left: Sourced, waits: Sourced, generations: npt.NDArray[np.uint32]) -> None:
        """`generations`: of each source now."""
        if not len(left) and not len(waits):
            return
        before, ids = self.marks, self.ids
        self.rows, self.ids = row_sets.patched(self.rows, ids, left.ids(), waits, waits.ids())
        there, at = row_sets.found(self.ids, ids)
        self.marks = generations[self.rows.sources]
        self.marks[there] = before[at[there]]
        self.mark(waits, generations)

    def mark(self, rows: Sourced, generations: npt.NDArray[np.uint32]) -> None:
        """They were asked for in the present generation of their source."""
        there, at = self.find(rows.ids())
        self.marks[at[there]] = generations[rows.sources[there]]
