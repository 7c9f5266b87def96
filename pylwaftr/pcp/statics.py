"""Bindings that others made (configuration, operator, leases), by subscriber: reported by the server, never changed.

They come and go by the million with the leases, so the rows are kept compiled (_by_prefix.pyx), chained by subscriber.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pylwaftr.pcp._by_prefix import ByPrefix
from pylwaftr.rows import PREFIX_MASKS, Rows


class Statics:
    def __init__(self, mask: int, room: int = 1024) -> None:
        """`mask`: the length of a subscriber's prefix. `room`: rows that may come."""
        self._room = room
        self._rows = ByPrefix(mask, room)

    def __len__(self) -> int:
        return len(self._rows)

    def recut(self, mask: int) -> None:
        if mask != self._rows.length:
            rows, self._rows = self._rows.all(), ByPrefix(mask, self._room)
            self.add(rows)

    def add(self, rows: Rows) -> None:
        self._rows.add(_octets(rows))

    def remove(self, rows: Rows) -> None:
        """What is not there is no fault."""
        self._rows.remove(_octets(rows))

    def all(self) -> Rows:
        return self._rows.all()

    def may_have(self, tunnel: bytes, mask: int) -> bool:
        """False: there is none in the prefix. True: `of_prefix` has to look."""
        return self._rows.has(tunnel) if mask >= self._rows.length else len(self._rows) > 0

    def of_prefix(self, tunnel: bytes, mask: int) -> Rows:
        """Rows whose B4 address shares that many bits with the tunnel's, in order of address and PSID."""
        near = self._rows.of(tunnel) if mask >= self._rows.length else self._rows.all()
        if mask != self._rows.length:
            differ = (near["b4"] ^ np.frombuffer(tunnel, np.uint8)) & PREFIX_MASKS[mask]
            near = near[~differ.any(1)]
        return near if len(near) < 2 else near[np.lexsort((near["psid"], near["ipv4"]))]


def _octets(rows: Rows) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(rows).view(np.uint8)
