"""A lease that waits for room has its turn as soon as a softwire of its subscriber ends, whoever had made that.

One that the table had no room for is tried again; one that takes over beyond the limit waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from pylwaftr import refusals, rows
from pylwaftr.api.backend import ListFilter
from pylwaftr.changes import Change, Op, Source
from pylwaftr.daemon import leases as leases_file
from pylwaftr.rows import Rows
from tests.lease_service import Service, limited, serving
from tests.leasequery_peer import ended, lease

ADDRESS = "198.51.100.10"
BR = IPv6Address("2001:db8:aa::1").packed
WAITING = lease(2, b4="2001:db8:1:1ff::2")  # of the same /56


def first() -> Rows:
    """The softwire that the subscriber has."""
    return rows.array([rows.row(int(IPv4Address(ADDRESS)), 0, 6, 1, IPv6Address("2001:db8:1:100::1").packed, BR)])


async def bind_operator(service: Service) -> None:
    await service.control.bind(first(), Source.OPERATOR)


async def unbind_operator(service: Service) -> None:
    await service.control.unbind((first()["ipv4"], first()["psid"]), Source.OPERATOR)


async def bind_pcp(service: Service) -> None:
    await service.control.commit([Change(Op.BIND, Source.PCP, first())], [], Source.PCP)


async def unbind_pcp(service: Service) -> None:
    await service.control.commit([Change(Op.UNBIND, Source.PCP, first())], [], Source.PCP)


async def replace_operator(service: Service) -> None:
    """All that the operator has, by nothing."""
    replacement = await service.control.replace_all(Source.OPERATOR)
    await replacement.finish()


async def bind_config(service: Service) -> None:
    await service.control.reload(first())


async def reload_config(service: Service) -> None:
    await service.control.reload(rows.no_rows())


async def bind_lease(service: Service) -> None:
    service.hear(lease(1, b4="2001:db8:1:100::1"))
    await service.until({1: "DHCP"})


async def end_lease(service: Service) -> None:
    service.hear(ended(lease(1), 80))


async def move_operator(service: Service) -> None:
    """To another subscriber's prefix."""
    moved = first()
    moved["b4"][0, 5] = 0x77
    await service.control.bind(moved, Source.OPERATOR)


Act = Callable[[Service], Awaitable[None]]
ENDS: list[tuple[str, Act, Act, dict[int, str]]] = [
    ("an operator's", bind_operator, unbind_operator, {2: "DHCP"}),
    ("an operator's, replaced", bind_operator, replace_operator, {2: "DHCP"}),
    ("an operator's, moved", bind_operator, move_operator, {1: "OPERATOR", 2: "DHCP"}),
    ("PCP's", bind_pcp, unbind_pcp, {2: "DHCP"}),
    ("of the configuration", bind_config, reload_config, {2: "DHCP"}),
    ("another lease", bind_lease, end_lease, {2: "DHCP"}),
]


@pytest.mark.parametrize("what, begin, end, bound", ENDS, ids=[row[0] for row in ENDS])
def test_it_is_bound_at_once(what: str, begin: Act, end: Act, bound: dict[int, str], tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path)) as service:
            await begin(service)
            service.hear(WAITING)
            await service.until_true(lambda: service.waiting == [2])
            assert 2 not in await service.bound()
            await end(service)  # and nothing is heard of the lease again
            await service.until(bound)
            assert service.waiting == []

    asyncio.run(story())


@pytest.mark.parametrize("what, begin, end, bound", ENDS[:4], ids=[row[0] for row in ENDS[:4]])
def test_also_after_a_restart(what: str, begin: Act, end: Act, bound: dict[int, str], tmp_path: Path) -> None:
    """The softwire comes from the store then, and the lease is heard of in the first bulk."""

    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path)) as service:
            await begin(service)
            service.hear(WAITING)
            await service.until_true(lambda: service.waiting == [2])
        async with serving(tmp_path, limited(tmp_path)) as service:
            assert 2 not in await service.bound()
            service.hear(WAITING)
            await service.until_true(lambda: service.waiting == [2])
            await end(service)
            await service.until(bound)

    asyncio.run(story())


def test_the_configuration_has_it_no_more_after_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path), first()) as service:
            service.hear(WAITING)
            await service.until_true(lambda: service.waiting == [2])
        async with serving(tmp_path, limited(tmp_path)) as service:
            service.hear(WAITING)
            await service.until({2: "DHCP"})

    asyncio.run(story())


def test_a_higher_limit_is_for_those_that_wait(tmp_path: Path) -> None:
    async def story() -> None:
        settings = limited(tmp_path)
        async with serving(tmp_path, settings, first()) as service:
            service.hear(WAITING)
            await service.until_true(lambda: service.waiting == [2])
            roomy = replace(settings, subscribers=replace(settings.subscribers, max_softwires=2))
            service.leases.reconfigure(settings, roomy, [], {})
            await service.until({1: "CONFIG", 2: "DHCP"})

    asyncio.run(story())


def test_an_end_elsewhere_is_no_turn(tmp_path: Path) -> None:
    """Nothing is asked of the table anew when what ended was another subscriber's."""

    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path), first()) as service:
            other = first()
            other["psid"], other["b4"][0, 5] = 9, 0x77
            await service.control.bind(other, Source.OPERATOR)
            service.hear(WAITING)
            await service.until_true(lambda: service.waiting == [2])
            await service.control.unbind((other["ipv4"], other["psid"]), Source.OPERATOR)
            assert not service.leases.edge._again
            assert await service.bound() == {1: "CONFIG"}

    asyncio.run(story())


def test_a_lease_that_takes_over_beyond_the_limit_is_unbound(tmp_path: Path) -> None:
    async def story() -> None:
        own = first()
        own["b4"][0, 5] = 0x77  # another subscriber's, by the configuration
        async with serving(tmp_path, limited(tmp_path), own) as service:
            service.hear(lease(1, b4="2001:db8:1:100::1"))
            async with asyncio.timeout(60):
                while not (await service.control.list(ListFilter(shadowed=True), 10, "")).rows.size:
                    await asyncio.sleep(0.01)
            service.hear(WAITING)
            await service.until({1: "CONFIG", 2: "DHCP"})
            await service.control.reload(rows.no_rows())
            await service.until_true(lambda: service.waiting == [1])
            await service.until({2: "DHCP"})
            service.hear(ended(lease(2), 80))
            await service.until({1: "DHCP"})

    asyncio.run(story())


# --- room in the table ------------------------------------------------------------------------------------------------


def others(count: int) -> Rows:
    """Whole addresses of as many subscribers."""
    b4s = [IPv6Address(f"2001:db8:{number + 0x100:x}::1").packed for number in range(count)]
    first = int(IPv4Address("203.0.113.0"))
    return rows.array([rows.row(first + number, 0, 0, 0, b4, BR) for number, b4 in enumerate(b4s)])


@pytest.mark.parametrize("how", ["a binding ends", "the table grows"])
def test_a_lease_that_the_table_had_no_room_for_is_tried_again(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_file, "_ROOM_S", 0.01)
    settings = limited(tmp_path, 2)

    async def story() -> None:
        async with serving(tmp_path, settings, capacity=64) as service:
            full = others(service.table.capacity)
            await service.control.bind(full, Source.OPERATOR)
            assert service.table.size == service.table.capacity
            for client in (2, 3):  # heard twice, with two addresses: it is left out once
                service.hear(lease(2, client=2, at=client, b4=f"2001:db8:1:100::{client}"))
                await service.until_true(lambda refused=client - 1: service.leases.refused == refused)  # type: ignore[misc]
            assert service.table.size == service.table.capacity
            if how == "a binding ends":
                await service.control.unbind((full["ipv4"][:1], full["psid"][:1]), Source.OPERATOR)
            else:
                await asyncio.to_thread(service.table.grow, 2 * service.table.capacity)
                service.leases.reconfigure(settings, settings, [], {})
            await service.until_true(lambda: service.table.size_of(Source.DHCP) == 1)
            assert not len(service.leases._left_out)

    asyncio.run(story())


def test_no_more_are_tried_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are tried in vain cost the others the writer's time."""
    monkeypatch.setattr(leases_file, "_ROOM_S", 0.01)
    settings = limited(tmp_path, 64)

    async def story() -> None:
        async with serving(tmp_path, settings, capacity=64) as service:
            full = others(service.table.capacity)
            await service.control.bind(full, Source.OPERATOR)
            service.hear(*(lease(psid, b4=f"2001:db8:{psid}:100::1") for psid in range(1, 6)))
            await service.until_true(lambda: service.leases.refused == 5)
            moved = full[:1].copy()
            moved["b4"][0, 15] = 7
            await service.control.bind(moved, Source.OPERATOR)  # something has ended, and there is no room
            service.hear(ended(lease(5), 80))
            await service.until_true(lambda: len(service.leases._left_out) == 4)
            for count in (1, 2):
                await service.control.unbind((full["ipv4"][count : count + 1], full["psid"][:1]), Source.OPERATOR)
                await service.until_true(lambda count=count: service.table.size_of(Source.DHCP) == count)  # type: ignore[misc]
            assert (service.leases.refused, sorted(service.leases._left_out.rows["psid"].tolist())) == (5, [3, 4])

    asyncio.run(story())


def test_many_without_room_are_left_out_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A report names some of them only."""
    monkeypatch.setattr(refusals, "MOST", 2)

    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path, 64), capacity=64) as service:
            full = others(service.table.capacity - 3)
            await service.control.bind(full, Source.OPERATOR)
            service.hear(*(lease(psid, b4=f"2001:db8:{psid}:100::1") for psid in range(1, 21)))
            await service.until_true(lambda: len(service.leases._left_out) == 17)
            await service.until_true(lambda: service.table.size_of(Source.DHCP) == 3)
            assert service.leases.refused == 17
            assert [line for line in caplog.messages if "not bound" in line][1:] == []

    asyncio.run(story())


def test_what_is_refused_for_its_own_sake_is_not_tried_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path)) as service:
            service.hear(lease(1, b4="2001:db8:1:100::1"), lease(2, b4="2001:db8:2:100::1", ipv4="127.0.0.1"))
            await service.until({1: "DHCP"})
            assert (service.leases.refused, len(service.leases._left_out)) == (1, 0)

    asyncio.run(story())
