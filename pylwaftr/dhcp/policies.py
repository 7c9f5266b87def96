"""What is configured of each leasequery server beside how to reach it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Protocol

from pylwaftr.dhcp.codec_lease import Lease
from pylwaftr.dhcp.s46 import PortParams


class PortSets(Protocol):
    """Port sets for servers that lease whole addresses. None: the whole address."""

    def of(self, lease: Lease) -> PortParams | None: ...


@dataclass(frozen=True, slots=True)
class FromTunnelAddress:
    """The PSID is the end of the tunnel address, right-aligned there (RFC 7596 section 5.1)."""

    psid_len: int
    offset: int = 0

    def of(self, lease: Lease) -> PortParams | None:
        if lease.b4 is None:
            return None
        return PortParams(self.offset, self.psid_len, int(lease.b4) & ((1 << self.psid_len) - 1))


@dataclass(frozen=True, slots=True)
class Policy:
    """Of one server."""

    name: str
    pools: tuple[IPv4Network, ...] = ()  # () = any address
    priority: int = 0  # the higher one wins a tie
    hold_s: float = 3600.0  # how long an overdue lease stays while nobody could tell of its renewal
    port_sets: PortSets | None = None
    offsets: bool = True  # port sets with a PSID offset are bound
