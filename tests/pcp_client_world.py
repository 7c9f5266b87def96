"""A PCP client in a world of its own: a clock that tests turn, a server that says what they want, what was told."""

from __future__ import annotations

import random
from ipaddress import IPv4Address
from typing import Any

from pylwaftr.pcp import codec
from pylwaftr.pcp.client import Client, Options, State
from pylwaftr.pcp.client_values import Grant, Kept, Saved, Wanted
from pylwaftr.pcp.codec import AnnounceResponse, MapResponse
from pylwaftr.pcp.numbers import address16
from pylwaftr.pcp.options import PortSet

LWAFTR, B4 = IPv4Address("192.0.0.1"), IPv4Address("192.0.0.2")
PUBLIC, OTHER = IPv4Address("192.0.2.5"), IPv4Address("192.0.2.6")
SERVER = (LWAFTR, 5351)
NONCE = bytes(range(12))
SET = PortSet(2048, 26624)
KNOWN = codec.Accepts(frozenset({0, 1}), frozenset({130}))
ALL_PORTS = Wanted()
UDP_8080 = Wanted(17, 8080, 1)
GRANTED = Grant(PUBLIC, 26624, 2048, 7200, 12200.0)  # by PCPV-001, at 5000 s


class Middle(random.Random):
    """Draws the middle of each interval, so that times are known."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class World:
    def __init__(self, options: Options | None = None, kept: tuple[Kept, ...] = (), rng: random.Random | None = None):
        self.client = Client(options or Options(), rng or Middle(1), Saved(NONCE, kept))
        self.now = 5000.0
        self.epoch = 1000

    def started(self, *wanted: Wanted) -> World:
        self.client.start(self.now, wanted or (Wanted(),))
        return self

    def bound(self, lifetime: int = 7200) -> World:
        self.started().answer(lifetime=lifetime)
        self.sent()
        self.events()
        return self

    def sent(self) -> list[codec.Request]:
        out = self.client.datagrams_to_send()
        assert all(server == LWAFTR for _, server in out)
        return [codec.decode_request(datagram, address16(B4), KNOWN) for datagram, _ in out]

    def events(self) -> list[Any]:
        return self.client.events()

    def receive(self, datagram: bytes, source: tuple[IPv4Address, int] = SERVER) -> None:
        self.client.receive(datagram, source, self.now)

    def answer(self, result: int = 0, lifetime: int = 7200, to: Wanted = ALL_PORTS, **fields: Any) -> None:
        """A success as PCPV-001 has it, unless `fields` say otherwise."""
        given: dict[str, Any] = {"nonce": NONCE, "external_port": 26624, "external": address16(PUBLIC)}
        given = given | {"options": (SET,)} | fields
        given = given | {"protocol": to.protocol, "internal_port": to.internal_port}
        response = MapResponse(result, lifetime, self.epoch, **given)
        self.receive(codec.encode_response(response))

    def announce(self, epoch: int) -> None:
        self.receive(codec.encode_response(AnnounceResponse(epoch)))

    def until(self, when: float) -> list[float]:
        """Turns the clock; the times at which something was sent, from 5000 s on."""
        times = []
        while (due := self.client.timer()) is not None and due <= when:
            assert due > self.now - 1e-9
            self._turn(due)
            self.client.handle_timer(due)
            times += [due - 5000] * len(self.client.datagrams_to_send())
        self._turn(when)
        return times

    def _turn(self, when: float) -> None:
        self.epoch += int(when - 5000) - int(self.now - 5000)
        self.now = when

    def later(self, seconds: float) -> list[float]:
        return self.until(self.now + seconds)

    @property
    def state(self) -> State | None:
        return self.client.state(ALL_PORTS)

    @property
    def grant(self) -> Grant | None:
        grants = self.client.grants()
        return grants[0] if grants else None
