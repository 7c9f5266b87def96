"""A whole history over a real socket: in order, in bounded memory, and given up when its reader leaves."""

from __future__ import annotations

import csv
import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylwaftr.api.client import CallFailed, Client
from pylwaftr.changes import Source
from pylwaftr.store import history, segments
from tests.api_router import Bindings, Served, many, parts

FEW, MANY = 2_000, 20_000


class WithHistory(Bindings):
    async def start(self) -> None:
        await super().start()
        await self.control.bind(many(self.capacity), Source.OPERATOR)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BLOCK", 512)
    monkeypatch.setattr(history, "BLOCK", 512)
    monkeypatch.setattr(history, "_PART", 1)


def peak_of(folder: Path, count: int) -> int:
    """Octets of both ends, beyond those of before, while the command writes the history to a file."""
    file = folder / f"{count}.csv"
    with Served(parts(WithHistory(folder / str(count), count))) as served:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            done = served.command("history", "-o", file)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert done.stdout == f"{file}: {count} lives\n"
    return peak - before


def test_an_export_of_ten_times_as_many_lives_takes_no_more_memory(tmp_path: Path) -> None:
    peak_of(tmp_path, 10)  # modules that are loaded by then
    few, large = peak_of(tmp_path, FEW), peak_of(tmp_path, MANY)
    assert large < 1.5 * few
    with (tmp_path / f"{MANY}.csv").open() as stream:
        found = [line["ipv4"] for line in csv.DictReader(stream)]
    assert found == [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(MANY)]


def test_lines_come_while_others_are_still_read(tmp_path: Path) -> None:
    with Served(parts(WithHistory(tmp_path, FEW))) as served:
        done = served.command("history", "--json")
        assert len([json.loads(line) for line in done.stdout.splitlines()]) == FEW
        done = served.command("history")
        assert len(done.stdout.splitlines()) == FEW


def test_a_reader_that_leaves_gives_its_place_back(tmp_path: Path) -> None:
    """There are 8 places. The router hears of a leave a moment later, so one that is refused is tried again."""
    with Served(parts(WithHistory(tmp_path, MANY))) as served, Client(served.target) as client:
        entered, deadline = 0, time.monotonic() + 60
        while entered < 20:
            assert time.monotonic() < deadline
            lives: Iterator[object] = client.lives_of("::/0")
            try:
                next(lives)
                entered += 1
            except CallFailed as fault:
                assert fault.reason == "TOO_MANY_STREAMS"  # noqa: PT017
                time.sleep(0.02)
            lives.close()  # type: ignore[attr-defined]
        assert len(list(client.lives_of("::1/128"))) == 0
