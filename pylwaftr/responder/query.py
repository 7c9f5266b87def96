"""What clients ask: the few DHCPv6 messages that a leasequery server has to understand, with strict lengths."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

LEASEQUERY, ACTIVELEASEQUERY, STARTTLS = 14, 22, 23
_CLIENT_ID, _IAADDR, _LQ_QUERY, _START, _END = 1, 5, 44, 101, 102
BY_ADDRESS, BY_CLIENT, BY_LINK = 1, 2, 4
EPOCH_2000 = 946684800
ALL_LINKS = IPv6Address(0)


class Bad(ValueError):
    """The query cannot be understood. `xid` is known unless the message is a runt."""

    def __init__(self, text: str, xid: int | None = None) -> None:
        super().__init__(text)
        self.xid = xid


@dataclass(frozen=True, slots=True)
class Query:
    kind: int
    xid: int
    client: bytes = b""  # DUID
    about: int | None = None  # query type
    link: IPv6Address = ALL_LINKS
    b4: bytes = b""
    duid: bytes = b""
    start: int | None = None  # Unix seconds
    end: int | None = None


def parse(message: bytes) -> Query:
    if len(message) < 4:
        raise Bad(f"a message of {len(message)} octets")
    kind, xid = message[0], int.from_bytes(message[1:4])
    options = _options(message[4:], xid)
    for code in (_START, _END):
        if code in options and len(options[code]) != 4:
            raise Bad(f"option {code} has {len(options[code])} octets instead of 4", xid)
    times = [int.from_bytes(options[code]) + EPOCH_2000 if code in options else None for code in (_START, _END)]
    query = Query(kind, xid, options.get(_CLIENT_ID, b""), start=times[0], end=times[1])
    if kind != LEASEQUERY or _LQ_QUERY not in options:
        return query
    inside = options[_LQ_QUERY]
    if len(inside) < 17:
        raise Bad(f"OPTION_LQ_QUERY has {len(inside)} octets", xid)
    details = _options(inside[17:], xid)
    about = inside[0]
    address = details.get(_IAADDR, b"")
    if about == BY_ADDRESS and len(address) < 24:
        raise Bad("a query by address without an address", xid)
    if about == BY_CLIENT and _CLIENT_ID not in details:
        raise Bad("a query by client without a client identifier", xid)
    link = IPv6Address(inside[1:17])
    duid = details.get(_CLIENT_ID, b"")
    return Query(kind, xid, query.client, about, link, address[:16], duid, query.start, query.end)


def _options(octets: bytes, xid: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(octets):
        if len(octets) - at < 4:
            raise Bad("an option has no room for its length", xid)
        code, length = struct.unpack_from("!HH", octets, at)
        at += 4 + length
        if at > len(octets):
            raise Bad(f"option {code} runs past the end", xid)
        found.setdefault(code, octets[at - length : at])
    return found
