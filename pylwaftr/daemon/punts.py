"""What the workers hand to the control side, by kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from pylwaftr.daemon.router import Router

PCP, MISS, MOVE = 1, 2, 3
Take = Callable[[Iterable[bytes]], None]


class Punts:
    """Calls the takers when packets wait; what nobody takes is dropped."""

    def __init__(self, router: Router, pcp: Take, miss: Take | None = None, move: Take | None = None) -> None:
        self._router = router
        self._takers = {kind: take for kind, take in ((PCP, pcp), (MISS, miss), (MOVE, move)) if take is not None}

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._router.engine.punt_fd, self._take)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._router.engine.punt_fd)

    def _take(self) -> None:
        rows, octets = self._router.engine.punted()
        for kind, take in self._takers.items():
            if packets := packets_of(rows, octets, kind):
                take(packets)


def packets_of(rows: npt.NDArray[np.void], octets: bytes, kind: int) -> list[bytes]:
    """The packets of one kind out of what a punt ring gave."""
    mine = rows[rows["kind"] == kind]
    starts, lengths = mine["offset"].tolist(), mine["length"].tolist()
    return [octets[start : start + length] for start, length in zip(starts, lengths, strict=True)]
