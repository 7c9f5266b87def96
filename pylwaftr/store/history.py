"""Who held an address and port, and when: lives of bindings, made of the events of the history.

A life begins with a BIND of its key and ends with the next event of that key. A lwAFTR's table is the whole mapping
between subscribers and ports (RFC 7422: no flow logs where the mapping is known), so one record for each change of a
port set is all that an inquiry needs (RFC 6888 section 4, RFC 6302).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network

import numpy as np
import numpy.typing as npt

from pylwaftr import row_sets
from pylwaftr.row_sets import Ids, Mask
from pylwaftr.rows import PREFIX_MASKS, Rows
from pylwaftr.store import Life
from pylwaftr.store.segments import BIND, BLOCK, Events, Segment

OPEN = np.int64((1 << 63) - 1)  # in place of the end of a life
ALL_KEYS = (0, (1 << 48) - 1)

_PART = 16  # blocks that are looked at together when a file is read from end to end: some 20 MB
_PSIDS = np.uint64(16)  # bits of a key below the address
_FEW = 1024  # addresses that are looked up one by one rather than by reading everything


@dataclass(frozen=True, slots=True)
class Lives:
    """Times in microseconds."""

    rows: Rows
    source: npt.NDArray[np.uint8]
    began: npt.NDArray[np.int64]
    ended: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, mask: Mask) -> Lives:
        rows = row_sets.select(self.rows, mask)
        return self if mask.all() else Lives(rows, self.source[mask], self.began[mask], self.ended[mask])

    def overlapping(self, began: float, ended: float) -> Lives:
        return self.select((self.began <= micros(ended)) & (self.ended >= micros(began)))

    def each(self) -> Iterator[Life]:
        for i in range(len(self)):
            end = self.ended[i]
            until = None if end == OPEN else float(end) / 1e6
            yield Life(self.rows[i : i + 1], int(self.source[i]), float(self.began[i]) / 1e6, until)


def micros(seconds: float) -> int:
    """Within what the store can count, whatever is asked for."""
    return int(min(max(seconds, -9e12), 9e12) * 1_000_000)


def ends(events: Events) -> npt.NDArray[np.int64]:
    """When what each event began was over: the time of the next one of its key."""
    names = events.keys()
    until = np.full(len(events), OPEN, np.int64)
    more = names[1:] == names[:-1]
    until[:-1][more] = events.at[1:][more]
    return until


def lives(events: Events) -> Lives:
    """Of events in order, complete for their keys."""
    bound = np.flatnonzero(events.op == BIND)
    rows = row_sets.take(events.rows, bound)
    return Lives(rows, events.source[bound], events.at[bound], ends(events)[bound])


def holding(rows: Rows, port: int) -> Mask:
    """Whose port set has the port (RFC 7597 section 5.1); a whole address has all."""
    offset, length = rows["psid_offset"].astype(np.int64), rows["psid_len"].astype(np.int64)
    psid = port >> (16 - offset - length) & ((1 << length) - 1)
    usable = (offset == 0) | (port >> (16 - offset) != 0)
    return np.asarray((length == 0) | (usable & (psid == rows["psid"])))


def inside(rows: Rows, prefix: IPv6Network) -> Mask:
    mask = np.ascontiguousarray(PREFIX_MASKS[prefix.prefixlen]).view(np.uint64)
    wanted = np.frombuffer(prefix.network_address.packed, np.uint64)
    b4 = row_sets.words(rows)[:, 1:3]  # octets 8 to 23 of a row
    return np.asarray(((b4 & mask) == wanted).all(1))


class History:
    """The events of one moment: of files, and a tail that is in none of them."""

    def __init__(self, segments: Sequence[Segment], tail: Events) -> None:
        self.segments = tuple(segments)
        self.tail = tail.in_order()

    def events(self, low: int, high: int) -> Events:
        """All with low <= key <= high, in order."""
        parts = [segment.between(low, high) for segment in self.segments]
        every = Events.join([*parts, self.tail.span(low, high)]).in_order()
        names = every.keys()
        # Files that were being put together when the power went may both be there.
        twice = (names[1:] == names[:-1]) & (every.number[1:] == every.number[:-1])
        return every.select(np.append(True, ~twice)) if twice.any() else every

    def parts(self, low: int = ALL_KEYS[0], high: int = ALL_KEYS[1]) -> Iterator[Events]:
        """The same in pieces of bounded size, complete for their addresses."""
        starts = [segment.starts for segment in self.segments]
        marks = np.sort(np.concatenate([*starts, self.tail.keys()[::BLOCK], np.zeros(0, np.uint64)]))[_PART::_PART]
        edges = [int(mark) for mark in row_sets.distinct(marks >> _PSIDS << _PSIDS) if low < mark <= high]
        for begin, end in zip([low, *edges], [*(edge - 1 for edge in edges), high], strict=True):
            yield self.events(begin, end)

    def who_held(self, ipv4: IPv4Address, port: int | None, began: float, ended: float) -> Iterator[Life]:
        found = self._of_address(int(ipv4)).overlapping(began, ended)
        yield from _by_time(found if port is None else found.select(holding(found.rows, port)))

    def lives_of(self, prefix: IPv6Network, began: float, ended: float) -> Iterator[Life]:
        for found in self._candidates(prefix):
            found = found.overlapping(began, ended)
            yield from _by_time(found.select(inside(found.rows, prefix)))

    def _of_address(self, ipv4: int) -> Lives:
        return lives(self.events(row_sets.key_of(ipv4, 0), row_sets.key_of(ipv4, 0xFFFF)))

    def _candidates(self, prefix: IPv6Network) -> Iterator[Lives]:
        if prefix.prefixlen:
            addresses = self._addresses_of(prefix)
            if len(addresses) <= _FEW:
                yield from (self._of_address(address) for address in addresses.tolist())
                return
        for part in self.parts():
            yield lives(part)

    def _addresses_of(self, prefix: IPv6Network) -> Ids:
        """Files are not in order of B4 addresses, so all rows are looked at: about 0.1 s for a million."""
        every: Iterable[Rows] = (rows for segment in self.segments for rows in segment.all_rows())
        found = [self.tail.rows["ipv4"][inside(self.tail.rows, prefix)].astype(np.uint64)]
        for rows in every:
            matching = inside(rows, prefix)
            if matching.any():
                found.append(row_sets.distinct(rows["ipv4"][matching].astype(np.uint64)))
        return row_sets.distinct(np.concatenate(found))


def _by_time(found: Lives) -> Iterator[Life]:
    """In order of address, then of time."""
    sorting = np.lexsort((found.began, found.rows["ipv4"]))
    rows = row_sets.take(found.rows, sorting)
    yield from Lives(rows, found.source[sorting], found.began[sorting], found.ended[sorting]).each()
