"""What clients ask: the few DHCPv6 messages that a leasequery server has to understand, with strict lengths.

The DHCPv4 ones (native.py) become the same Query.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

LEASEQUERY, ACTIVELEASEQUERY, STARTTLS = 14, 22, 23
_CLIENT_ID, _IAADDR, _ORO, _LQ_QUERY, _DHCPV4_MSG, _S46_CONT_LW, _START, _END = 1, 5, 6, 44, 87, 96, 101, 102
BY_ADDRESS, BY_CLIENT, BY_LINK = 1, 2, 4
BY_CLIENT_ID, BY_OTHER = 256, 257  # of DHCPv4
EPOCH_2000 = 946684800
ALL_LINKS = IPv6Address(0)


@dataclass(frozen=True, slots=True)
class Query:
    kind: int
    xid: int
    client: bytes | None = b""  # DUID, or nothing in DHCPv4; None: it is missing
    about: int | None = None  # query type
    link: IPv6Address = ALL_LINKS
    b4: bytes = b""
    duid: bytes = b""
    client_id: bytes = b""  # of DHCPv4
    start: int | None = None  # Unix seconds
    end: int | None = None
    softwire: bool = False  # OPTION_S46_CONT_LW is asked for, and no DHCPv4 messages


class Bad(ValueError):
    """The query cannot be understood. `asked`: what is known of it for a refusal; None: close the connection."""

    def __init__(self, text: str, asked: Query | None = None) -> None:
        super().__init__(text)
        self.asked = asked


def parse(message: bytes) -> Query:
    if len(message) < 4:
        raise Bad(f"a message of {len(message)} octets")
    kind, xid = message[0], int.from_bytes(message[1:4])
    known = Query(kind, xid) if kind in (LEASEQUERY, ACTIVELEASEQUERY) else None
    options = _options(message[4:], known)
    for code in (_START, _END):
        if code in options and len(options[code]) != 4:
            raise Bad(f"option {code} has {len(options[code])} octets instead of 4", known)
    times = [int.from_bytes(options[code]) + EPOCH_2000 if code in options else None for code in (_START, _END)]
    softwire = _DHCPV4_MSG not in options and _wants_softwire(options)
    query = Query(kind, xid, options.get(_CLIENT_ID), start=times[0], end=times[1], softwire=softwire)
    if kind != LEASEQUERY or _LQ_QUERY not in options:
        return query
    inside = options[_LQ_QUERY]
    if len(inside) < 17:
        raise Bad(f"OPTION_LQ_QUERY has {len(inside)} octets", known)
    details = _options(inside[17:], known)
    about = inside[0]
    address = details.get(_IAADDR, b"")
    if about == BY_ADDRESS and len(address) < 24:
        raise Bad("a query by address without an address", known)
    if about == BY_CLIENT and _CLIENT_ID not in details:
        raise Bad("a query by client without a client identifier", known)
    softwire = softwire or (_DHCPV4_MSG not in options and _wants_softwire(details))
    link, duid = IPv6Address(inside[1:17]), details.get(_CLIENT_ID, b"")
    return replace(query, about=about, link=link, b4=address[:16], duid=duid, softwire=softwire)


def _wants_softwire(options: dict[int, bytes]) -> bool:
    wanted = options.get(_ORO, b"")
    codes = {int.from_bytes(wanted[at : at + 2]) for at in range(0, len(wanted), 2)}
    return _S46_CONT_LW in codes and _DHCPV4_MSG not in codes


def _options(octets: bytes, known: Query | None) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(octets):
        if len(octets) - at < 4:
            raise Bad("an option has no room for its length", known)
        code, length = struct.unpack_from("!HH", octets, at)
        at += 4 + length
        if at > len(octets):
            raise Bad(f"option {code} runs past the end", known)
        found.setdefault(code, octets[at - length : at])
    return found
