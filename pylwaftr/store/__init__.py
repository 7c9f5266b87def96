"""What the router keeps across restarts, and the protocol of those who keep it.

One commit is one revision: its binding changes and its records become durable together or not at all. The changes of
all revisions are also the history of bindings (who held an address and port when) and what watchers are told.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Network
from typing import Protocol

from pylwaftr.rows import Rows


class Op(Enum):
    BIND = "bind"  # rows that are bound now; a row whose key was bound ends the life of the former binding
    UNBIND = "unbind"  # rows as they were when they went


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to bindings of one source in one revision. `rows`: BINDING_ROW."""

    op: Op
    source: int  # config 0, operator 1, dhcp 2, pcp 3
    rows: Rows


@dataclass(frozen=True, slots=True)
class Record:
    """A small thing of an engine: a PCP mapping, the base-time of a lease source, the PCP epoch."""

    space: str  # "pcp", "leasequery", "shadow", ...
    key: bytes
    value: bytes | None  # None deletes it


@dataclass(frozen=True, slots=True)
class Commit:
    changes: tuple[Change, ...] = ()
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Life:
    """One binding from its beginning to its end. Times are seconds since 1970."""

    row: Rows  # one element
    source: int
    began: float
    ended: float | None  # None = still bound


@dataclass(frozen=True, slots=True)
class State:
    """What was found at start."""

    revision: int  # of the last commit; 0 = nothing was ever committed
    bindings: Mapping[int, Rows]  # source -> rows
    records: Mapping[str, Mapping[bytes, bytes]]  # space -> key -> value
    set_aside: tuple[str, ...] = field(default=())  # damaged files: what, why, where they are now


class StoreFault(Exception):
    """The store cannot do it (disk full, damaged file, locked by another process). One sentence with the remedy."""


class Compacted(Exception):
    """The changes asked for are no longer kept one by one: list, then watch from the list's revision."""


class Store(Protocol):
    """Not thread-safe: one caller at a time, on any thread. Every method may raise StoreFault."""

    def load(self) -> State: ...
    def commit(self, commits: Sequence[Commit], at: float) -> int:
        """All of them durable when it returns the last one's revision; with StoreFault none is."""
        ...

    def changes(self, after: int) -> Iterator[tuple[int, float, Change]]:
        """(revision, time, change) behind revision `after`, in order. Raises Compacted."""
        ...

    def who_held(self, ipv4: IPv4Address, port: int | None, began: float, ended: float) -> Iterator[Life]:
        """Lives that overlap [began, ended] and hold the port (None: any port of the address)."""
        ...

    def lives_of(self, prefix: IPv6Network, began: float, ended: float) -> Iterator[Life]:
        """The same by B4 address (a /128) or subscriber prefix."""
        ...

    def forget(self, before: float) -> int:
        """Retention: lives that ended before that time are deleted; returns how many."""
        ...

    def close(self) -> None: ...
