"""Plays a leasequery server against a Requestor, octet for octet, with the transaction-ids that a script wants."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pylwaftr.dhcp import codec4, codec6, codec_lease
from pylwaftr.dhcp.codec_lease import Lease, LeaseRows, State
from pylwaftr.dhcp.connection import Phase
from pylwaftr.dhcp.events import Channel, Open, Saved, Secure, Shut
from pylwaftr.dhcp.leasequery import Session, Settings
from pylwaftr.dhcp.leases import Leases, Policy
from pylwaftr.dhcp.profiles import Start
from pylwaftr.dhcp.requestor import Output, Requestor, Server
from pylwaftr.dhcp.s46 import PortParams
from pylwaftr.rows import text4, text6
from tests import leasequery_vectors as vectors
from tests.leasequery_vectors import DUID, T0

BR = IPv6Address("2001:db8:ffff::2")
SERVER_DUID = bytes.fromhex(vectors.DATA["meta"]["server_A_duid"])
ACTIVE, BULK = Channel.ACTIVE, Channel.BULK
Key = tuple[str, int, int, int]


def start(unix: int) -> Start:
    return Start(unix - codec6.EPOCH, unix)


SETTLED = Saved(start(T0 - 1), resync=False)  # all that the server has told is known


def told(leases: Leases, server: str) -> LeaseRows:
    """All that a server said."""
    return leases.rows_of(server, leases.said(server, 0, 1 << 30)[0])


class Peer:
    """One requestor; its bindings as the router would have them; what it wanted of its sockets."""

    def __init__(self, *servers: Server, saved: Saved | None = None, restored: dict[str, bytes] | None = None) -> None:
        servers = servers or (server(),)
        octets = {s.name: (saved or Saved()).octets() for s in servers} if restored is None else restored
        self.requestor = Requestor(servers, BR.packed, saved=octets, rng=random.Random(7))
        self.requestor.set_unix_offset(T0)
        self.table: dict[Key, str] = {}
        self.wanted: list[tuple[str, Open | Secure | Shut]] = []
        self.saved: dict[str, bytes] = dict(octets)
        self.outputs: list[Output] = []
        self.now = 0.0

    def session(self, name: str = "A") -> Session:
        return self.requestor.sessions[name]

    def after(self, now: float) -> Output:
        self.now = now
        out = self.requestor.take(now)
        self.outputs.append(out)
        for row in out.changes.unbind:
            del self.table[_key(row)]  # only what is bound is ever unbound
        for row in out.changes.bind:
            self.table[_key(row)] = text6(row["b4"].tobytes())
        self.saved |= out.saved
        self.wanted += out.commands
        return out

    def open(self, now: float = 0.0) -> None:
        self.requestor.open(now)
        self.after(now)

    def taken(self, kind: type, channel: Channel, name: str = "A") -> bool:
        """Whether it wanted that of its sockets; asked once."""
        found = [w for w in self.wanted if w[0] == name and isinstance(w[1], kind) and w[1].channel is channel]
        self.wanted = [w for w in self.wanted if w not in found]
        return bool(found)

    def connect(self, channel: Channel, now: float, xid: int | None = None, name: str = "A") -> bytes:
        """Comes up at `now`, or as soon after as it is wanted; returns what was sent. `xid`: of the first message."""
        session = self.session(name)
        for _ in range(20):
            if self.taken(Open, channel, name) and session._links[channel].phase is Phase.CONNECTING:
                break
            self.tick(now)
            if session._links[channel].phase is Phase.CLOSED:
                now = max(now, self.requestor.timer() or now)
        assert session._links[channel].phase is Phase.CONNECTING, f"no connection was wanted at {now}"
        secure = session._secure
        if xid is not None:
            session._parts.xid = (xid - (1 if secure else 2)) % (1 << 24)
        self.requestor.connected(name, channel, now)
        self.after(now)
        return self.requestor.data_to_send(name, channel)

    def recv(self, octets: bytes, channel: Channel, now: float, name: str = "A") -> bytes:
        self.requestor.feed(name, channel, octets, now)
        self.after(now)
        return self.requestor.data_to_send(name, channel)

    def lost(self, channel: Channel, now: float, name: str = "A") -> None:
        self.requestor.closed(name, channel, now, "reset by peer")
        self.after(now)

    def tick(self, now: float) -> None:
        self.requestor.handle_timer(now)
        self.after(now)

    def run_to(self, now: float) -> None:
        """All timers until then, each at its time."""
        for _ in range(10_000):
            due = self.requestor.timer()
            if due is None or due > now:
                break
            self.tick(max(due, self.now))
        self.now = now

    def accept(self, channel: Channel, now: float, xid: int, *leases: Lease, then: bytes = b"", **words: Any) -> bytes:
        """Connects, and is told of these leases in reply, and `then`; returns what it asked. It is `self.now` then."""
        asked = self.connect(channel, now, xid)
        self.recv(reply(xid, self.now, *leases, **words) + then, channel, self.now)
        return asked

    def resync(self, now: float) -> None:
        """Somebody asks for a full bulk."""
        self.requestor.resync(now)
        self.after(now)

    def live(self, now: float = 0.0, name: str = "A") -> None:
        """An active stream that has been accepted."""
        octets = self.connect(ACTIVE, now, name=name)
        xid = int.from_bytes(octets[3:6])
        self.recv(reply(xid, now), ACTIVE, now, name)


def server(name: str = "A", profile: str = "W", secure: bool = False, **policy: Any) -> Server:
    links = policy.pop("links", ())
    return Server(Settings(DUID, profile, secure, links), Policy(name, **policy))


def _key(row: Any) -> Key:
    return text4(int(row["ipv4"])), int(row["psid_offset"]), int(row["psid_len"]), int(row["psid"])


def table_of(entries: list[dict[str, Any]]) -> dict[Key, str]:
    return {(e["ipv4"], e["offset"], e["psid_len"], e["psid"]): e["b4"] for e in entries}


# --- messages of a server ---------------------------------------------------------------------------------------------


def reply(
    xid: int,
    at: float,
    *leases: Lease,
    status: int | None = None,
    duid: bytes = SERVER_DUID,
    client: bytes = DUID,
) -> bytes:
    options: list[tuple[int, bytes]] = [(2, duid), (1, client), (100, _base(at))]
    return _message(15, xid, options, leases, status)


def data(xid: int, at: float, *leases: Lease, status: int | None = None) -> bytes:
    return _message(17, xid, [(100, _base(at))], leases, status)


def done(xid: int, status: int | None = None) -> bytes:
    return _message(16, xid, [], (), status)


def _base(at: float) -> bytes:
    return (T0 + int(at) - codec6.EPOCH).to_bytes(4)


def _message(kind: int, xid: int, options: list[tuple[int, bytes]], leases: Any, status: int | None) -> bytes:
    if status is not None:
        options = [*options, (13, status.to_bytes(2))]
    options += [(45, codec6.join(((46, bytes(4)), (87, codec4.encode(message(lease, xid)))))) for lease in leases]
    return codec6.frame(codec6.encode(codec6.Message6(kind, xid, tuple(options))))


def frames_of(octets: bytes) -> list[bytes]:
    """Each with its length."""
    found, at = [], 0
    while at < len(octets):
        size = 2 + int.from_bytes(octets[at : at + 2])
        found.append(octets[at : at + size])
        at += size
    return found


def message(lease: Lease, xid: int) -> codec4.Message4:
    kind = 13 if lease.active else 11
    options: list[tuple[int, bytes]] = [(53, bytes([kind])), (152, lease.base.to_bytes(4))]
    if lease.lifetime is not None:
        options.append((51, lease.lifetime.to_bytes(4)))
    options.append((61, lease.client))
    for code, time in ((91, lease.cltt), (153, lease.since)):
        if time is not None:
            options.append((code, (lease.base - time).to_bytes(4)))
    options.append((156, bytes([lease.state])))
    if lease.ports is not None:
        options.append((159, codec4.port_params_data(lease.ports)))
    if lease.b4 is not None:
        options.append((109, lease.b4.packed))
    return codec4.Message4(2, xid, tuple(options), lease.ipv4)


def lease(
    psid: int,
    at: float = 0.0,
    ipv4: str = "198.51.100.10",
    b4: str | None = "",
    client: int | None = None,
    lifetime: int | None = 3600,
    psid_len: int = 6,
    state: State = State.ACTIVE,
    since: float | None = None,
) -> Lease:
    """`b4` "": one of its own per PSID."""
    number = psid if client is None else client
    now = T0 + int(at)
    return Lease(
        IPv4Address(ipv4),
        state,
        PortParams(0, psid_len, psid),
        None if b4 is None else IPv6Address(b4 or f"2001:db8:100:{psid:x}::{psid:x}"),
        bytes.fromhex("ff00000001000300010200000000") + number.to_bytes(2),
        now,
        now,
        now if since is None else T0 + int(since),
        lifetime,
    )


def ended(one: Lease, at: float, state: State = State.RELEASED) -> Lease:
    """The news that it is over: without option 109."""
    now = T0 + int(at)
    return replace(one, state=state, b4=None, base=now, cltt=now, since=now, lifetime=None)


def rows(*leases: Lease) -> Any:
    return codec_lease.rows(leases)


# --- a session that is live --------------------------------------------------------------------------------

DATA_MISSING, CATCH_UP_COMPLETE, TERMINATED, NOT_SUPPORTED, MALFORMED, NOT_ALLOWED = 12, 13, 11, 14, 8, 10
A, B = 0xA001, 0xB001


def asking(saved: Saved | None = None, *leases: Lease, status: int | None = None, **options: Any) -> Peer:
    """Its first active query, with transaction-id A, has just been answered."""
    peer = Peer(server(**options), saved=saved)
    peer.open()
    peer.accept(ACTIVE, 0, A, *leases, status=status)
    return peer


def started(saved: Saved | None = None, *leases: Any, **options: Any) -> Peer:
    """Live, with transaction-id A, and with what a first full bulk said if `saved` is None."""
    peer = asking(saved, **options)
    if peer.session().state == "catching up":
        peer.recv(data(A, 0, status=CATCH_UP_COMPLETE), ACTIVE, 0)
    if saved is None:
        bulk(peer, 1, *leases)
    return peer


def bulk(peer: Peer, now: float, *leases: Any, end: int | None = None, xid: int = B) -> None:
    """A whole bulk; `end`: the status of DONE."""
    peer.accept(BULK, now, xid, *leases[:1])
    if leases:
        peer.recv(b"".join(data(xid, peer.now, one) for one in leases[1:]) + done(xid, end), BULK, peer.now)


def amid_a_bulk(*leases: Lease) -> Peer:
    """Of leases 1 and 2, these have been told again since 10, in a full bulk of transaction-id B + 1."""
    peer = started(None, lease(1), lease(2))
    peer.resync(10)
    peer.accept(BULK, 10, B + 1, *leases)
    return peer


def psids(peer: Peer) -> set[int]:
    return {key[3] for key in peer.table}
