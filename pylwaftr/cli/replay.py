"""`pylwaftr replay`: pcap files through the real workers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from pylwaftr import eal_args, pcap
from pylwaftr import replay as through
from pylwaftr.cli import counters
from pylwaftr.cli.common import BAD_INPUT, FAILED, counted, end, start_logging
from pylwaftr.cli.configuration import loaded
from pylwaftr.cli.faults import Violation, warn
from pylwaftr.config import Config
from pylwaftr.daemon.router import StartFault, Totals

_FILE = click.Path(path_type=Path)


@click.command()
@click.option(
    "-c", "--config", "path", metavar="CONFIG", required=True, type=click.Path(), help="The configuration file."
)
@click.option("--v4-in", type=_FILE, help="What comes from the internet. Not given: nothing.")
@click.option("--v6-in", type=_FILE, help="What comes from the B4s. Not given: nothing.")
@click.option("--v4-out", type=_FILE, help="What goes to the internet.")
@click.option("--v6-out", type=_FILE, help="What goes to the B4s.")
@click.option("--counters", "counters_file", type=_FILE, help="All counters as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Print no counters.")
@click.option("--json", "as_json", is_flag=True, help="Print all counters as one JSON object.")
def replay(
    path: str,
    v4_in: Path | None,
    v6_in: Path | None,
    v4_out: Path | None,
    v6_out: Path | None,
    counters_file: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Send pcap files through the router and keep what comes out.

    Ports become files, everything else of the configuration holds. The files are classic pcap with Ethernet frames,
    read in their order; timestamps are ignored. It ends when all is through: no root, no hugepages, no network needed.

    Frames count as the router's if they are for interfaces.v4.mac or interfaces.v6.mac of the configuration.
    """
    config = loaded(path)
    start_logging(config.logging.level, config.logging.format)
    files = through.Files(v4_in, v6_in, v4_out, v6_out, counters_file)
    try:
        through.check(files)
        seen = [pcap.inspect(source) for source in files.inputs if source is not None]
        _warn(files, seen, as_json)
        with through.Workspace(files) as workspace:
            totals = _run(config, workspace, seen)
        _warn_of_strangers(counters.named(totals), as_json)
        if as_json:
            click.echo(json.dumps(counters.named(totals)))
        elif not quiet:
            click.echo(counters.text_table(totals))
    except pcap.PcapFault as fault:
        end(str(fault), BAD_INPUT, "FILE_FAULTY")
    except through.ReplayFault as fault:
        end(str(fault), BAD_INPUT)


def _warn(files: through.Files, seen: list[pcap.Inspection], as_json: bool) -> None:
    for source, inspection in zip(filter(None, files.inputs), seen, strict=True):
        if inspection.cut_short:
            said = f"{inspection.cut_short} of {inspection.frames} frames are not whole: the capture cut them off"
            warn(Violation("", said, str(source)), as_json)


def _warn_of_strangers(totals: Mapping[str, int], as_json: bool) -> None:
    """What somebody captured elsewhere is not for the MAC addresses that this router has."""
    if others := totals["drop_l2_not_for_us"]:
        said = f"{counted(others, 'frame')} for another MAC address than the router's: "
        warn(Violation("", f"{said}interfaces.v4.mac and interfaces.v6.mac set those"), as_json)


def _run(config: Config, workspace: through.Workspace, seen: list[pcap.Inspection]) -> Totals:
    buffers = eal_args.replay_buffers(
        max(config.interfaces.v4.mtu, config.interfaces.v6.mtu),
        config.softwire.reassembly.max_packets,
        sum(inspection.may_wait for inspection in seen),
        max((inspection.longest for inspection in seen), default=0),
    )
    try:
        totals = through.run(config, workspace, buffers, sum(inspection.frames for inspection in seen))
    except StartFault as fault:
        end(str(fault), FAILED, "START_FAILED")
    except through.StuckFault as fault:
        end(str(fault), FAILED)
    if workspace.counters is not None:
        workspace.counters.write_text(through.counters_json(counters.named(totals)))
    workspace.finish()
    return totals
