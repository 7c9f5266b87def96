"""`pylwaftr`: the group of all commands. Each lives in its file, which is loaded when it is called."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

import pylwaftr
from pylwaftr.cli import faults

# gRPC's own lines, such as of each failed handshake, are in no format and name nobody; what matters we say ourselves.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class Command(NamedTuple):
    module: str
    attribute: str
    help: str


COMMANDS = {
    "run": Command("pylwaftr.cli.run", "run", "Run the router."),
    "bindings": Command("pylwaftr.cli.bindings", "bindings", "The binding table of a running router; import, export."),
    "lookup": Command("pylwaftr.cli.lookup", "lookup", "Who has an address and port; what has a B4."),
    "history": Command("pylwaftr.cli.history", "history", "Who held an address and port when."),
    "counters": Command("pylwaftr.cli.router_counters", "counters", "The counters of a running router."),
    "top": Command("pylwaftr.cli.router_counters", "top", "A running router, live."),
    "health": Command("pylwaftr.cli.health", "health", "Whether a running router serves."),
    "reload": Command("pylwaftr.cli.reload", "reload", "Let a running router take its configuration anew."),
    "pcp": Command("pylwaftr.cli.pcp", "pcp", "PCP mappings and pools of a running router."),
    "leasequery-server": Command(
        "pylwaftr.cli.leasequery_server", "leasequery_server", "Tell lwAFTRs of DHCP leases (RFC 7653)."
    ),
    "leasequery": Command("pylwaftr.cli.leasequery", "leasequery", "DHCP servers that a running router asks."),
    "replay": Command("pylwaftr.cli.replay", "replay", "Send pcap files through the router and keep what comes out."),
    "explain": Command("pylwaftr.cli.explain", "explain", "Tell why packets are forwarded, or why not."),
    "capture": Command("pylwaftr.cli.capture", "capture", "Write what a running router receives and sends to a file."),
    "check-config": Command("pylwaftr.cli.check_config", "check_config", "Validate a configuration and explain it."),
    "b4": Command("pylwaftr.cli.b4", "b4", "Run the reference lwB4."),
    "b4-storm": Command("pylwaftr.cli.b4_storm", "b4_storm", "Run very many simulated lwB4s."),
    "gen-bindings": Command("pylwaftr.cli.gen_bindings", "gen_bindings", "Make a file of bindings from a plan."),
    "bench": Command("pylwaftr.cli.bench", "bench", "Measure forwarding, look-ups and updates on this machine."),
    "completion": Command("pylwaftr.cli.completion", "completion", "Completion for bash, zsh or fish."),
}


class LazyGroup(click.Group):
    """--help needs no command's module: it would load numpy, DPDK and all the rest."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As a program: what goes wrong in any command is told in one place, and becomes the exit status."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        words = sys.argv[1:] if args is None else list(args)
        with faults.told(faults.wants_json(words)):
            super().main(args, prog_name, complete_var, False, **extra)
        sys.exit(0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, command in COMMANDS.items() if importlib.util.find_spec(command.module) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = COMMANDS[cmd_name]
        loaded = getattr(importlib.import_module(command.module), command.attribute)
        assert isinstance(loaded, click.Command)
        return loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].help) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pylwaftr.__version__, prog_name="pylwaftr")
def main() -> None:
    """A lightweight 4over6 border router (lwAFTR, RFC 7596) on DPDK.

    Exit status: 0 done, 1 failed at run time, 2 bad input (configuration, files, usage), 3 not there or different,
    130 Ctrl-C. With --json the last line of standard error is then one JSON object: error, with reason and message.
    """
