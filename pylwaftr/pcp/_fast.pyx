# cython: boundscheck=False, wraparound=False
"""The two requests that a storm consists of, compiled: a subscriber's first port set, and its renewal unchanged.

Everything that is not exactly one of them goes to `slow`, the readable form in server.py and grants.py; what is done here
is what that would do, octet for octet (tests/test_pcp_server_fuzz.py).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport PyObject
from libc.math cimport ceil
from libc.string cimport memcmp, memcpy, memset

# The layout of mapping.RECORD.
cdef enum:
    STATE = 1
    PROTOCOL = 3
    INTERNAL_PORT = 4
    CLIENT_PORT = 6
    NONCE = 8
    B4 = 20
    BR = 36
    CLIENT = 52
    UNTIL = 68
    LIFETIME = 84
    RECORD = 88
    ACTIVE = 1
    REQUEST = 72  # octets of a MAP with a PORT_SET and nothing else


cdef inline unsigned int be16(const unsigned char* at) noexcept:
    return at[0] << 8 | at[1]


cdef inline unsigned int be32(const unsigned char* at) noexcept:
    return <unsigned int>at[0] << 24 | <unsigned int>at[1] << 16 | <unsigned int>at[2] << 8 | at[3]


cdef inline void put16(unsigned char* at, unsigned int value) noexcept:
    at[0] = value >> 8 & 255
    at[1] = value & 255


cdef inline void put32(unsigned char* at, unsigned int value) noexcept:
    at[0] = value >> 24
    at[1] = value >> 16 & 255
    at[2] = value >> 8 & 255
    at[3] = value & 255


cdef inline const unsigned char* octets(object value, Py_ssize_t length) noexcept:
    if not PyBytes_CheckExact(value) or PyBytes_GET_SIZE(value) != length:
        return NULL
    return <const unsigned char*>PyBytes_AS_STRING(value)


cdef class Fast:
    """Made anew whenever the settings change."""

    cdef object mappings, settings, pools, limits, grants, subscriber, statics
    cdef dict records, holders, due, buckets
    cdef list windows  # (pool, bits of all its sets)
    cdef frozenset protocols
    cdef unsigned int least, most
    cdef double rested_s
    cdef int mask
    cdef bint some_static
    cdef dict journal, asked
    cdef unsigned int epoch
    cdef double now
    cdef readonly unsigned long long answered

    def __init__(self, settings, mappings, statics, grants, limits):
        self.settings, self.mappings, self.limits = settings, mappings, limits
        self.statics, self.grants = statics, grants
        self.pools, self.subscriber = mappings.pools, mappings.subscriber
        self.records, self.holders, self.due = mappings.records, mappings.holders, mappings.due
        self.buckets = mappings.buckets
        self.windows = [(pool, pool.window(1, 65535)) for pool in mappings.pools.all]
        self.protocols = settings.protocols
        self.least, self.most = settings.min_s, settings.max_s
        self.mask = settings.mask
        self.rested_s = max(settings.quarantine_s, 120)
        self.answered = 0

    def batch(self, requests, unsigned int epoch, double now, slow):
        """The replies; `slow(index, datagram, sender)` answers what is not for here."""
        self.epoch, self.now = epoch, now
        self.some_static = len(self.statics) > 0
        self.journal, self.asked = self.mappings.journal, self.limits.asked
        cdef list replies = []
        cdef Py_ssize_t index = 0
        for datagram, sender in requests:
            reply = self.answer(datagram, sender)
            if reply is None:
                reply = slow(index, datagram, sender)
            else:
                self.answered += 1
            replies.append(reply)
            index += 1
        return replies

    cdef object answer(self, object datagram, object sender):
        via, ours, inside, port = sender
        cdef const unsigned char* request = octets(datagram, REQUEST)
        cdef const unsigned char* tunnel = octets(via, 16)
        cdef const unsigned char* br = octets(ours, 16)
        cdef const unsigned char* address = octets(inside, 16)
        if request == NULL or tunnel == NULL or br == NULL or address == NULL:
            return None
        cdef unsigned int lifetime = be32(request + 4)
        cdef unsigned int internal_port = be16(request + 40)
        cdef unsigned int size = be16(request + 64)
        if (
            request[0] != 2 or request[1] != 1 or memcmp(request + 8, address, 16) or not lifetime
            or request[60] != 130 or be16(request + 62) != 5 or size < 2 or be16(request + 66) != internal_port
        ):
            return None
        if lifetime < self.least:
            lifetime = self.least
        elif lifetime > self.most:
            lifetime = self.most
        subscriber = self.subscriber(via)
        cdef PyObject* held = PyDict_GetItem(self.holders, subscriber)
        if held == NULL:
            return self.first(via, request, tunnel, br, address, port, subscriber, internal_port, size, lifetime)
        return self.renewal(request, tunnel, br, address, port, subscriber, <tuple>held, internal_port, lifetime)

    cdef bint within_limits(self, object subscriber) except -1:
        cdef PyObject* counted = PyDict_GetItem(self.asked, subscriber)
        asked = 0 if counted == NULL else <object>counted
        if asked >= self.settings.per_subscriber or self.limits.in_all >= self.settings.per_s:
            return False
        self.asked[subscriber] = asked + 1
        self.limits.in_all += 1
        return True

    cdef object renewal(
        self, const unsigned char* request, const unsigned char* tunnel, const unsigned char* br,
        const unsigned char* address, unsigned int port, object subscriber, tuple held,
        unsigned int internal_port, unsigned int lifetime,
    ):
        if len(held) != 1:
            return None
        key = held[0]
        before = self.records[key]
        cdef const unsigned char* old = octets(before, RECORD)
        if (
            old == NULL or old[STATE] != ACTIVE or old[PROTOCOL] != request[36]
            or <unsigned int>(old[INTERNAL_PORT] | old[INTERNAL_PORT + 1] << 8) != internal_port
            or memcmp(old + NONCE, request + 24, 12) or memcmp(old + B4, tunnel, 16) or memcmp(old + BR, br, 16)
        ):
            return None
        pool = self.pools.of(key)
        if pool is None or not self.within_limits(subscriber):
            return None
        cdef double until = self.now + lifetime
        cdef PyObject* due = PyDict_GetItem(self.due, key)
        record = PyBytes_FromStringAndSize(<const char*>old, RECORD)
        self.change(<unsigned char*>PyBytes_AS_STRING(record), address, port, until, lifetime)
        if key not in self.journal:
            self.journal[key] = before
        self.records[key] = record
        if due == NULL or <object>due > ceil(until):
            self.mappings.watch(key, <long long>ceil(until))
        return self.reply(request, key, lifetime, internal_port, pool.legacy)

    cdef object first(
        self, object via, const unsigned char* request, const unsigned char* tunnel, const unsigned char* br,
        const unsigned char* address, unsigned int port, object subscriber,
        unsigned int internal_port, unsigned int size, unsigned int lifetime,
    ):
        if internal_port != 1 or size < 65535 or request[36] not in self.protocols:
            return None
        if self.some_static and self.statics.may_have(via, self.mask):
            return None
        found = self.set_for(request)
        if found is None or not self.within_limits(subscriber):
            return None
        pool, key = <tuple>found
        record = PyBytes_FromStringAndSize(NULL, RECORD)
        cdef unsigned char* new = <unsigned char*>PyBytes_AS_STRING(record)
        memset(new, 0, RECORD)
        new[0], new[STATE], new[PROTOCOL] = 1, ACTIVE, request[36]
        new[INTERNAL_PORT], new[INTERNAL_PORT + 1] = internal_port & 255, internal_port >> 8
        memcpy(new + NONCE, request + 24, 12)
        memcpy(new + B4, tunnel, 16)
        memcpy(new + BR, br, 16)
        self.change(new, address, port, self.now + lifetime, lifetime)
        self.begin(pool, key, record, subscriber, <long long>ceil(self.now + lifetime))
        return self.reply(request, key, lifetime, internal_port, pool.legacy)

    cdef int begin(self, object pool, object key, object record, object subscriber, long long second) except -1:
        """mappings.write for who has nothing yet."""
        if key in self.records:  # of somebody who gave it back
            self.mappings.write(key, record)
            return 0
        if key not in self.journal:
            self.journal[key] = None
        self.records[key] = record
        self.holders[subscriber] = (key,)
        self.mappings.active += 1
        pool.held += 1
        pool.hold(key)
        bucket = self.buckets.get(second)
        if bucket is None or key in self.due:
            self.mappings.watch(key, second)
        else:
            self.due[key] = second
            (<list>bucket).append(key)
        return 0

    cdef object set_for(self, const unsigned char* request):
        """What choice.choose finds for who never had a set, and its pool; None leaves it to that."""
        cdef unsigned int port = be16(request + 42)
        cdef bint mapped = not memcmp(request + 44, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12)
        cdef unsigned int ipv4 = be32(request + 56)
        if mapped and port:
            found = self.pools.containing(ipv4, port)
            if found is not None:
                pool, key = found
                if pool.is_free(key, self.now - self.rested_s):
                    return found
        if self.grants.recovering_until > self.now:
            return None
        if mapped and ipv4:
            pool = self.pools.at(ipv4)
            if pool is not None:
                key = pool.on_address(ipv4, pool.window(1, 65535), self.now - self.rested_s)
                if key is not None:
                    return pool, key
        for pool, window in self.windows:
            key = pool.fresh(window)
            if key is not None:
                return pool, key
        return None

    cdef void change(
        self, unsigned char* record, const unsigned char* address, unsigned int port, double until, unsigned int lifetime
    ) noexcept:
        record[CLIENT_PORT], record[CLIENT_PORT + 1] = port & 255, port >> 8 & 255
        memcpy(record + CLIENT, address, 16)
        memcpy(record + UNTIL, &until, 8)  # this machine's order is the record's: little-endian
        memcpy(record + LIFETIME, &lifetime, 4)

    cdef object reply(
        self, const unsigned char* request, object key, unsigned int lifetime, unsigned int internal_port, bint legacy
    ):
        cdef unsigned long long number = key
        cdef unsigned int shift = 16 - (number >> 16 & 31)
        cdef unsigned int first = (number & 0xFFFF) << shift
        cdef unsigned int size = 1 << shift
        if shift == 16:
            first, size = 1, 65535
        answer = PyBytes_FromStringAndSize(<const char*>request, REQUEST if size > 1 else 60)
        cdef unsigned char* out = <unsigned char*>PyBytes_AS_STRING(answer)
        out[1] = 0x81
        out[2] = out[3] = 0
        put32(out + 4, lifetime)
        put32(out + 8, self.epoch)
        memset(out + 12, 0, 12)
        memset(out + 37, 0, 3)
        put16(out + 42, first)
        memset(out + 44, 0, 10)
        out[54] = out[55] = 255
        put32(out + 56, number >> 21)
        if size > 1:
            out[61] = 0
            put16(out + 64, size)
            put16(out + 66, internal_port if legacy else first)
            out[68] = request[68] & 1  # parity is kept, for no port changes
            memset(out + 69, 0, 3)
        return answer


cdef inline bytes row(unsigned long long key, const unsigned char* record):
    """BINDING_ROW."""
    made = PyBytes_FromStringAndSize(NULL, 40)
    cdef unsigned char* out = <unsigned char*>PyBytes_AS_STRING(made)
    cdef unsigned int ipv4 = key >> 21
    cdef unsigned short psid = key & 0xFFFF
    memcpy(out, &ipv4, 4)
    memcpy(out + 4, &psid, 2)
    out[6], out[7] = key >> 16 & 31, 0
    memcpy(out + 8, record + B4, 32)
    return made


cdef inline const unsigned char* active(object record) noexcept:
    """NULL if it is none, or its state is another."""
    if record is None:
        return NULL
    cdef const unsigned char* octets_of = <const unsigned char*>PyBytes_AS_STRING(record)
    if octets_of[STATE] != ACTIVE:
        return NULL
    return octets_of


def net_rows(dict journal, dict records):
    """(octets of the rows bound, of those unbound) between the journal's records and those of now."""
    cdef list bind = [], unbind = []
    cdef const unsigned char* was
    cdef const unsigned char* now
    for key, before in journal.items():
        after = records.get(key)
        was = active(before)
        now = active(after)
        if was == now or (was != NULL and now != NULL and not memcmp(was + B4, now + B4, 32)):
            continue
        if now != NULL:
            bind.append(row(key, now))
        else:
            unbind.append(row(key, was))
    return b"".join(bind), b"".join(unbind)


def changed(dict journal, dict records):
    """What the store has to keep: mapping.store_key -> record, None for one that went."""
    cdef dict found = {}
    cdef unsigned long long number
    cdef unsigned char* out
    for key, before in journal.items():
        after = records.get(key)
        if after == before:
            continue
        number = key
        name = PyBytes_FromStringAndSize(NULL, 8)
        out = <unsigned char*>PyBytes_AS_STRING(name)
        out[0] = c"m"
        put32(out + 1, number >> 21)
        out[5] = number >> 16 & 31
        put16(out + 6, number & 0xFFFF)
        found[name] = after
    return found
