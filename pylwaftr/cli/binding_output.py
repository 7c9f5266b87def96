"""Bindings into a file of the user's choice, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import click

from pylwaftr import binding_files
from pylwaftr.binding_files import Instance
from pylwaftr.cli.common import BAD_INPUT, FAILED, counted, end
from pylwaftr.cli.connection import print_json
from pylwaftr.rows import Rows

FORMATS = (".csv", ".jsonl", ".json", ".snapshot")


def check(file: Path) -> None:
    """Before the work for it is done. Ends the command if there cannot be such a file."""
    if file.suffix.lower() not in FORMATS:
        end(f"{file.name}: the name tells no format; name it {binding_files.SUFFIXES}", BAD_INPUT, "USAGE")
    if not file.parent.is_dir():
        end(f"{file}: there is no folder {file.parent}", FAILED, "FILE_UNWRITABLE")


def save(file: Path, rows: Rows, payload_mtu: int, path_mru: int, as_json: bool) -> None:
    """The two sizes are those that RFC 8676 wants beside the bindings; other forms have no place for them."""
    instance = Instance(max(len(rows), 1), payload_mtu, path_mru) if file.suffix.lower() == ".json" else None
    try:
        binding_files.save(file, rows, instance)
    except ValueError as fault:
        end(str(fault), BAD_INPUT, "USAGE")
    except OSError as fault:
        end(f"{file}: {fault.strerror or fault}", FAILED, "FILE_UNWRITABLE")
    if as_json:
        print_json({"file": str(file), "bindings": len(rows)})
    else:
        click.echo(f"{file}: {counted(len(rows), 'binding')}")
