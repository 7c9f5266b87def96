"""bench_compare.py OLD NEW [--worse PERCENT]: two results of `pylwaftr bench`, files or folders, side by side.

Cases are matched by what was measured: name, bindings, frame, features, direction. Two runs met different hours of a
machine: compare what was measured in turns, or on a quiet one. With --worse it ends with 1 if a case's best is so much
slower (cycles, seconds) or less (frames a second).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Case = tuple[str, ...]
Numbers = tuple[float, float]  # best and median; of a router on the wire the median twice

KEY = ("name", "direction", "bindings", "size", "transport", "batch", "wanted_updates_per_second", "seconds_of_a_trial")


def case_of(result: Result) -> Case:
    parts = [str(result[key]) for key in KEY if key in result]
    return (*parts, "+".join(result.get("features", [])))


def numbers_of(result: Result) -> tuple[Numbers, bool] | None:
    """And whether more is better. None: nothing to compare."""
    if "cycles_per_packet" in result:
        return (result["cycles_per_packet"]["best"], result["cycles_per_packet"]["median"]), False
    if result.get("name") == "ports.throughput":
        return (result["frames_per_second"]["median"],) * 2, True
    if result.get("name") == "ports.latency":
        typical = [way["typical_us"]["median"] for way in result["delay"].values() if way is not None]
        return ((sum(typical) / len(typical),) * 2, False) if typical else None
    return None


def documents(path: Path) -> Iterator[Result]:
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        try:
            yield from json.loads(file.read_text()).get("results", [])
        except OSError as fault:
            raise SystemExit(f"bench_compare.py: {file}: {fault.strerror}") from None
        except (ValueError, AttributeError):
            raise SystemExit(f"bench_compare.py: {file} is no JSON of `pylwaftr bench`") from None


def cases(path: Path) -> dict[Case, tuple[Numbers, bool]]:
    return {case_of(result): found for result in documents(path) if (found := numbers_of(result)) is not None}


def change(old: float, new: float) -> float:
    """Per cent."""
    return 100 * (new / old - 1) if old else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--worse", type=float, metavar="PERCENT", help="exit status 1 if a case lost so much")
    given = parser.parse_args()
    old, new = cases(given.old), cases(given.new)
    both = [case for case in old if case in new]
    if not both:
        raise SystemExit(f"bench_compare.py: no case is in both: {len(old)} in {given.old}, {len(new)} in {given.new}")
    worse = 0
    print(f"{'best':>12} {'was':>12} {'%':>7}   {'median':>12} {'was':>12} {'%':>7}   case")
    for case in both:
        (now, more_is_better), (was, _) = new[case], old[case]
        best, median = change(was[0], now[0]), change(was[1], now[1])
        print(f"{now[0]:12.1f} {was[0]:12.1f} {best:+7.1f}   {now[1]:12.1f} {was[1]:12.1f} {median:+7.1f}   "
              f"{' '.join(filter(None, case))}")  # fmt: skip
        worse += given.worse is not None and (-best if more_is_better else best) > given.worse
    print(f"{len(both)} cases; {len(old) - len(both)} only in {given.old}, {len(new) - len(both)} only in {given.new}")
    if worse:
        print(f"{worse} lost more than {given.worse:g} %")
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
