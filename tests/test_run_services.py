"""A running router through its documented doors: the commands, the metrics endpoint and the dashboard."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scripts import make_dashboard
from tests.test_run import PYLWAFTR, Running, config_file, running

ROOT = Path(__file__).resolve().parent.parent
API, METRICS = "127.0.0.1:9952", "127.0.0.1:9951"


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = config_file(tmp_path_factory.mktemp("services"))
    text = path.read_text().replace("api: {listen: null}", f'api: {{listen: "{API}"}}')
    text = text.replace("metrics: {listen: null}", f'metrics: {{listen: "{METRICS}"}}')
    path.write_text(f"{text}pcp: {{pools: [{{ipv4: 203.0.113.128/28}}]}}\n")
    with running(path) as process:
        process.wait_for("ready\n")
        yield process


def said(*words: str, status: int = 0) -> str:
    done = subprocess.run([PYLWAFTR, *words, "--server", API], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


def scrape() -> str:
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=60) as answer:
        text: bytes = answer.read()
    return text.decode()


def test_a_binding_is_looked_up_and_remembered(router: Running) -> None:
    said("bindings", "add", "203.0.113.9", "--psid-len", "6", "--psid", "5", "--b4", "2001:db8:505::1")
    found = json.loads(said("lookup", "203.0.113.9", "5400", "--json"))
    assert (found["binding"]["b4_ipv6"], found["binding"]["psid"]) == ("2001:db8:505::1", 5)
    said("bindings", "rm", "203.0.113.9", "--psid", "5")
    said("lookup", "203.0.113.9", "5400", status=3)
    life = json.loads(said("history", "203.0.113.9", "5400", "--json"))
    assert life["binding"]["b4_ipv6"] == "2001:db8:505::1"
    assert life["ended"]


def test_every_part_is_healthy(router: Running) -> None:
    parts = json.loads(said("health", "--json"))["parts"]
    assert parts == {"dataplane": True, "pcp": True, "store": True}


QUERIES = [
    (target["expr"], target.get("legendFormat", ""))
    for panel in json.loads((ROOT / "configs/grafana.json").read_text())["panels"]
    for target in panel.get("targets", ())
    if "lwaftr_lease" not in target["expr"]  # those of leases: test_run_leases
]
RATED, SELECTOR = ("rate", "increase"), re.compile(r"(?:(\w+)\()?\b(lwaftr_\w+)\{([^}]*)\}")


def test_the_dashboard_asks_for_what_there_is(router: Running) -> None:
    """Names, labels and types. Each query has an answer, or one as soon as there is such a drop."""
    said("bindings", "add", "203.0.113.10", "--b4", "2001:db8:506::1")  # an update to be timed
    offered = {
        sample.name: (family.type, set(sample.labels))
        for family in text_string_to_metric_families(scrape())
        for sample in family.samples
    }
    assert len(QUERIES) > 25
    for query, legend in QUERIES:
        asked = SELECTOR.findall(query)
        assert asked, query
        grouped = re.findall(r"by \(([^)]*)\)", query)
        for function, name, matchers in asked:
            kind, labels = offered[name]
            assert (function in RATED) == (kind in ("counter", "histogram")), query
            assert matchers == 'instance=~"$instance"', query
            shown = {label for group in grouped for label in re.split(", *", group)} if grouped else labels
            assert shown <= labels, query
            assert not ("sum(" in query and "{{" in legend), query
            assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= shown, query


def test_the_dashboard_is_up_to_date() -> None:
    assert make_dashboard.main(["--check"]) == 0, "run scripts/make_dashboard.py"


def test_explain_asks_the_running_router(router: Running) -> None:
    said("bindings", "add", "203.0.113.11", "--b4", "2001:db8:507::1")
    packet = "45000028000040004006" + "a8a4" + "c6336401" + "cb00710b" + "04d20050" + "00000000000000005002ffff00000000"
    assert "203.0.113.11" in said("explain", "--side", "v4", "--hex", packet)
