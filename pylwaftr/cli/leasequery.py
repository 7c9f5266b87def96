"""`pylwaftr leasequery`: the DHCP servers whose leases become bindings."""

from __future__ import annotations

import click

from pylwaftr.api.client import Client
from pylwaftr.api.plain import plain, time_text
from pylwaftr.cli.connection import as_json, connected, print_json, print_rows


@click.group()
def leasequery() -> None:
    """Show and renew what a running router knows of DHCP leases.

    Exit status: 0 done; 1 failed, also if no server is configured; 2 bad input; 3 no such server.
    """


@leasequery.command()
@as_json
@connected
def status(router: Client, as_json: bool) -> None:
    """Show every server: state, leases, how far behind."""
    found = router.lease_sources()
    if as_json:
        for source in found:
            print_json(plain(source))
        return
    head = ("server", "state", "leases", "conflicts", "lag", "queued", "synchronised", "last fault")
    print_rows(
        head,
        (
            (
                one.name,
                one.state,
                one.leases,
                one.conflicts,
                f"{one.lag.ToNanoseconds() / 1e9:.3f} s",
                one.queued,
                time_text(one.synchronised.ToNanoseconds()) if one.HasField("synchronised") else "never",
                one.last_fault or "-",
            )
            for one in found
        ),
    )


@leasequery.command()
@click.argument("server_name_", metavar="[SERVER]", required=False, default="")
@as_json
@connected
def resync(router: Client, server_name_: str, as_json: bool) -> None:
    """Ask SERVER, or all servers, for all leases anew; forwarding goes on with what is known."""
    names = router.resync(server_name_)
    if as_json:
        print_json({"asked": names})
    else:
        click.echo(f"asked: {', '.join(names)}")
