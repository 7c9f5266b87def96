"""`pylwaftr counters` and `pylwaftr top`: the counters of a running router, once and live."""

from __future__ import annotations

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pylwaftr.api.client import Client, CounterSample
from pylwaftr.api.plain import plain, time_text
from pylwaftr.cli.common import NOT_THERE, end, screen
from pylwaftr.cli.connection import as_json, connected, print_json, print_rows

_LINE = ("rx_v4", "tx_v6", "rx_v6", "tx_v4")
_INTERNAL = frozenset(("busy_cycles", "idle_polls"))


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Also those that are 0.")
@click.option("--per-worker", is_flag=True, help="The share of each worker.")
@as_json
@connected
def counters(router: Client, names: tuple[str, ...], everything: bool, per_worker: bool, as_json: bool) -> None:
    """Show the counters of a running router; with NAMEs only those, such as rx_v4 or drop_.

    A NAME that ends in _ stands for all that begin so. Exit status: 0 shown, 1 failed, 3 there is no such counter.
    """
    described = router.describe_counters()
    for name in names:
        if not any(_named(one.name, name) for one in described):
            end(
                f"{name or repr(name)} is no counter, nor the beginning of one; without a NAME all are shown", NOT_THERE
            )
    sample = router.counters(per_worker)
    chosen = [
        (at, one)
        for at, one in enumerate(described)
        if (not names or any(_named(one.name, name) for name in names))
        and (everything or names or sample.counters[one.name])
    ]
    if as_json:
        made = {"at": plain(sample)["at"], "counters": {one.name: sample.counters[one.name] for _, one in chosen}}
        if per_worker:
            workers = {worker.worker: worker.values for worker in sample.workers}
            made["workers"] = {
                number: {one.name: values[at] for at, one in chosen} for number, values in workers.items()
            }
        print_json(made)
        return
    shares = [f"worker {worker.worker}" for worker in sample.workers]
    print_rows(
        ("counter", "value", *shares, "unit", "what"),
        (
            (one.name, sample.counters[one.name], *(worker.values[at] for worker in sample.workers), one.unit, one.help)
            for at, one in chosen
        ),
    )


def _named(counter: str, name: str) -> bool:
    return counter == name or (name[-1:] == "_" and counter.startswith(name))


@click.command()
@click.option(
    "-i", "--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many.")
@as_json
@connected
def top(router: Client, interval: float, count: int | None, as_json: bool) -> None:
    """Show what a running router does, live: rates by the second, workers, next hops. Ctrl-C ends it.

    Without a terminal, one line each time.
    """
    console = screen()
    last: CounterSample | None = None
    view = _View(router)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for shown, sample in enumerate(router.stream_counters(interval, per_worker=True)):
            rates = _rates(last, sample)
            last = sample
            if as_json and rates:
                print_json({"at": plain(sample)["at"], "per_second": rates})
            elif not as_json and console.is_terminal:
                live.update(view.page(sample, rates), refresh=True)
            elif not as_json and rates:
                click.echo(view.line(sample, rates))
            if shown == count:
                return


def _rates(before: CounterSample | None, now: CounterSample) -> dict[str, float]:
    """By the second; empty at the first sample."""
    if before is None:
        return {}
    seconds = (now.at.ToNanoseconds() - before.at.ToNanoseconds()) / 1e9
    if seconds <= 0:
        return {}
    return {name: round((value - before.counters[name]) / seconds, 1) for name, value in now.counters.items()}


class _View:
    def __init__(self, router: Client) -> None:
        self._router = router
        self._described = router.describe_counters()
        self._names = [one.name for one in self._described]
        self._last_busy: dict[int, tuple[float, int]] = {}
        self._asked = 0
        self._head = ""

    def line(self, sample: CounterSample, rates: dict[str, float]) -> str:
        dropped = sum(rates[one.name] for one in self._described if one.kind == "drop")
        flows = "  ".join(f"{name} {rates.get(name, 0):,.0f}/s" for name in _LINE)
        return f"{time_text(sample.at.ToNanoseconds())}  {flows}  dropped {dropped:,.0f}/s"

    def page(self, sample: CounterSample, rates: dict[str, float]) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("counter", no_wrap=True)
        table.add_column("total", justify="right", no_wrap=True)
        table.add_column("per second", justify="right", no_wrap=True)
        table.add_column("what")  # gives way where there is little room
        for one in self._described:
            total = sample.counters[one.name]
            if total and one.name not in _INTERNAL:
                rate = f"{rates[one.name]:,.0f}" if rates else ""
                style = "red" if one.kind == "drop" and rates.get(one.name) else None
                what = Text(one.help, overflow="ellipsis", no_wrap=True)
                table.add_row(one.name, f"{total:,}", rate, what, style=style)
        return Group(Text(self._title(sample)), Text(self._workers(sample)), table)

    def _title(self, sample: CounterSample) -> str:
        """Asked for again every few seconds only."""
        if sample.at.seconds - self._asked > 5:
            self._asked = sample.at.seconds
            status = self._router.status()
            hops = "  ".join(f"{one.name} {dict(one.facts).get('state', '?')}" for one in self._router.neighbors())
            remarks = "".join(f"\n! {remark}" for remark in status.remarks)
            held = f"{status.bindings:,} of {status.max_bindings:,} bindings, revision {status.revision}"
            self._head = f"pylwaftr {status.version}   {held}   next hops: {hops}{remarks}"
        return self._head

    def _workers(self, sample: CounterSample) -> str:
        """Cycles spent on bursts, against the time that passed; the fastest worker seen sets the scale."""
        if "busy_cycles" not in self._names:
            return ""
        at, busy, now = self._names.index("busy_cycles"), {}, sample.at.ToNanoseconds() / 1e9
        for worker in sample.workers:
            before = self._last_busy.get(worker.worker)
            if before is not None and now > before[0]:
                busy[worker.worker] = (worker.values[at] - before[1]) / (now - before[0])
            self._last_busy[worker.worker] = now, worker.values[at]
        return (
            "busy: " + "  ".join(f"worker {n} {value / 1e6:,.0f} Mcycles/s" for n, value in busy.items())
            if busy
            else ""
        )
