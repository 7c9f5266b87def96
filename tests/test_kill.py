"""A router that is killed at any instant has kept what it acknowledged.

A child asks for random changes, several at once, and says on a pipe what it asks for and what is acknowledged. It is
killed at a random moment: while it starts, writes, folds files or does nothing. What is found then must be what the
first so many operations come to, in their order: at least those that were acknowledged, none of them by half.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pylwaftr import _core
from pylwaftr.bindings import Bindings
from pylwaftr.changes import Change, Op, Record, Source
from pylwaftr.daemon import tidying
from pylwaftr.daemon.control import Control
from pylwaftr.rows import Rows
from pylwaftr.store import State
from pylwaftr.store.sqlite import Limits, SqliteStore
from tests.store_rows import EVER, many, prefix

LIVES = 200
LIMITS = Limits(bulk=64, fold_changes=30, fold_rows=500, snapshot_rows=1000, kept_changes=40, kept_rows=2000)
AT_ONCE = 6
SOURCES = (Source.OPERATOR, Source.DHCP, Source.PCP)

Step = tuple[str, int, int, int, int]  # what, source, first row, rows, B4


def step_of(number: int) -> Step:
    """The same in child and parent."""
    dice = random.Random(number)
    count = dice.choice((1, 1, 3, 40, 100))
    return (
        dice.choice(("bind", "bind", "unbind", "commit")),
        dice.choice(SOURCES),
        dice.randrange(200),
        count,
        number % 250,
    )


def rows_of(step: Step) -> Rows:
    return many(step[2], step[3], step[4])


def records_of(number: int) -> list[Record]:
    return [Record("pcp", b"%d" % (number % 7), b"%d" % number), Record("pcp", b"%d" % (number % 5), None)]


# --- the child -------------------------------------------------------------------------------------------------------


async def act(control: Control, number: int) -> None:
    what, source, *_ = step = step_of(number)
    rows = rows_of(step)
    if what == "bind":
        await control.bind(rows, source)
    elif what == "unbind":
        await control.unbind((rows["ipv4"].copy(), rows["psid"].copy()), source)
    else:
        await control.commit([Change(Op.BIND, source, rows)], records_of(number), source)


async def live(folder: Path, pipe: int, number: int) -> None:
    control = Control(_core.BindingTable(5000, [], []), SqliteStore(folder, time.time(), LIMITS))
    await control.start(many(190, 5, 251))
    while True:
        group = range(number, number + AT_ONCE)
        os.write(pipe, b"asked %d\n" % group[-1])
        await asyncio.gather(*(said(control, pipe, one) for one in group))  # asks in this order
        number += AT_ONCE


async def said(control: Control, pipe: int, number: int) -> None:
    await act(control, number)
    os.write(pipe, b"acked %d\n" % number)


def child(folder: Path, pipe: int, number: int) -> None:
    tidying._OFTEN, tidying._QUIET_S = 1, 0.0  # files are folded all the time
    try:
        asyncio.run(live(folder, pipe, number))
    except BaseException as fault:
        os.write(pipe, b"fault %s\n" % json.dumps(repr(fault)).encode())
    finally:
        os._exit(1)


def one_life(folder: Path, number: int, moments: random.Random) -> tuple[int, int]:
    """The last step that was asked for, and the last that was acknowledged."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        child(folder, writer, number)
    os.close(writer)
    # Some while they start; most a moment after so many were acknowledged.
    patience, lines = (
        (moments.uniform(0.0, 0.1), 1 << 30) if not moments.randrange(4) else (10.0, moments.randrange(25))
    )
    said = listened(reader, patience, lines)
    said += listened(reader, moments.uniform(0.0, 0.01), 1 << 30)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    said += listened(reader, 10.0, 1 << 30)
    os.close(reader)
    asked = acked = number - 1
    for line in said.decode().splitlines():
        what, _, value = line.partition(" ")
        assert what != "fault", value
        if what == "asked":
            asked = max(asked, int(value))
        else:
            acked = max(acked, int(value))
    return asked, acked


def listened(pipe: int, seconds: float, lines: int) -> bytes:
    """What is said in that time, until the end or so many acknowledgements."""
    said = b""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and said.count(b"acked") < lines:
        if select.select([pipe], [], [], left)[0]:
            if not (piece := os.read(pipe, 1 << 16)):
                break
            said += piece
    return said


# --- what should be there --------------------------------------------------------------------------------------------


class Model:
    """The same operations in memory."""

    def __init__(self) -> None:
        self.table = _core.BindingTable(5000, [], [])
        self.bindings = Bindings(self.table)
        self.records: dict[bytes, bytes] = {}
        self.bindings.put(many(190, 5, 251), Source.CONFIG)

    def act(self, number: int) -> None:
        what, source, *_ = step = step_of(number)
        rows = rows_of(step)
        if what != "unbind":
            self.bindings.put(rows, source)
        else:
            self.bindings.remove((rows["ipv4"].copy(), rows["psid"].copy()), source, over=source == Source.OPERATOR)
        for record in records_of(number) if what == "commit" else ():
            self.records.pop(record.key, None)
            if record.value is not None:
                self.records[record.key] = record.value

    def content(self) -> Any:
        rows, sources, _ = self.table.dump_chunk(0, 1 << 30)
        waiting = self.bindings.shadowed()
        return _set(rows, sources), _set(waiting.rows, waiting.sources), self.records


def _set(rows: Rows, sources: Any) -> set[tuple[bytes, int]]:
    return {(cell.tobytes(), int(source)) for cell, source in zip(rows, sources, strict=True)}


def _of(parts: Any) -> set[tuple[bytes, int]]:
    return {(cell.tobytes(), int(source)) for source, rows in parts.items() for cell in rows}


def found_content(state: State) -> Any:
    return _of(state.bindings), _of(state.shadowed), dict(state.records.get("pcp", {}))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory, where an fsync costs nothing: what the kernel was given outlives the process on any file system."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


@pytest.mark.slow
def test_killed_at_random_moments(folder: Path) -> None:
    moments = random.Random(5)
    model, number, unacknowledged = Model(), 0, 0
    for life in range(LIVES):
        asked, acked = one_life(folder, number, moments)
        store = SqliteStore(folder, time.time(), LIMITS)
        state = store.load()
        # A commit that was cut short was not acknowledged, as the comparison shows.
        assert [text for text in state.set_aside if "pages are not usable" not in text] == []
        if state.revision == 0:
            assert acked < number
            store.close()
            continue
        found = found_content(state)
        for done in range(number, acked + 1):
            model.act(done)
        number = max(number, acked + 1)
        while model.content() != found:
            assert number <= asked, "what was found is nothing that the operations come to"
            model.act(number)
            number, unacknowledged = number + 1, unacknowledged + 1
        if life % 10 == 0:
            lives = store.lives_of(prefix("::/0"), *EVER)
            assert {(one.row[0].tobytes(), one.source) for one in lives if one.ended is None} == found[0]
            store.forget(time.time())
        store.close()
    assert number > 5 * LIVES, "it was killed too early to do much"
    assert unacknowledged, "it was never killed between writing and acknowledging"
    assert not list(folder.glob("*.part"))
