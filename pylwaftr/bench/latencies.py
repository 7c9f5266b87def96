"""Results of things that are done again and again from outside, in seconds or milliseconds of wall clock."""

from __future__ import annotations

import statistics
from typing import Any

from pylwaftr.bench import stats


def pair(seconds: list[float]) -> dict[str, float]:
    return stats.pair(min(seconds), statistics.median(seconds))


def times(name: str, seconds: list[float], goal: str = "") -> dict[str, Any]:
    return {"name": name, "goal": goal, "rounds": len(seconds), "seconds": pair(seconds)}


def ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def latencies(name: str, seconds: list[float], goal: str = "") -> dict[str, Any]:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {
        "name": name,
        "goal": goal,
        "count": len(seconds),
        "ms": {"best": ms(ordered[0]), "median": ms(statistics.median(ordered)), "p99": ms(p99)},
    }
