"""`pylwaftr check-config`: validate a configuration and say what it would do."""

import json

import click

from pylwaftr import config
from pylwaftr.cli.configuration import faulty_settings, violation
from pylwaftr.cli.faults import warn
from pylwaftr.config import summary


@click.command("check-config")
@click.option("-c", "--config", "option", metavar="CONFIG", type=click.Path(), help="The configuration file.")
@click.argument("argument", metavar="[CONFIG]", required=False, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: valid, faults, summary.")
def check_config(option: str | None, argument: str | None, as_json: bool) -> None:
    """Validate CONFIG and explain what it would do; nothing is started.

    Every fault is one line `file:line: path: what is wrong and what to do` on standard error, the explanation goes to
    standard output. Exit status: 0 valid (warnings do not fail), 2 not valid.
    """
    if (option is None) == (argument is None):
        raise click.UsageError("give one configuration file, as -c CONFIG or as the argument")
    path = option or argument or ""
    try:
        checked = config.load(path)
    except config.ConfigFaults as faulty:
        if as_json:
            _print(faulty.faults, None)
        raise faulty_settings(path, faulty.faults) from None
    if as_json:
        _print(checked.warnings, checked)
        return
    for warning in checked.warnings:
        warn(violation(warning), False)
    for line in summary.lines(checked):
        click.echo(line)


def _print(faults: tuple[config.Fault, ...], checked: config.Config | None) -> None:
    answer = {
        "valid": checked is not None,
        "faults": [
            {
                "file": fault.file,
                "line": fault.line,
                "path": fault.path,
                "message": fault.message,
                "severity": "warning" if fault.warning else "error",
            }
            for fault in faults
        ],
        "summary": None if checked is None else summary.facts(checked),
    }
    click.echo(json.dumps(answer, indent=2))
