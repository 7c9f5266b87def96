"""What a reload would change: every key that differs, and whether a running router can take it over."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from pylwaftr import row_sets
from pylwaftr.config.model import Config, Entry
from pylwaftr.config.values import Endpoint
from pylwaftr.rows import Rows

# Keys that only a restart changes: what ports, memory, threads and listeners are made of. A name stands for all
# below it. Everything else is taken over under traffic.
RESTART = (
    "dataplane.hugepages",
    "dataplane.lcores",
    "dataplane.rss",
    "dataplane.eal_args",
    "dataplane.binding_counters",
    "dataplane.rx_descriptors",
    "dataplane.offloads",
    "interfaces.v4.port",
    "interfaces.v4.mac",
    "interfaces.v4.mtu",
    "interfaces.v6.port",
    "interfaces.v6.mac",
    "interfaces.v6.mtu",
    "softwire.reassembly.max_packets",
    "pcp.third_party.listen",
    "api.listen",
    "api.tls",
    "api.allow_plaintext",
    "metrics",
    "state",
    "fleet",
    "logging.format",
)


@dataclass(frozen=True, slots=True)
class Difference:
    path: str
    old: str
    new: str
    restart: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.old} -> {self.new}"


@dataclass(frozen=True, slots=True)
class Plan:
    differences: tuple[Difference, ...]
    rows_changed: bool  # the bindings of the file are others than before

    @property
    def blocked(self) -> tuple[Difference, ...]:
        """What needs a restart; if there is one, nothing is applied."""
        return tuple(difference for difference in self.differences if difference.restart)


def diff(old: Config, new: Config) -> Plan:
    found = []
    for path, before, after in _differing(old, new, ""):
        # A table only grows under traffic, and not when each binding has its counts.
        fixed = path == "dataplane.max_bindings" and (after < before or old.dataplane.binding_counters)
        found.append(Difference(path, _text(before), _text(after), fixed or needs_restart(path)))
    if _same(old.rows, new.rows):
        return Plan(tuple(found), False)
    # Also where only the content of bindings.file is another one. The number of entries would say less.
    found = [one for one in found if one.path != "bindings.entries"]
    found.append(Difference("bindings", _count(old.rows), _rows_text(old.rows, new.rows), False))
    return Plan(tuple(found), True)


def needs_restart(path: str) -> bool:
    return any(path == key or path.startswith(f"{key}.") for key in RESTART)


def _differing(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    for field in fields(old):
        if not field.compare:  # where it was read from, and the rows
            continue
        name = f"{path}.{field.name}" if path else field.name
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        if is_dataclass(before) and is_dataclass(after) and not isinstance(before, Endpoint):
            yield from _differing(before, after, name)
        else:
            yield name, before, after


def _text(value: object) -> str:
    """As it is written in the file, in a line."""
    if isinstance(value, bool):
        return str(value).lower()
    if is_dataclass(value) and not isinstance(value, Endpoint):
        return "{" + ", ".join(f"{one.name}: {_text(getattr(value, one.name))}" for one in fields(value)) + "}"
    if isinstance(value, bytes):
        return value.hex(":")
    if isinstance(value, tuple) and value and isinstance(value[0], Entry):
        return f"{len(value)} entries"  # may be a million
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    return "none" if value is None else str(value)


def _rows_text(old: Rows, new: Rows) -> str:
    ours, theirs = row_sets.keys(old), row_sets.keys(new)
    _, before, after = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    changed = int((old[before] != new[after]).sum())
    counts = {"added": len(new) - len(after), "removed": len(old) - len(before), "changed": changed}
    return f"{_count(new)} ({', '.join(f'{count} {what}' for what, count in counts.items() if count)})"


def _count(rows: Rows) -> str:
    return "1 row" if len(rows) == 1 else f"{len(rows)} rows"


def _same(old: Rows, new: Rows) -> bool:
    return len(old) == len(new) and np.array_equal(np.sort(old), np.sort(new))
