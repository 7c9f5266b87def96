"""`pylwaftr bench ports`: a router under test between two ports of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pylwaftr.bench import plan
from pylwaftr.cli.bench_run import run_plan
from pylwaftr.cli.parsed import parsed

Command = TypeVar("Command", bound=Callable[..., None])


def _cpus(text: str) -> tuple[int, ...]:
    found = plan.numbers(text, 0, 4095)
    if len(found) > 4 or len(set(found)) < len(found):
        raise plan.PlanFault("one to four CPUs, each once")
    return found


def _share(text: str) -> float:
    """0.5% or 0.005."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise plan.PlanFault(f"{text!r} is neither a share such as 0.005 nor 0.5%") from None
    if not 0 <= value < 1:
        raise plan.PlanFault(f"{text} is not between 0 and 1")
    return value


def _resolution(text: str) -> float:
    if not (value := _share(text)):
        raise plan.PlanFault("a resolution of 0 is never reached")
    return value


_WHO = (
    click.option(
        "--v4", default="", metavar="PORT", help="Towards the internet side: PCI address or DPDK vdev, as in run."
    ),
    click.option("--v6", default="", metavar="PORT", help="Towards the softwire side."),
    click.option(
        "-c", "--config", type=click.Path(dir_okay=False), default="",
        help="The router's configuration: its addresses, next hops and bindings, where nothing else is said.",
    ),
    click.option(
        "--bindings", default="", metavar="FILE|NUMBER",
        help="Whom to send to and from: a binding file, or so many by formula (see --save-bindings).",
    ),
    click.option("--router-v4", default="", metavar="ADDRESS|MAC", help="The router, on its IPv4 side."),
    click.option("--router-v6", default="", metavar="ADDRESS|MAC", help="The router, on its IPv6 side."),
    click.option("--own-v4", default="", metavar="ADDRESS", help="The tester's, to ask by ARP: the router's next hop."),
    click.option("--own-v6", default="", metavar="ADDRESS", help="The same for neighbour discovery."),
    click.option(
        "--host", default="198.51.100.1", show_default=True, metavar="ADDRESS",
        help="The host on the internet that all subscribers talk to.",
    ),
)  # fmt: skip
_WHAT = (
    click.option(
        "--tests", callback=parsed(lambda text: plan.names(text, plan.PORT_TESTS)), default="throughput",
        show_default=True, help="Of " + ", ".join(plan.PORT_TESTS) + ".",
    ),
    click.option(
        "--directions", callback=parsed(lambda text: plan.names(text, plan.PORT_DIRECTIONS)), default="both",
        show_default=True, help="Of " + ", ".join(plan.PORT_DIRECTIONS) + "; both is at the same time.",
    ),
    click.option(
        "--sizes", callback=parsed(plan.wire_sizes), default="64", show_default=True,
        help="Frames on the IPv4 side with FCS, or imix; 40 octets more on the softwire side. RFC 8219: "
        "64,128,256,512,768,1024,1280,1518.",
    ),
    click.option(
        "--rate", callback=parsed(plan.rate), metavar="FRAMES",
        help="The greatest rate, frames a second of each direction.  [default: what the slower link carries]",
    ),
    click.option(
        "--seconds", type=click.FloatRange(0.05, 3600), default=10, show_default=True,
        help="Length of a trial. RFC 2544: 60, for latency 120.",
    ),
    click.option(
        "--drain", type=click.FloatRange(0.01, 60), default=2, show_default=True,
        help="Seconds that frames under way have after a trial; it ends when all are back.",
    ),
    click.option(
        "--resolution", callback=parsed(_resolution), default="0.5%", show_default=True, help="Of the throughput."
    ),
    click.option(
        "--accept-loss", callback=parsed(_share), default="0", show_default=True,
        help="Share of the frames that may be lost; RFC 2544: none.",
    ),
    click.option(
        "--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs of each test. RFC 8219: 20."
    ),
    click.option(
        "--tagged", type=click.IntRange(1, 1_000_000), default=1000, show_default=True,
        help="Frames of a run whose latency is taken. RFC 8219: 500 at least.",
    ),
)  # fmt: skip
_WHERE = (
    click.option(
        "--cpus", callback=parsed(_cpus), metavar="LIST",
        help="Of the tester: 2 = a direction each, 4 = sender and receiver of each.  [default: the last one]",
    ),
    click.option("--hugepages", type=click.Choice(plan.HUGEPAGES), default="auto", show_default=True),
    click.option(
        "--api", default="", metavar="HOST:PORT", help="Of a pylwaftr under test: how its workers shared the frames."
    ),
    click.option(
        "--save-bindings", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
        help="Write the bindings of --bindings NUMBER for the router (.csv, .jsonl, .snapshot), and end.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object: machine, commit, plan, results."),
    click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw a picture (PNG)."),
)  # fmt: skip


def options(command: Command) -> Command:
    for option in reversed((*_WHO, *_WHAT, *_WHERE)):
        command = option(command)
    return command


@click.command("ports")
@options
def bench_ports(
    rate: int | None,
    cpus: tuple[int, ...] | None,
    save_bindings: Path | None,
    as_json: bool,
    picture: Path | None,
    **given: Any,
) -> None:
    """A router between two ports of this machine, in the manner of RFC 2544 and RFC 8219.

    This machine is the tester: it finds the router by ARP and neighbour discovery, answers for all hosts on both sides,
    sends frames that carry a number and a time, and judges each that comes back. A frame with another B4, BR, inner
    address or port than its binding's is wrong, and as good as lost.
    """

    if save_bindings is not None:
        _save(save_bindings, given["bindings"], as_json)
        return
    if not given["v4"] or not given["v6"]:
        raise click.UsageError("the tester needs two ports: --v4 and --v6")
    wanted = plan.Ports(rate=float(rate or 0), cpus=cpus or (), **given)
    run_plan(wanted, as_json, picture)


def _save(file: Path, bindings: str, as_json: bool) -> None:
    from pylwaftr.bench.under_test import by_formula
    from pylwaftr.cli import binding_output

    try:
        rows = by_formula(plan.numbers(bindings)[0])
    except plan.PlanFault as fault:
        raise click.BadParameter(str(fault), param_hint="--bindings") from None
    binding_output.save(file, rows, 1460, 1500, as_json)
