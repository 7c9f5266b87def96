"""Beginnings and ends of bindings as syslog messages (RFC 5424), one per port set and not per session (RFC 7422).

The caller has the socket. UDP takes one message per datagram (RFC 5426), TCP counts octets (RFC 6587 section 3.4.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from pylwaftr import rows
from pylwaftr.store import Change, Op

# RFC 5424 section 6.2.1.
FACILITIES = {"daemon": 3} | {f"local{n}": 16 + n for n in range(8)}
_INFORMATIONAL = 6
# RFC 5424 section 7.2.2: the number of the documentation's example organisation (RFC 5612), until there is one.
_ELEMENT = "binding@32473"
_EVENTS = {Op.BIND: "begin", Op.UNBIND: "end"}
SOURCES = ("config", "operator", "dhcp", "pcp")


def messages(change: Change, at: float, facility: str, host: str, pid: int) -> Iterator[bytes]:
    """One per row. `at`: seconds since 1970; `host`: what names this router, - if nothing does."""
    priority = FACILITIES[facility] * 8 + _INFORMATIONAL
    stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = f"<{priority}>1 {stamp} {_printable(host)} pylwaftr {pid} {_EVENTS[change.op]} "
    source = SOURCES[change.source]
    for row in change.rows:
        yield f"{head}{_element(row, source)}".encode("ascii")


def framed(message: bytes) -> bytes:
    return b"%d %s" % (len(message), message)


def _element(row: np.void, source: str) -> str:
    psid = (int(row["psid_offset"]), int(row["psid_len"]), int(row["psid"]))
    ports = ",".join(f"{low}-{high}" for low, high in rows.ports(*psid)[:64])  # 64: a collector's 2048 octets hold them
    values = {
        "ipv4": rows.text4(int(row["ipv4"])),
        "ports": ports,
        "psid_offset": psid[0],
        "psid_len": psid[1],
        "psid": psid[2],
        "b4": rows.text6(row["b4"].tobytes()),
        "br": rows.text6(row["br"].tobytes()),
        "source": source,
    }
    parameters = " ".join(f'{name}="{value}"' for name, value in values.items())
    return f"[{_ELEMENT} {parameters}]"


def _printable(host: str) -> str:
    """RFC 5424 section 6.2.4: PRINTUSASCII without spaces, at most 255."""
    return "".join(c for c in host if 33 <= ord(c) <= 126)[:255] or "-"
