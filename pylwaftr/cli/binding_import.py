"""`pylwaftr bindings import | diff | replace`: a file of bindings against a running router."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pylwaftr import binding_files
from pylwaftr.api.client import ROWS_A_MESSAGE, BindingFilter, CallFailed, Client, LoadProgress
from pylwaftr.api.plain import plain
from pylwaftr.cli.common import BAD_INPUT, FAILED, NOT_THERE, counted, end, screen
from pylwaftr.cli.connection import as_json, connected, print_json
from pylwaftr.cli.faults import INTERRUPTED, CommandFault, Violation
from pylwaftr.rows import BINDING_ROW, FIELDS, Rows, describe, text4, text6

MAX_SHOWN = 100  # faults, differences; more are only counted

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@dataclass(frozen=True, slots=True)
class Read:
    rows: Rows
    lines: npt.NDArray[np.int64]
    file: Path

    def where(self, index: int) -> str:
        return f"{self.file}:{self.lines[index]}"

    def refused(self, index: int, field: str, reason: str, message: str) -> Violation:
        return Violation(field, message, str(self.file), int(self.lines[index]), reason)


def read(file: Path) -> Read:
    """All rows, or every fault on a line of its own and the end of the command. A row without BR address has none."""
    try:
        loaded = binding_files.load(file, bytes(16))
    except OSError as fault:
        end(f"{file} cannot be read: {fault.strerror or fault}", BAD_INPUT, "FILE_UNREADABLE")
    except binding_files.Unusable as fault:
        said = f"{file}:{fault.line}: {fault}"
        raise _faulty(file, said, [Violation("", str(fault), str(file), fault.line)], 1, f"pylwaftr: {said}") from None
    # Here, for it takes a while to load and `bindings ls` has no use for it.
    from pylwaftr.config.row_checks import anywhere, table_findings

    # The router's own addresses and limits are the router's to check.
    found = Read(loaded.rows, loaded.lines, file)
    faults = [(fault.line, fault.field, fault.message) for fault in loaded.faults]
    total = len(faults) + loaded.more_faults
    for finding in table_findings(found.rows, anywhere(), found.where):
        total += len(finding.rows)
        faults += [(int(found.lines[i]), finding.field, finding.message(int(i))) for i in finding.rows[:MAX_SHOWN]]
    if total:
        more = f", {total - MAX_SHOWN} are not shown" if total > MAX_SHOWN else ""
        told = [Violation(field, message, str(file), line) for line, field, message in sorted(faults)[:MAX_SHOWN]]
        raise _faulty(file, f"{file}: {counted(total, 'fault')}{more}; nothing was sent", told, total)
    return found


def _faulty(file: Path, said: str, told: list[Violation], total: int, text: str | None = None) -> CommandFault:
    metadata = {"file": str(file), "violations": str(total)}
    return CommandFault(said, BAD_INPUT, "FILE_FAULTY", violations=told, metadata=metadata, text=text)


@click.command("import")
@_FILE
@click.option("--dry-run", is_flag=True, help="Let the router check every row, and change nothing.")
@as_json
@connected
def import_file(router: Client, file: Path, dry_run: bool, as_json: bool) -> None:
    """Bind all rows of FILE: .csv, .jsonl, .json (RFC 8676), .snapshot, or .conf (Snabb's lwAFTR).

    All of it is checked, here and by the router, before anything is changed: with a fault nothing is. Other bindings
    stay. It then goes in batches: if somebody else changes bindings meanwhile, or the router's disk gets full, a batch
    may be refused all the same; then those before it are bound, and it is said how many.
    """
    _send(router, read(file), replace_all=False, dry_run=dry_run, wants_json=as_json)


@click.command()
@_FILE
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Let the router check every row, and change nothing.")
@as_json
@connected
def replace(router: Client, file: Path, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Make the operator's bindings those of FILE: bind its rows, then remove what is not there.

    Bindings that stay are not interrupted; those of other sources (config, DHCP, PCP) are not touched.
    """
    wanted = read(file)
    if not (yes or dry_run):
        if not sys.stdin.isatty():
            end(
                "without a terminal to ask, replace wants --yes (or --dry-run); bindings diff shows what changes",
                BAD_INPUT,
                "USAGE",
            )
        found = compare(wanted.rows, held(router))
        question = f"{len(found.added)} added, {len(found.changed[0])} changed, {len(found.removed)} removed. Go on?"
        click.confirm(question, abort=True, err=True)
    _send(router, wanted, replace_all=True, dry_run=dry_run, wants_json=as_json)


def _send(router: Client, wanted: Read, replace_all: bool, dry_run: bool, wants_json: bool) -> None:
    """The router checks every row before it is given the first: a file that it refuses changes nothing."""
    seen = _checked(router, wanted, replace_all)
    if not dry_run:
        seen = _loaded(router, wanted, replace_all, seen.report.revision)
    if wants_json:
        print_json({"file": str(wanted.file), "rows": seen.rows, "dry_run": dry_run} | plain(seen.report))
    else:
        done = _counts(seen)
        click.echo(f"{wanted.file}: {'would be ' if dry_run and done else ''}{done or 'nothing to do'}")


def _checked(router: Client, wanted: Read, replace_all: bool) -> LoadProgress:
    stream = _Stream(router, wanted)
    try:
        return stream.run("checking ", replace=replace_all, validate_only=True)
    except CallFailed as fault:
        stream.tell(fault)
        if not stream.refused and not fault.violations:
            raise
        said = f"{fault.message} [{fault.reason or fault.code}]"
        if stream.refused > 1:  # the reasons may differ
            some = f", of which {stream.told} are named" if stream.told < stream.refused else ""
            said = f"the router refuses {stream.refused} rows{some}"
        raise stream.fault(f"{wanted.file}: {said}; nothing was changed", fault) from None
    except KeyboardInterrupt:
        raise CommandFault(f"{wanted.file}: interrupted; nothing was changed", INTERRUPTED) from None


def _loaded(router: Client, wanted: Read, replace_all: bool, revision: int) -> LoadProgress:
    stream = _Stream(router, wanted)
    try:
        return stream.run("", replace=replace_all)
    except CallFailed as fault:
        stream.tell(fault)
        if not stream.seen.rows and not stream.refused and fault.code in ("UNAVAILABLE", "PERMISSION_DENIED"):
            raise
        done = _counts(stream.seen) or "nothing was done"
        said = f"{wanted.file}: {fault.message} [{fault.reason or fault.code}]; {done} before that"
        if stream.refused:
            said += f". All of it passed the check at revision {revision}: bindings were changed by somebody else since"
        raise stream.fault(f"{said}; what was done stays, {_again(replace_all)} to do the rest", fault) from None
    except KeyboardInterrupt:  # a message may be on its way
        done = f"{wanted.file}: interrupted; at least {_counts(stream.seen) or 'nothing'} before that"
        said = f"{done}; what was done stays, {_again(replace_all)} to do the rest"
        raise CommandFault(said, INTERRUPTED, metadata=stream.metadata()) from None


def _again(replace_all: bool) -> str:
    return "replace again" if replace_all else "import the file again"


class _Stream:
    """One passage of all rows; refused ones are told with their lines, the first MAX_SHOWN of them."""

    def __init__(self, router: Client, wanted: Read) -> None:
        self._router, self._wanted = router, wanted
        self.seen = LoadProgress()
        self.refused = 0
        self._violations: list[Violation] = []

    @property
    def told(self) -> int:
        return len(self._violations)

    def run(self, what: str, *, replace: bool, validate_only: bool = False) -> LoadProgress:
        rows = np.ascontiguousarray(self._wanted.rows, BINDING_ROW)
        pieces = (rows[at : at + ROWS_A_MESSAGE].tobytes() for at in range(0, len(rows), ROWS_A_MESSAGE))
        with _bar(len(rows), f"{what}{self._wanted.file.name}") as advance:

            def show(progress: LoadProgress) -> None:
                self.seen = progress
                advance(progress.rows)
                for one in progress.refused[: MAX_SHOWN - self.told]:
                    self._violations.append(self._wanted.refused(one.index, one.field, one.reason, one.message))
                self.refused = max(progress.refused_count, self.refused)

            return self._router.load(pieces, show, replace=replace, validate_only=validate_only)

    def tell(self, fault: CallFailed) -> None:
        """What was refused at the end of the stream, beyond its last progress: how many, and as many as fit into it."""
        if self.refused:
            return
        for path, text in fault.violations:
            index = path.removeprefix("rows[").removesuffix("]")
            if index.isdecimal():
                reason, colon, message = text.partition(": ")
                told = ("", reason, message) if colon and reason.isupper() else ("", "", text)
                self._violations.append(self._wanted.refused(int(index), *told))
        if self.told:
            self.refused = max(int(fault.metadata.get("violations", 0)), self.told)

    def fault(self, said: str, fault: CallFailed) -> CommandFault:
        """What ends the command: the API's reason, and the lines of the file."""
        reason = fault.reason or fault.code
        return CommandFault(
            said,
            FAILED,
            reason,
            code=fault.code,
            violations=self._violations,
            metadata=self.metadata() | fault.metadata,
        )

    def metadata(self) -> dict[str, str]:
        """How far it came."""
        done = {name: str(getattr(self.seen.report, name)) for name in ("added", "replaced", "removed")}
        refused = {"violations": str(self.refused)} if self.refused else {}
        return {"file": str(self._wanted.file)} | done | refused


def _counts(seen: LoadProgress) -> str:
    report = seen.report
    parts = [("added", report.added), ("replaced", report.replaced), ("unchanged", report.unchanged)]
    parts += [("removed", report.removed), ("waiting behind another source", report.outranked)]
    parts += [("rows held and not bound", seen.held)]
    return ", ".join(f"{count} {name}" for name, count in parts if count)


@contextmanager
def _bar(total: int, name: str) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = screen(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total)
        yield lambda done: progress.update(task, completed=done)


# --- differences


@dataclass(frozen=True, slots=True)
class Difference:
    """Of `wanted` against what is there: rows of `wanted`, rows that are there, and (there, wanted) pairs."""

    added: Rows
    removed: Rows
    changed: tuple[Rows, Rows]

    def __bool__(self) -> bool:
        return bool(len(self.added) or len(self.removed) or len(self.changed[0]))


def held(router: Client, source: str | None = "SOURCE_OPERATOR", ipv4: str = "", b4: str = "") -> Rows:
    """What a source has bound or wants to, in order of key. None: what is bound."""
    pieces = [
        octets
        for shadowed in ((False, True) if source is not None else (False,))
        for octets, _ in router.dump(BindingFilter(source=source, shadowed=shadowed, ipv4=ipv4, b4_ipv6=b4))
    ]
    rows = np.frombuffer(b"".join(pieces), BINDING_ROW)
    return rows[np.lexsort((rows["psid"], rows["ipv4"]))] if source is not None else rows


def compare(wanted: Rows, there: Rows) -> Difference:
    """A BR address that is not given is not compared: the router puts its own."""
    keys = [rows["ipv4"].astype(np.uint64) << np.uint64(16) | rows["psid"] for rows in (wanted, there)]
    _, of_wanted, of_there = np.intersect1d(*keys, return_indices=True)
    ours, theirs = wanted[of_wanted], there[of_there]
    same = np.ones(len(ours), np.bool_)
    for name in ("psid_len", "psid_offset"):
        same &= ours[name] == theirs[name]
    same &= (ours["b4"] == theirs["b4"]).all(1)
    same &= (ours["br"] == theirs["br"]).all(1) | ~ours["br"].any(1)
    gone = np.setdiff1d(np.arange(len(there)), of_there)
    new = np.setdiff1d(np.arange(len(wanted)), of_wanted)
    return Difference(wanted[new], there[gone], (theirs[~same], ours[~same]))


@click.command()
@_FILE
@as_json
@connected
def diff(router: Client, file: Path, as_json: bool) -> None:
    """Tell how FILE and the operator's bindings of the router differ.

    + is in FILE only, - on the router only, ~ in both and not alike. Exit status 3 if they differ.
    """
    found = compare(read(file).rows, held(router))
    if as_json:
        before, after = found.changed
        print_json(
            {
                "added": [_fields(row) for row in found.added],
                "removed": [_fields(row) for row in found.removed],
                "changed": [[_fields(row) for row in pair] for pair in zip(before, after, strict=True)],
            }
        )
    else:
        for line in _lines(found):
            click.echo(line)
    if found:
        counts = f"{len(found.added)} added, {len(found.changed[0])} changed, {len(found.removed)} removed"
        raise CommandFault(f"{file} differs from the router: {counts}", NOT_THERE, "DIFFERENT", text="")


def _lines(found: Difference) -> Iterator[str]:
    before, after = found.changed
    for sign, rows in (("+", found.added), ("-", found.removed)):
        for row in rows[:MAX_SHOWN]:
            yield f"{sign} {describe(row)} {text6(row['b4'].tobytes())}"
        if len(rows) > MAX_SHOWN:
            yield f"{sign} {len(rows) - MAX_SHOWN} more"
    for old, new in zip(before[:MAX_SHOWN], after[:MAX_SHOWN], strict=True):
        yield f"~ {describe(new)} {'; '.join(_changes(old, new))}"
    if len(before) > MAX_SHOWN:
        yield f"~ {len(before) - MAX_SHOWN} more"


def _changes(old: np.void, new: np.void) -> Iterator[str]:
    if (b4 := text6(old["b4"].tobytes())) != (other := text6(new["b4"].tobytes())):
        yield f"{b4} -> {other}"
    if any(new["br"]) and (br := text6(old["br"].tobytes())) != (other := text6(new["br"].tobytes())):
        yield f"BR {br} -> {other}"
    if (division := _division(old)) != (other := _division(new)):
        yield f"{division} -> {other}"


def _division(row: np.void) -> str:
    return f"offset {row['psid_offset']}, length {row['psid_len']}"


def _fields(row: np.void) -> dict[str, object]:
    br = row["br"].tobytes()
    numbers = {name: int(row[name]) for name in ("psid_offset", "psid_len", "psid")}
    made = {"ipv4": text4(int(row["ipv4"])), **numbers, "b4_ipv6": text6(row["b4"].tobytes())}
    return {name: (made | {"br_ipv6": text6(br) if any(br) else None})[name] for name in FIELDS}
