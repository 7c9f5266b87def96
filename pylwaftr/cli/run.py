"""`pylwaftr run`: the router."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import click

from pylwaftr.cli.common import FAILED, end, start_logging
from pylwaftr.cli.configuration import loaded

FILE_INTERVAL_S = 1.0


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
@click.option(
    "--counters-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all counters there every second, as one JSON object.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Lines of JSON instead of text: ready; per_second (--show-counters); counters, at the end.",
)
@click.argument("eal_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- EAL_ARGS...]")
def run(
    path: str, show_counters: float | None, counters_file: Path | None, as_json: bool, eal_args: tuple[str, ...]
) -> None:
    """Run the router until SIGTERM or Ctrl-C.

    Prints "ready" when it forwards, and its counters at the end. What follows -- goes to DPDK's EAL as it is.
    """
    config = loaded(path)
    start_logging(config.logging.level, config.logging.format)
    from pylwaftr.cli import counters
    from pylwaftr.daemon import run as router
    from pylwaftr.daemon.router import StartFault

    with contextlib.ExitStack() as stack:
        watchers = []
        if show_counters is not None:
            view = counters.json_lines() if as_json else stack.enter_context(counters.View())
            watchers.append(router.Watcher(show_counters, view))
        if counters_file is not None:
            watchers.append(router.Watcher(FILE_INTERVAL_S, counters.File(counters_file).write))
        try:
            totals = router.run(
                config, eal_args, lambda: click.echo('{"ready": true}' if as_json else "ready"), watchers
            )
        except StartFault as fault:
            end(str(fault), FAILED, "START_FAILED")
    click.echo(json.dumps({"counters": counters.named(totals)}) if as_json else counters.text_table(totals))
