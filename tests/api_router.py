"""A router without ports for tests of the API: server, control side, table and store are those of the router.

What needs ports, workers or a network (machine, settings, diagnostics, PCP, leasequery) says what is expected of it:
here it is shown what the API makes of that; tests/test_run*.py ask a router that has them. `Served` runs the server on
a thread of its own, on a free port of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from pylwaftr import _core
from pylwaftr.api import server
from pylwaftr.api.backend import (
    Applied,
    Captured,
    Difference,
    KnownLease,
    LeaseFilter,
    OtherSettings,
    Overview,
    Parts,
    PcpMapping,
    Planned,
    PoolUse,
    Replacement,
    RestartNeeded,
    SettingsFaulty,
    SettingsNow,
    SourceStatus,
)
from pylwaftr.api.client import CallFailed
from pylwaftr.api.limits import Limits
from pylwaftr.capture import CaptureFault, State, Wanted
from pylwaftr.changes import Report
from pylwaftr.cli.main import main
from pylwaftr.config import Fault
from pylwaftr.config.row_checks import Surroundings, anywhere
from pylwaftr.config.services import Api
from pylwaftr.config.values import Endpoint
from pylwaftr.daemon.control import Control
from pylwaftr.dhcp.codec_lease import Lease
from pylwaftr.dhcp.codec_lease import State as LeaseState
from pylwaftr.dhcp.s46 import PortParams
from pylwaftr.explain.story import Given, Step, Story
from pylwaftr.rows import BINDING_ROW, Rows, array, no_rows, row
from pylwaftr.store import Commit, StoreFault
from pylwaftr.store.sqlite import SqliteStore

BR = IPv6Address("2001:db8:aa::1").packed
LOCAL = Api(listen=Endpoint("127.0.0.1", 0), tls=None, allow_plaintext=False, roles=())

Key = tuple[int, int]
Run = Callable[..., Result]  # a command, word by word


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


class Bindings:
    """The control side as it is, over a table and a store of its own. `Served` starts and stops it; meanwhile it is a
    Backend. `broken`: what the store says of every commit. `pause_s`: how long one takes."""

    def __init__(
        self,
        folder: Path | None = None,
        capacity: int = 200_000,
        config: Rows | None = None,
        own: Sequence[str] = (),
    ) -> None:
        self._own = TemporaryDirectory() if folder is None else None
        self.folder = folder or Path(self._own.name if self._own else "")
        self.capacity, self.config = capacity, no_rows() if config is None else config
        self.own = [int(IPv4Address(address)) for address in own]  # addresses of the router
        self.broken, self.pause_s = "", 0.0
        self.now: float | None = None  # instead of the time
        self.calls = self.abandoned = 0

    async def start(self) -> None:
        self.table = _core.BindingTable(self.capacity, self.own, [])
        self.control = Control(self.table, _Store(self.folder, self.clock(), self), self.clock)
        await self.control.start(self.config)

    async def stop(self) -> None:
        await self.control.stop()

    def clock(self) -> float:
        return time.time() if self.now is None else self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["control"], name)

    @property
    def held(self) -> dict[Key, tuple[bytes, int]]:
        """(address, PSID) -> row, source."""
        rows, sources, _ = self.table.dump_chunk(0, 1 << 62)
        keys = zip(rows["ipv4"].tolist(), rows["psid"].tolist(), strict=True)
        return dict(zip(keys, zip((row.tobytes() for row in rows), sources.tolist(), strict=True), strict=True))

    async def put(self, rows: Rows, source: int) -> Report:
        """Not over the API."""
        return await self.control.bind(rows, source)

    def bind(self, rows: Rows, source: int, **how: Any) -> Awaitable[Report]:
        self.calls += 1
        return self.control.bind(rows, source, **how)

    async def replace_all(self, source: int) -> Replacing:
        return Replacing(self, await self.control.replace_all(source))

    async def feed(self, replacement: Replacement, rows: Rows) -> Report:
        self.calls += 1
        return await replacement.feed(rows)


class _Store(SqliteStore):
    def __init__(self, folder: Path, now: float, told: Bindings) -> None:
        super().__init__(folder, now)
        self._told = told

    def commit(self, commits: Sequence[Commit], at: float) -> int:
        time.sleep(self._told.pause_s)
        if self._told.broken:
            raise StoreFault(self._told.broken)
        return super().commit(commits, at)


@dataclass
class Replacing:
    bindings: Bindings
    real: Replacement

    async def feed(self, rows: Rows) -> Report:
        return await self.bindings.feed(self.real, rows)

    async def finish(self) -> Report:
        return await self.real.finish()

    async def abandon(self) -> None:
        await self.real.abandon()
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
    around: Surroundings = field(default_factory=lambda: replace(anywhere(), br=(BR,)))
    yaml: str = "api: {}\n"
    etag: str = "e1"

    def now(self) -> SettingsNow:
        return SettingsNow(self.yaml, "/etc/pylwaftr.yaml", self.etag, 1_700_000_000.0)

    async def validate(self, text: str | None) -> Sequence[Fault]:
        return [Fault("f.yaml", 3, "softwire.hop_limit", "is 300", "warn" in (text or ""))] if text else []

    async def diff(self, text: str | None) -> Planned:
        if text == "bad":
            raise SettingsFaulty(await self.validate(text))
        changed = Difference("softwire.hop_limit", "64", "63"), Difference("dataplane.lcores", "1", "2", True)
        return Planned(changed, tuple(await self.validate(text)) if "warn" in (text or "") else ())

    async def apply(self, text: str | None, etag: str | None, *, validate_only: bool = False) -> Applied:
        planned = await self.diff(text)
        found = planned.differences
        if etag not in (None, self.etag):
            raise OtherSettings
        if text == "restart":
            raise RestartNeeded(found[1:])
        if not validate_only:
            self.etag, self.yaml = "e2", text or self.yaml
        return Applied(found[:1], self.etag, 9, planned.warnings)


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
    enabled: bool = True

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


def told(psid: int) -> Lease:
    b4 = IPv6Address(f"2001:db8:{psid:x}::1") if psid % 2 else None
    ports, base = PortParams(0, 6, psid), 1_700_000_000
    return Lease(IPv4Address("198.51.100.1"), LeaseState.ACTIVE, ports, b4, b"\xff\0", base, base - 10, None, 3600)


@dataclass
class Leases:
    asked: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def names(self) -> Sequence[str]:
        return [one.name for one in self.sources()]

    def sources(self) -> Sequence[SourceStatus]:
        at = 1_700_000_000.0
        more = {"quarantined": 3, "received": 70, "sent": 5, "bulk": "idle", "skew_s": -1.5}
        return [SourceStatus("[2001:db8::67]:547", "active", 1000, 2, 0.25, 4, at, "lost", at - 9, **more)]  # type: ignore[arg-type]

    async def leases(self, wanted: LeaseFilter, size: int, page: str) -> tuple[Sequence[KnownLease], str]:
        """Four, with PSIDs as their numbers; the odd ones are bound."""
        if wanted.name not in (None, "[2001:db8::67]:547"):
            raise KeyError(wanted.name)
        psids = [psid for psid in range(int(page or 0), 4) if not (wanted.kept_out and psid % 2)]
        words = ["no_b4", "bound"]
        found = [KnownLease("[2001:db8::67]:547", told(psid), words[psid % 2]) for psid in psids[:size]]
        return found, str(psids[size]) if len(psids) > size else ""

    async def resync(self, name: str | None) -> Sequence[str]:
        names = [one.name for one in self.sources()]
        if name is not None and name not in names:
            raise KeyError(name)
        self.asked += names
        return names

    async def drop(self, name: str, validate_only: bool) -> int:
        leases = {one.name: one.leases for one in self.sources()}[name]
        if not validate_only:
            self.dropped.append(name)
        return leases


def refusal(call: Callable[[], object]) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        call()
    return caught.value


def parts(bindings: Any = None, machine: Machine | None = None) -> Parts:
    return Parts(bindings or Bindings(), machine or Machine(), Settings(), Diagnostics(), Pcp(), Leases())


class Served:
    """`with Served(parts()) as served:` and a client of served.target."""

    def __init__(self, router: Parts, api: Api = LOCAL, limits: Limits | None = None) -> None:
        self._router, self._api, self._limits = router, api, limits
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        own = self._router.backend if isinstance(self._router.backend, Bindings) else None
        try:
            if own is not None:
                await own.start()
            self.running = await server.start(self._api, self._router, self._limits)
        except BaseException as fault:
            self._fault = fault
            return
        finally:
            self._ready.set()
        await self._stop.wait()
        await self.running.stop(0.2)
        if own is not None:
            await own.stop()

    def do(self, work: Any) -> Any:
        """Runs a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def command(self, *words: object, **rest: Any) -> Result:
        """`pylwaftr` and these words, asked of this server."""
        environment = {"PYLWAFTR_SERVER": self.target, "COLUMNS": "200"}
        return CliRunner().invoke(main, [str(word) for word in words], env=environment, **rest)

    def __enter__(self) -> Served:
        self._thread.start()
        self._ready.wait(60)
        if self._fault is not None:
            self._thread.join()
            raise self._fault
        self.target = f"127.0.0.1:{self.running.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
