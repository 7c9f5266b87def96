"""One leasequery server, many lwAFTRs: all hear of every lease, and one that does not read holds up nobody."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest

from pylwaftr.dhcp.profiles import PROFILES, Word
from pylwaftr.responder import daemon
from pylwaftr.responder.daemon import BUFFER, Client, Listen, Service
from pylwaftr.responder.database import Change, Database
from pylwaftr.responder.server import PIECE, Settings
from tests import leasequery_vectors as vectors
from tests.leasequery_vectors import DUID, MESSAGES

CLIENTS, LEASES, CHANGES, BATCH = 20, 3200, 5000, 500
LEASE_OCTETS = 400  # more than one takes


def changed(number: int) -> Change:
    """Of one of LEASES leases; the tunnel address says which one of all changes it was."""
    ipv4 = IPv4Address("198.51.100.0") + number % 100
    b4 = IPv6Address(0x20010DB8 << 96 | number)
    return Change(int(time.time()), ipv4, "ACTIVE", 0, 6, number // 100 % 32, b4, b"\xff\0\0\0\1abc")


class Reader:
    """An active query, and what its stream has said."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.words: list[Word] = []
        self.count = 0
        self.newest: dict[int, int] = {}
        self._rest = b""

    async def read(self, enough: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        while not enough():
            self._rest += await loop.sock_recv(self.sock, 1 << 16)
            while len(self._rest) >= 2 and len(self._rest) >= 2 + int.from_bytes(self._rest[:2]):
                end = 2 + int.from_bytes(self._rest[:2])
                self._heard(self._rest[2:end])
                self._rest = self._rest[end:]

    def _heard(self, message: bytes) -> None:
        if len(message) < 100:
            heard = PROFILES["W"].hear(message, DUID, 0)
            self.words += [] if heard.word is None else [heard.word]
        else:  # a lease; option 109 is the last one
            number = int.from_bytes(message[-5:-1])
            self.count += 1
            self.newest[number % LEASES] = number


async def connected(port: int) -> Reader:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, vectors.octets(MESSAGES["V001"]))
    return Reader(sock)


def waiting(service: Service) -> list[int]:
    """Octets that the server keeps for each client."""
    return sorted(client._transport.get_write_buffer_size() for client in service.clients)  # type: ignore[union-attr]


async def story() -> None:
    service = Service(Database(log_size=1024), Settings(b"\0\3\0\1server"), None)
    listener = await daemon.listen(service, Listen("127.0.0.1", 0))
    listener.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)  # the kernel keeps little
    port = listener.sockets[0].getsockname()[1]
    readers = [await connected(port) for _ in range(CLIENTS)]
    slow = await connected(port)
    while sum(client.connection.is_active for client in service.clients) < CLIENTS + 1:
        await asyncio.sleep(0.01)
    most = 0
    for begin in range(0, CHANGES, BATCH):
        service.apply([changed(number) for number in range(begin, begin + BATCH)], live=True)
        # A lease that changes twice before it is told is told once, so every batch is waited for.
        await asyncio.gather(
            *(reader.read(lambda reader=reader, told=begin + BATCH: reader.count >= told) for reader in readers)
        )
        most = max(most, *waiting(service))
    truth = {number % LEASES: number for number in range(CHANGES)}
    assert all(reader.newest == truth and reader.words == [] for reader in readers)
    assert BUFFER < most <= BUFFER + PIECE * LEASE_OCTETS, "what waits for a client is bounded"
    assert waiting(service)[:-1] == [0] * CLIENTS
    # It reads again, and learns that it missed something and what comes then.
    await slow.read(lambda: bool(slow.words))
    service.apply([changed(CHANGES)], live=True)
    await slow.read(lambda: CHANGES in slow.newest.values())
    assert slow.words == [Word.DATA_MISSING]
    assert slow.newest != truth
    listener.close()
    for reader in (*readers, slow):
        reader.sock.close()


class Endless(asyncio.Transport):
    """Takes all at once."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def test_a_client_that_reads_as_fast_as_can_be_leaves_room_for_others() -> None:
    async def turns() -> list[int]:
        database = Database()
        database.apply([changed(number) for number in range(3200)])
        client, transport = Client(Service(database, Settings(b"\0\3\0\1server"), None)), Endless()
        client.connection_made(transport)
        client.data_received(vectors.octets(MESSAGES["V003"]))
        seen = [len(transport.writes)]
        while b"".join(transport.writes)[-4] != 16:  # LEASEQUERY-DONE
            await asyncio.sleep(0)
            seen.append(len(transport.writes))
        return seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon, "TURN", 2)
        seen = asyncio.run(turns())
    assert len(seen) > 3
    assert max(b - a for a, b in pairwise([0, *seen])) <= 2


def test_a_client_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed() -> None:
    async def within() -> None:
        async with asyncio.timeout(100):
            await story()

    asyncio.run(within())
