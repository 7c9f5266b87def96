"""`pylwaftr leasequery`: the DHCP servers whose leases become bindings."""

from __future__ import annotations

from typing import Any

import click

from pylwaftr.api.client import Client
from pylwaftr.api.plain import plain, time_text
from pylwaftr.cli.common import counted
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
    head = ("server", "state", "leases", "conflicts", "quarantined", "lag", "queued", "synchronised", "last fault")
    print_rows(
        head,
        (
            (
                one.name,
                one.state,
                one.leases,
                one.conflicts,
                one.quarantined,
                f"{one.lag.ToNanoseconds() / 1e9:.3f} s",
                one.queued,
                time_text(one.synchronised.ToNanoseconds()) if one.HasField("synchronised") else "never",
                _fault(one),
            )
            for one in found
        ),
    )


def _fault(one: Any) -> str:
    return f"{time_text(one.last_fault_time.ToNanoseconds())} {one.last_fault}" if one.last_fault else "-"


@leasequery.command()
@click.option("--from", "server_name_", metavar="SERVER", default="", help="Only what this server told.")
@click.option("--ipv4", default="", metavar="PREFIX", help="Only leases of this address or prefix.")
@click.option("--b4", default="", metavar="PREFIX", help="Only leases of this B4 or prefix.")
@click.option("--kept-out", is_flag=True, help="Only active leases that are not bound.")
@as_json
@connected
def leases(router: Client, server_name_: str, ipv4: str, b4: str, kept_out: bool, as_json: bool) -> None:
    """Show leases as the servers told of them, and what has become of each.

    The last column says it: bound; absent (on its way to the table, refused by it, or unbound by an operator); ended;
    overdue; other_server, other_division (a newer lease has its place); other_source (the configuration or an operator
    has its key); subscriber_limit, no_b4, bad_b4, own_address, outside_pools, psid_offset (quarantined).
    """
    found = router.leases(server_name_, ipv4=ipv4, b4=b4, kept_out=kept_out)
    if as_json:
        for lease in found:
            print_json(plain(lease))
        return
    head = ("server", "ipv4", "psid", "psid_len", "offset", "b4", "client", "state", "expires", "standing")
    print_rows(
        head,
        (
            (
                one.name,
                one.ipv4,
                one.psid,
                one.psid_len,
                one.psid_offset,
                one.b4_ipv6 or "-",
                one.client_id.hex() or "-",
                one.state.lower(),
                time_text(one.expires.ToNanoseconds()) if one.HasField("expires") else "-",
                one.standing,
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


@leasequery.command()
@click.argument("server_name_", metavar="SERVER")
@click.option("--dry-run", is_flag=True, help="Only tell how many there are.")
@as_json
@connected
def drop(router: Client, server_name_: str, dry_run: bool, as_json: bool) -> None:
    """Remove all that SERVER told of, and ask it for all anew.

    What is bound for its sake alone is unbound at once, so traffic stops until the server has told of it again. For a
    server that told wrong things; `resync` takes nothing away that is right. If SERVER is the only one, what was bound
    before a restart goes too; with several, that stays until all have told what they have.
    """
    count = router.drop_leases(server_name_, validate_only=dry_run)
    if as_json:
        print_json({"dropped": count, "dry_run": dry_run})
    else:
        click.echo(f"{counted(count, 'lease')} {'would be ' if dry_run else ''}dropped")
