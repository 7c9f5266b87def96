"""A reload while the store fails or is slow: nothing was changed is true, and what is counted is what is bound."""

from __future__ import annotations

import asyncio
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
from tests.config_text import E1, entries, text
from tests.control_life import FailingStore, keys, store_of
from tests.store_rows import b4, row

SERVER = 'leasequery: {servers: [{address: "127.0.0.1", port: 9, require_tls: false}]}'


class _Engine:
    remarks: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.told: list[Any] = []

    def apply(self, settings: Any) -> None:
        self.told.append(settings)


def _life(folder: Path, test: Callable[[Services, Callable[[str], Awaitable[Any]], _Engine], Awaitable[None]]) -> None:
    """One life of a control side. The test gets what reloads it with this at the end of its file."""
    file = folder / "router.yaml"

    def written(more: str) -> str:
        return text(f"state: {{directory: {folder / 'state'}}}\n{more}")

    file.write_text(written(""))
    loaded = config.load(file)

    async def life() -> None:
        engine = _Engine()
        router = SimpleNamespace(table=empty_table(loaded), engine=engine, inject=lambda packets: None)
        services = Services(loaded, cast(Router, router), FailingStore(loaded.state.directory, time.time()))
        await services.restore()
        try:
            async with asyncio.timeout(30):
                await test(services, lambda more: services.settings.apply(written(more), None), engine)
        finally:
            await services.stop()

    asyncio.run(life())


@pytest.mark.parametrize("beside, more", [(True, ""), (False, entries(E1))], ids=["beside another", "by itself"])
def test_a_reload_that_the_store_refuses_changes_nothing(tmp_path: Path, beside: bool, more: str) -> None:
    async def test(services: Services, reload: Callable[[str], Awaitable[Any]], engine: _Engine) -> None:
        control, store = services.control, store_of(services.control)
        policy, before = services.policy.policy, services.config
        await services._apply_settings(before)
        store.broken, store.slow_s = True, 0.2
        other = [asyncio.ensure_future(control.bind(row(9), Source.OPERATOR))] if beside else []
        limits = "subscribers: {max_softwires: 1, limit_operator: true}\nicmp: {unknown_b4_v6: false}\n"
        with pytest.raises(StoreFault):
            await reload(limits + SERVER + "\n" + more)
        await asyncio.gather(*other, return_exceptions=True)
        assert (services.config, services.policy.policy, services.leases) == (before, policy, None)
        assert engine.told[-1] == engine.told[0] != engine.told[1]
        store.broken, store.slow_s = False, 0.0
        for n in (1, 2, 3):
            assert (await control.bind(row(n, to=n), Source.OPERATOR)).added == 1  # of one subscriber

    _life(tmp_path, test)


@pytest.mark.parametrize("broken", [False, True], ids=["kept", "taken back"])
def test_the_first_server_comes_while_changes_are_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    monkeypatch.setattr(leases, "_RETRY_S", 0.01)

    async def test(services: Services, reload: Callable[[str], Awaitable[Any]], engine: _Engine) -> None:
        control, store = services.control, store_of(services.control)
        await control.bind(row(1), Source.OPERATOR)
        store.broken, store.slow_s = broken, 0.3
        under_way = [asyncio.ensure_future(control.bind(row(2, to=2), Source.OPERATOR))]
        await asyncio.sleep(0.01)
        under_way.append(asyncio.ensure_future(control.bind(row(3, to=3), Source.OPERATOR)))
        reloaded = asyncio.ensure_future(reload(SERVER))
        await asyncio.sleep(0.2)
        under_way.append(asyncio.ensure_future(control.bind(row(4, to=4), Source.OPERATOR)))
        await asyncio.gather(*under_way, return_exceptions=True)
        store.broken = False
        await reloaded
        assert services.leases is not None
        counted = services.leases._quarantine._subscribers
        await control.bind(row(5, to=5), Source.OPERATOR)
        assert counted.softwires(b4(1)) == control._table.size == (2 if broken else 5)
        await control.unbind(keys(1, 2, 3, 4, 5), Source.OPERATOR)
        assert counted.softwires(b4(1)) == control._table.size == 0

    _life(tmp_path, test)


def test_a_writer_that_has_ended_is_no_healthy_store(tmp_path: Path) -> None:
    async def test(services: Services, reload: Callable[[str], Awaitable[Any]], engine: _Engine) -> None:
        watching = asyncio.create_task(services._watch_health())
        await asyncio.sleep(0.01)
        well = services.machine.healthy["store"]
        watching.cancel()
        services.control._writer.failed = True
        watching = asyncio.create_task(services._watch_health())
        await asyncio.sleep(0.01)
        assert (well, services.machine.healthy["store"]) == (True, False)
        watching.cancel()

    _life(tmp_path, test)
