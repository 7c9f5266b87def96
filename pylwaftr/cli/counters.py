"""Counters as text: the table of totals, one line of rates, and the live view of a terminal."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pylwaftr.cli.common import screen
from pylwaftr.daemon.router import COUNTERS, Sample, Totals

log = logging.getLogger("pylwaftr")

_LINE = ("rx_v4", "tx_v6", "rx_v6", "tx_v4")
_INTERNAL = frozenset(("busy_cycles", "idle_polls"))


def named(totals: Totals) -> dict[str, int]:
    return {counter.name: int(value) for counter, value in zip(COUNTERS, totals, strict=True)}


def text_table(totals: Totals) -> str:
    """The counters that moved, one a line, by what they count."""
    moved = [(counter, value) for counter, value in zip(COUNTERS, named(totals).values(), strict=True) if value]
    shown = [(counter.kind, counter.name, f"{value:,}", counter.help) for counter, value in moved]
    if not shown:
        return "no frame came or went"
    name = max(len(row[1]) for row in shown)
    width = max(len(row[2]) for row in shown)
    return "\n".join(f"{kind:<5} {what:<{name}} {value:>{width}}  {help_}" for kind, what, value, help_ in shown)


class Rates:
    """Differences between samples, by the second."""

    def __init__(self) -> None:
        self._last: Sample | None = None

    def step(self, sample: Sample) -> dict[str, float]:
        """Of every counter since the last sample; empty at the first."""
        last, self._last = self._last, sample
        if last is None or sample.at <= last.at:
            return {}
        seconds = sample.at - last.at
        # The gauges (held) may fall: the difference is taken modulo 2^64 and read as signed.
        moved = (sample.totals - last.totals).astype("int64") / seconds
        return {counter.name: float(rate) for counter, rate in zip(COUNTERS, moved, strict=True)}


def json_lines() -> Callable[[Sample], None]:
    """Shows samples as lines of JSON, from the second on."""
    rates = Rates()

    def show(sample: Sample) -> None:
        if moved := rates.step(sample):
            print(json.dumps({"per_second": {name: round(rate, 1) for name, rate in moved.items()}}), flush=True)

    return show


def rate_line(rates: dict[str, float], sample: Sample) -> str:
    drops = sum(rate for counter, rate in zip(COUNTERS, rates.values(), strict=True) if counter.kind == "drop")
    flows = "  ".join(f"{name} {rates[name]:,.0f}/s" for name in _LINE)
    hops = "  ".join(f"{side} {neighbor['state']}" for side, neighbor in sample.neighbors.items())
    return f"{flows}  dropped {drops:,.0f}/s  next hops: {hops}"


def live_table(rates: dict[str, float], sample: Sample) -> Table:
    hops = ", ".join(
        f"{side} {neighbor['state']}" + (f" at {neighbor['mac'].hex(':')}" if neighbor["mac"] else "")
        for side, neighbor in sample.neighbors.items()
    )
    table = Table(title=f"pylwaftr    next hops: {hops}", title_justify="left", caption="Ctrl-C ends the router")
    table.add_column("counter", no_wrap=True)
    table.add_column("total", justify="right", no_wrap=True)
    table.add_column("per second", justify="right", no_wrap=True)
    table.add_column("what")  # gives way where there is little room
    for counter, total in zip(COUNTERS, named(sample.totals).values(), strict=True):
        if total and counter.name not in _INTERNAL:
            what = Text(counter.help, overflow="ellipsis", no_wrap=True)
            table.add_row(counter.name, f"{total:,}", f"{rates[counter.name]:,.0f}" if rates else "", what)
    return table


class File:
    """Keeps the totals in a file as one JSON object, replaced as a whole: a reader never sees half of it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, sample: Sample) -> None:
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(named(sample.totals)) + "\n")
            part.replace(self._path)
        except OSError as fault:
            log.warning("--counters-file %s: %s", self._path, fault.strerror)


class View:
    """Shows samples: a table that stays in place on a terminal, else a line each."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or screen()
        self._rates = Rates()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Callable[[Sample], None]:
        if self._live is not None:
            self._live.start()
        return self._show

    def _show(self, sample: Sample) -> None:
        rates = self._rates.step(sample)
        if self._live is not None:
            self._live.update(live_table(rates, sample), refresh=True)
        elif rates:
            self._console.print(rate_line(rates, sample), soft_wrap=True, highlight=False)

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
