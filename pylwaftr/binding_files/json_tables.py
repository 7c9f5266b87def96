"""JSON: one object a line (jsonl) with the field names of bindings.entries, and the tables of RFC 8676."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pylwaftr.binding_files import columns
from pylwaftr.binding_files.columns import Flags
from pylwaftr.binding_files.records import CHUNK, Chunk, Collector, Loaded, Unusable
from pylwaftr.rows import FIELDS

_KNOWN = frozenset(FIELDS)
_SPACE = re.compile(r"[ \t\r\n]*")
_ENTRIES = re.compile(r'"binding-entry"\s*:\s*\[')
_DECODER = json.JSONDecoder()

# Where RFC 8676 has what: field, leaf.
LEAVES = {
    "ipv4": "binding-ipv4-addr",
    "psid_offset": "psid-offset",
    "psid_len": "psid-len",
    "psid": "psid",
    "b4_ipv6": "binding-ipv6info",
    "br_ipv6": "br-ipv6-addr",
}


def read_jsonl(data: bytes, default_br: bytes) -> Loaded:
    collector = Collector(default_br)
    collect(_lines(_text(data), collector), collector)
    return collector.loaded()


def read_rfc8676(data: bytes, default_br: bytes) -> Loaded:
    collector = Collector(default_br, LEAVES)
    collect(_entries(_text(data), collector), collector)
    return collector.loaded()


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise Unusable("is not UTF-8 text", data.count(b"\n", 0, fault.start) + 1) from None


def _lines(text: str, collector: Collector) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as fault:
            collector.fault(number, "line", f"is not JSON: {_why(fault)}")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            collector.fault(number, "line", "is not a JSON object with the fields of a binding")


def _entries(text: str, collector: Collector) -> Iterator[tuple[int, dict[str, Any]]]:
    """The binding entries one by one: a whole table of a million as Python objects would take a gigabyte."""
    found = _ENTRIES.search(text)
    if found is None:
        _check_frame(text, entries=False)
        return
    position, line, counted = found.end(), 1, 0
    begin = position
    position = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches everywhere
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            entry, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as fault:
            at = getattr(fault, "pos", position)
            raise Unusable(f"is not JSON: {_why(fault)}", text.count("\n", 0, at) + 1) from None
        if isinstance(entry, dict):
            yield line, _from_leaves(entry)
        else:
            collector.fault(line, "binding-entry", "is not a JSON object")
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if text[position : position + 1] == ",":
            position = _SPACE.match(text, position + 1).end()  # type: ignore[union-attr]
        elif text[position : position + 1] != "]":
            raise Unusable("is not JSON: a comma or ] is missing", text.count("\n", 0, position) + 1)
    _check_frame(text[:begin] + "\n" * text.count("\n", begin, position) + text[position:], entries=True)


def _check_frame(text: str, entries: bool) -> None:
    """The document around the entries is that of one binding instance."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise Unusable(f"is not JSON: {_why(fault)}", getattr(fault, "lineno", 1)) from None
    at = document
    for name in ("ietf-softwire-br:br-instances", "binding", "bind-instance"):
        if not isinstance(at, dict) or name not in at:
            raise Unusable(f"has no {name}; expected br-instances / binding / bind-instance of RFC 8676")
        at = at[name]
    if not isinstance(at, list) or len(at) != 1 or not isinstance(at[0], dict):
        raise Unusable("has not exactly one bind-instance; this router is one instance, so give it a file of its own")
    table = at[0].get("binding-table")
    if len(_ENTRIES.findall(text)) > 1:
        raise Unusable("has more than one list of binding-entry; expected that of bind-instance / binding-table")
    if entries and (not isinstance(table, dict) or "binding-entry" not in table):
        raise Unusable("has binding-entry elsewhere than in bind-instance / binding-table")


def _from_leaves(entry: dict[str, Any]) -> dict[str, Any]:
    port_set = entry.get("port-set")
    if not isinstance(port_set, dict):
        port_set = {}
    # Both are mandatory in the module: what is missing must not become a whole address.
    return {
        "ipv4": entry.get("binding-ipv4-addr"),
        "psid_offset": port_set.get("psid-offset"),
        "psid_len": port_set.get("psid-len", "missing"),
        "psid": port_set.get("psid", "missing"),
        "b4_ipv6": entry.get("binding-ipv6info"),
        "br_ipv6": entry.get("br-ipv6-addr"),
    }


def collect(records: Iterable[tuple[int, dict[str, Any]]], collector: Collector) -> None:
    """(line, fields of a binding) each."""
    batch: list[dict[str, Any]] = []
    lines: list[int] = []
    for line, record in records:
        batch.append(record)
        lines.append(line)
        if len(batch) == CHUNK:
            _add(batch, lines, collector)
            batch, lines = [], []
    if batch:
        _add(batch, lines, collector)


def _add(batch: list[dict[str, Any]], lines: list[int], collector: Collector) -> None:
    ipv4 = columns.parse_ipv4(columns.from_texts([record.get("ipv4") for record in batch]))
    b4 = columns.parse_ipv6(columns.from_texts([record.get("b4_ipv6") for record in batch]))
    brs = [record.get("br_ipv6") for record in batch]
    br = None
    if any(text is not None for text in brs):
        octets, length, taken = columns.parse_ipv6(columns.from_texts(brs))
        br = octets, taken & (length < 0)
    numbers = [_numbers([record.get(name) for record in batch]) for name in ("psid_offset", "psid_len", "psid")]
    usable = np.fromiter((record.keys() <= _KNOWN for record in batch), np.bool_, len(batch))
    collector.add(Chunk(ipv4, b4, br, *numbers), np.array(lines, np.int64), batch.__getitem__, usable)


def _numbers(values: list[Any]) -> tuple[npt.NDArray[np.int64], Flags] | None:
    if all(value is None for value in values):
        return None
    taken = np.fromiter((type(v) is int and 0 <= v <= 65535 for v in values), np.bool_, len(values))
    return np.fromiter((v if ok else 0 for v, ok in zip(values, taken, strict=True)), np.int64, len(values)), taken


def _why(fault: BaseException) -> str:
    if isinstance(fault, RecursionError):
        return "nested too deeply"
    return getattr(fault, "msg", None) or str(fault)[:80]
