# cython: boundscheck=False, wraparound=False, cdivision=True
"""The octets of many leases of one shape: copies of one message that differ in known places (encode.Layout)."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from pylwaftr.responder._rows cimport Lease, put32

import numpy as np

cdef enum:
    ACTIVE = 2
    LEASEUNASSIGNED = 11
    LEASEACTIVE = 13
    EPOCH_2000 = 946684800

# Where a field is, in this order; -1: the message has none.
NAMES = (
    *("xid6", "base6", "clt_time", "xid4", "ciaddr", "kind", "server_id", "base4", "lifetime", "client", "last"),
    *("since", "state", "params", "b4", "duid", "br", "address", "preferred"),
)

cdef enum:
    XID6, BASE6, CLT_TIME, XID4, CIADDR, KIND, SERVER_ID, BASE4, LIFETIME, CLIENT, LAST
    SINCE, STATE, PARAMS, B4, DUID, BR, ADDRESS, PREFERRED, PLACES

cdef uint32_t INFINITE = 0xFFFFFFFF


cdef inline uint32_t ago(int64_t now, uint32_t when) noexcept nogil:
    return <uint32_t>max(now - when, 0)


cdef inline void put(uint8_t* out, int32_t at, uint32_t number) noexcept nogil:
    if at >= 0:
        put32(out + at, number)


cdef inline void copy(uint8_t* out, int32_t at, const uint8_t* octets, Py_ssize_t size) noexcept nogil:
    if at >= 0:
        memcpy(out + at, octets, size)


cdef void fill_one(
    uint8_t* out, const int32_t* at, const Lease* lease, uint32_t xid, int64_t now, bint softwire, Py_ssize_t size
) noexcept nogil:
    cdef bint active = lease.state == ACTIVE
    cdef uint32_t left = INFINITE
    if at[XID6] >= 0:
        out[at[XID6]], out[at[XID6] + 1], out[at[XID6] + 2] = xid >> 16 & 255, xid >> 8 & 255, xid & 255
    put(out, at[BASE6], <uint32_t>(now - EPOCH_2000))
    put(out, at[CLT_TIME], ago(now, lease.cltt))
    put(out, at[XID4], xid)
    copy(out, at[CIADDR], lease.ipv4, 4)
    if at[KIND] >= 0:
        out[at[KIND]] = LEASEACTIVE if active else LEASEUNASSIGNED
    put(out, at[BASE4], <uint32_t>now)
    if softwire and not active:
        left = 0
    elif lease.expires != INFINITE:
        left = <uint32_t>max(lease.expires - now, 0)
    put(out, at[LIFETIME], left)
    put(out, at[PREFERRED], left)
    copy(out, at[CLIENT], lease.client, size)
    put(out, at[LAST], ago(now, lease.cltt))
    put(out, at[SINCE], ago(now, lease.since))
    if at[STATE] >= 0:
        out[at[STATE]] = lease.state
    copy(out, at[PARAMS], lease.params, 4)
    copy(out, at[B4], lease.b4, 16)
    copy(out, at[DUID], lease.client + 5, size)
    copy(out, at[ADDRESS], lease.b4, 16)


def fill(
    uint8_t[:, ::1] out,
    const uint8_t[::1] message,
    const int32_t[::1] places,
    leases,
    uint32_t xid,
    int64_t now,
    bint softwire,
    Py_ssize_t size,
    const uint8_t[::1] sender,
):
    """A row of `out` for each lease. `size`: octets of the client-id, of `softwire` those of its DUID; `sender`: the
    server identifier or the BR address."""
    cdef const uint8_t[::1] octets = np.ascontiguousarray(leases).view(np.uint8)
    cdef Py_ssize_t i
    if places.shape[0] != PLACES or octets.shape[0] != out.shape[0] * <Py_ssize_t>sizeof(Lease):
        raise ValueError("the places, the leases and the messages are not of one shape")
    if out.shape[1] != message.shape[0]:
        raise ValueError("a message is as long as its pattern")
    for i in range(out.shape[0]):
        memcpy(&out[i, 0], &message[0], message.shape[0])
        fill_one(&out[i, 0], &places[0], <const Lease*>&octets[i * sizeof(Lease)], xid, now, softwire, size)
        if sender.shape[0]:
            copy(&out[i, 0], places[SERVER_ID], &sender[0], sender.shape[0])
            copy(&out[i, 0], places[BR], &sender[0], sender.shape[0])
