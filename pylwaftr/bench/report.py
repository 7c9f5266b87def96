"""Results as tables for people. The JSON is the document itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from pylwaftr.bench import scaling_model, share_lines

Result = dict[str, Any]
Column = tuple[str, Callable[[Result], str]]

WIDTH = 190  # of the widest table


def short(count: float) -> str:
    """1000000 -> 1M."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def _bindings(count: int) -> str:
    return f"{short(count)} binding{'' if count == 1 else 's'}"


def _pair(values: dict[str, float] | None, digits: int = 1) -> str:
    return "-" if values is None else f"{values['best']:.{digits}f} ({values['median']:.{digits}f})"


def _cycles(result: Result, of: str | None = None) -> str:
    inside = result if of is None else result.get(of)
    return _pair(None if inside is None else inside["cycles_per_packet"])


def _rate(values: dict[str, float] | None) -> str:
    return "-" if values is None else f"{short(values['best'])} ({short(values['median'])})"


def _milliseconds(values: dict[str, float] | None) -> str:
    return _pair(None if values is None else {name: 1000 * value for name, value in values.items()}, 0)


def _of_runs(values: dict[str, float], digits: int) -> str:
    """Median, and percentiles where there are several runs."""
    low, middle, high = (f"{values[name]:,.{digits}f}" for name in ("p1", "median", "p99"))
    return middle if low == high else f"{middle} ({low} to {high})"


def _delay(result: Result, which: str) -> str:
    if "delay" not in result:
        return "-"
    return "/".join("-" if one is None else f"{one[which]['median']:.1f}" for one in result["delay"].values())


def _ways(result: Result, what: str) -> str:
    found = [result["last"][way][what] for way in ("encap", "decap") if way in result["last"]]
    return "/".join(str(sum(one.values()) if isinstance(one, dict) else one) for one in found)


FORWARD: tuple[Column, ...] = (
    ("way", lambda r: r["name"].removeprefix("forward.")),
    ("bindings", lambda r: short(r["bindings"])),
    ("frame", lambda r: r["size"] if r["size"] == "imix" else f"{r['frame_octets']:g}"),
    ("features", lambda r: "+".join(r["features"]) or "default"),
    ("cycles/packet", _cycles),
    ("Mpps", lambda r: _pair(r["mpps"], 2)),
    ("generator", lambda r: _cycles(r, "generator")),
    ("lane alone", lambda r: _pair(r["lane_cycles_per_packet"])),
    ("1 binding", lambda r: _cycles(r, "one_binding")),
    ("floor", lambda r: _cycles(r, "floor")),
    ("x floor", lambda r: _pair(r["distance_to_floor"], 2)),
)
SCALING: tuple[Column, ...] = (
    ("workers", lambda r: str(r["workers"])),
    ("CPUs", lambda r: ",".join(map(str, r["cpus"])) + (" in turn" if "load" not in r else "")),
    ("way", lambda r: r["direction"]),
    ("bindings", lambda r: short(r["bindings"])),
    ("frame", lambda r: r["size"] if r["size"] == "imix" else f"{r['frame_octets']:g}"),
    ("features", lambda r: "+".join(r["features"]) or "default"),
    ("Mpps", lambda r: _pair(r["mpps"], 2)),
    ("x alone", lambda r: _pair(r["ratio"], 2)),
    ("cycles/packet of each", _cycles),
    ("load", lambda r: f"{r['load']['least']:.2f} to {r['load']['most']:.2f}" if "load" in r else "-"),
    ("CPU had", lambda r: " ".join(f"{100 * one['cpu_share']:.0f} %" for one in r["by_worker"])),
    ("by CPU time: Mpps", lambda r: _pair(r["of_cpu_time"]["mpps"], 2)),
    ("x alone", lambda r: _pair(r["of_cpu_time"]["ratio"], 2)),
    ("cycles/packet", lambda r: _cycles(r, "of_cpu_time")),
)
TABLE: tuple[Column, ...] = (
    ("work", lambda r: r["name"].removeprefix("table.")),
    ("bindings", lambda r: short(r["bindings"])),
    ("cycles each", _cycles),
    ("M/s", lambda r: _pair(r["mpps"], 2)),
    ("rte_hash", lambda r: _cycles(r, "rte_hash")),
    ("x faster", lambda r: _pair(r.get("times_faster_than_rte_hash"), 2)),
    ("without keys", lambda r: f"{r['times_faster_net']:.2f}" if "times_faster_net" in r else "-"),
    ("floor", lambda r: _cycles(r, "floor")),
    ("octets/binding", lambda r: f"{r['octets_per_binding']:.1f}" if "octets_per_binding" in r else "-"),
)
START: tuple[Column, ...] = (
    ("bindings", lambda r: short(r["bindings"])),
    ("milliseconds", lambda r: _milliseconds(r["seconds"])),
    ("reading", lambda r: _milliseconds(r["read_seconds"])),
    ("binding", lambda r: _milliseconds(r["bind_seconds"])),
    ("first packets", lambda r: _milliseconds(r["forward_seconds"])),
)
UPDATES: tuple[Column, ...] = (
    ("work", lambda r: r["name"].removeprefix("updates.")),
    ("bindings", lambda r: short(r["bindings"])),
    ("batch", lambda r: str(r.get("batch", "-"))),
    ("updates/s", lambda r: _rate(r.get("updates_per_second"))),
    ("milliseconds", lambda r: _milliseconds(r.get("seconds"))),
    ("look-up meanwhile", lambda r: _cycles(r, "look_up_meanwhile") if "seconds" in r else _cycles(r)),
    ("busy", lambda r: _cycles(r, "other_core_busy")),
    ("idle", lambda r: _cycles(r, "other_core_idle")),
    ("rate kept", lambda r: _pair(r.get("rate_kept"), 3)),
    ("look-ups", lambda r: short(r["look_ups_while_writing"] if "look_ups_while_writing" in r else r["look_ups"])),
    ("missed", lambda r: str(r["missed"])),
    ("wrong", lambda r: str(r["wrong"])),
    ("refused", lambda r: str(r["refused"])),
)
PORTS: tuple[Column, ...] = (
    ("test", lambda r: r["name"].removeprefix("ports.")),
    ("direction", lambda r: r["direction"]),
    ("bindings", lambda r: short(r["bindings"])),
    ("frame", lambda r: r["size"]),
    ("frames/s each way", lambda r: _of_runs(r["frames_per_second"], 0)),
    ("Mpps", lambda r: _pair(r["mpps"], 3)),
    ("Gbit/s", lambda r: f"{r['gbps']:.3f}"),
    ("loss %", lambda r: f"{100 * r['loss']['median']:.4f}" if "loss" in r else "-"),
    ("typical µs", lambda r: _delay(r, "typical_us")),
    ("worst µs", lambda r: _delay(r, "worst_us")),
    ("PDV µs", lambda r: _delay(r, "pdv_us")),
    ("limit", lambda r: r["limited_by"]),
    ("last: lost", lambda r: _ways(r, "lost")),
    ("wrong", lambda r: _ways(r, "wrong")),
    ("silent bindings", lambda r: "/".join(f"{one['silent']}" for one in r["spread"].values())),
)
_BY_KIND = {"forward": FORWARD, "scaling": SCALING, "table": TABLE, "updates": UPDATES, "start": START, "ports": PORTS}
_HEAD = {"ports": "rates: median of the runs; a/b: encap and decap; frames with FCS, on the IPv4 side"}


def table(kind: str, results: Iterable[Result]) -> Table:
    columns = _BY_KIND[kind]
    grid = Table(box=None, pad_edge=False)
    for title, _ in columns:
        left = title in ("way", "CPUs", "work", "features", "test", "direction", "limit")
        grid.add_column(title, justify="left" if left else "right", no_wrap=True)
    for result in results:
        grid.add_row(*(text(result) for _, text in columns))
    return grid


def show(document: dict[str, Any], console: Console) -> None:
    machine = document["machine"]
    cpus = machine.get("measured_cpus", [machine["measured_cpu"]])
    console.print(
        f"{machine['cpu']}, TSC {machine['tsc_hz'] / 1e9:.3f} GHz, "
        f"{'CPUs' if len(cpus) > 1 else 'CPU'} {','.join(map(str, cpus))} of {machine['cores']}, "
        f"hugepages: {machine['hugepages']}, built for {machine['isa']}, load {machine['load_average'][0]}",
        soft_wrap=True,
        highlight=False,
    )
    for remark in machine["remarks"]:
        console.print(f"note: {remark}", soft_wrap=True, highlight=False)
    kind = document["plan"]["kind"]
    head = _HEAD.get(kind, "best (median) of many short windows; cycles are of the time stamp counter")
    console.print(f"{head}\n", highlight=False)
    console.print(table(kind, document["results"]), soft_wrap=True, highlight=False)
    if kind == "ports":
        _show_spread(document["results"], console)
    elif kind == "forward":
        _show_shares(document["results"], console)
    elif kind == "scaling":
        for one in document["model"]:
            for line in ("", *scaling_model.lines(one), *share_lines.queue_lines(one["queues"])):
                console.print(line, soft_wrap=True, highlight=False)


def _show_shares(results: Iterable[Result], console: Console) -> None:
    """Once for each way and number of bindings: neither size nor features change it, and the first has its packets."""
    console.print("\nhow the packets were spread, reckoned from the draws of the generator:", highlight=False)
    first: dict[tuple[str, int], Result] = {}
    for result in results:
        first.setdefault((result["name"], result["bindings"]), result)
    for result in first.values():
        case = f"{result['name'].removeprefix('forward.')}, {_bindings(result['bindings'])}"
        console.print(f"  {case}: {share_lines.line(result['spread'])}", soft_wrap=True, highlight=False)


def _show_spread(results: Iterable[Result], console: Console) -> None:
    """Of the last trial of each direction and size."""
    console.print("\nhow the frames of the last trials were spread:", highlight=False)
    for result in {(one["direction"], one["size"]): one for one in results}.values():
        for way, one in result["spread"].items():
            each = one["frames_each"]
            addresses = share_lines.counted(one["addresses"], "address")
            silent = f"; nothing back of {one['silent']}: {', '.join(one['silent_first'])}" if one["silent"] else ""
            more = ", …" if one["silent"] > len(one["silent_first"]) else ""
            console.print(
                f"  {result['direction']} {result['size']}, {way}: {one['used']} of {one['bindings']} bindings at "
                f"{addresses}, {each['least']} to {each['most']} frames each{silent}{more}",
                soft_wrap=True,
                highlight=False,
            )
        for worker in result.get("router_workers", ()):
            share = f"{100 * worker['share']:.1f} %"
            console.print(
                f"    worker {worker['worker']} of the router: {worker['frames']:,} ({share})", highlight=False
            )
