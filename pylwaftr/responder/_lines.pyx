# cython: boundscheck=False, wraparound=False, cdivision=True
"""Lines of a journal in the form that it is usually written in, into rows of database.CHANGE.

A line is usual if it is an object of known names, each once, with plain values: numbers of digits alone, strings
without escapes. Reading stops in front of the first line that is not, or whose values cannot be; journal.parse reads
that one and alone knows what is wrong with it. A test holds the two together.
"""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from pylwaftr.responder._rows cimport CLIENT_MOST, Change, key_of

import numpy as np

from pylwaftr.responder.database import CHANGE, STATES
from pylwaftr.responder.encode import INFINITE as INFINITE_S

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* address)
    enum: AF_INET, AF_INET6

if CHANGE.itemsize != sizeof(Change):
    raise ImportError("CHANGE and the compiled row differ")

cdef enum Name:
    AT = 1
    STATE = 2
    IPV4 = 4
    OFFSET = 8
    PSID_LEN = 16
    PSID = 32
    LIFETIME = 64
    CLTT = 128
    B4 = 256
    CLIENT = 512
    NEEDED = 7
    TEXT_MOST = 45  # characters of an address

cdef uint32_t INFINITE = INFINITE_S
cdef list _states = [(name.encode(), code) for name, code in STATES.items()]


cdef struct Text:
    const char* at
    Py_ssize_t size


cdef inline bint is_it(Text text, const char* word, Py_ssize_t size) noexcept:
    return text.size == size and not memcmp(text.at, word, size)


cdef int name_of(Text text) noexcept:
    if is_it(text, b"at", 2): return AT
    if is_it(text, b"state", 5): return STATE
    if is_it(text, b"ipv4", 4): return IPV4
    if is_it(text, b"offset", 6): return OFFSET
    if is_it(text, b"psid_len", 8): return PSID_LEN
    if is_it(text, b"psid", 4): return PSID
    if is_it(text, b"lifetime", 8): return LIFETIME
    if is_it(text, b"cltt", 4): return CLTT
    if is_it(text, b"b4", 2): return B4
    if is_it(text, b"client", 6): return CLIENT
    return 0


cdef const char* string_at(const char* p, const char* end, Text* text) noexcept:
    """What follows it; NULL: there is no plain string."""
    if p == end or p[0] != c'"':
        return NULL
    p += 1
    text.at = p
    while p < end and p[0] != c'"':
        if p[0] == c"\\" or p[0] < 32:  # signed: all beyond ASCII too
            return NULL
        p += 1
    text.size = p - text.at
    if p == end:
        return NULL
    return p + 1


cdef const char* number_at(const char* p, const char* end, int64_t* number) noexcept:
    cdef const char* first = p
    number[0] = 0
    while p < end and c"0" <= p[0] <= c"9" and p - first < 11:
        number[0] = number[0] * 10 + p[0] - c"0"
        p += 1
    if p == first or (first[0] == c"0" and p - first > 1):
        return NULL
    return p


cdef inline const char* past_blanks(const char* p, const char* end) noexcept:
    while p < end and p[0] == c" ":
        p += 1
    return p


cdef bint address_of(Text text, int family, void* out) noexcept:
    cdef char copy[TEXT_MOST + 1]
    if text.size > TEXT_MOST:
        return False
    memcpy(copy, text.at, text.size)
    copy[text.size] = 0
    return inet_pton(family, copy, out) == 1


cdef inline int digit_of(char c) noexcept:
    if c"0" <= c <= c"9": return c - c"0"
    if c"a" <= c <= c"f": return c - c"a" + 10
    if c"A" <= c <= c"F": return c - c"A" + 10
    return -1


cdef bint client_of(Text text, Change* row) noexcept:
    cdef Py_ssize_t i
    cdef int high, low
    if text.size & 1 or text.size == 2 or text.size > 2 * CLIENT_MOST:
        return False
    for i in range(text.size // 2):
        high, low = digit_of(text.at[2 * i]), digit_of(text.at[2 * i + 1])
        if high < 0 or low < 0:
            return False
        row.client[i] = high << 4 | low
    row.client_len = text.size // 2
    return True


cdef bint state_of(Text text, Change* row):
    for word, code in _states:
        if is_it(text, word, len(word)):
            row.state = code
            return True
    return False


cdef bint usual(const char* p, const char* end, Change* row):
    cdef int64_t number, at = 0, offset = 0, length = 0, psid = 0
    cdef uint8_t address[4]
    cdef int seen = 0, name
    cdef Text text
    cdef uint32_t field
    memset(row, 0, sizeof(Change))
    row.lifetime = INFINITE
    if p == end or p[0] != c"{":
        return False
    p += 1
    while True:
        p = string_at(past_blanks(p, end), end, &text)
        if p == NULL:
            return False
        name = name_of(text)
        p = past_blanks(p, end)
        if not name or seen & name or p == end or p[0] != c":":
            return False
        seen |= name
        p = past_blanks(p + 1, end)
        if name in (STATE, IPV4, B4, CLIENT):
            p = string_at(p, end, &text)
            if p == NULL:
                return False
            if name == STATE and not state_of(text, row):
                return False
            if name == IPV4 and not address_of(text, AF_INET, address):
                return False
            if name == B4 and not address_of(text, AF_INET6, row.b4):
                return False
            if name == CLIENT and not client_of(text, row):
                return False
        else:
            p = number_at(p, end, &number)
            if p == NULL or number > <int64_t>INFINITE:
                return False
            if name == AT: row.at = <uint32_t>number
            elif name == OFFSET: offset = number
            elif name == PSID_LEN: length = number
            elif name == PSID: psid = number
            elif name == LIFETIME: row.lifetime = <uint32_t>number
            else: row.cltt = <uint32_t>number
        p = past_blanks(p, end)
        if p < end and p[0] == c",":
            p += 1
        elif p < end and p[0] == c"}":
            break
        else:
            return False
    if p + 1 != end or seen & NEEDED != NEEDED or offset > 15 or length > 16 - offset or psid >= 1 << length:
        return False
    row.has_b4, row.has_cltt = seen & B4 != 0, seen & CLTT != 0
    row.ipv4 = <uint32_t>address[0] << 24 | address[1] << 16 | address[2] << 8 | address[3]
    field = <uint32_t>psid << (16 - length)
    row.params[0], row.params[1], row.params[2], row.params[3] = offset, length, field >> 8, field & 255
    row.key = key_of(row.ipv4, offset, length, psid)
    return True


def read(list lines, Py_ssize_t at, out, Py_ssize_t count):
    """From lines[at] on, into out[count] and behind it. Returns where it has stopped, in both."""
    cdef uint8_t[::1] octets = out.view(np.uint8)
    cdef Py_ssize_t size, most = octets.shape[0] // sizeof(Change)
    cdef const char* text
    while at < len(lines) and count < most:
        text = PyUnicode_AsUTF8AndSize(lines[at], &size)
        if not usual(text, text + size, <Change*>&octets[count * sizeof(Change)]):
            break
        at += 1
        count += 1
    return at, count
