"""`pylwaftr run`: the router."""

from __future__ import annotations

import contextlib

import click

from pylwaftr.cli.common import FAILED, end, loaded, start_logging


@click.command()
@click.option(
    "-c", "--config", "path", metavar="CONFIG", required=True, type=click.Path(), help="The configuration file."
)
@click.option(
    "--show-counters",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    help="Show what passes, this often: a live table on a terminal, else a line.",
)
@click.argument("eal_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- EAL_ARGS...]")
def run(path: str, show_counters: float | None, eal_args: tuple[str, ...]) -> None:
    """Run the router until SIGTERM or Ctrl-C.

    Prints "ready" when it forwards, and its counters at the end. What follows -- goes to DPDK's EAL as it is.
    """
    config = loaded(path)
    start_logging(config.logging.level, config.logging.format)
    from pylwaftr import daemon
    from pylwaftr.cli import counters

    with contextlib.ExitStack() as stack:
        view = None if show_counters is None else stack.enter_context(counters.View())
        try:
            totals = daemon.run(config, eal_args, lambda: click.echo("ready"), view, show_counters or 1.0)
        except daemon.StartFault as fault:
            end(str(fault), FAILED)
    click.echo(counters.text_table(totals))
