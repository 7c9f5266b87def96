# What compiled tables share: a row of rows.BINDING_ROW, keyed hashes of addresses, memory.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.mman cimport madvise
from posix.stdlib cimport posix_memalign

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void*) noexcept nogil

cdef extern from "sys/mman.h":
    enum:
        MADV_HUGEPAGE

cdef enum:
    HUGE = 1 << 21
    AHEAD = 16  # keys whose places in a table are fetched together: a miss takes as long as a dozen of them

cdef packed struct Row:
    uint32_t ipv4
    uint16_t psid
    uint8_t psid_len
    uint8_t psid_offset
    uint8_t b4[16]
    uint8_t br[16]

cdef struct Address:  # in the order of octets, so only good for comparing and masking
    uint64_t high
    uint64_t low


cdef inline Address address(const uint8_t* octets) noexcept nogil:
    cdef Address found
    memcpy(&found, octets, 16)
    return found


cdef inline Address masked(Address one, Address mask) noexcept nogil:
    one.high &= mask.high
    one.low &= mask.low
    return one


cdef inline bint same(Address one, Address other) noexcept nogil:
    return one.high == other.high and one.low == other.low


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """The finalizer of splitmix64."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline uint64_t hashed(Address one, uint64_t seed) noexcept nogil:
    """Keyed, for subscribers choose addresses."""
    return mixed(mixed(one.high ^ seed) + one.low)


cdef inline Address mask_of(int length) noexcept nogil:
    cdef uint8_t octets[16]
    cdef int i
    for i in range(16):
        octets[i] = <uint8_t>(0xFF00 >> min(max(length - 8 * i, 0), 8) & 0xFF)
    return address(octets)


cdef inline void* memory(size_t octets) noexcept nogil:
    """For `free`; NULL: there is none. In huge pages if it is large: a table of 50 MB that grows is 12,000 page faults."""
    cdef void* found = NULL
    if octets < HUGE:
        return malloc(octets)
    if posix_memalign(&found, HUGE, octets):
        return NULL
    madvise(found, octets, MADV_HUGEPAGE)
    return found


cdef inline void* zeros(size_t octets) noexcept nogil:
    cdef void* found = memory(octets)
    if found != NULL:
        memset(found, 0, octets)
    return found
