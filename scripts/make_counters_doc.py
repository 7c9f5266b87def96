"""make_counters_doc.py [--check]: writes docs/counters.md from csrc/counters.def, or fails if it is not up to date."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import made_file  # noqa: E402

SOURCE = ROOT / "csrc" / "counters.def"
PAGE = ROOT / "docs" / "counters.md"
ENTRY = re.compile(r'^LW_COUNTER\((\w+), (\w+), (\w+), "([^"]*)", "([^"]*)"\)$')

KINDS = {  # kind -> heading, what it means
    "rx": ("Received", "A frame came in."),
    "edge": ("Ways on", "Each received frame that is not dropped leaves the stages by exactly one of these."),
    "drop": ("Drops", "Or by exactly one of these: the reason that was met first, in the order of the stages."),
    "held": ("Held", "Gauges, not totals: frames inside that wait. They end as one of the ways on or as a drop."),
    "tx": ("Sent", "A frame was handed to a port: one that was received, or one that was made here."),
    "info": ("Other", "Beside the ways of frames: octets, errors sent and kept back, events, cycles. Not in the law."),
}

HEAD = """\
# Counters

Made from `csrc/counters.def` by `scripts/make_counters_doc.py`; do not edit.

Every worker has its own set, written by it alone; what is shown is the sum. The requirement is the one of
[rfcs.md](rfcs.md) that the counter tells about.

No frame is lost unseen. After each burst, for each worker and so for their sum,

    sum(rx) = sum(edge) + sum(drop) + sum(held)

where each kind is one of the tables below. Frames made here (errors, answers, announcements, the second and later
fragments of a packet) are in `tx_*` alone, so `tx` may be more or less than what the edges count.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    kind: str
    unit: str
    requirement: str
    help: str


def entries(text: str) -> list[Entry]:
    lines = [line for line in text.splitlines() if line.startswith("LW_COUNTER")]
    found = []
    for line in lines:
        match = ENTRY.match(line)
        if match is None:
            raise ValueError(f"{SOURCE.name}: not understood: {line}")
        found.append(Entry(*match.groups()))
    if unknown := {entry.kind for entry in found} - set(KINDS):
        raise ValueError(f"{SOURCE.name}: kinds without a heading: {', '.join(sorted(unknown))}")
    return found


def page(found: list[Entry]) -> str:
    parts = [HEAD]
    for kind, (heading, meaning) in KINDS.items():
        rows = [entry for entry in found if entry.kind == kind]
        table = [f"| `{e.name}` | {e.unit} | {e.requirement.strip('-')} | {e.help} |" for e in rows]
        parts.append(f"\n## {heading} (`{kind}`)\n\n{meaning}\n\n| counter | unit | requirement | counts |\n")
        parts.append("| --- | --- | --- | --- |\n" + "\n".join(table) + "\n")
    return "".join(parts)


def main(arguments: list[str]) -> int:
    return made_file.main(PAGE, page(entries(SOURCE.read_text())), __file__, arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
