"""A server that takes one connection at a time: bulk first, then the stream from where the bulk began."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from pylwaftr.dhcp import codec4, codec6
from pylwaftr.dhcp.events import Channel, Saved, Shut
from pylwaftr.responder.database import Database
from tests.leasequery_peer import (
    ACTIVE,
    BULK,
    CATCH_UP_COMPLETE,
    NOT_ALLOWED,
    SETTLED,
    A,
    B,
    Peer,
    data,
    done,
    ended,
    frames_of,
    lease,
    psids,
    reply,
    start,
    started,
    told,
)
from tests.leasequery_vectors import T0
from tests.responder_pair import THREE, Pair, change, chaos, database, settle

REFUSALS = ["closed", "silent", "NotAllowed"]


def stepped_aside(how: str = "closed") -> Peer:
    """The second connection was refused, the stream went on, and now the bulk has the only connection."""
    peer = started(Saved(), lease(1))
    peer.recv(data(A, 0, lease(1), lease(2)), ACTIVE, 0)
    peer.connect(BULK, 0, B)
    if how == "closed":
        peer.lost(BULK, 0)
    elif how == "NotAllowed":
        peer.recv(reply(B, 0, status=NOT_ALLOWED), BULK, 0)
    now = 0.0
    while not peer.taken(Shut, ACTIVE):
        now += 10
        assert now < 1000, "the stream was not ended for the bulk"
        peer.recv(data(A, now), ACTIVE, now)  # it is well
        peer.run_to(now)
    assert peer.session().state == "waiting"
    return peer


@pytest.mark.parametrize("how", REFUSALS)
def test_the_stream_ends_for_the_bulk_and_goes_on_from_where_that_began(how: str) -> None:
    peer = stepped_aside(how)
    begun = peer.now + 5
    peer.connect(BULK, begun, B + 9)
    began = peer.now
    # 1 is told early and ends while the bulk runs; 2 is gone; 3 is new.
    peer.recv(reply(B + 9, began, lease(1, began)), BULK, began)
    assert peer.session().state == "waiting"  # one connection
    peer.recv(data(B + 9, began + 7, lease(3, began)) + done(B + 9), BULK, began + 7)
    assert (psids(peer), peer.session().saved.resync) == ({1, 3}, False)
    assert peer.session().saved.start == start(T0 + int(began))
    asked = peer.connect(ACTIVE, began + 8, A + 99)
    assert (T0 + int(began)).to_bytes(4) in asked
    at = peer.now
    peer.recv(reply(A + 99, at) + data(A + 99, at, ended(lease(1), began + 3)), ACTIVE, at)
    peer.recv(data(A + 99, at, status=CATCH_UP_COMPLETE), ACTIVE, at)
    assert (psids(peer), peer.session().state, peer.session().current) == ({3}, "live", True)


def test_a_bulk_that_is_lost_then_sweeps_nothing_and_the_stream_is_back_until_the_next() -> None:
    peer = stepped_aside()
    peer.connect(BULK, peer.now + 5, B + 9)
    peer.recv(reply(B + 9, peer.now, lease(3, peer.now)), BULK, peer.now)
    peer.lost(BULK, peer.now)
    assert (psids(peer), peer.session().saved.resync) == ({1, 2, 3}, True)
    peer.accept(ACTIVE, peer.now, A + 99)
    peer.recv(data(A + 99, peer.now, status=CATCH_UP_COMPLETE), ACTIVE, peer.now)
    assert peer.session().state == "live"


def test_a_server_that_dies_is_not_taken_for_one_with_one_connection() -> None:
    peer = started(Saved(), lease(1))
    peer.connect(BULK, 0, B)
    peer.lost(BULK, 1)
    peer.lost(ACTIVE, 1)
    peer.accept(ACTIVE, 70, A + 9)
    peer.recv(data(A + 9, peer.now, status=CATCH_UP_COMPLETE), ACTIVE, peer.now)
    peer.connect(BULK, peer.now, B + 9)
    assert not peer.taken(Shut, ACTIVE)
    assert peer.session().state == "live"


def test_a_single_query_does_not_take_the_stream_s_connection() -> None:
    peer = stepped_aside()
    peer.connect(BULK, peer.now + 5, B + 9)
    peer.recv(reply(B + 9, peer.now, lease(1, peer.now)) + done(B + 9), BULK, peer.now)
    peer.accept(ACTIVE, peer.now, A + 99)
    assert not peer.requestor.query(IPv6Address("2001:db8::77"), peer.now + 100)
    assert peer.session().state == "catching up"
    assert peer.requestor.query(IPv6Address("2001:db8::77"), peer.now + 3700)  # both are tried again after an hour


def test_a_single_query_does_not_end_the_stream_when_no_bulk_is_due() -> None:
    peer = started(None, lease(1))
    peer.run_to(20)
    assert peer.requestor.query(IPv6Address("2001:db8::77"), 20)
    peer.after(20)
    peer.connect(BULK, 20)
    peer.lost(BULK, 20)  # refused
    for now in (100.0, 200.0):
        peer.recv(data(A, now), ACTIVE, now)
        assert not peer.requestor.query(IPv6Address("2001:db8::77"), now)
        peer.after(now)
        assert not peer.taken(Shut, ACTIVE)
    assert (peer.session().state, peer.session().current) == ("live", True)
    peer.resync(201)
    peer.run_to(201)
    assert peer.taken(Shut, ACTIVE)  # for a full bulk it does end


class OneConnection(Pair):
    """The responder, where a second connection is closed as it comes."""

    def _carry(self, channel: Channel, now: float, piece: int, budget: int) -> None:
        if channel in self.links and len(self.links) > 1:
            self.cut(channel, now)
        else:
            super()._carry(channel, now, piece, budget)


def run_on(pair: Pair, now: float, until: float) -> None:
    """So that keep-alives come in time."""
    while now < until:
        now += 10
        pair.run(now)


class NoHistory(Database):
    def since(self, unix: int) -> int | None:
        return None


def test_a_server_without_history_is_asked_for_all_now_and_then() -> None:
    pair = OneConnection(NoHistory())
    pair.db.apply(THREE)
    pair.peer.open()
    now = 0.0
    while not pair.peer.session().counts["bulks_put_off"]:
        assert now < 200
        now += 0.5
        if pair.peer.session().counts["bulks_complete"] and len(pair.db) == 3:
            pair.db.apply([change(5, T0 + int(now))], T0 + int(now))  # the stream will not tell of it
        pair.run(now)
    peer, session = pair.peer, pair.peer.session()
    assert (session.state, session.current, session.counts["bulks_complete"]) == ("live", True, 1)
    assert (len(pair.truth), len(peer.table)) == (4, 3)
    run_on(pair, now, now + 280)
    assert (session.current, session.counts["bulks_complete"]) == (True, 1)
    assert Saved.of(peer.saved["A"]).resync  # a restart would not wait
    run_on(pair, now + 280, now + 330)
    assert (session.state, session.current, session.counts["bulks_complete"]) == ("live", True, 2)
    assert peer.table == pair.truth
    peer.requestor.resync(now + 330)
    run_on(pair, now + 330, now + 350)
    assert session.counts["bulks_complete"] == 3  # who asks for it gets it


# --- no base-time: RFC 7653 section 9.3 wants it only where the query asks, and not every server heeds that -----------


def without_base_time(octets: bytes) -> bytes:
    """Whole frames, on both layers."""
    out = b""
    for frame in frames_of(octets):
        message = codec6.decode(frame[2:])
        options = [(code, _untimed(data) if code == 45 else data) for code, data in message.options if code != 100]
        out += codec6.frame(codec6.encode(replace(message, options=tuple(options))))
    return out


def _untimed(client_data: bytes) -> bytes:
    made: list[tuple[int, bytes]] = []
    for code, octets in codec6.split(client_data):
        if code == 87:
            nested = codec4.decode(octets)
            octets = codec4.encode(replace(nested, options=tuple(o for o in nested.options if o[0] != 152)))
        made.append((code, octets))
    return codec6.join(tuple(made))


class TwoUntimed(Pair):
    def said(self, octets: bytes) -> bytes:
        return without_base_time(octets)


class OneUntimed(OneConnection, TwoUntimed):
    pass


def test_what_changed_while_a_server_without_base_time_was_away_is_learnt() -> None:
    pair = TwoUntimed(database(*THREE))
    pair.peer.open()
    pair.run(1)
    session = pair.peer.session()
    assert (session.state, session.saved.start, session.saved.resync) == ("live", None, False)
    assert pair.peer.table == pair.truth
    pair.cut(ACTIVE, 2)
    pair.db.apply([change(1, T0 + 3, "RELEASED"), change(7, T0 + 3)], T0 + 3)
    run_on(pair, 3, 80)
    assert (session.state, session.counts["bulks_complete"]) == ("live", 2)
    assert pair.peer.table == pair.truth


def test_one_connection_to_a_server_without_base_time() -> None:
    """Nothing says where the stream would have to begin, so what changed before it is learnt by the next bulk."""
    pair = OneUntimed(database(*THREE))
    pair.peer.open()
    session, now = pair.peer.session(), 0.0
    while not session.counts["bulks_put_off"]:
        assert now < 200
        now += 0.5
        if session.counts["bulks_complete"] and len(pair.db) == 3:
            pair.db.apply([change(5, T0 + int(now))], T0 + int(now))  # between the bulk and the stream
        pair.run(now)
    assert (session.state, len(pair.truth), len(pair.peer.table)) == ("live", 4, 3)
    assert session.behind_s(now) > 0
    pair.db.apply([change(6, T0 + int(now))], T0 + int(now))
    pair.run(now + 1)
    assert len(pair.peer.table) == 4  # the stream's news come
    run_on(pair, now + 1, now + 330)
    assert (session.state, session.counts["bulks_complete"]) == ("live", 2)
    assert pair.peer.table == pair.truth


@pytest.mark.parametrize("layer", ["outer", "nested"])
def test_a_base_time_on_one_layer_is_one_on_both(layer: str) -> None:
    peer = started(SETTLED)
    message = codec6.decode(data(A, 60, lease(1, 60))[2:])
    options = [(c, _untimed(d) if c == 45 and layer == "outer" else d) for c, d in message.options]
    options = [(c, d) for c, d in options if c != 100 or layer == "outer"]
    peer.recv(codec6.frame(codec6.encode(replace(message, options=tuple(options)))), ACTIVE, 60)
    assert peer.session().saved.start == start(T0 + 60)
    (row,) = told(peer.requestor.leases, "A")
    assert row["base"] == T0 + 60


def test_a_cold_start() -> None:
    pair = OneConnection(database(*THREE))
    pair.peer.open()
    pair.run(200)
    assert pair.peer.table == pair.truth
    assert len(pair.truth) == 3
    assert pair.peer.session().current
    pair.db.apply([change(4, T0 + 201), change(1, T0 + 201, "RELEASED")], T0 + 201)
    pair.run(202)
    assert pair.peer.table == pair.truth


@pytest.mark.parametrize("seed", range(6))
def test_chaos_over_one_connection_ends_with_the_table_of_the_server(seed: int) -> None:
    rng = random.Random(seed)
    pair = OneConnection(Database(log_size=rng.choice([64, 1 << 16])))

    def meddle(now: float) -> None:
        if rng.random() < 0.3:
            pair.cut(rng.choice([ACTIVE, BULK]), now)

    settle(pair, chaos(pair, rng, meddle), 60)
    assert pair.peer.table == pair.truth
    assert pair.peer.session().current
