"""What the lab shows: one line a step, the summary, and the router's counters live."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from .lifecycle import Lab
from .steps import Result

REFRESH_S = 1.0


def line(console: Console, result: Result) -> None:
    verdict = "[green]ok[/]    " if result.ok else "[red bold]FAILED[/]"
    console.print(
        f"  {verdict}  {result.title:<24} {escape(result.detail)}  [dim]{result.seconds:.1f} s[/]", highlight=False
    )


def summary(console: Console, results: Sequence[Result]) -> None:
    failed = [result.title for result in results if not result.ok]
    if failed:
        console.print(
            f"[red bold]{len(failed)} of {len(results)} steps failed[/]: {', '.join(failed)}", highlight=False
        )
    else:
        console.print(f"[green]all {len(results)} steps ok[/]", highlight=False)


def table(before: dict[str, int], now: dict[str, int], seconds: float) -> Table:
    """Counters that ever moved, and how fast they do."""
    shown = Table("counter", title="router counters, Ctrl-C ends the lab")
    shown.add_column("total", justify="right")
    shown.add_column("per second", justify="right")
    for name, value in now.items():
        if value and not name.endswith(("_polls", "_cycles")):
            rate = (value - before.get(name, value)) / seconds
            shown.add_row(name, f"{value:,}", f"{rate:,.0f}" if rate else "")
    return shown


def live(console: Console, lab: Lab) -> None:
    """Until Ctrl-C. The router writes its counters each second."""
    before, at = lab.counters(), time.monotonic()
    with Live(table(before, before, 1.0), console=console, auto_refresh=False) as display:
        while True:
            time.sleep(REFRESH_S)
            lab.check_alive()
            now, moment = lab.counters(), time.monotonic()
            if now != before:
                display.update(table(before, now, moment - at), refresh=True)
                before, at = now, moment
