"""Arrays of binding rows as sets: keys, order, differences. On millions of rows, so nothing here looks at a row alone.

Rows are moved as plain octets (numpy copies fields of a structured array one by one, which is five times slower and
holds the interpreter), and needles are sorted before they are searched for (a sorted search stays in the cache).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pylwaftr.rows import BINDING_ROW, Rows, no_rows

Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.uint64]
Sources = npt.NDArray[np.uint8]

UNBOUND = 255  # in place of a source

_OCTETS = np.dtype((np.void, BINDING_ROW.itemsize))
_WORDS = BINDING_ROW.itemsize // 8


def take(rows: Rows, index: Index) -> Rows:
    return np.take(np.ascontiguousarray(rows).view(_OCTETS), index).view(BINDING_ROW)


def select(rows: Rows, mask: Mask) -> Rows:
    return rows if mask.all() else np.compress(mask, np.ascontiguousarray(rows).view(_OCTETS)).view(BINDING_ROW)


def words(rows: Rows) -> Ids:
    """(n, 5): to compare whole rows."""
    return np.ascontiguousarray(rows).view(np.uint64).reshape(-1, _WORDS)


def same(left: Rows, right: Rows) -> Mask:
    return np.asarray((words(left) == words(right)).all(1))


def key_of(ipv4: int, psid: int) -> int:
    return ipv4 << 16 | psid


def keys(rows: Rows) -> Ids:
    """(address, PSID) in one number. The first eight octets of a row have both, little-endian."""
    head = words(rows)[:, 0]
    return (head & np.uint64(0xFFFFFFFF)) << np.uint64(16) | head >> np.uint64(32) & np.uint64(0xFFFF)


def joined_keys(ipv4: npt.NDArray[np.uint32], psid: npt.NDArray[np.uint16]) -> Ids:
    return ipv4.astype(np.uint64) << np.uint64(16) | psid


def split_keys(ids: Ids) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
    return (ids >> np.uint64(16)).astype(np.uint32), (ids & np.uint64(0xFFFF)).astype(np.uint16)


def params(rows: Rows) -> npt.NDArray[np.uint16]:
    return np.asarray(rows["psid_len"].astype(np.uint16) << 8 | rows["psid_offset"])


def canonical(rows: Rows) -> Rows:
    """A whole address has neither offset nor PSID (RFC 7598 section 4.5)."""
    rows = np.ascontiguousarray(rows)
    loose = (rows["psid_len"] == 0) & ((rows["psid"] != 0) | (rows["psid_offset"] != 0) & (rows["psid_offset"] <= 16))
    if loose.any():
        rows = rows.copy()
        rows["psid"][loose] = 0
        rows["psid_offset"][loose & (rows["psid_offset"] <= 16)] = 0
    return rows


def ascending(ids: Ids) -> bool:
    return bool((ids[1:] >= ids[:-1]).all())


def order(ids: Ids) -> Index | None:
    """What sorts them; None if they are in order already, as those of a snapshot or an export are."""
    return None if ascending(ids) else np.argsort(ids, kind="stable")


def firsts(ids: Ids) -> Mask:
    """Of equal neighbours the first."""
    first = np.ones(len(ids), np.bool_)
    np.not_equal(ids[1:], ids[:-1], out=first[1:])
    return first


def distinct(ids: Ids) -> Ids:
    """Sorted, each one once."""
    ids = ids if ascending(ids) else np.sort(ids)
    first = firsts(ids)
    return ids if first.all() else ids[first]


def found(needles: Ids, hay: Ids) -> tuple[Mask, Index]:
    """Which needles are in the sorted hay, and where (only where they are)."""
    if not len(hay) or not len(needles):
        return np.zeros(len(needles), np.bool_), np.zeros(len(needles), np.intp)
    sorting = order(needles)
    if sorting is None:
        at = np.searchsorted(hay, needles)
    else:
        at = np.empty(len(needles), np.intp)
        at[sorting] = np.searchsorted(hay, needles[sorting])
    at[at == len(hay)] = 0
    return np.asarray(hay[at] == needles), at


def among_few(needles: Ids, hay: Ids) -> Mask:
    """Which needles are in the sorted hay, which is so short that it stays in the cache: they are not sorted for it."""
    if not len(hay):
        return np.zeros(len(needles), np.bool_)
    at = np.searchsorted(hay, needles)
    at[at == len(hay)] = 0
    return np.asarray(hay[at] == needles)


def among(rows: Rows, others: Rows) -> Mask:
    """Which have keys of the others."""
    return found(keys(rows), distinct(keys(others)))[0]


def without(rows: Rows, others: Rows) -> Rows:
    """Those whose keys are not among the others'."""
    return select(rows, ~among(rows, others))


def slices(counts: npt.NDArray[np.int64], together: int) -> list[slice]:
    """Runs of neighbours whose counts come to about so many."""
    edges = np.flatnonzero(np.diff(np.cumsum(counts) // together)) + 1
    bounds = [0, *edges.tolist(), len(counts)]
    return [slice(low, high) for low, high in pairwise(bounds) if high > low]


@dataclass(frozen=True, slots=True)
class Sourced:
    """Rows and who wants each."""

    rows: Rows
    sources: Sources

    @staticmethod
    def of(rows: Rows, source: int) -> Sourced:
        return Sourced(rows, np.full(len(rows), source, np.uint8))

    @staticmethod
    def none() -> Sourced:
        return _NONE

    @staticmethod
    def join(parts: Sequence[Sourced]) -> Sourced:
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:
            return parts[0] if parts else Sourced.none()
        packed = np.concatenate([np.ascontiguousarray(part.rows).view(_OCTETS) for part in parts])
        return Sourced(packed.view(BINDING_ROW), np.concatenate([part.sources for part in parts]))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Index) -> Sourced:
        return Sourced(take(self.rows, index), self.sources[index])

    def part(self, which: slice) -> Sourced:
        return Sourced(self.rows[which], self.sources[which])

    def select(self, mask: Mask) -> Sourced:
        return self if mask.all() else Sourced(select(self.rows, mask), self.sources[mask])

    def keys(self) -> Ids:
        return keys(self.rows)

    def ids(self) -> Ids:
        """(address, PSID, source) in one number: several sources may want one binding."""
        return keys(self.rows) << np.uint64(8) | self.sources

    def id_at(self, index: int) -> int:
        row = self.rows[index]
        return key_of(int(row["ipv4"]), int(row["psid"])) << 8 | int(self.sources[index])

    def by_source(self) -> Iterator[tuple[int, Rows]]:
        if not len(self):
            return
        if len(self) == 1 or (self.sources == self.sources[0]).all():
            yield int(self.sources[0]), self.rows
            return
        for source in np.flatnonzero(np.bincount(self.sources)).tolist():
            yield source, select(self.rows, self.sources == source)

    def less(self, other: Sourced) -> Sourced:
        """Those that are not in `other` with the same contents. Each has an id once."""
        other = other.in_order(other.ids())
        there, at = found(self.ids(), other.ids())
        if not there.any():
            return self
        there[there] = same(select(self.rows, there), take(other.rows, at[there]))
        return self.select(~there)

    def in_order(self, ids: Ids) -> Sourced:
        sorting = order(ids)
        return self if sorting is None else self.take(sorting)


_NONE = Sourced(no_rows(), np.zeros(0, np.uint8))


def patched(base: Sourced, ids: Ids, drop: Ids, put: Sourced, put_ids: Ids) -> tuple[Sourced, Ids]:
    """`base`, in order of `ids`, without `drop` and with `put`, which replaces what has its id. Still in order."""
    if not len(base):
        return put.in_order(put_ids), put_ids if ascending(put_ids) else np.sort(put_ids)
    sorting = order(put_ids)
    if sorting is not None:
        put, put_ids = put.take(sorting), put_ids[sorting]
    keep = np.ones(len(base), np.bool_)
    for names in (drop, put_ids):
        there, at = found(names, ids)
        keep[at[there]] = False
    base, ids = base.select(keep), ids[keep]
    if not len(put):
        return base, ids
    at = np.searchsorted(ids, put_ids) + np.arange(len(put))
    old = np.ones(len(base) + len(put), np.bool_)
    old[at] = False
    rows = np.empty(len(old), _OCTETS)
    sources = np.empty(len(old), np.uint8)
    merged = np.empty(len(old), np.uint64)
    rows[at], rows[old] = put.rows.view(_OCTETS), base.rows.view(_OCTETS)
    sources[at], sources[old] = put.sources, base.sources
    merged[at], merged[old] = put_ids, ids
    return Sourced(rows.view(BINDING_ROW), sources), merged
