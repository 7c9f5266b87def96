"""A start of the control side while others bind, and while the store refuses them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pylwaftr import config
from pylwaftr.changes import Source
from pylwaftr.daemon import leases
from pylwaftr.daemon.router import Router, empty_table
from pylwaftr.daemon.services import Services
from pylwaftr.store import StoreFault
from tests.config_text import text
from tests.control_life import FailingStore, store_of
from tests.store_rows import row

QUIET = "api: {listen: null}\nmetrics: {listen: null}\n"


def _life(folder: Path, test: Callable[[Services], Awaitable[None]], more: str = "") -> None:
    file = folder / "router.yaml"
    file.write_text(text(f"state: {{directory: {folder / 'state'}}}\n{QUIET}{more}"))
    loaded = config.load(file)

    async def life() -> None:
        waits, wakes = socket.socketpair()
        engine = SimpleNamespace(apply=lambda settings: None, punt_fd=waits.fileno(), remarks=())
        router = SimpleNamespace(table=empty_table(loaded), engine=engine, inject=lambda packets: None)
        services = Services(loaded, cast(Router, router), FailingStore(loaded.state.directory, time.time()))
        await services.restore()
        try:
            async with asyncio.timeout(60):
                await test(services)
        finally:
            await services.stop()
            waits.close()
            wakes.close()

    asyncio.run(life())


async def _started(services: Services) -> None:
    await services.start()
    assert services.pcp is not None
    assert services.pcp.service.healthy


def test_leases_that_the_store_refuses_do_not_end_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its epoch is kept since the last time: PCP has nothing to write. Leases are tried again and again, and whoever is
    on the way to the disk beside them is refused."""
    monkeypatch.setattr(leases, "_RETRY_S", 0.3)
    _life(tmp_path, _started)

    async def test(services: Services) -> None:
        store = store_of(services.control)
        store.broken, store.slow_s = True, 0.05
        refused = 0

        async def lease() -> None:
            nonlocal refused
            while True:
                try:
                    await services.control.bind(row(9), Source.DHCP)
                    return
                except StoreFault:
                    refused += 1
                    await asyncio.sleep(leases._RETRY_S)

        leasing = asyncio.create_task(lease())
        await asyncio.sleep(0)
        await _started(services)
        assert refused
        assert not services.control.store_serves
        store.broken = False
        await leasing

    _life(tmp_path, test)


def test_a_collector_hears_what_is_bound_while_pcp_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.setblocking(False)
        host, port = collector.getsockname()

        async def test(services: Services) -> None:
            begin = services._start_pcp

            async def slowly(given: Any) -> Any:
                await services.control.bind(row(9), Source.DHCP)  # before anything else has had its turn
                return await begin(given)

            monkeypatch.setattr(services, "_start_pcp", slowly)
            await services.start()
            heard = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(collector, 2000), 60)
            assert b'psid="9"' in heard

        _life(tmp_path, test, f'history: {{syslog: {{server: "{host}:{port}", transport: udp}}}}\n')
