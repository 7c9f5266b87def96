"""Lists of leases page by page: what that costs, and what happens to servers meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.api.backend import LeaseFilter
from pylwaftr.config.services import Leasequery
from pylwaftr.daemon import lease_list
from pylwaftr.dhcp.leases import Leases
from tests.lease_service import SERVER, limited, serving
from tests.leasequery_peer import lease, rows


@pytest.mark.parametrize("selective", [False, True])
def test_a_page_looks_at_few_leases(selective: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be millions; all of them are looked at once, if only one is wanted."""
    monkeypatch.setattr(lease_list, "_TOGETHER", 16)
    wanted = LeaseFilter(b4=IPv6Network("2001:db8:100:32::/64") if selective else None)
    looked: list[int] = []
    judged = Leases.standings

    def counted(self: Leases, server: str, which: Any = None) -> Any:
        found = judged(self, server, which)
        looked.append(len(found))
        return found

    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path)) as service:
            service.hear(*(lease(psid) for psid in range(60)))
            monkeypatch.setattr(Leases, "standings", counted)
            found, page = await service.leases.leases(wanted, 5, "")
            if selective:
                assert ([one.lease.ports.psid for one in found if one.lease.ports], sum(looked)) == ([50], 1)
            else:
                assert (len(found), sum(looked)) == (5, 10)
                assert page

    asyncio.run(story())


def test_a_server_may_go_while_its_leases_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_list, "_TOGETHER", 4)
    first, third, alone = "127.0.0.1:10", "127.0.0.1:11", LeaseFilter(SERVER)

    async def story() -> None:
        settings = limited(tmp_path, most=99)
        (one,) = settings.leasequery.servers
        three = replace(settings, leasequery=Leasequery(tuple(replace(one, port=port) for port in (9, 10, 11))))
        async with serving(tmp_path, three) as service:
            leases, now = service.leases.edge.requestor.leases, asyncio.get_running_loop().time()
            for number, name in enumerate((first, third, SERVER)):
                leases.heard(name, rows(*(lease(20 * number + psid) for psid in range(10))), now)
            _, page = await service.leases.leases(LeaseFilter(), 13, "")  # three of the second
            _, alone_page = await service.leases.leases(alone, 3, "")
            listing = asyncio.ensure_future(service.leases.leases(LeaseFilter(), 99, ""))
            await asyncio.sleep(0)
            leases.remove(first)
            servers = [name.lease.ports.psid // 20 for name in (await listing)[0] if name.lease.ports]
            assert (0 < servers.count(0) < 10, servers.count(1), servers.count(2)) == (True, 10, 10)
            found, _ = await service.leases.leases(LeaseFilter(), 99, page)
            assert [(one.server, one.lease.ports.psid) for one in found[:7] if one.lease.ports] == [
                (third, psid) for psid in range(23, 30)
            ]
            assert [one.server for one in found[7:]] == [SERVER] * 10
            leases.remove(third)
            assert len((await service.leases.leases(LeaseFilter(), 99, page))[0]) == 10
            leases.remove(SERVER)
            with pytest.raises(KeyError):
                await service.leases.leases(alone, 3, alone_page)
            assert await service.leases.leases(LeaseFilter(), 99, page) == ([], "")

    asyncio.run(story())
