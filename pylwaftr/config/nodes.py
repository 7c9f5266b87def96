"""YAML text to a tree whose every node knows its line.

PyYAML reads the syntax; this file only stacks its events. Scalars stay text: YAML 1.1 would turn 02:00:00:00:04:01
into a sexagesimal number, 010 into eight and `no` into false, and the kind of a value is known only where it is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 24  # the contract needs 6


@dataclass(frozen=True, slots=True)
class Scalar:
    text: str
    plain: bool  # written without quotes
    line: int


@dataclass(frozen=True, slots=True)
class Listing:
    line: int
    items: "list[Node]" = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Mapping:
    line: int
    pairs: "list[tuple[Node, Node]]" = field(default_factory=list)


Node = Scalar | Listing | Mapping


class SyntaxFault(Exception):
    def __init__(self, line: int, message: str) -> None:
        self.line = line
        self.message = message
        super().__init__(f"{line}: {message}")


def compose(text: str) -> Node | None:
    """The one document of the text; None when there is none. Raises SyntaxFault."""
    try:
        return _Stack().run(_events(text))
    except yaml.MarkedYAMLError as fault:
        raise _worded(fault, text) from None
    except yaml.reader.ReaderError as fault:
        line = text.count("\n", 0, max(fault.position, 0)) + 1
        raise SyntaxFault(line, f"the character {fault.character!r} is not allowed in YAML") from None
    except yaml.YAMLError as fault:
        raise SyntaxFault(1, " ".join(str(fault).split())) from None


def line_of(text: str, path: str) -> int:
    """Where a key of a sound document is written, `softwire.br_addresses`, or what is around it."""
    node, line = compose(text), 1
    for name in path.split("."):
        pairs = node.pairs if isinstance(node, Mapping) else []
        found = [(key, value) for key, value in pairs if isinstance(key, Scalar) and key.text == name]
        if not found:
            break
        line, node = found[0][0].line, found[0][1]
    return line


def _worded(fault: yaml.MarkedYAMLError, text: str) -> SyntaxFault:
    mark = fault.problem_mark or fault.context_mark
    line = min(mark.line, len(text.splitlines()) - 1) + 1 if mark else 1
    message = ", ".join(part for part in (fault.context, fault.problem) if part) or "not YAML"
    if fault.context_mark and fault.context_mark.line + 1 != line:
        message += f" (begun on line {fault.context_mark.line + 1})"
    if "mapping values" in message:
        message += '; a value that begins or ends with a colon needs quotes, such as "::1"'
    return SyntaxFault(max(line, 1), message)


def _events(text: str) -> Iterator[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return iter(yaml.parse(text, Loader=loader))


class _Stack:
    """Open collections, innermost last; `keys` holds the key that waits for its value in each mapping."""

    def __init__(self) -> None:
        self.open: list[tuple[Listing | Mapping, str | None]] = []
        self.keys: list[Node | None] = []
        self.anchors: dict[str, Node] = {}
        self.root: Node | None = None

    def run(self, events: Iterator[Any]) -> Node | None:
        documents = 0
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise SyntaxFault(line, "a second YAML document; a configuration is one document")
            elif isinstance(event, yaml.ScalarEvent):
                _refuse_tag(event, line)
                self._place(Scalar(event.value, bool(event.implicit[0]), line), event.anchor, line)
            elif isinstance(event, yaml.AliasEvent):
                self._place(self._anchored(event.anchor, line), None, line)
            elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
                _refuse_tag(event, line)
                self._enter(event, line)
            elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                node, anchor = self.open.pop()
                self.keys.pop()
                self._place(node, anchor, line)
        return self.root

    def _enter(self, event: Any, line: int) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise SyntaxFault(line, f"nested deeper than {MAX_DEPTH} levels")
        node: Listing | Mapping = Listing(line) if isinstance(event, yaml.SequenceStartEvent) else Mapping(line)
        self.open.append((node, event.anchor))
        self.keys.append(None)

    def _anchored(self, anchor: str | None, line: int) -> Node:
        # An anchor counts once its node is complete, so nothing can contain itself.
        node = None if anchor is None else self.anchors.get(anchor)
        if node is None:
            raise SyntaxFault(line, f"alias *{anchor}: no complete node before it has the anchor &{anchor}")
        return node

    def _place(self, node: Node, anchor: str | None, line: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.open:
            self.root = node
            return
        parent, _ = self.open[-1]
        if isinstance(parent, Listing):
            parent.items.append(node)
            return
        key = self.keys[-1]
        if key is None:
            self.keys[-1] = node
        else:
            parent.pairs.append((key, node))
            self.keys[-1] = None


def _refuse_tag(event: Any, line: int) -> None:
    if event.tag is not None:
        raise SyntaxFault(line, f"the tag {event.tag} is not used here; remove it")
