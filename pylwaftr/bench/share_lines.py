"""What shares.py has reckoned, in lines for people. Without the core: who shows results needs no DPDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def line(spread: dict[str, Any]) -> str:
    """All of one case."""
    ways = [way for way in ("encap", "decap", "hairpin") if way in spread]
    one = spread[ways[0]]
    sample, each = one["sample"], one["sample"]["packets_each"]
    packets = ", ".join(f"{spread[way]['packets']:,} {way}" for way in ways)
    loads = [
        f"{way} {by} {list(counts.values())[-1]['most']:.2f}"
        for way, kinds in spread["queues"].items()
        for by, counts in kinds.items()
    ]
    queues = next(iter(next(iter(spread["queues"].values())).values()))
    return (
        f"{packets}, {one['packets_each']:,.2f} for each of {counted(one['bindings'], 'binding')} a way; "
        f"of {sample['packets']:,}: {each['least']} to {each['most']} each, {counted(sample['used'], 'binding')}, "
        f"{counted(sample['addresses'], 'address')}; {100 * spread['buckets']['first']:.1f} % of the keys in their "
        f"first bucket; most load of {list(queues)[-1]} queues by RSS: {', '.join(loads)}"
    )


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def queue_lines(queues: dict[str, dict[str, Any]]) -> Iterator[str]:
    for way, kinds in queues.items():
        for by, counts in kinds.items():
            shares = ", ".join(f"{count}: {one['least']:.2f} to {one['most']:.2f}" for count, one in counts.items())
            yield f"load of a queue, {way}, rss {by}, by their number (1 = even): {shares}"
