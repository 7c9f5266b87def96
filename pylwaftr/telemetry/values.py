"""What is measured, as it goes from the router to who shows it. Prometheus, which takes long to
load, is not known here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pylwaftr.telemetry.histogram import Reading


class Described(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def help(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Fill:
    """Of the binding table. Memory in octets."""

    bindings: int
    room: int  # dataplane.max_bindings
    slots: int
    memory: int
    reader_memory: int


@dataclass(frozen=True, slots=True)
class Value:
    """One sample of a service. `kind`: counter | gauge; the name of a counter has no _total."""

    name: str
    help: str
    kind: str
    labels: Mapping[str, str]
    value: float


class Watched(Protocol):
    """The router, as far as it is measured. None of it blocks or disturbs a worker."""

    def counters(self) -> npt.NDArray[np.uint64]:
        """[worker, counter]"""
        ...

    def workers(self) -> Sequence[Mapping[str, Any]]: ...
    def ports(self) -> Sequence[Mapping[str, Any]]: ...
    def neighbors(self) -> Mapping[str, Mapping[str, Any]]: ...
    def fill(self) -> Fill: ...
    def bindings_by_source(self) -> Mapping[str, int]: ...
    def health(self) -> Mapping[str, bool]: ...
    def update_seconds(self) -> Mapping[str, Reading]:
        """By source: from a change's arrival to its being durable and in the fast path."""
        ...

    def services(self) -> Iterable[Value]: ...
