"""`pylwaftr reload`: a running router takes its configuration file anew."""

from __future__ import annotations

from pathlib import Path

import click

from pylwaftr.api.client import CallFailed, Client
from pylwaftr.api.plain import plain
from pylwaftr.cli.common import BAD_INPUT, FAILED, counted, end
from pylwaftr.cli.connection import as_json, connected, print_json


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@as_json
@connected
def reload(router: Client, file: Path | None, dry_run: bool, as_json: bool) -> None:
    """Let the router read its configuration file again; with FILE, that of the router is replaced by it first.

    What changes is shown. All of it is applied without losing a packet, or, if one part needs a restart, nothing.
    Exit status: 0 applied, 1 refused or failed, 2 the configuration is faulty.
    """
    text = ""
    if file is not None:
        try:
            text = file.read_text()
        except (OSError, ValueError) as fault:
            end(f"{file} cannot be read: {getattr(fault, 'strerror', None) or fault}", BAD_INPUT)
    try:
        planned = router.diff_settings(text)
        if not as_json:
            for one in planned.differences:
                restart = "   (needs a restart)" if one.needs_restart else ""
                click.echo(f"{one.path}: {one.before or 'nothing'} -> {one.after or 'nothing'}{restart}")
        done = router.apply_settings(text, etag=planned.etag, validate_only=dry_run)
    except CallFailed as fault:
        if fault.reason != "SETTINGS_FAULTY":
            raise
        for path, text in fault.violations:
            place, colon, message = text.partition(": ")  # file:line
            click.echo(f"{place}: {path}: {message}" if colon and path else text, err=True)
        end(f"{counted(len(fault.violations), 'fault')}; nothing was applied", BAD_INPUT)
    stuck = [one.path for one in planned.differences if one.needs_restart]
    if as_json:
        print_json({"dry_run": dry_run} | plain(done))
    elif not planned.differences:
        click.echo("nothing differs")
    elif dry_run:
        click.echo(f"{counted(len(planned.differences), 'difference')}; nothing was applied")
    else:
        click.echo(f"{counted(len(done.applied), 'difference')} applied")
    if stuck and dry_run:
        end(f"only a restart can change {', '.join(stuck)}", FAILED)
