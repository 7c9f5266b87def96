"""The PCP server on its sockets: what goes in, what is committed, what goes out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pylwaftr import framing
from pylwaftr.changes import Change, Op, Record, Refusal, Report
from pylwaftr.config.services import Pool
from pylwaftr.config.values import Endpoint
from pylwaftr.daemon.control import CommitRefused
from pylwaftr.daemon.pcp import PcpService
from pylwaftr.daemon.punts import MISS, PCP, Punts
from pylwaftr.daemon.router import Router
from pylwaftr.pcp.codec import MapRequest, MapResponse, decode_response, encode_request
from pylwaftr.pcp.numbers import IPV4_MAPPED, Result, address16
from pylwaftr.pcp.options import PortSet, ThirdParty
from pylwaftr.pcp.outcome import Send, Sender
from pylwaftr.pcp.server import PcpServer
from pylwaftr.pcp.settings import Settings
from pylwaftr.store import StoreFault

PUNT = [("kind", "u1"), ("offset", "u4"), ("length", "u4")]  # the columns that are looked at
B4, BR = IPv6Address("2001:db8:101::1").packed, IPv6Address("2001:db8:aa::1").packed
INSIDE, SERVER = IPv4Address("192.0.0.2").packed, IPv4Address("192.0.0.1").packed
POOL = Pool(IPv4Network("203.0.113.0/30"), 0, 6, ((0, 1023),), "rfc7753")


class Control:
    """Keeps what it is told to keep; `full`: the disk is."""

    def __init__(self) -> None:
        self.full = False
        self.kept: list[tuple[Op, int]] = []
        self.records: dict[bytes, bytes | None] = {}
        self.seen = asyncio.Event()

    async def commit(self, changes: Sequence[Change], records: Sequence[Record], source: int) -> Report:
        self.seen.set()
        if self.full:
            raise StoreFault("no space left on device: free some in /var/lib/pylwaftr")
        self.kept += [(change.op, len(change.rows)) for change in changes]
        self.records |= {record.key: record.value for record in records}
        return Report()


class World:
    def __init__(self, **settings: object) -> None:
        self.control, self.sent = Control(), list[bytes]()
        server = PcpServer(Settings((POOL,), BR, per_subscriber=100, **settings), 0.0)  # type: ignore[arg-type]
        self.service = PcpService(server, self.control, self.sent.extend)

    def replies(self) -> list[MapResponse]:
        found = []
        for packet in self.sent:
            datagram = framing.strip(packet)
            assert datagram is not None
            assert (datagram.tunnel, datagram.br, datagram.source) == (BR, B4, SERVER)
            response = decode_response(datagram.payload)
            assert isinstance(response, MapResponse)
            found.append(response)
        return found


def request(lifetime: int = 7200, nonce: int = 1, b4: bytes = B4) -> bytes:
    ask = MapRequest(
        lifetime, address16(IPv4Address(INSIDE)), nonce.to_bytes(12), 0, 1, 0, options=(PortSet(65535, 1),)
    )
    return framing.wrap(encode_request(ask), b4, BR, INSIDE, 40000, SERVER, 5351)


async def settled(service: PcpService) -> None:
    """Lets the service work until nothing waits."""
    await asyncio.sleep(0)
    while service.busy:
        await asyncio.sleep(0.001)


def served(world: World, *steps: object) -> World:
    async def run() -> None:
        task = asyncio.create_task(world.service.run())
        for step in steps:
            if isinstance(step, bytes):
                world.service.punted([step])
            elif callable(step):
                step()
            await settled(world.service)
        task.cancel()
        world.service.close()

    asyncio.run(run())
    return world


def test_a_grant_is_kept_before_its_answer_leaves() -> None:
    world = served(World(), request())
    (reply,) = world.replies()
    assert (reply.result, reply.external_port) == (Result.SUCCESS, 1024)
    assert world.control.kept == [(Op.BIND, 1)]
    assert len([value for value in world.control.records.values() if value]) == 1


@pytest.mark.parametrize("gather_s, answered", [(30.0, 1), (0.05, 4)], ids=["not yet", "then"])
def test_what_comes_shortly_after_another_is_gathered(
    monkeypatch: pytest.MonkeyPatch, gather_s: float, answered: int
) -> None:
    monkeypatch.setattr("pylwaftr.daemon.pcp._GATHER_S", gather_s)

    async def run() -> None:
        world = World(max_sets=9)
        task = asyncio.create_task(world.service.run())
        world.service.punted([request()])
        while len(world.sent) < 1:  # nothing to wait for
            await asyncio.sleep(0.01)
        for _ in range(3):
            world.service.punted([request()])
            await asyncio.sleep(0.01)
        while len(world.sent) < answered:
            await asyncio.sleep(0.01)
        assert len(world.sent) == answered
        task.cancel()

    asyncio.run(run())


def test_a_grant_and_its_end() -> None:
    world = served(World(), request(), request(lifetime=0))
    assert [reply.result for reply in world.replies()] == [Result.SUCCESS, Result.SUCCESS]
    assert world.control.kept == [(Op.BIND, 1), (Op.UNBIND, 1)]


def test_a_full_disk_answers_nothing_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylwaftr.daemon.pcp._RETRY_S", 0.02)
    world = World()
    control = world.control
    served(world, lambda: setattr(control, "full", True), request(), lambda: setattr(control, "full", False), request())
    assert [reply.external_port for reply in world.replies()] == [1024]
    assert control.kept == [(Op.BIND, 1)]
    assert world.service.server.active == 1
    assert world.service.healthy


GARBAGE = [
    ("no packet", b""),
    ("cut", request()[:60]),
    ("a wrong checksum", request()[:-1] + b"\xff"),
    ("no PCP", framing.wrap(b"\x02", B4, BR, INSIDE, 1, SERVER, 5351)),
]


@pytest.mark.parametrize("what, packet", GARBAGE, ids=[row[0] for row in GARBAGE])
def test_garbage(what: str, packet: bytes) -> None:
    world = served(World(), packet, request())
    assert [reply.result for reply in world.replies()] == [Result.SUCCESS]


# --- the management port


def asked(allow: str, lifetime: int = 7200) -> tuple[World, bytes]:
    """One request of a DHCP server for the B4, over a real socket."""
    world = World(third_parties=(IPv4Network(allow),))

    async def run() -> bytes:
        await world.service.listen(Endpoint("127.0.0.1", 0))
        assert world.service.management_port
        task = asyncio.create_task(world.service.run())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(("127.0.0.1", world.service.management_port))
            options = (ThirdParty(B4), PortSet(65535, 1))
            ask = MapRequest(lifetime, address16(IPv4Address("127.0.0.1")), bytes(12), 0, 1, 0, options=options)
            await asyncio.get_running_loop().sock_sendall(client, encode_request(ask))
            try:
                return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 2000), 60)
            finally:
                task.cancel()
                world.service.close()

    return world, asyncio.run(run())


def test_a_third_party_provisions_a_b4() -> None:
    world, answer = asked("127.0.0.0/8")
    response = decode_response(answer)
    assert isinstance(response, MapResponse)
    assert (response.result, response.external_port) == (Result.SUCCESS, 1024)
    assert world.control.kept == [(Op.BIND, 1)]


def test_a_stranger_does_not() -> None:
    world, answer = asked("192.0.2.0/24")
    assert world.control.kept == []
    assert answer[3] == Result.UNSUPP_OPTION  # RFC 6887 section 13.1


def test_who_is_allowed_is_live_configuration() -> None:
    world = World(third_parties=(IPv4Network("192.0.2.0/24"),))
    asking = Sender(b"", b"", address16(IPv4Address("127.0.0.1")), 5351)
    assert not world.service.server.authorises(asking)
    settings = world.service.server.settings
    world.service.server.reconfigure(replace(settings, third_parties=(IPv4Network("127.0.0.1/32"),)))
    assert world.service.server.authorises(asking)


def test_strangers_on_the_management_side_take_no_room_from_softwires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylwaftr.daemon.pcp._MOST", 300)
    world = World(third_parties=(IPv4Network("127.0.0.1/32"),))
    told: list[bytes] = []

    def flood() -> None:
        for number in range(5000):
            world.service._from_management(b"\2\1" + bytes(58), ("192.0.2.7", number % 60000), told.append)
        world.service.punted([request()])

    served(world, flood, flood)
    assert [reply.result for reply in world.replies()] == [Result.SUCCESS, Result.SUCCESS]
    assert len(told) <= 2 * 256


def test_the_view_shows_them() -> None:
    world = served(World(), request())
    [(_, mapping)] = world.service.server.mappings()
    assert IPv6Address(mapping.b4) in IPv6Network("2001:db8:101::/56")


def test_what_is_punted_goes_to_who_takes_its_kind() -> None:
    rows = np.array([(PCP, 0, 2), (MISS, 2, 1), (PCP, 3, 0), (9, 3, 1)], PUNT)
    engine = SimpleNamespace(punted=lambda: (rows, b"abcd"))
    taken: list[tuple[str, list[bytes]]] = []

    def taker(name: str) -> Callable[[Iterable[bytes]], None]:
        return lambda packets: taken.append((name, list(packets)))

    Punts(cast(Router, SimpleNamespace(engine=engine)), taker("pcp"), taker("miss"), taker("move"))._take()
    assert taken == [("pcp", [b"ab", b""]), ("miss", [b"c"])]


def test_a_message_to_a_peer_of_the_other_family() -> None:
    """An IPv4 peer of a listener on [::] is told; one that no listener reaches any more ends nothing."""
    mapped = IPV4_MAPPED + IPv4Address("127.0.0.1").packed

    async def test(listen: str, to: bytes, family: int, at: str) -> bytes | None:
        server: Any = PcpServer(Settings((POOL,), BR), 0.0)
        service = PcpService(server, Control(), lambda packets: None)
        with socket.socket(family, socket.SOCK_DGRAM) as peer:
            peer.bind((at, 0))
            peer.setblocking(False)
            await service.listen(Endpoint(listen, 0))
            service._send([Send(b"x" * 24, b"", b"", b"", to, peer.getsockname()[1])])
            try:
                async with asyncio.timeout(5 if to == mapped and listen == "::" else 0.05):
                    return await asyncio.get_running_loop().sock_recv(peer, 100)
            except TimeoutError:
                return None
            finally:
                service.close()

    assert asyncio.run(test("::", mapped, socket.AF_INET, "127.0.0.1")) == b"x" * 24
    assert asyncio.run(test("127.0.0.1", IPv6Address("::1").packed, socket.AF_INET6, "::1")) is None


@pytest.mark.parametrize("per_subscriber", [1, 2])
def test_who_is_served_again_is_not_counted_again(per_subscriber: int) -> None:
    bad, good = IPv6Address("2001:db8:101::1").packed, IPv6Address("2001:db8:202::1").packed

    class Full(Control):
        async def commit(self, changes: Sequence[Change], records: Sequence[Record], source: int) -> Report:
            for change in changes:
                for index, one in enumerate(change.rows):
                    if one["b4"].tobytes() == bad:
                        raise CommitRefused(Report(refused=(Refusal(index, "table_full", "full"),)))
            return await super().commit(changes, records, source)

    sent: list[bytes] = []
    settings = Settings((POOL,), BR, per_subscriber=per_subscriber)
    service = PcpService(PcpServer(settings, 0.0), Full(), sent.extend)

    async def test() -> None:
        task = asyncio.create_task(service.run())
        service.punted([request(b4=bad), request(b4=good, nonce=2)])
        async with asyncio.timeout(10):
            while len(sent) < 2:
                await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(test())
    assert service.server.counters == {"NO_RESOURCES": 1, "SUCCESS": 1}
