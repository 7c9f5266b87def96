"""The binding table of RFC 8676 as JSON (RFC 7951).

yangson checks the document and the first SAMPLE entries against the YANG modules (yang_model.py). It takes 0.2 ms and
some kilobytes for an entry, so entries behind these are read by `_Entries` alone, which is stricter: what it takes,
yangson takes (tests/test_binding_yang.py plays random entries to both).
"""

import json
import re
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np

from pylwaftr.binding_files import yang_model
from pylwaftr.binding_files.json_tables import collect, text_of, why
from pylwaftr.binding_files.records import MISSING, Collector, Loaded, Unusable

SAMPLE = 1000  # entries

TOP = f"{yang_model.MODULE}:br-instances"
LEAVES = {  # field of a binding -> leaf
    "ipv4": "binding-ipv4-addr",
    "psid_offset": "psid-offset",
    "psid_len": "psid-len",
    "psid": "psid",
    "b4_ipv6": "binding-ipv6info",
    "br_ipv6": "br-ipv6-addr",
}
_ENTRY = frozenset(("binding-ipv6info", "binding-ipv4-addr", "port-set", "br-ipv6-addr"))
_PORT_SET = frozenset(("psid-offset", "psid-len", "psid"))
_PREFIX = f"{yang_model.MODULE}:"

_SPACE = re.compile(r"[ \t\r\n]*")
_LIST = re.compile(r'"binding-entry"\s*:\s*\[')
_DECODER = json.JSONDecoder()

Entry = tuple[int, Any]  # line, what stands there


def read(data: bytes, default_br: bytes) -> Loaded:
    text, collector = text_of(data), Collector(default_br, LEAVES)
    entries = _Entries(text, collector)
    collect(entries.records(), collector)
    entries.check_keys()
    instance, document = _document(entries.frame)
    if entries.sample and not collector.faulty:  # faults of entries are told with their lines already
        instance["binding-table"]["binding-entry"] = entries.sample
    fault = yang_model.fault_of(document)
    if fault is not None:
        path, message = fault
        collector.fault(_line_of(path, entries.frame), path, message)
    return collector.loaded()


class _Entries:
    """The binding entries one by one: a whole table of a million as Python objects would take a gigabyte."""

    def __init__(self, text: str, collector: Collector) -> None:
        self._text, self._collector = text, collector
        self.frame = text  # the document without its entries, its lines where they were
        self.sample: list[Any] = []
        self._keys = array("q")  # hashes of what is the key of the list in the module

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line, fields of a binding); what is no entry becomes a fault."""
        for line, entry in self._scan():
            if not isinstance(entry, dict):
                self._collector.fault(line, "binding-entry", "is not a JSON object")
                continue
            self._keys.append(hash(entry["binding-ipv6info"]) if isinstance(entry.get("binding-ipv6info"), str) else 0)
            if len(self.sample) < SAMPLE:
                self.sample.append(entry)
            if self._is_like_the_module(line, entry):
                yield line, _fields(entry)

    def check_keys(self) -> None:
        """An entry is named by its B4 in the module, so no two may write the same."""
        hashes, counts = np.unique(np.frombuffer(self._keys, np.int64), return_counts=True)
        twice = set(hashes[(counts > 1) & (hashes != 0)].tolist())
        if not twice:
            return
        seen: dict[str, int] = {}
        for line, entry in self._scan():
            key = entry.get("binding-ipv6info") if isinstance(entry, dict) else None
            if not isinstance(key, str) or hash(key) not in twice:
                continue
            if key in seen:
                text = f"{key[:50]} is the key of the entry of line {seen[key]} too; RFC 8676 has one entry for each"
                self._collector.fault(line, "binding-ipv6info", text)
            seen.setdefault(key, line)

    def _is_like_the_module(self, line: int, entry: dict[str, Any]) -> bool:
        port_set = entry.get("port-set")
        if not isinstance(port_set, dict):
            text = "is not a JSON object" if "port-set" in entry else "is missing; psid-len and psid are mandatory"
            self._collector.fault(line, "port-set", text)
            return False
        if (
            entry.keys() <= _ENTRY
            and port_set.keys() <= _PORT_SET
            and None not in entry.values()
            and None not in port_set.values()
            and port_set.get("psid-len") != 16
            and not _looser(entry)
        ):
            return True
        for names, known in ((entry, _ENTRY), (port_set, _PORT_SET)):
            for name, value in names.items():
                if name not in known:
                    self._collector.fault(line, name[:40], f"is no node there; RFC 8676 has {', '.join(sorted(known))}")
                elif value is None:
                    self._collector.fault(line, name, "is null; leave it out, or give a value")
                elif isinstance(value, str) and value != value.strip():
                    self._collector.fault(line, name, f"is {value[:50]!r}; leave the space around it out")
                elif isinstance(value, str) and value[-4:-2] == "/0":
                    self._collector.fault(line, name, f"is {value[:50]!r}; write the length without a leading zero")
        if port_set.get("psid-len") == 16:
            self._collector.fault(line, "psid-len", "is 16; RFC 8676 ends at 15")
        return False

    def _scan(self) -> Iterator[Entry]:
        text = self._text
        found = _LIST.search(text)
        if found is None:
            return
        position, line, counted = found.end(), 1, 0
        position = _behind_space(text, position)
        while text[position : position + 1] != "]":
            line, counted = line + text.count("\n", counted, position), position
            try:
                entry, position = _DECODER.raw_decode(text, position)
            except (ValueError, RecursionError) as fault:
                at = getattr(fault, "pos", position)
                raise Unusable(f"is not JSON: {why(fault)}", text.count("\n", 0, at) + 1) from None
            yield line, entry
            position = _behind_space(text, position)
            if text[position : position + 1] == ",":
                position = _behind_space(text, position + 1)
                if text[position : position + 1] == "]":
                    raise Unusable("is not JSON: a comma before the ]", text.count("\n", 0, position) + 1)
            elif text[position : position + 1] != "]":
                raise Unusable("is not JSON: a comma or ] is missing", text.count("\n", 0, position) + 1)
        lines = "\n" * text.count("\n", found.end(), position)
        self.frame = text[: found.end()] + lines + text[position:]


def _looser(entry: dict[str, Any]) -> bool:
    """Whether a text is written as other formats take it."""
    for text in entry.values():  # noqa: SIM110  # a generator for any() costs a microsecond an entry
        if type(text) is str and (text != text.strip() or text[-4:-2] == "/0"):
            return True
    return False


def _behind_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches everywhere


def _fields(entry: dict[str, Any]) -> dict[str, Any]:
    port_set = entry["port-set"]
    # Both are mandatory in the module: what is missing must not become a whole address.
    return {
        "ipv4": entry.get("binding-ipv4-addr"),
        "psid_offset": port_set.get("psid-offset"),
        "psid_len": port_set.get("psid-len", MISSING),
        "psid": port_set.get("psid", MISSING),
        "b4_ipv6": entry.get("binding-ipv6info"),
        "br_ipv6": entry.get("br-ipv6-addr"),
    }


def _document(frame: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one binding instance, and the document around it."""
    try:
        document = json.loads(frame)
    except (ValueError, RecursionError) as fault:
        raise Unusable(f"is not JSON: {why(fault)}", getattr(fault, "lineno", 1)) from None
    at = document
    for name in (TOP, "binding", "bind-instance"):
        if not isinstance(at, dict) or name not in at:
            raise Unusable(f"has no {name}; expected br-instances / binding / bind-instance of RFC 8676")
        at = at[name]
    if not isinstance(at, list) or len(at) != 1 or not isinstance(at[0], dict):
        raise Unusable("has not exactly one bind-instance; this router is one instance, so give it a file of its own")
    if frame.count(f'"{_PREFIX}') > 1:
        # yangson takes these; we would look for the entries under their plain name, and find none.
        raise Unusable(f"has {_PREFIX} before more than one name; only the outermost has it (RFC 7951 section 4)")
    if len(_LIST.findall(frame)) > 1:
        raise Unusable("has more than one list of binding-entry; expected that of bind-instance / binding-table")
    table = at[0].get("binding-table")
    if _LIST.search(frame) and (not isinstance(table, dict) or "binding-entry" not in table):
        raise Unusable("has binding-entry elsewhere than in bind-instance / binding-table")
    return at[0], document


def _line_of(path: str, frame: str) -> int:
    """Where the node stands, or the last of those around it that does."""
    for name in reversed(path.split("/")):
        if (at := frame.find(f'"{name.partition("[")[0]}"')) >= 0:
            return frame.count("\n", 0, at) + 1
    return 1
