"""Reload: which keys differ, and which of them a running router takes over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pylwaftr import config
from pylwaftr.config.diff import diff, needs_restart
from tests.config_text import E1, E2, V4, entries, text

ROOT = Path(__file__).resolve().parent.parent

# what changes, old, new, the differences, whether the rows do
ROWS = [
    ("nothing", text(), text(), [], False),
    ("the order of entries", text(entries(E1, E2)), text(entries(E2, E1)), ["bindings.entries"], False),
    ("one more binding", text(entries(E1)), text(entries(E1, E2)), ["bindings: 1 row -> 2 rows (1 added)"], True),
    (
        "another B4, and one binding less",
        text(entries(E1, E2)),
        text(entries(E1.replace("db8:1::1", "db8:3::1"))),
        ["bindings: 2 rows -> 1 row (1 removed, 1 changed)"],
        True,
    ),
    ("a value", text(), text("icmp: {unbound_v4: false}"), ["icmp.unbound_v4: true -> false"], False),
    (
        "a section that was none",
        text(),
        text("icmp: {incoming_v4_rate: {packets: 5}}"),
        ["icmp.incoming_v4_rate: none -> {packets: 5, period_s: 1}"],
        False,
    ),
    (
        "several, in the order of the file",
        text(),
        text("pcp: {enabled: false}\nlogging: {level: debug}"),
        ["pcp.enabled: true -> false", "logging.level: info -> debug"],
        False,
    ),
    (
        "values in a list",
        text(),
        text("leasequery: {servers: [{address: 2001:db8::53, pools: [198.51.100.0/24]}]}"),
        ["leasequery.servers: [] -> [{address: 2001:db8::53, port: 547, source: none, profile: W, require_tls: true"],
        False,
    ),
    ("more room", text(), text("dataplane: {max_bindings: 2000000}"), ["dataplane.max_bindings"], False),
]


@pytest.mark.parametrize("what, old, new, differences, rows", ROWS, ids=[row[0] for row in ROWS])
def test_live(what: str, old: str, new: str, differences: list[str], rows: bool) -> None:
    plan = diff(config.load_text(old), config.load_text(new))
    assert [
        str(found)[: len(wanted)] for found, wanted in zip(plan.differences, differences, strict=True)
    ] == differences
    assert plan.rows_changed == rows
    assert plan.blocked == ()


BLOCKED = [
    ("a port", text(), text(v4=V4.replace("tap0", "tap7")), ["interfaces.v4.port: net_tap0 -> net_tap7"]),
    ("an MTU", text(), text(v4=f"{V4}, mtu: 1400"), ["interfaces.v4.mtu: 1500 -> 1400"]),
    ("less room", text(), text("dataplane: {max_bindings: 10}"), ["dataplane.max_bindings: 1000000 -> 10"]),
    (
        "descriptors",
        text(),
        text("dataplane: {rx_descriptors: 64}"),
        ["dataplane.rx_descriptors: 1024 -> 64"],
    ),
    (
        "more room for what is counted",
        text("dataplane: {binding_counters: true}"),
        text("dataplane: {binding_counters: true, max_bindings: 2000000}"),
        ["dataplane.max_bindings: 1000000 -> 2000000"],
    ),
    ("metrics off", text(), text("metrics: {listen: null}"), ["metrics.listen: 127.0.0.1:9464 -> none"]),
    (
        "one live, one not",
        text(),
        text("icmp: {unbound_v4: false}\ndataplane: {rss: inner}"),
        ["dataplane.rss: outer -> inner"],
    ),
]


def test_the_content_of_a_file_of_bindings_is_a_difference(tmp_path: Path) -> None:
    """Nothing in the configuration itself differs."""
    file, plans = tmp_path / "b.csv", []
    for rows in ("203.0.113.1,2001:db8::1\n", "203.0.113.1,2001:db8::1\n203.0.113.2,2001:db8:2::2\n"):
        file.write_text("ipv4,b4_ipv6\n" + rows)
        plans.append(config.load_text(text("bindings: {file: b.csv}"), folder=tmp_path))
    plan = diff(*plans)
    assert [str(found) for found in plan.differences] == ["bindings: 1 row -> 2 rows (1 added)"]
    assert plan.blocked == ()


@pytest.mark.parametrize("what, old, new, blocked", BLOCKED, ids=[row[0] for row in BLOCKED])
def test_restart(what: str, old: str, new: str, blocked: list[str]) -> None:
    assert [str(found) for found in diff(config.load_text(old), config.load_text(new)).blocked] == blocked


def test_the_document_says_the_same() -> None:
    keys = re.findall(
        r"^\| `([\w.\[\]]+)` \|.*?\| (live|restart)\b", (ROOT / "docs/configuration.md").read_text(), re.M
    )
    assert len(keys) > 100
    said = {key: how == "restart" for key, how in keys}
    assert {key: needs_restart(key) for key in said} == said
