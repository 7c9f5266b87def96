# cython: boundscheck=False, wraparound=False, cdivision=True
"""Where a key stands: 64-bit keys to slot numbers, many at a time. Open addressing, so that a million take 32 MB."""

from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport free

from pylwaftr._tables cimport AHEAD, mixed, prefetch, zeros

import numpy as np


cdef class KeyIndex:
    def __cinit__(self):
        self._entries = NULL
        self._used = 0
        self._make(1024)

    def __dealloc__(self):
        free(self._entries)

    def __len__(self):
        return self._used

    cdef int _make(self, size_t size) except -1 nogil:
        """Those that there are stay the caller's; without memory for others nothing has changed."""
        cdef Entry* entries = <Entry*>zeros(size * sizeof(Entry))
        if entries == NULL:
            with gil:
                raise MemoryError
        self._entries, self._mask = entries, size - 1
        return 0

    cdef int _grow(self) except -1 nogil:
        cdef Entry* old = self._entries
        cdef size_t size = self._mask + 1, i, j
        self._make(size * 2)
        for i in range(size):
            if i % AHEAD == 0:
                for j in range(i, i + AHEAD):
                    if old[j].value:
                        self.soon(old[j].key)
            if old[i].value:
                self._entries[self._at(old[i].key)] = old[i]
        free(old)
        return 0

    cdef int make_room(self, size_t more) except -1 nogil:
        """After it, `set` of so many new keys does not fail."""
        while (self._used + more) * 2 > self._mask + 1:  # fuller, a new key looks at several lines of the cache
            self._grow()
        return 0

    cdef size_t _at(self, uint64_t key) noexcept nogil:
        cdef size_t at = mixed(key) & self._mask  # keys are addresses, which come in rows
        while self._entries[at].value and self._entries[at].key != key:
            at = (at + 1) & self._mask
        return at

    cdef void soon(self, uint64_t key) noexcept nogil:
        prefetch(&self._entries[mixed(key) & self._mask])

    cdef int32_t get(self, uint64_t key) noexcept nogil:
        return self._entries[self._at(key)].value - 1

    cdef int set(self, uint64_t key, int32_t slot) except -1 nogil:
        return self._set_at(self._at(key), key, slot)

    cdef inline int _set_at(self, size_t at, uint64_t key, int32_t slot) except -1 nogil:
        """`at`: where the key is, or would be."""
        if not self._entries[at].value:
            if (self._used + 1) * 2 > self._mask + 1:
                self.make_room(1)
                at = self._at(key)
            self._used += 1
            self._entries[at].key = key
        self._entries[at].value = slot + 1
        return 0

    def find(self, const uint64_t[::1] keys):
        """The slots, -1 where there is none."""
        found = np.empty(keys.shape[0], np.int32)
        cdef int32_t[::1] out = found
        cdef Py_ssize_t i, count = keys.shape[0]
        with nogil:
            for i in range(count):
                if i % AHEAD == 0:
                    self._soon(keys, i)
                out[i] = self.get(keys[i])
        return found

    def put(self, const uint64_t[::1] keys, const int32_t[::1] slots):
        """The slots that were there before, -1 where there was none; of a key that comes again, the slot of the time before."""
        if keys.shape[0] != slots.shape[0]:
            raise ValueError("as many slots as keys")
        before = np.empty(keys.shape[0], np.int32)
        cdef int32_t[::1] out = before
        cdef Py_ssize_t i, count = keys.shape[0]
        with nogil:
            for i in range(count):
                if i % AHEAD == 0:
                    self._soon(keys, i)
                out[i] = self.get(keys[i])
                self.set(keys[i], slots[i])
        return before

    def place(self, const uint64_t[::1] keys, const int32_t[::1] fresh):
        """(slots, how many of them are new): new keys get the fresh ones, in order. There are as many as keys. Without
        memory none has got one."""
        if fresh.shape[0] < keys.shape[0]:
            raise ValueError("as many fresh slots as keys")
        found = np.empty(keys.shape[0], np.int32)
        cdef int32_t[::1] out = found
        cdef Py_ssize_t i, new = 0, count = keys.shape[0]
        cdef size_t at
        try:
            with nogil:
                for i in range(count):
                    if i % AHEAD == 0:
                        self._soon(keys, i)
                    at = self._at(keys[i])
                    if self._entries[at].value:
                        out[i] = self._entries[at].value - 1
                        continue
                    out[i] = fresh[new]
                    self._set_at(at, keys[i], out[i])
                    new += 1
        except MemoryError:
            count, i, new = new, 0, 0
            while new < count:  # the first key with the slot that is next is the one that got it
                if out[i] == fresh[new]:
                    self._remove(keys[i])
                    new += 1
                i += 1
            raise
        return found, new

    def remove(self, const uint64_t[::1] keys):
        """Keys that are not there are no fault."""
        cdef Py_ssize_t i
        for i in range(keys.shape[0]):
            self._remove(keys[i])

    cdef void _remove(self, uint64_t key) noexcept nogil:
        cdef size_t at = self._at(key), behind = at, home
        if not self._entries[at].value:
            return
        self._used -= 1
        while True:  # close the gap: whoever stands behind it and could stand in it moves up
            behind = (behind + 1) & self._mask
            if not self._entries[behind].value:
                break
            home = mixed(self._entries[behind].key) & self._mask
            if ((behind - home) & self._mask) >= ((behind - at) & self._mask):
                self._entries[at] = self._entries[behind]
                at = behind
        self._entries[at].value = 0

    cdef void _soon(self, const uint64_t[::1] keys, Py_ssize_t start) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(start, min(start + AHEAD, keys.shape[0])):
            self.soon(keys[i])
