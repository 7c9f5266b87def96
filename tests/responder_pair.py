"""A leasequery server with leases, and our requestor as its client, joined without sockets."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Any

from pylwaftr.dhcp.events import Channel, Open, Saved, Shut
from pylwaftr.dhcp.profiles import PROFILES
from pylwaftr.responder.database import STATES, Change, Database
from pylwaftr.responder.server import Connection, Settings
from tests import leasequery_vectors as vectors
from tests.leasequery_peer import Peer, frames_of, server
from tests.leasequery_vectors import DUID, T0

SERVER = bytes.fromhex(vectors.DATA["meta"]["server_A_duid"])
BR = IPv6Address("2001:db8:a::1")
SETTINGS = Settings(SERVER, br=BR.packed, server_id=IPv4Address("192.0.2.1").packed)


def change(
    psid: int, at: int = T0, state: str = "ACTIVE", n: int = 0, ipv4: str = "198.51.100.10", **more: Any
) -> Change:
    if state == "ACTIVE":
        more = {"b4": IPv6Address(f"2001:db8:{n}::{psid}"), "client": b"\xff\0\0\0\1" + bytes([n, psid, 1])} | more
        more = {"lifetime": 3600} | more
    return Change(at, IPv4Address(ipv4), state, 0, 6, psid, **more)


def said(connection: Connection, unix: int, now: float = 0.0) -> list[Any]:
    octets = b""
    while piece := connection.produce(now, unix):
        octets += piece
    return [PROFILES["W"].hear(frame[2:], DUID, unix) for frame in frames_of(octets)]


def psids(heard: list[Any]) -> list[int]:
    return sorted(int(row["psid"]) for one in heard for row in one.rows)


def database(*changes: Change, **options: Any) -> Database:
    made = Database(**options)
    made.apply(changes)
    return made


THREE = (change(1), change(2, n=1), change(3, ipv4="203.0.113.7"))


class Pair:
    """Both halves, joined by queues that can be cut and delayed; a server that is ill has a `said` of its own."""

    def __init__(self, db: Database, profile: str = "W") -> None:
        self.db, self.profile = db, profile
        self.peer = Peer(server(profile=profile), saved=Saved())
        self.links: dict[Channel, Connection] = {}

    def run(self, now: float, piece: int = 1 << 20, budget: int = 1000) -> None:
        """Until then, and until nobody has anything to say; `budget` messages of a connection at a time."""
        peer = self.peer
        for _ in range(200):
            due = peer.requestor.timer()
            at = now if due is None or due > now else max(due, peer.now)
            peer.tick(at)
            self.db.expire(T0 + int(at))
            for _ in range(5):
                self._turn(at, piece, budget)
            if at == now:
                break

    def _turn(self, now: float, piece: int, budget: int) -> None:
        for channel in Channel:
            if self.peer.taken(Shut, channel):
                self.links.pop(channel, None)
            if self.peer.taken(Open, channel):
                self.links[channel] = Connection(self.db, SETTINGS, native=self.profile == "N")
                self.peer.requestor.connected("A", channel, now)
                self.peer.after(now)
            self._carry(channel, now, piece, budget)

    def _carry(self, channel: Channel, now: float, piece: int, budget: int) -> None:
        link = self.links.get(channel)
        if link is None:
            return
        link.feed(self.peer.requestor.data_to_send("A", channel), now)
        for _ in range(budget):
            octets = self.said(link.produce(now, T0 + int(now)))
            if not octets:
                break
            for at in range(0, len(octets), piece):
                self.peer.recv(octets[at : at + piece], channel, now)
        if link.done:
            self.cut(channel, now)

    def said(self, octets: bytes) -> bytes:
        """What becomes of whole frames of the server on their way."""
        return octets

    def cut(self, channel: Channel, now: float) -> None:
        if self.links.pop(channel, None) is not None:
            self.peer.lost(channel, now)

    @property
    def truth(self) -> dict[Any, str]:
        leases, _ = self.db.part(0, self.db.count)
        return {
            (str(IPv4Address(int(one["ipv4"]))), 0, 6, (int(one["params"][2]) << 8 | int(one["params"][3])) >> 10): str(
                IPv6Address(one["b4"].tobytes())
            )
            for one in leases
            if one["state"] == STATES["ACTIVE"]
        }


def chaos(pair: Pair, rng: Random, meddle: Callable[[float], None]) -> float:
    """Random leases, in pieces and with pauses of any size; `meddle` does the rest. Returns when it is over."""
    pair.peer.open()
    now = 0.0
    for _ in range(60):
        now += rng.choice([0, 1, 5, 70])
        for _ in range(rng.randrange(30)):
            at, psid = T0 + int(now), rng.randrange(64)
            state = rng.choice(["ACTIVE", "ACTIVE", "RELEASED", "EXPIRED"])
            life = {"lifetime": rng.choice([30, 3600])} if state == "ACTIVE" else {}
            pair.db.apply([change(psid, at, state, rng.randrange(3), **life)], at)
        pair.run(now, piece=rng.choice([1 << 20, 1000, 77]), budget=rng.choice([1, 1000]))
        meddle(now)
    return now


def settle(pair: Pair, now: float, minutes: int) -> None:
    for minute in range(1, minutes + 1):
        pair.run(now + 60 * minute)
