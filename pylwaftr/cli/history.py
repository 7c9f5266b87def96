"""`pylwaftr history`: who held an address and port when, what a B4 held, and all of it as a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import click

from pylwaftr.api.client import Client, Life, Source
from pylwaftr.api.plain import time_text
from pylwaftr.cli.common import BAD_INPUT, FAILED, NOT_THERE, end
from pylwaftr.cli.connection import MOMENT, as_json, connected, print_json
from pylwaftr.cli.faults import CommandFault
from pylwaftr.cli.lookup import endpoint, is_b4, show

FIELDS = ("ipv4", "psid_offset", "psid_len", "psid", "b4_ipv6", "br_ipv6", "source", "began", "ended")


@click.command()
@click.argument("what", metavar="[ADDRESS[:PORT]|B4|PREFIX]", default="::/0")
@click.argument("port", required=False, type=click.IntRange(0, 65535))
@click.option("--from", "began", type=MOMENT, help="Lives that reach beyond that time.")
@click.option("--to", "ended", type=MOMENT, help="Lives that began before that time.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write them to a .csv or .jsonl file, which is replaced as a whole or not at all.",
)
@as_json
@connected
def history(
    router: Client,
    what: str,
    port: int | None,
    began: datetime | None,
    ended: datetime | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Tell who held an IPv4 address and port, or what a B4 or subscriber prefix held, in a time. Nothing: all there is.

    Times: ISO 8601, 14:03 (today), @seconds since 1970, or -2h (ago).
    Exit status: 0 somebody, 3 nobody, 1 failed, 2 bad input.
    """
    if output is not None and output.suffix not in (".csv", ".jsonl"):
        end(f"{output.name}: the name tells no format; name it .csv or .jsonl", BAD_INPUT, "USAGE")
    if is_b4(what):
        lives = router.lives_of(what, began, ended)
    else:
        lives = router.who_held(*endpoint(what, port), began, ended)
    count = show(lives, as_json) if output is None else _write(output, lives)
    if output is not None and as_json:
        print_json({"file": str(output), "lives": count})
    elif output is not None:
        click.echo(f"{output}: {count} {'life' if count == 1 else 'lives'}")
    elif not count:
        said = f"nobody held {what} then"
        raise CommandFault(said, NOT_THERE, "NOT_FOUND", text=said)


def _write(file: Path, lives: Iterable[Life]) -> int:
    part, count, as_csv = file.with_name(f".{file.name}.{os.getpid()}.part"), 0, file.suffix == ".csv"
    try:
        with part.open("w") as stream:
            if as_csv:
                stream.write(",".join(FIELDS) + "\n")
            for count, life in enumerate(lives, 1):  # noqa: B007
                values = _values(life)
                if as_csv:  # numbers, addresses, names, times: nothing that would want quotes
                    stream.write(",".join(map(str, values)) + "\n")
                else:
                    stream.write(
                        json.dumps({n: None if v == "" else v for n, v in zip(FIELDS, values, strict=True)}) + "\n"
                    )
        part.replace(file)
    except OSError as fault:
        end(f"{file}: {fault.strerror or fault}", FAILED, "FILE_UNWRITABLE")
    finally:
        part.unlink(missing_ok=True)
    return count


def _values(life: Life) -> tuple[str | int, ...]:
    """In the order of FIELDS."""
    one = life.binding
    began, ended = (
        time_text(moment.ToNanoseconds()) if life.HasField(name) else ""
        for name, moment in (("began", life.began), ("ended", life.ended))
    )
    source = Source.Name(one.source).removeprefix("SOURCE_").lower()
    return one.ipv4, one.psid_offset, one.psid_len, one.psid, one.b4_ipv6, one.br_ipv6, source, began, ended
