"""`pylwaftr reload`: a running router takes its configuration file anew."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from pylwaftr.api.client import CallFailed, Client, SettingsPlan
from pylwaftr.api.plain import plain
from pylwaftr.cli.common import BAD_INPUT, FAILED, counted, end
from pylwaftr.cli.connection import as_json, connected, print_json
from pylwaftr.cli.faults import CommandFault, Violation, warn


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
            text = file.read_text("utf-8-sig") or "\n"  # "" is the file of the router
        except (OSError, ValueError) as fault:
            end(f"{file} cannot be read: {getattr(fault, 'strerror', None) or fault}", BAD_INPUT, "FILE_UNREADABLE")
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
            end(f"only a restart can change {', '.join(stuck)}", FAILED, "RESTART_NEEDED")
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
        warn(Violation(warning.path, warning.message, warning.file, warning.line), False)


def _faulty(fault: CallFailed) -> NoReturn:
    if fault.reason != "SETTINGS_FAULTY":
        raise fault
    total = int(fault.metadata.get("violations", len(fault.violations)))  # a trailer has no room for very many
    more = f", {total - len(fault.violations)} are not shown" if total > len(fault.violations) else ""
    raise CommandFault(
        f"{counted(total, 'fault')}{more}; nothing was applied",
        BAD_INPUT,
        fault.reason,
        code=fault.code,
        violations=[_placed(path, text) for path, text in fault.violations],
        metadata=fault.metadata,
    )


def _placed(path: str, text: str) -> Violation:
    """The API's text begins with file:line."""
    place, _, message = text.partition(": ")
    file, _, line = place.rpartition(":")
    return Violation(path, message, file, int(line)) if line.isdecimal() else Violation(path, text)
