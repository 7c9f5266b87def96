"""`pylwaftr explain`: why a packet is forwarded, or why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from pylwaftr import pcap
from pylwaftr.cli.common import BAD_INPUT, FAILED, end, loaded, start_logging
from pylwaftr.explain.story import Given


@click.command()
@click.option(
    "-c", "--config", "path", metavar="CONFIG", required=True, type=click.Path(), help="The configuration file."
)
@click.option("--pcap", "file", type=click.Path(path_type=Path), help="Frames from a classic pcap file.")
@click.option(
    "--hex", "hex_text", metavar="H", help="One frame, or one IP packet, in hexadecimal; spaces do not matter."
)
@click.option("--side", type=click.Choice(["v4", "v6"]), required=True, help="Where it arrives.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a packet.")
def explain(path: str, file: Path | None, hex_text: str | None, side: str, as_json: bool) -> None:
    """Tell the way of packets through the stages: the binding that was tried, what left, or the one reason why not.

    A packet that starts with an IP header instead of an Ethernet frame is taken as sent to the router's own MAC.
    """
    if (file is None) == (hex_text is None):
        end("give either --pcap or --hex", BAD_INPUT)
    config = loaded(path)
    start_logging("warning", "console")
    from pylwaftr import offline
    from pylwaftr.daemon.router import StartFault

    try:
        given = list(_frames(file, hex_text, side))
        for story in offline.explain(config, given):
            click.echo(json.dumps(story.as_json()) if as_json else story.text() + "\n")
    except pcap.PcapFault as fault:
        end(str(fault), BAD_INPUT)
    except StartFault as fault:
        end(str(fault), FAILED)


def _frames(file: Path | None, hex_text: str | None, side: str) -> Iterator[Given]:
    if file is not None:
        for octets in pcap.frames(file):
            yield Given(side, octets)
        return
    assert hex_text is not None
    try:
        octets = bytes.fromhex(hex_text.replace(":", " "))
    except ValueError as fault:
        end(f"--hex: {fault}: give two hexadecimal digits an octet", BAD_INPUT)
    if not octets:
        end("--hex: no octets", BAD_INPUT)
    yield Given(side, octets, bare=_starts_with_ip(octets, side))


def _starts_with_ip(octets: bytes, side: str) -> bool:
    """An IP header of the side's version whose length fits; an Ethernet frame that looks so would have that as MAC."""
    if side == "v4":
        return len(octets) >= 20 and octets[0] >> 4 == 4 and int.from_bytes(octets[2:4]) == len(octets)
    return len(octets) >= 40 and octets[0] >> 4 == 6 and int.from_bytes(octets[4:6]) + 40 == len(octets)
