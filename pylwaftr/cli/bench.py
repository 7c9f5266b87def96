"""`pylwaftr bench`: forwarding, more workers, look-ups, updates and starting, measured on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from pylwaftr.bench import plan
from pylwaftr.cli.bench_ports import bench_ports
from pylwaftr.cli.bench_run import run_plan
from pylwaftr.cli.common import FAILED, end
from pylwaftr.cli.parsed import parsed

Command = TypeVar("Command", bound=Callable[..., None])


def window_options(command: Command) -> Command:
    options = (
        click.option(
            "--windows", type=click.IntRange(1, 100_000), default=25, show_default=True, help="Windows of each case."
        ),
        click.option(
            "--seconds", type=click.FloatRange(0.001, 60), default=0.06, show_default=True, help="Length of a window."
        ),
        click.option("--hugepages", type=click.Choice(plan.HUGEPAGES), default="auto", show_default=True),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object: machine, commit, plan, results."),
        click.option(
            "--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw a picture (PNG)."
        ),
    )
    return _with(options, command)


def common_options(command: Command) -> Command:
    cpu = click.option(
        "--cpu", type=click.IntRange(0), help="The CPU that is measured [default: the last one allowed]."
    )
    return cpu(window_options(command))


def traffic_options(directions: str, bindings: str, unlike: Sequence[str] = ()) -> Callable[[Command], Command]:
    """The packets and the router that has them; `directions` and `bindings` are defaults, `unlike` no features here."""
    features = [name for name in plan.FEATURES if name not in unlike]
    options = (
        click.option(
            "--directions",
            callback=parsed(lambda text: plan.names(text, plan.DIRECTIONS)),
            default=directions,
            show_default=True,
            help="Of " + ", ".join(plan.DIRECTIONS) + ".",
        ),
        click.option("--bindings", callback=parsed(plan.numbers), default=bindings, show_default=True),
        click.option(
            "--sizes",
            callback=parsed(plan.sizes),
            default="64",
            show_default=True,
            help="Octets of received frames, or imix. 64 is the least: 64 from the internet, 94 from a softwire.",
        ),
        click.option(
            "--features",
            callback=parsed(plan.features),
            default="default",
            show_default=True,
            help="Of " + ", ".join(features) + "; a+b is both at once.",
        ),
        click.option("--transport", type=click.Choice(("udp", "tcp")), default="udp", show_default=True),
    )
    return lambda command: _with(options, command)


def _with(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


class _Group(click.Group):
    """`bench --json` is `bench forward --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["forward", *args]
        return super().parse_args(ctx, args)


@click.group("bench", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measure this machine: cycles and packets per second of one core, or of several (`scaling`).

    Numbers are the best and the median of many short windows. Compare those of one run: cases take turns. `ports`
    measures a router on the wire instead, from outside. Options without a command are those of `forward`.
    """


bench.add_command(bench_ports)


@bench.command("forward")
@traffic_options("encap,decap,both", "1,1k,1M")
@common_options
def forward(
    directions: tuple[str, ...],
    bindings: tuple[int, ...],
    sizes: tuple[str, ...],
    features: tuple[str, ...],
    transport: str,
    **common: Any,
) -> None:
    """The whole fast path, port input and output included, without a NIC."""
    _run(lambda of: plan.Forward(of, directions, bindings, sizes, features, transport == "tcp"), **common)


def _cpus(text: str) -> tuple[int, ...]:
    return plan.numbers(text, 0, 4095)


@bench.command("scaling")
@click.option(
    "--workers",
    callback=parsed(lambda text: plan.numbers(text, 1, 128)),
    help="How many at the same time, beside each alone.  [default: 2 to the number of CPUs]",
)
@click.option(
    "--cpus",
    callback=parsed(_cpus),
    help="Whose turn it is first, second, …  [default: all allowed, one of each core before its hyper-threads]",
)
@traffic_options("both", "1M", unlike=plan.OF_A_LANE)
@click.option(
    "--cache",
    type=click.FloatRange(0),
    metavar="MIB",
    help="For the model: how much of the table each core has near.  [default: its own cache]",
)
@click.option(
    "--memory-bandwidth",
    type=click.FloatRange(0.1),
    default=20.0,
    show_default=True,
    metavar="GB/S",
    help="For the model: what memory has for all cores; 20 is one channel.",
)
@click.option(
    "--line-rate",
    type=click.FloatRange(0.1),
    default=100.0,
    show_default=True,
    metavar="GBIT/S",
    help="For the model: of each port.",
)
@window_options
def scaling(
    workers: tuple[int, ...] | None,
    cpus: tuple[int, ...] | None,
    directions: tuple[str, ...],
    bindings: tuple[int, ...],
    sizes: tuple[str, ...],
    features: tuple[str, ...],
    transport: str,
    cache: float | None,
    memory_bandwidth: float,
    line_rate: float,
    **common: Any,
) -> None:
    """Workers of one router on several CPUs: what they forward together, and each alone.

    A router as `run` starts it: one binding table, and for each CPU a worker and a queue of each port, which has as
    many frames as are polled. Teams take turns window by window: each CPU alone, then the first 2, 3, … of them. The
    workers are started for a window and stopped behind it, so that nobody else polls meanwhile. A model tells what more
    cores than this machine has would do, and how evenly RSS or software would load their queues with these bindings.
    """
    _run(
        lambda of: plan.Scaling(
            of, workers or (), cpus or (), directions, bindings, sizes, features, transport == "tcp", cache,
            memory_bandwidth, line_rate,
        ),
        cpu=None,
        **common,
    )  # fmt: skip


@bench.command("table")
@click.option("--bindings", callback=parsed(lambda text: plan.numbers(text, 512)), default="1M", show_default=True)
@click.option(
    "--works",
    callback=parsed(lambda text: plan.names(text, plan.WORKS)),
    default=",".join(plan.WORKS),
    show_default=True,
)
@click.option("--rte-hash/--no-rte-hash", default=True, show_default=True, help="Compare with DPDK's rte_hash.")
@common_options
def table(bindings: tuple[int, ...], works: tuple[str, ...], rte_hash: bool, **common: Any) -> None:
    """The binding table alone, beside rte_hash and beside no table."""
    _run(lambda of: plan.Table(of, bindings, works, rte_hash), **common)


@bench.command("updates")
@click.option("--bindings", callback=parsed(lambda text: plan.numbers(text, 512)), default="1M", show_default=True)
@click.option(
    "--rates",
    callback=parsed(lambda text: plan.numbers(text, 0)),
    default="0",
    show_default=True,
    help="Insertions and removals a second; 0 = as many as can be.",
)
@click.option("--batch", type=click.IntRange(1, 65_536), default=32, show_default=True, help="Bindings a call.")
@click.option("--writer-cpu", type=click.IntRange(0), help="[default: another one than --cpu]")
@click.option(
    "--jobs",
    type=click.IntRange(0, 1000),
    default=3,
    show_default=True,
    help="Times that all bindings are replaced, and that the table grows by a twentieth.",
)
@common_options
def updates(
    bindings: tuple[int, ...], rates: tuple[int, ...], batch: int, writer_cpu: int | None, jobs: int, **common: Any
) -> None:
    """Look-ups on one core while another changes the table. A wrong or missed look-up is exit status 1."""
    wanted = tuple(float(rate) for rate in rates)
    document = _run(lambda of: plan.Updates(of, bindings, wanted, batch, writer_cpu, jobs), **common)
    bad = sum(result["missed"] + result["wrong"] + result["refused"] for result in document["results"])
    if bad:
        end(f"{bad} look-ups or updates went wrong", FAILED)


_quick = click.option("--quick", is_flag=True, help="Small sizes: shows that it works, and no more.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object: machine, commit, plan, results.")


@bench.command("start")
@click.option("--bindings", callback=parsed(plan.numbers), default="1M", show_default=True)
@click.option("--times", type=click.IntRange(1, 1000), default=5, show_default=True)
@common_options
def start(bindings: tuple[int, ...], times: int, **common: Any) -> None:
    """From a binary snapshot to forwarding, after DPDK is up: --times starts, no windows."""
    _run(lambda of: plan.Start(of, bindings, times), **common)


@bench.command("api")
@click.option("--bindings", callback=parsed(lambda text: plan.numbers(text, 512)), help="[default: 1M]")
@click.option("--rounds", type=click.IntRange(1, 100), help="Of what takes seconds.  [default: 3]")
@_quick
@_json
def api_calls(bindings: tuple[int, ...] | None, rounds: int | None, quick: bool, as_json: bool) -> None:
    """A running router from outside: bulk load, import, dump, single changes, scrape, start."""
    from pylwaftr.bench import api, control

    wanted = api.QUICK if quick else api.Plan()
    if bindings:
        wanted = replace(wanted, bindings=bindings[0])
    if rounds:
        wanted = replace(wanted, rounds=rounds)
    _run_control(lambda say: control.run_api(wanted, say), as_json)


@bench.command("pcp")
@_quick
@_json
def pcp_requests(quick: bool, as_json: bool) -> None:
    """PCP requests: the server's core, from frame to frame (durable, forwarding), and storms of lwB4s."""
    from pylwaftr.bench import control, pcp, pcp_storm, pcp_way

    plans = (pcp.QUICK, pcp_way.QUICK, pcp_storm.QUICK) if quick else (pcp.Plan(), pcp_way.Plan(), pcp_storm.Plan())
    _run_control(lambda say: control.run_pcp(*plans, say), as_json)


@bench.command("sync")
@click.option("--leases", callback=parsed(lambda text: plan.numbers(text, 512)), help="[default: 1M]")
@click.option("--rate", type=click.IntRange(1, 1_000_000), help="Changes a second.  [default: 24000]")
@click.option("--seconds", type=click.FloatRange(0.1, 600), help="Of changes.  [default: 5]")
@_quick
@_json
def sync_leases(
    leases: tuple[int, ...] | None, rate: int | None, seconds: float | None, quick: bool, as_json: bool
) -> None:
    """DHCP leases from `pylwaftr leasequery-server` to the binding table: a full bulk, then changes."""
    from pylwaftr.bench import control, sync

    wanted = sync.QUICK if quick else sync.Plan()
    if leases:
        wanted = replace(wanted, leases=leases[0])
    if rate:
        wanted = replace(wanted, rate=rate)
    if seconds:
        wanted = replace(wanted, seconds=seconds)
    _run_control(lambda say: control.run_sync(wanted, say), as_json)


def _run_control(run: Callable[[Callable[[str], None]], dict[str, Any]], as_json: bool) -> None:
    from pylwaftr.bench import control
    from pylwaftr.bench.live import LiveFault

    notes = Console(stderr=True, highlight=False)
    try:
        with notes.status("starting") as status:
            document = run(status.update)
    except (LiveFault, TimeoutError) as fault:
        end(str(fault) or "not done in time", FAILED)
    click.echo(json.dumps(document, indent=2) if as_json else "\n".join(control.lines(document)))


def _run(
    make: Callable[[plan.Common], plan.Plan],
    windows: int,
    seconds: float,
    cpu: int | None,
    hugepages: str,
    as_json: bool,
    picture: Path | None,
) -> dict[str, Any]:
    common = replace(plan.Common(), cpu=cpu, hugepages=hugepages, windows=windows, seconds=seconds)
    return run_plan(make(common), as_json, picture)
