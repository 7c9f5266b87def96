"""How a command fails: a sentence for people, with --json one object for programs, and the exit status.

The object is the last line of standard error: {"error": {reason, code, exit_status, message, violations, metadata}}.
Every status but 0 has one; lines before it may be warnings ({"warning": …}) and a log.
"""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click

FAILED, BAD_INPUT, NOT_THERE, INTERRUPTED = 1, 2, 3, 130

# What a command finds out by itself: reason -> code, in gRPC's words. What the API refuses has its own (docs/api.md).
REASONS = {
    "USAGE": "INVALID_ARGUMENT",
    "INVALID_FIELD": "INVALID_ARGUMENT",
    "PSID_NEEDED": "INVALID_ARGUMENT",
    "FILE_UNREADABLE": "INVALID_ARGUMENT",
    "FILE_FAULTY": "INVALID_ARGUMENT",
    "SETTINGS_FAULTY": "INVALID_ARGUMENT",
    "BAD_INPUT": "INVALID_ARGUMENT",
    "NOT_FOUND": "NOT_FOUND",
    "UNREACHABLE": "UNAVAILABLE",
    "NOT_SERVING": "UNAVAILABLE",
    "START_FAILED": "FAILED_PRECONDITION",
    "RESTART_NEEDED": "FAILED_PRECONDITION",
    "CAPTURE_REFUSED": "FAILED_PRECONDITION",
    "FILE_UNWRITABLE": "FAILED_PRECONDITION",
    "DIFFERENT": "FAILED_PRECONDITION",
    "INTERRUPTED": "CANCELLED",
    "FAILED": "UNKNOWN",
    "INTERNAL": "INTERNAL",
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # for standard output
_BY_STATUS = {FAILED: "FAILED", BAD_INPUT: "BAD_INPUT", NOT_THERE: "NOT_FOUND", INTERRUPTED: "INTERRUPTED"}


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong: of what, and where if it is in a file."""

    field: str
    message: str
    file: str = ""
    line: int = 0
    reason: str = ""

    def __str__(self) -> str:
        what = f"{self.field or self.reason}: " if self.field or self.reason else ""
        return f"{self.file}:{self.line}: {what}{self.message}" if self.file else f"  {what}{self.message}"

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value or name in ("field", "message")}


class CommandFault(click.ClickException):
    """Ends the command. `text`: what people are shown instead of the violations and `pylwaftr: message`; "": nothing,
    for what is wrong has been told already. `marked`: its reason is one of docs/api.md, and shown to people too."""

    def __init__(
        self,
        message: str,
        status: int,
        reason: str = "",
        *,
        code: str = "",
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, str] | None = None,
        text: str | None = None,
        marked: bool = False,
    ) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click has it of a class, and reads it of an instance
        self.reason = reason or _BY_STATUS.get(status, "FAILED")
        self.code = code or REASONS[self.reason]
        self.violations, self.metadata, self.text = tuple(violations), dict(metadata or {}), text
        self.marked = marked

    def lines(self) -> Iterator[str]:
        if self.text is not None:
            yield from self.text.splitlines()
            return
        placed = [one for one in self.violations if one.file]
        bare = [one for one in self.violations if not one.file]
        yield from map(str, placed)
        yield f"pylwaftr: {self.message}" + (f" [{self.reason}]" if self.marked else "")
        if len(bare) > 1:  # the message of a single one is its text
            yield from map(str, bare)

    def show(self, file: Any = None) -> None:
        for line in self.lines():
            click.echo(printable(line), file=file, err=True)


def printable(text: str) -> str:
    """Words come from files and arguments: an escape sequence in one must not reach the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def warn(warning: Violation, wants_json: bool) -> None:
    """`file:line: field: warning: …`, or a line of JSON."""
    if wants_json:
        _emit({"warning": warning.as_json()})
        return
    field = f"{warning.field}: " if warning.field else ""
    where = (
        f"{warning.file}:{warning.line}: " if warning.line else f"pylwaftr: {warning.file}{': ' * bool(warning.file)}"
    )
    click.echo(printable(f"{where}{field}warning: {warning.message}"), err=True)


def wants_json(words: Sequence[str]) -> bool:
    """Also if the command cannot make sense of its words. What is behind -- is not for us."""
    return "--json" in (words[: words.index("--")] if "--" in words else words)


@contextmanager
def told(as_json: bool) -> Iterator[None]:
    """Around a whole command: what it ends with is told, and becomes the exit status."""
    try:
        yield
    except click.Abort as fault:
        stopped = isinstance(fault.__cause__ or fault.__context__, KeyboardInterrupt)  # a question hides its cause
        said = "interrupted" if stopped else "not confirmed; nothing was done"
        _end(
            CommandFault(said, INTERRUPTED if stopped else FAILED, "INTERRUPTED", text="" if stopped else None), as_json
        )
    except click.ClickException as fault:
        _end(fault, as_json)
    except OSError as fault:
        if fault.filename is not None or fault.errno not in _NO_ROOM:
            _crash(fault, as_json)
        _end(CommandFault(f"cannot print: {fault.strerror}", FAILED, "FILE_UNWRITABLE"), as_json)
    except UnicodeEncodeError as fault:  # octets of the command line that are no text
        if fault.reason != "surrogates not allowed":
            _crash(fault, as_json)
        _end(CommandFault(f"{fault.object!r} is not UTF-8; only names of files may be that", BAD_INPUT), as_json)
    except Exception as fault:
        _crash(fault, as_json)


def _crash(fault: Exception, as_json: bool) -> None:
    """A fault of the program: Python prints its trace."""
    if not as_json:
        raise fault
    told = CommandFault(f"a fault of pylwaftr: {type(fault).__name__}: {fault}", FAILED, "INTERNAL")
    _emit({"error": _fields(told) | {"trace": "".join(traceback.format_exception(fault))}})
    sys.exit(FAILED)


def _end(fault: click.ClickException, as_json: bool) -> None:
    if as_json:
        _emit({"error": _fields(fault)})
    else:
        fault.show()
    sys.exit(fault.exit_code)


def _emit(told: dict[str, Any]) -> None:
    click.echo(json.dumps(told), err=True)


def _fields(fault: click.ClickException) -> dict[str, Any]:
    if not isinstance(fault, CommandFault):
        fault = _of_click(fault)
    return {
        "reason": fault.reason,
        "code": fault.code,
        "exit_status": fault.exit_code,
        "message": fault.message,
        "violations": [one.as_json() for one in fault.violations],
        "metadata": fault.metadata,
    }


def _of_click(fault: click.ClickException) -> CommandFault:
    """Its own: words that a command cannot make sense of."""
    if not isinstance(fault, click.UsageError):
        return CommandFault(fault.format_message(), fault.exit_code)
    hint = getattr(fault, "param_hint", None) or getattr(fault, "option_name", None)
    parameter = getattr(fault, "param", None)
    if hint is None and parameter is not None:
        hint = parameter.get_error_hint(fault.ctx)
    field = (" / ".join(hint) if isinstance(hint, (list, tuple)) else str(hint)).strip("'") if hint else ""
    said = fault.format_message() or "give a command or its arguments; --help tells which"
    violations = [Violation(field, fault.message or said)] if field else []
    command = fault.ctx.command_path if fault.ctx is not None else ""
    return CommandFault(
        said, fault.exit_code, "USAGE", violations=violations, metadata={"command": command} if command else {}
    )
