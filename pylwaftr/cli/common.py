"""What several commands share: logging, ending with one sentence."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, NoReturn

from pylwaftr.cli.faults import BAD_INPUT, FAILED, NOT_THERE, CommandFault, Violation

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["BAD_INPUT", "FAILED", "NOT_THERE", "counted", "end", "screen", "start_logging"]


def end(message: str, status: int, reason: str = "", field: str = "") -> NoReturn:
    """`field`: the option or argument that is wrong."""
    raise CommandFault(message, status, reason, violations=[Violation(field, message)] if field else ())


def screen(*, stderr: bool = False, width: int | None = None) -> Console:
    """Shows text as it is: `:100:` and `[x]` are parts of addresses and of names of files."""
    from rich.console import Console  # here, for most commands have no use for it

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": self.formatTime(record), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def start_logging(level: str, style: str) -> None:
    """`style`: console | json."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonLines() if style == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
