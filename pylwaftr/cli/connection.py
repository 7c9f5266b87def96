"""Commands that talk to a running router: where it is, who we are, how what it says is printed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table

from pylwaftr.api.channel import DEFAULT_TARGET, CallFailed, Tls
from pylwaftr.api.client import Client
from pylwaftr.cli.common import BAD_INPUT, FAILED, NOT_THERE, end, screen
from pylwaftr.cli.faults import CommandFault, Violation

AT_ONCE = 1000  # rows of a list are laid out together: there may be a million
_WIDE = 100_000  # columns: of what a table has, nothing is cut

_BAD_INPUT_CODES = ("INVALID_ARGUMENT", "OUT_OF_RANGE")

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)
_OPTIONS = (
    click.option(
        "--server",
        metavar="HOST:PORT",
        default=DEFAULT_TARGET,
        show_default=True,
        envvar="PYLWAFTR_SERVER",
        help="The router's API (api.listen).",
    ),
    click.option(
        "--tls", is_flag=True, envvar="PYLWAFTR_TLS", help="TLS with the system's CAs; --ca does not need it."
    ),
    click.option("--ca", type=_FILE, envvar="PYLWAFTR_CA", help="The CA that signed the router's certificate (PEM)."),
    click.option("--cert", type=_FILE, envvar="PYLWAFTR_CERT", help="Our certificate (PEM)."),
    click.option("--key", type=_FILE, envvar="PYLWAFTR_KEY", help="Its private key (PEM)."),
    click.option("--server-name", metavar="NAME", envvar="PYLWAFTR_SERVER_NAME", help="Expected in its certificate."),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(0.1, 3600),
        default=10.0,
        show_default=True,
        envvar="PYLWAFTR_TIMEOUT",
        help="Seconds that a call may take.",
    ),
)

as_json = click.option("--json", "as_json", is_flag=True, help="JSON: one object, or one a line where there are many.")


def connected(command: F) -> F:
    """Adds the options; the command gets an open `router`."""

    @functools.wraps(command)
    def wrapped(
        server: str,
        tls: bool,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        server_name: str | None,
        timeout_s: float,
        **rest: Any,
    ) -> Any:
        if (cert is None) != (key is None):
            end("--cert and --key belong together; give both or neither", BAD_INPUT, "USAGE")
        if not server.strip():
            end("--server is empty; give HOST:PORT, or leave it out", BAD_INPUT, "USAGE")
        secure = tls or ca is not None or cert is not None
        try:
            router = Client(server, Tls(ca, cert, key, server_name) if secure else None, timeout_s, retry_s=())
        except OSError as fault:
            end(f"{fault.filename} cannot be read: {fault.strerror}", BAD_INPUT, "FILE_UNREADABLE")
        with router:
            try:
                return command(router=router, **rest)
            except CallFailed as fault:
                raise of_call(fault, server, timeout_s) from None

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def of_call(fault: CallFailed, server: str, timeout_s: float) -> CommandFault:
    """One sentence, then each violation on a line of its own; the exit status tells whose fault it is."""
    if fault.unreachable:
        said = f"{server} does not answer ({_unreachable(fault.message)}"
        return CommandFault(said, FAILED, "UNREACHABLE", metadata={"server": server})
    if fault.code == "DEADLINE_EXCEEDED" and not fault.reason:
        said = f"{server} did not answer within {timeout_s:g} s: is it the router's address? If so, give more --timeout"
        return CommandFault(said, FAILED, fault.code, code=fault.code, metadata={"server": server})
    return CommandFault(
        fault.message,
        NOT_THERE if fault.code == "NOT_FOUND" else BAD_INPUT if fault.code in _BAD_INPUT_CODES else FAILED,
        fault.reason or fault.code,
        code=fault.code,
        violations=[Violation(path, text) for path, text in fault.violations],
        metadata=fault.metadata,
        marked=bool(fault.reason),
    )


# What gRPC says of a connection that did not come up, what that is, and what helps.
_CAUSES = (
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not of this CA): give --ca the one that signed it"),
    ("Hostname Verification", "its certificate is for another name): call it by that name, or give --server-name"),
    (
        "WRONG_VERSION_NUMBER",
        "it does not speak TLS): leave out --tls, --ca, --cert and --key, or is it another program?",
    ),
    ("errors resolving", "there is no such host and port): give --server HOST:PORT"),
    ("security handshaker", "TLS cannot begin): are --cert and --key, and --ca, what they should be?"),
    ("Socket closed", "it closed the connection): does it want TLS (--ca), or another certificate (--cert, --key)?"),
)


def _unreachable(said: str) -> str:
    for sign, cause in _CAUSES:
        if sign in said:
            return cause
    return f"{said.rpartition(': ')[2]}): is the router running?"


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def print_rows(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Tables of AT_ONCE rows on a terminal, else columns with tabs between them; how many rows there were.

    What is wider than the terminal goes on in its next line: half an address is none.
    """
    count, left, console = 0, iter(rows), screen(width=_WIDE)
    while part := list(islice(left, AT_ONCE)):
        count += len(part)
        if not console.is_terminal:
            click.echo("\n".join("\t".join(str(cell) for cell in row) for row in part))
            continue
        table = Table(*head, box=None, pad_edge=False)
        for row in part:
            table.add_row(*(str(cell) for cell in row))
        console.print(table)
    return count


class Moment(click.ParamType[datetime]):
    """A time: ISO 8601, hours and minutes of today, seconds since 1970, or how long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text, now = str(value).strip(), datetime.now().astimezone()
        try:
            if text.startswith("@"):
                return datetime.fromtimestamp(float(text[1:]), now.tzinfo)
            if text.startswith("-") and text[-1] in "smhd":
                unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[text[-1]]
                return now - timedelta(**{unit: float(text[1:-1])})
            if len(text) <= 8 and ":" in text:
                clock = datetime.strptime(text, "%H:%M:%S" if text.count(":") == 2 else "%H:%M")
                return now.replace(hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0)
            moment = datetime.fromisoformat(text)
        except (ValueError, OverflowError, OSError):
            self.fail(f"{text!r} is no time; write 2026-11-22T14:03, 14:03 (today), @1795356180 or -2h", param, ctx)
        return moment if moment.tzinfo is not None else moment.astimezone()


MOMENT = Moment()
