"""Every lwAFTR example of tests/data/dataplane.json through the real stages, under its compare rules."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.compare import Comparison, Expected
from tests.frames import Seen, is_announcement
from tests.lane_router import Router, kinds, router
from tests.vector_config import DROPS, Example, Step, examples, path_mtu, settings

# What the ports do by themselves: nothing; checksums and frames in pieces; the same, with senders on the same host who
# leave the header checksum to be written (docs/design.md).
OFFLOADS = ("none", "checksum", "open")


@pytest.mark.parametrize("offloads", OFFLOADS)
@pytest.mark.parametrize("example", examples(), ids=lambda e: e.name)
def test_example(example: Example, offloads: str) -> None:
    options = example.all_options()
    rules = Comparison(path_mtu(options), options["v4_mtu"])
    with router(settings(options), resolved=options["neighbours_resolved"], offloads=offloads) as lane:
        announced = any(step.event for step in example.steps)
        for number, step in enumerate(example.steps):
            seen = _run(lane, step)
            if announced:
                seen = _without_other_announcements(seen, step.out)
            faults = rules.step(step.out, seen)
            assert not faults, f"step {number}:\n" + "\n".join(faults)
            _check_drop(lane, step)
            lane.check_law()


def _run(lane: Router, step: Step) -> list[Seen]:
    seen = lane.advance(step.advance_ms) if step.advance_ms else []
    if step.event == "interface-up":
        seen += lane.interface_up()
    if step.side is not None:
        seen += lane.send(step.side, step.frame)
    return seen


def _check_drop(lane: Router, step: Step) -> None:
    """What the file calls a drop moved that one drop counter, by as many as were held with it; else none moved."""
    dropped = {name for name in lane.moved() if kinds()[name] == "drop"}
    assert dropped == ({DROPS[step.drop]} if step.drop else set())


def _without_other_announcements(seen: Sequence[Seen], wanted: Sequence[Expected]) -> list[Seen]:
    """The examples about start-up show one side and one address: announcements of the others are left out."""
    return [
        (side, frame) for side, frame in seen if not is_announcement(side, frame) or _is_wanted(side, frame, wanted)
    ]


def _is_wanted(side: str, frame: bytes, wanted: Sequence[Expected]) -> bool:
    return any(e.side == side and not Comparison().one(e, frame) for e in wanted)


def test_every_drop_name_of_the_file_has_a_counter() -> None:
    named = {step.drop for example in examples() for step in example.steps if step.drop}
    assert named == set(DROPS)
    assert set(DROPS.values()) <= {name for name, kind in kinds().items() if kind == "drop"}


def test_there_are_276_examples_for_the_router() -> None:
    assert len(examples()) == 276
