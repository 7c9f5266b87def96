"""A scrape over HTTP against prometheus_client's own rendering: every form, the same samples."""

from __future__ import annotations

import gzip
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError

import numpy as np
import numpy.typing as npt
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

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
    wanted = samples(content_type, encoder(metrics_port._registry(shown, families(COUNTERS))))
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
        wanted = samples(content_type, encoder(metrics_port._registry(shown, families(COUNTERS))))


def test_the_library_renders_the_table_once_a_form(shown: Many) -> None:
    rendered = []

    def counted(values: npt.NDArray[np.uint64]) -> Any:
        rendered.append(values.shape)
        return families(COUNTERS)(values)

    exposition = Exposition(counted, shown.counters, CollectorRegistry())
    texts = [exposition.render("", "")[1] for _ in range(3)]
    assert (len(rendered), texts[0]) == (1, texts[2])
    for version in range(1, 100):
        exposition.render(f"application/openmetrics-text;version={version}.0.0", "")
    assert len(exposition._forms) <= 8
    shown.values = shown.values[:2]  # a worker less
    assert exposition.render("", "")[1].count(b'worker="2"') == 0


def test_a_form_that_another_thread_throws_away_is_rendered_all_the_same(shown: Many) -> None:
    class Forgetful(dict[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            pass

    exposition = Exposition(families(COUNTERS), shown.counters, CollectorRegistry())
    wanted = exposition.render("", "")
    exposition._forms = Forgetful()
    assert exposition.render("", "") == wanted


def test_what_is_no_plain_scrape_is_the_librarys(port: MetricsPort, shown: Many) -> None:
    _, octets = get(port, "/metrics?x=1")
    assert samples("", octets) == samples("", get(port)[1])
    assert b"lwaftr_rx_packets_total" not in get(port, "/metrics?name[]=python_info")[1]
    assert get(port, "/favicon.ico")[1] == b""
    with pytest.raises(HTTPError, match="405"):
        urllib.request.urlopen(f"http://127.0.0.1:{port.port}/metrics", data=b"x")
