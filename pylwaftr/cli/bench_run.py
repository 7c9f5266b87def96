"""What the commands of `pylwaftr bench` do with a plan: measure it in a process of its own, and show the document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from pylwaftr.bench import plan, plot, report, runner
from pylwaftr.cli.common import BAD_INPUT, FAILED, end


def run_plan(wanted: plan.Plan, as_json: bool, picture: Path | None) -> dict[str, Any]:
    """Measures and shows. The document."""
    pyplot = None
    notes = Console(stderr=True, highlight=False)
    try:
        if picture is not None:
            if (reason := plot.obstacle(picture)) is not None:
                end(reason, BAD_INPUT)
            pyplot = plot.library()
        with notes.status("starting") as status:
            document = runner.run(wanted, status.update)
    except runner.RunFault as fault:
        end(str(fault), BAD_INPUT if fault.bad_input else FAILED)
    except plot.PlotFault as fault:
        end(str(fault), FAILED)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        screen = Console()
        screen.width = max(screen.width, report.WIDTH)  # a narrow terminal wraps lines: better than cut numbers
        report.show(document, screen)
    if picture is not None:
        plot.draw(document, picture, pyplot)
        notes.print(f"picture: {picture}")
    return document
