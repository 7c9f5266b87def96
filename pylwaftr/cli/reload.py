"""`pylwaftr reload`: a running router takes its configuration file anew."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from pylwaftr.api.client import CallFailed, Client, SettingsPlan
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
            text = file.read_text() or "\n"  # "" is the file of the router
        except (OSError, ValueError) as fault:
            end(f"{file} cannot be read: {getattr(fault, 'strerror', None) or fault}", BAD_INPUT)
    try:
        planned = router.diff_settings(text)
    except CallFailed as fault:
        _faulty(fault)
    stuck = [one.path for one in planned.differences if one.needs_restart]
    if not as_json:
        _show(planned)
    if dry_run:
        if as_json:
            print_json({"dry_run": True, "applied": []} | plain(planned))
        elif planned.differences:
            click.echo(f"{counted(len(planned.differences), 'difference')}; nothing was applied")
        else:
            click.echo("nothing differs")
        if stuck:
            end(f"only a restart can change {', '.join(stuck)}", FAILED)
        return
    try:
        done = router.apply_settings(text, etag=planned.etag)
    except CallFailed as fault:
        if as_json and fault.reason == "RESTART_NEEDED":
            print_json({"dry_run": False, "applied": []} | plain(planned))
        _faulty(fault)
    if as_json:
        print_json({"dry_run": False, "differences": plain(planned)["differences"]} | plain(done))
    elif not planned.differences:
        click.echo("nothing differs")
    else:
        click.echo(f"{counted(len(done.applied), 'difference')} applied")


def _show(planned: SettingsPlan) -> None:
    for one in planned.differences:
        restart = "   (needs a restart)" if one.needs_restart else ""
        click.echo(f"{one.path}: {one.before or 'nothing'} -> {one.after or 'nothing'}{restart}")
    for warning in planned.warnings:
        click.echo(f"{warning.file}:{warning.line}: {warning.path}: warning: {warning.message}", err=True)


def _faulty(fault: CallFailed) -> NoReturn:
    if fault.reason != "SETTINGS_FAULTY":
        raise fault
    for path, text in fault.violations:
        place, colon, message = text.partition(": ")  # file:line
        click.echo(f"{place}: {path}: {message}" if colon and path else text, err=True)
    end(f"{counted(len(fault.violations), 'fault')}; nothing was applied", BAD_INPUT)
