# cython: boundscheck=False, wraparound=False, cdivision=True
"""Binding rows, found by the prefix of their B4 address: a hash table whose chains run through the rows themselves."""

from libc.stdint cimport int32_t, uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from pylwaftr._tables cimport AHEAD, Address, Row, address, hashed, mask_of, masked, memory, prefetch, same

import secrets

import numpy as np

from pylwaftr.rows import BINDING_ROW

if BINDING_ROW.itemsize != sizeof(Row):
    raise ImportError("BINDING_ROW and the compiled row differ")

cdef enum:
    SMALLEST = 1024
    NOWHERE = -1


cdef class ByPrefix:
    """Rows are BINDING_ROW, contiguous. Each row may be there more than once."""

    cdef readonly int length  # of the prefixes
    cdef Address _mask
    cdef uint64_t _seed
    cdef Row* _rows
    cdef int32_t* _next  # in the chain, or among the free places
    cdef int32_t* _heads  # as many as there is room for rows
    cdef int32_t _room
    cdef int32_t _used  # places that were ever taken
    cdef int32_t _free
    cdef int32_t _count

    def __cinit__(self, int length):
        self.length, self._mask = length, mask_of(length)
        self._seed = secrets.randbits(64)
        self._rows, self._next, self._heads = NULL, NULL, NULL
        self._room, self._used, self._free, self._count = 0, 0, NOWHERE, 0
        self._grow(SMALLEST)

    def __dealloc__(self):
        free(self._rows)
        free(self._next)
        free(self._heads)

    def __len__(self):
        return self._count

    def add(self, const uint8_t[::1] octets):
        cdef Py_ssize_t i, count = octets.shape[0] // sizeof(Row)
        if not count:
            return
        cdef int32_t room = self._room
        while self._count + count > room:
            room *= 2
        if room > self._room:
            self._grow(room)
        cdef const Row* rows = <const Row*>&octets[0]
        with nogil:
            for i in range(count):
                if i % AHEAD == 0:
                    self._soon(rows, i, count)
                self._put(&rows[i])

    def remove(self, const uint8_t[::1] octets):
        """Rows that are not there are no fault."""
        cdef Py_ssize_t i, count = octets.shape[0] // sizeof(Row)
        if not count:
            return
        cdef const Row* rows = <const Row*>&octets[0]
        with nogil:
            for i in range(count):
                if i % AHEAD == 0:
                    self._soon(rows, i, count)
                self._take(&rows[i])

    def has(self, const uint8_t[::1] b4):
        """Whether there is a row in the prefix of that address."""
        cdef Address prefix = self._prefix(b4)
        return self._after(self._heads[self._home(prefix)], prefix) != NOWHERE

    def of(self, const uint8_t[::1] b4):
        """The rows in the prefix of that address, in no particular order."""
        cdef Address prefix = self._prefix(b4)
        cdef int32_t first = self._after(self._heads[self._home(prefix)], prefix), at = first
        cdef Py_ssize_t count = 0
        while at != NOWHERE:
            count += 1
            at = self._after(self._next[at], prefix)
        found = np.empty(count, BINDING_ROW)
        cdef uint8_t[::1] out = found.view(np.uint8)
        at, count = first, 0
        while at != NOWHERE:
            memcpy(&out[count * sizeof(Row)], &self._rows[at], sizeof(Row))
            count += 1
            at = self._after(self._next[at], prefix)
        return found

    def all(self):
        """Every row, in no particular order."""
        found = np.empty(self._count, BINDING_ROW)
        cdef uint8_t[::1] out = found.view(np.uint8)
        if self._count:
            self._gather(<Row*>&out[0])
        return found

    cdef void _gather(self, Row* rows) noexcept:
        cdef Py_ssize_t count = 0
        cdef int32_t home, at
        with nogil:
            for home in range(self._room):
                at = self._heads[home]
                while at != NOWHERE:
                    rows[count] = self._rows[at]
                    count += 1
                    at = self._next[at]

    cdef Address _prefix(self, const uint8_t[::1] b4) except *:
        if b4.shape[0] != 16:
            raise ValueError("an IPv6 address has 16 octets")
        return masked(address(&b4[0]), self._mask)

    cdef inline size_t _home(self, Address prefix) noexcept nogil:
        return hashed(prefix, self._seed) & (self._room - 1)

    cdef inline void _soon(self, const Row* rows, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(start, min(start + AHEAD, end)):
            prefetch(&self._heads[self._home(masked(address(rows[i].b4), self._mask))])

    cdef inline int32_t _after(self, int32_t at, Address prefix) noexcept nogil:
        """From this place of a chain on, the first row in the prefix."""
        while at != NOWHERE and not same(masked(address(self._rows[at].b4), self._mask), prefix):
            at = self._next[at]
        return at

    cdef inline void _link(self, int32_t at) noexcept nogil:
        cdef size_t home = self._home(masked(address(self._rows[at].b4), self._mask))
        self._next[at] = self._heads[home]
        self._heads[home] = at

    cdef void _put(self, const Row* row) noexcept nogil:
        cdef int32_t at = self._free
        if at == NOWHERE:
            at = self._used
            self._used += 1
        else:
            self._free = self._next[at]
        self._rows[at] = row[0]
        self._count += 1
        self._link(at)

    cdef void _take(self, const Row* row) noexcept nogil:
        cdef int32_t* link = &self._heads[self._home(masked(address(row.b4), self._mask))]
        cdef int32_t at
        while link[0] != NOWHERE and memcmp(&self._rows[link[0]], row, sizeof(Row)):
            link = &self._next[link[0]]
        at = link[0]
        if at == NOWHERE:
            return
        link[0] = self._next[at]
        self._next[at], self._free = self._free, at
        self._count -= 1

    cdef int _grow(self, int32_t room) except -1:
        """Into new columns, without the free places."""
        cdef Row* rows = <Row*>memory(room * sizeof(Row))
        cdef int32_t* links = <int32_t*>memory(room * sizeof(int32_t))
        cdef int32_t* heads = <int32_t*>memory(room * sizeof(int32_t))
        if rows == NULL or links == NULL or heads == NULL:
            free(rows)
            free(links)
            free(heads)
            raise MemoryError
        self._gather(rows)
        free(self._rows)
        free(self._next)
        free(self._heads)
        self._rows, self._next, self._heads, self._room = rows, links, heads, room
        self._used, self._free = self._count, NOWHERE
        memset(heads, 0xFF, room * sizeof(int32_t))  # NOWHERE
        cdef int32_t at
        for at in range(self._count):
            self._link(at)
        return 0
