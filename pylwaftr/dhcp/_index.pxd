from libc.stdint cimport int32_t, uint64_t

cdef struct Entry:
    uint64_t key
    int32_t value  # slot + 1, 0 = empty
    int32_t unused

cdef class KeyIndex:
    cdef Entry* _entries
    cdef size_t _mask
    cdef size_t _used

    cdef int _make(self, size_t size) except -1 nogil
    cdef int _grow(self) except -1 nogil
    cdef int make_room(self, size_t more) except -1 nogil
    cdef size_t _at(self, uint64_t key) noexcept nogil
    cdef void soon(self, uint64_t key) noexcept nogil
    cdef int32_t get(self, uint64_t key) noexcept nogil
    cdef int set(self, uint64_t key, int32_t slot) except -1 nogil
    cdef void _remove(self, uint64_t key) noexcept nogil
    cdef int _set_at(self, size_t at, uint64_t key, int32_t slot) except -1 nogil
    cdef void _soon(self, const uint64_t[::1] keys, Py_ssize_t start) noexcept nogil
