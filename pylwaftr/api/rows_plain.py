"""Packed rows without numpy: for clients, who have few of them or only pass them on."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from pylwaftr.api.generated.lwaftr.v1.common_pb2 import Binding

ROW = struct.Struct("<IHBB16s16s")  # see common.proto


def pack(bindings: Iterable[Binding]) -> bytes:
    """B4 addresses, not prefixes. Raises ValueError."""
    return b"".join(
        ROW.pack(
            int(IPv4Address(one.ipv4)),
            one.psid,
            one.psid_len,
            one.psid_offset,
            IPv6Address(one.b4_ipv6).packed,
            IPv6Address(one.br_ipv6).packed if one.br_ipv6 else bytes(16),
        )
        for one in bindings
    )


def unpack(rows: bytes) -> Iterator[Binding]:
    for ipv4, psid, length, offset, b4, br in ROW.iter_unpack(rows):
        yield Binding(
            ipv4=str(IPv4Address(ipv4)),
            psid=psid,
            psid_len=length,
            psid_offset=offset,
            b4_ipv6=str(IPv6Address(b4)),
            br_ipv6=str(IPv6Address(br)),
        )
