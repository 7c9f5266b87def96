"""Typed reading of YAML nodes: a Kind turns one node into a value or refuses it; a Section reads a mapping's keys."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pylwaftr.config.faults import Report
from pylwaftr.config.nodes import Listing, Mapping, Node, Scalar

T = TypeVar("T")
D = TypeVar("D")

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0[xX][0-9a-fA-F]+", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?", re.ASCII)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+|0o[0-7]+", re.ASCII)
_YAML_11_BOOLEANS = ("yes", "no", "on", "off", "y", "n")


class Refused(Exception):
    """This node is not what its place asks for; the text says what is wrong and what to write."""


class Skip(Refused):
    """The faults are noted already; the value only has to go."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A node, where it stands, and where its faults go."""

    node: Node
    path: str
    report: Report
    line: int  # that of the key, for the value of a key


Kind = Callable[[Spot], T]


def is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain and node.text in ("", "~", "null", "Null", "NULL")


def shown(node: Node) -> str:
    """A node as a fault names it."""
    if isinstance(node, Listing):
        return "a list"
    if isinstance(node, Mapping):
        return "a mapping"
    if is_null(node):
        return "nothing (null)"
    text = node.text if len(node.text) <= 60 else node.text[:57] + "..."
    return repr(text) if node.plain else f"the string {text!r}"


def _plain_scalar(spot: Spot, wanted: str) -> str:
    node = spot.node
    if not isinstance(node, Scalar) or not node.plain or is_null(node):
        raise Refused(f"is {shown(node)}; write {wanted}{_unquote(node)}")
    return node.text


def _unquote(node: Node) -> str:
    return " without quotes" if isinstance(node, Scalar) and not node.plain else ""


def boolean(spot: Spot) -> bool:
    text = _plain_scalar(spot, "true or false")
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    meant = " (yes and no, on and off mean different things in YAML 1.1 and 1.2)"
    raise Refused(f"is {text!r}; write true or false{meant if text.lower() in _YAML_11_BOOLEANS else ''}")


def integer(low: int, high: int) -> Kind[int]:
    def read(spot: Spot) -> int:
        text = _plain_scalar(spot, f"a whole number from {low} to {high}")
        if _LEADING_ZERO.fullmatch(text):
            raise Refused(f"is {text!r}; a leading zero is octal in YAML 1.1: write it in decimal or as 0x..")
        if not _INTEGER.fullmatch(text):
            raise Refused(f"is {text!r}; write a whole number from {low} to {high}")
        # 20 digits are beyond every range here, and int() of very many raises
        value = int(text, 16 if text[:2] in ("0x", "0X") else 10) if len(text) <= 20 else high + 1
        if not low <= value <= high:
            raise Refused(f"is {text[:24]}; the range is {low} to {high}")
        return value

    return read


def number(low: float, high: float) -> Kind[float]:
    def read(spot: Spot) -> float:
        text = _plain_scalar(spot, f"a number from {low:g} to {high:g}")
        if len(text) > 30 or not _NUMBER.fullmatch(text) or not low <= float(text) <= high:
            raise Refused(f"is {text[:30]!r}; write a number from {low:g} to {high:g}")
        return float(text)

    return read


def text(spot: Spot) -> str:
    node = spot.node
    if not isinstance(node, Scalar) or is_null(node) or not node.text.strip():
        raise Refused(f"is {shown(node)}; write a string")
    return node.text


def file_path(spot: Spot) -> Path:
    """Relative names start at the folder of the configuration."""
    name = text(spot)
    try:
        if not name.isprintable():
            raise RuntimeError("a file name of printable characters is wanted")
        return spot.report.folder / Path(name).expanduser()
    except RuntimeError as fault:  # also: the home of nobody
        raise Refused(f"is {name[:60]!a}: {fault}") from None


def parsed(parse: Callable[[str], T]) -> Kind[T]:
    """A string that `parse` understands; its ValueError is the fault's text."""

    def read(spot: Spot) -> T:
        try:
            return parse(text(spot))
        except ValueError as fault:
            raise Refused(str(fault)) from None

    return read


def one_of(*words: str) -> Kind[str]:
    def read(spot: Spot) -> str:
        node = spot.node
        if isinstance(node, Scalar) and not is_null(node) and node.text in words:
            return node.text
        raise Refused(f"is {shown(node)}; write {_alternatives(words)}{_near(node, words)}")

    return read


def word_or(words: dict[str, D], kind: Kind[T], otherwise: str) -> Kind[D | T]:
    """One of the words, or what `kind` reads; `otherwise` describes that in a fault about something else."""

    def read(spot: Spot) -> D | T:
        node = spot.node
        if not isinstance(node, Scalar):
            return kind(spot)
        if node.text in words and not is_null(node):
            return words[node.text]
        if is_null(node) or node.text[:1].isalpha():
            raise Refused(f"is {shown(node)}; write {_alternatives([*words, otherwise])}{_near(node, tuple(words))}")
        return kind(spot)

    return read


def maybe(kind: Kind[T]) -> Kind[T | None]:
    def read(spot: Spot) -> T | None:
        return None if is_null(spot.node) else kind(spot)

    return read


def listing(kind: Kind[T], at_least: int = 0) -> Kind[tuple[T, ...]]:
    """Each bad item is its own fault; the good ones are kept. Null is the empty list."""

    def read(spot: Spot) -> tuple[T, ...]:
        node = spot.node
        if not isinstance(node, Listing) and not is_null(node):
            raise Refused(f"is {shown(node)}; write a list, such as [a, b]")
        nodes = node.items if isinstance(node, Listing) else []
        if len(nodes) < at_least:
            raise Refused("is empty; give at least one")
        good: list[T] = []
        for index, item in enumerate(nodes):
            convert(Spot(item, f"{spot.path}[{index}]", spot.report, item.line), kind, good.append)
        return tuple(good)

    return read


def convert(spot: Spot, kind: Kind[T], accept: Callable[[T], object]) -> None:
    """Hand what `kind` reads to `accept`, or note the fault."""
    spot.report.mark(spot.path, spot.line)
    try:
        accept(kind(spot))
    except Skip:
        pass
    except Refused as fault:
        spot.report.error(spot.path, str(fault))


def section(read: "Callable[[Section], T]") -> Kind[T]:
    """A mapping whose keys `read` asks for one by one; what it did not ask for is unknown."""

    def run(spot: Spot) -> T:
        at = Section(spot)
        value = read(at)
        at.finish()
        return value

    return run


class Section:
    """A mapping being read. Null counts as the empty mapping, as when all its keys are commented out."""

    def __init__(self, spot: Spot) -> None:
        self.path = spot.path
        self.line = spot.line
        self.report = spot.report
        self._asked: list[str] = []
        self._keys: dict[str, tuple[int, Node]] = {}
        if isinstance(spot.node, Mapping):
            self._take(spot.node)
        elif not is_null(spot.node):
            raise Refused(f"is {shown(spot.node)}; write a mapping of keys and values")

    def _take(self, mapping: Mapping) -> None:
        for key, value in mapping.pairs:
            if not isinstance(key, Scalar):
                self.report.error(self.path or "file", f"{shown(key)} cannot be a key", key.line)
            elif key.text in self._keys:
                first = self._keys[key.text][0]
                self.report.error(
                    self.at(_clip(key.text)), f"given twice; the first is on line {first}: remove one", key.line
                )
            else:
                self._keys[key.text] = key.line, value

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def names(self) -> tuple[str, ...]:
        return tuple(self._keys)

    def has(self, key: str) -> bool:
        return key in self._keys and not is_null(self._keys[key][1])

    def get(self, key: str, kind: Kind[T], default: D) -> T | D:
        self._asked.append(key)
        if key not in self._keys:
            return default
        line, node = self._keys[key]
        values: list[T] = []
        convert(Spot(node, self.at(key), self.report, line), kind, values.append)
        return values[0] if values else default

    def required(self, key: str, kind: Kind[T], stand_in: T, hint: str) -> T:
        """`stand_in` keeps the reading going after a fault; such a configuration is never returned."""
        if key not in self._keys:
            self.report.error(self.at(key), f"is required; {hint}", self.line)
        return self.get(key, kind, stand_in)

    def section(self, key: str, read: "Callable[[Section], T]") -> T:
        """A section that is there even when it is not written: all its defaults then hold."""
        line, nothing = self.line, Mapping(self.line)
        scratch = Spot(nothing, self.at(key), Report(self.report.file, self.report.folder), line)
        if key not in self._keys:
            self._asked.append(key)
            return section(read)(Spot(nothing, self.at(key), self.report, line))
        return self.get(key, section(read), None) or read(Section(scratch))

    def finish(self) -> None:
        for key, (line, _) in self._keys.items():
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, n=1, cutoff=0.6)
                remedy = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(self._asked)}"
                self.report.error(self.at(_clip(key)), f"is not a key of the configuration; {remedy}", line)


def _clip(key: str) -> str:
    if not key.strip():
        return repr(key[:60])
    return key if len(key) <= 60 else f"{key[:57]}..."


def _alternatives(words: "tuple[str, ...] | list[str]") -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _near(node: Node, words: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(node.text, words, n=1, cutoff=0.6) if isinstance(node, Scalar) else []
    return f" (did you mean {near[0]}?)" if near else ""
