# cython: boundscheck=False, wraparound=False
"""The plain form of a PCP packet, compiled: no extension headers, no IPv4 options. framing.py has the same in readable form
(`strip_any`, `wrap`), and every other form; tests/test_framing.py compares them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy, memset

cdef enum:
    IPV4 = 4
    UDP = 17
    HEADERS = 68  # IPv6, IPv4, UDP
    MOST = 1 << 15  # octets of a payload that is sent


cdef inline unsigned int be16(const unsigned char* at) noexcept:
    return at[0] << 8 | at[1]


cdef inline void put16(unsigned char* at, unsigned int value) noexcept:
    at[0] = value >> 8 & 255
    at[1] = value & 255


cdef inline unsigned long long added(const unsigned char* at, Py_ssize_t length) noexcept:
    """Of 16-bit words; an odd octet is the high one of its word."""
    cdef unsigned long long found = 0
    cdef Py_ssize_t i = 0
    while i + 1 < length:
        found += be16(at + i)
        i += 2
    if i < length:
        found += <unsigned long long>at[i] << 8
    return found


def strip_plain(bytes packet, punted):
    """What framing.strip says of a packet that is long enough, has IPv4 next and a header of 20 octets."""
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(packet)
    cdef Py_ssize_t have = PyBytes_GET_SIZE(packet)
    if have < HEADERS or p[6] != IPV4 or p[40] != 0x45:
        return None
    cdef unsigned int length = be16(p + 4), total = be16(p + 42), size = be16(p + 64)
    if (
        p[0] >> 4 != 6 or p[49] != UDP or be16(p + 46) & 0x3FFF
        or size < 8 or size + 20 > total or total > length or length + 40 > have
        or added(p + 40, 20) % 0xFFFF
    ):
        return None
    if be16(p + 66) and (added(p + 52, 8 + size) + UDP + size) % 0xFFFF:
        return None
    return tuple.__new__(
        punted,
        (packet[8:24], packet[24:40], packet[52:56], be16(p + 60), packet[56:60], be16(p + 62), packet[68 : 60 + size]),
    )


def reply(to, bytes payload):
    """framing.wrap from where a request went to where it came from."""
    tunnel, br, source, source_port, destination, destination_port, _ = to
    cdef bytes far = tunnel, near = br, client = source, server = destination
    cdef Py_ssize_t count = PyBytes_GET_SIZE(payload)
    if len(far) != 16 or len(near) != 16 or len(client) != 4 or len(server) != 4 or count > MOST:
        raise ValueError("no addresses of a softwire, or too long")
    cdef bytes made = PyBytes_FromStringAndSize(NULL, HEADERS + count)
    cdef unsigned char* out = <unsigned char*>PyBytes_AS_STRING(made)
    cdef unsigned int size = 8 + count, total = 28 + count, check
    memset(out, 0, HEADERS)
    out[0] = 6 << 4
    put16(out + 4, total)
    out[6], out[7] = IPV4, 64
    memcpy(out + 8, PyBytes_AS_STRING(near), 16)
    memcpy(out + 24, PyBytes_AS_STRING(far), 16)
    out[40] = 0x45
    put16(out + 42, total)
    out[45] = 1  # identification
    out[48], out[49] = 64, UDP
    memcpy(out + 52, PyBytes_AS_STRING(server), 4)
    memcpy(out + 56, PyBytes_AS_STRING(client), 4)
    put16(out + 50, (0xFFFF - added(out + 40, 20) % 0xFFFF) % 0xFFFF)
    put16(out + 60, destination_port)
    put16(out + 62, source_port)
    put16(out + 64, size)
    memcpy(out + HEADERS, PyBytes_AS_STRING(payload), count)
    check = (0xFFFF - (added(out + 52, 8 + size) + UDP + size) % 0xFFFF) % 0xFFFF
    put16(out + 66, check if check else 0xFFFF)  # RFC 768: 0 says that there is none
    return made
