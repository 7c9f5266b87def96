"""`pylwaftr bench api | pcp | sync`: that everything is done and counted, at small sizes. No test says how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from pylwaftr.bench import api, control, sync
from pylwaftr.bench.live import RING
from pylwaftr.bench.pcp_way import rates
from pylwaftr.cli.bench import bench


def measured(kind: str, *arguments: str) -> dict[str, Any]:
    """The results of a quick run by name, in a process of its own as for a user."""
    done = subprocess.run(
        [sys.executable, "-c", "from pylwaftr.cli.bench import bench; bench()", kind, "--quick", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert {"cpu", "cores", "kernel", "load_average", "load_average_before"} <= document["machine"].keys()
    assert document["plan"]["kind"] == kind
    assert document["commit"]
    shown = "\n".join(control.lines(document))
    assert document["machine"]["cpu"] in shown
    assert all(result["name"] in shown for result in document["results"])
    return {result["name"]: result for result in document["results"]}


def check_pair(values: dict[str, float], best_is_least: bool) -> None:
    assert min(values.values()) > 0
    assert values["best"] <= values["median"] if best_is_least else values["best"] >= values["median"]


def check_traffic(result: dict[str, Any]) -> None:
    """The router drops nothing; a ring may run over on a machine that is busy otherwise, and each such frame shows."""
    assert result["maximum_mpps"] > 0
    assert result["ring"] == RING
    for told in (result["traffic"], result["idle"]):
        assert told["offered"] >= told["forwarded"] > 0
        assert told["offered"] - told["forwarded"] == told["lost"] == told["missed"] + told["dropped"]
        assert told["dropped"] == 0, told["drops"]


@pytest.mark.slow
def test_api_does_it_all_and_drops_nothing() -> None:
    found = measured("api", "--bindings", "2k", "--rounds", "2")
    assert list(found) == [
        "api.load", "api.start, empty", "api.dump", "api.create, to acknowledged", "api.create, to forwarding",
        "api.health, for comparison", "api.scrape, this router", "api.scrape, 16 workers", "api.start, with all",
        "api.import",
    ]  # fmt: skip
    for result in found.values():
        if "seconds" in result:
            assert result["rounds"] == 2
            check_pair(result["seconds"], best_is_least=True)
        else:
            assert 0 < result["ms"]["best"] <= result["ms"]["median"] <= result["ms"]["p99"]
    assert found["api.load"]["to_forwarding_s"]["best"] <= found["api.load"]["seconds"]["median"] * 10
    assert found["api.load"]["peak_rss_mib"] >= found["api.load"]["rss_before_mib"]
    assert found["api.dump"]["bindings"] == 2000 + api.QUICK.resident
    start = found["api.start, with all"]
    assert start["bindings"] == 2000 + api.QUICK.resident + api.QUICK.creates
    check_pair(start["to_forwarding_s"], best_is_least=True)
    assert start["to_forwarding_s"]["best"] <= start["seconds"]["best"]
    with_traffic = [name for name in found if "traffic" in found[name]]
    assert with_traffic == [
        "api.load", "api.dump", "api.create, to acknowledged", "api.scrape, this router", "api.scrape, 16 workers",
        "api.start, with all", "api.import",
    ]  # fmt: skip
    for name in with_traffic:
        check_traffic(found[name])


@pytest.mark.slow
def test_pcp_answers_all_and_provisions_all() -> None:
    found = measured("pcp")
    assert found["pcp.memory"]["octets_per_mapping"] > 0
    for name, requests in (("first set", 600), ("renewal", 600)):
        result = found[f"pcp.end to end, {name}"]
        assert result["requests"] == requests
        check_pair(result["requests_per_second"], best_is_least=False)
    assert found["pcp.answer at 500/s"]["requests"] == 150
    paired = found["pcp.storm, announced, in pairs"]
    assert paired["pairs"] > 0
    assert (
        paired["rate_kept"]["lower quartile"] <= paired["rate_kept"]["median"] <= paired["rate_kept"]["upper quartile"]
    )
    for kind in ("ask at once", "announced", "ask at once, in pairs", "announced, in pairs"):
        result = found[f"pcp.storm, {kind}"]
        assert (result["lwb4s"], result["bound"]) == (500, 501)
        assert result["lost"] == 0
        assert not [name for name in result["counts"] if "sets given to two" in name or "refused" in name]


@pytest.mark.slow
def test_sync_gets_every_lease_by_both_ways() -> None:
    found = measured("sync")
    assert list(found) == [
        "sync.decode", "sync.bulk", "sync.change", "sync.stream", "sync.router, bulk", "sync.router, resync",
        "sync.router, change", "sync.router, stream",
    ]  # fmt: skip
    assert found["sync.bulk"]["leases"] == found["sync.router, bulk"]["leases"] == 4000
    assert found["sync.stream"]["changes"] == found["sync.router, stream"]["changes"] == 250
    resync = found["sync.router, resync"]
    assert (resync["leases"], resync["bindings"]) == (4000, 4000 + sync.QUICK.resident)
    assert found["sync.router, change"]["count"] == found["sync.change"]["count"] == sync.QUICK.changes
    for kind in ("bulk", "resync", "change", "stream"):
        check_traffic(found[f"sync.router, {kind}"])


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["api", "--bindings", "10"], "not between 512"),
        (["api", "--rounds", "0"], "0 is not in the range"),
        (["sync", "--leases", "many"], "many"),
    ],
)
def test_bad_usage_is_exit_status_2(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(bench, arguments)
    assert result.exit_code == 2
    assert complaint in result.output


@pytest.mark.parametrize(
    "marks, least, found",
    [
        ([(0.0, 0), (1.0, 10), (2.0, 40)], 1, [10.0, 30.0]),
        ([(0.0, 0), (1.0, 10), (2.0, 40)], 20, [20.0]),
        ([(0.0, 0), (2.0, 10)], 100, [5.0]),
    ],
    ids=["each", "only so many at once", "fewer than a window"],
)
def test_rates_of_windows(marks: list[tuple[float, int]], least: int, found: list[float]) -> None:
    assert rates(marks, least) == found
