"""What more workers would do on cores of their own: as many times one, until memory or the line ends it.

Lanes share what they only read, so a worker costs another nothing but what the hardware shares. A packet of a random
binding reads its bucket, for some keys a second one, and its value: 64 octets each, beyond the caches but for the share
of the table that fits them. Their latency is in the cycles measured; their bandwidth is what many workers share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LINE = 64  # octets
TUNNEL = 40
WIRE = 24  # octets a frame takes beside its own without FCS: FCS, preamble, gap
OWN_LEVEL = 2  # of caches: the next is shared by all cores
WORKERS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Case:
    direction: str
    bindings: int
    frame_octets: float  # mean, as received
    alone_mpps: float  # of one worker with a core of its own
    cycles: float  # of it for a packet
    second_buckets: float  # share of the keys
    table_octets: int  # that look-ups touch
    cache_octets: int  # that hold some of it, 0 = none
    memory_gbytes: float  # a second, of the machine
    line_gbits: float  # of a port, each way
    siblings: float | None = None  # how much two hyper-threads of one core do together, as measured


def beyond_caches(table: int, cache: int) -> float:
    """The share of look-ups that wait for memory."""
    return max(0.0, 1 - cache / table) if table else 0.0


def memory_mpps(case: Case) -> float | None:
    """As many packets as the memory has lines for; None: the table stays in the caches."""
    lines = (2 + case.second_buckets) * beyond_caches(case.table_octets, case.cache_octets)
    return case.memory_gbytes * 1e3 / (lines * LINE) if lines else None


def line_mpps(case: Case) -> float:
    """As many packets as the links carry. The softwire side has the longer frames; a link carries both ways at once."""
    if case.direction == "both":
        longest, links = case.frame_octets + TUNNEL / 2, 2
    elif case.direction == "encap":
        longest, links = case.frame_octets + TUNNEL, 1
    else:
        longest, links = case.frame_octets, 1
    return links * case.line_gbits * 1e3 / 8 / (longest + WIRE)


def model(case: Case, workers: Iterable[int] = WORKERS) -> dict[str, Any]:
    limits = {"memory": memory_mpps(case), "line": line_mpps(case)}
    known = {name: value for name, value in limits.items() if value is not None}
    return {
        "direction": case.direction,
        "bindings": case.bindings,
        "frame_octets": case.frame_octets,
        "alone_mpps": round(case.alone_mpps, 3),
        "cycles_per_packet": round(case.cycles, 1),
        "lines_per_packet": round(2 + case.second_buckets, 3),
        "cache_octets": case.cache_octets,
        "beyond_caches": round(beyond_caches(case.table_octets, case.cache_octets), 3),
        "memory_gbytes_per_second": case.memory_gbytes,
        "line_gbits_per_second": case.line_gbits,
        "limits_mpps": {name: round(value, 1) for name, value in known.items()},
        "linear_until_workers": {name: int(value / case.alone_mpps) for name, value in known.items()},
        "siblings_ratio": case.siblings,
        "points": [_point(case, count, known) for count in workers],
    }


def _point(case: Case, count: int, limits: dict[str, float]) -> dict[str, Any]:
    """`count` cores, with a worker each; and with two on each, where that was measured."""
    name, most = min(limits.items(), key=lambda one: one[1])
    linear = count * case.alone_mpps
    point = {"cores": count, "mpps": round(min(linear, most), 3), "limit": name if linear > most else "workers"}
    if case.siblings is not None:
        point["with_siblings_mpps"] = round(min(linear * case.siblings, most), 3)
    return point


def lines(of: dict[str, Any]) -> Iterator[str]:
    units = {
        "memory": f"{of['memory_gbytes_per_second']:g} GB/s",
        "line": f"{of['line_gbits_per_second']:g} Gbit/s a port",
    }
    limits = ", ".join(
        f"{name} of {units[name]} for {most:,.0f} Mpps ({of['linear_until_workers'][name]} cores)"
        for name, most in of["limits_mpps"].items()
    )
    yield (
        f"model, {of['direction']}, {of['bindings']:,} bindings: {of['alone_mpps']:.2f} Mpps a core, "
        f"{of['lines_per_packet']:.2f} lines a packet, {100 * of['beyond_caches']:.0f} % of them beyond "
        f"caches of {of['cache_octets'] / 2**20:g} MiB; "
        f"{limits}"
    )
    for one in of["points"]:
        both = one.get("with_siblings_mpps")
        more = f", {both:.1f} with a worker on each hyper-thread" if both is not None else ""
        ended = "" if one["limit"] == "workers" else f" ({one['limit']})"
        yield f"  {one['cores']:3} cores: {one['mpps']:.1f} Mpps{ended}{more}"


# --- the host ---


def core_of(cpu: int, root: Path = Path("/sys/devices/system/cpu")) -> tuple[int, int]:
    """Package and core; hyper-threads of one core have the same. A host that does not tell has separate cores."""
    topology = root / f"cpu{cpu}" / "topology"
    try:
        return int((topology / "physical_package_id").read_text()), int((topology / "core_id").read_text())
    except (OSError, ValueError):
        return -1, cpu


def cores_first(cpus: Iterable[int], root: Path = Path("/sys/devices/system/cpu")) -> tuple[int, ...]:
    """One CPU of each core, then the second ones."""
    seen: dict[tuple[int, int], int] = {}
    ranked = []
    for cpu in sorted(cpus):
        core = core_of(cpu, root)
        ranked.append((seen.get(core, 0), cpu))
        seen[core] = seen.get(core, 0) + 1
    return tuple(cpu for _, cpu in sorted(ranked))


def core_cache(cpu: int, root: Path = Path("/sys/devices/system/cpu")) -> int:
    """Octets of a core's own cache, 0 if the host does not tell. What all share, a guest may not have to itself."""
    sizes = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    found = 0
    for index in (root / f"cpu{cpu}" / "cache").glob("index*"):
        try:
            text = (index / "size").read_text().strip()
            if int((index / "level").read_text()) > OWN_LEVEL:
                continue
            found = max(found, int(text[:-1]) * sizes[text[-1]] if text[-1] in sizes else int(text))
        except (OSError, ValueError):
            continue
    return found
