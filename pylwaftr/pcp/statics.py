"""Bindings that others made (configuration, operator, leases), by subscriber: reported by the server, never changed.

Most of them come at once and stay, so they lie in one sorted array (40 octets a row) beside the few that came since.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import numpy as np

from pylwaftr.rows import BINDING_ROW, Rows, no_rows

_FEW = 4096  # rows that may lie beside the array
_HEAD = 6  # octets of a B4 address


class Statics:
    def __init__(self) -> None:
        self._rows = no_rows()  # sorted by B4 address
        self._halves: array[int] = array("Q")  # first 64 bits of each one's B4 address
        self._gone: set[int] = set()  # indices
        self._recent: dict[bytes, list[bytes]] = {}  # first 48 bits of the B4 address -> rows
        self._recently = 0

    def __len__(self) -> int:
        return len(self._rows) - len(self._gone) + self._recently

    def add(self, rows: Rows) -> None:
        if self._recently + len(rows) > max(_FEW, len(self._rows) // 8):
            self._settle(rows)
            return
        for row in rows:
            self._recent.setdefault(row["b4"][:_HEAD].tobytes(), []).append(row.tobytes())
        self._recently += len(rows)

    def remove(self, rows: Rows) -> None:
        for row in rows:
            head, octets = row["b4"][:_HEAD].tobytes(), row.tobytes()
            recent = self._recent.get(head, [])
            if octets in recent:
                recent.remove(octets)
                self._recently -= 1
                if not recent:
                    del self._recent[head]
                continue
            for index in self._indices(row["b4"].tobytes(), 128):
                if self._rows[index].tobytes() == octets:
                    self._gone.add(index)
                    break

    def all(self) -> Rows:
        if self._gone or self._recent:
            self._settle(no_rows())
        return self._rows

    def may_have(self, tunnel: bytes, mask: int) -> bool:
        """False: there is none in the prefix. True: `of_prefix` has to look."""
        if self._recently and (mask < 8 * _HEAD or tunnel[:_HEAD] in self._recent):
            return True
        half, rest = int.from_bytes(tunnel[:8]), (1 << max(0, 64 - mask)) - 1
        start = bisect_left(self._halves, half & ~rest)
        return start < len(self._halves) and self._halves[start] <= half | rest

    def of_prefix(self, tunnel: bytes, mask: int) -> Rows:
        """Rows whose B4 address shares that many bits with the tunnel's."""
        found = b"".join(self._rows[index].tobytes() for index in self._indices(tunnel, mask))
        if self._recently:
            address = int.from_bytes(tunnel) >> (128 - mask)
            near = self._recently_at(tunnel, mask)
            found += b"".join(row for row in near if int.from_bytes(row[8:24]) >> (128 - mask) == address)
        return np.frombuffer(found, BINDING_ROW)

    def _recently_at(self, tunnel: bytes, mask: int) -> Iterable[bytes]:
        """All that may be of the prefix."""
        if mask >= 8 * _HEAD:
            return self._recent.get(tunnel[:_HEAD], ())
        return [row for rows in self._recent.values() for row in rows]

    def _indices(self, tunnel: bytes, mask: int) -> list[int]:
        half, rest = int.from_bytes(tunnel[:8]), (1 << max(0, 64 - mask)) - 1
        start = bisect_left(self._halves, half & ~rest)
        end = bisect_right(self._halves, half | rest, start)
        if mask > 64:  # many B4s may share the first half
            address, rest = int.from_bytes(tunnel), (1 << (128 - mask)) - 1
            low, high = (address & ~rest).to_bytes(16), (address | rest).to_bytes(16)
            start = bisect_left(self._rows["b4"], low, start, end, key=np.ndarray.tobytes)
            end = bisect_right(self._rows["b4"], high, start, end, key=np.ndarray.tobytes)
        return [index for index in range(start, end) if index not in self._gone]

    def _settle(self, rows: Rows) -> None:
        """All in one array again."""
        kept = np.ones(len(self._rows), np.bool_)
        kept[list(self._gone)] = False
        recent = np.frombuffer(b"".join(row for few in self._recent.values() for row in few), BINDING_ROW)
        everything = np.concatenate([self._rows[kept], recent, rows])
        halves = np.ascontiguousarray(everything["b4"]).view(">u8").astype(np.uint64)
        order = np.lexsort((halves[:, 1], halves[:, 0]))
        self._rows = everything[order]
        self._halves = array("Q", halves[order, 0].tobytes())
        self._gone, self._recent, self._recently = set(), {}, 0
