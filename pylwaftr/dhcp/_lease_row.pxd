"""The row of a lease, codec_lease.LEASE_ROW, for compiled code."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

DEF CLIENT_OCTETS = 28

cdef packed struct LeaseRow:
    uint32_t ipv4
    uint16_t psid
    uint8_t psid_len
    uint8_t psid_offset
    uint8_t b4[16]
    uint8_t client[CLIENT_OCTETS]
    uint32_t base
    uint32_t cltt
    uint32_t since
    uint32_t lifetime
    uint8_t state
    uint8_t has
    uint16_t reserved

cdef enum:
    CLIENT = CLIENT_OCTETS  # octets of that field
    # codec_lease.Has
    HAS_B4 = 1
    HAS_PORTS = 2
    HAS_LIFETIME = 4
    HAS_CLTT = 8
    HAS_SINCE = 16
    HAS_BASE = 32
    HAS_REMOTE = 64
    HAS_CLIENT = 128
    # codec_lease.State
    STATE_ACTIVE = 2
    STATE_REMOTE = 7
    STATE_TRANSITIONING = 8
    INFINITE_S = 0xFFFFFFFF
