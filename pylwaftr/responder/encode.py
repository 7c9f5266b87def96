"""What the server says: DHCPv6 leasequery messages (RFC 5460, 7653) that carry DHCPv4 ones or softwire containers, and
DHCPv4 ones alone (RFC 6926, 7724), all framed for TCP.

Leases are encoded in columns: all leases of one shape (length of the client-id, with or without lifetime and tunnel
address) are copies of one octet string that differ in known places.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pylwaftr.responder import _columns

EPOCH_2000 = 946684800
REPLY, LEASEQUERY_REPLY, LEASEQUERY_DONE, LEASEQUERY_DATA = 7, 15, 16, 17
CLIENT_ID, SERVER_ID, STATUS_CODE, CLIENT_DATA, CLT_TIME, DHCPV4_MSG, LQ_BASE_TIME = 1, 2, 13, 45, 46, 87, 100
IAADDR, S46_BR, S46_V4V6BIND, S46_PORTPARAMS, S46_CONT_LW = 5, 90, 92, 93, 96
SUCCESS, UNSPEC_FAIL, UNKNOWN_QUERY_TYPE, MALFORMED_QUERY, NOT_CONFIGURED, NOT_ALLOWED = 0, 1, 7, 8, 9, 10
QUERY_TERMINATED, DATA_MISSING, CATCH_UP_COMPLETE, NOT_SUPPORTED, TLS_REFUSED = 11, 12, 13, 14, 15
ACTIVE, REMOTE, TRANSITIONING = 2, 7, 8  # dhcp-state
INFINITE = 0xFFFFFFFF
CLIENT_MOST = 64  # octets of a client-id that a lease may have here

# A lease as the server keeps it.
LEASE = np.dtype(
    [
        ("ipv4", ">u4"),
        ("params", "u1", (4,)),  # option 159 as it goes out: offset, PSID-len, PSID on the left
        ("b4", "u1", (16,)),
        ("client", "u1", (CLIENT_MOST,)),
        ("client_len", "u1"),
        ("has_b4", "?"),
        ("state", "u1"),
        ("expires", "<u4"),  # Unix seconds; INFINITE = never
        ("cltt", "<u4"),
        ("since", "<u4"),
    ]
)
Leases = npt.NDArray[Any]
Octets = npt.NDArray[np.uint8]


def option6(code: int, data: bytes) -> bytes:
    return struct.pack("!HH", code, len(data)) + data


def framed(kind: int, xid: int, options: bytes) -> bytes:
    return struct.pack("!HB", 4 + len(options), kind) + xid.to_bytes(3) + options


def base_time(now: int) -> bytes:
    return option6(LQ_BASE_TIME, (now - EPOCH_2000 & 0xFFFFFFFF).to_bytes(4))


def status(code: int, text: str = "") -> bytes:
    return option6(STATUS_CODE, code.to_bytes(2) + text.encode())


def identities(server: bytes, client: bytes) -> bytes:
    return option6(SERVER_ID, server) + option6(CLIENT_ID, client)


# How leases are told: RFC 7653 around DHCPv4 messages; DHCPv4 alone, and with the server identifier that the first
# answer to a query has; RFC 7653 with softwire containers (RFC 7598).
WRAPPED, NATIVE, NATIVE_FIRST, SOFTWIRE = range(4)


class Layout:
    """The octets of a message with one lease, and where in it the fields are."""

    def __init__(self, way: int, client_len: int, lifetime: bool, b4: bool) -> None:
        self.at: dict[str, int] = {}
        self.way = way
        if way == SOFTWIRE:
            inside = self._softwire(client_len)
        else:
            inside = self._message4(client_len, lifetime, b4)
        if way in (NATIVE, NATIVE_FIRST):
            head = len(inside).to_bytes(2) + inside
        else:
            head = framed(LEASEQUERY_DATA, 0, base_time(EPOCH_2000) + option6(CLIENT_DATA, inside))
        self.octets = np.frombuffer(head, np.uint8)
        start = len(head) - len(inside)
        self.at = {name: start + offset for name, offset in self.at.items()}
        if way in (WRAPPED, SOFTWIRE):
            self.client_data_at = start - 4
            self.at |= {"xid6": 3, "base6": self.client_data_at - 4}
        self.places = np.array([self.at.get(name, -1) for name in _columns.NAMES], np.int32)

    def _message4(self, client_len: int, lifetime: bool, b4: bool) -> bytes:
        """DHCPLEASEACTIVE or DHCPLEASEUNASSIGNED, inside what way W puts around it."""
        four = bytearray(240)
        four[0] = 2
        four[236:240] = b"\x63\x82\x53\x63"
        fields = {"xid4": 4, "ciaddr": 12}

        def add(code: int, size: int, name: str) -> None:
            four.extend((code, size))
            fields[name] = len(four)
            four.extend(bytes(size))

        add(53, 1, "kind")
        if self.way == NATIVE_FIRST:
            add(54, 4, "server_id")
        add(152, 4, "base4")
        if lifetime:
            add(51, 4, "lifetime")
        if client_len:
            add(61, client_len, "client")
        add(91, 4, "last")
        add(153, 4, "since")
        add(156, 1, "state")
        add(159, 4, "params")
        if b4:
            add(109, 16, "b4")
        four.append(255)
        around = b"" if self.way != WRAPPED else option6(CLT_TIME, bytes(4)) + struct.pack("!HH", DHCPV4_MSG, len(four))
        self.at = {name: len(around) + offset for name, offset in fields.items()}
        if around:
            self.at["clt_time"] = 4
        return around + bytes(four)

    def _softwire(self, duid_len: int) -> bytes:
        """CLIENTID, CLT_TIME, S46_CONT_LW with a whole tunnel address, IAADDR of it; a lifetime of 0 is the end."""
        out = bytearray(option6(CLIENT_ID, bytes(duid_len)) if duid_len else b"")
        self.at = {"duid": 4} if duid_len else {}
        self.at["clt_time"] = len(out) + 4
        ports = option6(S46_PORTPARAMS, bytes(4))
        bind = option6(S46_V4V6BIND, bytes(4) + b"\x80" + bytes(16) + ports)
        container = len(out) + 8 + 4
        out += option6(CLT_TIME, bytes(4)) + option6(S46_CONT_LW, bind + option6(S46_BR, bytes(16)))
        self.at |= {"ciaddr": container + 4, "b4": container + 9, "params": container + 4 + 21 + 4}
        self.at |= {"br": container + len(bind) + 4}
        self.at |= {"address": len(out) + 4, "preferred": len(out) + 20, "lifetime": len(out) + 24}
        return bytes(out + option6(IAADDR, bytes(24)))


layout = cache(Layout)


def in_softwires(leases: Leases) -> Leases:
    """Those that a softwire container can tell of: it has a tunnel address, and of states only life and end. A lease
    that is the partner's or on its way to another state has not ended."""
    told: Leases = leases[leases["has_b4"] & (leases["state"] != REMOTE) & (leases["state"] != TRANSITIONING)]
    return told


def data(leases: Leases, xid: int, now: int, way: int = WRAPPED, sender: bytes = b"") -> bytes:
    """A message for each, in no particular order. `now`: the base-time, Unix seconds. `sender`: the server identifier
    of NATIVE_FIRST, the BR address of SOFTWIRE."""
    if not len(leases):
        return b""
    size = leases["client_len"].astype(np.int32)
    if way == SOFTWIRE:  # the client-id is ff, IAID, DUID (RFC 4361), or it has no DUID
        size = np.where((leases["client"][:, 0] == 0xFF) & (size >= 8), size - 5, 0)
        shape = size << 2 | 3
    else:
        shape = size << 2 | (leases["state"] == ACTIVE) << 1 | leases["has_b4"]
    if (shape == shape[0]).all():
        return _alike(leases, int(shape[0]), xid, now, way, sender).tobytes()
    return b"".join(
        _alike(leases[shape == code], int(code), xid, now, way, sender).tobytes() for code in np.unique(shape)
    )


def client_data(lease: Leases, xid: int, now: int, way: int = WRAPPED, sender: bytes = b"") -> bytes:
    """The CLIENT_DATA option of one lease (an array of one), for a LEASEQUERY-REPLY."""
    return data(lease, xid, now, way, sender)[layout(way, 0, True, True).client_data_at :]


def _alike(leases: Leases, code: int, xid: int, now: int, way: int, sender: bytes) -> Octets:
    shape = layout(way, code >> 2, bool(code & 2), bool(code & 1))
    out = np.empty((len(leases), len(shape.octets)), np.uint8)
    _columns.fill(out, shape.octets, shape.places, leases, xid, now, way == SOFTWIRE, code >> 2, sender)
    return out
