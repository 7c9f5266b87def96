"""A scrape over HTTP against prometheus_client's own rendering: every form, the same samples."""

from __future__ import annotations

import gzip
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from pylwaftr.config.values import Endpoint
from pylwaftr.daemon import metrics_port
from pylwaftr.daemon.metrics_port import MetricsPort
from pylwaftr.daemon.router import COUNTERS
from pylwaftr.telemetry.counter_names import families
from pylwaftr.telemetry.exposition import Exposition
from tests.test_metrics import Shown

WORKERS = 3


class Many(Shown):
    """Counts of all sizes: beyond 2 ** 53 a float no longer tells them apart, for the library neither."""

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        sizes = random.integers(0, 64, (WORKERS, len(COUNTERS)), dtype=np.uint64)
        self.values = random.integers(0, 2**64, (WORKERS, len(COUNTERS)), dtype=np.uint64) >> sizes
        self.values[0, :2] = 0, 2**64 - 1

    def counters(self) -> npt.NDArray[np.uint64]:
        return self.values


class Whole(Collector):
    """What the library would render."""

    def __init__(self, shown: Many) -> None:
        self._shown = shown

    def collect(self) -> Iterable[Metric]:
        yield from families(COUNTERS)(self._shown.counters())
        yield from metrics_port._rest(self._shown).collect()


@pytest.fixture
def shown() -> Many:
    return Many()


@pytest.fixture
def port(shown: Many) -> Iterator[MetricsPort]:
    port = MetricsPort(Endpoint("127.0.0.1", 0), shown)
    yield port
    port.close()


def get(port: MetricsPort, path: str = "/metrics", **headers: str) -> tuple[Any, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{port.port}{path}", headers=named)
    with urllib.request.urlopen(request) as answer:
        return answer.headers, answer.read()


def samples(content_type: str, octets: bytes) -> dict[Any, Any]:
    """Of the router; the process's own change between two scrapes."""
    parse = text_string_to_metric_families
    if content_type.startswith("application/openmetrics-text"):
        parse = openmetrics.text_string_to_metric_families
    return {
        (one.name, tuple(sorted(one.labels.items()))): (
            family.name,
            family.type,
            family.documentation,
            float(one.value),
        )
        for family in parse(octets.decode())
        for one in family.samples
        if "lwaftr" in one.name
    }


ACCEPTED = [
    "",
    "*/*",
    "text/plain",
    "text/plain;version=0.0.4",
    "text/plain;version=1.0.0;escaping=allow-utf-8",
    "text/plain;version=1.0.0;escaping=dots",
    "application/openmetrics-text",
    "application/openmetrics-text;version=1.0.0;escaping=values",
    # Prometheus 3
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    "application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5",
]


@pytest.mark.parametrize("accept", ACCEPTED)
@pytest.mark.parametrize("encoding", ["", "gzip, deflate"])
def test_every_form_has_what_the_library_renders(port: MetricsPort, shown: Many, accept: str, encoding: str) -> None:
    encoder, content_type = choose_encoder(accept)
    wanted = samples(content_type, encoder(Whole(shown)))
    for _ in range(2):  # the second is put into the form of the first
        headers, octets = get(port, Accept=accept, Accept_Encoding=encoding)
        if encoding:
            assert headers["Content-Encoding"] == "gzip"
            octets = gzip.decompress(octets)
        assert headers["Content-Type"] == content_type
        assert int(headers["Content-Length"]) > 0
        found = samples(content_type, octets)
        assert found == wanted
        assert len(found) > WORKERS * len(COUNTERS)
        assert octets.count(b"# EOF") == content_type.startswith("application/openmetrics-text")
        shown.values += np.uint64(1)
        wanted = samples(content_type, encoder(Whole(shown)))


def test_the_library_renders_the_table_once_a_form(shown: Many) -> None:
    rendered = []

    def counted(values: npt.NDArray[np.uint64]) -> Any:
        rendered.append(values.shape)
        return families(COUNTERS)(values)

    exposition = Exposition(counted, shown.counters, CollectorRegistry())
    texts = [exposition.render("", "")[1] for _ in range(3)]
    assert (len(rendered), texts[0]) == (1, texts[2])
    for version in range(1, 100):  # clients cannot make it keep more than there are
        exposition.render(f"application/openmetrics-text;version={version}.0.0", "")
    assert len(exposition._forms) == 2
    shown.values = shown.values[:2]  # a worker less
    assert exposition.render("", "")[1].count(b'worker="2"') == 0


TEXT, LATER, OPENMETRICS = "text/plain; version=0.0.4", "text/plain; version=1.0.0", "application/openmetrics-text"

WISHES = [  # Accept, the content type of the answer
    ("application/openmetrics-text;version=abc", TEXT),
    ("application/openmetrics-text;version=2.0.0", TEXT),  # never written in that form
    ("application/openmetrics-text;version=2.0.0, application/openmetrics-text;version=1.0.0;q=0.9", OPENMETRICS),
    ('Application/OpenMetrics-Text; Version="1.0.0"', OPENMETRICS),
    ("application/openmetrics-text;version=1.0.0;q=0, */*", TEXT),
    ("application/openmetrics-text;version=1.0.0;q=0.3, text/plain;version=0.0.4", TEXT),
    ("text/plain;version=0.0.4;q=0.2, application/openmetrics-text;q=0.3", OPENMETRICS),
    ("text/plain;version=1.0.0;escaping=none", LATER),
    ("text/plain;version=x.y", TEXT),
    ("text/html", TEXT),  # a browser reads it
    (",;=,q=,;q=9", TEXT),
]


@pytest.mark.parametrize("accept, wanted", WISHES, ids=[accept for accept, _ in WISHES])
def test_a_client_gets_a_form_that_it_knows(port: MetricsPort, accept: str, wanted: str) -> None:
    headers, octets = get(port, Accept=accept)
    assert headers["Content-Type"].startswith(wanted)
    assert samples(headers["Content-Type"], octets)


@pytest.mark.parametrize(
    "wish, packed", [("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("identity", False)]
)
def test_it_is_packed_if_the_client_can_unpack_it(port: MetricsPort, wish: str, packed: bool) -> None:
    headers, octets = get(port, Accept_Encoding=wish)
    assert (headers["Content-Encoding"] == "gzip", octets[:2] == b"\x1f\x8b") == (packed, packed)


def test_a_choice_of_names(port: MetricsPort, shown: Many) -> None:
    chosen = "name[]=lwaftr_bindings&name[]=lwaftr_busy_cycles_total"
    headers, octets = get(port, f"/metrics?{chosen}")
    found = samples(headers["Content-Type"], octets)
    assert {name for name, _ in found} == {"lwaftr_bindings", "lwaftr_busy_cycles_total"}
    assert found.items() <= samples("", get(port)[1]).items()
    assert b"python_info" in get(port, "/metrics?name[]=python_info")[1]
    assert get(port, "/metrics?name[]=lwaftr_none")[1].strip() == b""
    assert samples("", get(port, "/metrics?x=1")[1]) == samples("", get(port)[1])
