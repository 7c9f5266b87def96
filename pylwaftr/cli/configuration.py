"""Reading the configuration. Commands that only ask a running router do without: the reader takes a while to load."""

from __future__ import annotations

import sys

import click

from pylwaftr.cli.common import BAD_INPUT
from pylwaftr.config import Config, ConfigFaults, load


def loaded(path: str) -> Config:
    """The validated configuration; its faults, one a line, end the command."""
    try:
        config = load(path)
    except ConfigFaults as faulty:
        for fault in faulty.faults:
            click.echo(str(fault), err=True)
        sys.exit(BAD_INPUT)
    for warning in config.warnings:
        click.echo(str(warning), err=True)
    return config
