"""`pylwaftr lookup`: who has an address and port, what does a B4 have."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import click

from pylwaftr import addresses
from pylwaftr.api.client import Client, Life, Source
from pylwaftr.api.plain import plain, time_text
from pylwaftr.cli.common import BAD_INPUT, NOT_THERE, end
from pylwaftr.cli.connection import MOMENT, as_json, connected, print_json, print_rows
from pylwaftr.cli.faults import CommandFault
from pylwaftr.rows import ports

HEAD = ("IPv4", "ports", "B4", "BR", "source", "from", "to")


def endpoint(what: str, port: int | None) -> tuple[str, int | None]:
    """Address and port of `203.0.113.5:2077`, or of `203.0.113.5` and 2077; ends the command if they are none."""
    ipv4, colon, after = what.partition(":")
    if colon and port is not None:
        end(f"the port is given twice, in {what} and as {port}", BAD_INPUT, "USAGE")
    if colon and not (after.isdecimal() and len(after) < 6 and int(after) <= 65535):
        end(f"{after!r} is no port; the range is 0 to 65535", BAD_INPUT, "INVALID_FIELD", "PORT")
    try:
        addresses.ipv4(ipv4)
    except ValueError as fault:
        said = f"{fault}; give an IPv4 address, maybe with a port, or an IPv6 address or prefix"
        end(said, BAD_INPUT, "INVALID_FIELD", "ADDRESS")
    return ipv4, int(after) if colon else port


def is_b4(what: str) -> bool:
    return what.count(":") > 1


def show(lives: Iterable[Life], wants_json: bool) -> int:
    """How many there were."""
    if wants_json:
        count = 0
        for life in lives:
            found = plain(life)
            found["binding"].pop("ports", None)
            print_json(found)
            count += 1
        return count
    return print_rows(HEAD, (_cells(life) for life in lives))


def _cells(life: Life) -> tuple[str, ...]:
    one = life.binding
    ranges = ports(one.psid_offset, one.psid_len, one.psid)
    few = ",".join(f"{first}-{last}" for first, last in ranges[:3]) + (",…" if len(ranges) > 3 else "")
    began = time_text(life.began.ToNanoseconds()) if life.HasField("began") else "-"
    ended = time_text(life.ended.ToNanoseconds()) if life.HasField("ended") else "-"
    source = Source.Name(one.source).removeprefix("SOURCE_").lower()
    return one.ipv4, few, one.b4_ipv6, one.br_ipv6, source, began, ended


@click.command()
@click.argument("what", metavar="ADDRESS[:PORT]|B4|PREFIX")
@click.argument("port", required=False, type=click.IntRange(0, 65535))
@click.option("--at", type=MOMENT, help="Then, instead of now: ISO 8601, 14:03 (today), @seconds, or -2h.")
@as_json
@connected
def lookup(router: Client, what: str, port: int | None, at: datetime | None, as_json: bool) -> None:
    """Tell who has an IPv4 address and port, or what a B4 or subscriber prefix has.

    Exit status: 0 somebody, 3 nobody, 1 failed, 2 bad input.
    """
    if is_b4(what):
        lives = router.lookup_b4(what, at)
    else:
        lives = router.lookup_port(*endpoint(what, port), at)
    if not show(lives, as_json):
        whom = what + (f" port {port}" if port is not None else "")
        said = f"nobody has {whom}" if at is None else f"nobody had {whom} then"
        raise CommandFault(said, NOT_THERE, "NOT_FOUND", text=said)
