"""All mappings, and what has to stay in step with them: who has which, pools, expiry. `write` is the only door.

A batch of requests keeps a journal: of every mapping that it touched, the record from before. From that come its
binding rows, the records to store, and the way back if they could not be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import ceil

import numpy as np

from pylwaftr.pcp import mapping as m
from pylwaftr.pcp._fast import changed, net_rows
from pylwaftr.pcp.mapping import ACTIVE, FREED, Mapping
from pylwaftr.pcp.outcome import Outcome
from pylwaftr.pcp.pool import Pools, key_of
from pylwaftr.rows import BINDING_ROW


def subscriber_of(mask: int) -> Callable[[bytes], bytes]:
    """RFC 7785 section 3: from a tunnel's address to the name of the subscriber."""
    octets, bits = divmod(mask, 8)
    if not bits:
        return lambda tunnel: tunnel[:octets]
    last = 0xFF00 >> bits & 0xFF
    return lambda tunnel: tunnel[:octets] + bytes([tunnel[octets] & last])


class Mappings:
    def __init__(self, pools: Pools, mask: int) -> None:
        self.pools = pools
        self.subscriber = subscriber_of(mask)
        self.records: dict[int, bytes] = {}
        self.holders: dict[bytes, tuple[int, ...]] = {}  # subscriber -> keys, the freed ones too
        self.active = 0
        self._foreign: dict[int, int] = {}  # address -> how many sets it has that its pool does not know
        self.journal: dict[int, bytes | None] = {}
        self.buckets: dict[int, list[int]] = {}  # second -> keys to look at then
        self._seconds: list[int] = []  # heap of those
        self.due: dict[int, int] = {}  # key -> second

    def of(self, subscriber: bytes) -> list[tuple[int, Mapping]]:
        return [(key, m.decode(self.records[key])) for key in self.holders.get(subscriber, ())]

    def get(self, key: int) -> Mapping | None:
        record = self.records.get(key)
        return None if record is None else m.decode(record)

    def on_address(self, ipv4: int, psid_len: int, bits: int) -> list[int]:
        """Keys on an address among those PSIDs."""
        found = []
        bits &= (1 << (1 << psid_len)) - 1
        while bits:
            key = key_of(ipv4, psid_len, (bits & -bits).bit_length() - 1)
            if key in self.records:
                found.append(key)
            bits &= bits - 1
        return found

    # --- change

    def put(self, key: int, mapping: Mapping) -> None:
        self.write(key, m.encode(mapping))

    def remove(self, key: int) -> None:
        self.write(key, None)

    def write(self, key: int, record: bytes | None) -> None:
        before = self.records.get(key)
        self.journal.setdefault(key, before)
        self._write(key, before, record)

    def _write(self, key: int, before: bytes | None, record: bytes | None) -> None:
        if record is None:
            self.records.pop(key, None)
        else:
            self.records[key] = record
        was = 0 if before is None else before[1]
        now = 0 if record is None else record[1]
        self._own(key, before, record)
        if was != now or now == FREED:
            self._move_in_pool(key, was, now, record)
        if record is not None and now == ACTIVE:
            self.watch(key, ceil(m.until(record)))

    def _own(self, key: int, before: bytes | None, record: bytes | None) -> None:
        had = None if before is None else self.subscriber(before[20:36])
        has = None if record is None else self.subscriber(record[20:36])
        if had == has:
            return
        if had is not None:
            left = tuple(one for one in self.holders[had] if one != key)
            if left:
                self.holders[had] = left
            else:
                del self.holders[had]
        if has is not None:
            self.holders[has] = (*self.holders.get(has, ()), key)

    def _move_in_pool(self, key: int, was: int, now: int, record: bytes | None) -> None:
        self.active += (now == ACTIVE) - (was == ACTIVE)
        pool = self.pools.of(key)
        if pool is None:
            self._drain(key, (now != 0) - (was != 0))
            return
        pool.held += (now == ACTIVE) - (was == ACTIVE)
        if now == ACTIVE:
            pool.hold(key)
        elif record is None:
            pool.free(key, 0.0)
        else:
            pool.free(key, m.until(record))

    def _drain(self, key: int, change: int) -> None:
        """A set of a pool that went. While the address has one of another length it has no other."""
        ipv4, psid_len, _ = key >> 21, key >> 16 & 31, key & 0xFFFF
        count = self._foreign.get(ipv4, 0) + change
        pool = self.pools.at(ipv4)
        if count > 0:
            self._foreign[ipv4] = count
        else:
            self._foreign.pop(ipv4, None)
        if pool is not None and pool.psid_len != psid_len:
            pool.block(ipv4) if count > 0 else pool.unblock(ipv4)

    def recut(self, pools: Pools, mask: int) -> None:
        """Other pools, another subscriber mask: every mapping finds its place anew, and none is lost."""
        self.pools, self.subscriber = pools, subscriber_of(mask)
        self.holders.clear()
        self._foreign.clear()
        self.active = 0
        for key, record in self.records.items():
            self._own(key, None, record)
            self._move_in_pool(key, 0, record[1], record)

    # --- expiry

    def watch(self, key: int, second: int) -> None:
        if self.due.get(key, second + 1) > second:
            self.due[key] = second
            bucket = self.buckets.get(second)
            if bucket is None:
                self.buckets[second] = [key]
                heappush(self._seconds, second)
            else:
                bucket.append(key)

    def timer(self) -> float | None:
        return self._seconds[0] if self._seconds else None

    def expired(self, now: float, limit: int) -> list[int]:
        """Keys whose time is over; that many are looked at, and not again."""
        found: list[int] = []
        while self._seconds and self._seconds[0] <= now and limit > 0:
            second = self._seconds[0]
            bucket = self.buckets[second]
            some = bucket[-limit:]
            limit -= len(some)
            del bucket[-len(some) :]
            if not bucket:
                del self.buckets[heappop(self._seconds)]
            found += [key for key in some if self.due.get(key) == second and self._is_over(key, now)]
        return found

    def _is_over(self, key: int, now: float) -> bool:
        del self.due[key]
        record = self.records.get(key)
        if record is None or record[1] != ACTIVE:
            return False
        until = m.until(record)
        if until > now:  # renewed meanwhile
            self.watch(key, ceil(until))
        return until <= now

    # --- batches

    def take(self, outcome: Outcome) -> Outcome:
        """Ends a batch: its net effect goes into the outcome."""
        journal, self.journal = self.journal, {}
        outcome.records |= changed(journal, self.records)
        outcome.before = journal
        bind, unbind = net_rows(journal, self.records)
        if bind:
            outcome.bind = np.frombuffer(bind, BINDING_ROW)
        if unbind:
            outcome.unbind = np.frombuffer(unbind, BINDING_ROW)
        return outcome

    def restore(self, before: dict[int, bytes | None]) -> None:
        for key, record in before.items():
            self._write(key, self.records.get(key), record)

    def load(self, records: Iterable[tuple[int, bytes]]) -> None:
        for key, record in records:
            self._write(key, None, record)
