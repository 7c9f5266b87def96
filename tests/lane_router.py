"""A router for tests: one worker's pipeline without ports (`_core.Lane`), with its own clock."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from pylwaftr import _core
from tests.frames import PEER_MAC, Seen, ip4
from tests.vector_config import Binding, Settings, bindings, numeric4, packed6, settings

EAL = ["pylwaftr-tests", "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", "256", "--log-level=error"]
SOURCE_CONFIG = 0


@cache
def start_eal() -> None:
    """DPDK's environment, once per process. It pins the calling thread to a core, which tests do not want."""
    cores = os.sched_getaffinity(0)
    _core.eal_init([*EAL, "-l", str(min(cores))])
    os.sched_setaffinity(0, cores)


@cache
def kinds() -> dict[str, str]:
    """Counter name -> kind (rx, edge, drop, held, tx, info)."""
    return {name: kind for name, kind, *_ in _core.COUNTERS}


@cache
def _units() -> dict[str, str]:
    return {name: unit for name, _, unit, *_ in _core.COUNTERS}


def row_array(rows: Sequence[Binding]) -> np.ndarray[Any, Any]:
    array = np.zeros(len(rows), dtype=_core.BINDING_ROW)
    for cell, row in zip(array, rows, strict=True):
        cell["ipv4"], cell["psid"] = numeric4(row.ipv4), row.psid
        cell["psid_len"], cell["psid_offset"] = row.psid_len, row.psid_offset
        cell["b4"] = np.frombuffer(packed6(row.b4), np.uint8)
        cell["br"] = np.frombuffer(packed6(row.br), np.uint8)
    return array


class Router:
    """`send` and friends return what left because of it; `moved` tells which counters moved since it was last asked."""

    def __init__(
        self,
        options: Settings | None = None,
        rows: Sequence[Binding] | None = None,
        resolved: bool = True,
        mbufs: int = 1024,
        offloads: str = "none",
        accounts: bool = False,
    ) -> None:
        start_eal()
        chosen = options or settings()
        own = [int.from_bytes(address) for address, _ in chosen["v4"]["addresses"]]
        own6 = [address for address, _ in chosen["v6"]["addresses"]] + list(chosen["br_addresses"])
        rows = bindings() if rows is None else rows
        self.table = _core.BindingTable(max(1024, 2 * len(rows)), own, own6, accounts)
        report = self.table.bind(row_array(rows), SOURCE_CONFIG, 1)
        assert not report["refused"], report
        self.lane = _core.Lane(chosen, self.table, mbufs, offloads)
        if resolved:
            for side, peer in PEER_MAC.items():
                self.lane.set_next_hop(side, peer)
        self._before = self.lane.counters()

    def send(self, side: str, *frames: bytes, segments: Sequence[int] = ()) -> list[Seen]:
        """Each frame comes alone, split into mbuf segments of these lengths (none = one segment)."""
        for frame in frames:
            self.lane.feed(side, frame, list(segments))
        return self.take()

    def burst(self, side: str, frames: Sequence[bytes]) -> list[Seen]:
        self.lane.feed_many(side, list(frames))
        return self.take()

    def advance(self, ms: int) -> list[Seen]:
        self.lane.advance(ms)
        return self.take()

    def interface_up(self) -> list[Seen]:
        self.lane.interface_up()
        return self.take()

    def take(self) -> list[Seen]:
        return list(self.lane.take())

    def moved(self) -> dict[str, int]:
        """All counters that moved, but for octets, cycles and polls."""
        now = self.lane.counters()
        before, self._before = self._before, now
        told = {name: now[name] - before[name] for name in now if now[name] != before[name]}
        return {name: n for name, n in told.items() if _units()[name] == "packets"}

    def ways(self) -> dict[str, int]:
        """The counters that moved and tell which way received frames took: edges, drops, held."""
        return {name: n for name, n in self.moved().items() if kinds()[name] in ("edge", "drop", "held")}

    def count(self, name: str) -> int:
        return int(self.lane.counters()[name])

    def held(self) -> int:
        return self._sum("held")

    def _sum(self, *wanted: str) -> int:
        return sum(n for name, n in self.lane.counters().items() if kinds()[name] in wanted)

    def check_law(self) -> None:
        """Every frame that came in left by one edge or one drop, or is held; nothing else has a packet buffer."""
        came, went, held = self._sum("rx"), self._sum("edge", "drop"), self.held()
        assert came == went + held, f"{came} came in, {went} left, {held} are held: {self._all()}"
        assert held >= 0, self._all()
        if not held and self.lane.quiescent():  # answers of our own may wait for a next hop too
            assert self.lane.mbufs_in_use() == 0, f"{self.lane.mbufs_in_use()} packet buffers lost: {self._all()}"

    def check_end(self) -> None:
        """The law once more, and after what is held was dropped too."""
        self.check_law()
        self.lane.drop_held()
        self.take()
        assert self.held() == 0, self._all()
        self.check_law()

    def _all(self) -> dict[str, int]:
        return {name: n for name, n in self.lane.counters().items() if n}


@contextmanager
def router(
    options: Settings | None = None,
    rows: Sequence[Binding] | None = None,
    resolved: bool = True,
    mbufs: int = 1024,
    offloads: str = "none",
    accounts: bool = False,
) -> Iterator[Router]:
    """A router that is checked for the conservation law when the test is through with it."""
    made = Router(options, rows, resolved, mbufs, offloads, accounts)
    try:
        yield made
        made.check_end()
    finally:
        del made.lane  # a failed test keeps its frames for the report; the packet buffers are needed by the next one


def on_side(frames: Iterable[Seen], side: str) -> list[bytes]:
    return [frame for where, frame in frames if where == side]


def with_addresses(options: Settings, side: str, addresses: Sequence[tuple[str, int]]) -> Settings:
    packed = ip4 if side == "v4" else packed6
    changed = {**options[side], "addresses": [(packed(address), length) for address, length in addresses]}
    return {**options, side: changed}
