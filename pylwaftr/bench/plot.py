"""Pictures of the results: cycles per packet over what was varied; of a router on the wire a panel for each test."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pylwaftr.bench.report import short

Result = dict[str, Any]
Points = list[tuple[float, float, float]]  # x, solid, dotted

BINDINGS, OCTETS, FEATURES = "bindings", "octets of a frame", "features"


class PlotFault(Exception):
    """No picture can be drawn; the text says why."""


def library() -> Any:
    """matplotlib's pyplot. Asked for before anything is measured: it is not among what the router needs."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise PlotFault("--plot needs matplotlib, which is not installed: pip install matplotlib") from None


def obstacle(path: Path) -> str | None:
    """Why no picture can be put there; asked before anything is measured."""
    if not path.parent.is_dir():
        return f"--plot {path}: there is no folder {path.parent}"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return f"--plot {path}: may not be written"
    return None


def can_draw(document: dict[str, Any]) -> bool:
    """Of what `bench` writes, that with a cost or a rate for each result."""
    results = document.get("results", [])
    wire = document.get("plan", {}).get("kind") == "ports"
    return bool(results) and (wire or all("cycles_per_packet" in result for result in results))


def draw(document: dict[str, Any], path: Path, pyplot: Any) -> None:
    machine, commit = document["machine"], document["commit"]
    results = document["results"]
    if document["plan"]["kind"] == "ports":
        figure = _draw_panels(panels(results), pyplot)
    elif document["plan"]["kind"] == "scaling":
        figure = _draw_scaling(results, pyplot)
    else:
        figure = _draw_cycles(results, pyplot)
    figure.suptitle(f"{machine['cpu']}, {commit[:12]}", fontsize="medium")
    _save(figure, path)
    pyplot.close(figure)


def _save(figure: Any, path: Path) -> None:
    """With a palette: a third of the octets, and lines have few colours."""
    image = importlib.import_module("PIL.Image")  # matplotlib needs it itself
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, format="png")
    image.open(drawn).convert("RGB").quantize(64).save(path, format="PNG", optimize=True)


# --- cycles ---


def varied(results: Sequence[Result]) -> str:
    """What the picture goes over: the first of these that has several values."""
    if len({result["bindings"] for result in results}) > 1:
        return BINDINGS
    if len({tuple(result["features"]) for result in results}) > 1:
        return FEATURES
    return OCTETS if len({result.get("size") for result in results}) > 1 else BINDINGS


def series(results: Sequence[Result], over: str = BINDINGS) -> dict[str, Points]:
    """Label -> (x, best, median) in rising order; features are numbered as they come."""
    lines: dict[str, Points] = {}
    names = feature_names(results)
    for result in results:
        features = _features(result)
        parts = [result["name"]]
        if over != OCTETS:
            parts.append(str(result.get("size", "")))
        if over != FEATURES:
            parts.append(features if features != "default" else "")
        if "batch" in result:
            rate = result["wanted_updates_per_second"]
            parts.append(f"{short(rate)}/s" if rate else "")
        cost = result["cycles_per_packet"]
        x = names.index(features) if over == FEATURES else result["frame_octets" if over == OCTETS else "bindings"]
        lines.setdefault(" ".join(filter(None, parts)), []).append((x, cost["best"], cost["median"]))
    return {label: sorted(points) for label, points in lines.items()}


def feature_names(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(_features(result) for result in results))


def _features(result: Result) -> str:
    return "+".join(result["features"]) or "default"


def _draw_cycles(results: Sequence[Result], pyplot: Any) -> Any:
    over = varied(results)
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    _lines(axes, series(results, over), joined=over != FEATURES)
    if over == BINDINGS:
        axes.set_xscale("log")
    elif over == FEATURES:
        names = feature_names(results)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize="small")
    axes.set_xlabel(over)
    axes.set_ylabel(f"TSC cycles each ({'o: best, x' if over == FEATURES else 'line: best, dotted'}: median)")
    return figure


def _lines(axes: Any, lines: Mapping[str, Points], joined: bool = True) -> None:
    """What has no order is not joined: o instead of the line, x instead of the dotted one."""
    for label, points in lines.items():
        x, solid, dotted = zip(*points, strict=True)
        line = axes.plot(x, solid, marker="o", linestyle="-" if joined else "", label=label)[0]
        axes.plot(x, dotted, marker="" if joined else "x", linestyle=":" if joined else "", color=line.get_color())
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize="small")


# --- workers ---


def rates(results: Sequence[Result]) -> dict[str, Points]:
    """Label -> (workers, Mpps by CPU time at best, in the median)."""
    lines: dict[str, Points] = {}
    several = [key for key in ("direction", "bindings", "size") if len({result[key] for result in results}) > 1]
    for result in results:
        parts = [f"{key} {result[key]}" for key in several or ["direction"]] + result["features"]
        had = result["of_cpu_time"]["mpps"]
        point = (result["workers"], had["best"], had["median"])
        lines.setdefault(" ".join(parts), []).append(point)
    return {label: sorted(points) for label, points in lines.items()}


def _draw_scaling(results: Sequence[Result], pyplot: Any) -> Any:
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    lines = rates(results)
    _lines(axes, lines)
    most = max(result["workers"] for result in results)
    for points in lines.values():
        axes.plot([0, most], [0, most * points[0][1]], color="grey", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(most + 1))
    axes.set_xlabel("workers (line: best, dotted: median, dashed: as many times one)")
    axes.set_ylabel("Mpps of all, by the CPU time that they had")
    return figure


# --- a router on the wire ---

_AXES = {  # test -> what the two axes are
    "throughput": (OCTETS, "frames/s each way (dotted: 1st percentile)"),
    "loss": ("frames/s each way", "loss, % (dotted: 99th percentile)"),
    "latency": (OCTETS, "µs (line: typical, dotted: worst case)"),
    "pdv": (OCTETS, "µs (line: median, dotted: 99th percentile)"),
}


def panels(results: Sequence[Result]) -> dict[str, dict[str, Points]]:
    """Test -> label -> points, in the order of the tests."""
    found: dict[str, dict[str, Points]] = {}
    for result in results:
        test = result["name"].removeprefix("ports.")
        for label, point in _points(test, result):
            found.setdefault(test, {}).setdefault(label, []).append(point)
    return {
        test: {label: sorted(points) for label, points in found[test].items()} for test in _AXES if test in found
    }  # fmt: skip


def _points(test: str, result: Result) -> list[tuple[str, tuple[float, float, float]]]:
    rate, direction, octets = result["frames_per_second"], result["direction"], result["frame_octets"]
    if test == "throughput":
        return [(direction, (octets, rate["median"], rate["p1"]))]
    if test == "loss":
        loss = result["loss"]
        return [(f"{direction} {result['size']}", (rate["median"], 100 * loss["median"], 100 * loss["p99"]))]
    found = []
    for way, delay in result["delay"].items():
        if delay is not None:
            solid, dotted = (
                (delay["typical_us"]["median"], delay["worst_us"]["median"])
                if test == "latency"
                else (delay["pdv_us"]["median"], delay["pdv_us"]["p99"])
            )
            found.append((way if direction == way else f"{direction}: {way}", (octets, solid, dotted)))
    return found


def _draw_panels(tests: Mapping[str, Mapping[str, Points]], pyplot: Any) -> Any:
    rows, columns = (len(tests) + 1) // 2 or 1, min(len(tests), 2) or 1
    size = 6 * columns, 4.5 * rows
    figure, all_axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for unused in all_axes.flat[len(tests) :]:
        unused.set_axis_off()
    for axes, (test, lines) in zip(all_axes.flat, tests.items(), strict=False):
        _lines(axes, lines)
        axes.set_title(test)
        axes.set_xlabel(_AXES[test][0])
        axes.set_ylabel(_AXES[test][1])
    return figure
