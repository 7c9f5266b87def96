"""BR addresses of leases when the router gets others: also of those that are not in the table just then."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np

from pylwaftr import config, rows
from pylwaftr.api.backend import ListFilter
from pylwaftr.changes import Source
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.leases import LeaseService, found
from pylwaftr.rows import Rows
from tests.control_life import FailingStore, table
from tests.lease_service import limited, serving
from tests.test_run import config_file

OLD, OTHER, NEW = (IPv6Address(f"2001:db8:{n}::1") for n in ("aa", "ab", "bb"))
ADDRESS = int(IPv4Address("203.0.113.1"))


def lease(psid: int, b4: str) -> Rows:
    return rows.array([rows.row(ADDRESS, 0, 6, psid, IPv6Address(b4).packed, OLD.packed)])


BOUND, SHADOWED, WAITING = (lease(1, "2001:db8:1:100::1"), lease(2, "2001:db8:2::1"), lease(3, "2001:db8:1:1ff::2"))


async def brs_of(control: Control, shadowed: bool) -> dict[int, IPv6Address]:
    listed = await control.list(ListFilter(source=Source.DHCP, shadowed=shadowed), 100, "")
    return {int(row["psid"]): IPv6Address(row["br"].tobytes()) for row in listed.rows}


async def until(control: Control, bound: dict[int, IPv6Address], shadowed: dict[int, IPv6Address]) -> None:
    async with asyncio.timeout(60):
        while (await brs_of(control, False), await brs_of(control, True)) != (bound, shadowed):
            await asyncio.sleep(0.01)


def test_what_waits_gets_the_new_br_address_too(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    with path.open("a") as more:  # nobody is there
        more.write('leasequery: {servers: [{address: "127.0.0.1", port: 9, require_tls: false}]}\n')
    loaded = config.load(path)
    old = replace(loaded, softwire=replace(loaded.softwire, br_addresses=(OLD, OTHER)))
    new = replace(old, softwire=replace(old.softwire, br_addresses=(NEW, OTHER)))
    roomy = replace(new, subscribers=replace(new.subscribers, max_softwires=2))
    bindings = table()

    async def story() -> None:
        control = Control(bindings, FailingStore(tmp_path / "state", 0.0))
        await control.start(rows.no_rows())
        await control.bind(lease(2, "2001:db8:9::1"), Source.CONFIG)
        service = LeaseService(old, found(old), control, bindings)
        await service.begin()
        leases = service.edge.requestor.leases
        work = asyncio.create_task(service.edge.run())
        try:
            leases.restore(np.concatenate([BOUND, SHADOWED, WAITING]), asyncio.get_running_loop().time(), 3600.0)
            leases.tell_again(leases.bindings())
            assert [source.queued for source in service.sources()] == [3]
            service.edge.apply_again()
            await until(control, {1: OLD}, {2: OLD})
            async with asyncio.timeout(60):
                while [source.queued for source in service.sources()] != [0]:
                    await asyncio.sleep(0.01)
            service.reconfigure(old, new, *found(new))
            await until(control, {1: NEW}, {2: NEW})
            service.reconfigure(new, roomy, *found(roomy))  # now there is room for the third
            await until(control, {1: NEW, 3: NEW}, {2: NEW})
            last = replace(roomy, softwire=replace(roomy.softwire, br_addresses=(OTHER, NEW)))
            service.reconfigure(roomy, last, *found(last))
            await until(control, {1: NEW, 3: NEW}, {2: OTHER})  # who is bound stays
        finally:
            work.cancel()
            await control.stop()

    asyncio.run(story())


def test_a_br_address_that_went_while_the_router_was_down_is_no_leases_any_more(tmp_path: Path) -> None:
    """Its server tells of nothing new."""
    before = limited(tmp_path, 9)
    softwire = before.softwire

    async def life(
        brs: tuple[IPv6Address, ...], expected: dict[int, IPv6Address], waits: dict[int, IPv6Address]
    ) -> None:
        settings = replace(before, softwire=replace(softwire, br_addresses=brs))
        async with serving(tmp_path, settings) as service:
            if brs == (OLD,):
                await service.control.bind(lease(2, "2001:db8:9::1"), Source.OPERATOR)
                for one in (BOUND, SHADOWED):
                    await service.control.bind(one, Source.DHCP)
            await until(service.control, expected, waits)

    asyncio.run(life((OLD,), {1: OLD}, {2: OLD}))
    asyncio.run(life((OTHER, OLD), {1: OLD}, {2: OLD}))
    asyncio.run(life((NEW, OTHER), {1: NEW}, {2: NEW}))
