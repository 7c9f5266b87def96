"""From what the stages report about a packet to sentences. Pure: the lane that ran it is the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pylwaftr.explain.frame_text import frame_text

_LINK_DROPS = ("drop_l2_", "drop_filter_in")
_NEIGHBOURS = ("answered_arp", "consumed_arp", "drop_arp_", "answered_ndp", "consumed_ndp", "drop_ndp_")


@dataclass(frozen=True, slots=True)
class Given:
    """A frame to explain; `bare`: it starts at the IP header."""

    side: str  # v4 | v6
    octets: bytes
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """A counter of kind edge, drop or held: how a packet ended."""

    name: str
    kind: str
    requirement: str
    help: str


@dataclass(frozen=True, slots=True)
class Use:
    """How an IPv4 address stands in the table."""

    kind: str  # none | whole | shared
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Step:
    stage: str
    text: str


@dataclass(frozen=True, slots=True)
class Story:
    number: int
    side: str
    packet: str
    steps: tuple[Step, ...]
    verdict: str  # counter name
    kind: str  # edge | drop | held
    requirement: str
    reason: str
    also: tuple[str, ...]  # other counters that moved
    sent: tuple[tuple[str, str], ...]  # side, frame in words

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        lines = [f"packet {self.number} on {self.side}: {self.packet}"]
        lines += [f"  {step.stage:<8} {step.text}" for step in self.steps]
        verb = {"edge": "went on", "drop": "dropped", "held": "waits"}[self.kind]
        requirement = "" if self.requirement == "-" else f" ({self.requirement})"
        lines.append(f"  {verb:<8} {self.verdict}{requirement}: {self.reason}")
        lines += [f"  {'counted':<8} {name}" for name in self.also]
        lines += [f"  {'sent':<8} {side}: {frame}" for side, frame in self.sent]
        return "\n".join(lines)


def tell(
    number: int,
    side: str,
    frame: bytes,
    ends: Sequence[Mapping[str, Any]],
    moved: Mapping[str, int],
    sent: Sequence[tuple[str, bytes]],
    ways: Mapping[str, Way],
    use_of: Mapping[int, Use],
) -> Story:
    """`ends`: what the lane reports of the packet (the first is its own; others waited for it); `moved`: counters that
    changed; `ways`: all edges, drops and holds by name; `use_of`: how the looked-up address stands in the table."""
    end = ends[0]
    way = ways[end["way"]]
    return Story(
        number=number,
        side=end["side"],
        packet=frame_text(frame),
        steps=tuple(_steps(end, way, use_of)),
        verdict=way.name,
        kind=way.kind,
        requirement=way.requirement,
        reason=way.help,
        also=tuple(_also(moved, way.name, len(ends) - 1)),
        sent=tuple((out, frame_text(octets)) for out, octets in sent),
    )


def _steps(end: Mapping[str, Any], way: Way, use_of: Mapping[int, Use]) -> list[Step]:
    if way.name.startswith(_LINK_DROPS):
        return [Step("link", "refused")]
    steps = [Step("link", "for this router")]
    if way.name.startswith(_NEIGHBOURS):
        return [*steps, Step("local", "neighbour resolution")]
    if end["side"] == "v6" and end["inner"]:
        steps.append(Step("outer", f"headers good, the IPv4 packet is {end['inner']} octets in"))
    if "key" not in end:
        return [*steps, Step("parse", "ended before a binding was looked up, or had no port to look up")]
    address, psid = end["key"]
    steps.append(Step("steer", _steered(IPv4Address(address), psid, use_of.get(address))))
    steps.append(Step("look up", _looked_up(end)))
    return steps


def _steered(address: IPv4Address, psid: int, use: Use | None) -> str:
    if use is None or use.kind != "shared":
        return f"{address} is a whole address: no port is needed"
    return f"{address} is shared (offset {use.offset}, length {use.length}): PSID {psid}"


def _looked_up(end: Mapping[str, Any]) -> str:
    address, psid = end["key"]
    key = f"({IPv4Address(address)}, PSID {psid})"
    if "softwire" not in end:
        return f"no binding for {key}"
    b4, br = end["softwire"]
    role = "its B4 is" if end["side"] == "v4" else "it has to come from"
    return f"binding {key}: {role} {IPv6Address(b4)} by way of {IPv6Address(br)}"


def _also(moved: Mapping[str, int], verdict: str, followers: int) -> list[str]:
    told = [
        f"{name} {change:+d}"
        for name, change in moved.items()
        if change and name != verdict and not name.startswith(("rx_", "tx_")) and not name.endswith("_bytes")
    ]
    if followers > 0:
        told.append(f"{followers} more that had waited for it went on or ended")
    return told
