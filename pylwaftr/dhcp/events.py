"""What a leasequery session tells its caller."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address

from pylwaftr.dhcp.codec_lease import LeaseRows
from pylwaftr.dhcp.profiles import Start


class Channel(Enum):
    """The two connections of a session (RFC 7653 section 9.4: an active query is alone on its own)."""

    ACTIVE = "active"
    BULK = "bulk"  # and single queries


@dataclass(frozen=True, slots=True)
class Open:
    """Connect, then `connected` or `closed`."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class Secure:
    """Start the TLS handshake, then `secured` or `closed`. What was received but not fed belongs to TLS."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class Shut:
    """Close it, without `closed`."""

    channel: Channel
    reason: str


@dataclass(frozen=True, slots=True)
class Leases:
    rows: LeaseRows
    bulk: bool = False  # the answer to a query, which may be read long after it was written


@dataclass(frozen=True, slots=True)
class BulkBegan:
    """What is not heard of from now to the end of a complete bulk is no lease any more."""


@dataclass(frozen=True, slots=True)
class BulkEnded:
    sweep: bool
    reason: str  # why not


@dataclass(frozen=True, slots=True)
class Rebased:
    """The server's clock or database went back, or another server took its place: its old times compare no more."""


@dataclass(frozen=True, slots=True)
class Moved:
    """For the log (LQ-174)."""

    channel: Channel
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class Connected:
    """Whether news of leases would reach us."""

    live: bool


@dataclass(frozen=True, slots=True)
class Alarm:
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A single query is over."""

    b4: IPv6Address
    found: bool


Event = Open | Secure | Shut | Leases | BulkBegan | BulkEnded | Rebased | Moved | Connected | Alarm | Answered


@dataclass(frozen=True, slots=True)
class Saved:
    """What has to survive a restart. It may be written late, but never before the leases that it covers."""

    start: Start | None = None
    resync: bool = True  # until a full bulk has ended well
    skew_s: float = 0.0
    server: bytes = b""

    def octets(self) -> bytes:
        start = None if self.start is None else [self.start.outer, self.start.nested]
        told = {"start": start, "resync": self.resync, "skew_s": round(self.skew_s, 1), "server": self.server.hex()}
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def of(cls, octets: bytes) -> Saved:
        """What cannot be read is as if there was nothing: a full bulk follows."""
        try:
            told = json.loads(octets)
            start = None if told["start"] is None else Start(int(told["start"][0]), int(told["start"][1]))
            if start is not None and not (0 <= start.outer <= 0xFFFFFFFF and 0 <= start.nested <= 0xFFFFFFFF):
                raise ValueError("start time")
            return cls(start, bool(told["resync"]), float(told["skew_s"]), bytes.fromhex(told["server"]))
        except (ValueError, TypeError, KeyError, IndexError):
            return cls()
