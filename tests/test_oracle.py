"""The router against the oracle: random bindings, options and packets; the same frames leave, the same counter moves.

LW_ORACLE_PACKETS sets how many packets each table sees.
"""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.compare import Comparison
from tests.lane_router import Router, router
from tests.oracle import Oracle
from tests.oracle_headers import NotModelled
from tests.random_packets import Traffic, damage
from tests.vector_config import (
    DROPS,
    Binding,
    Example,
    Options,
    bindings,
    default_options,
    examples,
    path_mtu,
    settings,
)

PACKETS = int(os.environ.get("LW_ORACLE_PACKETS", "4000"))
BR_ADDRESSES = ("2001:db8:aa::1", "2001:db8:aa::2", "2001:db8:ffff::1")
OPTIONS: list[Options] = [
    {},
    {"hairpin": "external"},
    {"hairpin": "drop"},
    {"v6_path_mtu": 1280, "encap_limit": 7},
    {"v6_path_mtu": 9000, "v4_mtu": 600, "outer_hop_limit": 255},
    {"dscp_mode": "pipe", "pipe_dscp": 46, "ecn_mode": "compatibility"},
    {"icmpv4_generate_errors": False, "icmpv4_allow_incoming": False},
    {"icmpv6_generate_errors": False, "icmpv4_error_tos": 0},
    {"opt_source_route": "ignore", "opt_router_alert": "drop"},
    {"softwire_payload_mtu": 1300},
]


def random_rows(random: Random) -> list[Binding]:
    """Addresses of every shape, each with some of its port sets; some B4s have several bindings."""
    rows: list[Binding] = []
    for number in range(random.randint(1, 8)):
        offset = random.choice((0, 0, 0, 4, 6, random.randint(0, 15)))
        length = random.choice((0, 4, 6, 8, random.randint(0, 16 - offset)))
        length = min(length, 16 - offset)
        psids = {0} if length == 0 else {random.randrange(1 << length) for _ in range(random.randint(1, 5))}
        for psid in psids:
            b4 = f"2001:db8:{number:x}:{random.randint(0, 3)}::{psid:x}"
            rows.append(Binding("", f"203.0.113.{number + 1}", offset, length, psid, b4, random.choice(BR_ADDRESSES)))
    return rows


def compare_one(oracle: Oracle, lane: Router, side: str, frame: bytes) -> bool:
    """False if the oracle has no opinion; then the router does not get the frame either."""
    try:
        verdict = oracle.receive(side, frame)
    except NotModelled:
        return False
    rules = Comparison(path_mtu(oracle.options), oracle.options["v4_mtu"])
    faults = rules.step(verdict.frames, lane.send(side, frame))
    assert not faults, f"{side} {frame.hex()}\n{verdict.way}\n" + "\n".join(faults)
    assert lane.ways() == {verdict.way: 1}, f"{side} {frame.hex()}"
    return True


@pytest.mark.parametrize("seed", range(len(OPTIONS) * 2))
def test_the_router_does_what_the_oracle_says(seed: int) -> None:
    random = Random(seed)
    options = {**default_options(), **OPTIONS[seed % len(OPTIONS)]}
    rows = random_rows(random)
    traffic = Traffic(random, rows, stateful=False, neighbours=False)
    oracle = Oracle(rows, options)
    with router(settings(options), rows) as lane:
        modelled = 0
        for _ in range(PACKETS):
            side, frame = traffic.frame()
            if random.random() < 0.4:
                frame = damage(random, frame)
            modelled += compare_one(oracle, lane, side, frame)
        assert modelled > PACKETS * 0.9


@given(st.randoms(use_true_random=False), st.sampled_from(OPTIONS))
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_small_tables_and_few_packets(random: Random, deviating: Options) -> None:
    """The same, found and shrunk by hypothesis."""
    options = {**default_options(), **deviating}
    rows = random_rows(random)
    traffic = Traffic(random, rows, stateful=False, neighbours=False)
    with router(settings(options), rows, mbufs=256) as lane:
        for _ in range(5):
            compare_one(Oracle(rows, options), lane, *traffic.frame())


def _needs_no_clock(example: Example) -> bool:
    return bool(example.option("neighbours_resolved")) and not any(
        step.advance_ms or step.event for step in example.steps
    )


@pytest.mark.parametrize("example", [e for e in examples() if _needs_no_clock(e)], ids=lambda e: e.name)
def test_the_oracle_agrees_with_the_examples(example: Example) -> None:
    """Where it has an opinion: the oracle is tested like the router."""
    options = example.all_options()
    oracle = Oracle(bindings(), options)
    for number, step in enumerate(example.steps):
        assert step.side is not None
        try:
            verdict = oracle.receive(step.side, step.frame)
        except NotModelled:
            return
        if verdict.way.startswith("drop_") != bool(step.drop):
            pytest.fail(f"step {number}: {verdict.way}, the example says {step.drop}")
        assert not step.drop or verdict.way == DROPS[step.drop]
        seen = [(expected.side, expected.frame) for expected in verdict.frames]
        rules = Comparison(path_mtu(options), options["v4_mtu"])
        if options["flow_label"] == "zero" and "pmtud" not in example.name:
            assert rules.step(step.out, seen) == []
