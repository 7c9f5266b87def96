# cython: boundscheck=False, wraparound=False, cdivision=True
"""The leases as they are, and the ring of which of them changed when: what database.Database is about, one change after
the other."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pylwaftr.responder._rows cimport Change, Lease, key_of, put32

import numpy as np

from pylwaftr.responder.encode import ACTIVE as ACTIVE_STATE
from pylwaftr.responder.encode import INFINITE as INFINITE_S
from pylwaftr.responder.encode import LEASE

if LEASE.itemsize != sizeof(Lease):
    raise ImportError("LEASE and the compiled row differ")

cdef uint8_t ACTIVE = ACTIVE_STATE
cdef uint32_t INFINITE = INFINITE_S


cdef class Memory:
    cdef public int64_t head, horizon
    cdef public double next_expiry
    cdef readonly int64_t count
    cdef readonly object _leases, _log, _times
    cdef dict _slots
    cdef list _free
    cdef object _last_of
    cdef uint8_t[::1] _rows
    cdef int32_t[::1] _changed
    cdef uint32_t[::1] _when
    cdef int64_t[::1] _last
    cdef int64_t _now

    def __init__(self, int64_t log_size):
        self.horizon = self.head = self.count = self._now = 0
        self.next_expiry = float("inf")
        self._slots, self._free = {}, []
        self._log, self._times = np.zeros(log_size, np.int32), np.zeros(log_size, np.uint32)
        self._changed, self._when = self._log, self._times
        self._hold(np.zeros(1024, LEASE), np.zeros(1024, np.int64))

    cdef _hold(self, leases, last_of):
        self._leases, self._last_of = leases, last_of
        self._rows, self._last = leases.view(np.uint8), last_of

    def load(self, leases, at):
        """Many new active leases at once, as LEASE."""
        start, self.count = self.count, self.count + len(leases)
        while self.count > len(self._leases):
            self._grow()
        self._leases[start : self.count] = leases
        for slot in range(start, self.count):
            self._slots[self._key(slot)] = slot
        self.next_expiry = min(self.next_expiry, float(leases["expires"].min(initial=INFINITE)))
        self.horizon = self._now = max(at, self._now)

    def take(self, rows, now):
        """`rows`: of CHANGE, in order. `now`: when they became known; None = when they happened. What a change does not
        say of an ended lease stays as it was."""
        cdef const uint8_t[::1] octets = np.ascontiguousarray(rows).view(np.uint8)
        cdef Py_ssize_t i, count = octets.shape[0] // sizeof(Change)
        cdef int64_t known = -1 if now is None else now
        cdef const Change* change
        cdef int32_t slot
        for i in range(count):
            change = <const Change*>&octets[i * sizeof(Change)]
            slot = self._slot(change.key)
            self._fill(self._at(slot), change)
            self._note(slot, max(known, <int64_t>change.at))

    def ended(self, slots, uint8_t state, int64_t now):
        """By themselves, when they were to."""
        cdef int32_t slot
        for slot in slots:
            self._at(slot).state = state
            self._at(slot).since = self._at(slot).expires
            self._note(slot, now)

    cdef inline Lease* _at(self, int32_t slot) noexcept:
        return <Lease*>&self._rows[slot * <Py_ssize_t>sizeof(Lease)]

    cdef uint64_t _key(self, int32_t slot) noexcept:
        cdef const Lease* lease = self._at(slot)
        cdef uint32_t ipv4 = <uint32_t>lease.ipv4[0] << 24 | lease.ipv4[1] << 16 | lease.ipv4[2] << 8 | lease.ipv4[3]
        cdef uint32_t field = lease.params[2] << 8 | lease.params[3]
        return key_of(ipv4, lease.params[0], lease.params[1], field >> (16 - lease.params[1]))

    cdef int32_t _slot(self, uint64_t key) except -1:
        found = self._slots.get(key)
        if found is not None:
            return found
        if self._free:
            slot = self._free.pop()
        else:
            if self.count == len(self._leases):
                self._grow()
            slot = self.count
            self.count += 1
        self._slots[key] = slot
        return slot

    cdef _grow(self):
        size = len(self._leases)
        leases, last_of = np.zeros(2 * size, LEASE), np.zeros(2 * size, np.int64)  # concatenate would turn >u4 round
        leases[:size], last_of[:size] = self._leases, self._last_of
        self._hold(leases, last_of)

    cdef void _fill(self, Lease* lease, const Change* change) noexcept:
        cdef bint active = change.state == ACTIVE
        cdef uint32_t cltt = change.cltt if change.has_cltt else change.at
        cdef uint64_t expires
        if lease.state != change.state:
            lease.since = change.at
        lease.state = change.state
        put32(lease.ipv4, change.ipv4)
        memcpy(lease.params, change.params, sizeof(lease.params))
        if active or change.has_cltt:
            lease.cltt = cltt
        if active or change.has_b4:
            memcpy(lease.b4, change.b4, sizeof(lease.b4))
            lease.has_b4 = change.has_b4
        if active or change.client_len:
            memcpy(lease.client, change.client, sizeof(lease.client))
            lease.client_len = change.client_len
        if active:
            expires = min(<uint64_t>cltt + change.lifetime, <uint64_t>INFINITE - 1)
            lease.expires = INFINITE if change.lifetime == INFINITE else <uint32_t>expires
            self.next_expiry = min(self.next_expiry, <double>lease.expires)

    cdef int _note(self, int32_t slot, int64_t at) except -1:
        cdef int64_t size = self._changed.shape[0], place = self.head % size
        self._now = max(self._now, at)
        self._last[slot] = self.head
        if self.head >= size:
            self._forget(self._changed[place], self.head - size, self._when[place])
        self._changed[place], self._when[place] = slot, <uint32_t>self._now
        self.head += 1
        return 0

    cdef int _forget(self, int32_t slot, int64_t number, int64_t at) except -1:
        """The log overwrites a change: times up to that second are incomplete, and an ended lease goes."""
        self.horizon = max(self.horizon, at + 1)
        if self._at(slot).state != ACTIVE and self._last[slot] == number:
            del self._slots[self._key(slot)]
            memset(self._at(slot), 0, sizeof(Lease))  # or the next one to have the slot would inherit from it
            self._free.append(slot)
        return 0
