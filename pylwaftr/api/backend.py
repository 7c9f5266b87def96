"""What the servicers ask of the router. daemon.control has it for the running router; tests build it without ports."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pylwaftr.rows import Rows
from pylwaftr.store import Change, Life

Keys = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]  # IPv4 addresses, PSIDs


@dataclass(frozen=True, slots=True)
class Refusal:
    index: int  # in the rows given
    reason: str  # stable name: overlap, duplicate_in_batch, table_full, subscriber_limit, etag_mismatch, ...
    text: str  # for people: what is wrong and what to do


@dataclass(frozen=True, slots=True)
class Report:
    """What a batch did; with refusals it did nothing."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    outranked: int = 0  # kept behind a row of higher precedence, and taking over when that goes
    refused: tuple[Refusal, ...] = ()
    revision: int = 0  # of the commit; the current one if nothing changed

    @property
    def ok(self) -> bool:
        return not self.refused


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


class Replacement(Protocol):
    """Replace all of a source: what is fed is bound at once, what was not fed is swept at the end (mark and sweep)."""

    async def feed(self, rows: Rows) -> Report: ...
    async def finish(self) -> Report: ...
    async def abandon(self) -> None: ...


class Backend(Protocol):
    """Everything acknowledged is durable and forwards. StoreFault: nothing was done."""

    @property
    def revision(self) -> int: ...

    async def bind(
        self, rows: Rows, source: int, *, validate_only: bool = False, expected: Sequence[str | None] = ()
    ) -> Report:
        """`expected`: per row the etag the binding has to have now, "" = must not exist, None = any; () = any."""
        ...

    async def unbind(
        self, keys: Keys, source: int, *, validate_only: bool = False, expected: Sequence[str | None] = ()
    ) -> Report: ...

    async def replace_all(self, source: int) -> Replacement: ...

    def get(self, ipv4: int, psid: int) -> tuple[Rows, int] | None:
        """(one row, source)."""
        ...

    def lookup(self, ipv4: int, port: int | None) -> tuple[Rows, int] | None: ...

    async def list(self, wanted: ListFilter, page_size: int, page: str) -> Listed: ...
    def watch(self, after: int | None) -> AsyncIterator[Event]:
        """None: snapshot, marker, changes. A revision: changes behind it. Raises Compacted."""
        ...

    async def who_held(self, ipv4: IPv4Address, port: int | None, began: float, ended: float) -> Sequence[Life]: ...
    async def lives_of(self, prefix: IPv6Network, began: float, ended: float) -> Sequence[Life]: ...


class Machine(Protocol):
    """The running data plane, as far as the API shows it. None of it blocks."""

    def counters(self) -> npt.NDArray[np.uint64]:
        """[worker, counter], in the order of `counter_names`."""
        ...

    def ports(self) -> Sequence[Mapping[str, Any]]: ...
    def neighbors(self) -> Mapping[str, Any]: ...
    def workers(self) -> Sequence[Mapping[str, Any]]: ...
