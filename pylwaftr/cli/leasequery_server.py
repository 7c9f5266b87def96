"""`pylwaftr leasequery-server`: DHCP leases for lwAFTRs, by bulk and active leasequery."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import click

from pylwaftr.cli.common import start_logging
from pylwaftr.cli.parsed import parsed
from pylwaftr.responder import daemon, kea
from pylwaftr.responder.database import Database
from pylwaftr.responder.server import Settings

_FILE = click.Path(dir_okay=False, path_type=Path)


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address and port; write [::]:547 or 192.0.2.1:547")
    return host.strip("[]"), int(port)


def _duid(text: str) -> bytes:
    duid = bytes.fromhex(text)
    if not 3 <= len(duid) <= 130:
        raise ValueError(f"a DUID has 3 to 130 octets; this one has {len(duid)}")
    return duid


def _link(text: str) -> tuple[IPv6Address, IPv4Network]:
    link, equals, pool = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not of the form 2001:db8:1::=198.51.100.0/24")
    return IPv6Address(link), IPv4Network(pool)


def _kea_ports(text: str) -> tuple[str, kea.Ports]:
    subnet, colon, ports = text.partition(":")
    if not colon or not subnet.isdigit():
        raise ValueError(f"{text!r} is not of the form SUBNET:OFFSET,PSID/LENGTH, such as 1:0,3/6")
    return subnet, kea.Ports.of(ports)


@click.command("leasequery-server")
@click.option("--listen", metavar="HOST:PORT", callback=parsed(_listen), default="[::]:547", show_default=True)
@click.option(
    "--listen-dhcpv4",
    "listen4",
    metavar="HOST:PORT",
    callback=parsed(_listen),
    help="Also for clients that speak DHCPv4 (RFC 6926, 7724), such as 192.0.2.1:67.",
)
@click.option(
    "--server-id", metavar="IPV4", callback=parsed(IPv4Address), help="In DHCPv4; the address of --listen-dhcpv4."
)
@click.option(
    "--br",
    metavar="IPV6",
    callback=parsed(IPv6Address),
    help="For clients that ask for softwire containers (RFC 7598).",
)
@click.option("--journal", type=_FILE, help="Lines of JSON, one per change of a lease; may grow while this runs.")
@click.option("--kea-leases", type=_FILE, help="Kea's kea-leases4.csv; may grow while this runs.")
@click.option("--kea-ports", "ports", metavar="SUBNET:OFFSET,PSID/LEN", callback=parsed(_kea_ports), multiple=True)
@click.option(
    "--kea-b4-prefix",
    metavar="PREFIX",
    callback=parsed(IPv6Network),
    help="Of tunnel addresses that Kea does not know: they are built from it (RFC 7596 section 5.1).",
)
@click.option("--print-kea-hook", is_flag=True, help="Print a script for Kea's run_script hook, and end.")
@click.option("--duid", metavar="HEX", callback=parsed(_duid), default="00020000d9fc6c71", help="Of this server.")
@click.option(
    "--link", "links", metavar="LINK=POOL", callback=parsed(_link), multiple=True, help="For queries by link."
)
@click.option("--tls-cert", type=_FILE, help="Certificate (PEM).")
@click.option("--tls-key", type=_FILE, help="Its key.")
@click.option("--tls-ca", type=_FILE, help="Clients have to show a certificate of this CA.")
@click.option("--require-tls/--allow-plaintext", default=True, show_default=True)
@click.option("--history", type=click.IntRange(1024, 1 << 26), default=1 << 20, show_default=True, help="Changes kept.")
@click.option("--max-clients", type=click.IntRange(1, 100_000), default=1000, show_default=True)
@click.option(
    "--idle", type=click.FloatRange(0.1, 3600), default=60.0, show_default=True, help="Seconds to a keep-alive."
)
@click.option("--bulk-only", is_flag=True, help="Refuse active queries, as other servers do.")
@click.option("--quiet", is_flag=True, help="Of the log only warnings.")
@click.option("--json", "as_json", is_flag=True, help="The ports that are listened on, and the log, as lines of JSON.")
def leasequery_server(**given: Any) -> None:
    """Tell lwAFTRs of DHCP leases, by bulk and active leasequery.

    Over DHCPv6 (RFC 5460, 7653) with DHCPv4 messages inside, or with softwire containers for clients that ask for them;
    over DHCPv4 (RFC 6926, 7724) where --listen-dhcpv4 says so.
    """
    if given["print_kea_hook"]:
        click.echo(kea.HOOK, nl=False)
        return
    if given["journal"] is None and given["kea_leases"] is None:
        raise click.UsageError("give --journal, --kea-leases or both: there is nothing to tell of otherwise")
    if (given["tls_cert"] is None) != (given["tls_key"] is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    if given["require_tls"] and given["tls_cert"] is None:
        raise click.UsageError("TLS is required: give --tls-cert and --tls-key, or --allow-plaintext")
    start_logging("warning" if given["quiet"] else "info", "json" if given["as_json"] else "console")
    try:
        _serve(given)
    except OSError as fault:
        raise click.ClickException(str(fault)) from None


def _tls(cert: Path | None, key: Path | None, ca: Path | None) -> ssl.SSLContext | None:
    """ssl does not say which of its files is at fault."""
    for option, file in (("--tls-cert", cert), ("--tls-key", key), ("--tls-ca", ca)):
        try:
            if file is not None:
                file.read_bytes()
        except OSError as fault:
            raise click.BadParameter(f"{file} cannot be read: {fault.strerror}", param_hint=option) from None
    if cert is None or key is None:
        return None
    try:
        return daemon.context(cert, key, ca)
    except ssl.SSLError as fault:
        files = ", ".join(str(file) for file in (cert, key, ca) if file is not None)
        why = fault.reason or "not all of it is PEM"
        raise click.UsageError(f"{files} are not a certificate, its key and a CA: {why}") from None


def _serve(given: dict[str, Any]) -> None:
    tls = _tls(given["tls_cert"], given["tls_key"], given["tls_ca"])
    links: dict[IPv6Address, tuple[IPv4Network, ...]] = {}
    for link, pool in given["links"]:
        links[link] = (*links.get(link, ()), pool)
    settings = Settings(
        given["duid"],
        tls is not None,
        given["require_tls"],
        links,
        given["idle"],
        active=not given["bulk_only"],
        br=b"" if given["br"] is None else given["br"].packed,
        server_id=_server_id(given).packed,
    )
    service = daemon.Service(Database(given["history"]), settings, tls, given["max_clients"])
    reader = kea.Leases(dict(given["ports"]), given["kea_b4_prefix"])
    at = [daemon.Listen(*given["listen"])]
    if given["listen4"] is not None:
        host, port = given["listen4"]
        at.append(daemon.Listen(host, port, native=True))
    sources = daemon.Sources(given["journal"], given["kea_leases"], reader)

    def say(ports: Sequence[int]) -> None:
        text = f"listening on port {' and '.join(map(str, ports))}"
        click.echo(json.dumps({"listening": list(ports)}) if given["as_json"] else text)

    daemon.run(service, at, sources, say)


def _server_id(given: dict[str, Any]) -> IPv4Address:
    """Option 54. Only a DHCPv4 client sees it."""
    found: IPv4Address | None = given["server_id"]
    if found is None and given["listen4"] is not None:
        try:
            found = IPv4Address(given["listen4"][0])
        except ValueError:
            found = IPv4Address(0)
        if found.is_unspecified:
            raise click.UsageError("--listen-dhcpv4 names no IPv4 address of its own: give --server-id")
    return found or IPv4Address(0)
