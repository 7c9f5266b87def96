"""`pylwaftr b4`: the reference lwB4."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import click

from ..b4.core import Options
from ..b4.daemon import UnboundError, run
from ..b4.host import HostError, HostOptions, Lan, require_tools
from ..b4.nft import Forward
from ..b4.softwire import PortSet, Softwire, tunnel_source


def _parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that turns an option's text, or each of several, into a value; a ValueError is a usage error."""

    def convert(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(parse(text) for text in value)
            return None if value is None else parse(value)
        except ValueError as fault:
            raise click.BadParameter(str(fault)) from None

    return convert


def _source(text: str) -> IPv6Address | IPv6Network:
    return IPv6Network(text) if "/" in text else IPv6Address(text)


def _lan(text: str) -> Lan:
    interface, _, address = text.partition("/")
    return Lan(interface, IPv4Interface(address) if address else None)


def _forward(text: str) -> Forward:
    """udp/3100=192.168.1.10:5353"""
    outside, equals, inside = text.partition("=")
    protocol, _, port = outside.partition("/")
    address, colon, inside_port = inside.partition(":")
    if protocol not in ("tcp", "udp", "icmp") or not equals or not colon:
        raise ValueError(f"{text!r} is not of the form udp/3100=192.168.1.10:5353 (tcp, udp or icmp)")
    numbers = int(port), int(inside_port)
    if not all(0 <= number <= 65535 for number in numbers):
        raise ValueError(f"{text!r}: a port is at most 65535")
    return Forward(protocol, numbers[0], IPv4Address(address), numbers[1])


@click.command()
@click.option("--aftr", metavar="IPV6", callback=_parsed(IPv6Address), required=True, help="Of the lwAFTR.")
@click.option(
    "--tunnel-source",
    metavar="address|prefix",
    callback=_parsed(_source),
    required=True,
    help="Our tunnel address; or a prefix, from which it is built (RFC 7596 section 5.1).",
)
@click.option("--ipv4", metavar="IPV4", callback=_parsed(IPv4Address), required=True, help="Our public IPv4 address.")
@click.option("--psid-len", type=click.IntRange(0, 16), default=0, show_default=True, help="k; 0: not shared.")
@click.option("--psid-offset", type=click.IntRange(0, 16), default=0, show_default=True, help="a")
@click.option("--psid", type=click.IntRange(0, 65535), default=0, show_default=True)
@click.option("--mtu", type=click.IntRange(1280, 65535), help="Of the IPv6 path; default: as the kernel knows it.")
@click.option("--hop-limit", type=click.IntRange(1, 255), default=64, show_default=True)
@click.option("--lan", "lans", metavar="iface[/addr/len]", callback=_parsed(_lan), multiple=True, help="LAN interface.")
@click.option("--wan", help="Interface that is given the tunnel source address while this runs.")
@click.option("--tun", default="lw4o6", show_default=True, help="Name of the TUN device.")
@click.option("--route", "routes", metavar="net", callback=_parsed(IPv4Network), multiple=True, default=["0.0.0.0/0"])
@click.option(
    "--forward",
    "forwards",
    metavar="proto/port=host:port",
    callback=_parsed(_forward),
    multiple=True,
    help="A port of our set that always leads to a LAN host, such as udp/3100=192.168.1.10:5353.",
)
@click.option("--prohibited-errors/--no-prohibited-errors", default=False, help="ICMPv4 3/13 for ports not ours.")
@click.option(
    "--when-unbound",
    type=click.Choice(["report", "exit"]),
    default="report",
    show_default=True,
    help="What to do when the lwAFTR says that it has no binding for us.",
)
def b4(**given: Any) -> None:
    """Run a lwB4: softwire on a TUN device, port-restricted NAPT by nftables. Needs root."""
    softwire, host = _softwire(given), _host(given)
    if os.geteuid() != 0:
        raise click.ClickException("the lwB4 opens a TUN device and raw sockets: run it as root")
    core = Options(mtu=given["mtu"] or 0, hop_limit=given["hop_limit"], prohibited=given["prohibited_errors"])
    try:
        require_tools()
        run(softwire, host, core, given["when_unbound"] == "exit", _report)
    except (HostError, UnboundError) as fault:
        raise click.ClickException(str(fault)) from None


def _report(line: str) -> None:
    click.echo(line)


def _softwire(given: dict[str, Any]) -> Softwire:
    try:
        ports = PortSet(given["psid_offset"], given["psid_len"], given["psid"])
    except ValueError as fault:
        raise click.UsageError(str(fault)) from None
    source = given["tunnel_source"]
    if isinstance(source, IPv6Network):
        source = tunnel_source(source, given["ipv4"], 0 if ports.whole else ports.psid)
    members = ports.members()
    for forward in given["forwards"]:
        if not members[forward.outside_port]:
            raise click.UsageError(f"--forward: port {forward.outside_port} is not in the port set")
    return Softwire(given["aftr"], source, given["ipv4"], ports)


def _host(given: dict[str, Any]) -> HostOptions:
    lans, routes, forwards = tuple(given["lans"]), tuple(given["routes"]), tuple(given["forwards"])
    return HostOptions(tun=given["tun"], lans=lans, routes=routes, forwards=forwards, wan=given["wan"])
