"""`pylwaftr health`: whether a running router serves, as a whole and by its parts."""

from __future__ import annotations

import click

from pylwaftr.api.client import CallFailed, Client
from pylwaftr.api.plain import plain
from pylwaftr.cli.common import FAILED, NOT_THERE, end
from pylwaftr.cli.connection import as_json, connected, print_json
from pylwaftr.cli.faults import CommandFault

PARTS = ("dataplane", "store", "pcp", "leasequery")


def _parts(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    return [name for name in PARTS if name.startswith(begun)]


@click.command()
@click.argument("part", required=False, metavar=f"[{'|'.join(PARTS)}]", shell_complete=_parts)
@as_json
@connected
def health(router: Client, part: str | None, as_json: bool) -> None:
    """Tell whether the router serves: all of it, or one part.

    Exit status: 0 it serves, 1 it does not or cannot be reached, 3 there is no such part.
    """
    if part:
        try:
            word = router.health(part)
        except CallFailed as fault:
            if fault.code != "NOT_FOUND":
                raise
            end(f"{part} is no part of this router; it has {', '.join(sorted(router.status().parts))}", NOT_THERE)
        if as_json:
            print_json({"part": part, "serves": word == "SERVING"})
        else:
            click.echo(f"{part} {_text(word == 'SERVING')}")
        _end(part, word == "SERVING")
        return
    status, serves = router.status(), router.health() == "SERVING"
    if as_json:
        print_json({"serves": serves} | plain(status))
    else:
        click.echo(f"pylwaftr {status.version} {_text(serves)}, {status.bindings} of {status.max_bindings} bindings")
        for name, good in sorted(status.parts.items()):
            click.echo(f"  {name} {_text(good)}")
        for remark in status.remarks:
            click.echo(f"  {remark}")
    _end(f"pylwaftr {status.version}", serves)


def _end(who: str, serves: bool) -> None:
    if not serves:
        raise CommandFault(f"{who} does not serve", FAILED, "NOT_SERVING", text="")


def _text(serves: bool) -> str:
    return "serves" if serves else "does not serve"
