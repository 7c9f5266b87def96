"""make_rfcs.py [--check]: writes docs/rfcs.md from docs/rfcs/*.yaml and the worked examples, or fails if it is stale.

A requirement names code as FILE::NAME and tests as MODULE::NAME, shortened:
  ipv4.cpp::check_ipv4        csrc/ipv4.cpp            (.cpp .hpp .def)
  rows.py::built_b4           pylwaftr/rows.py
  packet_rows::TTL_ROWS       tests/test_packet_rows.py: a test function, or a table of rows that one runs through
  native/table_stress.cpp::play   tests/native/table_stress.cpp
  lab::hairpin                pylwaftr/lab/scenarios.py, run by tests/test_lab.py::test_scenario
  lab/lease_steps::release    pylwaftr/lab/lease_steps.py, the same
Without a state it is met. Worked examples (tests/data/dataplane.json) say themselves which requirements they show.
tests/test_rfcs.py checks that all of it exists.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import made_file  # noqa: E402

SOURCES = ROOT / "docs" / "rfcs"
PAGE = ROOT / "docs" / "rfcs.md"
EXAMPLES = ROOT / "tests" / "data" / "dataplane.json"
STATES = ("met", "partly", "not yet", "does not arise")
SHOWN_EXAMPLES = 4

HEAD = """\
# Requirements

Made from `docs/rfcs/*.yaml` and `tests/data/dataplane.json` by `scripts/make_rfcs.py`; do not edit.

Every requirement on the data plane (DP), the reference lwB4 (B4), the operator's side (OP), PCP and the leasequery
requestor (LQ) with the code that meets it and the tests that show it. `tests/test_rfcs.py` checks that every name here
exists and that this page is up to date.

* Levels are those of RFC 2119. PD: a decision of this project where the texts leave a choice open or contradict each
  other.
* Code is in `csrc/`, Python in `pylwaftr/`.
* Tests: `packet_rows: TTL_ROWS` is `tests/test_packet_rows.py`, a test or a table of rows; `lab` and `lab/…` are steps
  of the lab with real hosts (`tests/test_lab.py`); *examples* are the worked examples in `tests/data/dataplane.json`,
  all of which run through `tests/test_vectors_lane.py`, those of the lwB4 through `tests/test_b4.py`. The
  [last section](#worked-examples) lists them all.
"""


@dataclass(frozen=True, slots=True)
class Requirement:
    id: str
    level: str
    text: str
    source: str
    code: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    state: str = "met"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    requirements: tuple[Requirement, ...]


Examples = dict[str, tuple[str, ...]]  # name -> requirement ids


def sections() -> list[Section]:
    return [_section(yaml.safe_load(path.read_text())) for path in sorted(SOURCES.glob("*.yaml"))]


def _section(raw: dict[str, Any]) -> Section:
    return Section(raw["title"], tuple(_requirement(entry) for entry in raw["requirements"]))


def _requirement(entry: dict[str, Any]) -> Requirement:
    lists = {name: tuple(entry.get(name, ())) for name in ("code", "tests")}
    return Requirement(**{**entry, **lists})


def examples() -> Examples:
    return {e["name"]: tuple(e["requirements"]) for e in json.loads(EXAMPLES.read_text())["examples"]}


def shown_by(examples: Examples, requirement: str) -> list[str]:
    return [name for name, ids in examples.items() if requirement in ids]


def _named(entries: Iterable[str]) -> str:
    """a::x, a::y, b::z -> `a`: `x`, `y`; `b`: `z`"""
    pairs = [entry.partition("::")[::2] for entry in entries]
    return "; ".join(
        f"`{file}`: " + ", ".join(f"`{name}`" for _, name in group) for file, group in groupby(pairs, lambda p: p[0])
    )


def _shown(requirement: Requirement, names: Sequence[str]) -> str:
    parts = [_named(requirement.tests)] if requirement.tests else []
    if names:
        more = f" and {len(names) - SHOWN_EXAMPLES} more" if len(names) > SHOWN_EXAMPLES else ""
        parts.append("*examples* " + ", ".join(f"`{name}`" for name in names[:SHOWN_EXAMPLES]) + more)
    return "; ".join(parts)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return _row(heads) + _row("---" for _ in heads) + "".join(_row(cells) for cells in rows)


def _state(requirement: Requirement) -> str:
    return f"{requirement.state}: {requirement.note}" if requirement.note else requirement.state


def page(found: Sequence[Section], examples: Examples) -> str:
    everything = [r for section in found for r in section.requirements]
    states = Counter(r.state for r in everything)
    parts = [HEAD, "\n## State\n\n"]
    parts.append(f"{len(everything)} requirements: " + ", ".join(f"{states[s]} {s}" for s in STATES) + ".\n\n")
    open_ones = [(r.id, r.level, r.text, r.state, r.note) for r in everything if r.state != "met"]
    parts.append(_table(("ID", "level", "requirement", "state", "what is missing, and what brings it"), open_ones))
    for section in found:
        rows = [
            (r.id, r.level, r.text, r.source, _named(r.code), _shown(r, shown_by(examples, r.id)), _state(r))
            for r in section.requirements
        ]
        parts.append(f"\n## {section.title}\n\n")
        parts.append(_table(("ID", "level", "requirement", "source", "code", "tests", "state"), rows))
    parts.append("\n## Worked examples\n\n")
    parts.append(_table(("example", "shows"), ((f"`{name}`", ", ".join(ids)) for name, ids in examples.items())))
    return "".join(parts)


def main(arguments: list[str]) -> int:
    return made_file.main(PAGE, page(sections(), examples()), __file__, arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
