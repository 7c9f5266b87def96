"""Faults of a configuration: each with file, line, path and remedy, collected so that all are shown at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One line of `check-config`: `file:line: path: what is wrong and what to do`."""

    file: str
    line: int
    path: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        mark = "warning: " if self.warning else ""
        line = f"{self.file}:{self.line}: {self.path}: {mark}{self.message}"
        # Names in it come from files: a line end or an escape sequence in one must not reach the terminal.
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class ConfigFaults(Exception):
    """The configuration cannot be used; `faults` holds every error and every warning, in the order of the lines."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    @property
    def errors(self) -> tuple[Fault, ...]:
        return tuple(fault for fault in self.faults if not fault.warning)

    @property
    def warnings(self) -> tuple[Fault, ...]:
        return tuple(fault for fault in self.faults if fault.warning)


class Report:
    """Collects faults while a file is read, and remembers on which line each path stands."""

    def __init__(self, file: str, folder: Path) -> None:
        self.file = file
        self.folder = folder  # where relative file names start
        self._faults: list[Fault] = []
        self._lines: dict[str, int] = {}
        self._failed: set[str] = set()

    def mark(self, path: str, line: int) -> None:
        self._lines[path] = line

    def line(self, path: str) -> int:
        """The line of a path, or of the nearest thing around it that is written in the file."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = _parent(path)
        return self._lines.get("", 1)

    def error(self, path: str, message: str, line: int | None = None) -> None:
        self._add(path, message, line, warning=False)
        self.spoil(path)

    def spoil(self, path: str) -> None:
        """Note that a path has a fault without adding one."""
        while path not in self._failed:  # a fault in an item also spoils what holds the item
            self._failed.add(path)
            path = _parent(path)

    def warn(self, path: str, message: str, line: int | None = None) -> None:
        self._add(path, message, line, warning=True)

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def _add(self, path: str, message: str, line: int | None, warning: bool) -> None:
        self._faults.append(Fault(self.file, self.line(path) if line is None else line, path, message, warning))

    def sound(self, *paths: str) -> bool:
        """False when something at or below one of the paths was refused: follow-up checks would only mislead."""
        return not any(path in self._failed for path in paths)

    def faults(self) -> tuple[Fault, ...]:
        """In the order of the configuration file's lines; faults of other files come after."""
        return tuple(sorted(set(self._faults), key=lambda fault: (fault.file != self.file, fault)))


def _parent(path: str) -> str:
    return path[: max(path.rfind("."), path.rfind("["), 0)]
