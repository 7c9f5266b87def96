# cython: boundscheck=False, wraparound=False, cdivision=True
"""Binding rows, found by the prefix of their B4 address: a hash table whose chains run through the rows themselves.

A second one finds a row as such, so that one of many in a prefix goes as fast as one alone.
"""

from libc.stdint cimport int32_t, uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from pylwaftr._tables cimport AHEAD, Address, Row, address, hashed, mask_of, masked, memory, mixed, prefetch, same

import secrets

import numpy as np

from pylwaftr.rows import BINDING_ROW

if BINDING_ROW.itemsize != sizeof(Row):
    raise ImportError("BINDING_ROW and the compiled row differ")

cdef enum:
    SMALLEST = 1024
    MOST_AHEAD = 1 << 21  # 130 MB of addresses, of which only what is used takes memory, and 16 MB that do
    NOWHERE = -1
    FREE = -2  # in place of `before`

cdef struct Place:
    Row row
    int32_t next  # in the chain of its prefix, or among the free places
    int32_t before
    int32_t like  # the next in the chain of the row itself


cdef class ByPrefix:
    """Rows are BINDING_ROW, contiguous. Each row may be there more than once."""

    cdef readonly int length  # of the prefixes
    cdef Address _mask
    cdef uint64_t _seed
    cdef Place* _places
    cdef int32_t* _heads  # as many as there is room for rows: chains of prefixes
    cdef int32_t* _likes  # the same: of rows
    cdef int32_t _room
    cdef int32_t _used  # places that were ever taken
    cdef int32_t _free
    cdef int32_t _count

    def __cinit__(self, int length, Py_ssize_t room=SMALLEST):
        """`room`: rows for which it does not have to grow, which takes 90 ms at a million."""
        cdef int32_t places = SMALLEST
        self.length, self._mask = length, mask_of(length)
        self._seed = secrets.randbits(64)
        self._places, self._heads, self._likes = NULL, NULL, NULL
        self._room, self._used, self._free, self._count = 0, 0, NOWHERE, 0
        while places < room and places < MOST_AHEAD:
            places *= 2
        self._grow(places)

    def __dealloc__(self):
        free(self._places)
        free(self._heads)
        free(self._likes)

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
            at = self._after(self._places[at].next, prefix)
        found = np.empty(count, BINDING_ROW)
        cdef uint8_t[::1] out = found.view(np.uint8)
        at, count = first, 0
        while at != NOWHERE:
            memcpy(&out[count * sizeof(Row)], &self._places[at].row, sizeof(Row))
            count += 1
            at = self._after(self._places[at].next, prefix)
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
                    rows[count] = self._places[at].row
                    count += 1
                    at = self._places[at].next

    cdef Address _prefix(self, const uint8_t[::1] b4) except *:
        if b4.shape[0] != 16:
            raise ValueError("an IPv6 address has 16 octets")
        return masked(address(&b4[0]), self._mask)

    cdef inline size_t _home(self, Address prefix) noexcept nogil:
        return hashed(prefix, self._seed) & (self._room - 1)

    cdef inline size_t _home_of(self, const Row* row) noexcept nogil:
        return self._home(masked(address(row.b4), self._mask))

    cdef inline size_t _like(self, const Row* row) noexcept nogil:
        """Whatever the BR address: few rows differ in that alone."""
        cdef uint64_t head
        memcpy(&head, row, sizeof(head))
        return hashed(address(row.b4), mixed(head ^ self._seed)) & (self._room - 1)

    cdef inline void _soon(self, const Row* rows, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(start, min(start + AHEAD, end)):
            self._soon_one(&rows[i])

    cdef inline void _soon_one(self, const Row* row) noexcept nogil:
        prefetch(&self._heads[self._home_of(row)])
        prefetch(&self._likes[self._like(row)])

    cdef inline int32_t _after(self, int32_t at, Address prefix) noexcept nogil:
        """From this place of a chain on, the first row in the prefix."""
        while at != NOWHERE and not same(masked(address(self._places[at].row.b4), self._mask), prefix):
            at = self._places[at].next
        return at

    cdef void _put(self, const Row* row) noexcept nogil:
        cdef int32_t at = self._free
        if at == NOWHERE:
            at = self._used
            self._used += 1
        else:
            self._free = self._places[at].next
        self._count += 1
        cdef int32_t* head = &self._heads[self._home_of(row)]
        cdef int32_t* like = &self._likes[self._like(row)]
        self._places[at] = Place(row[0], head[0], NOWHERE, like[0])
        if head[0] != NOWHERE:
            self._places[head[0]].before = at
        head[0] = like[0] = at

    cdef void _take(self, const Row* row) noexcept nogil:
        cdef int32_t* like = &self._likes[self._like(row)]
        while like[0] != NOWHERE and memcmp(&self._places[like[0]].row, row, sizeof(Row)):
            like = &self._places[like[0]].like
        cdef int32_t at = like[0]
        if at == NOWHERE:
            return
        cdef Place* place = &self._places[at]
        like[0] = place.like
        if place.next != NOWHERE:
            self._places[place.next].before = place.before
        if place.before != NOWHERE:
            self._places[place.before].next = place.next
        else:
            self._heads[self._home_of(row)] = place.next
        place.next, place.before, self._free = self._free, FREE, at
        self._count -= 1

    cdef int _grow(self, int32_t room) except -1:
        """Into new columns, without the free places. From place to place: along the chains each would be a miss."""
        cdef Place* places = <Place*>memory(room * sizeof(Place))
        cdef int32_t* heads = <int32_t*>memory(room * sizeof(int32_t))
        cdef int32_t* likes = <int32_t*>memory(room * sizeof(int32_t))
        if places == NULL or heads == NULL or likes == NULL:
            free(places)
            free(heads)
            free(likes)
            raise MemoryError
        memset(heads, 0xFF, room * sizeof(int32_t))  # NOWHERE
        memset(likes, 0xFF, room * sizeof(int32_t))
        cdef Place* old = self._places
        cdef int32_t at, i, used = self._used
        free(self._likes)
        free(self._heads)
        self._places, self._heads, self._likes, self._room = places, heads, likes, room
        self._used, self._free, self._count = 0, NOWHERE, 0
        with nogil:
            for at in range(used):
                if at % AHEAD == 0:
                    for i in range(at, min(at + AHEAD, used)):
                        self._soon_one(&old[i].row)
                if old[at].before != FREE:
                    self._put(&old[at].row)
        free(old)
        return 0
