"""The protocol inside TLS that began in the middle of a connection (STARTTLS), of whichever end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Inside(asyncio.Protocol):
    """What TLS carried comes in here, what came in clear text never does. The first of it waits for `open`: it may be
    there before asyncio gives the secure transport away. `outer`: who had the connection in clear text."""

    def __init__(self, heard: Callable[[bytes], None], outer: asyncio.BaseProtocol) -> None:
        self._heard, self._outer = heard, outer
        self._early: bytes | None = b""

    def open(self) -> None:
        early, self._early = self._early, None
        if early:
            self._heard(early)

    def data_received(self, data: bytes) -> None:
        if self._early is None:
            self._heard(data)
        else:
            self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._outer.connection_lost(exc)

    def pause_writing(self) -> None:
        self._outer.pause_writing()

    def resume_writing(self) -> None:
        self._outer.resume_writing()
