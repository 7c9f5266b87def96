"""Clients of the leasequery server that hold a place and ask nothing, ask for what is not here, or ask much at once."""

from __future__ import annotations

import asyncio

import pytest

from pylwaftr.dhcp.profiles import Word
from pylwaftr.responder import encode
from pylwaftr.responder.daemon import Client, Service, listen
from pylwaftr.responder.daemon import Listen as At
from pylwaftr.responder.server import QUERIES_MOST, UNASKED_S, Connection, Counts
from tests.leasequery_vectors import MESSAGES, T0
from tests.responder_pair import SETTINGS, THREE, database, said
from tests.test_responder_profiles import heard, query4

ACTIVE_QUERY, BULK_QUERY, UNKNOWN, MALFORMED = (
    bytes.fromhex(MESSAGES[name]["hex"]) for name in ("V001", "V003", "V118", "V121")
)


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


@pytest.mark.parametrize("piece", [1 << 20, 1000, 7])
def test_who_asks_much_at_once_is_answered_in_turn(piece: int) -> None:
    """More than wait at a time are read when there is room again."""
    connection, count = Connection(database(*THREE), SETTINGS, Counts()), 3 * QUERIES_MOST + 1
    octets = BULK_QUERY * count
    for at in range(0, len(octets), piece):
        connection.feed(octets[at : at + piece], 0)
    assert connection.is_full
    assert connection.counts.queries == QUERIES_MOST
    assert sum(len(one.rows) for one in said(connection, T0 + 10)) == 3 * count
    assert (connection.counts.queries, connection.is_full, connection.done) == (count, False, False)


@pytest.mark.parametrize("before", [0, 1, QUERIES_MOST - 1, QUERIES_MOST, QUERIES_MOST + 1])
def test_a_refusal_comes_behind_the_answers_to_what_was_asked_before(before: int) -> None:
    connection = Connection(database(*THREE), SETTINGS, Counts())
    connection.feed(BULK_QUERY * before + MALFORMED + BULK_QUERY, 0)
    found = said(connection, T0 + 10)
    assert sum(len(one.rows) for one in found) == 3 * before
    assert (found[-1].word, connection.done) == (Word.MALFORMED_QUERY, True)
    connection.feed(BULK_QUERY, 1)
    assert said(connection, T0 + 11) == []


def answers(count: int) -> int:
    """Octets."""
    connection, octets = Connection(database(*THREE), SETTINGS, Counts()), 0
    for _ in range(count):
        connection.feed(BULK_QUERY, 0)
        octets += sum(map(len, iter(lambda: connection.produce(0, T0), b"")))
    return octets


class Told(asyncio.Transport):
    """What it is told to do."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.written = True, 0

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def test_who_asks_and_does_not_read_is_not_read() -> None:
    async def story() -> None:
        client, transport = Client(Service(database(*THREE), SETTINGS, None)), Told()
        client.connection_made(transport)
        client.pause_writing()
        client.data_received(BULK_QUERY * (QUERIES_MOST - 1))
        assert transport.reads
        client.data_received(BULK_QUERY * 2)
        assert not transport.reads
        client.resume_writing()
        while transport.written < answers(QUERIES_MOST + 1):
            await asyncio.sleep(0)
        assert transport.reads
        client.data_received(BULK_QUERY)
        while transport.written < answers(QUERIES_MOST + 2):
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_thousand_queries_at_once_over_tcp() -> None:
    async def story() -> None:
        listener = await listen(Service(database(*THREE), SETTINGS, None), At("127.0.0.1", 0))
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname()[:2])
        writer.write(BULK_QUERY * 1000)
        await reader.readexactly(answers(1000))
        writer.close()
        listener.close()

    asyncio.run(asyncio.wait_for(story(), 20))
