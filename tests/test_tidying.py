"""Upkeep in the background: what it finds damaged is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.daemon.tidying import Tidying
from pylwaftr.store.sqlite import Limits, SqliteStore
from tests.store_files import AT, LARGE, bulk, flip, made, snapshot
from tests.store_rows import A3, BIND, many, one, opened, row


async def upkeep(store: SqliteStore) -> None:
    """All there is to do."""

    async def on_disk(act: Callable[[], Any]) -> Any:
        return act()

    kept = Tidying(store, on_disk)
    while (job := store.upkeep()) is not None:
        await kept._work(job)
    await kept.stop()


def test_damage_that_is_found_in_the_background_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path)
    store, _ = opened(tmp_path, Limits(fold_changes=1, snapshot_rows=1), AT)
    flip(snapshot(tmp_path), 5000)
    store.commit([one(BIND, row(2, 5, ipv4=A3 + 50_000))], 106.0)
    with caplog.at_level(logging.ERROR, "pylwaftr"):
        asyncio.run(upkeep(store))
        for number in range(7):
            store.commit([one(BIND, many(0, LARGE, number))], 200.0 + number)
        flip(bulk(tmp_path), 5000)
        asyncio.run(upkeep(store))
    store.close()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "the rows have a wrong checksum; it is kept as" in said[0]
    assert "block 0 of 5 has a wrong checksum: it was taken out of the history" in said[1]
