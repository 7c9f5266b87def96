# cython: boundscheck=False, wraparound=False, cdivision=True
"""Where a key stands: 64-bit keys to slot numbers, many at a time. Open addressing, so that a million take 24 MB."""

from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport calloc, free

import numpy as np


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """The finalizer of splitmix64: keys are addresses, which come in rows."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef class KeyIndex:
    cdef uint64_t* _keys
    cdef int32_t* _values  # slot + 1, 0 = empty
    cdef size_t _mask
    cdef size_t _used

    def __cinit__(self):
        self._keys = NULL
        self._values = NULL
        self._used = 0
        self._make(1024)

    def __dealloc__(self):
        free(self._keys)
        free(self._values)

    def __len__(self):
        return self._used

    cdef int _make(self, size_t size) except -1:
        self._keys = <uint64_t*>calloc(size, sizeof(uint64_t))
        self._values = <int32_t*>calloc(size, sizeof(int32_t))
        if self._keys == NULL or self._values == NULL:
            raise MemoryError
        self._mask = size - 1
        return 0

    cdef int _grow(self) except -1:
        cdef uint64_t* keys = self._keys
        cdef int32_t* values = self._values
        cdef size_t size = self._mask + 1, i, at
        self._make(size * 2)
        for i in range(size):
            if values[i]:
                at = mixed(keys[i]) & self._mask
                while self._values[at]:
                    at = (at + 1) & self._mask
                self._keys[at] = keys[i]
                self._values[at] = values[i]
        free(keys)
        free(values)
        return 0

    cdef size_t _at(self, uint64_t key) noexcept nogil:
        cdef size_t at = mixed(key) & self._mask
        while self._values[at] and self._keys[at] != key:
            at = (at + 1) & self._mask
        return at

    def find(self, const uint64_t[::1] keys):
        """The slots, -1 where there is none."""
        found = np.empty(keys.shape[0], np.int32)
        cdef int32_t[::1] out = found
        cdef Py_ssize_t i
        for i in range(keys.shape[0]):
            out[i] = self._values[self._at(keys[i])] - 1
        return found

    def put(self, const uint64_t[::1] keys, const int32_t[::1] slots):
        if keys.shape[0] != slots.shape[0]:
            raise ValueError("as many slots as keys")
        cdef Py_ssize_t i
        cdef size_t at
        for i in range(keys.shape[0]):
            if (self._used + 1) * 4 > (self._mask + 1) * 3:
                self._grow()
            at = self._at(keys[i])
            if not self._values[at]:
                self._used += 1
                self._keys[at] = keys[i]
            self._values[at] = slots[i] + 1

    def remove(self, const uint64_t[::1] keys):
        """Keys that are not there are no fault."""
        cdef Py_ssize_t i
        cdef size_t at, behind, home
        for i in range(keys.shape[0]):
            at = self._at(keys[i])
            if not self._values[at]:
                continue
            self._used -= 1
            behind = at
            while True:  # close the gap: whoever stands behind it and could stand in it moves up
                behind = (behind + 1) & self._mask
                if not self._values[behind]:
                    break
                home = mixed(self._keys[behind]) & self._mask
                if ((behind - home) & self._mask) >= ((behind - at) & self._mask):
                    self._keys[at] = self._keys[behind]
                    self._values[at] = self._values[behind]
                    at = behind
            self._values[at] = 0
