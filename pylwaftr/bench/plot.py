"""A picture of the results: cycles per packet over bindings, one line for each way, size and set of features."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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


def series(results: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float, float]]]:
    """Label -> (bindings, best, median) in rising order."""
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for result in results:
        parts = [result["name"], str(result.get("size", "")), "+".join(result["features"])]
        if "batch" in result:
            parts.append(f"{result['wanted_updates_per_second']:g}/s" if result["wanted_updates_per_second"] else "")
        cost = result["cycles_per_packet"]
        lines.setdefault(" ".join(filter(None, parts)), []).append((result["bindings"], cost["best"], cost["median"]))
    return {label: sorted(points) for label, points in lines.items()}


def draw(document: dict[str, Any], path: Path, pyplot: Any) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for label, points in series(document["results"]).items():
        bindings, best, median = zip(*points, strict=True)
        line = axes.plot(bindings, best, marker="o", label=label)[0]
        axes.plot(bindings, median, linestyle=":", color=line.get_color())
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("bindings")
    axes.set_ylabel("TSC cycles each (solid: best, dotted: median)")
    axes.set_title(f"{document['machine']['cpu']}, {document['commit'][:12]}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
