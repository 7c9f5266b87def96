"""What is left of leasequery when a fault of the program has ended it: the router forwards on and says so."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from pylwaftr.api.backend import Ended
from pylwaftr.dhcp.leasequery import Session
from tests.lease_service import SERVER, limited, serving
from tests.leasequery_peer import lease


def test_what_has_ended_by_a_fault_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path)) as service:
            edge = service.leases.edge
            monkeypatch.setattr(Session, "current", True)
            assert service.leases.live() == [SERVER]
            monkeypatch.setattr(service.control, "commit", None)
            service.hear(lease(1))
            await service.until_true(lambda: edge.ended)
            assert service.leases.live() == []
            assert [one.state for one in service.leases.sources()] == ["ended"]
            for act in (service.leases.resync(None), service.leases.drop(SERVER, False)):
                with pytest.raises(Ended, match="restart"):
                    await act
            assert not await edge.query(IPv6Address("2001:db8::9"))

    with pytest.raises(TypeError):
        asyncio.run(story())


def test_who_waits_for_what_ends_by_a_fault_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path)) as service:
            service.hear(lease(1))
            await service.until({1: "DHCP"})
            monkeypatch.setattr(service.control, "commit", None)
            with pytest.raises(Ended):
                await service.leases.drop(SERVER, False)

    with pytest.raises(TypeError):
        asyncio.run(story())
