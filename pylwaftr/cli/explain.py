"""`pylwaftr explain`: why a packet is forwarded, or why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from pylwaftr import pcap
from pylwaftr.api.client import Client
from pylwaftr.cli.common import BAD_INPUT, FAILED, end, start_logging
from pylwaftr.cli.configuration import loaded
from pylwaftr.cli.connection import connected
from pylwaftr.explain.story import Given, Step, Story

MAX_FRAMES = 256  # in one question to a running router


@click.command()
@click.option(
    "-c", "--config", "path", metavar="CONFIG", type=click.Path(), help="Not given: the running router is asked."
)
@click.option("--pcap", "file", type=click.Path(path_type=Path), help="Frames from a classic pcap file.")
@click.option(
    "--hex", "hex_text", metavar="H", help="One frame, or one IP packet, in hexadecimal; spaces do not matter."
)
@click.option("--side", type=click.Choice(["v4", "v6"]), required=True, help="Where it arrives.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a packet.")
@connected
def explain(
    router: Client, path: str | None, file: Path | None, hex_text: str | None, side: str, as_json: bool
) -> None:
    """Tell the way of packets through the stages: the binding that was tried, what left, or the one reason why not.

    A packet that starts with an IP header instead of an Ethernet frame is taken as sent to the router's own MAC.
    With --config the bindings are those of the file, else those of the running router; nothing is sent either way.
    """
    if (file is None) == (hex_text is None):
        end("give either --pcap or --hex", BAD_INPUT, "USAGE")
    try:
        given = list(_frames(file, hex_text, side))
        for story in _asked(router, given) if path is None else _offline(path, given):
            click.echo(json.dumps(story.as_json()) if as_json else story.text() + "\n")
    except pcap.PcapFault as fault:
        end(str(fault), BAD_INPUT, "FILE_FAULTY")


def _offline(path: str, given: Sequence[Given]) -> Iterator[Story]:
    config = loaded(path)
    start_logging("warning", "console")
    from pylwaftr import offline
    from pylwaftr.daemon.router import StartFault

    try:
        yield from offline.explain(config, given)
    except StartFault as fault:
        end(str(fault), FAILED, "START_FAILED")


def _asked(router: Client, given: Sequence[Given]) -> Iterator[Story]:
    """Frames that are asked for together are one burst, so fragments find their first one."""
    for start in range(0, len(given), MAX_FRAMES):
        part = given[start : start + MAX_FRAMES]
        for told in router.explain((one.side, one.octets, one.bare) for one in part):
            yield Story(
                number=start + told.number,
                side=told.side,
                packet=told.packet,
                steps=tuple(Step(step.stage, step.text) for step in told.steps),
                verdict=told.verdict,
                kind=told.kind,
                requirement=told.requirement,
                reason=told.reason,
                also=tuple(told.also),
                sent=tuple((sent.side, sent.packet) for sent in told.sent),
            )


def _frames(file: Path | None, hex_text: str | None, side: str) -> Iterator[Given]:
    if file is not None:
        for octets in pcap.frames(file):
            yield Given(side, octets)
        return
    assert hex_text is not None
    try:
        octets = bytes.fromhex(hex_text.replace(":", " "))
    except ValueError:
        end(f"--hex: {_not_hex(hex_text)}: give two hexadecimal digits an octet", BAD_INPUT, "INVALID_FIELD", "--hex")
    if not octets:
        end("--hex: no octets", BAD_INPUT, "INVALID_FIELD", "--hex")
    yield Given(side, octets, bare=_starts_with_ip(octets, side))


def _not_hex(text: str) -> str:
    strange = re.search(r"[^0-9A-Fa-f:\s]", text)
    return f"{strange[0]!r} is no hexadecimal digit" if strange else "an octet has one digit"


def _starts_with_ip(octets: bytes, side: str) -> bool:
    """An IP header of the side's version whose length fits; an Ethernet frame that looks so would have that as MAC."""
    if side == "v4":
        return len(octets) >= 20 and octets[0] >> 4 == 4 and int.from_bytes(octets[2:4]) == len(octets)
    return len(octets) >= 40 and octets[0] >> 4 == 6 and int.from_bytes(octets[4:6]) + 40 == len(octets)
