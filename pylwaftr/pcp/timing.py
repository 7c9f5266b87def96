"""When a PCP client sends, and what it makes of a server's clock (RFC 6887 sections 8.1.1, 8.5, 11.2.1). No clock here.

`uniform(a, b)` draws a number from that interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Uniform: TypeAlias = Callable[[float, float], float]

IRT_S, MRT_S = 3.0, 1024.0  # first and largest retransmission time
RENEWAL_GAP_S = 4.0  # two renewals are not closer than that
BURST_GAP_S = 0.25  # between the first copies of an announcement; each further gap is twice as long
ANNOUNCE_COPIES, UPDATE_COPIES = 10, 3  # at most (section 14.1.3); of a Mapping Update (section 14.2)


def retransmission(previous: float | None, uniform: Uniform) -> float:
    """Seconds until the request is sent again; `previous` None: it was sent for the first time."""
    base = IRT_S if previous is None else min(2 * previous, MRT_S)
    return (1 + uniform(-0.1, 0.1)) * base


def renewal(lifetime: float, elapsed: float, uniform: Uniform) -> float | None:
    """When to renew next, in seconds since the grant; None: that is too late, the lifetime is left to run out.

    One packet in each of [1/2, 5/8], [3/4, 13/16], [7/8, 29/32], ... of the lifetime. `elapsed`: when the last packet
    went; 0 for none.
    """
    left = 0.5
    while (1 - left) * lifetime <= elapsed + (RENEWAL_GAP_S if elapsed else 0):
        left /= 2
        if left * lifetime < RENEWAL_GAP_S:
            return None
    return uniform((1 - left) * lifetime, (1 - 0.75 * left) * lifetime)


def burst(copies: int) -> list[float]:
    """Seconds from the first copy to each."""
    return [BURST_GAP_S * ((1 << number) - 1) for number in range(copies)]


@dataclass(slots=True)
class EpochCheck:
    """Whether a server's seconds pass as ours do (section 8.5). Its clock and ours were last read together."""

    server: int | None = None
    client: float = 0.0

    def is_valid(self, epoch: int, now: float) -> bool:
        """Of the epoch in a response that came at `now`, which is remembered whatever it is."""
        server, client = self.server, self.client
        self.server, self.client = epoch, now
        if server is None:
            return True
        if epoch < server - 1:  # one second back is reordering
            return False
        theirs, ours = max(epoch - server, 0), int(now - client)
        return ours + 2 >= theirs - theirs // 16 and theirs + 2 >= ours - ours // 16
