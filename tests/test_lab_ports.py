"""`pylwaftr bench ports` and a router on the wire: veth pairs and packet sockets, no static neighbours.

A trial is so short that all of it fits the rings: nothing is lost because a machine is slow.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pylwaftr import _core, binding_files
from pylwaftr.lab.commands import namespaces
from pylwaftr.rows import Rows
from scripts import bench_veth

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns]

RATE, SECONDS = 500, 0.5  # 250 frames each way
WAYS = ("encap", "decap")
BOUND, MISSING, MOVED = slice(0, 48), slice(48, 56), slice(56, 64)  # of 64 bindings, as the router has them


@dataclass(frozen=True)
class Wire:
    veth: bench_veth.Veth
    rows: Rows

    def results(self, which: slice, *arguments: str) -> list[dict[str, Any]]:
        """Of a tester that takes these bindings to be there."""
        return list(self.document(which, *arguments)["results"])

    def document(self, which: slice, *arguments: str) -> dict[str, Any]:
        table = self.veth.folder / "tester.csv"
        binding_files.save(table, self.rows[which])
        command = self.veth.bench(
            "--config", str(self.veth.config), "--bindings", str(table), "--rate", str(RATE),
            "--seconds", str(SECONDS), "--drain", "1", "--resolution", "50%", "--json", *arguments,
        )  # fmt: skip
        done = subprocess.run(command, cwd=bench_veth.ROOT, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    rows = _core.bench_rows(0, 64)
    routed = np.delete(rows, np.arange(64)[MISSING])
    routed["b4"][-8:, 15] ^= 1
    with bench_veth.veth() as made:
        table = made.folder / "router.csv"
        binding_files.save(table, routed)
        router = made.router({"bindings": {"file": str(table)}})
        try:
            yield Wire(made, rows)
        finally:
            router.stop()
    assert f"{bench_veth.PREFIX}{os.getpid()}" not in namespaces()


def trials(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [*result.get("trials", ()), result["last"]]


def test_all_that_is_bound_comes_back_right(wire: Wire) -> None:
    results = wire.results(BOUND, "--tests", "throughput,latency,pdv", "--directions", "both",
                           "--sizes", "64,imix,1518", "--api", bench_veth.API)  # fmt: skip
    assert {(one["direction"], one["size"]) for one in results} == {("both", size) for size in ("64", "imix", "1518")}
    for result in results:
        for one in trials(result):
            for way in WAYS:
                assert (one[way]["right"], one[way]["wrong"]) == (one[way]["sent"], {}), (result["name"], one)
            assert (one["misdirected"], one["icmp_errors"]) == (0, 0)
        assert result["frames_per_second"]["median"] > 0
        for way in WAYS:
            assert result["spread"][way]["silent"] == 0
            assert 1 < result["spread"][way]["used"] <= 48
        assert result["router_workers"][0]["share"] == 1
        if "delay" in result:
            for way in WAYS:
                delay = result["delay"][way]
                assert 0 < delay["typical_us"]["median"] <= delay["worst_us"]["median"]
                assert delay["pdv_us"]["median"] < delay["worst_us"]["median"]


def test_missing_bindings_are_loss_and_named(wire: Wire) -> None:
    (result,) = wire.results(slice(40, 56), "--directions", "both")
    assert (result["frames_per_second"]["median"], result["limited_by"]) in ((0, "router"), (0, "tester"))
    first = result["trials"][0]
    for way in WAYS:
        assert 0 < first[way]["right"] < first[way]["sent"]
        assert first[way]["lost"] == first[way]["sent"] - first[way]["right"]
        spread = result["spread"][way]
        assert 0 < spread["silent"] <= 8
        assert all(int(name.split()[2].partition("/")[0]) >= 48 for name in spread["silent_first"])
    assert first["icmp_errors"] > 0


def test_another_b4_is_a_wrong_frame_one_way_and_a_lost_one_the_other(wire: Wire) -> None:
    (result,) = wire.results(MOVED, "--directions", "both")
    first = result["trials"][0]
    assert first["encap"]["wrong"] == {"outer_destination": first["encap"]["sent"]}
    assert (first["encap"]["lost"], first["encap"]["loss"]) == (0, 1)
    assert (first["decap"]["right"], first["decap"]["lost"]) == (0, first["decap"]["sent"])


def test_loss_over_rate_is_a_curve(wire: Wire) -> None:
    results = wire.results(BOUND, "--directions", "encap", "--tests", "loss")
    assert [one["frames_per_second"]["median"] for one in results] == [RATE, 0.9 * RATE]
    assert [one["loss"]["median"] for one in results] == [0, 0]


def test_people_get_a_table(wire: Wire) -> None:
    command = wire.veth.bench("--config", str(wire.veth.config), "--rate", "100", "--seconds", "0.1", "--drain", "0.1",
                              "--directions", "decap")  # fmt: skip
    done = subprocess.run(command, cwd=bench_veth.ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "throughput" in done.stdout
    assert "bindings at" in done.stdout
