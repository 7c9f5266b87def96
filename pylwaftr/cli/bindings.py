"""`pylwaftr bindings`: the binding table of a running router, one by one and whole."""

from __future__ import annotations

import itertools
from pathlib import Path

import click

from pylwaftr.api.client import Binding, BindingFilter, Client, Source
from pylwaftr.api.plain import plain
from pylwaftr.cli import binding_output, port_sets
from pylwaftr.cli.binding_import import diff, held, import_file, replace
from pylwaftr.cli.common import BAD_INPUT, end
from pylwaftr.cli.connection import as_json, connected, print_json, print_rows

SOURCES = ("config", "operator", "dhcp", "pcp")
HEAD = ("IPv4", "offset", "length", "PSID", "B4", "BR", "source")


@click.group()
def bindings() -> None:
    """List, change, import and export the bindings of a running router.

    Exit status: 0 done; 1 failed; 2 bad input; 3 not there, or different (diff).
    """


bindings.add_command(import_file)
bindings.add_command(diff)
bindings.add_command(replace)


def _cells(one: Binding) -> tuple[object, ...]:
    source = Source.Name(one.source).removeprefix("SOURCE_").lower()
    return one.ipv4, one.psid_offset, one.psid_len, one.psid, one.b4_ipv6, one.br_ipv6, source


def filtered(ipv4: str, b4: str, source: str | None, shadowed: bool = False) -> BindingFilter:
    return BindingFilter(ipv4=ipv4, b4_ipv6=b4, source=_named(source), shadowed=shadowed)


def _named(source: str | None) -> str | None:
    return f"SOURCE_{source.upper()}" if source is not None else None


def _print_one(one: Binding, wants_json: bool) -> None:
    if wants_json:
        print_json(plain(one))
        return
    ports = ", ".join(f"{part.first}-{part.last}" for part in itertools.islice(one.ports, 8))
    more = f" and {len(one.ports) - 8} more ranges" if len(one.ports) > 8 else ""
    names = ("address", "offset", "length", "PSID", "B4", "BR", "source")
    for name, value in (*zip(names, _cells(one), strict=True), ("ports", ports + more), ("etag", one.etag)):
        click.echo(f"{name:<8} {value}")
    if one.waits:
        click.echo(f"{'waits':<8} behind a source that goes first: it forwards nothing until that one goes")


@bindings.command()
@click.option("--ipv4", default="", metavar="PREFIX", help="Only of this address or prefix.")
@click.option("--b4", default="", metavar="PREFIX", help="Only of this B4 or subscriber prefix.")
@click.option("--source", type=click.Choice(SOURCES), help="Only of this source.")
@click.option("--shadowed", is_flag=True, help="Instead those that wait behind a source that goes first.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@as_json
@connected
def ls(
    router: Client, ipv4: str, b4: str, source: str | None, shadowed: bool, limit: int | None, as_json: bool
) -> None:
    """List bindings."""
    found = itertools.islice(router.bindings(filtered(ipv4, b4, source, shadowed), min(limit or 1000, 1000)), limit)
    if as_json:
        for one in found:
            print_json({name: value for name, value in plain(one).items() if name != "ports"})
        return
    print_rows(HEAD, (_cells(one) for one in found))


@bindings.command()
@click.argument("ipv4")
@click.option("--psid", type=click.IntRange(0, 65535), help="Not given: the whole address.")
@click.option("--source", type=click.Choice(SOURCES), help="What this source wants there, though it may wait.")
@as_json
@connected
def get(router: Client, ipv4: str, psid: int | None, source: str | None, as_json: bool) -> None:
    """Show one binding, with its ports and its etag. Of an address that is divided into port sets --psid names one."""
    of = _named(source)
    _print_one(port_sets.whole(router, ipv4, of) if psid is None else router.get(ipv4, psid, source=of), as_json)


@bindings.command()
@click.argument("ipv4")
@click.option("--b4", required=True, metavar="ADDRESS", help="Of the B4; from a prefix the address is built.")
@click.option("--br", default="", metavar="ADDRESS", help="Not given: the first of softwire.br_addresses.")
@click.option("--psid", type=click.IntRange(0, 65535), help="Which of the port sets; with --psid-len.")
@click.option("--psid-len", type=click.IntRange(0, 16), default=0, help="Not given: the whole address.")
@click.option("--psid-offset", type=click.IntRange(0, 15), default=0, show_default=True)
@click.option("--replace", "replacing", is_flag=True, help="Also if the port set is bound.")
@click.option("--etag", default="", help="Only while the binding is in this state; with --replace.")
@click.option("--dry-run", is_flag=True, help="Only say whether it could be done.")
@as_json
@connected
def add(
    router: Client,
    ipv4: str,
    b4: str,
    br: str,
    psid: int | None,
    psid_len: int,
    psid_offset: int,
    replacing: bool,
    etag: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bind an address or a set of its ports to a B4."""
    if etag and not replacing:
        end("--etag goes with --replace", BAD_INPUT, "USAGE")
    if psid is None and psid_len:
        end(f"--psid-len {psid_len} divides the address: give --psid, 0 to {(1 << psid_len) - 1}", BAD_INPUT, "USAGE")
    wanted = Binding(
        ipv4=ipv4, psid=psid or 0, psid_len=psid_len, psid_offset=psid_offset if psid_len else 0, b4_ipv6=b4, br_ipv6=br
    )
    if replacing:
        made = router.update(wanted, etag=etag, allow_missing=not etag, validate_only=dry_run)
    else:
        made = router.create(wanted, validate_only=dry_run)
    _print_one(made, as_json)


@bindings.command()
@click.argument("ipv4")
@click.option("--psid", type=click.IntRange(0, 65535), help="Not given: the whole address.")
@click.option("--etag", default="", help="Only while the binding is in this state.")
@click.option("--dry-run", is_flag=True, help="Only say whether it could be done.")
@as_json
@connected
def rm(router: Client, ipv4: str, psid: int | None, etag: str, dry_run: bool, as_json: bool) -> None:
    """Remove a binding. Of an address that is divided into port sets --psid has to name one."""
    if psid is None:
        seen = port_sets.removable(router, ipv4)
        etag = etag or seen  # it may be divided before it is removed
    revision = router.delete(ipv4, psid or 0, etag=etag, validate_only=dry_run)
    if as_json:
        print_json({"ipv4": ipv4, "psid": psid or 0, "revision": revision, "dry_run": dry_run})


@bindings.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--ipv4", default="", metavar="PREFIX", help="Only of this address or prefix.")
@click.option("--b4", default="", metavar="PREFIX", help="Only of this B4 or subscriber prefix.")
@click.option("--source", type=click.Choice(SOURCES), help="Only of this source, and also what of it waits.")
@click.option("--payload-mtu", type=click.IntRange(576, 65535), default=1460, show_default=True, help="For RFC 8676.")
@click.option("--path-mru", type=click.IntRange(1280, 65535), default=1500, show_default=True, help="For RFC 8676.")
@as_json
@connected
def export(
    router: Client,
    file: Path,
    ipv4: str,
    b4: str,
    source: str | None,
    payload_mtu: int,
    path_mru: int,
    as_json: bool,
) -> None:
    """Write the bindings to FILE: .csv, .jsonl, .json (RFC 8676) or .snapshot.

    FILE is replaced as a whole or not at all. Without --source it has the bindings of all sources; those that import,
    diff and replace are about are those of --source operator.
    """
    binding_output.check(file)
    binding_output.save(file, held(router, _named(source), ipv4, b4), payload_mtu, path_mru, as_json)
