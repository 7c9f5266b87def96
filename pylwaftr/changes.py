"""What is done to bindings and what came of it: the words that engines, store, control side and API share."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from pylwaftr.rows import Rows

THERE = "*"  # in place of an etag: whatever the state, but it has to be there

Keys = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]  # IPv4 addresses, PSIDs
Sources = npt.NDArray[np.uint8]  # one for each row


class Source(IntEnum):
    """Who wants a binding; a smaller value wins over a larger one. The values are the core's."""

    CONFIG = 0
    OPERATOR = 1
    DHCP = 2
    PCP = 3

    @property
    def label(self) -> str:
        return ("the configuration", "an operator", "DHCP", "PCP")[self]


class Op(Enum):
    BIND = "bind"  # rows that are bound now; a row whose key was bound ends the life of the former binding
    UNBIND = "unbind"  # rows as they were when they went
    SHADOW = "shadow"  # rows that wait now behind one of higher precedence, or wait with other contents
    UNSHADOW = "unshadow"  # rows that wait no more: bound now, or gone


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to bindings of one source in one revision. `rows`: BINDING_ROW.

    An engine that asks for changes uses BIND and UNBIND only; what comes of it is again a list of changes.
    """

    op: Op
    source: int  # config 0, operator 1, dhcp 2, pcp 3
    rows: Rows


@dataclass(frozen=True, slots=True)
class Record:
    """A small thing of an engine: a PCP mapping, the base-time of a lease source, the PCP epoch."""

    space: str  # "pcp", "leasequery", ...
    key: bytes
    value: bytes | None  # None deletes it


@dataclass(frozen=True, slots=True)
class Refusal:
    index: int  # in the rows given
    reason: str  # stable name: overlap, duplicate_in_batch, table_full, subscriber_limit, etag_mismatch, ...
    text: str  # for people: what is wrong and what to do


@dataclass(slots=True)
class Chain:
    """Batches of one stream: behind one that was refused, or that the store could not keep, none is done.

    Those that are only judged are judged to the last, each beside the softwires of those before it.
    """

    broken: bool = False
    softwires: Any = None  # of subscribers, as these batches would have them; who holds to a limit counts them here


@dataclass(frozen=True, slots=True)
class Report:
    """What a batch did; with refusals it did nothing."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    outranked: int = 0  # kept behind a row of higher precedence, and taking over when that goes
    held: int = 0  # of a replacement: are bound at its end, when there is room
    refused: tuple[Refusal, ...] = ()
    more_refused: int = 0  # beside those
    revision: int = 0  # of the commit; the current one if nothing changed

    @property
    def ok(self) -> bool:
        return not self.refused

    @property
    def refused_count(self) -> int:
        return len(self.refused) + self.more_refused


def summed(reports: Sequence[Report]) -> Report:
    """Of what was done; at the revision it has led to."""
    names = ("added", "replaced", "unchanged", "removed", "outranked", "held")
    sums = {name: sum(getattr(report, name) for report in reports) for name in names}
    return Report(**sums, revision=max((report.revision for report in reports), default=0))


def etag(row: bytes, source: int) -> str:
    """Of a binding's contents, so the same after a restart. `row`: one BINDING_ROW in octets."""
    return hashlib.blake2b(row + bytes([source]), digest_size=8).hexdigest()


def etags(rows: Rows, sources: Sources | Sequence[int]) -> list[str]:
    packed, size = np.ascontiguousarray(rows).tobytes(), rows.dtype.itemsize
    return [etag(packed[i * size : (i + 1) * size], int(source)) for i, source in enumerate(sources)]
