"""When a lease forwards, and when the disk has it: it forwards first, and what is durable outlives a crash."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pylwaftr.changes import Source
from pylwaftr.config.services import Leasequery
from pylwaftr.daemon import leases
from pylwaftr.dhcp.codec_lease import State
from pylwaftr.store import StoreFault
from tests.control_life import store_of
from tests.lease_service import SERVER, limited, serving
from tests.leasequery_peer import lease

ROOM = 64


def test_a_lease_forwards_before_it_is_durable(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path, ROOM)) as service:
            store_of(service.control).slow_s = 0.3
            service.hear(lease(1))
            await service.until_true(lambda: len(service.table) == 1)
            assert service.control.revision == 0
            await service.until_true(lambda: service.control.revision == 1)

    asyncio.run(story())


def test_leases_outlive_a_crash_with_what_was_durable(tmp_path: Path) -> None:
    """Bound without a word of their server. The one that was on its way to the disk is heard of again, for no saved
    start time is ahead of what is durable."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()

    async def story() -> None:
        async with serving(first, limited(first, ROOM)) as service:
            service.hear(lease(1), lease(2))
            await service.until_true(lambda: service.control.revision == 1)
            service.hear(lease(2, at=10, state=State.RELEASED))
            await service.until_true(lambda: service.control.revision == 2)
            store_of(service.control).slow_s = 0.3
            service.hear(lease(3))
            await service.until_true(lambda: len(service.table) == 2)
            shutil.copytree(first, second)  # as a crash would leave it
        async with serving(second, limited(second, ROOM)) as service:
            assert await service.bound() == {1: Source.DHCP.name}
            assert service.leases.edge.requestor.sessions[SERVER].saved.resync  # all are asked for

    asyncio.run(story())


def test_what_the_store_refuses_forwards_no_more_until_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_RETRY_S", 0.01)

    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path, ROOM)) as service:
            store = store_of(service.control)
            store.slow_s, store.broken = 0.02, True
            service.hear(lease(1))
            await service.until_true(lambda: service.control.store_faults >= 2)
            await service.until_true(lambda: len(service.table) == 0)  # taken back each time
            store.broken = False
            await service.until({1: Source.DHCP.name})
            await service.until_true(lambda: service.control.revision == 1)

    asyncio.run(story())


def test_what_is_dropped_does_not_come_back_after_a_crash(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()

    async def story() -> None:
        async with serving(first, limited(first, ROOM)) as service:
            service.hear(lease(1), lease(2))
            await service.until_true(lambda: service.control.revision == 1)
            store_of(service.control).slow_s = 0.1
            assert await service.leases.drop(SERVER, False) == 2
            shutil.copytree(first, second)  # as a crash would leave it
        async with serving(second, limited(second, ROOM)) as service:
            assert await service.bound() == {}

    asyncio.run(story())


def test_who_drops_is_told_that_the_store_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_RETRY_S", 0.01)
    monkeypatch.setattr(leases, "_DURABLE_S", 0.1)

    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path, ROOM)) as service:
            service.hear(lease(1))
            await service.until_true(lambda: service.control.revision == 1)
            store_of(service.control).broken = True
            with pytest.raises(StoreFault, match="not durable"):
                await service.leases.drop(SERVER, False)
            store_of(service.control).broken = False
            await service.until({})

    asyncio.run(story())


@pytest.mark.parametrize("alone", [True, False], ids=["of one server", "of two"])
def test_what_was_bound_before_a_restart_is_dropped_if_it_can_be_no_others(alone: bool, tmp_path: Path) -> None:
    async def story() -> None:
        settings = limited(tmp_path, ROOM)
        async with serving(tmp_path, settings) as service:
            service.hear(lease(1), lease(2))
            await service.until_true(lambda: service.control.revision == 1)
        (one,) = settings.leasequery.servers
        both = replace(settings, leasequery=Leasequery((one, replace(one, port=10))))
        async with serving(tmp_path, settings if alone else both) as service:
            service.hear(lease(1), lease(3))
            await service.until(dict.fromkeys((1, 2, 3), "DHCP"))
            assert await service.leases.drop(SERVER, True) == (3 if alone else 2)
            assert await service.leases.drop(SERVER, False) == (3 if alone else 2)
            assert await service.bound() == ({} if alone else {2: "DHCP"})

    asyncio.run(story())
