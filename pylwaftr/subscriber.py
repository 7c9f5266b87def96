"""Subscribers (RFC 7785): who is one, how many softwires it may have, how often it may move.

A subscriber is a prefix. Its softwires are the distinct pairs of B4 and BR address in its bindings, whoever made them;
several port sets of one pair are one softwire. They are counted in two hash tables of columns (open addressing, linear
probing), so that a million bindings come and go at the speed of numpy in about 100 octets each.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pylwaftr.rows import PREFIX_MASKS, Octets, Rows

Words = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.int64]

_SMALLEST = 1024  # slots, a power of two
_FULL = 0.6
_CHUNK = 65536  # keys


class _Counts:
    """Key (some 64-bit words) -> count. A key whose count is 0 stays until the table is full."""

    def __init__(self, words: int) -> None:
        self._seeds = np.array([secrets.randbits(64) | 1 for _ in range(words)], np.uint64)
        self._make(_SMALLEST, words)

    def _make(self, capacity: int, words: int) -> None:
        self.keys = np.zeros((capacity, words), np.uint64)
        self.counts = np.zeros(capacity, np.int32)
        self._used = np.zeros(capacity, np.bool_)
        self._claims = np.zeros(capacity, np.int32)
        self._filled = 0

    def _homes(self, keys: Words) -> Slots:
        mixed = np.bitwise_xor.reduce((keys ^ keys >> np.uint64(32)) * self._seeds, axis=1)
        mixed = (mixed ^ mixed >> np.uint64(29)) * self._seeds[0]
        homes: Slots = ((mixed ^ mixed >> np.uint64(32)) & np.uint64(len(self._used) - 1)).astype(np.int64)
        return homes

    def slots(self, keys: Words) -> Slots:
        """Where they are; who is new gets a slot with count 0. Slots hold until the next call."""
        if self._filled + len(keys) > _FULL * len(self._used):  # if all of them were new
            self._remake(np.flatnonzero(self.counts), min(len(keys), _CHUNK))
            for begin in range(0, len(keys), _CHUNK):
                some = keys[begin : begin + _CHUNK]
                if self._filled + len(some) > _FULL * len(self._used):
                    self._remake(np.flatnonzero(self._used), len(some))
                self._place(some)
        return self._place(keys)

    def _place(self, keys: Words) -> Slots:
        found = self._homes(keys)
        waiting = np.arange(len(keys))
        while len(waiting):
            at = found[waiting]
            empty = ~self._used[at]
            if empty.any():  # of several that want one empty slot, the last to write has it
                self._claims[at[empty]] = waiting[empty]
                winners = waiting[empty][self._claims[at[empty]] == waiting[empty]]
                places = found[winners]
                self.keys[places], self._used[places] = keys[winners], True
                self._filled += len(winners)
            elsewhere = (self.keys[at] != keys[waiting]).any(axis=1)
            waiting = waiting[elsewhere]
            found[waiting] = (found[waiting] + 1) & (len(self._used) - 1)
        return found

    def find(self, key: Words) -> int:
        """Count of one key."""
        at = int(self._homes(key[None])[0])
        while self._used[at]:
            if (self.keys[at] == key).all():
                return int(self.counts[at])
            at = (at + 1) & (len(self._used) - 1)
        return 0

    def _remake(self, kept: Slots, more: int) -> None:
        """With those slots and room for so many more."""
        keys, counts = self.keys[kept], self.counts[kept]
        capacity = _SMALLEST
        while len(keys) + more > 0.9 * _FULL * capacity:
            capacity *= 2
        self._make(capacity, self.keys.shape[1])
        self.counts[self._place(keys)] = counts

    def octets(self) -> int:
        return self.keys.nbytes + self.counts.nbytes + self._used.nbytes + self._claims.nbytes


def _halves(addresses: Octets) -> Words:
    return np.ascontiguousarray(addresses).view(">u8").astype(np.uint64)


class Subscribers:
    """Softwires of every subscriber. Rows that take the place of others: `remove` those, then `refused`, then `add`."""

    def __init__(self, mask: int, max_softwires: int) -> None:
        self.mask, self.max_softwires = mask, max_softwires
        self._softwires = _Counts(4)  # of bindings
        self._prefixes = _Counts(2)  # of softwires

    def refused(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows would be one softwire too many, beside those that there are and the rows before them."""
        slots, prefixes = self._slots(rows)
        fresh = np.flatnonzero(self._softwires.counts[slots] == 0)
        _, firsts = np.unique(slots[fresh], return_index=True)
        new = np.sort(fresh[firsts])  # each new softwire once, in the order of the rows
        order = np.argsort(prefixes[new], kind="stable")
        grouped = prefixes[new][order]
        begins = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]])) if len(grouped) else order
        lengths = np.diff(np.append(begins, len(grouped)))
        ranks = np.arange(len(grouped)) - np.repeat(begins, lengths)
        over = self._prefixes.counts[grouped] + ranks >= self.max_softwires
        return np.isin(slots, slots[new][order][over])

    def add(self, rows: Rows) -> None:
        slots, prefixes = self._slots(rows)
        fresh = self._softwires.counts[slots] == 0
        _, firsts = np.unique(slots[fresh], return_index=True)
        np.add.at(self._softwires.counts, slots, 1)
        np.add.at(self._prefixes.counts, prefixes[fresh][firsts], 1)

    def remove(self, rows: Rows) -> None:
        """Rows that were added."""
        slots, prefixes = self._slots(rows)
        np.subtract.at(self._softwires.counts, slots, 1)
        gone = self._softwires.counts[slots] == 0
        _, firsts = np.unique(slots[gone], return_index=True)
        np.subtract.at(self._prefixes.counts, prefixes[gone][firsts], 1)

    def softwires(self, b4: bytes) -> int:
        """Of the subscriber that an address belongs to."""
        address = np.frombuffer(b4, np.uint8) & PREFIX_MASKS[self.mask]
        return self._prefixes.find(_halves(address)[:2])

    def octets(self) -> int:
        """Of memory."""
        return self._softwires.octets() + self._prefixes.octets()

    def _slots(self, rows: Rows) -> tuple[Slots, Slots]:
        b4, br = _halves(rows["b4"]), _halves(rows["br"])
        prefixes = _halves(rows["b4"] & PREFIX_MASKS[self.mask])
        return self._softwires.slots(np.hstack([b4, br])), self._prefixes.slots(prefixes)


@dataclass(frozen=True, slots=True)
class Verdict:
    allowed: bool
    reason: str = ""  # disabled | other_subscriber | too_soon
    wait_s: float = 0.0


class Moves:
    """Whether a subscriber's bindings follow it to a new address (RFC 7785 section 4.3)."""

    def __init__(self, mask: int, on_new_address: str, min_change_interval_s: int) -> None:
        self.mask, self.on_new_address, self.interval_s = mask, on_new_address, min_change_interval_s
        self._last: dict[int, float] = {}  # prefix -> when, the longest ago first

    def judge(self, before: bytes, after: bytes, now: float, by_data: bool) -> Verdict:
        """`by_data`: a packet shows the new address, not a PCP request with the right nonce."""
        if self._prefix(before) != self._prefix(after):
            return Verdict(False, "other_subscriber")
        if self.on_new_address == "reject" or (by_data and self.on_new_address != "data"):
            return Verdict(False, "disabled")
        self._forget(now)
        last = self._last.get(self._prefix(after))
        if last is not None:
            return Verdict(False, "too_soon", last + self.interval_s - now)
        return Verdict(True)

    def note(self, b4: bytes, now: float) -> None:
        """It moved."""
        prefix = self._prefix(b4)
        self._last.pop(prefix, None)
        self._last[prefix] = now

    def _forget(self, now: float) -> None:
        while self._last:
            prefix, when = next(iter(self._last.items()))
            if now - when < self.interval_s:
                return
            del self._last[prefix]

    def _prefix(self, b4: bytes) -> int:
        return int.from_bytes(b4) >> (128 - self.mask)
