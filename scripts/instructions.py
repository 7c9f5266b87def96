"""instructions.py [--update]: counts the instructions of plain packets and compares them with the kept band.

A guard that is no timer: callgrind counts what Lane::receive executes, the same on a busy machine as on a quiet one.
The program is tests/native/count_lane.cpp, the band tests/native/instructions.json. Compilers differ, so the band is
some percent wide. A count below it has to be taken over too: else the gain could be lost unseen.

Exit codes: 0 within the band, 1 outside or not to be counted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BAND = ROOT / "tests" / "native" / "instructions.json"
PROGRAM = ROOT / "build" / "sanitized" / "count" / "count_lane"
BURSTS = 100
FUNCTION = "*lane_receives*"  # of count_lane.cpp
DEVIATION = 0.05


class Fault(Exception):
    """Nothing could be counted; the text says why."""


def build() -> None:
    jobs = os.environ.get("PYLWAFTR_JOBS") or str(os.cpu_count() or 1)
    done = subprocess.run(["make", "-s", f"-j{jobs}", "-C", str(ROOT / "tests" / "native"), "count"], check=False)
    if done.returncode:
        raise Fault("tests/native/count_lane.cpp could not be built")


def count(way: str) -> float:
    """Instructions a packet."""
    with tempfile.TemporaryDirectory(prefix="pylwaftr-count-") as folder:
        out = Path(folder) / "callgrind.out"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--toggle-collect={FUNCTION}"]
        try:
            done = subprocess.run(
                [*valgrind, str(PROGRAM), way, str(BURSTS)], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise Fault("valgrind is missing: sudo apt-get install valgrind") from None
        packets = re.search(r"^(\d+) packets$", done.stdout, re.MULTILINE)
        if done.returncode or not packets:
            raise Fault(f"count_lane {way} failed:\n{done.stdout}{done.stderr}")
        total = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
    if not total or int(total[1]) == 0:
        raise Fault(f"callgrind saw no function {FUNCTION} in count_lane")
    return int(total[1]) / int(packets[1])


def judge(counted: dict[str, float], band: dict[str, float]) -> list[str]:
    """What is outside of the band, one sentence each."""
    faults = []
    for way, kept in band.items():
        change = counted[way] / kept - 1
        if abs(change) <= DEVIATION:
            continue
        what = "more than" if change > 0 else "less than"
        advice = (
            "make it cheaper, or say in the commit what the packets get for it and run"
            if change > 0
            else "good; so that it stays, run"
        )
        faults.append(
            f"{way}: {counted[way]:.1f} instructions a packet, {abs(change):.1%} {what} the {kept:.1f} of "
            f"{BAND.relative_to(ROOT)}: {advice} scripts/instructions.py --update"
        )
    return faults


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--update"]):
        print(__doc__, file=sys.stderr)
        return 1
    band: dict[str, float] = json.loads(BAND.read_text())["instructions_per_packet"]
    try:
        build()
        # Each way is a process of its own with one thread: the ways go to all CPUs.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            counted = dict(zip(band, pool.map(count, band), strict=True))
    except Fault as fault:
        print(fault, file=sys.stderr)
        return 1
    for way, instructions in counted.items():
        print(f"{way}: {instructions:.1f} instructions a packet (kept: {band[way]:.1f}, +-{DEVIATION:.0%})")
    if arguments:
        kept = {way: round(instructions, 1) for way, instructions in counted.items()}
        BAND.write_text(json.dumps({"instructions_per_packet": kept}, indent=2) + "\n")
        print(f"written: {BAND.relative_to(ROOT)}")
        return 0
    faults = judge(counted, band)
    for fault_text in faults:
        print(fault_text, file=sys.stderr)
    print(f"{len(counted) - len(faults)} passed, {len(faults)} failed")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
