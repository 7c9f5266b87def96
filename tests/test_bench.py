"""`pylwaftr bench`: what it writes and that it counts right. No test says how fast anything has to be."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from pylwaftr import _core
from pylwaftr.bench import child, machine, pcp, plan, plot, report, stats
from pylwaftr.bench.plan import PlanFault
from pylwaftr.cli.bench import bench

TINY = ("--windows", "2", "--seconds", "0.002", "--hugepages", "never", "--json")


def measured(command: str, *arguments: str) -> dict[str, Any]:
    """The document of one run, in a process of its own as for a user."""
    done = subprocess.run(
        [sys.executable, "-c", "from pylwaftr.cli.bench import bench; bench()", command, *TINY, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def check_pair(values: dict[str, float], best_is_least: bool) -> None:
    assert values["best"] > 0
    assert values["median"] > 0
    assert values["best"] <= values["median"] if best_is_least else values["best"] >= values["median"]


def check_document(document: dict[str, Any], kind: str) -> None:
    assert {"cpu", "tsc_hz", "cores", "kernel", "hugepages", "isa", "table_scan"} <= document["machine"].keys()
    assert document["machine"]["hugepages"] == "none"
    assert any("4 KiB" in remark for remark in document["machine"]["remarks"])
    assert document["plan"]["kind"] == kind
    assert document["commit"]
    assert document["results"]
    for result in document["results"]:
        assert {"name", "bindings", "frame_octets", "features"} <= result.keys()
        check_pair(result["cycles_per_packet"], best_is_least=True)
        check_pair(result["mpps"], best_is_least=False)
        # Both say the same: Mpps is the time stamp counter's rate over the cycles.
        said = document["machine"]["tsc_hz"] / result["cycles_per_packet"]["best"] / 1e6
        assert result["mpps"]["best"] == pytest.approx(said, rel=0.01)
    shown = io.StringIO()
    report.show(document, Console(file=shown, width=200))
    assert document["machine"]["cpu"] in shown.getvalue()


def test_forward_every_direction_size_and_feature() -> None:
    document = measured(
        "forward", "--directions", "encap,decap,both,hairpin", "--bindings", "1,1k", "--sizes", "64,imix,1500",
        "--features", "default,mss-clamp+encap-limit,filter-in+filter-out,capture", "--transport", "tcp",
    )  # fmt: skip
    check_document(document, "forward")
    results = document["results"]
    assert len(results) == 4 * 2 * 3 * 4
    octets = {(r["name"], r["size"]): r["frame_octets"] for r in results}
    assert octets["forward.encap", "64"] == 64
    assert octets["forward.decap", "64"] == 94
    assert octets["forward.both", "64"] == 79
    assert octets["forward.decap", "1500"] == 1500
    assert {tuple(r["features"]) for r in results} == {
        (),
        ("mss-clamp", "encap-limit"),
        ("filter-in", "filter-out"),
        ("capture",),
    }
    for result in results:
        assert result["packets"] > 0
        assert result["packets"] % 64 == 0  # whole bursts, and the core has checked that all of them left by an edge
        for beside in ("generator", "floor", "one_binding"):
            check_pair(result[beside]["cycles_per_packet"], best_is_least=True)


def test_table_against_rte_hash() -> None:
    document = measured("table", "--bindings", "2k")
    check_document(document, "table")
    by_name = {result["name"]: result for result in document["results"]}
    assert list(by_name) == ["table.build", *(f"table.{work}" for work in plan.WORKS)]
    assert all("rte_hash" in result for result in by_name.values())
    assert by_name["table.find"]["distance_to_floor"]["best"] > 0
    assert 20 < by_name["table.build"]["octets_per_binding"] < 200


def test_updates_are_seen_right() -> None:
    document = measured(
        "updates", "--bindings", "4k", "--batch", "16", "--rates", "0,10k", "--jobs", "4",
        "--windows", "10", "--seconds", "0.03",  # on a busy machine the writer has no CPU for some of the time
    )  # fmt: skip
    check_document(document, "updates")
    results = document["results"]
    assert [result["name"] for result in results] == ["updates.find", "updates.replace", "updates.grow", "updates.find"]
    for result in results:
        assert (result["missed"], result["wrong"], result["refused"]) == (0, 0, 0)
    assert results[0]["look_ups"] > 0
    assert results[0]["updates"] > 0
    for job in results[1:3]:
        check_pair(job["seconds"], best_is_least=True)


def test_start_from_a_snapshot() -> None:
    document = measured("start", "--bindings", "5k,20k", "--times", "2")
    check_document(document, "start")
    for result in document["results"]:
        steps = [result[f"{step}_seconds"]["best"] for step in ("read", "bind", "forward")]
        assert result["seconds"]["best"] >= sum(steps) - 0.002  # rounded


# --- the formula of the bindings -------------------------------------------------------------------------------


def test_the_table_takes_the_bindings_and_finds_them_by_port() -> None:
    rows = _core.bench_rows(60, 10)  # the end of one address and the beginning of the next
    table = _core.BindingTable(10)
    assert table.bind(rows, _core.SOURCE_CONFIG, 1)["added"] == 10
    for row in rows:
        port = 1 << 10 | int(row["psid"]) << 4
        assert table.find(int(row["ipv4"]), port) == (row["b4"].tobytes(), row["br"].tobytes())
    with pytest.raises(ValueError, match="2\\^28"):
        _core.bench_rows(1 << 28, 1)


def test_no_two_bindings_share_an_address_of_a_b4() -> None:
    rows = _core.bench_rows(0, 100_000)
    assert len(np.unique(rows["b4"], axis=0)) == len(rows)
    assert len(np.unique(np.stack([rows["ipv4"], rows["psid"].astype(np.uint32)]), axis=1).T) == len(rows)


# --- plans -------------------------------------------------------------------------------


@pytest.mark.parametrize("text, value", [("1", 1), ("1k", 1000), ("2.5M", 2_500_000), (" 10m ", 10_000_000)])
def test_numbers(text: str, value: int) -> None:
    assert plan.number(text) == value


@pytest.mark.parametrize("text", ["", "x", "1.5", "-1", "1g", "inf", "nan", "infinityk"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(PlanFault):
        plan.number(text)


@pytest.mark.parametrize(
    "size, v4, v6",
    [
        ("64", [64], [94]),
        ("128", [128], [128]),
        ("1500", [1500], [1500]),
    ],
)
def test_frames(size: str, v4: list[int], v6: list[int]) -> None:
    assert plan.frames(size) == (v4, v6)


def test_imix_is_seven_four_one() -> None:
    v4, v6 = plan.frames("imix")
    assert [v4.count(octets) for octets in (64, 590, 1514)] == [7, 4, 1]
    assert [octets - 40 for octets in v6] == v4


@pytest.mark.parametrize(
    "given",
    [
        plan.Forward(plan.Common(cpu=1), sizes=("64", "imix"), features=("mss-clamp",), tcp=True),
        plan.Table(plan.Common(), rte_hash=False),
        plan.Updates(plan.Common(), rates=(0.0, 1e6)),
        plan.Start(plan.Common(), bindings=(1, 2)),
    ],
    ids=plan.kind,
)
def test_plans_survive_the_way_to_the_child(given: plan.Plan) -> None:
    assert plan.from_json(json.loads(json.dumps(plan.to_json(given)))) == given


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["forward", "--sizes", "63"], "63 octets"),
        (["forward", "--sizes", "9000"], "9000 octets"),
        (["forward", "--directions", "up"], "'up' is none of encap"),
        (["forward", "--features", "magic"], "'magic' is none of"),
        (["forward", "--bindings", "0"], "not between 1"),
        (["table", "--bindings", "10"], "not between 512"),
        (["updates", "--rates", "fast"], "not a number"),
        (["forward", "--plot", "/nowhere/out.png"], "there is no folder /nowhere"),
        (["--windows", "0"], "bench forward"),  # options alone are those of forward
    ],
)
def test_bad_usage_is_exit_status_2(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(bench, arguments)
    assert result.exit_code == 2
    assert complaint in result.output


CPU = str(min(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["table", "--cpu", "9999"], "--cpu: CPU 9999 is not available here: choose from "),
        (["updates", "--writer-cpu", "9999"], "--writer-cpu: CPU 9999 is not available"),
        (["updates", "--cpu", CPU, "--writer-cpu", CPU], "--writer-cpu: that is the CPU that looks up"),
        (["updates", "--batch", "200"], "--batch 200: more than an eighth of 1000 bindings"),
        (["updates", "--rates", "0,1k"], "--rates 1000: 32 updates, a batch, take longer than a window of 0.002 s"),
    ],
)
def test_what_only_the_child_can_refuse_is_one_sentence(arguments: list[str], complaint: str) -> None:
    """Bad input as well: exit status 2."""
    result = CliRunner().invoke(bench, [*arguments, "--bindings", "1k", *TINY])
    assert result.exit_code == 2
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_who_measures_ends_with_who_asked() -> None:
    """Killed, so it can tell nobody."""
    command = [sys.executable, "-c", "from pylwaftr.cli.bench import bench; bench()", "forward", "--bindings", "1"]
    windows = ("--windows", "10000", "--seconds", "0.1", "--hugepages", "never")
    with subprocess.Popen([*command, *windows], stdout=subprocess.DEVNULL) as asking:
        measuring = started_by(asking.pid)
        with os.fdopen(os.pidfd_open(measuring)) as handle:
            asking.kill()
            ended, _, _ = select.select([handle], [], [], 30)
            if not ended:
                os.kill(measuring, signal.SIGKILL)
    assert ended


def started_by(process: int) -> int:
    """The measuring process, once its worker has been at it for a while."""
    children = Path(f"/proc/{process}/task/{process}/children")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for found in children.read_text().split():
            for task in Path(f"/proc/{found}/task").iterdir():
                with suppress(OSError):  # a thread that has ended
                    head, _, tail = (task / "stat").read_text().rpartition(")")
                    if "worker" in head and int(tail.split()[11]) > 10:  # ticks of user time
                        return int(found)
        time.sleep(0.02)
    raise AssertionError("it does not begin")


# --- hugepages, statistics, pictures -------------------------------------------------------------------------------


def test_memory_falls_back_and_says_so() -> None:
    assert child.memory_for("auto", 100, 100).arguments == ("--in-memory",)
    without = child.memory_for("auto", 100, 99)
    assert "--no-huge" in without.arguments
    assert "99 MiB are free" in (without.remark or "")
    with pytest.raises(child.eal_args.MemoryFault, match=r"hugepages\.sh"):
        child.memory_for("always", 100, 99)


def test_best_and_median() -> None:
    windows = np.array([[10, 1000, 0], [10, 3000, 0], [10, 2000, 0]], np.uint64)
    each = stats.cycles(windows)
    assert stats.costs(each, 1_000_000_000) == {
        "cycles_per_packet": {"best": 100.0, "median": 200.0},
        "mpps": {"best": 10.0, "median": 5.0},
    }
    assert stats.ratio(each, each / 2) == {"best": 2.0, "median": 2.0}


def test_the_cpu_has_a_name() -> None:
    assert machine.cpu_model("processor\t: 0\nmodel name\t: A CPU @ 1 GHz\n") == "A CPU @ 1 GHz"
    assert machine.cpu_model("") == "unknown"


def test_outside_of_a_repository_the_commit_is_unknown(tmp_path: Path) -> None:
    assert machine.commit(tmp_path) == "unknown"


def test_a_picture_has_one_line_for_each_case() -> None:
    cost = {"cycles_per_packet": {"best": 1.0, "median": 2.0}}
    base = {"name": "forward.encap", "features": [], "size": "64", **cost}
    lines = plot.series([{**base, "bindings": 1000}, {**base, "bindings": 1}, {**base, "bindings": 1, "size": "128"}])
    assert lines == {"forward.encap 64": [(1, 1.0, 2.0), (1000, 1.0, 2.0)], "forward.encap 128": [(1, 1.0, 2.0)]}


def test_a_picture_goes_over_what_was_varied() -> None:
    cost = {"cycles_per_packet": {"best": 1.0, "median": 2.0}}
    base = {"name": "forward.encap", "features": [], "size": "64", "frame_octets": 64, "bindings": 1000, **cost}
    sizes = [base, {**base, "size": "128", "frame_octets": 128}]
    assert plot.varied(sizes) == plot.OCTETS
    assert plot.series(sizes, plot.OCTETS) == {"forward.encap": [(64, 1.0, 2.0), (128, 1.0, 2.0)]}
    features = [base, {**base, "features": ["mss-clamp", "encap-limit"]}]
    assert plot.varied(features) == plot.FEATURES
    assert plot.feature_names(features) == ["default", "mss-clamp+encap-limit"]
    assert plot.series(features, plot.FEATURES) == {"forward.encap 64": [(0, 1.0, 2.0), (1, 1.0, 2.0)]}
    assert plot.varied([base, {**base, "bindings": 1}]) == plot.varied([base]) == plot.BINDINGS


def test_pictures_are_of_what_has_costs() -> None:
    document = {"plan": {"kind": "forward"}, "results": [{"cycles_per_packet": {}}]}
    assert plot.can_draw(document)
    assert not plot.can_draw({"plan": {"kind": "api"}, "results": [{"name": "load"}]})
    assert not plot.can_draw({"sum_mpps": {}})


def test_without_matplotlib_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(bench, ["forward", "--plot", "out.png"])
    assert result.exit_code == 1
    assert "pip install matplotlib" in result.output


def test_pcp_requests_are_all_answered_and_counted() -> None:
    found = {result["name"]: result for result in pcp.results(pcp.Plan(subscribers=300, batch=64))}
    assert {name for name in found if "readable" not in name} == {
        "pcp.first set", "pcp.renewal", "pcp.renewal from packet to packet", "pcp.set claimed after a loss"
    }  # fmt: skip
    for result in found.values():
        assert result["requests"] == 300
        check_pair(result["requests_per_second"], best_is_least=False)
        check_pair(result["microseconds_each"], best_is_least=True)
    assert 0 < pcp.octets_per_mapping(pcp.Plan(subscribers=2000, batch=64)) < 1000
