"""PCP mappings and pools, as the API shows and changes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from pylwaftr.api.backend import PcpMapping, PoolUse
from pylwaftr.config import Config
from pylwaftr.daemon.pcp import PcpService
from pylwaftr.pcp import mapping as m
from pylwaftr.pcp.outcome import Outcome
from pylwaftr.pcp.pool import parts
from pylwaftr.rows import array, row


class PcpView:
    """Implements api.backend.PcpView."""

    def __init__(
        self, service: PcpService, config: Callable[[], Config], softwires: Callable[[], Awaitable[int]]
    ) -> None:
        """`softwires` begins an announcement to all and returns how many there are."""
        self._service, self._config, self._announce = service, config, softwires

    @property
    def enabled(self) -> bool:
        return self._config().pcp.enabled

    def mappings(
        self, b4: IPv6Network | None, ipv4: IPv4Network | None, page_size: int, page: str
    ) -> tuple[Sequence[PcpMapping], str]:
        behind = _key_of_page(page)
        mask = self._config().subscribers.mask
        server = self._service.server
        narrow = b4 is not None and b4.prefixlen >= mask  # then the server finds them without looking at all
        candidates = server.mappings(b4.network_address.packed if narrow and b4 is not None else None)
        wanted = sorted(
            (key, mapping)
            for key, mapping in candidates
            if mapping.active and key > behind and _matches(key, mapping, b4, ipv4)
        )
        shown = [_shown(key, mapping, mask) for key, mapping in wanted[:page_size]]
        return shown, f"{wanted[page_size - 1][0]:x}" if len(wanted) > page_size else ""

    def pools(self) -> Sequence[PoolUse]:
        return [
            # Without those that other sources have bound.
            PoolUse(pool.ipv4, pool.psid_len, pool.held + pool.free, pool.held, pool.given_back)
            for pool in self._service.server.pools()
        ]

    async def release(self, key: tuple[int, int] | None, b4: IPv6Network | None, *, validate_only: bool) -> int:
        server = self._service.server
        keys = [
            found
            for found, mapping in server.mappings()
            if mapping.active
            and (key is None or (parts(found)[0], parts(found)[2]) == key)
            and (b4 is None or IPv6Address(mapping.b4) in b4)
        ]
        if validate_only:
            return len(keys)
        return sum([await self._released(found) for found in keys])

    async def _released(self, key: int) -> bool:
        """False: it has ended meanwhile, or gave way to another source in the turns before this one."""
        server = self._service.server
        released = False

        def release(now: float) -> Outcome:
            nonlocal released
            mapping = server.mapping(key)
            released = mapping is not None and mapping.active
            return server.release(key, now) if released else Outcome()

        await self._service.settle(release)
        return released

    async def announce(self) -> int:
        return await self._announce()


def _key_of_page(page: str) -> int:
    """Raises ValueError."""
    return int(page, 16) if page else -1


def _matches(key: int, mapping: m.Mapping, b4: IPv6Network | None, ipv4: IPv4Network | None) -> bool:
    if b4 is not None and IPv6Address(mapping.b4) not in b4:
        return False
    return ipv4 is None or int(ipv4.network_address) <= parts(key)[0] <= int(ipv4.broadcast_address)


def _shown(key: int, mapping: m.Mapping, mask: int) -> PcpMapping:
    ipv4, psid_len, psid = parts(key)
    return PcpMapping(
        array([row(ipv4, 0, psid_len, psid, mapping.b4, mapping.br)]),
        IPv6Network((mapping.b4, mask), strict=False),
        mapping.until,
        mapping.protocol,
        bool(mapping.flags & m.THIRD_PARTY),
    )
