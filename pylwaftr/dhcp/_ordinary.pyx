# cython: boundscheck=False, wraparound=False, cdivision=True
"""Ordinary news of leases, many at a time, into the columns of claims (records.py) and slots (slots.py).

News is ordinary if nothing about it has to be decided between: a lease of one client with a usable tunnel address, or
its end; no other server speaks of the key, the port set fits its address, nobody waits for what ends. Hearing stops in
front of the first row that is not ordinary, which the readable way (leases.py, winners.py) takes; so that alone knows
what is odd, and a test holds the two together row for row.
"""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from pylwaftr._tables cimport AHEAD, Row as Binding, prefetch
from pylwaftr.dhcp._index cimport KeyIndex
from pylwaftr.dhcp._lease_row cimport (
    CLIENT,
    HAS_B4,
    HAS_CLTT,
    HAS_LIFETIME,
    HAS_SINCE,
    INFINITE_S,
    LeaseRow,
    STATE_ACTIVE,
    STATE_REMOTE,
    STATE_TRANSITIONING,
)

import numpy as np

from pylwaftr.dhcp.codec_lease import LEASE_ROW
from pylwaftr.rows import BINDING_ROW

if LEASE_ROW.itemsize != sizeof(LeaseRow) or BINDING_ROW.itemsize != sizeof(Binding):
    raise ImportError("LEASE_ROW or BINDING_ROW and the compiled rows differ")

cdef enum:  # records.py; winners.py
    SAID_NOTHING = 0
    SAID_ACTIVE = 1
    SAID_GONE = 2
    NOBODY = -1
    UNCHANGED = -2
    TIE_S = 1
    LATE_S = 600
    ANY_TIME = 0
    OTHERS_MOST = 64


cdef inline int64_t activity(const LeaseRow* row) noexcept nogil:
    """As records._activity."""
    cdef int64_t cltt = row.cltt if row.has & HAS_CLTT else -1
    cdef int64_t since = row.since if row.has & HAS_SINCE else -1
    return max(cltt, since)


cdef inline bint no_older(const LeaseRow* new, const LeaseRow* old, bint waited) noexcept nogil:
    """As records.Claims.accept."""
    cdef int64_t then = activity(old), now = activity(new)
    if old.base == ANY_TIME:
        return True
    if then >= 0 and now >= 0 and not -TIE_S <= now - then <= TIE_S:
        return now > then
    return <int64_t>new.base >= <int64_t>old.base + (TIE_S + 1 if waited else 0)


cdef inline bint usable(const uint8_t* b4, const uint8_t[:, ::1] own) noexcept nogil:
    """As records.unusable, the other way round."""
    cdef uint64_t high
    cdef Py_ssize_t i
    memcpy(&high, b4, 8)
    if high == 0 or b4[0] == 0xFF or (b4[0] == 0xFE and b4[1] & 0xC0 == 0x80):
        return False
    for i in range(own.shape[0]):
        if not memcmp(b4, &own[i, 0], 16):
            return False
    return True


cdef inline bint inside(uint32_t ipv4, const uint32_t[:, ::1] pools) noexcept nogil:
    """As leases.Leases._outside, the other way round."""
    cdef Py_ssize_t i
    if ipv4 & <uint32_t>0xFFFFFFF8 == <uint32_t>0xC0000000:
        return False
    for i in range(pools.shape[0]):
        if ipv4 & pools[i, 1] == pools[i, 0]:
            return True
    return pools.shape[0] == 0


cdef inline uint64_t b4_key(const uint8_t* b4) noexcept nogil:
    """As winners._b4_keys."""
    cdef uint64_t words[2]
    memcpy(words, b4, 16)
    return words[0] * <uint64_t>0x9E3779B97F4A7C15 ^ words[1]


def keys_of(const uint8_t[::1] octets, Py_ssize_t size):
    """slots.keys_of: the address, and how it is divided, are the first eight octets of either row."""
    found = np.empty(octets.shape[0] // size, np.uint64)
    cdef uint64_t[::1] out = found
    cdef Py_ssize_t i, count = out.shape[0]
    cdef const Binding* row
    for i in range(count):
        row = <const Binding*>&octets[i * size]
        out[i] = <uint64_t>row.ipv4 << 26 | <uint64_t>row.psid_offset << 21 | <uint64_t>row.psid_len << 16 | row.psid
    return found


def hear(
    const uint8_t[::1] octets,  # of LEASE_ROW
    const int32_t[::1] slots,
    const int32_t[::1] places,  # of their addresses
    table,
    claims,
    int number,
    former,
    others,
    KeyIndex b4s,
    const uint8_t[:, ::1] own,
    const uint32_t[:, ::1] pools,  # network, mask
    double now,
    double untimed_s,
    bint bulk,
):
    """How many rows were heard, and how many of those were stale. `claims`: of that server; `former`, `others`: those
    of what was bound before a restart, and of each further server."""
    cdef Py_ssize_t i, j, count = slots.shape[0], stale = 0
    cdef const LeaseRow* rows = <const LeaseRow*>&octets[0]
    # the claims
    cdef uint8_t[::1] said_octets = claims.rows.view(np.uint8)
    cdef LeaseRow* said = <LeaseRow*>&said_octets[0]
    cdef uint8_t[::1] verdict = claims.verdict
    cdef uint32_t[::1] generation = claims.generation
    cdef uint8_t[::1] streamed = claims.streamed
    cdef double[::1] deadline = claims.deadline
    cdef uint8_t[::1] formerly = former.verdict
    cdef uint8_t[::1] one
    cdef const uint8_t* elsewhere[OTHERS_MOST]
    cdef int servers = len(others)
    if servers > OTHERS_MOST:
        return 0, 0
    for i in range(servers):
        one = others[i].verdict
        elsewhere[i] = &one[0]
    # the slots, and their addresses
    cdef int16_t[::1] owner = table.owner
    cdef int16_t[::1] was = table.was
    cdef uint8_t[:, ::1] b4 = table.b4
    cdef uint8_t[:, ::1] was_b4 = table.was_b4
    cdef int32_t[::1] changed = table.changed
    cdef uint16_t[::1] division = table.division
    cdef int32_t[::1] programmed = table.programmed
    cdef uint8_t[::1] contested = table.contested.view(np.uint8)
    cdef Py_ssize_t changes = table.changes
    cdef uint32_t current = claims.current
    cdef double forever = float("inf"), due, next_due = claims.next_due
    cdef bint untimed = False, active, ordinary
    cdef const LeaseRow* row
    cdef int32_t slot, place, other
    cdef uint16_t cut = 0
    b4s.make_room(count)  # here, for what fails amid the rows would leave changes that nobody takes
    i = 0
    with nogil:
        while i < count:
            if i % AHEAD == 0:
                for j in range(i, min(i + AHEAD, count)):
                    b4s.soon(b4_key(rows[j].b4))
                    prefetch(&said[slots[j]])
                    prefetch(&b4[slots[j], 0])
            row, slot, place = &rows[i], slots[i], places[i]
            # is it ordinary?
            active = row.state == STATE_ACTIVE
            if active:
                if not row.has & HAS_B4 or not usable(row.b4, own) or not inside(row.ipv4, pools):
                    break
            elif row.state == STATE_REMOTE or row.state == STATE_TRANSITIONING:
                break
            ordinary = True
            for j in range(servers):
                ordinary &= elsewhere[j][slot] == SAID_NOTHING
            if not ordinary:
                break
            if verdict[slot] != SAID_NOTHING and <int64_t>row.base < <int64_t>said[slot].base - LATE_S:
                break  # what was said before lies ahead
            if verdict[slot] != SAID_NOTHING and not no_older(row, &said[slot], bulk and streamed[slot]):
                generation[slot] = current
                stale += 1
                i += 1
                continue
            other = -1
            if active:
                cut = <uint16_t>row.psid_offset << 5 | row.psid_len
                if owner[slot] == NOBODY and programmed[place] and division[place] != cut:
                    break
                if owner[slot] == NOBODY or memcmp(&b4[slot, 0], row.b4, 16):
                    other = b4s.get(b4_key(row.b4))
                    if other >= 0 and other != slot and owner[other] != NOBODY and not memcmp(&b4[other, 0], row.b4, 16):
                        if owner[other] != number or memcmp(said[other].client, row.client, CLIENT):
                            break
            elif owner[slot] != NOBODY and programmed[place] == 1 and contested[place]:
                break
            # it is: what is said
            said[slot] = row[0]
            streamed[slot] = not bulk
            generation[slot] = current
            formerly[slot] = SAID_NOTHING
            due = forever
            if active:
                verdict[slot] = SAID_ACTIVE
                if not row.has & HAS_LIFETIME:
                    untimed = True
                elif row.lifetime != <uint32_t>INFINITE_S:
                    due = now + row.lifetime
                    next_due = min(next_due, due)
            else:
                verdict[slot] = SAID_GONE
            deadline[slot] = due
            i += 1
            # and what is bound
            if active and owner[slot] != NOBODY and not memcmp(&b4[slot, 0], row.b4, 16):
                owner[slot] = number
                continue
            if not active and owner[slot] == NOBODY:
                continue
            if was[slot] == UNCHANGED:
                was[slot] = owner[slot]
                memcpy(&was_b4[slot, 0], &b4[slot, 0], 16)
                changed[changes] = slot
                changes += 1
            if not active:
                programmed[place] -= 1
                owner[slot] = NOBODY
                continue
            if owner[slot] == NOBODY:
                if not programmed[place]:
                    division[place] = cut
                programmed[place] += 1
            owner[slot] = number
            memcpy(&b4[slot, 0], row.b4, 16)
            b4s.set(b4_key(row.b4), slot)
    table.changes = changes
    claims.next_due = next_due
    if untimed:
        claims.verify_due = min(claims.verify_due, now + untimed_s)
    return i, stale


def rows_of(const int32_t[::1] slots, const uint64_t[::1] keys, const uint8_t[:, ::1] b4, const uint8_t[::1] br):
    """BINDING_ROW of each slot."""
    found = np.empty(slots.shape[0], BINDING_ROW)
    cdef uint8_t[::1] octets = found.view(np.uint8)
    cdef Py_ssize_t i, count = slots.shape[0]
    cdef Binding* row
    cdef uint64_t key
    if br.shape[0] != 16:
        raise ValueError("an IPv6 address has 16 octets")
    with nogil:
        for i in range(count):
            row, key = <Binding*>&octets[i * sizeof(Binding)], keys[slots[i]]
            row.ipv4 = <uint32_t>(key >> 26)
            row.psid_offset = key >> 21 & 31
            row.psid_len = key >> 16 & 31
            row.psid = key & 0xFFFF
            memcpy(row.b4, &b4[slots[i], 0], 16)
            memcpy(row.br, &br[0], 16)
    return found
