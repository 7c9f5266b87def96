"""Names of hosts that nobody can ask for are found in the configuration, not when somebody connects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pylwaftr.config import values
from pylwaftr.daemon.leasequery import Edge, Endpoint
from pylwaftr.dhcp.requestor import Requestor
from tests.leasequery_peer import BR, server

GOOD = ["a", "dhcp-1.example.net", "x" * 63 + ".example", "192.0.2.1", "2001:db8::1", ".".join(["a" * 49] * 5)]
BAD = ["a..b", ".a", "a.", "x" * 64 + ".example", "a.-b", "a-.b", "a b", "", ".".join(["a" * 50] * 5)]


@pytest.mark.parametrize("text", GOOD)
def test_a_host(text: str) -> None:
    assert values.host(text) == text


@pytest.mark.parametrize("text", BAD)
def test_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="neither an address nor a host name"):
        values.host(text)


def test_a_name_that_cannot_be_looked_up_is_the_fault_of_the_connection() -> None:
    async def apply(*_: Any) -> None:
        pass

    async def story() -> str:
        edge = Edge(Requestor([server("A")], BR.packed), {"A": Endpoint("a..b", 547)}, apply)
        work = asyncio.create_task(edge.run())
        async with asyncio.timeout(20):
            while (fault := edge.requestor.sessions["A"].progress.fault) is None:
                await asyncio.sleep(0)
        work.cancel()
        return fault.text

    assert "cannot connect to a..b port 547: encoding with 'idna' codec failed" in asyncio.run(story())
