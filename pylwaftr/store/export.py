"""Lives of bindings as text: JSON lines or CSV, one life a line, times in RFC 3339 (UTC)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from pylwaftr.changes import Source
from pylwaftr.rows import ports, text4, text6
from pylwaftr.store import Life

COLUMNS = (
    "ipv4",
    "psid_offset",
    "psid_len",
    "psid",
    "first_port",
    "last_port",
    "b4_ipv6",
    "br_ipv6",
    "source",
    "began",
    "ended",
)


def fields(life: Life) -> dict[str, Any]:
    """`first_port` and `last_port` are those of the set; with an offset there are gaps between (RFC 7597 5.1)."""
    row = life.row[0]
    offset, length, psid = int(row["psid_offset"]), int(row["psid_len"]), int(row["psid"])
    ranges = ports(offset, length, psid)
    return {
        "ipv4": text4(int(row["ipv4"])),
        "psid_offset": offset,
        "psid_len": length,
        "psid": psid,
        "first_port": ranges[0][0],
        "last_port": ranges[-1][1],
        "b4_ipv6": text6(row["b4"].tobytes()),
        "br_ipv6": text6(row["br"].tobytes()),
        "source": Source(life.source).name.lower(),
        "began": _time(life.began),
        "ended": None if life.ended is None else _time(life.ended),
    }


def json_lines(lives: Iterable[Life]) -> Iterator[str]:
    for life in lives:
        yield json.dumps(fields(life)) + "\n"


def csv_lines(lives: Iterable[Life]) -> Iterator[str]:
    """The header first. An open end is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for life in lives:
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        writer.writerow(fields(life))
    yield text.getvalue()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
