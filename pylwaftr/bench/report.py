"""Results as tables for people. The JSON is the document itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

Result = dict[str, Any]
Column = tuple[str, Callable[[Result], str]]

WIDTH = 170  # of the widest table


def short(count: float) -> str:
    """1000000 -> 1M."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def _pair(values: dict[str, float] | None, digits: int = 1) -> str:
    return "-" if values is None else f"{values['best']:.{digits}f} ({values['median']:.{digits}f})"


def _cycles(result: Result, of: str | None = None) -> str:
    inside = result if of is None else result.get(of)
    return _pair(None if inside is None else inside["cycles_per_packet"])


def _rate(values: dict[str, float] | None) -> str:
    return "-" if values is None else f"{short(values['best'])} ({short(values['median'])})"


def _milliseconds(values: dict[str, float] | None) -> str:
    return _pair(None if values is None else {name: 1000 * value for name, value in values.items()}, 0)


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
_BY_KIND = {"forward": FORWARD, "table": TABLE, "updates": UPDATES, "start": START}


def table(kind: str, results: Iterable[Result]) -> Table:
    columns = _BY_KIND[kind]
    grid = Table(box=None, pad_edge=False)
    for title, _ in columns:
        left = title in ("way", "work", "features")
        grid.add_column(title, justify="left" if left else "right", no_wrap=True)
    for result in results:
        grid.add_row(*(text(result) for _, text in columns))
    return grid


def show(document: dict[str, Any], console: Console) -> None:
    machine = document["machine"]
    console.print(
        f"{machine['cpu']}, TSC {machine['tsc_hz'] / 1e9:.3f} GHz, "
        f"CPU {machine['measured_cpu']} of {machine['cores']}, "
        f"hugepages: {machine['hugepages']}, built for {machine['isa']}, load {machine['load_average'][0]}",
        soft_wrap=True,
        highlight=False,
    )
    for remark in machine["remarks"]:
        console.print(f"note: {remark}", soft_wrap=True, highlight=False)
    console.print("best (median) of many short windows; cycles are of the time stamp counter\n", highlight=False)
    console.print(table(document["plan"]["kind"], document["results"]), soft_wrap=True, highlight=False)
