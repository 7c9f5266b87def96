"""Explanations and captures of the running router, for the API."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pylwaftr import _core, capture_client
from pylwaftr.api.backend import Captured
from pylwaftr.capture import START, STATE, STOP, CaptureFault, State, Wanted, start_command, state_of
from pylwaftr.config import Config
from pylwaftr.daemon import way
from pylwaftr.explain.story import Given, Story

_POLL_S = 0.1
_PIECE = 256 << 10  # octets a message


class Diagnostics:
    """Implements api.backend.Diagnostics."""

    def __init__(self, table: _core.BindingTable, config: Callable[[], Config]) -> None:
        self._table, self._config = table, config

    async def explain(self, given: Sequence[Given]) -> Sequence[Story]:
        return await asyncio.to_thread(lambda: list(way.explain(self._config(), self._table, given)))

    async def capture(self, wanted: Wanted) -> AsyncIterator[Captured]:
        if wanted.file:
            with _new(Path(wanted.file)):
                async with aclosing(_captured(wanted)) as states:  # it is stopped before the file is looked at
                    async for state in states:
                        yield Captured(b"", state)
            return
        with tempfile.TemporaryDirectory(prefix="pylwaftr-") as folder:
            file = Path(folder) / "capture.pcapng"
            read, state = 0, State("none")
            async for state in _captured(replace(wanted, file=str(file))):
                while octets := await asyncio.to_thread(_piece, file, read):
                    read += len(octets)
                    yield Captured(octets, state)
            yield Captured(b"", state)


async def _captured(wanted: Wanted) -> AsyncGenerator[State, None]:
    """States until it is over; asked for on the router's own telemetry socket, as every other client does."""
    socket = await asyncio.to_thread(capture_client.own_socket)
    if socket is None:
        raise CaptureFault("this router has no telemetry socket: it runs with --no-telemetry")
    with await asyncio.to_thread(capture_client.Connection, socket) as connection:
        state = state_of(START, await asyncio.to_thread(connection.ask, start_command(wanted)))
        try:
            while state.state == "running":
                yield state
                await asyncio.sleep(_POLL_S)
                state = state_of(STATE, await asyncio.to_thread(connection.ask, STATE.encode()))
        finally:
            if state.state == "running":
                connection.ask(STOP.encode())
        yield state


@contextmanager
def _new(file: Path) -> Iterator[None]:
    """Whoever may call the API is not whoever owns the router's files: none that is there is written over."""
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as fault:
        raise CaptureFault(f"{file} cannot be made ({fault.strerror}): give the name of a new file") from None
    try:
        yield
    except BaseException:  # also the client's leaving: the same again shall not meet with this one's empty file
        with suppress(FileNotFoundError):
            if not file.stat().st_size:
                file.unlink()
        raise


def _piece(file: Path, start: int) -> bytes:
    with file.open("rb") as source:
        source.seek(start)
        return source.read(_PIECE)
