"""Port sets to hand out.

A set has a key, one integer: IPv4 address, PSID length, PSID (offset is always 0: PORT_SET names one range). A pool
knows of each address which sets are not fresh any more (`used`), and in `freed` those that came back, the longest free
first.
Fresh sets go column by column (PSID) over all addresses: an address then has as few users as possible, and a
subscriber's further set finds room on the same address. One cursor a column makes that a few steps, whatever the size;
memory is taken by addresses that have users only.

Whom a set belongs to is the business of the mappings; this file knows neither subscribers nor requests.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pylwaftr.pcp.settings import PoolConfig
from pylwaftr.rows import Rows

PCP_PORTS = (5350, 5351)  # never mapped for UDP (RFC 6887 section 11.3), and a set is for all protocols
# Sets that came back are in the order of time. One that lies in the wanted range is looked for among so many of them.
_LOOK_AT = 256


def key_of(ipv4: int, psid_len: int, psid: int) -> int:
    return ipv4 << 21 | psid_len << 16 | psid


def parts(key: int) -> tuple[int, int, int]:
    """IPv4 address, PSID length, PSID."""
    return key >> 21, key >> 16 & 31, key & 0xFFFF


def ports_of(key: int) -> tuple[int, int]:
    """First and last port. Port 0 of a whole address cannot be asked for, so it begins with 1."""
    size = 0x10000 >> (key >> 16 & 31)
    first = (key & 0xFFFF) * size
    return (1, 65535) if size == 0x10000 else (first, first + size - 1)


class Pool:
    """One prefix, cut in sets of one size."""

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self.psid_len = config.psid_len
        self.first = int(config.ipv4.network_address)
        self.addresses = config.ipv4.num_addresses
        self.legacy = config.signalling == "draft-b"
        self.allowed = _allowed(config)  # bits: PSIDs
        self.sets = self.allowed.bit_count() * self.addresses
        self.held = 0  # sets with a mapping
        self.used: dict[int, int] = {}  # address -> bits
        self.reserved: dict[int, int] = {}  # the same for bindings of others
        self.blocked: set[int] = set()  # addresses with a set of another length, from before the pool was cut anew
        self.freed: OrderedDict[int, float] = OrderedDict()  # key -> since when
        self._fresh = self.allowed  # columns that may have fresh sets
        self._cursors = array("Q", bytes(8 << self.psid_len))

    def window(self, low: int, high: int) -> int:
        """Bits of the sets that lie within these ports."""
        if self.psid_len == 0:
            return self.allowed if low <= 1 and high == 65535 else 0
        shift = 16 - self.psid_len
        first = (low + (1 << shift) - 1) >> shift
        behind = (high + 1) >> shift
        return self.allowed & (1 << behind) - (1 << first) if behind > first else 0

    def offers(self, key: int) -> bool:
        """Whether it is a set of this pool, whoever has it."""
        return key >> 16 & 31 == self.psid_len and self.allowed >> (key & 0xFFFF) & 1 == 1

    def fresh(self, window: int) -> int | None:
        """A set that nobody had, or at least nobody waits for."""
        if self.freed:
            key = self.returned(window, 0.0)
            if key is not None:
                return key
        columns = self._fresh & window
        while columns:
            psid = (columns & -columns).bit_length() - 1
            index = self._cursors[psid]
            while index < self.addresses:
                if not self.used.get(self.first + index, 0) >> psid & 1:
                    self._cursors[psid] = index
                    return key_of(self.first + index, self.psid_len, psid)
                index += 1
            self._cursors[psid] = index
            self._fresh &= ~(1 << psid)
            columns &= columns - 1
        return None

    def returned(self, window: int, before: float) -> int | None:
        """The set that is free longest, if it came back before that time."""
        for looked, (key, since) in enumerate(self.freed.items()):
            if since > before or looked == _LOOK_AT:
                return None
            if window >> (key & 0xFFFF) & 1 and not self.is_reserved(key):
                return key
        return None

    def on_address(self, ipv4: int, window: int, before: float) -> int | None:
        """A set of that address: fresh, or free since before that time."""
        if ipv4 in self.blocked:
            return None
        window &= ~self.reserved.get(ipv4, 0)
        fresh = window & ~self.used.get(ipv4, 0)
        if fresh:
            return key_of(ipv4, self.psid_len, (fresh & -fresh).bit_length() - 1)
        while window and self.freed:
            key = key_of(ipv4, self.psid_len, (window & -window).bit_length() - 1)
            if self.freed.get(key, before + 1) <= before:
                return key
            window &= window - 1
        return None

    def is_free(self, key: int, before: float) -> bool:
        ipv4, psid = key >> 21, key & 0xFFFF
        if self.is_reserved(key):
            return False
        return not self.used.get(ipv4, 0) >> psid & 1 or self.freed.get(key, before + 1) <= before

    def is_reserved(self, key: int) -> bool:
        ipv4 = key >> 21
        return self.reserved.get(ipv4, 0) >> (key & 0xFFFF) & 1 == 1 or ipv4 in self.blocked

    # --- what became of a set

    def hold(self, key: int) -> None:
        ipv4 = key >> 21
        self.used[ipv4] = self.used.get(ipv4, 0) | 1 << (key & 0xFFFF)
        self.freed.pop(key, None)

    def free(self, key: int, since: float) -> None:
        """Since 0 = nobody waits for it."""
        self.hold(key)
        self.freed[key] = since
        if not since:
            self.freed.move_to_end(key, last=False)

    def reserve(self, ipv4: int, bits: int) -> None:
        """For a binding of somebody else."""
        self.reserved[ipv4] = self.reserved.get(ipv4, 0) | bits
        self.used[ipv4] = self.used.get(ipv4, 0) | bits

    def unreserve(self, ipv4: int, bits: int, still_held: int, now: float) -> None:
        """`still_held`: bits of sets that have a mapping, active or waiting."""
        left = self.reserved.pop(ipv4, 0) & ~bits
        if left:
            self.reserved[ipv4] = left
        if ipv4 not in self.blocked:
            self._return(ipv4, bits & self.allowed & ~left & ~still_held, now)

    def block(self, ipv4: int) -> None:
        """One address cannot have sets of two lengths."""
        self.blocked.add(ipv4)
        self.used[ipv4] = (1 << (1 << self.psid_len)) - 1

    def unblock(self, ipv4: int) -> None:
        self.blocked.discard(ipv4)
        self._return(ipv4, self.allowed & ~self.reserved.get(ipv4, 0), 0.0)

    def _return(self, ipv4: int, bits: int, since: float) -> None:
        while bits:
            self.free(key_of(ipv4, self.psid_len, (bits & -bits).bit_length() - 1), since)
            bits &= bits - 1

    def free_sets(self) -> int:
        """Sets that nobody has and nothing reserves; those in quarantine count as free."""
        reserved = sum((bits & self.allowed).bit_count() for bits in self.reserved.values())
        return max(0, self.sets - reserved - self.held)


def _allowed(config: PoolConfig) -> int:
    if config.psid_len == 0:
        return 1  # a whole address is given as such: 1 to 65535
    shift = 16 - config.psid_len
    bits = (1 << (1 << config.psid_len)) - 2  # no request for a set can name port 0
    for low, high in (*config.exclude_ports, PCP_PORTS):
        bits &= ~((1 << ((high >> shift) + 1)) - (1 << (low >> shift)))
    return bits


class Pools:
    """All of them, in the order of the configuration: the first with a free set gives it."""

    def __init__(self, configs: Iterable[PoolConfig]) -> None:
        self.all: tuple[Pool, ...] = tuple(Pool(config) for config in configs)
        self._sorted = sorted(self.all, key=lambda pool: pool.first)
        self._firsts = [pool.first for pool in self._sorted]

    def at(self, ipv4: int) -> Pool | None:
        """The pool that an address is in."""
        index = bisect_right(self._firsts, ipv4) - 1
        if index < 0:
            return None
        pool = self._sorted[index]
        return pool if ipv4 < pool.first + pool.addresses else None

    def of(self, key: int) -> Pool | None:
        """The pool that offers a set; None if its pool went or was cut otherwise: the set is being drained."""
        pool = self.at(key >> 21)
        return pool if pool is not None and pool.offers(key) else None

    def containing(self, ipv4: int, port: int) -> tuple[Pool, int] | None:
        """The set that a port is in."""
        pool = self.at(ipv4)
        if pool is None:
            return None
        key = key_of(ipv4, pool.psid_len, port >> (16 - pool.psid_len))
        return (pool, key) if pool.offers(key) else None

    def any_set(self, low: int, high: int, before: float) -> int | None:
        """A set within these ports that is fresh, or else free since before that time."""
        windows = [(pool, pool.window(low, high)) for pool in self.all]
        for pool, window in windows:
            key = pool.fresh(window) if window else None
            if key is not None:
                return key
        for pool, window in windows:
            key = pool.returned(window, before) if window and pool.freed else None
            if key is not None:
                return key
        return None


def reserved_bits(pools: Pools, rows: Rows) -> Iterator[tuple[Pool, int, int]]:
    """(pool, address, bits) that bindings of others take: their set, or the whole address if that is cut otherwise.

    The core's table has one PSID length an address, so a set of another length cannot be bound beside them.
    """
    for pool in pools.all:
        inside = rows[(rows["ipv4"] >= pool.first) & (rows["ipv4"].astype(np.uint64) < pool.first + pool.addresses)]
        same = (inside["psid_len"] == pool.psid_len) & (inside["psid_offset"] == 0)
        everything = (1 << (1 << pool.psid_len)) - 1
        for ipv4 in np.unique(inside["ipv4"][~same]).tolist():
            yield pool, ipv4, everything
        yield from ((pool, ipv4, bits) for ipv4, bits in _bits(inside[same]))


def _bits(rows: Rows) -> Iterator[tuple[int, int]]:
    """One integer per address, a bit for each of its PSIDs; 64 bits at a time."""
    if not len(rows):
        return
    words = rows["ipv4"].astype(np.uint64) << np.uint64(10) | (rows["psid"] >> 6).astype(np.uint64)
    order = np.argsort(words, kind="stable")
    words = words[order]
    starts = np.flatnonzero(np.concatenate([[True], words[1:] != words[:-1]]))
    masks = np.bitwise_or.reduceat(np.uint64(1) << (rows["psid"][order] & 63).astype(np.uint64), starts)
    for word, mask in zip(words[starts].tolist(), masks.tolist(), strict=True):
        yield word >> 10, mask << ((word & 1023) << 6)


def describe(key: int) -> str:
    ipv4, _, _ = parts(key)
    low, high = ports_of(key)
    return f"{ipv4 >> 24}.{ipv4 >> 16 & 255}.{ipv4 >> 8 & 255}.{ipv4 & 255} ports {low}-{high}"


def keys_of_rows(rows: Rows) -> Sequence[int]:
    keys: list[int] = (
        rows["ipv4"].astype(np.int64) << 21 | rows["psid_len"].astype(np.int64) << 16 | rows["psid"].astype(np.int64)
    ).tolist()
    return keys
