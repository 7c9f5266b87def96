"""Which set a new mapping gets (RFC 7753 section 6.1, RFC 6887 sections 11.3 and 15)."""

from __future__ import annotations

from collections.abc import Sequence

from pylwaftr.pcp.mapping import Mapping
from pylwaftr.pcp.numbers import IPV4_MAPPED, Result
from pylwaftr.pcp.pool import Pools
from pylwaftr.pcp.settings import LEAST_QUARANTINE_S, Settings


class Refused(Exception):
    """What the request asks is understood and is not done. Lifetime None: that which is usual for the result."""

    def __init__(self, result: Result, lifetime: int | None = None) -> None:
        super().__init__(result.name)
        self.result = result
        self.lifetime = lifetime


Owned = Sequence[tuple[int, Mapping]]


def choose(
    pools: Pools,
    settings: Settings,
    owned: Owned,
    ports: tuple[int, int],
    hint: tuple[bytes, int],
    now: float,
    recovering: bool = False,
) -> int:
    """A set within `ports`. `owned`: all that the subscriber has or gave back; `hint`: suggested address and port.

    A further set is on the address of the first. Otherwise: the one suggested, the one it had before, any. A suggestion
    is never a reason to fail. After a loss of state (`recovering`) a set is given only to who claims it: the others
    belong to B4s that have not yet come back.
    """
    active = [key for key, mapping in owned if mapping.active]
    rested = now - max(settings.quarantine_s, LEAST_QUARANTINE_S)
    back = _given_back(pools, owned, ports)
    suggested = _suggested(pools, ports, hint, set(back), rested)
    waiting = sum(not mapping.active and mapping.until > rested for _, mapping in owned)
    # Whoever makes and deletes with ever new wishes would otherwise put the whole pool into quarantine.
    may_burn = waiting < 2 * settings.max_sets
    if active:
        return _beside(pools, active[0] >> 21, ports, suggested, back, rested if may_burn else None)
    if suggested is not None and (may_burn or suggested in back):
        return suggested
    if back:
        return back[0]
    if not may_burn:
        raise Refused(Result.USER_EX_QUOTA)
    if recovering:
        raise Refused(Result.NO_RESOURCES)
    key = _on_hinted_address(pools, ports, hint, rested)
    if key is None:
        key = pools.any_set(*ports, rested)
    if key is None:  # quarantine is shortened when the pool does not allow more
        key = pools.any_set(*ports, now - LEAST_QUARANTINE_S)
    if key is None:
        raise Refused(Result.NO_RESOURCES)
    return key


def _given_back(pools: Pools, owned: Owned, ports: tuple[int, int]) -> list[int]:
    """Sets that the subscriber had and may have again, the latest first; quarantine is for others."""
    gone = sorted(((m.until, key) for key, m in owned if not m.active), reverse=True)
    return [key for _, key in gone if _fits(pools, key, ports)]


def _fits(pools: Pools, key: int, ports: tuple[int, int]) -> bool:
    pool = pools.of(key)
    if pool is None or not pool.window(*ports) >> (key & 0xFFFF) & 1:
        return False
    return key in pool.freed and not pool.is_reserved(key)


def _suggested(
    pools: Pools, ports: tuple[int, int], hint: tuple[bytes, int], back: set[int], rested: float
) -> int | None:
    address, port = hint
    if not port or not address.startswith(IPV4_MAPPED):
        return None
    found = pools.containing(int.from_bytes(address[12:]), port)
    if found is None:
        return None
    pool, key = found
    if not pool.window(*ports) >> (key & 0xFFFF) & 1:
        return None
    return key if key in back or pool.is_free(key, rested) else None


def _beside(
    pools: Pools, ipv4: int, ports: tuple[int, int], suggested: int | None, back: list[int], rested: float | None
) -> int:
    """One more on an address (RFC 7753 section 6.1: the same for all sets of a client). `rested` None: only an own."""
    if suggested is not None and suggested >> 21 == ipv4 and (rested is not None or suggested in back):
        return suggested
    key = next((one for one in back if one >> 21 == ipv4), None)
    pool = pools.at(ipv4)
    if key is None and rested is None:
        raise Refused(Result.USER_EX_QUOTA)
    if key is None and pool is not None and rested is not None:
        key = pool.on_address(ipv4, pool.window(*ports), rested)
    if key is None:
        raise Refused(Result.NO_RESOURCES)
    return key


def _on_hinted_address(pools: Pools, ports: tuple[int, int], hint: tuple[bytes, int], rested: float) -> int | None:
    address, _ = hint
    if not address.startswith(IPV4_MAPPED) or not any(address[12:]):
        return None
    ipv4 = int.from_bytes(address[12:])
    pool = pools.at(ipv4)
    return None if pool is None else pool.on_address(ipv4, pool.window(*ports), rested)
