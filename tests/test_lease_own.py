"""Leases of addresses that are the router's own or its PCP server's, and leases that other settings find bound."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface
from pathlib import Path

import pytest

from pylwaftr.api.backend import LeaseFilter
from pylwaftr.config import Config
from pylwaftr.daemon.leases import found
from tests.lease_service import SERVER, Service, limited, serving
from tests.leasequery_peer import lease
from tests.test_lease_turns import bind_operator, unbind_operator

TAKEN = IPv4Address("198.51.100.99")


def server_address(config: Config) -> Config:
    return replace(config, pcp=replace(config.pcp, server_addresses=(IPv4Address("192.0.0.1"), TAKEN)))


def own_address(config: Config) -> Config:
    v4 = replace(config.interfaces.v4, addresses=(IPv4Interface(f"{TAKEN}/24"),))
    return replace(config, interfaces=replace(config.interfaces, v4=v4))


def own_b4(config: Config) -> Config:
    v6 = replace(config.interfaces.v6, addresses=(IPv6Interface("2001:db8:2::2/64"),))
    return replace(config, interfaces=replace(config.interfaces, v6=v6))


WAYS = {"the PCP server's": (server_address, "own_address"), "its own": (own_address, "own_address")}
WAYS["a B4 that is itself"] = own_b4, "bad_b4"


async def kept_out(service: Service) -> dict[int, str]:
    some, _ = await service.leases.leases(LeaseFilter(kept_out=True), 100, "")
    return {one.lease.ports.psid: one.standing for one in some if one.lease.ports is not None}


@pytest.mark.parametrize("what", WAYS)
def test_such_a_lease_is_kept_out_and_says_why(what: str, tmp_path: Path) -> None:
    taken, word = WAYS[what]
    free = limited(tmp_path)

    async def story() -> None:
        async with serving(tmp_path, taken(free)) as service:
            service.hear(lease(1), lease(2, ipv4=str(TAKEN), b4="2001:db8:2::2"))
            await service.until({1: "DHCP"})
            assert await kept_out(service) == {2: word}
            (source,) = service.leases.sources()
            assert (source.leases, source.quarantined) == (2, 1)
            service.leases.reconfigure(taken(free), free, *found(free))
            await service.until({1: "DHCP", 2: "DHCP"})
            assert await kept_out(service) == {}

    asyncio.run(story())


def test_narrower_pools_count_after_a_restart_although_no_server_answers(tmp_path: Path) -> None:
    before = limited(tmp_path)
    (server,) = before.leasequery.servers
    narrower = replace(server, pools=(IPv4Network("203.0.113.0/24"),))
    after = replace(before, leasequery=replace(before.leasequery, servers=(narrower,)))

    async def life(config: Config, bound: dict[int, str]) -> None:
        async with serving(tmp_path, config) as service:
            if config is before:
                service.hear(lease(1), lease(2, ipv4="203.0.113.7", b4="2001:db8:2::2"))
            await service.until(bound)

    asyncio.run(life(before, {1: "DHCP", 2: "DHCP"}))
    asyncio.run(life(after, {2: "DHCP"}))


def test_others_have_their_turn_while_leases_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylwaftr.dhcp.anew.PART", 4)
    before = limited(tmp_path)
    (server,) = before.leasequery.servers
    after = replace(before, leasequery=replace(before.leasequery, servers=(replace(server, priority=7),)))

    async def story() -> None:
        async with serving(tmp_path, before) as service:
            service.hear(*(lease(psid, b4=f"2001:db8:{psid:x}::1") for psid in range(1, 41)))
            await service.until(dict.fromkeys(range(1, 41), "DHCP"))
            leases, turns = service.leases.edge.requestor.leases, 0
            service.leases.reconfigure(before, after, *found(after))
            async with asyncio.timeout(60):
                while leases.judging:
                    turns += 1
                    await asyncio.sleep(0)
            assert turns >= 9  # of ten parts the first comes with the reload

    asyncio.run(story())


def test_a_lease_that_waited_when_the_router_stopped_does_not_come_back_for_ever(tmp_path: Path) -> None:
    """It is taken over as those that were bound are, and ends with what the server says, or does not say, of it."""
    settings = limited(tmp_path, 9)

    async def first() -> None:
        async with serving(tmp_path, settings) as service:
            await bind_operator(service)
            service.hear(lease(1, b4="2001:db8:1:100::7"))
            await service.until_true(lambda: len(service.control.everything()) == 2)
            assert await service.bound() == {1: "OPERATOR"}

    async def second() -> None:
        async with serving(tmp_path, settings) as service:
            requestor = service.leases.edge.requestor
            requestor.leases.bulk_begins(SERVER)
            requestor.leases.bulk_ends(SERVER)
            service.leases.edge.after()
            await service.leases.edge.settled()
            assert len(service.control.everything()) == 1
            await unbind_operator(service)
            assert await service.bound() == {}

    asyncio.run(first())
    asyncio.run(second())
