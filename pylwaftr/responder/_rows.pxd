"""The rows of database.CHANGE and encode.LEASE, as compiled code sees them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    CLIENT_MOST = 64

cdef packed struct Change:
    uint64_t key
    uint32_t at
    uint32_t cltt
    uint32_t lifetime
    uint32_t ipv4
    uint8_t params[4]
    uint8_t b4[16]
    uint8_t client[CLIENT_MOST]
    uint8_t client_len
    uint8_t has_b4
    uint8_t has_cltt
    uint8_t state

cdef packed struct Lease:
    uint8_t ipv4[4]
    uint8_t params[4]
    uint8_t b4[16]
    uint8_t client[CLIENT_MOST]
    uint8_t client_len
    uint8_t has_b4
    uint8_t state
    uint32_t expires
    uint32_t cltt
    uint32_t since


cdef inline void put32(uint8_t* out, uint32_t number) noexcept nogil:
    out[0], out[1], out[2], out[3] = number >> 24, number >> 16 & 255, number >> 8 & 255, number & 255


cdef inline uint64_t key_of(uint32_t ipv4, uint64_t offset, uint64_t length, uint64_t psid) noexcept nogil:
    return <uint64_t>ipv4 << 26 | offset << 21 | length << 16 | psid
