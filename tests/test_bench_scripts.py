"""scripts/bench_sweep.py and bench_compare.py: every ready sweep is a command that exists; what changed is told."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.cli.bench import bench
from scripts import bench_compare, bench_sweep

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("sweep", bench_sweep.SWEEPS, ids=lambda sweep: str(sweep.name))
def test_a_sweep_is_a_command_whose_options_are_understood(sweep: bench_sweep.Sweep) -> None:
    name, *words = shlex.split(sweep.command)
    command = bench.commands[name]
    given = command.make_context(name, list(words))
    named = {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    assert named <= given.params.keys()


def test_sets_name_sweeps_each_once() -> None:
    full = [sweep.name for sweep in bench_sweep.chosen(["full", "start"])]
    assert full == list(bench_sweep.SETS["full"])
    with pytest.raises(SystemExit, match="no sweep magic"):
        bench_sweep.chosen(["magic"])


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A program in the place of pylwaftr."""
    program = folder / "stand_in.py"
    program.write_text(text)
    monkeypatch.setenv("PYLWAFTR", f"{sys.executable} {program}")


def test_results_come_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = bench_sweep.BY_NAME["start"]
    stand_in(tmp_path, monkeypatch, "import json, sys; print(json.dumps(sys.argv[1:]))")
    assert bench_sweep.measured(sweep, tmp_path, ["--cpu", "3"], pictures=True)
    said = json.loads((tmp_path / "start.json").read_text())
    assert said[:2] == ["bench", "start"]
    assert said[-5:] == ["--json", "--cpu", "3", "--plot", str(tmp_path / "start.png")]
    (tmp_path / "start.json").unlink()
    stand_in(tmp_path, monkeypatch, "print('half of it'); raise SystemExit(1)")
    assert not bench_sweep.measured(sweep, tmp_path, [], pictures=False)
    assert [path.name for path in tmp_path.iterdir()] == ["stand_in.py"]


def test_transports_are_different_cases() -> None:
    udp = {"name": "forward.encap", "bindings": 1000, "transport": "udp", "features": ["default"]}
    assert bench_compare.case_of(udp) != bench_compare.case_of(udp | {"transport": "tcp"})


def test_the_sweep_over_cpus_takes_no_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        given.append(words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(bench_sweep.subprocess, "run", run)
    assert bench_sweep.measured(bench_sweep.BY_NAME["scaling"], tmp_path, ["--cpu", "3"], pictures=False)
    assert "--cpu" not in given[0]


@pytest.mark.parametrize("script", ["bench_sweep.py", "bench_compare.py", "bench_veth.py"])
def test_a_script_says_what_it_is_for(script: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert script in done.stdout


@pytest.mark.parametrize(
    "script, words, complaint",
    [
        ("bench_sweep.py", ["--draw", "/nowhere"], "no results in /nowhere"),
        ("bench_compare.py", ["/nowhere", "/nowhere"], "/nowhere: No such file"),
        ("bench_compare.py", [__file__, __file__], "is no JSON of `pylwaftr bench`"),
        ("bench_veth.py", ["--bindings", "many"], "'many' is not a number"),
        ("bench_veth.py", ["--feature", "magic"], "'magic' is none of"),
        ("bench_veth.py", ["--feature", "mss-clamp+capture"], "'capture' is no setting of a router"),
    ],
)
def test_a_script_refuses_in_one_sentence(script: str, words: list[str], complaint: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / script), *words], capture_output=True, text=True)
    assert done.returncode
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_stays_of_a_sweep_that_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_sweep.subprocess, "run", stopped)
    monkeypatch.setattr(sys, "argv", ["bench_sweep.py", "quick", "--out", str(tmp_path / "new")])
    assert bench_sweep.main() == 130
    assert not (tmp_path / "new").exists()


def a_result(bindings: int, best: float, **more: Any) -> dict[str, Any]:
    cost = {"cycles_per_packet": {"best": best, "median": 2 * best}}
    return {"name": "forward.encap", "bindings": bindings, "size": "64", "features": [], **cost, **more}


def written(folder: Path, *results: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "forward.json").write_text(json.dumps({"results": results}))
    return folder


def compared(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench_compare.py", *words])
    return bench_compare.main()


def test_two_runs_are_compared_case_by_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = {"name": "ports.throughput", "direction": "both", "bindings": 1, "size": "64", "features": []}
    old = written(
        tmp_path / "old", a_result(1, 100), a_result(1000, 100),
        rate | {"frames_per_second": {"median": 1000.0}},
    )  # fmt: skip
    new = written(tmp_path / "new", a_result(1000, 120), rate | {"frames_per_second": {"median": 1100.0}})
    assert compared(monkeypatch, str(old), str(new)) == 0
    said = capsys.readouterr().out
    assert "+20.0" in said
    assert "+10.0" in said
    assert "2 cases; 1 only in" in said
    assert compared(monkeypatch, str(old), str(new), "--worse", "25") == 0
    assert compared(monkeypatch, str(old), str(new), "--worse", "15") == 1, "more cycles are worse"
    assert compared(monkeypatch, str(new), str(old), "--worse", "5") == 1, "fewer frames are worse"
