"""ICMPv6 type 1 code 5 to B4s without a binding (RFC 7596 section 5.1): whom, how often, and when not.

A B4 that is told so gives up its port set and asks anew. That is right when its binding is gone, and a disaster while
bindings are only being read back: nobody is told then, whatever is configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class RateConfig(Protocol):
    @property
    def packets(self) -> int: ...
    @property
    def period_s(self) -> int: ...
    @property
    def per_source(self) -> int: ...


class IcmpConfig(Protocol):
    @property
    def unknown_b4_v6(self) -> bool: ...
    @property
    def rate_limit(self) -> RateConfig: ...


@dataclass(frozen=True, slots=True)
class Policy:
    """What the core goes by: the limits are for each subscriber prefix and for the whole router."""

    enabled: bool
    packets: int
    period_s: int
    per_source: int

    @classmethod
    def from_config(cls, icmp: IcmpConfig) -> Policy:
        rate = icmp.rate_limit
        return cls(icmp.unknown_b4_v6, rate.packets, rate.period_s, rate.per_source)


class IcmpPolicy:
    """The configured policy, held back while anything restores bindings."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy  # may be replaced at any time
        self._restoring: dict[str, float] = {}  # who -> until when at most

    def hold(self, who: str, until: float) -> None:
        """`who` reads bindings back. A source that hangs may not silence us for ever, so it counts as done by then."""
        self._restoring[who] = until

    def restored(self, who: str) -> None:
        self._restoring.pop(who, None)

    def holding(self, now: float) -> list[str]:
        """Who still restores."""
        self._restoring = {who: until for who, until in self._restoring.items() if now < until}
        return sorted(self._restoring)

    def timer(self) -> float | None:
        return min(self._restoring.values(), default=None)

    def applied(self, settings: Mapping[str, Any], now: float) -> dict[str, Any]:
        """The core's settings with this policy in them."""
        policy = self.policy
        icmp = {
            **settings["icmp"],
            "unknown_b4_v6": policy.enabled and not self.holding(now),
            "rate_limit": (policy.packets, policy.period_s, policy.per_source),
        }
        return {**settings, "icmp": icmp}
