"""Clients of the leasequery server that hold a place and ask nothing, or ask for what is not here."""

from __future__ import annotations

import asyncio

import pytest

from pylwaftr.responder import encode
from pylwaftr.responder.daemon import Listen as At
from pylwaftr.responder.daemon import Service, listen
from pylwaftr.responder.server import UNASKED_S, Connection, Counts
from tests.leasequery_vectors import MESSAGES
from tests.responder_pair import SETTINGS, THREE, database
from tests.test_responder_profiles import heard, query4

ACTIVE_QUERY, BULK_QUERY, UNKNOWN = (bytes.fromhex(MESSAGES[name]["hex"]) for name in ("V001", "V003", "V118"))


@pytest.mark.parametrize(
    "what, octets, goes",
    [
        ("nothing", b"", True),
        ("half a message", b"\1", True),
        ("no query", UNKNOWN, True),
        ("a stream", ACTIVE_QUERY, False),
    ],
)
def test_who_asks_nothing_loses_its_place(what: str, octets: bytes, goes: bool) -> None:
    connection = Connection(database(*THREE), SETTINGS, Counts())
    assert not connection.unasked(0)
    connection.feed(octets, 1)
    connection.produce(1, 0)
    assert not connection.unasked(UNASKED_S - 1)
    assert connection.unasked(UNASKED_S + 1) is goes


def test_who_has_been_answered_has_as_long_for_the_next_query() -> None:
    connection = Connection(database(*THREE), SETTINGS, Counts())
    connection.unasked(0)
    connection.feed(BULK_QUERY, 200)
    assert not connection.unasked(UNASKED_S + 100)  # it does not read what there is for it; that is another rule
    while connection.produce(UNASKED_S + 100, 0):
        pass
    assert not connection.unasked(2 * UNASKED_S + 99)
    assert connection.unasked(2 * UNASKED_S + 100)


def test_places_that_are_held_in_vain_are_given_to_others() -> None:
    async def story() -> None:
        service = Service(database(*THREE), SETTINGS, None, most=2)
        listener = await listen(service, At("127.0.0.1", 0))
        port = listener.sockets[0].getsockname()[1]
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        while len(service.clients) < 2:
            await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        for client in list(service.clients):
            client.tick(now)
            client.tick(now + UNASKED_S)
        assert [await reader.read() for reader, _ in idle] == [b"", b""]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(BULK_QUERY)
        assert (await reader.readexactly(3))[2] == encode.LEASEQUERY_REPLY
        for one in (writer, *(w for _, w in idle)):
            one.close()
        listener.close()

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.parametrize("vss, found", [(b"\xff", 3), (b"\xfe", 3), (b"\0blue", 0), (b"\1\0\0\0\0\0\0\1", 0), (b"", 0)])
def test_the_leases_of_a_vpn_are_not_here(vss: bytes, found: int) -> None:
    connection = Connection(database(*THREE), SETTINGS, native=True)
    connection.feed(query4(14, (221, vss)), 0)
    answers = heard(connection, "N")
    assert sum(len(answer.rows) for answer in answers) == found
    assert answers[-1].error is (found == 0)
