"""`python -m pylwaftr.lab`, which is what `make run` does."""

from __future__ import annotations

import os
import random
import sys
from contextlib import suppress

import click
from rich.console import Console

from . import plan, report
from .commands import KEA, TOOLS, LabError, inside, require_tools
from .lifecycle import Lab, Stopped, pylwaftr, running
from .steps import Result, Step, perform
from .topology import INTERNET_HOST, ROUTER


@click.command()
@click.option("--full", is_flag=True, help="All homes and scenarios: loss, fragments, path MTUs, PCP, leases.")
@click.option("--megabytes", type=click.IntRange(1), default=100, show_default=True, help="TCP transfer of --full.")
@click.option("--once", is_flag=True, help="End after the steps, also on a terminal.")
@click.option("--chaos", metavar="ROUNDS", type=click.IntRange(1), help="Kill router and leasequery server at random.")
@click.option("--seed", type=int, help="Of --chaos; a random one is shown.")
@click.option("--profile", type=click.Choice(["W", "N", "S"]), default="W", show_default=True, help="Of --chaos.")
@click.option("--router", metavar="COMMAND", help="Run this in the router's place; gets -c FILE --counters-file FILE.")
def main(
    full: bool, megabytes: int, once: bool, chaos: int | None, seed: int | None, profile: str, router: str | None
) -> None:
    """A lwAFTR between real kernel hosts, in network namespaces that are removed again. Needs root.

    On a terminal the router's counters are shown after the steps, until Ctrl-C.
    """
    console = Console(soft_wrap=True, emoji=False)  # ":100:" is part of an address
    try:
        if chaos is not None:
            sys.exit(_chaos(console, chaos, random.randrange(1 << 32) if seed is None else seed, profile))
        sys.exit(_run(console, full, megabytes, not once and sys.stdout.isatty(), router))
    except LabError as fault:
        raise click.ClickException(str(fault)) from None
    except (KeyboardInterrupt, Stopped):
        console.print("stopped; the lab is removed")
        sys.exit(130)


def _run(console: Console, full: bool, megabytes: int, stay: bool, router: str | None) -> int:
    _require(TOOLS | KEA if router is None else TOOLS)
    transfer = megabytes << 20
    topology, steps = plan.everything(transfer) if full else plan.demonstration()
    if router is not None:
        topology, steps = plan.of_another_router(full, transfer)
    console.print("starting the lab: router, access network, " + ", ".join(site.name for site in topology.sites))
    with running(topology, router) as lab:
        results = _perform_all(console, lab, steps)
        report.summary(console, results)
        if stay:
            _stay(console, lab)
    return 0 if all(result.ok for result in results) else 1


def _chaos(console: Console, rounds: int, seed: int, profile: str) -> int:
    _require(TOOLS)
    topology, steps = plan.chaos(rounds, seed, profile)
    console.print(f"starting router and leasequery server; {rounds} rounds, --seed {seed}", highlight=False)
    with running(topology, None) as lab:
        results = _perform_all(console, lab, steps)
        report.summary(console, results)
    return 0 if all(result.ok for result in results) else 1


def _require(tools: dict[str, str]) -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces: run it as root (sudo make run)")
    require_tools(tools)


def _perform_all(console: Console, lab: Lab, steps: tuple[Step, ...]) -> list[Result]:
    """Without a softwire nothing else can work: then the first failure is the only one shown."""
    results = []
    for step in steps:
        results.append(perform(step, lab))
        report.line(console, results[-1])
        if len(results) == 1 and not results[0].ok:
            break
    return results


def _stay(console: Console, lab: Lab) -> None:
    """A ping goes on, so that there is something to see."""
    lan = lab.topology.homes[0].lan
    lab.start(lan, "ping", "ping", "-n", "-q", INTERNET_HOST)
    console.print(f"to look around: ip netns exec {lan} bash", highlight=False)
    if lab.other_router is None:
        words = " ".join(inside(ROUTER, *pylwaftr(), "bindings", "ls"))
        console.print(f"to ask the router: {words}", highlight=False)
    with suppress(KeyboardInterrupt):
        report.live(console, lab)


if __name__ == "__main__":
    main()
