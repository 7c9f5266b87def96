"""One life of a control side, and what reloads it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

from pylwaftr import config
from pylwaftr.daemon.router import Router, empty_table
from pylwaftr.daemon.services import Services
from tests.config_text import text
from tests.control_life import FailingStore

SERVER = 'leasequery: {servers: [{address: "127.0.0.1", port: 9, require_tls: false}]}'


class Engine:
    remarks: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.told: list[Any] = []

    def apply(self, settings: Any) -> None:
        self.told.append(settings)


def life_of(
    folder: Path,
    test: Callable[[Services, Callable[..., Awaitable[Any]], Engine], Awaitable[None]],
    first: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """One life of a control side. The test gets what reloads it with this at the end of its file, and other sides."""
    file = folder / "router.yaml"

    def written(more: str = "", **sides: str) -> str:
        return text(f"state: {{directory: {folder / 'state'}}}\n{more}", **sides)

    file.write_text(written(**first))
    loaded = config.load(file)

    async def life() -> None:
        engine = Engine()
        router = SimpleNamespace(table=empty_table(loaded), engine=engine, inject=lambda packets: None)
        services = Services(loaded, cast(Router, router), FailingStore(loaded.state.directory, time.time()))
        await services.restore()
        try:
            async with asyncio.timeout(30):
                await test(
                    services, lambda *more, **sides: services.settings.apply(written(*more, **sides), None), engine
                )
        finally:
            await services.stop()

    asyncio.run(life())
