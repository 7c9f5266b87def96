"""The keys that leases are about, and what is programmed for each: columns, and indexes into them.

All sharers of an address have to divide its ports in the same way (RFC 7597 section 5.1), so each address has one pair
(offset, PSID-len) at a time, as long as anything of it is programmed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp._index import KeyIndex
from pylwaftr.dhcp.codec_lease import LeaseRows
from pylwaftr.dhcp.records import Mask, Slots
from pylwaftr.rows import BINDING_ROW, Rows

NOBODY = -1
Keys = npt.NDArray[np.uint64]


def keys_of(rows: LeaseRows | Rows) -> Keys:
    """Address, offset, PSID-len and PSID in one number."""
    keys = rows["ipv4"].astype(np.uint64) << np.uint64(26)
    keys |= rows["psid_offset"].astype(np.uint64) << np.uint64(21)
    keys |= rows["psid_len"].astype(np.uint64) << np.uint64(16)
    keys |= rows["psid"]
    return keys


def address_of(keys: Keys) -> Keys:
    return keys >> np.uint64(26)


def division_of(keys: Keys) -> npt.NDArray[np.uint16]:
    """Offset and PSID-len."""
    return (keys >> np.uint64(16) & np.uint64(0x3FF)).astype(np.uint16)


class SlotTable:
    def __init__(self, capacity: int = 1024) -> None:
        self.count = 0  # slots that were ever used
        self.keys = np.zeros(capacity, np.uint64)
        self.b4 = np.zeros((capacity, 16), np.uint8)
        self.owner = np.full(capacity, NOBODY, np.int16)  # the server whose claim is programmed
        self._index = KeyIndex()
        self._free = np.zeros(0, np.int32)
        self._addresses = KeyIndex()
        self._address_count = 0
        self._division = np.zeros(capacity, np.uint16)
        self._programmed = np.zeros(capacity, np.int32)  # bindings of the address
        self._contested = np.zeros(capacity, np.bool_)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def capacity(self) -> int:
        return len(self.keys)

    # --- slots ---

    def find(self, keys: Keys) -> Slots:
        return self._index.find(keys)

    def room(self, more: int) -> bool:
        """Whether `make` of so many needs the columns to grow; claims have to grow with them."""
        return len(self._free) + self.capacity - self.count >= more

    def grow(self) -> None:
        capacity = self.capacity * 2
        self.keys = np.resize(self.keys, capacity)
        self.b4 = np.concatenate([self.b4, np.zeros_like(self.b4)])
        self.owner = np.concatenate([self.owner, np.full_like(self.owner, NOBODY)])

    def make(self, keys: Keys) -> Slots:
        """Slots for keys that have none, each once."""
        reused = self._free[: len(keys)]
        self._free = self._free[len(keys) :]
        fresh = np.arange(self.count, self.count + len(keys) - len(reused), dtype=np.int32)
        self.count += len(fresh)
        slots: Slots = np.concatenate([reused, fresh])
        self.keys[slots] = keys
        self.owner[slots] = NOBODY
        self._index.put(keys, slots)
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
        at = self._address_slots(address_of(keys))
        division = division_of(keys)
        idle = self._programmed[at] == 0
        first, where = np.unique(at[idle], return_index=True)
        self._division[first] = division[idle][where]
        ok: Mask = self._division[at] == division
        self._contested[at[~ok]] = True
        return ok

    def contest(self, slots: Slots) -> None:
        """Somebody else waits for these addresses."""
        self._contested[self._address_slots(address_of(self.keys[slots]))] = True

    def program(self, slots: Slots, b4: npt.NDArray[np.uint8], owner: int | npt.NDArray[np.int16]) -> None:
        new = slots[self.owner[slots] == NOBODY]
        np.add.at(self._programmed, self._address_slots(address_of(self.keys[new])), 1)
        self.b4[slots] = b4
        self.owner[slots] = owner

    def clear(self, slots: Slots) -> npt.NDArray[np.uint32]:
        """Takes bindings away. Returns the addresses that are free now and were wanted by others."""
        at = self._address_slots(address_of(self.keys[slots]))
        np.subtract.at(self._programmed, at, 1)
        self.owner[slots] = NOBODY
        freed = (self._programmed[at] == 0) & self._contested[at]
        self._contested[at[freed]] = False
        return np.unique(address_of(self.keys[slots[freed]])).astype(np.uint32)

    def rows(self, slots: Slots, br: npt.NDArray[np.uint8]) -> Rows:
        keys = self.keys[slots]
        rows = np.zeros(len(slots), BINDING_ROW)
        rows["ipv4"] = address_of(keys)
        rows["psid_offset"] = keys >> np.uint64(21) & np.uint64(31)
        rows["psid_len"] = keys >> np.uint64(16) & np.uint64(31)
        rows["psid"] = keys & np.uint64(0xFFFF)
        rows["b4"] = self.b4[slots]
        rows["br"] = br
        return rows

    def _address_slots(self, addresses: Keys) -> Slots:
        at = self._addresses.find(addresses)
        missing = at < 0
        if missing.any():
            new = np.unique(addresses[missing])
            fresh = np.arange(self._address_count, self._address_count + len(new), dtype=np.int32)
            self._address_count += len(new)
            while self._address_count > len(self._division):
                self._division = np.concatenate([self._division, np.zeros_like(self._division)])
                self._programmed = np.concatenate([self._programmed, np.zeros_like(self._programmed)])
                self._contested = np.concatenate([self._contested, np.zeros_like(self._contested)])
            self._addresses.put(new, fresh)
            at = self._addresses.find(addresses)
        return at
