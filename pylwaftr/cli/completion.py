"""`pylwaftr completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    bash: `pylwaftr completion bash > /etc/bash_completion.d/pylwaftr`, or `eval "$(pylwaftr completion bash)"`.
    """
    from pylwaftr.cli.main import main

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(main, {}, "pylwaftr", "_PYLWAFTR_COMPLETE").source())
