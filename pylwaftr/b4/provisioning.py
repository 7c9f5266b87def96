"""From what the PCP client tells to what the lwB4 does: which address and ports it uses, what it forgets. No I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pylwaftr.pcp.client import Client
from pylwaftr.pcp.client_values import Event, Grant, Granted, Kept, Lost, NotUsed, Recovering, Refused, Saved

from .softwire import PortRanges


@dataclass(frozen=True, slots=True)
class Assignment:
    ipv4: IPv4Address
    ports: PortRanges
    expires: float  # of the set that ends first

    def is_same(self, other: Assignment | None) -> bool:
        return other is not None and (self.ipv4, self.ports) == (other.ipv4, other.ports)

    def __str__(self) -> str:
        ranges = "all ports" if self.ports.whole else ", ".join(f"{a}-{b}" for a, b in self.ports.ranges())
        return f"{self.ipv4}, {ranges}"


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now."""

    assignment: Assignment | None  # to use from now on; None: none
    changed: bool = False  # it is not what was used until now
    renewed: bool = False  # it is, and lasts longer
    flush: bool = False  # translations by the former one are void (RFC 7596 section 5.1)
    save: Saved | None = None  # what the next run should know
    lines: tuple[str, ...] = ()


def assignment_of(grants: Sequence[Grant]) -> Assignment | None:
    """The sets of one address: a lwB4 has one, and a lwAFTR gives further sets of the same."""
    if not grants:
        return None
    ipv4 = grants[0].external
    ours = [grant for grant in grants if grant.external == ipv4]
    ranges = tuple(sorted((grant.first, grant.last) for grant in ours))
    return Assignment(ipv4, PortRanges(ranges), min(grant.expires for grant in ours))


class Provisioning:
    def __init__(self, client: Client) -> None:
        self.client = client
        self._now: Assignment | None = None
        self._last: Assignment | None = None  # used before, if there is none now
        self._saved: Saved | None = None

    def step(self) -> Step:
        """To be called whenever the client may have something to tell."""
        lines = tuple(line for event in self.client.events() if (line := _line(event)))
        before, now = self._now, assignment_of(self.client.grants())
        changed = not now.is_same(before) if now is not None else before is not None
        renewed = not changed and now is not None and before is not None and now.expires != before.expires
        flush = now is not None and self._last is not None and not now.is_same(self._last)
        self._now = now
        if now is not None:
            self._last = now
        saved = self.client.saved()
        save = saved if saved != self._saved else None
        self._saved = saved
        return Step(now, changed, renewed, flush, save, lines)


def _line(event: Event) -> str:
    match event:
        case Granted() if event.is_new:
            grant = event.grant
            return f"granted: {grant.external}, ports {grant.first}-{grant.last}, for {grant.lifetime} s"
        case Granted():
            return ""
        case Lost(grant=grant):
            return f"lost: {grant.external}, ports {grant.first}-{grant.last}"
        case Refused():
            advice = "; it does not do PCP with port sets, configure the softwire by hand" if event.is_unable else ""
            return f"{event}{advice}"
        case NotUsed(why=why):
            return f"an answer makes no sense: {why}"
        case Recovering(why=why):
            return f"asking again: {why}"
    raise AssertionError(event)


# --- what survives a restart -----------------------------------------------------------------------------------------


def to_json(aftr: IPv6Address, saved: Saved) -> str:
    """A nonce belongs to one server, so the file says which."""
    mappings = [
        {
            "protocol": kept.protocol,
            "internal_port": kept.internal_port,
            "ipv4": str(kept.external),
            "port": kept.external_port,
        }
        for kept in saved.kept
    ]
    return json.dumps({"aftr": str(aftr), "nonce": saved.nonce.hex(), "mappings": mappings}, indent=1) + "\n"


def from_json(aftr: IPv6Address, text: str) -> Saved | None:
    """None if it is about another lwAFTR. Raises ValueError with what is wrong."""
    try:
        given = json.loads(text)
        if IPv6Address(given["aftr"]) != aftr:
            return None
        kept = (
            Kept(int(one["protocol"]), int(one["internal_port"]), IPv4Address(one["ipv4"]), int(one["port"]))
            for one in given["mappings"]
        )
        return Saved(bytes.fromhex(given["nonce"]), tuple(kept))
    except (KeyError, TypeError, ValueError) as fault:
        raise ValueError(f"not the state of a lwB4: {fault}") from None
