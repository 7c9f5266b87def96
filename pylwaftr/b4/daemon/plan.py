"""What a lwB4 is started with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeAlias

from pylwaftr.pcp.client import LWAFTR

from ..core import Options
from ..host import HostOptions
from ..proxy import ProxyOptions
from ..softwire import PortSet

Report: TypeAlias = Callable[[str], None]


class UnboundError(Exception):
    """The lwAFTR says that it has no binding for us, and the policy is to stop (RFC 7596 section 5.1)."""


@dataclass(frozen=True, slots=True)
class PcpPlan:
    lifetime: int = 7200
    sets: int = 1  # at most
    state: Path | None = None  # nonce and last set; None: a restart may be refused for the rest of the lifetime
    lan: ProxyOptions | None = None  # None: no PCP for the LAN
    server: tuple[IPv4Address, ...] = (LWAFTR,)  # addresses of the one server, inside the softwire


@dataclass(frozen=True, slots=True)
class Plan:
    aftr: str  # address or name
    source: IPv6Address | None  # None: as the system chooses, now and later
    host: HostOptions
    core: Options
    given: tuple[IPv4Address, PortSet] | None  # the address and ports, if they are configured
    pcp: PcpPlan | None  # or how they are asked for
    stop_when_unbound: bool = False
