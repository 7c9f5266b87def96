"""How octets come from the socket to the session: in a buffer that is used again and again."""

from __future__ import annotations

import pytest

from pylwaftr.daemon import leasequery
from pylwaftr.responder.daemon import Service
from pylwaftr.responder.database import Database
from pylwaftr.responder.server import Settings
from tests.leasequery_sockets import SERVER, Router, change, listening, on_a_loop, requesting, requestor


@pytest.mark.parametrize("octets", [1, 100, 1 << 20])
@on_a_loop
async def test_leases_arrive_however_few_octets_are_taken_at_once(octets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasequery, "READ", octets)
    database = Database()
    database.apply([change(psid) for psid in range(1, 40)])
    port, router = await listening(Service(database, Settings(SERVER, False, False), None)), Router()
    asked = requestor(False)
    async with requesting(port, asked, router.apply):
        await router.until(lambda: set(router.bound) == set(range(1, 40)))
        counts = asked.sessions["A"].counts
        assert not [name for name in counts if name.startswith(("malformed", "broken"))]
