"""What the server says unasked (RFC 6887 section 14): that it may have lost state, or that a mapping is another now.

There is no multicast link in a softwire, so an announcement goes into each of them, paced: the renewals that it causes
come at the same pace.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from ipaddress import IPv4Address
from typing import NamedTuple

from pylwaftr.pcp import options as opt
from pylwaftr.pcp.codec import AnnounceResponse, MapResponse, encode_response
from pylwaftr.pcp.mapping import THIRD_PARTY
from pylwaftr.pcp.mapping import Mapping as PortMapping
from pylwaftr.pcp.mappings import Mappings
from pylwaftr.pcp.numbers import CLIENT_PORT, IPV4_MAPPED, Result, address16
from pylwaftr.pcp.outcome import Send
from pylwaftr.pcp.pool import ports_of

ALL_HOSTS = address16(IPv4Address("224.0.0.1"))
FIRST_GAP_S = 0.25  # then twice as long each time
COPIES = 10
_SLICE_S = 0.05  # of the pace: so much goes out at once
UPDATE_GAPS_S = (0.25, 0.5)  # of a mapping update (section 14.2), three copies


class Target(NamedTuple):
    br: bytes
    client: bytes  # 16 octets
    port: int  # 0 = not known


class Announcer:
    """One announcement to many softwires, in rounds; who was heard of since is left in peace."""

    def __init__(self) -> None:
        self._targets: dict[bytes, Target] = {}  # by B4 address, or by peer_name
        self._round: list[bytes] = []  # still to do in this round, the last first
        self._copy = 0
        self._started = 0.0  # of the round
        self._next: float | None = None
        self._sent_to = 0.0

    def start(self, targets: Mapping[bytes, Target], now: float) -> None:
        self._targets = dict(targets)
        self._copy = 0
        self._begin_round(now)

    @property
    def waiting(self) -> int:
        """Softwires that have not been heard of since."""
        return len(self._targets)

    def heard(self, tunnel: bytes) -> None:
        self._targets.pop(tunnel, None)

    def stop(self) -> None:
        self._targets, self._round, self._next = {}, [], None

    def timer(self) -> float | None:
        return self._next

    def due(self, now: float, epoch: int, per_s: int, source: bytes) -> list[Send]:
        if self._next is None or now < self._next:
            return []
        sends: list[Send] = []
        payload = encode_response(AnnounceResponse(epoch))
        room = max(1, int(per_s * _SLICE_S))
        while self._round and len(sends) < room:
            tunnel = self._round.pop()
            target = self._targets.get(tunnel)
            if target is not None:
                where = (target.client, target.port) if target.port else (ALL_HOSTS, CLIENT_PORT)
                sends.append(Send(payload, tunnel if target.br else b"", target.br, source, *where))
        if self._round:
            self._next = now + len(sends) / per_s
        elif self._copy == COPIES or not self._targets:
            self.stop()
        else:
            gap = FIRST_GAP_S * (1 << (self._copy - 1))
            self._begin_round(max(now, self._started + gap))
        return sends

    def _begin_round(self, at: float) -> None:
        self._round = list(self._targets)
        self._copy += 1
        self._started = at
        self._next = at if self._round else None


class Updates:
    """Mappings that changed without a request: which to tell when. The copies end with a sign of life."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, float]] = []  # when, copy, key, its expiry as it was announced

    def add(self, key: int, until: float, now: float) -> None:
        heappush(self._heap, (now, 0, key, until))

    def timer(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def due(self, mappings: Mappings, source: bytes, epoch: int, now: float) -> list[Send]:
        sends = []
        while self._heap and self._heap[0][0] <= now:
            _, copy, key, until = heappop(self._heap)
            mapping = mappings.get(key)
            if mapping is None or not mapping.active or mapping.until != until:
                continue  # renewed meanwhile: it knows
            sends.append(_update(key, mapping, source, epoch, now))
            if copy < len(UPDATE_GAPS_S):
                heappush(self._heap, (now + UPDATE_GAPS_S[copy], copy + 1, key, until))
        return sends


def _update(key: int, mapping: PortMapping, source: bytes, epoch: int, now: float) -> Send:
    """As an answer to the request that made it; PORT_SET has to be there, or nobody knows its size."""
    first, last = ports_of(key)
    options = [one for one in (opt.decode(*raw) for raw in opt.split(mapping.third_party, 0)) if one is not None]
    if last > first:
        options.append(opt.PortSet(last - first + 1, first))
    payload = encode_response(
        MapResponse(
            Result.SUCCESS,
            mapping.remaining(now),
            epoch,
            mapping.nonce,
            mapping.protocol,
            mapping.internal_port,
            first,
            IPV4_MAPPED + (key >> 21).to_bytes(4),
            tuple(options),
        )
    )
    if mapping.flags & THIRD_PARTY:
        return Send(payload, b"", b"", source, mapping.client, mapping.client_port)
    return Send(payload, mapping.b4, mapping.br, source, mapping.client, mapping.client_port)


def peer_name(address: bytes, port: int) -> bytes:
    """Of a client on the management side; no B4 address is that long."""
    return address + port.to_bytes(2)
