"""What is to be measured. Plans are plain data: they travel to the measuring process as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

DIRECTIONS = ("encap", "decap", "both", "hairpin")
WORKS = ("find", "insert", "remove", "mixed")
HUGEPAGES = ("auto", "always", "never")
PORT_TESTS = ("throughput", "loss", "latency", "pdv")
PORT_DIRECTIONS = ("encap", "decap", "both")
FILTER = "arp or icmp6 or tcp or udp or ip6 proto 4"  # passes all of the benchmark's traffic

# What a feature changes in the configuration, or in what runs beside the lane.
FEATURES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "mss-clamp": {"softwire": {"tcp_mss": "auto"}},
    "no-flow-label": {"softwire": {"flow_label": "zero"}},
    "encap-limit": {"softwire": {"encap_limit": 4}},
    "pipe-dscp": {"softwire": {"dscp": "pipe:0"}},
    "ecn-compatibility": {"softwire": {"ecn": "compatibility"}},
    "hairpin-external": {"softwire": {"hairpinning": False}},
    "binding-counters": {"dataplane": {"binding_counters": True}},  # of the table, not of the lane
    "filter-in": {"interfaces": {"v4": {"ingress_filter": FILTER}, "v6": {"ingress_filter": FILTER}}},
    "filter-out": {"interfaces": {"v4": {"egress_filter": FILTER}, "v6": {"egress_filter": FILTER}}},
    "capture": {},  # armed with a filter that takes no frame
}
COUNTED = "binding-counters"
OF_A_LANE = (COUNTED, "capture")  # not by the configuration of a router alone

LEAST_OCTETS = {"v4": 64, "v6": 94}
# Simple IMIX, 7 : 4 : 1 by IPv4 packets of 50, 576 and 1500 octets, mixed so that no size comes in a row for long.
IMIX_PACKETS = (50, 576, 50, 50, 576, 50, 50, 1500, 576, 50, 50, 576)
ETHERNET, IPV6, FCS = 14, 40, 4
MOST_OCTETS = 1514
MOST_ON_THE_WIRE = 9216  # octets with FCS
MOST_BINDINGS = 1 << 28

_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


class PlanFault(ValueError):
    """What was asked for cannot be measured; the text says why."""


@dataclass(frozen=True, slots=True)
class Common:
    cpu: int | None = None  # that is measured; None = the last one allowed
    hugepages: str = "auto"
    windows: int = 25
    seconds: float = 0.06  # of a window


@dataclass(frozen=True, slots=True)
class Forward:
    common: Common
    directions: tuple[str, ...] = ("encap", "decap", "both")
    bindings: tuple[int, ...] = (1, 1_000, 1_000_000)
    sizes: tuple[str, ...] = ("64",)
    features: tuple[str, ...] = ("default",)
    tcp: bool = False


@dataclass(frozen=True, slots=True)
class Scaling:
    """Workers of one router on several CPUs."""

    common: Common
    workers: tuple[int, ...] = ()  # how many at the same time; none = from 2 to all CPUs
    cpus: tuple[int, ...] = ()  # workers take them in this order; none = all allowed, one of each core first
    directions: tuple[str, ...] = ("both",)
    bindings: tuple[int, ...] = (1_000_000,)
    sizes: tuple[str, ...] = ("64",)
    features: tuple[str, ...] = ("default",)
    tcp: bool = False
    cache_mib: float | None = None  # for the model; None = that of a core
    memory_gbytes: float = 20.0  # a second, for the model
    line_gbits: float = 100.0  # of each port, for the model


@dataclass(frozen=True, slots=True)
class Table:
    common: Common
    bindings: tuple[int, ...] = (1_000_000,)
    works: tuple[str, ...] = WORKS
    rte_hash: bool = True


@dataclass(frozen=True, slots=True)
class Updates:
    common: Common
    bindings: tuple[int, ...] = (1_000_000,)
    rates: tuple[float, ...] = (0.0,)  # updates a second, 0 = as many as can be
    batch: int = 32
    writer_cpu: int | None = None
    jobs: int = 3  # times that all bindings are replaced, and that the table grows


@dataclass(frozen=True, slots=True)
class Start:
    common: Common
    bindings: tuple[int, ...] = (1_000_000,)
    times: int = 5


@dataclass(frozen=True, slots=True)
class Ports:
    """A router under test between two ports. Rates are frames a second of each direction."""

    v4: str  # DPDK devices
    v6: str
    config: str = ""  # of the router: says what is not said here
    bindings: str = ""  # a file, or so many by formula
    router_v4: str = ""  # address, or MAC
    router_v6: str = ""
    own_v4: str = ""
    own_v6: str = ""
    host: str = "198.51.100.1"
    tests: tuple[str, ...] = ("throughput",)
    directions: tuple[str, ...] = ("both",)
    sizes: tuple[str, ...] = ("64",)
    rate: float = 0.0  # the greatest; 0 = what the slower link carries
    seconds: float = 10.0  # of a trial
    drain: float = 2.0  # after a trial
    resolution: float = 0.005  # of the rate that is found
    accept_loss: float = 0.0
    repeat: int = 1
    tagged: int = 1000
    cpus: tuple[int, ...] = ()
    hugepages: str = "auto"
    api: str = ""


Plan = Forward | Scaling | Table | Updates | Start | Ports
_KINDS: Mapping[str, Callable[..., Plan]] = {
    "forward": Forward,
    "scaling": Scaling,
    "table": Table,
    "updates": Updates,
    "start": Start,
    "ports": Ports,
}


def kind(plan: Plan) -> str:
    return type(plan).__name__.lower()


def to_json(plan: Plan) -> dict[str, Any]:
    return {"kind": kind(plan), **asdict(plan)}


def from_json(given: Mapping[str, Any]) -> Plan:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items() if key != "kind"}
    if "common" in given:
        values["common"] = Common(**given["common"])
    return _KINDS[given["kind"]](**values)


def number(text: str) -> int:
    """1000, 1k, 2.5M."""
    text = text.strip().lower()
    unit = text[-1:] if text[-1:] in ("k", "m") else ""
    try:
        value = float(text.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PlanFault(f"{text!r} is not a number such as 1000, 1k or 2.5M")
    if value != int(value) or value < 0:
        raise PlanFault(f"{text!r} is not a whole number of things")
    return int(value)


def numbers(text: str, least: int = 1, most: int = MOST_BINDINGS) -> tuple[int, ...]:
    found = tuple(number(word) for word in _words(text))
    for value in found:
        if not least <= value <= most:
            raise PlanFault(f"{value} is not between {least} and {most}")
    return found


def rate(text: str) -> int:
    """Frames a second."""
    if not (found := number(text)):
        raise PlanFault("at a rate of 0 nothing is measured")
    return found


def names(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(_words(text))
    for name in found:
        if name not in known:
            raise PlanFault(f"{name!r} is none of {', '.join(known)}")
    return found


def sizes(text: str) -> tuple[str, ...]:
    """Octets of the received frame without FCS, or imix. 64 stands for the least frame of each side: 64 and 94."""
    found = tuple(_words(text.lower().replace("64/94", "64")))
    for size in found:
        frames(size)
    return found


def frames(size: str) -> tuple[list[int], list[int]]:
    """The frames of one size as they come in, in turn: on the IPv4 side, and on the IPv6 side."""
    if size == "imix":
        return (
            [packet + ETHERNET for packet in IMIX_PACKETS],
            [packet + ETHERNET + IPV6 for packet in IMIX_PACKETS],
        )
    octets = number(size)
    if not LEAST_OCTETS["v4"] <= octets <= MOST_OCTETS:
        raise PlanFault(f"a frame of {octets} octets is not between {LEAST_OCTETS['v4']} and {MOST_OCTETS}")
    return [octets], [max(octets, LEAST_OCTETS["v6"])]


def wire_sizes(text: str) -> tuple[str, ...]:
    """Octets of frames on the IPv4 side with their FCS, as RFC 2544 and RFC 8219 count, or imix."""
    found = tuple(_words(text.lower()))
    for size in found:
        wire_frames(size)
    return found


def wire_frames(size: str) -> tuple[int, ...]:
    """The IPv4-side frames of one size, in turn, with FCS. The same packet has 40 octets more in a softwire."""
    if size == "imix":
        return tuple(packet + ETHERNET + FCS for packet in IMIX_PACKETS)
    octets = number(size)
    if not LEAST_OCTETS["v4"] <= octets <= MOST_ON_THE_WIRE:
        raise PlanFault(f"a frame of {octets} octets is not between {LEAST_OCTETS['v4']} and {MOST_ON_THE_WIRE}")
    return (octets,)


def frame_octets(direction: str, size: str) -> float:
    """The mean frame as received."""
    v4, v6 = frames(size)
    mean4, mean6 = sum(v4) / len(v4), sum(v6) / len(v6)
    mean = {"encap": mean4, "both": (mean4 + mean6) / 2}.get(direction, mean6)
    return int(mean) if mean == int(mean) else round(mean, 1)


def settings_of(feature: str) -> dict[str, Any]:
    """Of the configuration, by section: one feature, or several with a plus between them."""
    merged: dict[str, Any] = {}
    for name in feature.split("+"):
        if name not in FEATURES:
            raise PlanFault(f"{name!r} is none of {', '.join(FEATURES)}")
        merged = deep_merge(merged, FEATURES[name])
    return merged


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inside = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = deep_merge(merged[key], value) if inside else value
    return merged


def features(text: str) -> tuple[str, ...]:
    found = tuple(_words(text))
    for feature in found:
        settings_of(feature)
    return found


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise PlanFault("an empty list")
    return words
