"""A journal that grows is read because the kernel says so, not because it was time to look."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from pylwaftr.responder import daemon, inotify
from pylwaftr.responder.daemon import Service, Sources, tails
from pylwaftr.responder.database import Database
from pylwaftr.responder.server import Settings

LINE = '{"at": 1772366400, "state": "ACTIVE", "ipv4": "198.51.100.%d", "b4": "2001:db8::1", "client": "ff00"}\n'


@pytest.mark.parametrize("told, seldom_s, often_s", [(True, 3600.0, 3600.0), (False, 3600.0, 0.01)])
def test_lines_are_read_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool, seldom_s: float, often_s: float
) -> None:
    """And by looking often where the kernel does not tell."""
    monkeypatch.setattr(daemon, "SELDOM_S", seldom_s)
    monkeypatch.setattr(daemon, "POLL_S", often_s)
    if not told:
        monkeypatch.setattr(inotify, "told", lambda folders, call: contextlib.nullcontext(False))
    path = tmp_path / "journal"
    path.write_text(LINE % 1)

    async def story() -> None:
        service, sources = Service(Database(), Settings(b"\0\3\0\1server"), None), Sources(journal=path)
        following = asyncio.create_task(daemon._follow(tails(service, sources), sources))
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            with path.open("a") as out:
                out.write(LINE % 2)
            while len(service.database) < 2:
                await asyncio.sleep(0.001)
            shorter = path.with_name("new")  # takes its place
            shorter.write_text(LINE % 1 + LINE % 2 + LINE % 3)
            shorter.replace(path)
            while len(service.database) < 3:
                await asyncio.sleep(0.001)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(story())


def test_a_folder_that_is_not_there_is_not_told_of(tmp_path: Path) -> None:
    async def story() -> None:
        with inotify.told([tmp_path / "no"], lambda: None) as is_told:
            assert not is_told

    asyncio.run(story())
