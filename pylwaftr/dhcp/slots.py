"""The keys that leases are about, and what is programmed for each: columns, and indexes into them.

All sharers of an address have to divide its ports in the same way (RFC 7597 section 5.1), so each address has one pair
(offset, PSID-len) at a time, as long as anything of it is programmed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp import _ordinary
from pylwaftr.dhcp._index import KeyIndex
from pylwaftr.dhcp.codec_lease import LeaseRows
from pylwaftr.dhcp.records import Mask, Slots
from pylwaftr.rows import Rows

_LARGE = 1 << 20  # up to here the next size is four times as large: what is not used takes no memory
NOBODY = -1
UNCHANGED = -2
Keys = npt.NDArray[np.uint64]


def keys_of(rows: LeaseRows | Rows) -> Keys:
    """Address, offset, PSID-len and PSID in one number."""
    return _ordinary.keys_of(np.ascontiguousarray(rows).view(np.uint8), rows.dtype.itemsize)


def address_of(keys: Keys) -> Keys:
    return keys >> np.uint64(26)


def division_of(keys: Keys) -> npt.NDArray[np.uint16]:
    """Offset and PSID-len."""
    return (keys >> np.uint64(16) & np.uint64(0x3FF)).astype(np.uint16)


def each_key_once(keys: Keys) -> Iterator[npt.NDArray[np.intp] | slice]:
    """Parts of a batch, in order, none with a key twice."""
    rest = np.arange(len(keys), dtype=np.intp)
    while len(rest):
        first = np.unique(keys[rest], return_index=True)[1]
        if len(first) == len(rest):
            yield rest if len(rest) < len(keys) else slice(None)
            return
        first.sort()
        yield rest[first]
        rest = np.delete(rest, first).astype(np.intp)


class SlotTable:
    def __init__(self, capacity: int = 1024) -> None:
        self.count = 0  # slots that were ever used
        self.keys = np.zeros(capacity, np.uint64)
        self.b4 = np.zeros((capacity, 16), np.uint8)
        self.owner = np.full(capacity, NOBODY, np.int16)  # the server whose claim is programmed
        self.was = np.full(capacity, UNCHANGED, np.int16)  # owner, and B4, when the changes were last taken
        self.was_b4 = np.zeros((capacity, 16), np.uint8)
        self.changed = np.zeros(capacity, np.int32)  # the first `changes`: slots that have changed since
        self.changes = 0
        self._index = KeyIndex()
        self._free = np.zeros(0, np.int32)
        self._addresses = KeyIndex()
        self._address_count = 0
        self.division = np.zeros(capacity, np.uint16)  # these three are of addresses
        self.programmed = np.zeros(capacity, np.int32)  # bindings
        self.contested = np.zeros(capacity, np.bool_)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def capacity(self) -> int:
        return len(self.keys)

    # --- slots ---

    def find(self, keys: Keys) -> Slots:
        return self._index.find(keys)

    def room(self, more: int) -> bool:
        """Whether `make` of so many fits the columns."""
        return self.capacity >= self.needed(more)

    def needed(self, more: int) -> int:
        """The capacity with which it does; claims have to have it first."""
        capacity, least = self.capacity, self.count - len(self._free) + more
        while capacity < least:
            capacity *= 4 if capacity < _LARGE else 2
        return capacity

    def grow(self, capacity: int) -> None:
        """All of them or, without memory, none."""
        b4, was_b4, keys = _longer(self.b4, capacity), _longer(self.was_b4, capacity), _longer(self.keys, capacity)
        owner, was = _longer(self.owner, capacity, NOBODY), _longer(self.was, capacity, UNCHANGED)
        self.changed = _longer(self.changed, capacity)
        self.b4, self.was_b4, self.keys, self.owner, self.was = b4, was_b4, keys, owner, was

    def make(self, keys: Keys) -> Slots:
        """Slots for keys that have none, each once."""
        slots = self.place(keys)
        self.owner[slots] = NOBODY
        return slots

    def place(self, keys: Keys) -> Slots:
        """The slots of keys, new ones where there are none; there is room for all of them."""
        free = self._free[: len(keys)]
        fresh = np.arange(self.count, self.count + len(keys) - len(free), dtype=np.int32)
        slots, new = self._index.place(keys, np.concatenate([free, fresh]) if len(free) else fresh)
        if new:
            self.count += max(0, new - len(free))
            self._free = self._free[new:]
            self.keys[slots] = keys
        return slots

    def free(self, slots: Slots) -> None:
        self._index.remove(self.keys[slots])
        self.keys[slots] = 0
        self._free = np.concatenate([self._free, slots])

    def used(self) -> Slots:
        taken = np.ones(self.count, np.bool_)
        taken[self._free] = False
        return np.flatnonzero(taken).astype(np.int32)

    def of_address(self, ipv4: int) -> Slots:
        """All slots of an address; walks the column, so for rare occasions."""
        found = np.flatnonzero(address_of(self.keys[: self.count]) == np.uint64(ipv4))
        return found.astype(np.int32)

    # --- what is programmed ---

    def fits(self, slots: Slots) -> Mask:
        """Which of these new bindings agree with the division of their address, and with each other."""
        keys = self.keys[slots]
        at = self.places(keys)
        division = division_of(keys)
        idle = self.programmed[at] == 0
        first, where = np.unique(at[idle], return_index=True)
        self.division[first] = division[idle][where]
        ok: Mask = self.division[at] == division
        self.contested[at[~ok]] = True
        return ok

    def contest(self, slots: Slots) -> None:
        """Somebody else waits for these addresses."""
        self.contested[self.places(self.keys[slots])] = True

    def program(self, slots: Slots, b4: npt.NDArray[np.uint8], owner: int | npt.NDArray[np.int16]) -> None:
        new = slots[self.owner[slots] == NOBODY]
        np.add.at(self.programmed, self.places(self.keys[new]), 1)
        self.b4[slots] = b4
        self.owner[slots] = owner

    def clear(self, slots: Slots) -> npt.NDArray[np.uint32]:
        """Takes bindings away. Returns the addresses that are free now and were wanted by others."""
        at = self.places(self.keys[slots])
        np.subtract.at(self.programmed, at, 1)
        self.owner[slots] = NOBODY
        freed = (self.programmed[at] == 0) & self.contested[at]
        self.contested[at[freed]] = False
        return np.unique(address_of(self.keys[slots[freed]])).astype(np.uint32)

    # --- what has changed ---

    def note(self, slots: Slots) -> None:
        """How it stands before the first change since the last `take`. `slots`: each once."""
        slots = slots[self.was[slots] == UNCHANGED]
        self.was[slots], self.was_b4[slots] = self.owner[slots], self.b4[slots]
        self.changed[self.changes : self.changes + len(slots)] = slots
        self.changes += len(slots)

    def tell_again(self, slots: Slots) -> None:
        slots = slots[slots >= 0]
        slots = slots[self.owner[slots] != NOBODY]
        self.note(slots)
        self.was_b4[slots] = 0  # as if it had been another

    def changed_for(self) -> npt.NDArray[np.int16]:
        """For whom each change is: the server whose claim is programmed, or was."""
        slots = self.changed[: self.changes]
        owner: npt.NDArray[np.int16] = np.where(self.owner[slots] != NOBODY, self.owner[slots], self.was[slots])
        return owner

    def take(self, br: npt.NDArray[np.uint8]) -> tuple[Rows, Rows, Rows]:
        """Rows that are programmed no more, as they were; rows that are new, or were otherwise; these as they were."""
        slots = self.changed[: self.changes].copy()
        was, self.changes = self.was[slots] != NOBODY, 0
        self.was[slots] = UNCHANGED
        bound = self.owner[slots] != NOBODY
        if not was.any():
            none = slots[:0]
            return self.rows(none, br), self.rows(slots[bound], br), self.rows(none, br)
        moved = was & bound & (self.b4[slots] != self.was_b4[slots]).any(1)
        unbind = _ordinary.rows_of(slots[was & ~bound], self.keys, self.was_b4, br)
        former = _ordinary.rows_of(slots[moved], self.keys, self.was_b4, br)
        return unbind, self.rows(slots[bound & ~was | moved], br), former

    def rows(self, slots: Slots, br: npt.NDArray[np.uint8]) -> Rows:
        return _ordinary.rows_of(slots, self.keys, self.b4, br)

    def places(self, keys: Keys) -> Slots:
        """Of the addresses of these keys, in the columns of addresses."""
        addresses = address_of(keys)
        fresh = np.arange(self._address_count, self._address_count + len(addresses), dtype=np.int32)
        at, new = self._addresses.place(addresses, fresh)
        self._address_count += new
        while self._address_count > len(self.division):
            capacity = 2 * len(self.division)
            programmed, contested = _longer(self.programmed, capacity), _longer(self.contested, capacity)
            self.division, self.programmed, self.contested = _longer(self.division, capacity), programmed, contested
        return at


def _longer(column: npt.NDArray[Any], capacity: int, fill: int = 0) -> npt.NDArray[Any]:
    shape = (capacity, *column.shape[1:])
    longer = np.full(shape, fill, column.dtype) if fill else np.zeros(shape, column.dtype)  # zeros are no octets yet
    longer[: len(column)] = column
    return longer
