"""The whole fast path between two ports that never run dry, beside the generator alone, beside a table that finds
everything without looking, and beside one binding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import yaml

from pylwaftr import _core, config
from pylwaftr.bench import shares, stats
from pylwaftr.bench.plan import COUNTED, Forward, deep_merge, frame_octets, frames, settings_of

MBUFS, DATA_ROOM = 8_192, 2_048
MTU4, MTU6 = 1_500, 1_560  # room for a tunnelled packet of 1500
SHARE_OF_WARMING = 0.15  # of a window, before it: the job before had the caches
DEVICES = ("net_null0,copy=0,size=64", "net_null1,copy=0,size=64")
MACS = (bytes.fromhex("020000000004"), bytes.fromhex("020000000006"))
SETS_AN_ADDRESS = 64
BURST = 64  # Lane::kBurst: net_null always has one
_PEER = "02:00:00:00:00:99"

Tables = tuple[_core.BindingTable, _core.BindingTable, _core.BindingTable]


def need_mib(plan: Forward) -> int:
    page = 4096  # without hugepages no buffer crosses one, so each has its own
    return MBUFS * page // (1 << 20) + 64


def configuration(feature: str) -> dict[str, Any]:
    """A router as shipped, all defaults on, with fixed next hops; what the feature changes is its only difference."""
    v4 = {"addresses": ["192.0.2.1/24"], "next_hop": "192.0.2.254", "mtu": MTU4}
    v6 = {"addresses": ["2001:db8:fffe::2/64"], "next_hop": "2001:db8:fffe::1", "mtu": MTU6}
    for side, mac, device in zip((v4, v6), MACS, DEVICES, strict=True):
        side |= {"port": device, "mac": mac.hex(":"), "next_hop_mac": _PEER}
    plain = {"interfaces": {"v4": v4, "v6": v6}, "softwire": {"br_addresses": ["2001:db8:ffff::1"]}}
    return deep_merge(plain, settings_of(feature))


def settings(feature: str) -> dict[str, Any]:
    return config.core_settings(config.load_text(yaml.safe_dump(configuration(feature)), "bench"))


def filled(bindings: int, lcores: Sequence[int], step: int = 1, counted: bool = False) -> _core.BindingTable:
    rows = np.ascontiguousarray(_core.bench_rows(0, bindings)[::step])
    table = _core.BindingTable(len(rows), accounts=counted, nodes=_core.nodes_of(list(lcores)))
    report = table.bind(rows, _core.SOURCE_CONFIG, 1)
    if report["refused"]:
        raise AssertionError(f"the table refused {len(report['refused'])} of {bindings} bindings")
    return table


def always_hits(bindings: int, lcores: Sequence[int], counted: bool) -> _core.BindingTable:
    """All addresses are known, by one binding each; what is bound is answered by arithmetic."""
    table = filled(bindings, lcores, SETS_AN_ADDRESS, counted)
    _core.bench_always_hits(table)
    return table


def lane_of(ports: Any, feature: str, table: _core.BindingTable) -> Any:
    lane = _core.BenchLane(ports, settings(feature), table)
    if "capture" in feature.split("+"):
        lane.arm_capture()
    return lane


def run(plan: Forward, lcore: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    ports = _core.BenchPorts(list(DEVICES), MBUFS, DATA_ROOM, [MTU4, MTU6])
    results: list[dict[str, Any]] = []
    for bindings in plan.bindings:
        queues: dict[str, Any] = {}
        made: dict[bool, Tables] = {}
        for feature in plan.features:
            counted = COUNTED in feature.split("+")
            if counted not in made:
                made[counted] = (
                    always_hits(bindings, [lcore], counted),
                    filled(1, [lcore], 1, counted),
                    filled(bindings, [lcore], 1, counted),
                )
            lanes = [lane_of(ports, feature, table) for table in made[counted]]
            for direction, size in ((d, s) for d in plan.directions for s in plan.sizes):
                say(f"{direction}, {size} octets, {bindings} bindings, {feature}")
                result = _case(plan, ports, lanes, (direction, size, bindings, feature), lcore)
                if direction not in queues:
                    queues[direction] = shares.over_queues(direction, bindings)
                results.append(result | {"spread": _spread(result, made[counted][-1], queues[direction])})
    return results


def _case(plan: Forward, ports: Any, lanes: list[Any], case: tuple[str, str, int, str], lcore: int) -> dict[str, Any]:
    direction, size, bindings, feature = case
    v4, v6 = frames(size)
    counts = (bindings, bindings, 1, bindings)
    jobs = [
        (through, direction, count, v4, v6, plan.tcp, MACS)
        for through, count in zip((None, *lanes), counts, strict=True)
    ]
    common = plan.common
    warm = common.seconds * SHARE_OF_WARMING
    windows = _core.bench_forward(ports, jobs, common.windows, common.seconds, warm, lcore)
    lost = int(windows[:, :, 2].sum())
    if lost:
        raise AssertionError(f"{lost} packets left by no edge: {lanes[-1].counters()}")
    generator, least, one, full = (stats.cycles(windows[:, job]) for job in range(4))
    tsc_hz = _core.bench_tsc_hz()
    return {
        "name": f"forward.{direction}",
        "unit": "packets",
        "bindings": bindings,
        "size": size,
        "frame_octets": frame_octets(direction, size),
        "transport": "tcp" if plan.tcp else "udp",
        "features": [] if feature == "default" else feature.split("+"),
        **stats.costs(full, tsc_hz),
        "gbps": _gbps(full, frame_octets(direction, size), tsc_hz),
        "packets": int(windows[:, 3, 0].sum()),
        "packets_by_window": [int(packets) for packets in windows[:, 3, 0]],
        # What the machine around the lane costs (net_null and the writing of headers), and the rest.
        "generator": stats.costs(generator, tsc_hz),
        "lane_cycles_per_packet": stats.pair(
            float(full.min() - generator.min()), float(np.median(full) - np.median(generator))
        ),
        # The same path with one binding: what is looked up is never far away.
        "one_binding": stats.costs(one, tsc_hz),
        # The same path and a table that finds everything by arithmetic.
        "floor": stats.costs(least, tsc_hz),
        # To the cheaper of the two: the arithmetic is not free, and one hot binding may cost less.
        "distance_to_floor": stats.ratio(full, least if least.min() < one.min() else one),
    }


def _spread(result: dict[str, Any], table: _core.BindingTable, queues: dict[str, Any]) -> dict[str, Any]:
    """How the packets of the windows with all bindings were spread, reckoned behind them. Ways take turns burst by
    burst, and each window begins with the first."""
    bindings, each = result["bindings"], result.pop("packets_by_window")
    ways = shares.ways(result["name"].removeprefix("forward."))
    bursts = [packets // BURST for packets in each]
    found: dict[str, Any] = {}
    for at, way in enumerate(ways):
        packets = BURST * sum((n + len(ways) - 1 - at) // len(ways) for n in bursts)
        found[way] = shares.over_bindings(way, bindings, packets)
    return {**found, "buckets": shares.buckets(table, bindings), "queues": queues}


def _gbps(each: Any, octets: float, tsc_hz: int) -> dict[str, float]:
    return stats.pair(tsc_hz / float(each.min()) * octets * 8e-9, tsc_hz / float(np.median(each)) * octets * 8e-9)
