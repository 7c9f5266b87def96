"""`pylwaftr capture`: what a running router receives and sends, into a pcapng file."""

from __future__ import annotations

from pathlib import Path

import click

from pylwaftr import capture_client, filters
from pylwaftr.capture import CaptureFault, State, Wanted
from pylwaftr.cli.common import BAD_INPUT, FAILED, end
from pylwaftr.cli.connection import as_json, print_json

_ENDS = {"count": "enough packets", "time": "the time is over", "request": "stopped", "error": "failed"}


@click.command()
@click.option(
    "-w",
    "--write",
    "file",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The pcapng file; what it holds is replaced. The router writes it.",
)
@click.option("-f", "--filter", "text", default="", metavar="EXPR", help="Only frames that match, see pcap-filter(7).")
@click.option(
    "--count", type=click.IntRange(1, 1_000_000_000), default=10_000, show_default=True, help="At most so many frames."
)
@click.option(
    "--seconds", type=click.FloatRange(0.001, 86400), default=60.0, show_default=True, help="At most for so long."
)
@click.option(
    "--snap-length",
    "snap",
    type=click.IntRange(14, 16384),
    default=2048,
    show_default=True,
    help="Octets kept of a frame.",
)
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    help="The router's telemetry socket. Not given: that of the only running router.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what went wrong.")
@as_json
def capture(
    file: Path, text: str, count: int, seconds: float, snap: int, path: Path | None, quiet: bool, as_json: bool
) -> None:
    """Write frames of a running router to a pcapng file.

    Frames that came carry as their comment what became of them and by which requirement; frames that left are there
    too. It ends by its bounds or with Ctrl-C; the file is whole then. What the workers had no buffer for is missed, and
    counted: they do not wait for a capture.
    """
    if text and (said := filters.fault(text)):
        end(
            f"--filter: {text!r} is no pcap filter ({said}); see pcap-filter(7)", BAD_INPUT, "INVALID_FIELD", "--filter"
        )
    try:
        wanted = Wanted(str(file.absolute()), count, seconds, snap, text)
        state = capture_client.capture(path or capture_client.only_router(), wanted, lambda _: None)
    except CaptureFault as fault:
        end(str(fault), FAILED, "CAPTURE_REFUSED")
    if state.ended_by == "error":
        end(f"{file}: {state.error} after {state.written} frames", FAILED)
    if as_json:
        ended = {"ended_by": state.ended_by, "missed": state.missed}
        print_json({"file": str(file), "frames": state.written, "octets": state.octets} | ended)
    elif not quiet:
        click.echo(summary(file, state))


def summary(file: Path, state: State) -> str:
    missed = f", {state.missed} missed" if state.missed else ""
    return f"{file}: {state.written} frames, {state.octets} octets{missed} ({_ENDS.get(state.ended_by, state.state)})"
