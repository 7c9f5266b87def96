"""The examples through the real command: `pylwaftr replay` over pcap files, every one that the command can show.

A run costs a second, so examples with the same options share one unless something that the router remembers of one
could meet another. Within a run each example takes its own frames out of what left; nothing may be left at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests import pcap_files
from tests.compare import Comparison, Expected, piece4, piece6
from tests.frames import FRAGMENT, Seen, dissect, is_announcement
from tests.lane_router import kinds
from tests.vector_config import DROPS, Example, configuration, examples, is_stateful, path_mtu


def why_not(example: Example) -> str | None:
    """Why the command cannot show an example, by a property of the example."""
    if any(step.event for step in example.steps):
        return "needs an event"
    if any(step.advance_ms for step in example.steps):
        return "needs a clock"
    if len({step.side for step in example.steps}) > 1 or not example.option("neighbours_resolved"):
        return "needs an order between the sides"
    return None


SHOWN = [e for e in examples() if why_not(e) is None]
ELSEWHERE = [e for e in examples() if why_not(e) is not None]


def _remembered(example: Example) -> set[bytes]:
    """What the router remembers of an example: the keys of its fragments, of either version; "MTU" for all the rest."""
    keys: set[bytes] = set()
    for step in example.steps:
        packet, inner = dissect(step.frame).payload, dissect(step.frame).ipv4
        if step.side == "v6" and packet[6] == FRAGMENT:
            keys.add(packet[8:40] + packet[44:48])
        elif inner is not None and len(inner) >= 20 and (inner[6] & 0x3F or inner[7]):
            keys.add(inner[9:10] + inner[12:20] + inner[4:6])
        elif is_stateful(example):
            keys.add(b"MTU")
    return keys


def _share_runs(shown: Sequence[Example]) -> dict[str, list[Example]]:
    """Run name -> examples; two that remember the same thing, or a new MTU, are never together."""
    runs: dict[str, list[Example]] = {}
    for example in shown:
        keys = _remembered(example)
        what = ", ".join(f"{name} {json.loads(value)}" for name, value in example.options) or "default options"
        for number in range(len(shown)):
            members = runs.setdefault(f"{what} {number}", [])
            met = set().union(*map(_remembered, members)) if members else set()
            if not members or not (keys & met or b"MTU" in keys | met):
                members.append(example)
                break
    return runs


RUNS = _share_runs(SHOWN)
RUN_OF = {example.name: run for run, members in RUNS.items() for example in members}


@dataclass
class Result:
    seen: list[Seen]
    counters: dict[str, int]
    lost: dict[str, list[str]]  # example name -> what it misses
    surplus: list[Seen]  # what no example expected and is no announcement of our own
    failure: str = ""


@cache
def _replayed(run: str, directory: Path) -> Result:
    members = RUNS[run]
    files = {side: _inputs(members, side) for side in ("v4", "v6")}
    result = _replay(directory, run, configuration(members[0].all_options()), files)
    pool = list(result.seen)
    for example in members:
        result.lost[example.name] = _take(example, pool)
    result.surplus = [(side, frame) for side, frame in pool if not is_announcement(side, frame)]
    return result


def _inputs(members: Sequence[Example], side: str) -> list[bytes]:
    return [step.frame for example in members for step in example.steps if step.side == side]


def _replay(directory: Path, run: str, config: str, inputs: dict[str, list[bytes]]) -> Result:
    place = directory / f"run{list(RUNS).index(run)}"
    place.mkdir()
    (place / "config.yaml").write_text(config)
    command = [str(Path(sys.executable).with_name("pylwaftr")), "replay", "-c", str(place / "config.yaml")]
    for side, frames in inputs.items():
        if frames:  # a missing input means no traffic
            command += [f"--{side}-in", str(pcap_files.write(place / f"{side}-in.pcap", frames))]
        command += [f"--{side}-out", str(place / f"{side}-out.pcap")]
    command += ["--counters", str(place / "counters.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        return Result([], {}, {}, [], f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    seen = [(side, frame) for side in inputs for frame in pcap_files.read(place / f"{side}-out.pcap")]
    return Result(seen, json.loads((place / "counters.json").read_text()), {}, [])


def _take(example: Example, pool: list[Seen]) -> list[str]:
    """Removes from the pool what the example expects, which has to be there in this order."""
    options = example.all_options()
    rules = Comparison(path_mtu(options), options["v4_mtu"])
    want = [expected for step in example.steps for expected in step.out]
    if want and want[0].rule.startswith("fragment-"):
        mine = [frame for frame in pool if _looks_like(frame, want)]
        for frame in mine:
            pool.remove(frame)
        return rules.step(want, mine)
    at = 0
    for expected in want:
        matches = (
            i for i in range(at, len(pool)) if pool[i][0] == expected.side and not rules.one(expected, pool[i][1])
        )
        found = next(matches, None)
        if found is None:
            return [f"missing: {expected}; left: {[(side, frame.hex()) for side, frame in pool[at:]]}"]
        at = found
        del pool[found]
    return []


def _looks_like(frame: Seen, want: Sequence[Expected]) -> bool:
    """A fragment of the packet that is expected in fragments: the first of it tells by its addresses and sizes."""
    read = piece6 if want[0].rule == "fragment-v6" else piece4
    piece, wanted = read(frame[1]), read(want[0].frame)
    return piece is not None and wanted is not None and piece.common == wanted.common


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.mark.parametrize("example", SHOWN, ids=lambda e: e.name)
def test_example(example: Example, directory: Path) -> None:
    result = _replayed(RUN_OF[example.name], directory)
    assert not result.failure, result.failure
    faults = result.lost[example.name]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.replace(" ", "-"))
def test_nothing_else_leaves_and_the_counters_tell_the_drops(run: str, directory: Path) -> None:
    result = _replayed(run, directory)
    assert not result.failure, result.failure
    assert result.surplus == []
    named = Counter(DROPS[step.drop] for example in RUNS[run] for step in example.steps if step.drop)
    counted = {name: n for name, n in result.counters.items() if n and kinds()[name] == "drop"}
    if named["drop_fragment_v6_overlap"]:
        named["drop_fragment_v6_overlap"] += 1  # the fragment that was held with them
    assert counted == dict(named)
    came, went = (
        sum(n for name, n in result.counters.items() if kinds()[name] in of) for of in (("rx",), ("edge", "drop"))
    )
    assert came == went == sum(len(example.steps) for example in RUNS[run])
    assert set(result.counters) == set(kinds()), "zeros are written too"


@pytest.mark.parametrize("example", ELSEWHERE, ids=lambda e: f"{e.name}: {why_not(e)}".replace(" ", "-"))
def test_left_to_the_lane(example: Example) -> None:
    """What replay cannot show, and why, runs by name in test_vectors_lane.py."""
    assert example in examples()


def test_few_examples_are_left_to_the_lane() -> None:
    assert len(SHOWN) + len(ELSEWHERE) == 276
    assert len(ELSEWHERE) <= 14
