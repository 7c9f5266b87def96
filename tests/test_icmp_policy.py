"""Who is told ICMPv6 1/5, and when nobody is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pylwaftr import config
from pylwaftr.config.core_settings import core_settings
from pylwaftr.daemon.router import Router, empty_table
from pylwaftr.daemon.services import Services, opened_store
from pylwaftr.icmp_policy import IcmpPolicy, Policy
from tests.config_text import text

TOLD, SILENT = True, False

HOLDS = [
    # what, configured, who restores until when, who is done, at, told
    ("nothing is restored", True, {}, [], 10.0, TOLD),
    ("switched off", False, {}, [], 10.0, SILENT),
    ("bindings are read back", True, {"store": 60.0}, [], 10.0, SILENT),
    ("all is read back", True, {"store": 60.0}, ["store"], 10.0, TOLD),
    ("one of two is still reading", True, {"store": 60.0, "leases": 60.0}, ["store"], 10.0, SILENT),
    ("one hangs longer than it may", True, {"store": 60.0, "leases": 20.0}, ["store"], 20.0, TOLD),
    ("done, but switched off", False, {"store": 60.0}, ["store"], 10.0, SILENT),
]


@pytest.mark.parametrize("what, enabled, holds, done, at, told", HOLDS, ids=[row[0] for row in HOLDS])
def test_nobody_is_told_while_bindings_are_restored(
    what: str, enabled: bool, holds: dict[str, float], done: list[str], at: float, told: bool
) -> None:
    policy = IcmpPolicy(Policy(enabled, 200, 2, 10))
    for who, until in holds.items():
        policy.hold(who, until)
    for who in done:
        policy.restored(who)
    assert policy.applied({"icmp": {}}, at)["icmp"]["unknown_b4_v6"] is told


def test_the_policy_is_live_configuration() -> None:
    loaded = config.load_text(text("icmp: {rate_limit: {packets: 5, period_s: 3, per_source: 1}}"))
    settings = core_settings(loaded)
    policy = IcmpPolicy(Policy.from_config(loaded.icmp))
    assert policy.applied(settings, 0.0) == settings
    policy.policy = Policy(True, 7, 1, 2)
    assert policy.applied(settings, 0.0)["icmp"]["rate_limit"] == (7, 1, 2)
    assert policy.applied(settings, 0.0)["icmp"]["incoming_v6"] == settings["icmp"]["incoming_v6"]


def test_the_timer_is_when_the_first_hold_ends() -> None:
    policy = IcmpPolicy(Policy(True, 200, 2, 10))
    assert policy.timer() is None
    policy.hold("store", 60.0)
    policy.hold("leases", 20.0)
    assert policy.timer() == 20.0
    assert policy.holding(20.0) == ["store"]


class _Engine:
    """Keeps what it is told."""

    remarks: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.told: list[bool] = []

    def apply(self, settings: Any) -> None:
        self.told.append(settings["icmp"]["unknown_b4_v6"])


def _restored(tmp_path: Path, more: str) -> list[bool]:
    """What the engine was told before its workers run."""
    tmp_path.mkdir()
    file = tmp_path / "router.yaml"
    file.write_text(text(f"state: {{directory: {tmp_path / 'state'}}}\n{more}"))
    loaded = config.load(file)
    router = SimpleNamespace(table=empty_table(loaded), engine=_Engine(), inject=lambda packets: None)

    async def life() -> list[bool]:
        services = Services(loaded, cast(Router, router), opened_store(loaded))
        await services.restore()
        told = list(router.engine.told)
        await services.stop()
        return told

    return asyncio.run(life())


def test_it_is_held_back_before_the_first_packet_where_leases_are_still_to_be_read(tmp_path: Path) -> None:
    servers = 'leasequery: {servers: [{address: "2001:db8:53::1", port: 547}]}'
    assert _restored(tmp_path / "leases", servers) == [SILENT]
    assert _restored(tmp_path / "no leases", "") == []  # all is restored: the settings of the start hold
