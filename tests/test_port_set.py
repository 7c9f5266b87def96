"""Port <-> PSID arithmetic (RFC 7597 section 5.1) against a model that lists ranges instead of shifting bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pylwaftr import _core

VECTORS = Path(__file__).parent / "data" / "dataplane.json"
PORTS = 65536
NOBODY = -1
ALL_PARAMS = [(a, k) for k in range(17) for a in range(17 - k)]


def ranges(a: int, k: int, psid: int) -> Iterator[range]:
    """The port set as the texts draw it: for each A but the excluded one, one run of 2^m ports."""
    if k == 0:
        yield range(PORTS)
        return
    contiguous = 2 ** (16 - a - k)
    for block in range(1 if a > 0 else 0, 2**a):
        first = block * 2 ** (16 - a) + psid * contiguous
        yield range(first, first + contiguous)


def owners(a: int, k: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Who owns each port, filled in set by set. A port that two sets claim fails right here (DP-024)."""
    owner = np.full(PORTS, NOBODY, np.int32)
    for psid in range(2**k):
        for run in ranges(a, k, psid):
            assert (owner[run.start : run.stop] == NOBODY).all()
            owner[run.start : run.stop] = psid
    return owner


@pytest.mark.parametrize("a, k", ALL_PARAMS)
def test_every_port_belongs_to_the_set_of_the_model(a: int, k: int) -> None:
    expected = owners(a, k)
    assert np.array_equal(_core.port_set_psids(a, k), expected)
    for psid in {0, 1, 2**k // 2, 2**k - 1} & set(range(2**k)):
        assert np.array_equal(_core.port_set_members(a, k, psid), expected == psid)


@pytest.mark.parametrize("a, k", [(a, k) for a, k in ALL_PARAMS if k > 0])
def test_ports_that_belong_to_nobody_are_those_below_the_first_block(a: int, k: int) -> None:
    free = np.flatnonzero(_core.port_set_psids(a, k) == NOBODY)
    assert np.array_equal(free, np.arange(2 ** (16 - a) if a > 0 else 0))


@pytest.mark.parametrize("a, k", [(0, 17), (17, 0), (16, 1), (8, 9), (255, 255)])
def test_parameters_that_do_not_fit_sixteen_bits_are_refused(a: int, k: int) -> None:
    with pytest.raises(ValueError, match="16"):
        _core.port_set_psids(a, k)


def _vectors() -> list[dict[str, Any]]:
    return json.loads(VECTORS.read_text())["vectors"]["port_sets"] if VECTORS.exists() else []


@pytest.mark.parametrize("vector", _vectors(), ids=lambda v: f"a{v['a']}-k{v['k']}-psid{v['psid']:x}")
def test_vectors(vector: dict[str, Any]) -> None:
    ports = np.flatnonzero(_core.port_set_psids(vector["a"], vector["k"]) == vector["psid"])
    breaks = np.flatnonzero(np.diff(ports) != 1) + 1
    runs = [[int(run[0]), int(run[-1])] for run in np.split(ports, breaks)]
    # Where m ports of one run touch the next one's (no vector does), splitting at gaps would count too few.
    assert len(runs) == vector["ranges"]
    assert len(ports) == vector["ports"]
    assert (runs[0], runs[-1]) == (vector["first"], vector["last"])
    assert (runs[1] if len(runs) > 1 else None) == vector["second"]
    assert 2 ** vector["k"] == vector["sharing_ratio"]
