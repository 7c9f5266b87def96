"""bench_sweep.py NAME... [--out FOLDER] [-- ARGUMENTS...]: sweeps of `pylwaftr bench`, JSON and a picture each.

Each sweep is one `pylwaftr bench` command, so that its cases take turns on one machine state; --list shows them all.
ARGUMENTS are added to each command but `scaling`, for those of a router on the wire its ports:

  .venv/bin/python scripts/bench_sweep.py quick
  … bench_sweep.py forward-sizes forward-features --out /tmp/new -- --cpu 3
  … bench_sweep.py ports -- --v4 0000:81:00.0 --v6 0000:81:00.1 -c router.yaml --cpus 2,4,6,8
  … bench_sweep.py --draw bench/results/2026-11-22-final

Pictures need matplotlib in the Python that runs this (.venv/bin/pip install matplotlib); without it there is JSON only.
Compare two folders with scripts/bench_compare.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Windows are short and many: on a shared machine some of them meet a quiet moment.
SHORT = "--windows 400 --seconds 0.002"
RFC_SIZES = "64,128,256,512,768,1024,1280,1518"  # RFC 5180 section 5.1.1, as RFC 8219 takes them


@dataclass(frozen=True)
class Sweep:
    name: str
    what: str
    command: str  # behind `pylwaftr bench`
    takes_more: bool = True  # ARGUMENTS are for it too

    def words(self) -> list[str]:
        program = shlex.split(os.environ.get("PYLWAFTR", f"{sys.executable} -m pylwaftr"))
        return [*program, "bench", *shlex.split(self.command), "--json"]


SWEEPS = (
    Sweep("forward", "the baseline", f"forward --directions encap,decap,both --bindings 1,1k,1M {SHORT}"),
    Sweep(
        "forward-bindings",
        "all ways of the fast path, 1 to 10M bindings (4 GB)",
        f"forward --directions encap,decap,both,hairpin --bindings 1,1k,100k,1M,10M {SHORT}",
    ),
    Sweep(
        "forward-sizes",
        "sizes of frames at 1M bindings",
        f"forward --directions encap,decap,both --bindings 1M --sizes 64,128,256,512,1024,imix,1500 {SHORT}",
    ),
    Sweep(
        "forward-features",
        "each feature on its own at 1M bindings",
        "forward --directions encap,decap --bindings 1M --transport tcp --features default,mss-clamp,no-flow-label,"
        f"encap-limit,pipe-dscp,ecn-compatibility,binding-counters,filter-in,filter-out,capture {SHORT}",
    ),
    Sweep("table-1M", "look-ups and changes beside rte_hash, 1M bindings", "table --bindings 1M"),
    Sweep("table", "the same, 1M and 10M bindings", "table --bindings 1M,10M"),
    Sweep(
        "updates-minutes",
        "look-ups checked for two minutes while another core writes",
        "updates --bindings 1M --rates 1M --windows 2400 --seconds 0.05 --jobs 5",
    ),
    Sweep("updates-1M", "look-ups while another core writes, 1M bindings", f"updates --bindings 1M {SHORT}"),
    Sweep(
        "updates",
        "the same at two rates, 1M and 10M bindings",
        f"updates --bindings 1M,10M --rates 0,1M {SHORT} --jobs 5",
    ),
    Sweep("start", "from a snapshot to forwarding", "start --bindings 10k,100k,1M"),
    Sweep("scaling", "one worker on each CPU, alone and together", "scaling --windows 40 --seconds 0.02", False),
    Sweep(
        "ports-sizes",
        "a router on the wire: throughput and latency over the sizes of RFC 8219",
        f"ports --tests throughput,latency,pdv --directions encap,decap,both --sizes {RFC_SIZES},imix",
    ),
    Sweep(
        "ports-loss",
        "a router on the wire: loss over rate",
        "ports --tests loss --directions encap,decap,both --sizes 64,imix,1518",
    ),
    Sweep(
        "ports-rfc",
        "a router on the wire, as long and often as RFC 8219 asks for: days",
        f"ports --tests throughput,latency,pdv --sizes {RFC_SIZES} --seconds 120 --repeat 20 --resolution 0.1%",
    ),
)
BY_NAME = {sweep.name: sweep for sweep in SWEEPS}
SETS = {  # what several are called together
    "quick": ("forward", "table-1M", "updates-1M", "start"),
    "full": ("forward-bindings", "forward-sizes", "forward-features", "table", "updates", "start", "scaling"),
    "ports": ("ports-sizes", "ports-loss"),
}


def chosen(names: Sequence[str]) -> list[Sweep]:
    """Each once, in the order of their names. SystemExit for one that is not there."""
    found: dict[str, Sweep] = {}
    for name in names:
        for one in SETS.get(name, (name,)):
            if one not in BY_NAME:
                raise SystemExit(f"bench_sweep.py: there is no sweep {name}: see --list")
            found[one] = BY_NAME[one]
    return list(found.values())


def listed() -> Iterator[str]:
    for sweep in SWEEPS:
        yield f"{sweep.name:18} {sweep.what}"
        yield f"{'':18}   {sweep.command}"
    for name, members in SETS.items():
        yield f"{name:18} {', '.join(members)}"


def measured(sweep: Sweep, out: Path, more: Sequence[str], pictures: bool) -> bool:
    """True when it ended well; its file is there then, and whole."""
    part = out / f".{sweep.name}.part"
    words = [*sweep.words(), *(more if sweep.takes_more else ())]
    if pictures:
        words += ["--plot", str(out / f"{sweep.name}.png")]
    print(f"== {sweep.name}: {sweep.command} {shlex.join(more)}".rstrip(), flush=True)
    began = time.monotonic()
    try:
        with part.open("wb") as file:
            status = subprocess.run(words, cwd=ROOT, stdout=file, check=False).returncode
        if status == 0:
            part.rename(out / f"{sweep.name}.json")
    finally:  # Ctrl-C, too
        part.unlink(missing_ok=True)
    print(
        f"   {'done' if status == 0 else f'FAILED with status {status}'}, {time.monotonic() - began:.0f} s", flush=True
    )
    return status == 0


def draw(folder: Path) -> None:
    """The pictures of results that are there."""
    from pylwaftr.bench import plot

    files = sorted(folder.glob("*.json"))
    if not files:
        raise SystemExit(f"bench_sweep.py: there are no results in {folder}")
    try:
        pyplot = plot.library()
    except plot.PlotFault as fault:
        raise SystemExit(f"bench_sweep.py: {fault}") from None
    for file in files:
        document = json.loads(file.read_text())
        if plot.can_draw(document):
            plot.draw(document, file.with_suffix(".png"), pyplot)
            print(file.with_suffix(".png"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="sweeps, or quick, full, ports")
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the results (bench/results/DATE-NAME)")
    parser.add_argument("--resume", action="store_true", help="leave out what has a result in FOLDER already")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="only the pictures of results that are there")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    given, more = parser.parse_args(words[:at]), words[at + 1 :]
    if given.list:
        print("\n".join(listed()))
        return 0
    if given.draw is not None:
        draw(given.draw)
        return 0
    if not given.names:
        parser.error("name a sweep: see --list")
    sweeps = chosen(given.names)
    out = (given.out or ROOT / "bench" / "results" / f"{datetime.now(UTC):%Y-%m-%d}-{given.names[0]}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    pictures = importlib.util.find_spec("matplotlib") is not None
    if not pictures:
        print("no pictures: matplotlib is not installed (.venv/bin/pip install matplotlib)")
    if given.resume:
        sweeps = [sweep for sweep in sweeps if not (out / f"{sweep.name}.json").exists()]
    try:
        failed = [sweep.name for sweep in sweeps if not measured(sweep, out, more, pictures)]
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        with suppress(OSError):  # there are results
            out.rmdir()
    print(f"results: {out}" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
