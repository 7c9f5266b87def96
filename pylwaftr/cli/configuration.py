"""Reading the configuration. Commands that only ask a running router do without: the reader takes a while to load."""

from __future__ import annotations

from collections.abc import Iterable

import click

from pylwaftr.cli.common import BAD_INPUT, counted
from pylwaftr.cli.faults import CommandFault, Violation, warn
from pylwaftr.config import Config, ConfigFaults, Fault, load


def loaded(path: str) -> Config:
    """The validated configuration; its faults, one a line, end the command."""
    try:
        config = load(path)
    except ConfigFaults as faulty:
        raise faulty_settings(path, faulty.faults) from None
    as_json = bool(click.get_current_context().params.get("as_json"))
    for warning in config.warnings:
        warn(violation(warning), as_json)
    return config


def violation(fault: Fault) -> Violation:
    return Violation(fault.path, fault.message, fault.file, fault.line)


def faulty_settings(path: str, faults: Iterable[Fault]) -> CommandFault:
    """People are shown each fault and warning; of the object the faults are the violations."""
    told = list(faults)
    wrong = [violation(fault) for fault in told if not fault.warning]
    return CommandFault(
        f"{path}: {counted(len(wrong), 'fault')}",
        BAD_INPUT,
        "SETTINGS_FAULTY",
        violations=wrong,
        metadata={"file": path, "violations": str(len(wrong))},
        text="\n".join(map(str, told)),
    )
