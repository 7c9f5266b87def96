"""Bindings that others made (configuration, operator, leases), by subscriber: reported by the server, never changed.

Most of them come at once and stay, so they lie in one sorted array (40 octets a row) beside the few that came since.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

import numpy as np

from pylwaftr.rows import BINDING_ROW, Rows, no_rows

_FEW = 4096  # rows that may lie beside the array


class Statics:
    def __init__(self) -> None:
        self._rows = no_rows()  # sorted by B4 address
        self._halves: array[int] = array("Q")  # first 64 bits of each one's B4 address
        self._gone: set[int] = set()  # indices
        self._recent: dict[bytes, list[bytes]] = {}  # first 8 octets of the B4 address -> rows
        self._recently = 0

    def __len__(self) -> int:
        return len(self._rows) - len(self._gone) + self._recently

    def add(self, rows: Rows) -> None:
        if self._recently + len(rows) > max(_FEW, len(self._rows) // 8):
            self._settle(rows)
            return
        for row in rows:
            self._recent.setdefault(row["b4"][:8].tobytes(), []).append(row.tobytes())
        self._recently += len(rows)

    def remove(self, rows: Rows) -> None:
        for row in rows:
            half, octets = row["b4"][:8].tobytes(), row.tobytes()
            recent = self._recent.get(half, [])
            if octets in recent:
                recent.remove(octets)
                self._recently -= 1
                if not recent:
                    del self._recent[half]
                continue
            for index in self._indices(int.from_bytes(half), int.from_bytes(half)):
                if self._rows[index].tobytes() == octets:
                    self._gone.add(index)
                    break

    def all(self) -> Rows:
        if self._gone or self._recent:
            self._settle(no_rows())
        return self._rows

    def of_prefix(self, tunnel: bytes, mask: int) -> Rows:
        """Rows whose B4 address shares that many bits with the tunnel's."""
        address = int.from_bytes(tunnel)
        rest = (1 << (128 - mask)) - 1
        low, high = (address & ~rest) >> 64, (address | rest) >> 64
        found = b"".join(self._rows[index].tobytes() for index in self._indices(low, high))
        if self._recently:
            found += self._recent_within(low, high)
        rows = np.frombuffer(found, BINDING_ROW)
        if not len(rows) or mask <= 64:
            return rows
        same = [int.from_bytes(row["b4"].tobytes()) >> (128 - mask) == address >> (128 - mask) for row in rows]
        return rows[np.array(same, np.bool_)]

    def _recent_within(self, low: int, high: int) -> bytes:
        if low == high:
            return b"".join(self._recent.get(low.to_bytes(8), ()))
        halves = [half for half in self._recent if low <= int.from_bytes(half) <= high]
        return b"".join(row for half in halves for row in self._recent[half])

    def _indices(self, low: int, high: int) -> list[int]:
        start = bisect_left(self._halves, low)
        found = []
        while start < len(self._halves) and self._halves[start] <= high:
            if start not in self._gone:
                found.append(start)
            start += 1
        return found

    def _settle(self, rows: Rows) -> None:
        """All in one array again."""
        kept = np.ones(len(self._rows), np.bool_)
        kept[list(self._gone)] = False
        recent = np.frombuffer(b"".join(row for few in self._recent.values() for row in few), BINDING_ROW)
        everything = np.concatenate([self._rows[kept], recent, rows])
        halves = np.ascontiguousarray(everything["b4"][:, :8]).view(">u8")[:, 0].astype(np.uint64)
        order = np.argsort(halves, kind="stable")
        self._rows = everything[order]
        self._halves = array("Q", halves[order].tobytes())
        self._gone, self._recent, self._recently = set(), {}, 0
