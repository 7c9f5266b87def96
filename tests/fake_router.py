"""A router without ports for tests of the API: bindings in a dictionary, the rest says what is expected of it.

`Served` runs the real server for it on a thread of its own, on a free port of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pylwaftr.api import server
from pylwaftr.api.backend import (
    Applied,
    Captured,
    Difference,
    Event,
    Listed,
    ListFilter,
    OtherSettings,
    Overview,
    Parts,
    PcpMapping,
    PoolUse,
    RestartNeeded,
    SettingsFaulty,
    SettingsNow,
    SourceStatus,
)
from pylwaftr.api.limits import Limits
from pylwaftr.capture import CaptureFault, State, Wanted
from pylwaftr.changes import Chain, Change, Keys, Op, Refusal, Report, etags
from pylwaftr.config import Fault
from pylwaftr.config.services import Api
from pylwaftr.config.values import Endpoint
from pylwaftr.explain.story import Given, Step, Story
from pylwaftr.rows import BINDING_ROW, Rows, array, ports, row
from pylwaftr.store import Compacted, Life, StoreFault

BR = IPv6Address("2001:db8:aa::1").packed
LOCAL = Api(listen=Endpoint("127.0.0.1", 0), tls=None, allow_plaintext=False, roles=())

Key = tuple[int, int]


def one(ipv4: str, psid_len: int = 0, psid: int = 0, b4: str = "2001:db8:1::1", offset: int = 0) -> Rows:
    return array([row(int(IPv4Address(ipv4)), offset, psid_len, psid, IPv6Address(b4).packed, BR)])


def many(count: int, b4_seed: int = 0) -> Rows:
    """Whole addresses from 10.0.0.0 on, each with a B4 of its own."""
    rows = np.zeros(count, BINDING_ROW)
    rows["ipv4"] = np.arange(count, dtype=np.uint32) + (10 << 24)
    rows["b4"][:, :4] = np.frombuffer(bytes.fromhex("20010db8"), np.uint8)
    rows["b4"][:, 12:] = (np.arange(count) + 1 + b4_seed).astype(">u4").view(np.uint8).reshape(-1, 4)
    rows["br"] = np.frombuffer(BR, np.uint8)
    return rows


@dataclass
class Bindings:
    """A Backend of one source. `broken`: what the store says of every change."""

    held: dict[Key, tuple[bytes, int]] = field(default_factory=dict)
    revision: int = 0
    capacity: int = 1 << 30
    broken: str = ""
    pause_s: float = 0.0
    compacted: int = 0  # changes up to here are not kept
    log: list[Event] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    calls: int = 0
    abandoned: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def _row(self, key: Key) -> Rows:
        return np.frombuffer(self.held[key][0], BINDING_ROW)

    def _etag(self, key: Key) -> str:
        return etags(self._row(key), [self.held[key][1]])[0] if key in self.held else ""

    async def bind(
        self,
        rows: Rows,
        source: int,
        *,
        validate_only: bool = False,
        replacing: bool = False,
        expected: Sequence[str | None] = (),
        chain: Chain | None = None,
    ) -> Report:
        self.calls += 1
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
        if chain is not None and chain.broken and not validate_only:
            return Report(revision=self.revision)
        keys = list(zip(rows["ipv4"].tolist(), rows["psid"].tolist(), strict=True))
        beside = {key: content for key, content in self.held.items() if not (replacing and content[1] == source)}
        lengths = {ipv4: octets[6] for (ipv4, _), (octets, _) in beside.items()}
        refused, seen = [], set()
        for index, (key, length) in enumerate(zip(keys, rows["psid_len"].tolist(), strict=True)):
            wanted = expected[index] if expected else None
            if wanted is not None and wanted != self._etag(key):
                reason = "etag_mismatch" if wanted else "already_exists"
                refused.append(Refusal(index, reason, f"row {index}: {reason}"))
            elif key in seen:
                refused.append(Refusal(index, "duplicate_in_batch", f"row {index} is there twice"))
            elif lengths.get(key[0], length) != length:
                refused.append(Refusal(index, "overlap", f"row {index} overlaps"))
            seen.add(key)
        if len(self.held.keys() | seen) > self.capacity:
            refused.append(Refusal(0, "table_full", "the table is full"))
        if refused:
            if chain is not None:
                chain.broken = True
            return Report(refused=tuple(refused), revision=self.revision)
        packed = rows.tobytes()
        contents = [(packed[at : at + 40], source) for at in range(0, len(packed), 40)]
        added = sum(key not in self.held for key in keys)
        same = sum(self.held.get(key) == content for key, content in zip(keys, contents, strict=True))
        report = Report(added=added, unchanged=same, replaced=len(keys) - added - same, revision=self.revision)
        if validate_only or same == len(keys):
            return report
        await self._commit(Change(Op.BIND, source, rows.copy()))
        self.held.update(zip(keys, contents, strict=True))
        return replace(report, revision=self.revision)

    async def _commit(self, change: Change) -> None:
        if self.broken:
            raise StoreFault(self.broken)
        self.revision += 1
        self.log.append(Event(self.revision, time.time(), change))
        async with self.changed:
            self.changed.notify_all()

    async def unbind(
        self, keys: Keys, source: int, *, validate_only: bool = False, expected: Sequence[str | None] = ()
    ) -> Report:
        self.calls += 1
        wanted = list(zip(keys[0].tolist(), keys[1].tolist(), strict=True))
        refused = []
        for index, key in enumerate(wanted):
            if expected and expected[index] is not None and expected[index] != self._etag(key):
                refused.append(Refusal(index, "etag_mismatch", f"key {index} has changed"))
            elif key in self.held and self.held[key][1] == 0:
                refused.append(Refusal(index, "outranked", f"key {index} is the configuration's"))
        gone = [key for key in wanted if key in self.held]
        if refused or validate_only or not gone:
            count = 0 if refused else len(gone)
            return Report(refused=tuple(refused), removed=count, revision=self.revision)
        await self._commit(Change(Op.UNBIND, source, np.concatenate([self._row(key) for key in gone])))
        for key in gone:
            del self.held[key]
        return Report(removed=len(gone), revision=self.revision)

    async def replace_all(self, source: int) -> Replacing:
        return Replacing(self, source)

    def get(self, ipv4: int, psid: int) -> tuple[Rows, int] | None:
        return (self._row((ipv4, psid)), self.held[ipv4, psid][1]) if (ipv4, psid) in self.held else None

    def lookup(self, ipv4: int, port: int | None) -> tuple[Rows, int] | None:
        for key, (octets, source) in self.held.items():
            found = np.frombuffer(octets, BINDING_ROW)
            ranges = ports(*(int(found[0][name]) for name in ("psid_offset", "psid_len", "psid")))
            if key[0] == ipv4 and any(low <= (port or 0) <= high for low, high in ranges):
                return found, source
        return None

    async def list(self, wanted: ListFilter, page_size: int, page: str) -> Listed:
        after = tuple(int(part) for part in page.split(".")) if page else (-1, -1)
        found: list[Key] = []
        for key in sorted(self.held):
            octets, source = self.held[key]
            if (
                key > after
                and (wanted.ipv4 is None or wanted.ipv4[0] <= key[0] <= wanted.ipv4[1])
                and (wanted.b4 is None or IPv6Address(octets[8:24]) in wanted.b4)
                and (wanted.source is None or wanted.source == source)
                and not wanted.shadowed
            ):
                found.append(key)
        more, found = len(found) > page_size, found[:page_size]
        rows = np.frombuffer(b"".join(self.held[key][0] for key in found), BINDING_ROW)
        sources = np.array([self.held[key][1] for key in found], np.uint8)
        return Listed(rows, sources, self.revision, "{}.{}".format(*found[-1]) if more else "")

    async def watch(self, after: int | None) -> AsyncIterator[Event]:
        if after is not None and after < self.compacted:
            raise Compacted
        if after is None:
            if self.held:
                rows = np.frombuffer(b"".join(octets for octets, _ in self.held.values()), BINDING_ROW)
                yield Event(self.revision, 0.0, Change(Op.BIND, 1, rows))
            after = self.revision
            yield Event(after, 0.0, None, marker=True)
        while True:
            for event in [event for event in self.log if event.revision > after]:
                yield event
                after = event.revision
            async with self.changed:
                await self.changed.wait_for(lambda seen=after: self.revision > seen)  # type: ignore[misc]

    async def who_held(
        self, ipv4: IPv4Address, port: int | None, began: float, ended: float
    ) -> AsyncGenerator[Sequence[Life], None]:
        lives = [life for life in self.lives if _overlaps(life, began, ended)]
        yield [life for life in lives if int(life.row["ipv4"][0]) == int(ipv4)]

    async def lives_of(self, prefix: IPv6Network, began: float, ended: float) -> AsyncGenerator[Sequence[Life], None]:
        lives = [life for life in self.lives if _overlaps(life, began, ended)]
        yield [life for life in lives if IPv6Address(life.row["b4"][0].tobytes()) in prefix]


def _overlaps(life: Life, began: float, ended: float) -> bool:
    return life.began <= ended and (life.ended is None or life.ended >= began)


@dataclass
class Replacing:
    bindings: Bindings
    source: int
    fed: set[Key] = field(default_factory=set)
    chain: Chain = field(default_factory=Chain)

    async def feed(self, rows: Rows) -> Report:
        report = await self.bindings.bind(rows, self.source, replacing=True, chain=self.chain)
        self.fed |= {(int(one["ipv4"]), int(one["psid"])) for one in rows}
        return report

    async def finish(self) -> Report:
        gone = [key for key in self.bindings.held if key not in self.fed]
        keys = np.array([key[0] for key in gone], np.uint32), np.array([key[1] for key in gone], np.uint16)
        return await self.bindings.unbind(keys, self.source)

    async def abandon(self) -> None:
        self.bindings.abandoned += 1


class Info(NamedTuple):
    name: str
    kind: str = "info"
    unit: str = "packets"
    requirement: str = "-"
    help: str = ""


@dataclass
class Machine:
    counter_infos: Sequence[Info] = (Info("rx_v4", "rx"), Info("tx_v6", "tx"), Info("drop_no_binding_v4", "drop"))
    values: npt.NDArray[np.uint64] = field(default_factory=lambda: np.array([[5, 3, 2], [10, 10, 0]], np.uint64))
    max_bindings: int = 100

    def counters(self) -> npt.NDArray[np.uint64]:
        return self.values

    def overview(self) -> Overview:
        remarks = ("a link is down",)
        return Overview(started=1_700_000_000.5, bindings=7, max_bindings=self.max_bindings, remarks=remarks)

    def ports(self) -> Sequence[Mapping[str, Any]]:
        return [{"side": "v4", "link_up": True, "mac": bytes.fromhex("020000000401"), "mtu": 1500}]

    def neighbors(self) -> Mapping[str, Any]:
        return {"v6": {"state": "reachable", "address": IPv6Address("2001:db8::1").packed, "mac": None}}

    def workers(self) -> Sequence[Mapping[str, Any]]:
        return [{"lcore": np.int64(1), "busy": 0.25}]


@dataclass
class Settings:
    default_br: bytes = BR
    yaml: str = "api: {}\n"
    etag: str = "e1"

    def now(self) -> SettingsNow:
        return SettingsNow(self.yaml, "/etc/pylwaftr.yaml", self.etag, 1_700_000_000.0)

    async def validate(self, text: str | None) -> Sequence[Fault]:
        return [Fault("f.yaml", 3, "softwire.hop_limit", "is 300", "warn" in (text or ""))] if text else []

    async def diff(self, text: str | None) -> Sequence[Difference]:
        if text == "bad":
            raise SettingsFaulty(await self.validate(text))
        return [Difference("softwire.hop_limit", "64", "63"), Difference("dataplane.lcores", "1", "2", True)]

    async def apply(self, text: str | None, etag: str | None, *, validate_only: bool = False) -> Applied:
        found = await self.diff(text)
        if etag not in (None, self.etag):
            raise OtherSettings
        if text == "restart":
            raise RestartNeeded(found[1:])
        if not validate_only:
            self.etag, self.yaml = "e2", text or self.yaml
        return Applied(tuple(found[:1]), self.etag, 9)


@dataclass
class Diagnostics:
    pieces: int = 3
    closed: int = 0

    async def explain(self, given: Sequence[Given]) -> Sequence[Story]:
        steps = (Step("link", "for this router"),)
        return [
            Story(at, one.side, one.octets.hex(), steps, "drop_x", "drop", "DP-1", "because", (), (("v4", "y"),))
            for at, one in enumerate(given, 1)
        ]

    async def capture(self, wanted: Wanted) -> AsyncIterator[Captured]:
        if wanted.filter == "refuse":
            raise CaptureFault("the filter is none")
        try:
            for count in range(self.pieces):
                yield Captured(b"piece%d" % count, State("running", written=count))
                await asyncio.sleep(0.01)
        finally:
            self.closed += 1


@dataclass
class Pcp:
    rows: Rows = field(default_factory=lambda: np.concatenate([one("198.51.100.1", 6, psid) for psid in (1, 2, 3)]))
    announced: int = 0

    def mappings(
        self, b4: IPv6Network | None, ipv4: IPv4Network | None, page_size: int, page: str
    ) -> tuple[Sequence[PcpMapping], str]:
        start = int(page or 0)
        subscriber = IPv6Network("2001:db8:1::/56")
        found = [PcpMapping(self.rows[i : i + 1], subscriber, 1_700_000_000.0, 17) for i in range(len(self.rows))]
        return found[start : start + page_size], str(start + page_size) if start + page_size < len(found) else ""

    def pools(self) -> Sequence[PoolUse]:
        return [PoolUse(IPv4Network("198.51.100.0/24"), 6, 15872, 3, 1)]

    async def release(self, key: tuple[int, int] | None, b4: IPv6Network | None, *, validate_only: bool) -> int:
        keep = [i for i in range(len(self.rows)) if key is not None and int(self.rows["psid"][i]) != key[1]]
        count = len(self.rows) - len(keep)
        if not validate_only:
            self.rows = self.rows[keep]
        return count

    async def announce(self) -> int:
        self.announced += 1
        return 3


@dataclass
class Leases:
    asked: list[str] = field(default_factory=list)

    def sources(self) -> Sequence[SourceStatus]:
        return [SourceStatus("[2001:db8::67]:547", "active", 1000, 2, 0.25, 4, 1_700_000_000.0)]

    async def resync(self, name: str | None) -> Sequence[str]:
        names = [one.name for one in self.sources()]
        if name is not None and name not in names:
            raise KeyError(name)
        self.asked += names
        return names


def parts(bindings: Any = None, machine: Machine | None = None) -> Parts:
    return Parts(bindings or Bindings(), machine or Machine(), Settings(), Diagnostics(), Pcp(), Leases())


class Router(ABC):
    """One that has to be started on the loop it lives on."""

    @abstractmethod
    async def start(self) -> Parts: ...
    @abstractmethod
    async def stop(self) -> None: ...


class Served:
    """`with Served(parts()) as served:` and a client of served.target."""

    def __init__(self, router: Parts | Router, api: Api = LOCAL, limits: Limits | None = None) -> None:
        self._router, self._api, self._limits = router, api, limits
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        made = self._router if isinstance(self._router, Router) else None
        try:
            router = await made.start() if made is not None else self._router
            assert isinstance(router, Parts)
            self.running = await server.start(self._api, router, self._limits)
        except BaseException as fault:
            self._fault = fault
            return
        finally:
            self._ready.set()
        await self._stop.wait()
        await self.running.stop(0.2)
        if made is not None:
            await made.stop()

    def do(self, work: Any) -> Any:
        """Runs a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def __enter__(self) -> Served:
        self._thread.start()
        self._ready.wait(20)
        if self._fault is not None:
            self._thread.join()
            raise self._fault
        self.target = f"127.0.0.1:{self.running.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
