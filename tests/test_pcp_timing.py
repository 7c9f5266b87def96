"""When a PCP client sends, and what it makes of a server's clock."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.pcp.timing import EpochCheck, burst, renewal, retransmission
from tests.pcp_client_world import (
    World,
)
from tests.test_vectors_pcp import DATA


@pytest.mark.parametrize("row", DATA["epoch_checks"], ids=[row["why"] for row in DATA["epoch_checks"]])
def test_epoch(row: dict[str, Any]) -> None:
    check = EpochCheck(row["prev_server"], row["prev_client"])
    assert check.is_valid(row["curr_server"], row["curr_client"]) is row["valid"]
    assert (check.server, check.client) == (row["curr_server"], row["curr_client"])


def test_a_second_back_counts_as_none() -> None:
    """Two seconds on here and none there are within what is tolerated."""
    assert EpochCheck(1000, 5000.0).is_valid(999, 5002.0)
    assert not EpochCheck(1000, 5000.0).is_valid(999, 5003.0)


# --- times -----------------------------------------------------------------------------------------------------------


def test_a_dead_server_is_asked_at_3_6_12_seconds_and_so_on_for_ever() -> None:
    gaps = DATA["timers"]["retransmission_nominal_s"]
    sent = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    world = World().started()
    assert len(world.sent()) == 1
    assert world.until(5000 + sent[-1] + 1) == sent


@given(st.randoms(use_true_random=False))
def test_retransmission_keeps_to_a_tenth_around_the_double(rng: random.Random) -> None:
    previous = None
    for _ in range(15):
        time = retransmission(previous, rng.uniform)
        nominal = 3 if previous is None else min(2 * previous, 1024)
        assert 0.9 * nominal <= time <= 1.1 * nominal
        previous = time


RENEWALS = DATA["timers"]["renewal"]


@pytest.mark.parametrize("row", RENEWALS, ids=[str(row["lifetime"]) for row in RENEWALS])
def test_renewals_begin_where_the_table_says(row: dict[str, Any]) -> None:
    assert renewals(row["lifetime"], lambda a, b: a) == [window[0] for window in row["send_windows_s"]]


@given(st.integers(120, 86400), st.randoms(use_true_random=False))
def test_renewals_keep_their_windows_and_their_distance(lifetime: int, rng: random.Random) -> None:
    sent = renewals(lifetime, rng.uniform)
    windows = [(lifetime * (1 - 0.5**n), lifetime * (1 - 0.75 * 0.5**n)) for n in range(1, 16)]
    for when in sent:
        assert any(begin - 1e-3 <= when <= end + 1e-3 for begin, end in windows)
    assert all(later - earlier >= 4 - 1e-3 for earlier, later in pairwise(sent))


def renewals(lifetime: int, uniform: Any) -> list[float]:
    sent: list[float] = []
    while (when := renewal(lifetime, sent[-1] if sent else 0, uniform)) is not None:
        sent.append(round(when, 3))
    return sent


def test_bursts() -> None:
    gaps = [gap / 1000 for gap in DATA["timers"]["announce_burst_min_gap_ms"]]
    times = burst(10)
    assert [later - earlier for earlier, later in pairwise(times)] == gaps
