"""What a PCP client asks for, what it got, what it keeps over a restart, and what it tells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeAlias

from pylwaftr.pcp.codec import MapResponse, option
from pylwaftr.pcp.numbers import NONCE, Result, ipv4_of
from pylwaftr.pcp.options import PortSet


@dataclass(frozen=True, slots=True)
class Wanted:
    """A MAP request; as it stands, the port set of RFC 7753 section 5.2: as many ports as there are, all protocols."""

    protocol: int = 0
    internal_port: int = 1
    size: int = 65535  # 1: a plain mapping

    @property
    def key(self) -> tuple[int, int]:
        """Answers are told apart by these."""
        return self.protocol, self.internal_port


@dataclass(frozen=True, slots=True)
class Grant:
    external: IPv4Address
    first: int  # external port; a lwAFTR changes no ports, so the internal one too
    size: int
    lifetime: int
    expires: float

    @property
    def last(self) -> int:
        return self.first + self.size - 1

    def is_same(self, other: Grant) -> bool:
        return (self.external, self.first, self.size) == (other.external, other.first, other.size)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a mapping had last: suggested when it is asked for again."""

    protocol: int
    internal_port: int
    external: IPv4Address
    external_port: int


@dataclass(frozen=True, slots=True)
class Saved:
    nonce: bytes
    kept: tuple[Kept, ...] = ()

    def __post_init__(self) -> None:
        if len(self.nonce) != NONCE:
            raise ValueError(f"a nonce has {NONCE} octets, not {len(self.nonce)}")


@dataclass(frozen=True, slots=True)
class Granted:
    """With every success. If it is not the same as before, what was translated by the former one is void."""

    wanted: Wanted
    grant: Grant
    before: Grant | None

    @property
    def is_new(self) -> bool:
        return self.before is None or not self.grant.is_same(self.before)


@dataclass(frozen=True, slots=True)
class Lost:
    """It ran out, or the server took it back."""

    wanted: Wanted
    grant: Grant


@dataclass(frozen=True, slots=True)
class Refused:
    wanted: Wanted
    result: int
    hold: int  # seconds until it is asked for again
    version: int = 2  # of the server; 0: it speaks NAT-PMP

    @property
    def is_unable(self) -> bool:
        """The server does not know PCP or port sets: provisioning has to be by other means."""
        return self.result in (Result.UNSUPP_VERSION, Result.MALFORMED_REQUEST, Result.MALFORMED_OPTION)

    def __str__(self) -> str:
        name = Result(self.result).name if self.result in set(Result) else f"result {self.result}"
        other = "" if self.version == 2 else f", its version is {self.version}"
        return f"the PCP server refuses: {name}{other}; asked again in {self.hold} s"


@dataclass(frozen=True, slots=True)
class NotUsed:
    """Something in an answer that makes no sense."""

    wanted: Wanted
    why: str


@dataclass(frozen=True, slots=True)
class Recovering:
    why: str


Event: TypeAlias = Granted | Lost | Refused | NotUsed | Recovering


def grant_of(wanted: Wanted, response: MapResponse, expires: float, lifetime: int) -> tuple[Grant | None, str]:
    """What a success gives, and what of it cannot be used. The set is told by the external port and the size.

    First Internal Port is the external one (RFC 7753), or still the one asked for (servers older than that).
    """
    external, first = ipv4_of(response.external), response.external_port
    if external is None or not first:
        return None, f"no IPv4 address or no port is granted ({response.external.hex()}, {first})"
    ports = option(response.options, PortSet)
    if ports is None or wanted.size == 1:
        return Grant(external, first, 1, lifetime, expires), ""
    if ports.size < 1 or first + ports.size > 65536 or ports.first not in (first, wanted.internal_port):
        fault = f"PORT_SET of {ports.size} from {ports.first} does not go with port {first}"
        return Grant(external, first, 1, lifetime, expires), fault
    return Grant(external, first, ports.size, lifetime, expires), ""


def another(grants: Sequence[Grant], keys: Collection[tuple[int, int]]) -> Wanted | None:
    """The largest range beside the sets that we have, for a server that changes no ports.

    It may not begin where an earlier request did: that would be its renewal.
    """
    gaps = []
    begin = 1
    for grant in sorted(grants, key=lambda grant: grant.first):
        gaps.append((begin, grant.first - 1))
        begin = grant.last + 1
    gaps.append((begin, 65535))
    free = [(first + ((0, first) in keys), last) for first, last in gaps]
    first, last = max(free, key=lambda gap: gap[1] - gap[0])
    return Wanted(0, first, last - first + 1) if last > first else None
