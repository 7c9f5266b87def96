"""The text of a scrape, without an object for each sample of the counter table.

16 workers have 1500 of them, on which prometheus_client spends 13 ms. Their lines never change but for the value. So
the library renders the table once for each form that is asked for, with the number of its cell in place of each value,
and from then on the values are put into that. Everything else is the library's at each scrape.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pylwaftr.telemetry.negotiation import encoder_for, gzip_wanted

Values = npt.NDArray[np.uint64]  # [worker, counter]
Encoder = Callable[[Any], bytes]

_END = "# EOF\n"  # of OpenMetrics


@dataclass(frozen=True, slots=True)
class _Form:
    text: str
    cells: npt.NDArray[np.intp]

    def filled(self, values: Values) -> bytes:
        return (self.text % tuple(values.ravel()[self.cells].tolist())).encode()


class Exposition:
    """`rest`: all but the counter table."""

    def __init__(
        self, families: Callable[[Values], Iterable[Metric]], values: Callable[[], Values], rest: CollectorRegistry
    ) -> None:
        self._families, self._values, self._rest = families, values, rest
        self._forms: dict[tuple[str, tuple[int, ...]], _Form] = {}

    def render(
        self, accept: str, accept_encoding: str, names: Collection[str] = ()
    ) -> tuple[list[tuple[str, str]], bytes]:
        """Headers and content, as the headers of the request ask for them. `names`: of samples; none: all."""
        encoder, content_type = encoder_for(accept)
        values = self._values()
        if names:
            octets = encoder(_Once(_named(chain(self._families(values), self._rest.collect()), names)))
        else:
            octets = self._form(encoder, content_type, values.shape).filled(values) + encoder(self._rest)
        headers = [("Content-Type", content_type), ("Vary", "Accept, Accept-Encoding")]
        if gzip_wanted(accept_encoding):
            octets = gzip.compress(octets, compresslevel=1)  # 9 takes ten times as long, for a tenth less
            headers.append(("Content-Encoding", "gzip"))
        return headers, octets

    def _form(self, encoder: Encoder, content_type: str, shape: tuple[int, ...]) -> _Form:
        """Several threads may ask at once."""
        key = (content_type, shape)
        if (form := self._forms.get(key)) is None:
            numbers = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape)
            form = self._forms[key] = _form(encoder(_Once(self._families(numbers))).decode())
        return form


class _Once(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _named(families: Iterable[Metric], names: Collection[str]) -> Iterable[Metric]:
    for family in families:
        if samples := [sample for sample in family.samples if sample.name in names]:
            chosen = Metric(family.name, family.documentation, family.type)
            chosen.samples = samples
            yield chosen


def _form(text: str) -> _Form:
    lines, cells = [], []
    for line in text.removesuffix(_END).replace("%", "%%").splitlines():
        if not line.startswith("#"):
            line, _, number = line.rpartition(" ")
            cells.append(int(float(number)))
            line += " %d"
        lines.append(line + "\n")
    return _Form("".join(lines), np.array(cells, np.intp))
