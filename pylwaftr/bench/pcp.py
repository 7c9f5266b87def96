"""PCP requests a second that the server's core answers: decode, grant, encode, in batches as the daemon gives them.

Times are of this process's CPU, so that a busy neighbour costs less; commits, rings and the data plane are not in them
(those: pcp_way).
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any, TypeVar

import numpy as np

from pylwaftr import framing
from pylwaftr.bench import stats
from pylwaftr.pcp import codec
from pylwaftr.pcp.numbers import NO_IPV4, address16
from pylwaftr.pcp.options import PortSet
from pylwaftr.pcp.outcome import Sender
from pylwaftr.pcp.server import PcpServer
from pylwaftr.pcp.settings import Settings

_NOW = 1_700_000_000.0
BR = IPv6Address("2001:db8:ffff::1").packed
_B4_INSIDE, _SERVER = IPv4Address("192.0.0.2"), IPv4Address("192.0.0.1")
Batch = Sequence[tuple[bytes, Sender]]
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Plan:
    subscribers: int = 20_000
    batch: int = 512


QUICK = Plan(subscribers=300, batch=64)


@dataclass(frozen=True, slots=True)
class _Pool:
    ipv4: IPv4Network
    psid_len: int = 6
    exclude_ports: tuple[tuple[int, int], ...] = ((0, 1023),)
    signalling: str = "rfc7753"


POOLS = (_Pool(IPv4Network("10.0.0.0/12")),)


def _server(compiled: bool) -> PcpServer:
    most = 1 << 40
    return PcpServer(Settings(POOLS, BR, per_s=most, per_subscriber=most), _NOW, compiled)


def _request(hint: tuple[bytes, int] = (NO_IPV4, 0), first: int = 1) -> bytes:
    ports = PortSet(65535, first)
    inside = address16(_B4_INSIDE)
    return codec.encode_request(
        codec.MapRequest(7200, inside, bytes(range(12)), 0, first, hint[1], hint[0], (ports,), ports)
    )


def _senders(subscribers: int) -> list[Sender]:
    inside = address16(_B4_INSIDE)
    first = int(IPv6Address("2001:db8::1"))
    return [Sender((first + (number << 72)).to_bytes(16), BR, inside, 49152) for number in range(subscribers)]


def _batches(plan: Plan, datagram: bytes) -> list[Batch]:
    requests = [(datagram, sender) for sender in _senders(plan.subscribers)]
    return [requests[begin : begin + plan.batch] for begin in range(0, len(requests), plan.batch)]


def _windows(batches: Sequence[Sequence[_Item]], work: Callable[[Sequence[_Item]], None]) -> Iterator[tuple[int, int]]:
    for batch in batches:
        began = time.process_time_ns()
        work(batch)
        yield len(batch), time.process_time_ns() - began


def _answer(server: PcpServer, at: float) -> Callable[[Batch], None]:
    def work(batch: Batch) -> None:
        outcome = server.receive_many(batch, at)
        assert outcome.replies[0] is not None
        assert outcome.replies[0][3] == 0

    return work


def _framed(server: PcpServer, at: float) -> Callable[[Sequence[bytes]], None]:
    """As the daemon does it, from the packets of the ring to the packets of the ring."""

    def work(packets: Sequence[bytes]) -> None:
        punted = [one for packet in packets if (one := framing.strip(packet)) is not None]
        mapped = NO_IPV4[:12]
        requests = [(one.payload, Sender(one.tunnel, one.br, mapped + one.source, one.source_port)) for one in punted]
        outcome = server.receive_many(requests, at)
        answers = [
            framing.reply(one, reply) for one, reply in zip(punted, outcome.replies, strict=True) if reply is not None
        ]
        assert len(answers) == len(packets)

    return work


def packets_of_senders(subscribers: int) -> list[bytes]:
    """A first request of each, from its IPv6 header on."""
    datagram = _request()
    ends = _B4_INSIDE.packed, 49152, _SERVER.packed, 5351
    return [framing.wrap(datagram, sender.tunnel, BR, *ends) for sender in _senders(subscribers)]


def _packets(plan: Plan) -> list[list[bytes]]:
    packets = packets_of_senders(plan.subscribers)
    return [packets[begin : begin + plan.batch] for begin in range(0, len(packets), plan.batch)]


def _result(name: str, measured: Iterator[tuple[int, int]]) -> dict[str, Any]:
    windows = np.array(list(measured), np.float64)
    rates = windows[:, 0] / windows[:, 1] * 1e9
    return {
        "name": f"pcp.{name}",
        "unit": "requests",
        "requests": int(windows[:, 0].sum()),
        "requests_per_second": stats.pair(float(rates.max()), float(np.median(rates))),
        "microseconds_each": stats.pair(1e6 / float(rates.max()), 1e6 / float(np.median(rates))),
    }


def _claims(plan: Plan) -> list[Batch]:
    """Everybody suggests what it had: some address, some set of it."""
    requests: list[tuple[bytes, Sender]] = []
    for number, sender in enumerate(_senders(plan.subscribers)):
        address = IPv4Address("10.0.0.0") + number // 32
        requests.append((_request((address16(address), 1024 * (8 + number % 32))), sender))
    return [requests[begin : begin + plan.batch] for begin in range(0, len(requests), plan.batch)]


def results(plan: Plan) -> list[dict[str, Any]]:
    plain = _batches(plan, _request())
    found = []
    for compiled, form in ((True, ""), (False, ", readable form")):
        server = _server(compiled)
        found.append(_result(f"first set{form}", _windows(plain, _answer(server, _NOW))))
        found.append(_result(f"renewal{form}", _windows(plain, _answer(server, _NOW + 60))))
        if compiled:
            packets = _packets(plan)
            found.append(_result("renewal from packet to packet", _windows(packets, _framed(server, _NOW + 90))))
            found.append(_result("set claimed after a loss", _windows(_claims(plan), _answer(_server(True), _NOW))))
    return found


def octets_per_mapping(plan: Plan) -> float:
    batches = _batches(plan, _request())
    tracemalloc.start()
    server = _server(True)
    for batch in batches:
        server.receive_many(batch, _NOW)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(used / server.active, 1)


def memory(plan: Plan) -> dict[str, Any]:
    return {
        "name": "pcp.memory",
        "goal": "<= 1024 octets",
        "subscribers": plan.subscribers,
        "octets_per_mapping": octets_per_mapping(plan),
    }
