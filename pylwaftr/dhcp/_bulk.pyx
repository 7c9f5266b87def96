# cython: boundscheck=False, wraparound=False, cdivision=True
"""Ordinary LEASEQUERY-DATA of profile W, many frames at a time, into rows of codec_lease.LEASE_ROW.

A frame is ordinary if the readable codec takes it without fault and without warning: its type and transaction-id are
those expected, it has LQ_BASE_TIME and one or more CLIENT_DATA with one lease each, no status, and every option has the
one length it may have. Decoding stops in front of the first frame that is not, which the readable codec then reads; so
that codec alone knows what is odd, and a test holds the two together frame for frame.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pylwaftr.dhcp._lease_row cimport (
    CLIENT,
    HAS_B4,
    HAS_BASE,
    HAS_CLIENT,
    HAS_CLTT,
    HAS_LIFETIME,
    HAS_PORTS,
    HAS_REMOTE,
    HAS_SINCE,
    LeaseRow,
)

import numpy as np

from pylwaftr.dhcp.codec_lease import LEASE_ROW

if LEASE_ROW.itemsize != sizeof(LeaseRow):
    raise ImportError("LEASE_ROW and the compiled row differ")

cdef enum:
    EPOCH = 946684800
    FIXED = 240  # octets of a DHCPv4 message in front of its options
    EPOCHS_APART_S = 2
    OPTIONS_MOST = 64  # an ordinary message has a dozen


cdef inline uint32_t be16(const uint8_t* p) noexcept nogil:
    return <uint32_t>p[0] << 8 | p[1]


cdef inline uint32_t be32(const uint8_t* p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef inline uint32_t before(uint32_t base, uint32_t ago) noexcept nogil:
    return base - ago if base > ago else 0


cdef bint lease4(const uint8_t* p, uint32_t length, uint32_t xid, uint32_t outer, int64_t clt_time, LeaseRow* row) noexcept nogil:
    """The nested message. False: not ordinary."""
    cdef uint64_t seen[4]
    cdef uint32_t at = FIXED, size, base = 0, ago_last = 0, ago_since = 0, first, count = 0
    cdef int kind = -1, state = -1, has_last = 0, has_since = 0
    cdef uint8_t code
    cdef const uint8_t* v
    if length < FIXED + 3 or p[0] != 2 or p[2] > 16 or be32(p + 4) != xid or be32(p + 236) != 0x63825363:
        return False
    memset(row, 0, sizeof(LeaseRow))
    memset(seen, 0, sizeof(seen))
    row.ipv4 = be32(p + 12)
    first = row.ipv4 >> 24
    if first == 0 or first == 127 or first >= 224:
        return False
    while at < length:
        code = p[at]
        if code == 255:
            break
        if code == 0:
            at += 1
            continue
        count += 1
        if count > OPTIONS_MOST or at + 2 > length:
            return False
        size = p[at + 1]
        v = p + at + 2
        at += 2 + size
        if at > length or seen[code >> 6] >> (code & 63) & 1:  # an option in two parts is not ordinary
            return False
        seen[code >> 6] |= <uint64_t>1 << (code & 63)
        if code == 53:
            if size != 1 or (v[0] != 13 and v[0] != 11):
                return False
            kind = v[0]
        elif code == 156:
            if size != 1 or v[0] == 0 or v[0] > 8:
                return False
            state = v[0]
        elif code == 157:
            if size != 1:
                return False
            if v[0] & 1:
                row.has |= HAS_REMOTE
        elif code == 109:
            if size != 16:
                return False
            memcpy(row.b4, v, 16)
            row.has |= HAS_B4
        elif code == 159:
            if size != 4 or v[0] > 15 or v[1] > 16 or v[0] + v[1] > 16:
                return False
            if v[1] and be16(v + 2) & (<uint32_t>0xFFFF >> v[1]) & 0xFFFF:
                return False
            if v[1] == 0 and be16(v + 2):
                return False
            if v[1]:
                row.psid_offset, row.psid_len = v[0], v[1]
                row.psid = <uint16_t>(be16(v + 2) >> (16 - v[1]))
            row.has |= HAS_PORTS
        elif code == 61:
            if size < 2 or size >= CLIENT:
                return False
            row.client[0] = <uint8_t>size
            memcpy(&row.client[1], v, size)
            row.has |= HAS_CLIENT
        elif code == 51 or code == 91 or code == 152 or code == 153 or code == 154 or code == 155 or code == 54:
            if size != 4:
                return False
            if code == 51:
                row.lifetime = be32(v)
                row.has |= HAS_LIFETIME
            elif code == 91:
                ago_last, has_last = be32(v), 1
            elif code == 153:
                ago_since, has_since = be32(v), 1
            elif code == 152:
                base = be32(v)
                row.has |= HAS_BASE
        elif code == 52 or code == 92 or code == 151:
            return False
    if kind < 0 or not row.has & HAS_BASE:
        return False
    if (base - (outer + EPOCH) if base > outer + <uint32_t>EPOCH else (outer + EPOCH) - base) > EPOCHS_APART_S:
        return False
    if kind == 13:
        if (state >= 0 and state != 2) or not row.has & HAS_LIFETIME:
            return False
        row.state = 2
    else:
        if state == 2:
            return False
        row.state = <uint8_t>state if state > 0 else 0
    if not has_last and clt_time >= 0:
        ago_last, has_last = <uint32_t>clt_time, 1
    row.base = base
    if has_last:
        row.cltt = before(base, ago_last)
        row.has |= HAS_CLTT
    if has_since:
        row.since = before(base, ago_since)
        row.has |= HAS_SINCE
    return True


cdef bint client_data(const uint8_t* p, uint32_t length, uint32_t xid, uint32_t outer, LeaseRow* row) noexcept nogil:
    """CLIENT_DATA with one lease. False: not ordinary."""
    cdef uint32_t at = 0, code, size, nested_size = 0, count = 0
    cdef const uint8_t* nested = NULL
    cdef int64_t clt_time = -1
    while at < length:
        count += 1
        if length - at < 4 or count > OPTIONS_MOST:
            return False
        code, size = be16(p + at), be16(p + at + 2)
        at += 4
        if size > length - at:
            return False
        if code == 87:
            if nested != NULL:
                return False
            nested, nested_size = p + at, size
        elif code == 46:
            if size != 4 or clt_time >= 0:
                return False
            clt_time = be32(p + at)
        elif code == 1:
            if size < 3 or size > 130:
                return False
        else:
            return False
        at += size
    return nested != NULL and lease4(nested, nested_size, xid, outer, clt_time, row)


cdef int frame6(const uint8_t* p, uint32_t length, uint32_t xid, LeaseRow* rows, int room, uint32_t* outer) noexcept nogil:
    """How many rows; 0: not ordinary, or no room."""
    cdef uint32_t at = 4, code, size
    cdef const uint8_t* base = NULL
    cdef int count = 0
    if length < 4 or p[0] != 17 or (<uint32_t>p[1] << 16 | be16(p + 2)) != xid:
        return 0
    while at < length:  # the base-time may stand anywhere, and the leases need it
        if length - at < 4:
            return 0
        code, size = be16(p + at), be16(p + at + 2)
        at += 4
        if size > length - at:
            return 0
        if code == 100:
            if size != 4 or base != NULL:
                return 0
            base = p + at
        elif code != 45:
            return 0
        at += size
    if base == NULL:
        return 0
    outer[0] = be32(base)
    at = 4
    while at < length:
        code, size = be16(p + at), be16(p + at + 2)
        at += 4
        if code == 45:
            if count >= room or count >= OPTIONS_MOST or not client_data(p + at, size, xid, outer[0], &rows[count]):
                return 0
            count += 1
        at += size
    return count


def decode(const uint8_t[::1] octets, Py_ssize_t start, uint32_t xid):
    """(rows, octets taken, frames taken, highest LQ_BASE_TIME, and base-time of the lease beside it) from `start` on."""
    cdef Py_ssize_t at = start, end = octets.shape[0]
    cdef Py_ssize_t room = (end - start) // (FIXED + 24) + 1  # no lease takes fewer octets
    made = np.empty(room, LEASE_ROW)
    cdef uint8_t[::1] view = made.view(np.uint8)
    cdef LeaseRow* rows = <LeaseRow*>&view[0]
    cdef Py_ssize_t count = 0, frames = 0
    cdef uint32_t length, outer = 0, highest = 0, nested = 0
    cdef int found
    cdef const uint8_t* p
    with nogil:
        while end - at >= 2:
            p = &octets[at]
            length = be16(p)
            if end - at - 2 < length:
                break
            found = frame6(p + 2, length, xid, rows + count, <int>(room - count), &outer)
            if found == 0:
                break
            if frames == 0 or outer >= highest:
                highest, nested = outer, rows[count + found - 1].base
            count += found
            frames += 1
            at += 2 + length
    return made[:count], at - start, frames, highest, nested
