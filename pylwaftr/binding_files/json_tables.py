"""JSON lines: one object a line with the field names of bindings.entries; and JSON objects to rows."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pylwaftr.binding_files import columns
from pylwaftr.binding_files.columns import Flags
from pylwaftr.binding_files.records import CHUNK, Chunk, Collector, Loaded, Unusable
from pylwaftr.rows import FIELDS

_KNOWN = frozenset(FIELDS)


def read_jsonl(data: bytes, default_br: bytes) -> Loaded:
    collector = Collector(default_br)
    collect(_lines(text_of(data), collector), collector)
    return collector.loaded()


def text_of(data: bytes) -> str:
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
            collector.fault(number, "line", f"is not JSON: {why(fault)}")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            collector.fault(number, "line", "is not a JSON object with the fields of a binding")


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


def why(fault: BaseException) -> str:
    if isinstance(fault, RecursionError):
        return "nested too deeply"
    return getattr(fault, "msg", None) or str(fault)[:80]
