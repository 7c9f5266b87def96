"""Binding rows: the array that crosses to the core, and the text forms of what is in it.

The dtype is that of the core's BindingRow, written a second time so that a configuration can be checked on a machine
without the extension; a test compares the two.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import numpy as np
import numpy.typing as npt

BINDING_ROW = np.dtype(
    [
        ("ipv4", "<u4"),  # host order
        ("psid", "<u2"),
        ("psid_len", "u1"),  # 0 = the whole address
        ("psid_offset", "u1"),
        ("b4", "u1", (16,)),
        ("br", "u1", (16,)),
    ]
)
PACKED = struct.Struct("<IHBB16s16s")  # one row in octets, for those who have one and no array
Rows = npt.NDArray[np.void]
Octets = npt.NDArray[np.uint8]  # (n, 16)

FIELDS = ("ipv4", "psid_offset", "psid_len", "psid", "b4_ipv6", "br_ipv6")

_GROUPS = struct.Struct(">8H")
_ZEROS = [":" + "0:" * length for length in range(9)]

# Bits 0 to n - 1 set, for n = 0 to 128.
PREFIX_MASKS: Octets = np.array(
    [list(((1 << 128) - (1 << (128 - n))).to_bytes(16, "big")) for n in range(129)], np.uint8
)


def no_rows() -> Rows:
    return np.zeros(0, BINDING_ROW)


def built_b4(prefix: IPv6Address | IPv6Network, ipv4: IPv4Address, psid: int) -> bytes:
    """The tunnel address of a B4: what is given if that is an address, else built from the prefix.

    RFC 7596 section 5.1: prefix padded to 64 bits, 16 zero bits, the IPv4 address, the PSID right-justified (0 for a
    whole address). RFC 7597 section 6: a prefix longer than 64 covers the beginning of the identifier.
    """
    if isinstance(prefix, IPv6Address):
        return prefix.packed
    identifier = int(ipv4) << 16 | psid
    return (int(prefix.network_address) | identifier & int(prefix.hostmask)).to_bytes(16, "big")


def built_b4s(
    prefixes: Octets, lengths: npt.NDArray[np.int16], ipv4: npt.NDArray[np.uint32], psid: npt.NDArray[np.int64]
) -> tuple[Octets, npt.NDArray[np.bool_]]:
    """The same for columns; length -1 is an address. Also: which prefixes have no bits behind their length."""
    masks = PREFIX_MASKS[np.where(lengths < 0, 128, lengths)]
    identifiers = np.zeros_like(prefixes)
    identifiers[:, 10:14] = ipv4.astype(">u4").view(np.uint8).reshape(-1, 4)
    identifiers[:, 14:] = psid.astype(">u2").view(np.uint8).reshape(-1, 2)
    clean = ((prefixes & ~masks) == 0).all(1)
    return prefixes | identifiers & ~masks, np.asarray(clean)


def row(ipv4: int, psid_offset: int, psid_len: int, psid: int, b4: bytes, br: bytes) -> tuple[Any, ...]:
    """One element for `array`. A whole address has neither offset nor PSID (RFC 7598 section 4.5)."""
    if psid_len == 0:
        psid_offset = psid = 0
    return ipv4, psid, psid_len, psid_offset, np.frombuffer(b4, np.uint8), np.frombuffer(br, np.uint8)


def array(rows: Iterable[tuple[Any, ...]]) -> Rows:
    return np.array(list(rows), BINDING_ROW)


def text4(address: int) -> str:
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def text6(octets: bytes) -> str:
    """RFC 5952 text, without the cost of an IPv6Address: dumps have millions."""
    text = ":{:x}:{:x}:{:x}:{:x}:{:x}:{:x}:{:x}:{:x}:".format(*_GROUPS.unpack(octets))
    if ":0:0:" in text:
        length = next(length for length in range(8, 1, -1) if _ZEROS[length] in text)
        text = text.replace(_ZEROS[length], "::", 1)
    return text[0 if text.startswith("::") else 1 : None if text.endswith("::") else -1]


def ports(psid_offset: int, psid_len: int, psid: int) -> list[tuple[int, int]]:
    """The ranges of a port set, both ends included (RFC 7597 section 5.1)."""
    if psid_len == 0:
        return [(0, 65535)]
    size = 1 << (16 - psid_offset - psid_len)
    blocks = range(1 if psid_offset else 0, 1 << psid_offset)
    first = [(block << (16 - psid_offset)) + psid * size for block in blocks]
    return [(start, start + size - 1) for start in first]


def describe(binding: np.void) -> str:
    """A row as a fault or a listing names it."""
    address = text4(int(binding["ipv4"]))
    if binding["psid_len"] == 0:  # with a PSID it is a key alone, of a set that is not bound
        return f"{address} PSID {binding['psid']}" if binding["psid"] else f"{address} (whole)"
    offset = f" offset {binding['psid_offset']}" if binding["psid_offset"] else ""
    return f"{address} PSID {binding['psid']}/{binding['psid_len']}{offset}"
