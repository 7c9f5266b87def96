"""run_tests.py [STAGE...]: every stage of `make test`, one summary line each; the log of a failing stage is printed.

A stage is listed when the files it runs exist. All stages run, whatever failed before.
Logs: .build/test-logs/STAGE.log
Exit codes: 0 all passed, 1 something failed, 2 no such stage.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".build" / "test-logs"
BIN = Path(".venv/bin")
CI = os.environ.get("CI") == "true"
FUZZ_SECONDS = os.environ.get("FUZZ_SECONDS", "20")

# Files of tests that only have to be there until their test is over lie in memory: half of the time of those with a
# store was waiting for the disk.
MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 4 << 30  # octets; a run leaves about one

PATIENCE = 15.0  # seconds between asking a late command to end and ending it

PYTEST_CLOSING = re.compile(r"^(?:\d+ \w+, )*\d+ (?:passed|failed|errors?|skipped)(?:, \d+ \w+)* in .*$", re.MULTILINE)
# What a log says was done, the most telling first.
COUNTS = (
    re.compile(r"^((?:\d+ \w+, )*\d+ passed.*?) in [\d.]+s", re.MULTILINE),
    re.compile(r"^(\d+ passed, \d+ failed)$", re.MULTILINE),
    re.compile(r"no issues found in (\d+ source files?)"),
    re.compile(r"^(\d+ files? already formatted)$", re.MULTILINE),
)


@dataclass(frozen=True)
class Stage:
    name: str
    commands: list[list[str]]
    limit: int  # seconds: three times what it takes on a busy machine
    needs_root: bool = False
    in_memory: bool = False  # the files of its tests, if there is room; each command is pytest's


def files(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def shared() -> tuple[str, ...]:
    """Files go to all CPUs. Those of a file stay together, for they may share a router."""
    return "-n", str(os.cpu_count() or 1), "--dist", "loadfile"


def pytest_command(marks: str, paths: list[str], *more: str) -> list[str]:
    return [f"{BIN}/pytest", "-q", "--no-header", "-rs", "-m", marks, *more, *paths]


def pytest(name: str, marks: str, limit: int, paths: list[str], *more: str) -> Stage:
    return Stage(name, [pytest_command(marks, paths, *more)], limit)


def native(flavour: str, limit: int) -> Stage:
    jobs = str(os.cpu_count() or 1)
    make = ["make", "-s", f"-j{jobs}", "-C", "tests/native", f"FUZZ_SECONDS={FUZZ_SECONDS}", flavour]
    return Stage(flavour if flavour == "fuzz" else f"native-{flavour}", [make], limit)


def stages() -> Iterator[Stage]:
    cpp = files("csrc/**/*.[ch]pp", "tests/native/*.[ch]pp")
    shell = files("scripts/*.sh", "tests/native/*.sh", ".ci/run")
    tests = files("tests/**/test_*.py")
    programs = [Path(name).stem for name in files("tests/native/*.cpp")]
    fuzzers = [name for name in programs if name.startswith("fuzz_")]
    racers = [name for name in programs if name not in fuzzers and ("stress" in name or name.startswith("race_"))]
    counted = [name for name in programs if name.startswith("count_")]

    clang_format = [f"{BIN}/clang-format", "--dry-run", "-Werror", *cpp]
    yield Stage("format", [clang_format, [f"{BIN}/ruff", "format", "--check"]], 120)
    yield Stage("lint", [[f"{BIN}/ruff", "check"], ["shellcheck", *shell], [f"{BIN}/mypy"]], 300)
    if layers := files("tests/test_layers.py"):
        yield pytest("layers", "layers", 120, layers)
    if tests:
        unit = pytest_command("not (layers or vectors or lab or slow)", ["tests"], *shared())
        yield Stage("unit", [unit], 1800, in_memory=True)
    if vectors := files("tests/**/test_vectors*.py", "tests/**/test_replay*.py"):
        yield pytest("vectors", "vectors and not slow", 600, vectors, *shared())
    if slow := [name for name in tests if "mark.slow" in (ROOT / name).read_text()]:
        # A benchmark has a router and a client of its own, each busy on a CPU: nothing runs beside it.
        alone = [name for name in slow if Path(name).name.startswith("test_bench")]
        beside = [name for name in slow if name not in alone]
        groups = [(beside, shared())] * bool(beside) + [(alone, ())] * bool(alone)
        yield Stage("slow", [pytest_command("slow and not lab", names, *how) for names, how in groups], 1200)
    if len(fuzzers) + len(racers) + len(counted) < len(programs):
        yield native("asan", 1800)
    if racers:
        yield native("tsan", 1800)
    if fuzzers:
        yield native("fuzz", 1800)
    if counted:
        yield Stage("instructions", [[f"{BIN}/python", "scripts/instructions.py"]], 600)
    if files("pylwaftr/lab/__main__.py", "pylwaftr/lab.py"):
        yield Stage("lab", [[f"{BIN}/python", "-m", "pylwaftr.lab"]], 600, needs_root=True)
    if lab := files("tests/**/test_lab*.py"):
        # Most of it waits, for timers of kernels and protocols. There is one lab on a machine, so its files take turns.
        turns = [name for name in lab if Path(name).name == "test_lab_chaos.py"]
        beside = [name for name in lab if name not in turns]
        groups = [(beside, shared())] * bool(beside) + [(turns, ())] * bool(turns)
        yield Stage("lab-tests", [pytest_command("lab", names, *how) for names, how in groups], 1200)
    if files("pylwaftr/cli/bench.py"):
        short = ["--bindings", "1k", "--windows", "2"]
        yield Stage(
            "bench",
            [[f"{BIN}/pylwaftr", "bench", what, *short] for what in ("forward", "table", "updates", "start")],
            600,
        )


def run(command: list[str], log: Path, limit: float) -> bool:
    """True when it ended with 0 in time. If late it is ended with all it started, politely first: the lab tidies up."""
    with log.open("a") as out:
        out.write(f"$ {shlex.join(command)[:200]}\n")
        out.flush()
        try:
            child = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError as fault:
            out.write(f"{fault.filename} is missing: make setup\n")
            return False
        try:
            return child.wait(limit) == 0
        except subprocess.TimeoutExpired:
            out.write(f"\nnot finished after {limit:.0f} s: ended\n")
            return False
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if child.poll() is None:
                    os.killpg(child.pid, number)
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(PATIENCE)


def room() -> int:
    """Octets that files in memory may have."""
    try:
        shown = Path("/proc/meminfo").read_text()
        free = os.statvfs(MEMORY)
    except OSError:
        return 0
    if free.f_flag & os.ST_NOEXEC:  # tests write programs, too
        return 0
    available = re.search(r"^MemAvailable: +(\d+) kB$", shown, re.MULTILINE)
    return min(free.f_bavail * free.f_frsize, int(available[1]) * 1024 // 2 if available else 0)


@contextmanager
def folder(stage: Stage) -> Iterator[list[str]]:
    """What tells pytest where the files of this stage's tests go."""
    if not stage.in_memory or room() < MEMORY_NEEDED:
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="lw-", dir=MEMORY, ignore_cleanup_errors=True) as place:
        yield [f"--basetemp={place}/t"]


def judge(stage: Stage) -> bool:
    log = LOGS / f"{stage.name}.log"
    log.write_text("")
    started = time.monotonic()
    # No short cut: a stage says everything that is wrong.
    with folder(stage) as more:
        results = [run(command + more, log, started + stage.limit - time.monotonic()) for command in stage.commands]
    passed = all(results)
    text = log.read_text(errors="replace")
    counts = next((" + ".join(found) for pattern in COUNTS if (found := pattern.findall(text))), "")
    if not passed:
        print(text.rstrip())
    print(f"{stage.name}: {'ok' if passed else 'FAILED'}, {time.monotonic() - started:.1f} s{counts and ', ' + counts}")
    if passed:
        for line in re.findall(r"^SKIPPED .*$", text, re.MULTILINE) + PYTEST_CLOSING.findall(text):
            print(line)
    sys.stdout.flush()
    return passed


def main(wanted: list[str]) -> int:
    chosen = list(stages())
    if unknown := [name for name in wanted if name not in {stage.name for stage in chosen}]:
        print(f"no stage {', '.join(unknown)}; there are: {', '.join(stage.name for stage in chosen)}", file=sys.stderr)
        return 2
    if wanted:
        chosen = [stage for stage in chosen if stage.name in wanted]
    LOGS.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{ROOT / BIN}{os.pathsep}{os.environ['PATH']}"
    passed, failed, skipped = 0, 0, 0
    for stage in chosen:
        if stage.needs_root and os.geteuid() and not CI:
            skipped += 1
            print(f"{stage.name}: not run, needs root: sudo make test")
        elif judge(stage):
            passed += 1
        else:
            failed += 1
    print(f"stages: {passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
