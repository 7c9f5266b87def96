"""Router and leasequery server killed at random while leases change: the table ends as the server's truth, each time.

LAB_CHAOS_ROUNDS: how many rounds; `python -m pylwaftr.lab --chaos ROUNDS` is the same from the command line.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylwaftr.lab import plan
from pylwaftr.lab.chaos import KEYS, Truth
from pylwaftr.lab.lifecycle import Lab, running
from pylwaftr.lab.steps import Step, perform
from pylwaftr.responder import journal
from pylwaftr.responder.database import STATES, Database
from tests.lab_remains import left_behind

TOPOLOGY, STEPS = plan.chaos(int(os.environ.get("LAB_CHAOS_ROUNDS", "3")), seed=20)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(TOPOLOGY, None) as made:
        yield made
    assert left_behind(made) == []


@pytest.mark.needs_root
@pytest.mark.needs_netns
@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.title))
def test_the_table_is_the_truth_after_kills(lab: Lab, step: Step) -> None:
    result = perform(step, lab)
    assert result.ok, result.detail
    print(result.detail)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_taken_for_the_truth_is_what_the_journal_says(seed: int, tmp_path: Path) -> None:
    truth = Truth(tmp_path / "journal", random.Random(seed))
    truth.journal.touch()
    for _ in range(300):
        truth.change()
        if truth.rng.random() < 0.02:
            truth.compact()
    lines = truth.journal.read_text().splitlines()
    database = Database()
    database.apply([journal.parse(line) for line in lines])
    database.expire(int(time.time()) + 10)
    active = {(lease["ipv4"], tuple(lease["params"])) for lease in database.part(0, database.count)[0]
              if lease["state"] == STATES["ACTIVE"]}  # fmt: skip
    lasting = {key for key, (_, end) in truth.leases.items() if end is None}
    assert len(active) == len(lasting) > 20
    assert {json.loads(line)["ipv4"] for line in lines} <= {key[0] for key in KEYS}
