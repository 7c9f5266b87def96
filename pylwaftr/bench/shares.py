"""How the packets of a benchmark were spread: over bindings and addresses, over the two buckets of a key, and over the
queues that a NIC or software would put them into. Reckoned beside the measurement: the generator's draws can be had
again, so nothing is counted in the measured loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pylwaftr import _core

SAMPLE = 1 << 20  # draws, and bindings
SETS_A_FULL_ADDRESS = 64
QUEUES = (2, 4, 8, 16)
Numbers = npt.NDArray[np.uint32]


def ways(direction: str) -> tuple[str, ...]:
    return ("encap", "decap") if direction == "both" else (direction,)


def used_of(bindings: int, packets: int) -> float:
    """How many of the bindings have a packet at least, expected."""
    if bindings == 1:
        return float(packets > 0)
    return -bindings * math.expm1(packets * math.log1p(-1 / bindings))


def over_bindings(direction: str, bindings: int, packets: int) -> dict[str, Any]:
    """Of the packets of one way: what a sample says, the first that the generator has made, and what is expected."""
    sample = min(packets, SAMPLE)
    drawn = _core.bench_draws(direction, bindings, sample)
    numbers, each = np.unique(drawn, return_counts=True)
    least = int(each.min()) if len(numbers) == bindings else 0
    return {
        "bindings": bindings,
        "packets": packets,
        "packets_each": round(packets / bindings, 3),
        "used_expected": round(used_of(bindings, packets), 1),
        "sample": {
            "packets": sample,
            "used": len(numbers),
            "used_expected": round(used_of(bindings, sample), 1),
            "packets_each": {"least": least, "mean": round(sample / bindings, 3), "most": int(each.max())},
            "addresses": len(np.unique(numbers // SETS_A_FULL_ADDRESS)),
        },
        "addresses": -(-bindings // SETS_A_FULL_ADDRESS),
    }


def some_of(bindings: int) -> Numbers:
    """All, or so many that they stand for all."""
    if bindings <= SAMPLE:
        return np.arange(bindings, dtype=np.uint32)
    return np.unique(_core.bench_draws("encap", bindings, SAMPLE))


def buckets(table: _core.BindingTable, bindings: int) -> dict[str, float]:
    """Shares of the keys by the bucket that they are in: the second is one more line to read."""
    bound, first = _core.bench_homes(table, some_of(bindings))
    share = first / bound if bound else 0.0
    return {"first": round(share, 4), "second": round(1 - share, 4)}


def over_queues(direction: str, bindings: int, counts: Sequence[int] = QUEUES) -> dict[str, dict[str, Any]]:
    """way -> outer, inner or software -> queues -> their least and greatest load, 1 = an even share. Each binding as
    loud as the others."""
    numbers = some_of(bindings)
    found: dict[str, dict[str, Any]] = {}
    for way in ways(direction):
        # To who has one IPv4 header only, outer and inner are the same; the far end of a hairpin is another subscriber.
        kinds = ("outer", "inner", "software") if way == "decap" else ("outer", "software")
        found[way] = {
            by: {str(count): _loads(_core.bench_queues(way, by, numbers, count), count) for count in counts}
            for by in kinds
        }
    return found


def _loads(queues: npt.NDArray[np.uint16], count: int) -> dict[str, float]:
    each = np.bincount(queues, minlength=count) * count / len(queues)
    return {"least": round(float(each.min()), 3), "most": round(float(each.max()), 3)}
