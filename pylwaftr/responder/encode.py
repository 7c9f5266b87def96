"""What the server says: DHCPv6 leasequery messages (RFC 5460, 7653) that carry DHCPv4 ones, framed for TCP.

Leases are encoded in columns: all leases of one shape (length of the client-id, with or without lifetime and tunnel
address) are copies of one octet string that differ in known places.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

EPOCH_2000 = 946684800
REPLY, LEASEQUERY_REPLY, LEASEQUERY_DONE, LEASEQUERY_DATA = 7, 15, 16, 17
CLIENT_ID, SERVER_ID, STATUS_CODE, CLIENT_DATA, CLT_TIME, DHCPV4_MSG, LQ_BASE_TIME = 1, 2, 13, 45, 46, 87, 100
SUCCESS, UNKNOWN_QUERY_TYPE, MALFORMED_QUERY, NOT_CONFIGURED, NOT_ALLOWED = 0, 7, 8, 9, 10
QUERY_TERMINATED, DATA_MISSING, CATCH_UP_COMPLETE, TLS_REFUSED = 11, 12, 13, 15
ACTIVE = 2  # dhcp-state
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


class Layout:
    """The octets of LEASEQUERY-DATA with one lease, and where in it the fields are."""

    def __init__(self, client_len: int, lifetime: bool, b4: bool) -> None:
        self.at: dict[str, int] = {}
        four = bytearray(240)
        four[0] = 2
        four[236:240] = b"\x63\x82\x53\x63"
        fields = {"xid4": 5, "ciaddr": 12}

        def add(code: int, size: int, name: str) -> None:
            four.extend((code, size))
            fields[name] = len(four)
            four.extend(bytes(size))

        add(53, 1, "kind")
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
        inside = option6(CLT_TIME, bytes(4)) + option6(DHCPV4_MSG, bytes(four))
        head = framed(LEASEQUERY_DATA, 0, base_time(EPOCH_2000) + option6(CLIENT_DATA, inside))
        self.octets = np.frombuffer(head, np.uint8)
        start = len(head) - len(four)
        self.client_data_at = len(head) - len(inside) - 4
        self.at = {name: start + offset for name, offset in fields.items()}
        self.at |= {"xid6": 3, "base6": self.client_data_at - 4, "clt_time": start - 8}


layout = cache(Layout)


def data(leases: Leases, xid: int, now: int) -> bytes:
    """LEASEQUERY-DATA for each, in no particular order. `now`: the base-time, Unix seconds."""
    if not len(leases):
        return b""
    shape = leases["client_len"].astype(np.int32) << 2 | (leases["state"] == ACTIVE) << 1 | leases["has_b4"]
    return b"".join(_alike(leases[shape == code], int(code), xid, now).tobytes() for code in np.unique(shape))


def client_data(lease: Leases, xid: int, now: int) -> bytes:
    """The CLIENT_DATA option of one lease (an array of one), for a LEASEQUERY-REPLY."""
    shape = layout(int(lease["client_len"][0]), bool(lease["state"][0] == ACTIVE), bool(lease["has_b4"][0]))
    return data(lease, xid, now)[shape.client_data_at :]


def _alike(leases: Leases, code: int, xid: int, now: int) -> Octets:
    shape = layout(code >> 2, bool(code & 2), bool(code & 1))
    out = np.empty((len(leases), len(shape.octets)), np.uint8)
    out[:] = shape.octets
    at = shape.at
    xid_octets = np.frombuffer(xid.to_bytes(3), np.uint8)
    out[:, at["xid6"] : at["xid6"] + 3] = xid_octets
    out[:, at["xid4"] : at["xid4"] + 3] = xid_octets
    out[:, at["kind"]] = np.where(leases["state"] == ACTIVE, 13, 11)
    out[:, at["state"]] = leases["state"]
    out[:, at["params"] : at["params"] + 4] = leases["params"]
    _put(out, at["base6"], now - EPOCH_2000 & 0xFFFFFFFF)
    _put(out, at["base4"], now)
    _put(out, at["ciaddr"], leases["ipv4"])
    last = _ago(now, leases["cltt"])
    _put(out, at["last"], last)
    _put(out, at["clt_time"], last)
    _put(out, at["since"], _ago(now, leases["since"]))
    if "lifetime" in at:
        left = np.maximum(leases["expires"].astype(np.int64) - now, 0)
        _put(out, at["lifetime"], np.where(leases["expires"] == INFINITE, INFINITE, left))
    if "client" in at:
        out[:, at["client"] : at["client"] + (code >> 2)] = leases["client"][:, : code >> 2]
    if "b4" in at:
        out[:, at["b4"] : at["b4"] + 16] = leases["b4"]
    return out


def _ago(now: int, times: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    ago: npt.NDArray[np.int64] = np.maximum(now - times.astype(np.int64), 0)
    return ago


def _put(out: Octets, at: int, numbers: npt.NDArray[Any] | int) -> None:
    out[:, at : at + 4] = np.asarray(numbers).astype(">u4").reshape(-1, 1).view(np.uint8).reshape(-1, 4)
