"""`pylwaftr health`: whether a running router serves, as a whole and by its parts."""

from __future__ import annotations

import sys

import click

from pylwaftr.api.client import CallFailed, Client
from pylwaftr.api.plain import plain
from pylwaftr.cli.common import FAILED, end
from pylwaftr.cli.connection import NOT_THERE, as_json, connected, print_json


@click.command()
@click.argument("part", required=False, metavar="[dataplane|store|pcp|leasequery]")
@as_json
@connected
def health(router: Client, part: str | None, as_json: bool) -> None:
    """Tell whether the router serves: all of it, or one part.

    Exit status: 0 it serves, 1 it does not or cannot be reached, 3 there is no such part.
    """
    if part is not None:
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
        sys.exit(0 if word == "SERVING" else FAILED)
    status, serves = router.status(), router.health() == "SERVING"
    if as_json:
        print_json({"serves": serves} | plain(status))
    else:
        click.echo(f"pylwaftr {status.version} {_text(serves)}, {status.bindings} of {status.max_bindings} bindings")
        for name, good in sorted(status.parts.items()):
            click.echo(f"  {name} {_text(good)}")
        for remark in status.remarks:
            click.echo(f"  {remark}")
    sys.exit(0 if serves else FAILED)


def _text(serves: bool) -> str:
    return "serves" if serves else "does not serve"
