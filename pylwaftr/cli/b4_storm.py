"""`pylwaftr b4-storm`: very many simulated lwB4s."""

from __future__ import annotations

import json
import os
from ipaddress import IPv6Address, IPv6Network

import click

from ..b4.daemon.storm import StormRun, run_storm
from ..b4.host import HostError
from ..b4.storm import StormPlan
from .faults import CommandFault


def _mac(_ctx: click.Context, _param: click.Parameter, text: str | None) -> bytes:
    if text is None:
        return b""
    try:
        mac = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        mac = b""
    if len(mac) != 6:
        raise click.BadParameter(f"{text!r} is not a MAC address such as 02:00:00:00:00:01")
    return mac


@click.command("b4-storm")
@click.option("--aftr", metavar="IPV6", required=True, help="Of the lwAFTR: the far end of all softwires.")
@click.option("--prefix", metavar="IPV6/LEN", required=True, help="Of all subscribers; each has a /56 of it.")
@click.option("--count", type=click.IntRange(min=1), default=100_000, show_default=True, help="lwB4s.")
@click.option("--tun", metavar="NAME", help="TUN device to make; the kernel forwards to the lwAFTR.")
@click.option("--interface", help="Or the link to the lwAFTR, with --router-mac.")
@click.option("--router-mac", "mac", callback=_mac, help="Of the lwAFTR on that link.")
@click.option("--seconds", type=click.FloatRange(min=0), default=60.0, show_default=True, help="For how long.")
@click.option("--until-bound", is_flag=True, help="End when all are bound; exit status 1 if they are not in time.")
@click.option("--lifetime", type=click.IntRange(1, 0xFFFFFFFF), default=7200, show_default=True, help="Asked for, s.")
@click.option("--ramp", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Seconds to start them all.")
@click.option("--renew-at", type=click.FloatRange(min=0), help="Seconds after a grant; default: as RFC 6887 says.")
@click.option("--moves", type=click.FloatRange(min=0), default=0.0, help="New tunnel addresses a second.")
@click.option("--reboots", type=click.FloatRange(min=0), default=0.0, help="lwB4s that start anew, a second.")
@click.option("--forgetful", type=click.FloatRange(0, 1), default=0.0, help="Share of them that lose their nonce.")
@click.option("--seed", type=int, help="The same storm again.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@click.option("--json", "as_json", is_flag=True, help="As always; and no text on standard error.")
def b4_storm(
    aftr: str,
    prefix: str,
    count: int,
    tun: str | None,
    interface: str | None,
    mac: bytes,
    seconds: float,
    until_bound: bool,
    lifetime: int,
    ramp: float,
    renew_at: float | None,
    moves: float,
    reboots: float,
    forgetful: float,
    seed: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run very many simulated lwB4s that are provisioned by PCP; print what became of them as JSON. Needs root."""
    if (tun is None) == (interface is None) or (interface is not None and not mac):
        raise click.UsageError("give --tun, or else --interface with --router-mac")
    try:
        plan = StormPlan(
            IPv6Address(aftr), IPv6Network(prefix), count, lifetime, ramp, moves, reboots, forgetful, renew_at
        )
    except ValueError as fault:
        raise click.UsageError(str(fault)) from None
    if os.geteuid() != 0:
        raise click.ClickException("a storm opens a TUN device or a packet socket: run it as root")
    try:
        report = run_storm(
            StormRun(plan, seconds, until_bound, tun, interface or "", mac, seed),
            lambda line: None if quiet or as_json else click.echo(line, err=True),
        )
    except HostError as fault:
        raise click.ClickException(str(fault)) from None
    click.echo(json.dumps(report, indent=1))
    if until_bound and report["bound"] < count:
        raise CommandFault(f"{count - report['bound']} of {count} are not bound", 1, text="")
