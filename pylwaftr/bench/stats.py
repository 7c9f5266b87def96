"""From windows to numbers. The machine is never quiet: the best window says what the code costs, the median what was
had, and ratios are taken window by window within one round, where both sides met the same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Windows = npt.NDArray[np.uint64]  # [round, (operations, cycles, …)]


def cycles(windows: Windows) -> npt.NDArray[np.float64]:
    """Per operation, window by window."""
    return np.asarray(windows[:, 1] / np.maximum(windows[:, 0], 1), np.float64)


def pair(best: float, median: float, digits: int = 3) -> dict[str, float]:
    return {"best": round(best, digits), "median": round(median, digits)}


def seconds(values: npt.NDArray[np.float64]) -> dict[str, float]:
    return pair(float(values.min()), float(np.median(values)), 6)


def costs(each: npt.NDArray[np.float64], tsc_hz: int) -> dict[str, Any]:
    """Cycles and millions a second, best and median."""
    best, median = float(each.min()), float(np.median(each))
    return {
        "cycles_per_packet": pair(best, median),
        "mpps": pair(tsc_hz / best / 1e6, tsc_hz / median / 1e6, 6),
    }


def ratio(over: npt.NDArray[np.float64], under: npt.NDArray[np.float64]) -> dict[str, float]:
    """Of the best windows, and the median of the ratios of each round."""
    return pair(float(over.min() / under.min()), float(np.median(over / under)))
