"""A reload while the store fails or is slow, or of a file that is none: nothing was changed is true."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pylwaftr.api.backend import SettingsFaulty
from pylwaftr.changes import Source
from pylwaftr.daemon import leases
from pylwaftr.daemon.services import Services
from pylwaftr.store import StoreFault
from tests.config_text import E1, entries
from tests.control_life import keys, store_of
from tests.reload_life import SERVER, Engine, life_of
from tests.store_rows import b4, row


@pytest.mark.parametrize("beside, more", [(True, ""), (False, entries(E1))], ids=["beside another", "by itself"])
def test_a_reload_that_the_store_refuses_changes_nothing(tmp_path: Path, beside: bool, more: str) -> None:
    async def test(services: Services, reload: Callable[[str], Awaitable[Any]], engine: Engine) -> None:
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

    life_of(tmp_path, test)


@pytest.mark.parametrize("broken", [False, True], ids=["kept", "taken back"])
def test_the_first_server_comes_while_changes_are_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    monkeypatch.setattr(leases, "_RETRY_S", 0.01)

    async def test(services: Services, reload: Callable[[str], Awaitable[Any]], engine: Engine) -> None:
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

    life_of(tmp_path, test)


def test_a_pipe_in_the_place_of_the_file_keeps_no_reload_waiting(tmp_path: Path) -> None:
    async def test(services: Services, reload: Callable[[str], Awaitable[Any]], engine: Engine) -> None:
        file = tmp_path / "router.yaml"
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(SettingsFaulty) as refused:
            await services.settings.apply(None, None)
        assert [str(fault) for fault in refused.value.faults] == [
            f"{file}:1: file: is no regular file: nothing to reload from"
        ]
        assert [fault.path for fault in await services.settings.validate(None)] == ["file"]

    life_of(tmp_path, test)


def test_a_writer_that_has_ended_is_no_healthy_store(tmp_path: Path) -> None:
    async def test(services: Services, reload: Callable[[str], Awaitable[Any]], engine: Engine) -> None:
        watching = asyncio.create_task(services._watch_health())
        await asyncio.sleep(0.01)
        well = services.machine.healthy["store"]
        watching.cancel()
        services.control._writer.failed = True
        watching = asyncio.create_task(services._watch_health())
        await asyncio.sleep(0.01)
        assert (well, services.machine.healthy["store"]) == (True, False)
        watching.cancel()

    life_of(tmp_path, test)


@pytest.mark.parametrize("fails", [False, True], ids=["it works", "it does not"])
def test_settings_that_came_over_the_api_outlive_a_power_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    file, synced = tmp_path / "router.yaml", list[bool]()

    def sync(folder: Path) -> None:
        synced.append(folder == tmp_path and "unbound_v4: false" in file.read_text())
        if fails:
            raise OSError(5, "Input/output error")

    async def test(services: Services, reload: Callable[..., Awaitable[Any]], engine: Engine) -> None:
        new = file.read_text() + "icmp: {unbound_v4: false}\n"
        file.chmod(0o640)
        await services.settings.apply(new, None)
        assert (services.config.icmp.unbound_v4, file.read_text(), file.stat().st_mode & 0o777) == (False, new, 0o640)

    monkeypatch.setattr("pylwaftr.daemon.settings.sync_folder", sync)
    life_of(tmp_path, test)
    assert synced == [True]
    assert ("Input/output error" in caplog.text) is fails


def test_pcp_that_a_reload_switches_off_does_not_serve(tmp_path: Path) -> None:
    async def test(services: Services, reload: Callable[[str], Awaitable[Any]], engine: Engine) -> None:
        services.pcp = cast(Any, SimpleNamespace(service=SimpleNamespace(healthy=True), reconfigure=lambda new: None))
        found = []
        for more in ("", "pcp: {enabled: false}", "pcp: {enabled: true}"):
            await reload(more)
            watching = asyncio.create_task(services._watch_health())
            await asyncio.sleep(0.01)
            found.append(services.machine.healthy.get("pcp"))
            watching.cancel()
        assert found == [True, False, True]

    life_of(tmp_path, test)
