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
        for kind, packets in by_kind(*self._router.engine.punted()).items():
            if (take := self._takers.get(kind)) is not None:
                take(packets)


def by_kind(rows: npt.NDArray[np.void], octets: bytes) -> dict[int, list[bytes]]:
    """The packets of what a punt ring gave. It gives a few at a time, thousands of times a second."""
    found: dict[int, list[bytes]] = {}
    columns = (rows[name].tolist() for name in ("kind", "offset", "length"))
    for kind, start, length in zip(*columns, strict=True):
        found.setdefault(kind, []).append(octets[start : start + length])
    return found
