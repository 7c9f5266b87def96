"""The lease journal: lines of JSON, appended by a DHCP server or its hook. A shorter file may take its place.

    {"at": 1772366400, "state": "ACTIVE", "ipv4": "198.51.100.10", "psid_len": 6, "psid": 1, "b4": "2001:db8::1",
     "client": "ff0000000100030001020000000001", "lifetime": 3600}
    {"at": 1772366460, "state": "RELEASED", "ipv4": "198.51.100.10", "psid_len": 6, "psid": 1}

Each on one line. `offset` is 0, `psid_len` 0 (the whole address), `lifetime` infinite and `cltt` (last transaction of
the client) `at` where they are left out. A renewal is another ACTIVE line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

import numpy as np

from pylwaftr.responder import _lines
from pylwaftr.responder.database import CHANGE, Change, Changes, rows_of

_ipv4 = lru_cache(maxsize=65536)(IPv4Address)  # leases share addresses
_NUMBERS = ("at", "offset", "psid_len", "psid", "lifetime", "cltt")
_KNOWN = frozenset(_NUMBERS) | {"state", "ipv4", "b4", "client"}
_NEEDED = frozenset({"at", "state", "ipv4"})


FAULTS = ValueError, TypeError, OverflowError, RecursionError  # that a line may lead to


def read(lines: list[str], refused: Callable[[str, Exception], None]) -> Changes:
    """All of them in order, but those that cannot be read. What is written in the usual form is read by compiled code,
    which stops in front of a line that is not."""
    found, count = np.zeros(len(lines), CHANGE), 0
    at = 0
    while True:
        at, count = _lines.read(lines, at, found, count)
        if at == len(lines):
            return found[:count]
        try:
            found[count] = rows_of([parse(lines[at])])[0]
            count += 1
        except FAULTS as fault:
            refused(lines[at], fault)
        at += 1


def parse(line: str) -> Change:
    """Raises ValueError that says what is wrong."""
    told = json.loads(line)
    if not isinstance(told, dict):
        raise ValueError("the line is no JSON object")
    if not told.keys() <= _KNOWN:
        unknown = told.keys() - _KNOWN
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(_KNOWN))}")
    if not told.keys() >= _NEEDED:
        missing = _NEEDED - told.keys()
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
    numbers = {}
    for name in _NUMBERS:
        if (number := told.get(name)) is not None:
            if type(number) is not int:  # bool is another
                raise ValueError(f"{name} is {number!r}, no whole number")
            numbers[name] = number
    b4, client = told.get("b4"), told.get("client") or ""
    if type(client) is not str:
        raise ValueError(f"client is {client!r}, no string")
    for name, address in (("ipv4", told["ipv4"]), ("b4", b4)):
        if address is not None and type(address) not in (str, int):
            raise ValueError(f"{name} is {address!r}, no address")
    return Change(
        ipv4=_ipv4(told["ipv4"]),
        state=str(told["state"]),
        b4=None if b4 is None else IPv6Address(b4),
        client=bytes.fromhex(client),
        **numbers,
    )


def line(change: Change) -> str:
    told: dict[str, object] = {"at": change.at, "state": change.state, "ipv4": str(change.ipv4)}
    told |= {"offset": change.offset, "psid_len": change.psid_len, "psid": change.psid, "lifetime": change.lifetime}
    if change.b4 is not None:
        told["b4"] = str(change.b4)
    if change.client:
        told["client"] = change.client.hex()
    if change.cltt is not None:
        told["cltt"] = change.cltt
    return json.dumps(told)


@dataclass(slots=True)
class Lines:
    """Lines of a file that grows; a line that is not finished waits."""

    rest: bytes = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [text for text in (one.decode("utf-8", "replace").strip() for one in lines) if text]
