"""`pylwaftr bench ports` without a network: its searches against simulated routers, its verdicts, plans and pictures.

Its frames: tests/test_bench_frames.py. With a router on the wire: tests/test_lab_ports.py.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from pylwaftr import _core
from pylwaftr.bench import plan, plot, report, trial, under_test
from pylwaftr.bench.plan import PlanFault, Ports
from pylwaftr.bench.search import LossCurve, Search
from pylwaftr.cli.bench import bench

# --- which rate next ---


def searched(most: float, capacity: float, resolution: float = 0.01) -> tuple[float, int]:
    search, trials = Search(most, resolution), 0
    while search.rate is not None:
        trials += 1
        search.heard(search.rate <= capacity)
    return search.passed, trials


@pytest.mark.parametrize("capacity", [1e4, 123_456, 5e5, 999_999])
def test_search_ends_just_below_what_the_router_can_do(capacity: float) -> None:
    found, trials = searched(1e6, capacity)
    assert capacity * 0.99 <= found <= capacity
    assert trials < 20


def test_search_is_done_at_once_if_the_greatest_rate_passes() -> None:
    assert searched(1e6, 2e6) == (1e6, 1)


def test_search_of_a_router_that_passes_nothing_ends_at_nothing() -> None:
    found, trials = searched(14_880_952, 0)
    assert found == 0
    assert trials < 25
    search = Search(1000, 0.01, least=200)
    tried = []
    while search.rate is not None:
        tried.append(search.rate)
        search.heard(False)
    assert tried == [1000, 500, 250], "125 a second would be too few frames to tell"


def curve(most: float, capacity: float) -> list[tuple[float, float]]:
    one, points = LossCurve(most), []
    while (rate := one.rate) is not None:
        points.append((rate, max(0.0, 1 - capacity / rate)))
        one.heard(points[-1][1])
    return points


def test_loss_curve_ends_after_two_trials_without_loss() -> None:
    rates = [rate for rate, _ in curve(1000, 850)]
    assert rates == [1000, 900, 800, 700]
    assert [rate for rate, _ in curve(1000, 5000)] == [1000, 900]
    assert [rate for rate, _ in curve(1000, 0)] == [1000 - 100 * step for step in range(10)]


# --- what a trial came to ---


def way(sent: int = 1000, right: int = 1000, wrong: int = 0, cycles: int = 999_000, delays: Iterable[int] = ()) -> Any:
    """A sender and a receiver as the core tells of them; the clock has 1 GHz."""
    by = np.array([sent - sent // 4, sent // 4, 0], np.uint32)
    back = np.array([right, 0, 0], np.uint32)
    return (
        {"frames": sent, "cycles": cycles, "worst_lag": 5_000, "by_binding": by},
        {
            "right": right, "wrong": {"outer_destination": wrong} if wrong else {}, "reordered": 1, "duplicates": 0,
            "late": 0, "misdirected": 2, "icmp_errors": 0, "other": 0, "by_binding": back,
            "delays": np.array(list(delays), np.uint64),
        },
    )  # fmt: skip


def a_trial(**of_way: Any) -> trial.Trial:
    (sent, seen), (_, nothing) = way(**of_way), way(0, 0)
    raw = {"sent": {"v4": sent, "v6": {}}, "seen": {"v6": seen, "v4": nothing}}
    return trial.judged(raw, 1e6, 1000, ["encap"], 1_000_000_000)


def test_a_trial_passes_if_all_came_back_and_the_tester_was_in_time() -> None:
    assert a_trial().passed(0)
    assert not a_trial(right=999).passed(0)
    assert a_trial(right=999).passed(0.001)
    assert not a_trial(right=990, wrong=10).passed(0)
    slow = a_trial(cycles=1_100_000_000)
    assert not slow.in_time
    assert not slow.passed(0)
    assert not a_trial(sent=900, right=900).passed(0), "not all were sent"


def test_lost_and_wrong_are_two_things() -> None:
    one = a_trial(right=900, wrong=60)
    of_way = one.ways["encap"]
    assert (of_way.lost, of_way.loss, one.loss) == (40, pytest.approx(0.1), pytest.approx(0.1))
    assert one.beside["misdirected"] == 4, "on both sides"


def test_latency_is_a_median_and_a_percentile_of_frames() -> None:
    of_way = a_trial(delays=range(1000, 2_501_000, 1000)).ways["encap"]
    found = trial.delays_of(of_way)
    assert found == trial.Delays(typical_us=1250.0, worst_us=2498.0, pdv_us=2497.0, tagged=2500)
    runs = [trial.Delays(10.0, 90.0, 80.0, 500), trial.Delays(20.0, 100.0, 80.0, 600), None]
    assert trial.delays_of_runs(runs) == {
        "typical_us": {"median": 15.0, "p1": 10.1, "p99": 19.9},
        "worst_us": {"median": 95.0, "p1": 90.1, "p99": 99.9},
        "pdv_us": {"median": 80.0, "p1": 80.0, "p99": 80.0},
        "tagged": 500,
    }
    assert trial.delays_of_runs([None]) is None


def test_spread_names_bindings_of_which_nothing_came_back() -> None:
    rows = _core.bench_rows(62, 3)
    assert trial.spread(a_trial().ways["encap"], rows) == {
        "bindings": 3,
        "used": 2,
        "addresses": 1,
        "frames_each": {"least": 250, "mean": 500.0, "most": 750},
        "silent": 1,
        "silent_first": ["10.0.0.0 PSID 63/6 offset 6"],
    }


def of_test(name: str, direction: str, octets: int, **more: Any) -> dict[str, Any]:
    rates = {"median": 1000.0, "p1": 900.0, "p99": 1100.0}
    base = {"direction": direction, "size": str(octets), "frame_octets": octets, "frames_per_second": rates}
    return {"name": f"ports.{name}", **base, **more}


def test_a_picture_has_a_panel_for_each_test() -> None:
    one = {key: {"median": value, "p1": value, "p99": value + 1}
           for key, value in (("typical_us", 10), ("worst_us", 50), ("pdv_us", 45))}  # fmt: skip
    results = [
        of_test("throughput", "both", 128),
        of_test("throughput", "both", 64),
        of_test("latency", "both", 64, delay={"encap": one, "decap": None}),
        of_test("pdv", "encap", 64, delay={"encap": one}),
        of_test("loss", "encap", 64, loss={"median": 0.5, "p1": 0.4, "p99": 0.6}),
    ]
    assert plot.panels(results) == {
        "throughput": {"both": [(64, 1000.0, 900.0), (128, 1000.0, 900.0)]},
        "loss": {"encap 64": [(1000.0, 50.0, 60.0)]},
        "latency": {"both: encap": [(64, 10, 50)]},
        "pdv": {"encap": [(64, 45, 46)]},
    }


class Axes:
    """Takes all that is drawn."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: [self] if name == "plot" else self


class Pyplot(Axes):
    def subplots(self, rows: int = 1, columns: int = 1, squeeze: bool = True, **_: Any) -> Any:
        axes = np.empty((rows, columns), object)
        for at in np.ndindex(rows, columns):
            axes[at] = Axes()
        return Axes(), axes if not squeeze else axes[0, 0]


@pytest.mark.parametrize("tests", [1, 2, 3, 4])
def test_there_is_room_for_every_panel(monkeypatch: pytest.MonkeyPatch, tests: int) -> None:
    saved: list[Path] = []
    monkeypatch.setattr(plot, "_save", lambda _, path: saved.append(path))
    loss = {"median": 0.5, "p1": 0.4, "p99": 0.6}
    results = [of_test(name, "encap", 64, loss=loss, delay={}) for name in plan.PORT_TESTS[:tests]]
    document = {"machine": {"cpu": "x"}, "commit": "y", "plan": {"kind": "ports"}, "results": results}
    plot.draw(document, Path("out.png"), Pyplot())
    assert saved == [Path("out.png")]


# --- plans ---

CONFIG = """
interfaces:
  v4: {port: net_null0, addresses: [192.0.2.1/24], next_hop: 192.0.2.254}
  v6: {port: net_null1, addresses: ["2001:db8:ffff::2/64"], next_hop: "2001:db8:ffff::1", mac: "02:00:00:00:00:66"}
softwire: {br_addresses: ["2001:db8:aa::1"]}
bindings: {entries: [{ipv4: 203.0.113.9, b4_ipv6: "2001:db8:9::1"}]}
"""


def test_the_configuration_tells_all_that_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(CONFIG)
    found = under_test.read(Ports("a", "b", config=str(file)))
    assert found.v4 == under_test.Peer4(IPv4Address("192.0.2.1"), None, IPv4Address("192.0.2.254"))
    assert found.v6.mac == bytes.fromhex("020000000066")
    assert [int(row["ipv4"]) for row in found.rows] == [int(IPv4Address("203.0.113.9"))]
    told = under_test.read(Ports("a", "b", config=str(file), router_v4="02:00:00:00:00:44", bindings="5"))
    assert (told.v4.mac, len(told.rows)) == (bytes.fromhex("020000000044"), 5)


MACS = {"router_v4": "02:00:00:00:00:44", "router_v6": "02:00:00:00:00:66"}


@pytest.mark.parametrize(
    "given, complaint",
    [
        ({}, "--router-v4: say the router's MAC"),
        ({"router_v4": "192.0.2.1"}, "in --own-v4 the tester's"),
        ({"router_v4": "192.0.2"}, "'192.0.2' is not an IPv4 address"),
        (MACS, "--bindings: name a file"),
        (MACS | {"bindings": "0"}, "there is no binding"),
        (MACS | {"bindings": "4", "host": "somewhere"}, "--host: 'somewhere'"),
    ],
)
def test_what_is_missing_is_named(given: dict[str, str], complaint: str) -> None:
    with pytest.raises(PlanFault, match=complaint):
        under_test.read(Ports("a", "b", **given))


def test_a_file_of_bindings_without_a_br_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bindings.csv"
    file.write_text("ipv4,psid_offset,psid_len,psid,b4_ipv6\n203.0.113.1,0,0,0,2001:db8::1\n")
    with pytest.raises(PlanFault, match="without a BR address"):
        under_test.read(Ports("a", "b", bindings=str(file), **MACS))


@pytest.mark.parametrize(
    "row, fault",
    [
        ("203.0.113.1,12,6,3", "binding 1: psid_len: psid_offset 12 and psid_len 6 are 18 bits"),
        ("203.0.113.1,6,6,70", "binding 1: psid: is 70; with psid_len 6 the range is 0 to 63"),
    ],
)
def test_bindings_that_no_router_takes_are_refused(tmp_path: Path, row: str, fault: str) -> None:
    file = tmp_path / "bindings.csv"
    file.write_text(f"ipv4,psid_offset,psid_len,psid,b4_ipv6,br_ipv6\n{row},2001:db8::1,2001:db8::2\n")
    with pytest.raises(PlanFault, match=fault):
        under_test.read(Ports("a", "b", bindings=str(file), **MACS))


def test_more_bindings_than_there_may_be_are_refused() -> None:
    with pytest.raises(PlanFault, match="1000000000 is not between"):
        under_test.read(Ports("a", "b", bindings="1000M", **MACS))


def test_the_plan_survives_the_way_to_the_child() -> None:
    given = Ports("net_ring0", "net_ring1", sizes=("64", "imix"), cpus=(1, 2), rate=5e5)
    assert plan.from_json(json.loads(json.dumps(plan.to_json(given)))) == given


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "--v4 and --v6"),
        (["--sizes", "63"], "63 octets"),
        (["--tests", "back-to-back"], "none of throughput"),
        (["--cpus", "1,2,3,4,5"], "one to four CPUs"),
        (["--resolution", "0"], "never reached"),
        (["--accept-loss", "150%"], "not between 0 and 1"),
        (["--rate", "0"], "at a rate of 0"),
        (
            [
                "--v4",
                "net_null0",
                "--v6",
                "net_null0",
                "--router-v4",
                MACS["router_v4"],
                "--router-v6",
                MACS["router_v6"],
                "--bindings",
                "1",
                "--rate",
                "1",
            ],
            "net_null0 is named twice",
        ),
    ],
)
def test_bad_usage_is_exit_status_2(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(bench, ["ports", *arguments])
    assert result.exit_code == 2
    assert complaint in result.output


def test_bindings_by_formula_are_written_for_the_router(tmp_path: Path) -> None:
    file = tmp_path / "bindings.csv"
    done = CliRunner().invoke(bench, ["ports", "--bindings", "70", "--save-bindings", str(file)])
    assert done.exit_code == 0, done.output
    assert len(file.read_text().splitlines()) == 71


# --- the whole program, over rings ---


def measured(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A net_ring gives back on a port what was sent there: a wire with its ends on the same side."""
    command = [sys.executable, "-c", "from pylwaftr.cli.bench import bench; bench()", "ports", "--hugepages", "never",
               "--v4", "net_ring0", "--v6", "net_ring1", *arguments]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_frames_that_come_back_where_they_were_sent_are_misdirected() -> None:
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))[:4]))  # as many loops as there may be
    done = measured("--router-v4", MACS["router_v4"], "--router-v6", MACS["router_v6"], "--bindings", "100", "--json",
                    "--cpus", cpus, "--tests", "throughput,loss,latency", "--rate", "20k", "--seconds", "0.05",
                    "--drain", "0.05", "--resolution", "50%")  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["plan"]["kind"] == "ports"
    assert {"cpu", "tsc_hz", "kernel", "remarks"} <= document["machine"].keys()
    assert any("nothing came back right of encap and decap" in remark for remark in document["machine"]["remarks"])
    both = [result for result in document["results"] if result["direction"] == "both"]
    assert {result["name"] for result in both} == {"ports.throughput", "ports.loss"}
    assert any("no rate to take latency at" in remark for remark in document["machine"]["remarks"])
    assert both[0]["frames_per_second"]["median"] == 0
    assert {result["name"]: result["mpps"] for result in both} == {
        "ports.throughput": {"best": 0, "median": 0},
        "ports.loss": {"best": 0, "median": 0},  # offered, and none came back
    }
    first = both[0]["trials"][0]
    assert first["misdirected"] == first["encap"]["sent"] + first["decap"]["sent"] == 2000
    assert first["encap"]["lost"] == 1000
    assert both[0]["spread"]["encap"]["silent"] == both[0]["spread"]["encap"]["used"]
    shown = io.StringIO()
    report.show(document, Console(file=shown, width=200))
    assert "ports.throughput".removeprefix("ports.") in shown.getvalue()
    assert "nothing back of" in shown.getvalue()
    assert set(plot.panels(document["results"])) == {"throughput", "loss"}


def test_latency_needs_a_rate() -> None:
    done = measured("--router-v4", MACS["router_v4"], "--router-v6", MACS["router_v6"], "--bindings", "1",
                    "--tests", "latency")  # fmt: skip
    assert done.returncode == 2
    assert "at which rate?" in done.stderr


def test_a_router_that_is_not_there_is_one_sentence() -> None:
    done = measured("--router-v4", "192.0.2.1", "--own-v4", "192.0.2.254", "--router-v6", MACS["router_v6"],
                    "--bindings", "1", "--seconds", "0.05")  # fmt: skip
    assert done.returncode == 1
    assert "192.0.2.1 does not answer" in done.stderr
    assert "Traceback" not in done.stderr
