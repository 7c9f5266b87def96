"""What the router keeps across restarts, and the protocol of those who keep it.

One commit is one revision: its binding changes and its records become durable together or not at all. The changes of
all revisions are also the history of bindings (who held an address and port when) and what watchers are told.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Network
from typing import Protocol

from pylwaftr.changes import Change, Op, Record
from pylwaftr.rows import Rows

__all__ = ["Change", "Commit", "Compacted", "Job", "Life", "Op", "Record", "State", "Store", "StoreFault"]


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
    at: float  # its time
    bindings: Mapping[int, Rows]  # source -> rows that were bound
    shadowed: Mapping[int, Rows]  # source -> rows that waited behind one of higher precedence
    records: Mapping[str, Mapping[bytes, bytes]]  # space -> key -> value
    set_aside: tuple[str, ...] = field(default=())  # damaged files: what, why, where they are now


class StoreFault(Exception):
    """The store cannot do it (disk full, damaged file, locked by another process). One sentence with the remedy."""


class Compacted(Exception):
    """The changes asked for are no longer kept one by one: list, then watch from the list's revision."""


class Job(Protocol):
    """Work on the store's files that may take seconds."""

    def run(self) -> None:
        """On any thread, beside everything else."""
        ...


class Store(Protocol):
    """One caller at a time, on any thread; but `changes`, `who_held` and `lives_of` may be asked beside the others.

    Every method may raise StoreFault.
    """

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

    def upkeep(self) -> Job | None:
        """The next thing to do: after its `run`, `adopt` it."""
        ...

    def retention(self, before: float) -> Iterator[Job]:
        """`forget` in steps: each has to be run and adopted before the next."""
        ...

    def adopt(self, job: Job) -> Sequence[str]:
        """What the job has made takes the place of what it was made from. Says what was found damaged."""
        ...

    def close(self) -> None: ...
