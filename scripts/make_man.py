"""Manual pages of all commands, from what they say of themselves: `scripts/make_man.py FOLDER` writes pylwaftr*.1."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pylwaftr
from pylwaftr.cli.main import main


def escaped(text: str) -> str:
    """For roff: no control lines, no escapes, real hyphens."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def page(name: str, command: click.Command, parent: click.Context | None) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    full = "-".join(context.command_path.split())
    lines = [f'.TH "{full.upper()}" 1 "" "pylwaftr {pylwaftr.__version__}" "User Commands"']
    lines += [".SH NAME", escaped(f"{full} - {command.get_short_help_str(200).rstrip('.')}")]
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines += [".SH SYNOPSIS", escaped(usage)]
    lines += [".SH DESCRIPTION", *_paragraphs(command.help or "")]
    lines += list(_options(command, context))
    lines += [".SH EXIT STATUS", escaped(_exit_status())]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            assert found is not None
            lines += [".TP", rf"\fB{escaped(full)}\-{escaped(sub)}\fR(1)", escaped(found.get_short_help_str(200))]
    elif parent is not None:
        lines += [".SH SEE ALSO", rf"\fB{escaped('-'.join(parent.command_path.split()))}\fR(1)"]
    return "\n".join(lines) + "\n"


def _exit_status() -> str:
    """Of every command, as the program's own help has it."""
    text = " ".join((main.help or "").split())
    return text[text.index("Exit status: ") + len("Exit status: ") :]


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.replace("\b", "").strip()):
        yield ".PP"
        yield escaped(" ".join(paragraph.split()))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    yield ".SH OPTIONS"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield ".TP"
            yield rf"\fB{escaped(record[0])}\fR"
            yield escaped(" ".join(record[1].split())) or r"\&"


def pages(name: str, command: click.Command, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """(file name, text) of the command and all below it."""
    context = click.Context(command, info_name=name, parent=parent)
    yield "-".join(context.command_path.split()) + ".1", page(name, command, parent)
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            assert found is not None
            yield from pages(sub, found, context)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pages go, such as build/man/man1")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in pages("pylwaftr", main):
        (folder / file).write_text(text)
