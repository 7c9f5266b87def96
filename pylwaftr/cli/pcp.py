"""`pylwaftr pcp`: the port sets that subscribers have asked for."""

from __future__ import annotations

import itertools
from typing import Any

import click

from pylwaftr.api.client import Client
from pylwaftr.api.plain import plain, time_text
from pylwaftr.cli import port_sets
from pylwaftr.cli.common import BAD_INPUT, counted, end
from pylwaftr.cli.connection import as_json, connected, print_json, print_rows


@click.group()
def pcp() -> None:
    """Show and end PCP mappings of a running router.

    Exit status: 0 done; 1 failed, also if PCP is switched off; 2 bad input; 3 not there.
    """


@pcp.command()
@click.option("--b4", default="", metavar="PREFIX", help="Only of this B4 or subscriber prefix.")
@click.option("--ipv4", default="", metavar="PREFIX", help="Only of this address or prefix.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@as_json
@connected
def mappings(router: Client, b4: str, ipv4: str, limit: int | None, as_json: bool) -> None:
    """List the mappings in force."""
    found = itertools.islice(router.pcp_mappings(b4, ipv4, min(limit or 1000, 1000)), limit)
    if as_json:
        for one in found:
            print_json(plain(one))
        return
    head = ("IPv4", "length", "PSID", "B4", "subscriber", "expires")
    print_rows(
        head,
        (
            (
                one.binding.ipv4,
                one.binding.psid_len,
                one.binding.psid,
                one.binding.b4_ipv6,
                one.subscriber,
                time_text(one.expires.ToNanoseconds()),
            )
            for one in found
        ),
    )


@pcp.command()
@as_json
@connected
def pools(router: Client, as_json: bool) -> None:
    """Show how full the pools are."""
    found = router.pcp_pools()
    if as_json:
        for pool in found:
            print_json(plain(pool) | {"free": _free(pool)})
        return
    head = ("pool", "length", "port sets", "used", "quarantined", "free")
    print_rows(head, ((p.ipv4, p.psid_len, p.total, p.used, p.quarantined, _free(p)) for p in found))


def _free(pool: Any) -> int:
    return max(int(pool.total - pool.used - pool.quarantined), 0)


@pcp.command()
@click.argument("ipv4", required=False, default="")
@click.option("--psid", type=click.IntRange(0, 65535), help="Of the port set of IPV4. Not given: the whole address.")
@click.option("--b4", default="", metavar="PREFIX", help="Instead: all mappings of a B4 or subscriber.")
@click.option("--dry-run", is_flag=True, help="Only tell how many there are.")
@as_json
@connected
def release(router: Client, ipv4: str, psid: int | None, b4: str, dry_run: bool, as_json: bool) -> None:
    """End mappings before their time: that of IPV4 and PSID, or all of a B4 or subscriber."""
    if bool(ipv4) == bool(b4):
        end("give either IPV4 (and --psid) or --b4", BAD_INPUT, "USAGE")
    if psid is None and not b4 and "/" not in ipv4:  # what is no address is told so
        port_sets.refuse_divided(ipv4, (one.binding for one in router.pcp_mappings(ipv4=ipv4)))
    count = router.pcp_release(ipv4, psid or 0, b4=b4, validate_only=dry_run)
    if as_json:
        print_json({"released": count, "dry_run": dry_run})
    else:
        click.echo(f"{counted(count, 'mapping')} {'would be ' if dry_run else ''}released")


@pcp.command()
@as_json
@connected
def announce(router: Client, as_json: bool) -> None:
    """Send an unsolicited ANNOUNCE into every softwire, so that all B4s ask again."""
    count = router.pcp_announce()
    if as_json:
        print_json({"softwires": count})
    else:
        click.echo(f"{counted(count, 'softwire')} will hear it")
