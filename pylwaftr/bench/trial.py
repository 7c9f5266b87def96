"""What one trial of `pylwaftr bench ports` came to, and what several come to together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pylwaftr.rows import Rows, describe

SIDES = {"encap": ("v4", "v6"), "decap": ("v6", "v4")}  # where it is sent, where it comes out
# A tester that needs longer than that for its frames has not offered the rate.
_SLOWER, _SLACK_S = 1.005, 0.02
_NAMED = 3  # silent bindings

Counts = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Way:
    """One direction."""

    wanted: int  # frames
    sent: int
    right: int
    wrong: Mapping[str, int]
    reordered: int
    duplicates: int
    in_time: bool
    offered: float  # frames a second that were
    worst_lag_us: float
    delays_us: npt.NDArray[np.float64]  # of tagged frames
    sent_by: Counts  # binding
    right_by: Counts

    @property
    def lost(self) -> int:
        """What never came back, not even as a wrong frame."""
        return max(self.sent - self.right - sum(self.wrong.values()), 0)

    @property
    def loss(self) -> float:
        """RFC 2544 section 26.3; a wrong frame is as good as lost."""
        return (self.sent - self.right) / self.sent if self.sent else 1.0

    def as_json(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "right": self.right,
            "lost": self.lost,
            "wrong": dict(self.wrong),
            "reordered": self.reordered,
            "duplicates": self.duplicates,
            "loss": round(self.loss, 9),
            "offered_per_second": round(self.offered, 1),
            "worst_lag_us": round(self.worst_lag_us, 1),
        }


@dataclass(frozen=True, slots=True)
class Trial:
    rate: float  # frames a second of each direction
    ways: Mapping[str, Way]
    beside: Mapping[str, int]  # late, misdirected, icmp_errors, other

    @property
    def in_time(self) -> bool:
        """False: the tester was too slow, so it says nothing about the router."""
        return all(way.in_time for way in self.ways.values())

    @property
    def loss(self) -> float:
        sent = sum(way.sent for way in self.ways.values())
        return 1 - sum(way.right for way in self.ways.values()) / sent if sent else 1.0

    def passed(self, accepted: float) -> bool:
        return self.in_time and all(way.sent and way.loss <= accepted for way in self.ways.values())

    def as_json(self) -> dict[str, Any]:
        ways = {name: way.as_json() for name, way in self.ways.items()}
        return {"rate": round(self.rate, 1), "in_time": self.in_time, **ways, **self.beside}


def judged(
    raw: Mapping[str, Mapping[str, Any]], rate: float, frames: int, directions: Sequence[str], tsc_hz: int
) -> Trial:
    """`raw`: of BenchTester.finish()."""
    ways = {}
    for direction in directions:
        sender, receiver = SIDES[direction]
        ways[direction] = _way(raw["sent"][sender], raw["seen"][receiver], rate, frames, tsc_hz)
    seen = raw["seen"].values()
    beside = {
        name: sum(side[name] for side in seen) for name in ("late", "misdirected", "icmp_errors", "other")
    }  # fmt: skip
    return Trial(rate, ways, beside)


def _way(sent: Mapping[str, Any], seen: Mapping[str, Any], rate: float, frames: int, tsc_hz: int) -> Way:
    took = sent["cycles"] / tsc_hz
    planned = max(frames - 1, 0) / rate
    return Way(
        wanted=frames,
        sent=sent["frames"],
        right=seen["right"],
        wrong=seen["wrong"],
        reordered=seen["reordered"],
        duplicates=seen["duplicates"],
        in_time=sent["frames"] == frames and took <= planned * _SLOWER + _SLACK_S,
        offered=(sent["frames"] - 1) / took if took > 0 and sent["frames"] > 1 else float(sent["frames"]),
        worst_lag_us=sent["worst_lag"] / tsc_hz * 1e6,
        delays_us=seen["delays"] / tsc_hz * 1e6,
        sent_by=sent["by_binding"],
        right_by=seen["by_binding"],
    )


def of_runs(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """RFC 8219 section 7: the median of the runs, and the 1st and 99th percentile as their spread."""
    low, middle, high = np.percentile(np.asarray(values, np.float64), (1, 50, 99))
    return {"median": round(float(middle), digits), "p1": round(float(low), digits), "p99": round(float(high), digits)}


def of_rates(values: Sequence[float]) -> dict[str, float]:
    return of_runs(values) | {"best": round(max(values), 1)}


def percentile(delays: npt.NDArray[np.float64], share: float) -> float:
    """A delay that was had: the least that so many per cent do not exceed."""
    return float(np.percentile(delays, share, method="inverted_cdf"))


@dataclass(frozen=True, slots=True)
class Delays:
    """RFC 8219 sections 7.2 (typical and worst case latency) and 7.3.1 (packet delay variation) of one run."""

    typical_us: float
    worst_us: float
    pdv_us: float
    tagged: int


def delays_of(way: Way) -> Delays | None:
    """None: no tagged frame came back."""
    if not len(way.delays_us):
        return None
    worst = percentile(way.delays_us, 99.9)
    return Delays(percentile(way.delays_us, 50), worst, worst - float(way.delays_us.min()), len(way.delays_us))


def delays_of_runs(runs: Sequence[Delays | None]) -> dict[str, Any] | None:
    had = [run for run in runs if run is not None]
    if not had:
        return None
    return {
        "typical_us": of_runs([run.typical_us for run in had], 2),
        "worst_us": of_runs([run.worst_us for run in had], 2),
        "pdv_us": of_runs([run.pdv_us for run in had], 2),
        "tagged": min(run.tagged for run in had),  # frames of a run
    }


def spread(way: Way, rows: Rows) -> dict[str, Any]:
    """How the frames were spread over bindings and addresses, and which bindings nothing came back of."""
    used = way.sent_by > 0
    frames = way.sent_by[used]
    silent = np.flatnonzero(used & (way.right_by == 0))
    return {
        "bindings": len(rows),
        "used": len(frames),
        "addresses": len(np.unique(rows["ipv4"][used])),
        "frames_each": {
            "least": int(frames.min()) if len(frames) else 0,
            "mean": round(float(frames.mean()), 1) if len(frames) else 0.0,
            "most": int(frames.max()) if len(frames) else 0,
        },
        "silent": len(silent),
        "silent_first": [describe(rows[at]) for at in silent[:_NAMED]],
    }
