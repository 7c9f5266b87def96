"""The binding table in a configuration of Snabb's lwAFTR, to move from there: only `binding-table` is read.

The text is that of its YANG modules, `leaf value;` and `container { … }` with // and /* */ comments:

    softwire-config {                       since snabb-softwire-v2
      binding-table {
        softwire { ipv4 203.0.113.5; psid 33; b4-ipv6 2001:db8:1::1; br-address 2001:db8:aa::1;
                   port-set { psid-length 6; reserved-ports-bit-count 0; } } } }

    binding-table {                         snabb-softwire-v1
      psid-map { addr 203.0.113.0; end-addr 203.0.113.9; psid-length 6; shift 10; }
      br-address 2001:db8:aa::1;
      softwire { ipv4 203.0.113.5; psid 33; b4-ipv6 2001:db8:1::1; br 0; } }
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pylwaftr import addresses
from pylwaftr.binding_files.json_tables import collect
from pylwaftr.binding_files.records import MISSING, Collector, Loaded, Unusable, number_in_text

# Where each field of a binding is written.
LEAVES = {
    "ipv4": "ipv4",
    "psid": "psid",
    "psid_len": "psid-length",
    "psid_offset": "reserved-ports-bit-count",
    "b4_ipv6": "b4-ipv6",
    "br_ipv6": "br-address",
}
_KNOWN = frozenset(("ipv4", "psid", "b4-ipv6", "br-address", "br", "padding", "port-set", ""))

_SPACE = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[{};]|(?!/\*)[^\s{};"\']+')
# How Snabb itself writes a softwire: leaves and at most one block, without comments and quotations.
_PLAIN = re.compile(r"softwire\s*\{([^{}\"'/]*)(?:port-set\s*\{([^{}\"'/]*)\}([^{}\"'/]*))?\}")
_LEAF = re.compile(r"([\w-]+)\s+([^\s;]+)\s*;\s*")

_NO_END = "ends within a block: a } is missing; is all of the file there?"

Node = dict[str, Any]  # leaf -> text; list or container -> list of nodes; "" -> its line


def read(data: bytes, default_br: bytes) -> Loaded:
    """Raises Unusable."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise Unusable("is not UTF-8 text", data.count(b"\n", 0, fault.start) + 1) from None
    collector = Collector(default_br, LEAVES)
    collect(_softwires(_Parser(text), collector), collector)
    return collector.loaded()


class _Parser:
    """Statements one after the other; a table of a million is never all in memory as nodes."""

    def __init__(self, text: str) -> None:
        self._text, self._position = text, 0
        self._counted, self._line = 0, 1

    @property
    def line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._line

    def _skip_space(self) -> None:
        self._position = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]  # it matches everywhere

    def token(self) -> str | None:
        self._skip_space()
        found = _TOKEN.match(self._text, self._position)
        if found is None:
            if self._position < len(self._text):
                raise Unusable("has a quotation or comment without an end", self.line)
            return None
        self._position = found.end()
        return found[0].strip("\"'")

    def plain_softwire(self) -> tuple[int, Node] | None:
        """The next statement, if it is a softwire in its usual form: a table has a million."""
        self._skip_space()
        found = _PLAIN.match(self._text, self._position)
        if found is None:
            return None
        outer = found[1] + (found[3] or "")
        if _LEAF.sub("", outer).strip() or _LEAF.sub("", found[2] or "").strip():
            return None
        line, self._position = self.line, found.end()
        node: Node = dict(_LEAF.findall(outer))
        if found[2] is not None:
            node["port-set"] = [dict(_LEAF.findall(found[2]))]
        return line, node

    def statement(self, within: bool = True) -> tuple[str, str | None] | None:
        """(name, value), (name, None) in front of its block, or None at }. Not `within` a block, the end may come."""
        name = self.token()
        if name is None and within:
            raise Unusable(_NO_END, self.line)
        if name is None or name == "}":
            return None
        value = self.token()
        if name in "{;" or value is None or value == "}":
            raise Unusable(f"has a statement that is none near {name!r}", self.line)
        if value == "{":
            return name, None
        if value == ";":
            return name, ""
        last = self.token()
        if last == "{":
            return name, None  # a list whose key stands before its block
        if last != ";":
            raise Unusable(f"{name} {value}: expected ; behind it", self.line)
        return name, value

    def skip(self) -> None:
        """The rest of a block."""
        depth = 1
        while depth:
            token = self.token()
            if token is None:
                raise Unusable(_NO_END, self.line)
            depth += (token == "{") - (token == "}")

    def node(self) -> Node:
        """The rest of a block, as a whole."""
        made: Node = {"": self.line}
        while (found := self.statement()) is not None:
            name, value = found
            if value is None:
                made.setdefault(name, []).append(self.node())
            else:
                made[name] = value
        return made


@dataclass(slots=True)
class _Old:
    """What snabb-softwire-v1 keeps beside its softwires."""

    brs: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    maps: list[tuple[int, int, int]] = field(default_factory=list)  # last address, length, offset

    def add(self, node: Node) -> None:
        try:
            first = int(addresses.ipv4(node["addr"]))
            last = int(addresses.ipv4(node.get("end-addr") or node["addr"]))
            length = int(node["psid-length"])
            offset = (
                16 - length - int(node["shift"]) if "shift" in node else int(node.get("reserved-ports-bit-count", 0))
            )
        except KeyError as missing:
            raise Unusable(f"has a psid-map without {missing.args[0]}", node[""]) from None
        except ValueError as fault:
            raise Unusable(f"has a psid-map that is none: {fault}", node[""]) from None
        at = bisect_right(self.starts, first)
        self.starts.insert(at, first)
        self.maps.insert(at, (last, length, offset))

    def of(self, ipv4: str) -> tuple[int, int] | None:
        """Length and offset of the address."""
        try:
            address = int(addresses.ipv4(ipv4))
        except ValueError:
            return 0, 0  # the address itself will be refused
        at = bisect_right(self.starts, address) - 1
        if at < 0 or self.maps[at][0] < address:
            return None
        return self.maps[at][1:]


def _softwires(parser: _Parser, collector: Collector) -> Iterator[tuple[int, Node]]:
    while (found := parser.statement(within=False)) is not None:
        if found == ("softwire-config", None):
            continue  # the table is within
        if found == ("binding-table", None):
            yield from _table(parser, collector)
            return
        if found[1] is None:
            parser.skip()
    raise Unusable("has no binding-table; expected a configuration of Snabb's lwAFTR")


def _table(parser: _Parser, collector: Collector) -> Iterator[tuple[int, Node]]:
    old = _Old()
    waiting: list[tuple[int, Node]] = []  # their port sets are in a psid-map, maybe further down
    while True:
        if (plain := parser.plain_softwire()) is not None:
            line, node = plain
            if "port-set" in node:
                yield line, _record(node, line, collector)
            else:
                waiting.append(plain)
            continue
        found = parser.statement()
        if found is None:
            break
        line = parser.line
        match found:
            case ("softwire", None):
                node = parser.node()
                if "port-set" in node:
                    yield line, _record(node, line, collector)
                else:
                    waiting.append((line, node))
            case ("psid-map", None):
                old.add(parser.node())
            case ("br-address", str(address)):
                old.brs.append(address)
            case (_, None):
                parser.skip()
    for line, node in waiting:
        if (record := _old_record(node, line, old, collector)) is not None:
            yield line, record


def _record(node: Node, line: int, collector: Collector) -> Node:
    port_set = node["port-set"][0] if isinstance(node["port-set"], list) else {}
    for name in node.keys() - _KNOWN:
        collector.fault(line, name[:40], "is no leaf of a softwire")
    return {
        "ipv4": node.get("ipv4"),
        # All are mandatory in the module: what is missing must not become a whole address.
        "psid": _number(node.get("psid", MISSING)),
        "psid_len": _number(port_set.get("psid-length", MISSING)),
        "psid_offset": _number(port_set.get("reserved-ports-bit-count", "0")),
        "b4_ipv6": node.get("b4-ipv6"),
        "br_ipv6": node.get("br-address"),
    }


def _number(text: str) -> object:
    return int(text) if text.isdecimal() and len(text) < 6 else number_in_text(text)


def _old_record(node: Node, line: int, old: _Old, collector: Collector) -> Node | None:
    shared = old.of(node.get("ipv4", ""))
    if shared is None:
        collector.fault(line, "ipv4", f"{node.get('ipv4')} is in no psid-map, and the softwire has no port-set")
        return None
    index = node.get("br", "")
    if old.brs and not (index.isdecimal() and int(index) < len(old.brs)):
        collector.fault(line, "br", f"is {index or 'missing'}; there are {len(old.brs)} of br-address, counted from 0")
        return None
    port_set = {"psid-length": str(shared[0]), "reserved-ports-bit-count": str(shared[1])}
    whole = {"br-address": old.brs[int(index)]} if old.brs else {}
    return _record(node | {"port-set": [port_set]} | whole, line, collector)
