"""What the servicers ask of the router. daemon.control has it for the running router; tests build it without ports."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pylwaftr.changes import Chain, Change, Keys
from pylwaftr.changes import Refusal as Refusal
from pylwaftr.changes import Report as Report
from pylwaftr.config import Fault
from pylwaftr.config.row_checks import Surroundings
from pylwaftr.rows import Rows
from pylwaftr.store import Life
from pylwaftr.telemetry.values import Described

if TYPE_CHECKING:  # a router that forwards needs none of them
    from pylwaftr.capture import State as CaptureState
    from pylwaftr.capture import Wanted as CaptureWanted
    from pylwaftr.dhcp.codec_lease import Lease
    from pylwaftr.explain.story import Given, Story


@dataclass(frozen=True, slots=True)
class Listed:
    """`sources` has one element per row."""

    rows: Rows
    sources: npt.NDArray[np.uint8]
    revision: int
    next: str  # page token, "" = that was all


@dataclass(frozen=True, slots=True)
class ListFilter:
    """What is not None has to match."""

    ipv4: tuple[int, int] | None = None  # first and last address, host order
    b4: IPv6Network | None = None
    source: int | None = None
    shadowed: bool = False  # instead those that wait behind a row of higher precedence


@dataclass(frozen=True, slots=True)
class Event:
    """Of a watch: `marker` closes the snapshot; before it changes are parts of the snapshot, all at one revision."""

    revision: int
    at: float
    change: Change | None
    marker: bool = False


class Busy(Exception):
    """Another replacement of all of a source is under way."""


class Replacement(Protocol):
    """Replace all of a source: what is fed is bound at once, or held while there is no room, and what was not fed is
    swept at the end (mark and sweep). Refusals of `finish` have their places in the stream.

    Several may be fed at once: they are one chain.
    """

    async def feed(self, rows: Rows) -> Report: ...
    async def finish(self) -> Report: ...
    async def abandon(self) -> None: ...


class Backend(Protocol):
    """Everything acknowledged is durable and forwards. StoreFault: nothing was done.

    Changes may begin when they are asked for, and their order is that of the calls; each has to be awaited.
    """

    @property
    def revision(self) -> int: ...

    def bind(
        self,
        rows: Rows,
        source: int,
        *,
        validate_only: bool = False,
        expected: Sequence[str | None] = (),
        chain: Chain | None = None,
    ) -> Awaitable[Report]:
        """`expected`: per row the etag the binding has to have now, "" = must not exist, "*" = must exist, None = any;
        () = any.

        Several may be asked for at once; they are done in that order, and none behind one that has broken its chain.
        """
        ...

    def unbind(
        self, keys: Keys, source: int, *, validate_only: bool = False, expected: Sequence[str | None] = ()
    ) -> Awaitable[Report]: ...

    async def replace_all(self, source: int) -> Replacement:
        """Raises Busy."""
        ...

    def rehearse(self, source: int, *, replacing: bool) -> Replacement:
        """A load, or a replacement, that is judged as a whole and changes nothing."""
        ...

    def get(self, ipv4: int, psid: int) -> tuple[Rows, int] | None:
        """(one row, source)."""
        ...

    def wanted_by(self, source: int, ipv4: int, psid: int) -> tuple[Rows, bool] | None:
        """(one row, whether it waits)."""
        ...

    def lookup(self, ipv4: int, port: int | None) -> tuple[Rows, int] | None: ...

    async def list(self, wanted: ListFilter, page_size: int, page: str) -> Listed: ...
    def watch(self, after: int | None) -> AsyncIterator[Event]:
        """None: snapshot, marker, changes. A revision: changes behind it. Raises Compacted."""
        ...

    def who_held(
        self, ipv4: IPv4Address, port: int | None, began: float, ended: float
    ) -> AsyncGenerator[Sequence[Life], None]:
        """In parts, by address and then by time: a whole history may be larger than memory."""
        ...

    def lives_of(self, prefix: IPv6Network, began: float, ended: float) -> AsyncGenerator[Sequence[Life], None]: ...


class CounterInfo(Described, Protocol):
    """Of one counter, as docs/counters.md has it."""

    @property
    def requirement(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Overview:
    started: float  # seconds since 1970
    bindings: int
    max_bindings: int
    remarks: tuple[str, ...] = ()  # what somebody should look at


class Machine(Protocol):
    """The running data plane, as far as the API shows it. None of it blocks."""

    @property
    def counter_infos(self) -> Sequence[CounterInfo]: ...
    def counters(self) -> npt.NDArray[np.uint64]:
        """[worker, counter], in the order of `counter_infos`."""
        ...

    def overview(self) -> Overview: ...

    # Plain values, addresses as octets: they are shown as they are.
    def ports(self) -> Sequence[Mapping[str, Any]]: ...
    def neighbors(self) -> Mapping[str, Any]: ...
    def workers(self) -> Sequence[Mapping[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class SettingsNow:
    yaml: str
    file: str
    etag: str
    applied: float


@dataclass(frozen=True, slots=True)
class Difference:
    path: str
    before: str
    after: str
    needs_restart: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    differences: tuple[Difference, ...]
    warnings: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    differences: tuple[Difference, ...]
    etag: str
    revision: int
    warnings: tuple[Fault, ...] = ()


class SettingsFaulty(Exception):
    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(str(faults[0]) if faults else "")


class RestartNeeded(Exception):
    """Nothing was applied."""

    def __init__(self, differences: Sequence[Difference]) -> None:
        self.differences = tuple(differences)
        super().__init__(", ".join(difference.path for difference in differences))


class OtherSettings(Exception):
    """The settings in force are not those of the etag given."""


class SettingsView(Protocol):
    """`text` None: the file on the router as it is now."""

    @property
    def around(self) -> Surroundings:
        """What bindings are checked against; the first BR address is that of bindings which name none."""
        ...

    def now(self) -> SettingsNow: ...
    async def validate(self, text: str | None) -> Sequence[Fault]: ...
    async def diff(self, text: str | None) -> Planned:
        """Raises SettingsFaulty."""
        ...

    async def apply(self, text: str | None, etag: str | None, *, validate_only: bool = False) -> Applied:
        """A text replaces the file once it is found applicable. SettingsFaulty, RestartNeeded, OtherSettings."""
        ...


@dataclass(frozen=True, slots=True)
class Captured:
    octets: bytes  # the next piece of the pcapng file; empty when the router writes it to a file of its own
    state: CaptureState


class Diagnostics(Protocol):
    async def explain(self, given: Sequence[Given]) -> Sequence[Story]: ...
    def capture(self, wanted: CaptureWanted) -> AsyncIterator[Captured]:
        """`wanted.file` "" = the octets are wanted. Closing the iterator ends the capture. Raises CaptureFault."""
        ...


@dataclass(frozen=True, slots=True)
class PcpMapping:
    """A PCP mapping that is in force."""

    row: Rows  # one element
    subscriber: IPv6Network
    expires: float
    protocol: int  # 0 = all
    third_party: bool = False


@dataclass(frozen=True, slots=True)
class PoolUse:
    ipv4: IPv4Network
    psid_len: int
    total: int
    used: int
    quarantined: int


class PcpView(Protocol):
    @property
    def enabled(self) -> bool:
        """By the configuration in force: a reload may switch it."""
        ...

    def mappings(
        self, b4: IPv6Network | None, ipv4: IPv4Network | None, page_size: int, page: str
    ) -> tuple[Sequence[PcpMapping], str]:
        """Ordered by key; the page token of the rest, "" = that was all. Raises ValueError for a token that is none."""
        ...

    def pools(self) -> Sequence[PoolUse]: ...
    async def release(self, key: tuple[int, int] | None, b4: IPv6Network | None, *, validate_only: bool) -> int:
        """By (IPv4 address, PSID) or by B4 prefix; how many there were."""
        ...

    async def announce(self) -> int:
        """Begins it; how many softwires will hear it."""
        ...


@dataclass(frozen=True, slots=True)
class SourceStatus:
    name: str  # address:port
    state: str
    leases: int
    conflicts: int
    lag_s: float
    queued: int
    synchronised: float | None
    last_fault: str = ""
    last_fault_at: float | None = None
    quarantined: int = 0
    received: int = 0  # messages
    sent: int = 0
    bulk: str = "idle"
    skew_s: float = 0.0
    bulk_at: float | None = None  # when the last complete one ended


@dataclass(frozen=True, slots=True)
class LeaseFilter:
    name: str | None = None  # of a server
    ipv4: IPv4Network | None = None
    b4: IPv6Network | None = None
    kept_out: bool = False  # only what a server calls active and is not bound


@dataclass(frozen=True, slots=True)
class KnownLease:
    server: str
    lease: Lease
    standing: str


class Ended(Exception):
    """A part of the router that a fault has ended was asked to do something; the text says what helps."""


class LeasequeryView(Protocol):
    @property
    def names(self) -> Sequence[str]:
        """Of the servers."""
        ...

    def sources(self) -> Sequence[SourceStatus]: ...
    async def leases(self, wanted: LeaseFilter, size: int, page: str) -> tuple[Sequence[KnownLease], str]:
        """A page, and where the next begins, "" = nowhere. Raises KeyError for the server, ValueError for the page."""
        ...

    async def resync(self, name: str | None) -> Sequence[str]:
        """Begins it; the names of those asked. None = all. Raises KeyError, Ended."""
        ...

    async def drop(self, name: str, validate_only: bool) -> int:
        """Returns when what ends by it is durable; how many leases the server called active. Raises KeyError, Ended,
        StoreFault: it is under way."""
        ...


@dataclass(slots=True)
class Parts:
    """The router as the API sees it; None is switched off. A reload may switch something on."""

    backend: Backend
    machine: Machine
    settings: SettingsView
    diagnostics: Diagnostics | None = None
    pcp: PcpView | None = None
    leasequery: LeasequeryView | None = None
