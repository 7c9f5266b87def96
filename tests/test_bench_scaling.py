"""`pylwaftr bench scaling` and the spread of packets: what runs together, what is reckoned, what the model says."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from pylwaftr import _core
from pylwaftr.bench import plan, plot, report, scaling, scaling_model, share_lines, shares
from pylwaftr.bench.scaling_model import Case
from pylwaftr.cli.bench import bench
from tests.engine_rig import told
from tests.test_bench import check_pair, measured
from tests.test_bench_source import HEAD

CPUS = sorted(os.sched_getaffinity(0))


def test_workers_alone_and_together() -> None:
    document = measured(
        "scaling", "--bindings", "1k", "--directions", "both,encap,hairpin", "--sizes", "64,imix", "--transport", "tcp",
    )  # fmt: skip
    assert document["plan"]["kind"] == "scaling"
    assert document["machine"]["measured_cpus"] == list(scaling_model.cores_first(CPUS))
    results = document["results"]
    assert [result["name"] for result in results] == [f"scaling.{n + 1}" for n in range(len(CPUS))] * 6
    for result in results:
        workers = result["workers"]
        check_pair(result["cycles_per_packet"], best_is_least=True)
        check_pair(result["mpps"], best_is_least=False)
        said = workers * document["machine"]["tsc_hz"] / result["cycles_per_packet"]["best"] / 1e6
        assert result["mpps"]["best"] == pytest.approx(said, rel=0.01)
        sides = {"both": {"v4", "v6"}, "encap": {"v4"}, "hairpin": {"v6"}}[result["direction"]]
        if workers == 1:
            assert (
                [one["cpu"] for one in result["by_worker"]] == result["cpus"] == list(scaling_model.cores_first(CPUS))
            )
            assert result["ratio"]["median"] == result["of_cpu_time"]["ratio"]["median"] == 1
            continue
        # Others only take time away.
        assert result["of_cpu_time"]["mpps"]["median"] >= result["mpps"]["median"]
        assert all(0 < one["cpu_share"] <= 1 for one in result["by_worker"])
        assert len(result["by_worker"]) == len(result["cpus"]) == workers
        assert result["load"]["least"] <= 1 <= result["load"]["most"]
        for one in result["by_worker"]:  # each worker had both its queues, and all ways of the case
            assert {side for side, packets in one["packets"].items() if packets} == sides
    assert [one["direction"] for one in document["model"]] == ["both", "both", "encap", "encap", "hairpin", "hairpin"]
    for one in document["model"]:
        assert one["points"][0]["mpps"] == pytest.approx(one["alone_mpps"], abs=0.001)
        assert one["queues"].keys() == set(shares.ways(one["direction"]))
    assert plot.can_draw(document)
    shown = io.StringIO()
    report.show(document, Console(file=shown, width=200))
    assert f"CPUs {','.join(map(str, document['machine']['measured_cpus']))} of" in shown.getvalue()
    assert "model, both, 1,000 bindings" in shown.getvalue()
    assert "load of a queue, decap, rss software" in shown.getvalue()


def test_the_teams_are_each_alone_and_so_many_of_the_first() -> None:
    common = plan.Common()
    assert scaling.teams_of(plan.Scaling(common), 3) == [(0,), (1,), (2,), (0, 1), (0, 1, 2)]
    assert scaling.teams_of(plan.Scaling(common, workers=(1, 3)), 3) == [(0,), (1,), (2,), (0, 1, 2)]
    assert scaling.teams_of(plan.Scaling(common), 1) == [(0,)]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--workers", "128"], "128 workers need 128 CPUs"),
        (["--cpus", f"{CPUS[0]},{CPUS[0]}"], "each CPU once"),
        (["--cpus", "4000"], "--cpus: CPU 4000 is not available"),
        (["--features", "mss-clamp+binding-counters"], "binding-counters: not with several workers"),
        (["--workers", "0"], "not between 1"),
    ],
)
def test_what_cannot_be_measured(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(bench, ["scaling", "--bindings", "1k", *arguments])
    assert result.exit_code == 2
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_its_plan_survives_the_way_to_the_child() -> None:
    given = plan.Scaling(plan.Common(), workers=(2,), cpus=(1, 0), tcp=True, cache_mib=1.5)
    assert plan.from_json(json.loads(json.dumps(plan.to_json(given)))) == given


# --- the model ----------------------------------------------------------------------------------------------------

ALONE = {
    "direction": "both", "bindings": 1_000_000, "frame_octets": 79, "alone_mpps": 15.0, "cycles": 133.0,
    "second_buckets": 0.15, "table_octets": 30_000_000, "cache_octets": 0, "memory_gbytes": 20.0, "line_gbits": 100.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "what, changed, limits",
    [
        ("two lines and 15 % of a third", {}, {"memory": 20e3 / (2.15 * 64), "line": 2 * 100e3 / 8 / (99 + 24)}),
        ("half of the table is near", {"cache_octets": 15_000_000}, {"memory": 20e3 / (2.15 * 32), "line": 203.3}),
        ("all of it is", {"cache_octets": 40_000_000}, {"line": 203.3}),
        (
            "a softwire's frames leave",
            {"direction": "encap", "frame_octets": 64},
            {"memory": 145.3, "line": 12_500 / (104 + 24)},
        ),
        (
            "a softwire's frames come in",
            {"direction": "decap", "frame_octets": 94},
            {"memory": 145.3, "line": 12_500 / (94 + 24)},
        ),
    ],
)
def test_what_ends_more_workers(what: str, changed: dict[str, Any], limits: dict[str, float]) -> None:
    found = scaling_model.model(Case(**{**ALONE, **changed}))
    assert found["limits_mpps"] == pytest.approx(limits, abs=0.1), what
    assert found["linear_until_workers"] == {name: int(value / 15) for name, value in limits.items()}
    lowest = min(limits, key=lambda name: limits[name])
    for point in found["points"]:
        linear = 15 * point["cores"]
        assert point["mpps"] == pytest.approx(min(linear, limits[lowest]), abs=0.1)
        assert point["limit"] == ("workers" if linear <= limits[lowest] else lowest)


def test_the_model_has_both_hyper_threads_where_they_were_measured() -> None:
    found = scaling_model.model(Case(**ALONE, siblings=1.25), workers=(2, 64))
    assert [point["with_siblings_mpps"] for point in found["points"]] == [37.5, pytest.approx(145.3, abs=0.1)]
    assert any("37.5 with a worker on each hyper-thread" in line for line in scaling_model.lines(found))
    assert "with_siblings_mpps" not in scaling_model.model(Case(**ALONE))["points"][0]


def test_a_team_of_siblings_is_known() -> None:
    whole = {"by_worker": [{"cpu_share": 0.99}, {"cpu_share": 0.95}]}
    two = {"workers": 2, "cpus": [0, 1], "of_cpu_time": {"ratio": {"median": 1.3}}, **whole}
    one = {"workers": 1, "cpus": [0, 1], "of_cpu_time": {"ratio": {"median": 1.0}}, **whole}
    seldom = {**two, "by_worker": [{"cpu_share": 0.15}, {"cpu_share": 0.99}]}
    assert scaling.siblings_ratio([one, two], lambda _: (0, 0)) == 1.3
    assert scaling.siblings_ratio([one, two], lambda cpu: (0, cpu)) is None
    assert scaling.siblings_ratio([one], lambda _: (0, 0)) is None
    assert scaling.siblings_ratio([one, seldom], lambda _: (0, 0)) is None, "they hardly ever ran at the same time"


def host(folder: Path, cores: dict[int, tuple[int, int]]) -> Path:
    for cpu, (package, core) in cores.items():
        topology = folder / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
        for index, (level, size) in enumerate(((1, "48K"), (2, "2M"), (3, "105M"))):
            cache = folder / f"cpu{cpu}" / "cache" / f"index{index}"
            cache.mkdir(parents=True)
            (cache / "level").write_text(f"{level}\n")
            (cache / "size").write_text(f"{size}\n")
    return folder


def test_one_cpu_of_each_core_first(tmp_path: Path) -> None:
    root = host(tmp_path, {0: (0, 0), 1: (0, 0), 2: (0, 1), 3: (0, 1), 4: (1, 0)})
    assert scaling_model.cores_first([0, 1, 2, 3, 4], root) == (0, 2, 4, 1, 3)
    assert scaling_model.cores_first([9, 8], root) == (8, 9), "a host that does not tell"
    assert scaling_model.core_cache(0, root) == 2 << 20
    assert scaling_model.core_cache(9, root) == 0


def test_a_picture_goes_over_workers() -> None:
    base = {"features": [], "size": "64", "bindings": 1, "direction": "both"}
    results = [
        {**base, "workers": n, "of_cpu_time": {"mpps": {"best": 10.0 * n, "median": 9.0 * n}}} for n in (2, 1)
    ]  # fmt: skip
    assert plot.rates(results) == {"direction both": [(1, 10.0, 9.0), (2, 20.0, 18.0)]}
    assert list(plot.rates([*results, {**results[0], "size": "imix"}])) == ["size 64", "size imix"]


# --- the spread ---------------------------------------------------------------------------------------------------

COUNTED = """
table = _core.BindingTable(1000, accounts=True)
assert not table.bind(rows, 0, 1)["refused"]
engine = engine_of(*NULL)
side, way = sys.argv[2:]
port = engine.worker_stats()[0]["queues"][side == "v6"]["port"]
words = words_of(MOST)
one = _core.BenchSource(port, 0, way, 100, [94], base[side]["mac"], words, seed=5)
engine.start()
wait_for(lambda: words[9] > 3000)
words[0] = 0
given = int(words[9])
wait_for(lambda: sum(n for n, _ in engine.progress()) >= int(words[9]))
engine.stop()
one.detach()
found = {(int(row["ipv4"]), int(row["psid"])): row for row in engine.binding_counters()}
each = [found.get((int(row["ipv4"]), int(row["psid"]))) for row in rows]
done(given=int(words[9]), each=[0 if row is None else int(row["packets_in"] + row["packets_out"]) for row in each])
"""


@pytest.mark.parametrize("side, way", [("v4", "encap"), ("v6", "decap")])
def test_the_draws_are_those_of_the_packets(side: str, way: str, tmp_path: Path) -> None:
    found = told(HEAD + COUNTED, tmp_path, side, way)
    drawn = _core.bench_draws(way, 100, found["given"], 5)
    assert np.bincount(drawn, minlength=100).tolist() == found["each"]


def test_a_hairpinned_packet_takes_two_draws() -> None:
    assert _core.bench_draws("hairpin", 50, 10).tolist() == _core.bench_draws("encap", 50, 20)[::2].tolist()
    with pytest.raises(ValueError, match="bindings"):
        _core.bench_draws("encap", 0, 1)


def test_a_small_sample_is_told_whole() -> None:
    found = shares.over_bindings("encap", 130, 1000)
    drawn = Counter(_core.bench_draws("encap", 130, 1000).tolist())
    assert found["sample"]["packets_each"] == {"least": min(drawn.values()), "mean": 7.692, "most": max(drawn.values())}
    assert found["sample"]["used"] == len(drawn)
    assert (found["addresses"], found["sample"]["addresses"]) == (3, 3)
    assert found["sample"]["used_expected"] == found["used_expected"] == pytest.approx(len(drawn), abs=1)
    few = shares.over_bindings("encap", 1_000_000, 10)
    assert few["sample"]["packets_each"]["least"] == 0
    assert few["used_expected"] == 10.0
    assert shares.over_bindings("decap", 1, 64)["used_expected"] == 1.0


def test_the_table_knows_which_bucket_a_key_is_in() -> None:
    """First buckets are filled first: an empty table has all keys there, a full one many elsewhere."""
    numbers = np.arange(2000, dtype=np.uint32)
    roomy, full = _core.BindingTable(200_000), _core.BindingTable(100_000)
    assert roomy.bind(_core.bench_rows(0, 1000), 0, 1)["added"] == 1000
    assert _core.bench_homes(roomy, numbers) == (1000, 1000)
    assert full.bind(_core.bench_rows(0, 100_000), 0, 1)["added"] == 100_000
    share = shares.buckets(full, 100_000)
    assert 0.05 < share["second"] < 0.3
    assert share["first"] + share["second"] == pytest.approx(1)


# Microsoft, "Verifying the RSS hash calculation": 66.9.149.187 to 161.142.100.80 is 0x323e8fc2 without ports. Here the
# far end is ours, so the hash is worked out bit by bit.
KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)  # fmt: skip


def toeplitz(octets: bytes) -> int:
    key, bits = int.from_bytes(KEY), len(KEY) * 8
    words = int.from_bytes(octets)
    found = 0
    for at in range(len(octets) * 8):
        if words >> (len(octets) * 8 - 1 - at) & 1:
            found ^= key >> (bits - 32 - at) & 0xFFFFFFFF
    return found


def test_toeplitz_is_microsofts() -> None:
    assert toeplitz(bytes([66, 9, 149, 187, 161, 142, 100, 80])) == 0x323E8FC2
    numbers = np.arange(0, 5000, 77, dtype=np.uint32)
    rows = _core.bench_rows(0, 5000)[::77]
    host = bytes([198, 51, 100, 1])
    wanted = {
        ("encap", "outer"): [host + int(row["ipv4"]).to_bytes(4) for row in rows],
        ("decap", "outer"): [row["b4"].tobytes() + row["br"].tobytes() for row in rows],
        ("decap", "inner"): [int(row["ipv4"]).to_bytes(4) + host for row in rows],
    }
    for (way, by), tuples in wanted.items():
        found = _core.bench_queues(way, by, numbers, 6)
        assert found.tolist() == [toeplitz(octets) % 128 % 6 for octets in tuples], (way, by)


def test_loads_of_queues() -> None:
    found = shares.over_queues("both", 20_000, (1, 2, 3))
    assert {way: set(kinds) for way, kinds in found.items()} == {
        "encap": {"outer", "software"},
        "decap": {"outer", "inner", "software"},
    }
    for kinds in found.values():
        for counts in kinds.values():
            assert counts["1"] == {"least": 1.0, "most": 1.0}
            for one in counts.values():
                assert one["least"] <= 1 <= one["most"] < 1.5
    # One binding is in one queue.
    assert shares.over_queues("hairpin", 1, (4,))["hairpin"]["software"]["4"] == {"least": 0.0, "most": 4.0}
    with pytest.raises(ValueError, match="hairpinned"):
        _core.bench_queues("hairpin", "inner", np.zeros(1, np.uint32), 2)
    with pytest.raises(ValueError, match="1 to 128"):
        _core.bench_queues("encap", "outer", np.zeros(1, np.uint32), 129)


def test_a_few_addresses_in_a_row_are_spread_as_by_lot() -> None:
    """Whatever the secret is: 16 addresses over four workers."""
    random = Random(1)
    first_of_each = np.arange(16, dtype=np.uint32) * 64
    for _ in range(200):
        queues = _core.bench_queues("encap", "software", first_of_each, 4, secret=random.getrandbits(64))
        assert np.bincount(queues).max() <= 11


def test_forward_tells_how_its_packets_were_spread() -> None:
    document = measured("forward", "--directions", "both,hairpin", "--bindings", "1,1k")
    for result in document["results"]:
        spread, direction = result["spread"], result["name"].removeprefix("forward.")
        packets = {way: spread[way]["packets"] for way in shares.ways(direction)}
        assert sum(packets.values()) == result["packets"]
        assert max(packets.values()) - min(packets.values()) <= 64 * document["plan"]["common"]["windows"]
        assert spread["buckets"]["first"] > 0.5
        assert spread["queues"].keys() == packets.keys()
        said = share_lines.line(spread)
        assert all(f"{spread[way]['packets']:,} {way}" in said for way in packets)
        if direction == "both":
            assert f"decap inner {spread['queues']['decap']['inner']['16']['most']:.2f}" in said
