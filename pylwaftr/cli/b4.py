"""`pylwaftr b4`: the reference lwB4."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import click

from ..b4.core import Options
from ..b4.daemon import PcpPlan, Plan, UnboundError, run
from ..b4.dhcp_options import Option, learned
from ..b4.host import HostError, HostOptions, Lan, require_tools
from ..b4.nft import Forward
from ..b4.proxy import ProxyOptions
from ..b4.softwire import PortSet, tunnel_source
from .parsed import parsed


def _source(text: str) -> IPv6Address | IPv6Network | str:
    if text == "auto":
        return text
    try:
        return IPv6Network(text) if "/" in text else IPv6Address(text)
    except ValueError as fault:
        raise ValueError(f"{text!r} is no IPv6 address, no prefix and not auto ({fault})") from None


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


def _dhcp_option(text: str) -> Option:
    """86=20010db8…"""
    code, equals, octets = text.partition("=")
    if not equals or not code.strip().isdecimal():
        raise ValueError(f"{text!r} is not of the form CODE=HEX, such as 64=0461667472076578616d706c6500")
    try:
        return int(code), bytes.fromhex(octets.replace(":", "").removeprefix("0x"))
    except ValueError:
        raise ValueError(f"{text!r}: {octets!r} are no octets in hexadecimal form") from None


@click.command()
@click.option("--aftr", metavar="IPV6|name", help="Of the lwAFTR; default: the name that DHCPv6 gave (option 64).")
@click.option(
    "--dhcp6",
    metavar="CODE=HEX",
    callback=parsed(_dhcp_option),
    multiple=True,
    help="An option that DHCPv6 gave: 64 the lwAFTR's name, 86 a PCP server; all others are ignored.",
)
@click.option(
    "--dhcp4",
    metavar="CODE=HEX",
    callback=parsed(_dhcp_option),
    multiple=True,
    help="The same of DHCPv4: 158 PCP servers.",
)
@click.option(
    "--tunnel-source",
    metavar="address|prefix|auto",
    callback=parsed(_source),
    required=True,
    help="Our tunnel address; or a prefix, from which it is built (RFC 7596 section 5.1); or the system's choice.",
)
@click.option("--ipv4", metavar="IPV4", callback=parsed(IPv4Address), help="Our public IPv4 address, without --pcp.")
@click.option("--psid-len", type=click.IntRange(0, 16), default=0, show_default=True, help="k; 0: not shared.")
@click.option("--psid-offset", type=click.IntRange(0, 16), default=0, show_default=True, help="a")
@click.option("--psid", type=click.IntRange(0, 65535), default=0, show_default=True)
@click.option("--pcp", is_flag=True, help="Ask the lwAFTR for address and ports (RFC 6887, RFC 7753).")
@click.option("--pcp-lifetime", type=click.IntRange(120, 86400), default=7200, show_default=True, help="Asked for, s.")
@click.option("--pcp-sets", type=click.IntRange(1, 16), default=1, show_default=True, help="Port sets, at most.")
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for nonce and last set; without it the lwAFTR may refuse us for a while after a restart.",
)
@click.option("--lan-pcp/--no-lan-pcp", default=True, show_default=True, help="Serve PCP to the LAN; needs --pcp.")
@click.option(
    "--reserve",
    type=click.IntRange(0, 32768),
    default=256,
    show_default=True,
    help="Ports for mappings that LAN hosts ask for; half of the set at most.",
)
@click.option("--mtu", type=click.IntRange(1280, 65535), help="Of the IPv6 path; default: as the kernel knows it.")
@click.option("--hop-limit", type=click.IntRange(1, 255), default=64, show_default=True)
@click.option("--lan", "lans", metavar="iface[/addr/len]", callback=parsed(_lan), multiple=True, help="LAN interface.")
@click.option("--wan", help="Interface that is given the tunnel source address while this runs.")
@click.option("--tun", default="lw4o6", show_default=True, help="Name of the TUN device.")
@click.option("--route", "routes", metavar="net", callback=parsed(IPv4Network), multiple=True, default=["0.0.0.0/0"])
@click.option(
    "--forward",
    "forwards",
    metavar="proto/port=host:port",
    callback=parsed(_forward),
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
@click.option("--json", "as_json", is_flag=True, help="Lines of JSON: time and message of what is reported.")
def b4(**given: Any) -> None:
    """Run a lwB4: softwire on a TUN device, port-restricted NAPT by nftables. Needs root."""
    plan, remarks = _plan(given)
    report = _report_json if given["as_json"] else _report
    if os.geteuid() != 0:
        raise click.ClickException("the lwB4 opens a TUN device and raw sockets: run it as root")
    try:
        require_tools()
        for remark in remarks:
            report(remark)
        run(plan, report)
    except (HostError, UnboundError) as fault:
        raise click.ClickException(str(fault)) from None


def _report(line: str) -> None:
    click.echo(line)


def _report_json(line: str) -> None:
    click.echo(json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "message": line}))


def _plan(given: dict[str, Any]) -> tuple[Plan, tuple[str, ...]]:
    """And what there is to say about it."""
    if given["pcp"] == (given["ipv4"] is not None):
        raise click.UsageError("give --pcp, or else --ipv4 with its port set")
    told = learned(given["dhcp6"], given["dhcp4"])
    aftr = given["aftr"] or told.aftr
    if aftr is None:
        why = "".join(f"; {remark}" for remark in told.remarks)
        raise click.UsageError(f"give --aftr, or --dhcp6 64=… with the lwAFTR's name{why}")
    lans, routes, forwards = tuple(given["lans"]), tuple(given["routes"]), tuple(given["forwards"])
    host = HostOptions(tun=given["tun"], lans=lans, routes=routes, forwards=forwards, wan=given["wan"])
    core = Options(mtu=given["mtu"] or 0, hop_limit=given["hop_limit"], prohibited=given["prohibited_errors"])
    unbound = given["when_unbound"] == "exit"
    if not given["pcp"]:
        ports = _ports(given)
        own = _own_address(given, ports)
        return Plan(aftr, own, host, core, (given["ipv4"], ports), None, unbound), told.remarks
    lan = ProxyOptions(reserve=given["reserve"]) if given["lan_pcp"] and lans else None
    pcp = PcpPlan(given["pcp_lifetime"], given["pcp_sets"], given["state"], lan)
    if told.server:
        pcp = replace(pcp, server=told.server)
        core = replace(core, pcp_servers=frozenset(address.packed for address in told.server))
    return Plan(aftr, _own_address(given, None), host, core, None, pcp, unbound), told.remarks


def _ports(given: dict[str, Any]) -> PortSet:
    try:
        ports = PortSet(given["psid_offset"], given["psid_len"], given["psid"])
    except ValueError as fault:
        raise click.UsageError(str(fault)) from None
    members = ports.members()
    for forward in given["forwards"]:
        if not members[forward.outside_port]:
            raise click.UsageError(f"--forward: port {forward.outside_port} is not in the port set")
    return ports


def _own_address(given: dict[str, Any], ports: PortSet | None) -> IPv6Address | None:
    """With PCP address and ports are not known yet, so the first address of the prefix has to do."""
    source: IPv6Address | IPv6Network | str = given["tunnel_source"]
    if isinstance(source, str):
        if given["wan"]:
            raise click.UsageError("--wan gives an interface the address that --tunnel-source names; auto names none")
        return None
    if isinstance(source, IPv6Address):
        return source
    if ports is None:
        return source[1] if source.prefixlen < 128 else source.network_address
    return tunnel_source(source, given["ipv4"], 0 if ports.whole else ports.psid)
