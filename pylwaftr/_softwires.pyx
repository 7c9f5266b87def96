# cython: boundscheck=False, wraparound=False, cdivision=True
"""How many bindings each softwire has, and how many softwires each subscriber: two hash tables, a million rows a moment.

Open addressing. A key whose count is 0 keeps its place until the table is made anew, so nothing has to move up.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free

from pylwaftr._tables cimport AHEAD, Address, Row, address, hashed, mask_of, masked, prefetch, same, zeros

import secrets

import numpy as np

from pylwaftr import row_sets
from pylwaftr.rows import BINDING_ROW

if BINDING_ROW.itemsize != sizeof(Row):
    raise ImportError("BINDING_ROW and the compiled row differ")

cdef struct Entry:
    Address key
    uint32_t way  # 0 = the entry is free
    uint32_t count

cdef enum:
    SMALLEST = 1024
    SHARE_BITS = 16  # of an entry of Shares: the count; above it the hash
    SHARES_MOST = 0xFFFF


cdef class Counts:
    cdef Entry* _entries
    cdef size_t _mask
    cdef size_t _filled
    cdef uint64_t _seed

    def __cinit__(self):
        self._seed = secrets.randbits(64)
        self._entries = NULL
        self._make(SMALLEST)

    def __dealloc__(self):
        free(self._entries)

    cdef int _make(self, size_t size) except -1 nogil:
        """Those that there are stay the caller's; without memory for others nothing has changed."""
        cdef Entry* entries = <Entry*>zeros(size * sizeof(Entry))
        if entries == NULL:
            with gil:
                raise MemoryError
        self._entries, self._mask, self._filled = entries, size - 1, 0
        return 0

    cdef inline size_t _home(self, Address key, uint32_t way) noexcept nogil:
        return (hashed(key, self._seed) + way * <uint64_t>0x9E3779B97F4A7C15) & self._mask

    cdef inline Entry* _find(self, Address key, uint32_t way) noexcept nogil:
        """Its entry, or the free one where it would be."""
        cdef size_t at = self._home(key, way)
        while self._entries[at].way and not (self._entries[at].way == way and same(self._entries[at].key, key)):
            at = (at + 1) & self._mask
        return &self._entries[at]

    cdef inline void soon(self, Address key, uint32_t way) noexcept nogil:
        prefetch(&self._entries[self._home(key, way)])

    cdef Entry* place(self, Address key, uint32_t way) except NULL nogil:
        """Its entry, with count 0 if there was none. Good until the next call."""
        cdef Entry* found = self._find(key, way)
        if found.way:
            return found
        if (self._filled + 1) * 5 > (self._mask + 1) * 3:
            self._remake()
            found = self._find(key, way)
        self._filled += 1
        found.key, found.way, found.count = key, way, 0
        return found

    cdef uint32_t count(self, Address key, uint32_t way) noexcept nogil:
        return self._find(key, way).count

    cdef int _remake(self) except -1 nogil:
        """Without keys whose count is 0, and at most half as full as it may be."""
        cdef Entry* old = self._entries
        cdef size_t size = self._mask + 1, live = 0, capacity = SMALLEST, i, j
        for i in range(size):
            live += old[i].count != 0
        while live * 10 > capacity * 3:
            capacity *= 2
        self._make(capacity)
        for i in range(size):
            if i % AHEAD == 0:
                for j in range(i, i + AHEAD):  # sizes are powers of two
                    if old[j].count:
                        self.soon(old[j].key, old[j].way)
            if old[i].count:
                self._find(old[i].key, old[i].way)[0] = old[i]
        self._filled = live
        free(old)
        return 0


cdef class Shares:
    """How many rows of one batch each subscriber has, by its hash: two of the same hash count as one."""

    cdef uint64_t* _entries
    cdef size_t _mask

    def __cinit__(self, size_t rows):
        cdef size_t size = 64
        while size < 2 * rows:
            size *= 2
        self._entries, self._mask = <uint64_t*>zeros(size * sizeof(uint64_t)), size - 1
        if self._entries == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._entries)

    cdef inline uint64_t* _find(self, uint64_t name) noexcept nogil:
        """Its entry, or the free one where it would be."""
        cdef size_t at = name >> SHARE_BITS & self._mask
        while self._entries[at] and self._entries[at] >> SHARE_BITS != name >> SHARE_BITS:
            at = (at + 1) & self._mask
        return &self._entries[at]

    cdef inline void add(self, uint64_t name) noexcept nogil:
        cdef uint64_t* found = self._find(name)
        if not found[0]:
            found[0] = name >> SHARE_BITS << SHARE_BITS
        if found[0] & SHARES_MOST < SHARES_MOST:
            found[0] += 1

    cdef inline uint64_t count(self, uint64_t name) noexcept nogil:
        """SHARES_MOST: or more."""
        return self._find(name)[0] & SHARES_MOST


cdef class Softwires:
    """Rows are BINDING_ROW, contiguous."""

    cdef Counts _softwires  # B4 and BR -> bindings
    cdef Counts _subscribers  # prefix -> softwires
    cdef Address _mask
    cdef dict _brs  # BR -> a number from 1 on; there are a few
    cdef Address _last_br
    cdef uint32_t _last

    def __init__(self, int mask):
        self._softwires, self._subscribers = Counts(), Counts()
        self._mask = mask_of(mask)
        self._brs, self._last = {}, 0

    def recut(self, int mask):
        """Other subscribers: the softwires stay."""
        cdef Counts softwires = self._softwires, subscribers = Counts()
        cdef size_t i
        self._mask = mask_of(mask)
        for i in range(softwires._mask + 1):
            if softwires._entries[i].count:
                subscribers.place(masked(softwires._entries[i].key, self._mask), 1).count += 1
        self._subscribers = subscribers

    def add(self, rows, uint32_t most):
        """Whether one of their subscribers has more softwires than that now."""
        cdef const uint8_t[::1] octets = rows.view(np.uint8)
        cdef Py_ssize_t i, count = len(rows)
        cdef uint32_t highest = 0
        if not count:
            return False
        cdef const Row* row = <const Row*>&octets[0]
        with nogil:
            for i in range(count):
                if i % AHEAD == 0:
                    self._soon(row, i, count)
                highest = max(highest, self._come(&row[i]))
        return highest > most

    def remove(self, rows):
        """Rows that were added. Which of them were."""
        found = np.zeros(len(rows), np.bool_)
        cdef const uint8_t[::1] octets = rows.view(np.uint8)
        cdef uint8_t[::1] done = found.view(np.uint8)
        cdef Py_ssize_t i, count = done.shape[0]
        if not count:
            return found
        cdef const Row* row = <const Row*>&octets[0]
        with nogil:
            for i in range(count):
                if i % AHEAD == 0:
                    self._soon(row, i, count)
                done[i] = self._drop(&row[i])
        return found

    def refused(self, rows, uint32_t most, without):
        """Which rows would be a softwire beyond so many of their subscriber: beside those there are, less `without`
        (as far as they were added), and beside the rows before them."""
        narrow = self._narrow(rows, most)
        if not narrow.any():
            return narrow
        narrow[narrow] = self._refused(row_sets.select(rows, narrow), most, without)
        return narrow

    cdef object _narrow(self, rows, uint32_t most):
        """Which are of subscribers that would have more than so many if each row were a softwire that is not there yet:
        the others need no closer look."""
        found = np.zeros(len(rows), np.bool_)
        cdef const uint8_t[::1] octets = rows.view(np.uint8)
        cdef uint8_t[::1] narrow = found.view(np.uint8)
        cdef Py_ssize_t i, count = narrow.shape[0]
        if not count:
            return found
        cdef const Row* row = <const Row*>&octets[0]
        cdef Shares shares = Shares(count)
        cdef uint64_t share
        with nogil:
            for i in range(count):
                shares.add(self._share_of(&row[i]))
            for i in range(count):
                if i % AHEAD == 0:
                    self._subscribers_soon(row, i, count)
                share = shares.count(self._share_of(&row[i]))
                narrow[i] = share == SHARES_MOST or share + self._held(&row[i]) > most
        return found

    cdef object _refused(self, rows, uint32_t most, without):
        found = np.zeros(len(rows), np.bool_)
        cdef const uint8_t[::1] octets = rows.view(np.uint8)
        cdef uint8_t[::1] no = found.view(np.uint8)
        cdef Py_ssize_t i, count = no.shape[0]
        counted = row_sets.select(without, self.remove(without))
        cdef const Row* row = <const Row*>&octets[0]
        with nogil:
            for i in range(count):
                if i % AHEAD == 0:
                    self._soon(row, i, count)
                no[i] = not self._admit(&row[i], most)
            for i in range(count):
                if i % AHEAD == 0:
                    self._soon(row, i, count)
                if not no[i]:
                    self._drop(&row[i])
        self.add(counted, most)
        return found

    def crowded(self, rows, uint32_t most):
        """Which rows are of subscribers that have more softwires than that."""
        found = np.zeros(len(rows), np.bool_)
        cdef const uint8_t[::1] octets = rows.view(np.uint8)
        cdef uint8_t[::1] more = found.view(np.uint8)
        cdef Py_ssize_t i, count = more.shape[0]
        if not count:
            return found
        cdef const Row* row = <const Row*>&octets[0]
        with nogil:
            for i in range(count):
                if i % AHEAD == 0:
                    self._subscribers_soon(row, i, count)
                more[i] = self._held(&row[i]) > most
        return found

    def of(self, const uint8_t[::1] b4):
        """Softwires of the subscriber that an address belongs to."""
        if b4.shape[0] != 16:
            raise ValueError("an IPv6 address has 16 octets")
        return self._subscribers.count(masked(address(&b4[0]), self._mask), 1)

    def octets(self):
        """Of memory."""
        return (self._softwires._mask + self._subscribers._mask + 2) * sizeof(Entry)

    cdef int _soon(self, const Row* rows, Py_ssize_t start, Py_ssize_t end) except -1 nogil:
        cdef Address b4
        cdef Py_ssize_t i
        for i in range(start, min(start + AHEAD, end)):
            b4 = address(rows[i].b4)
            self._softwires.soon(b4, self._way(rows[i].br))
            self._subscribers.soon(masked(b4, self._mask), 1)
        return 0

    cdef uint32_t _come(self, const Row* row) except? 0 nogil:
        """Counts it. How many softwires its subscriber has."""
        cdef Address b4 = address(row.b4)
        cdef Entry* softwire = self._softwires.place(b4, self._way(row.br))
        cdef Entry* subscriber = self._subscribers.place(masked(b4, self._mask), 1)
        subscriber.count += softwire.count == 0
        softwire.count += 1
        return subscriber.count

    cdef void _subscribers_soon(self, const Row* rows, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(start, min(start + AHEAD, end)):
            self._subscribers.soon(masked(address(rows[i].b4), self._mask), 1)

    cdef inline uint32_t _held(self, const Row* row) noexcept nogil:
        """Softwires of its subscriber."""
        return self._subscribers.count(masked(address(row.b4), self._mask), 1)

    cdef inline uint64_t _share_of(self, const Row* row) noexcept nogil:
        return hashed(masked(address(row.b4), self._mask), self._subscribers._seed)

    cdef int _admit(self, const Row* row, uint32_t most) except -1 nogil:
        """Counts it, unless that is one softwire too many."""
        cdef Address b4 = address(row.b4)
        cdef Entry* softwire = self._softwires.place(b4, self._way(row.br))
        cdef Entry* subscriber
        if not softwire.count:
            subscriber = self._subscribers.place(masked(b4, self._mask), 1)
            if subscriber.count >= most:
                return 0
            subscriber.count += 1
        softwire.count += 1
        return 1

    cdef int _drop(self, const Row* row) except -1 nogil:
        """Counts it no more; 0: it was not counted."""
        cdef Address b4 = address(row.b4)
        cdef Entry* softwire = self._softwires.place(b4, self._way(row.br))
        cdef Entry* subscriber
        if not softwire.count:
            return 0
        softwire.count -= 1
        if not softwire.count:
            subscriber = self._subscribers.place(masked(b4, self._mask), 1)
            subscriber.count -= subscriber.count > 0
        return 1

    cdef uint32_t _way(self, const uint8_t* br) except 0 nogil:
        cdef Address one = address(br)
        if not self._last or not same(one, self._last_br):
            with gil:
                self._last = self._brs.setdefault(br[:16], len(self._brs) + 1)
            self._last_br = one
        return self._last
