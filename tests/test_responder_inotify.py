"""A journal that grows is read because the kernel says so, not because it was time to look."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from pylwaftr.responder import daemon, inotify, journal, kea
from pylwaftr.responder.daemon import Service, Sources, Tail, tails
from pylwaftr.responder.database import Change, Database
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


ODD = [
    '{"at": 1, "state": "ACTIVE", "ipv4": "1.2.3.4", "client": 5}',
    '{"at": 1, "state": "ACTIVE", "ipv4": [1]}',
    '{"at": 1, "state": "ACTIVE", "ipv4": "1.2.3.4", "cltt": -1}',
    '{"at": 1, "state": "ACTIVE", "ipv4": "1.2.3.4", "cltt": 99999999999}',
    "[" * 100_000,
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_an_odd_line_is_left_out_and_the_next_ones_are_heard(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "journal"
    path.write_text(f"{LINE % 1}{odd}\n{LINE % 2}")
    service = Service(Database(), Settings(b"\0\3\0\1server"), None)
    tails(service, Sources(journal=path))
    assert len(service.database) == 2


@pytest.mark.parametrize("kind", [TypeError, OverflowError, RecursionError])
def test_whatever_a_line_leads_to_is_its_own_fault(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(text: str) -> Change:
        if text == "odd":
            raise kind(text)
        return real(text)

    real = journal.parse
    monkeypatch.setattr(journal, "parse", parse)
    lines, refused = [LINE % 1, "odd", LINE % 2], list[str]()
    assert len(daemon._read(lines, parse)) == 2  # Kea's
    assert len(journal.read(lines, lambda text, fault: refused.append(text))) == 2
    assert refused == ["odd"]


def test_a_line_of_kea_that_is_no_csv_is_left_out() -> None:
    with pytest.raises(ValueError, match="new-line"):
        kea.Leases().line("a\rb", 0)


def test_a_file_that_cannot_be_opened_is_one_that_is_not_there_yet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, seen = tmp_path / "journal", list[str]()
    path.mkdir()
    tail = Tail(path, lambda lines, live: seen.extend(lines))
    tail.read()
    tail.read()
    assert len(caplog.records) == 1  # told once
    path.rmdir()
    path.write_text("one\n")
    tail.read()
    assert seen == ["one"]


def test_the_program_ends_when_it_hears_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(growing: object, sources: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(daemon, "_follow", broken)

    async def story() -> None:
        service = Service(Database(), Settings(b"\0\3\0\1server"), None)
        async with asyncio.timeout(60):
            await daemon.serve(service, [], Sources(journal=tmp_path / "journal"))

    with pytest.raises(OSError, match="the disk is gone"):
        asyncio.run(story())
    assert "the disk is gone" in caplog.text


def test_a_folder_that_is_not_there_is_not_told_of(tmp_path: Path) -> None:
    async def story() -> None:
        with inotify.told([tmp_path / "no"], lambda: None) as is_told:
            assert not is_told

    asyncio.run(story())
