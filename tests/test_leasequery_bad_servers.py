"""Servers that misbehave for a while: what they say meanwhile does no lasting harm.

Whatever came, once the server is well again the table is the server's within a reconnect and a full bulk.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from pylwaftr.dhcp.connection import Timers
from pylwaftr.dhcp.events import Shut
from pylwaftr.dhcp.retry import Watch
from tests.leasequery_peer import (
    ACTIVE,
    BULK,
    SETTLED,
    A,
    B,
    Peer,
    bulk,
    data,
    done,
    ended,
    frames_of,
    lease,
    psids,
    reply,
    server,
    started,
)
from tests.leasequery_vectors import T0
from tests.responder_pair import Pair, change, database

Frames = list[bytes]
Lie = Callable[[random.Random, Frames], bytes]


def resized(rng: random.Random, frames: Frames, by: Callable[[int], int]) -> bytes:
    """The length of one of them lies."""
    at = rng.randrange(len(frames))
    length = int.from_bytes(frames[at][:2])
    frames[at] = (by(length) & 0xFFFF).to_bytes(2) + frames[at][2:]
    return b"".join(frames)


def inside_lies(rng: random.Random, frames: Frames) -> bytes:
    """One octet of a length inside of a message, or of anything else there."""
    at = rng.randrange(len(frames))
    frame = bytearray(frames[at])
    if len(frame) > 6:
        frame[rng.randrange(6, len(frame))] ^= 1 << rng.randrange(8)
    frames[at] = bytes(frame)
    return b"".join(frames)


def garbage(rng: random.Random, frames: Frames) -> bytes:
    frames.insert(rng.randrange(len(frames) + 1), rng.randbytes(rng.randrange(1, 200)))
    return b"".join(frames)


def cut_short(rng: random.Random, frames: Frames) -> bytes:
    """It stalls in the middle of a frame."""
    octets = b"".join(frames)
    return octets[: rng.randrange(len(octets))]


def shuffled(rng: random.Random, frames: Frames) -> bytes:
    """All but the first, which opens the stream."""
    rest = frames[1:]
    rng.shuffle(rest)
    return b"".join([*frames[:1], *rest])


LIES: dict[str, Lie] = {
    "a length too long": lambda rng, frames: resized(rng, frames, lambda length: length + rng.randrange(1, 2000)),
    "a length too short": lambda rng, frames: resized(
        rng, frames, lambda length: max(4, length - rng.randrange(1, 40))
    ),
    "a length of nothing": lambda rng, frames: resized(rng, frames, lambda length: rng.randrange(4)),
    "the longest length": lambda rng, frames: resized(rng, frames, lambda length: 0xFFFF),
    "garbage between frames": garbage,
    "a stall in the middle of a frame": cut_short,
    "everything twice": lambda rng, frames: b"".join(frame * 2 for frame in frames[1:]),
    "in any order": shuffled,
}


class Liar(Pair):
    """The responder, whose octets are spoilt now and then while it is ill."""

    def __init__(self, lie: Lie, rng: random.Random) -> None:
        super().__init__(database())
        self._lie, self._rng = lie, rng
        self.ill = True

    def said(self, octets: bytes) -> bytes:
        if not self.ill or not octets or self._rng.random() < 0.5:
            return octets
        return self._lie(self._rng, frames_of(octets))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LIES)
def test_the_table_is_the_server_s_when_it_is_well_again(name: str, seed: int) -> None:
    rng = random.Random(seed)
    pair = Liar(LIES[name], rng)
    pair.db.apply([change(psid, T0) for psid in range(8)], T0)
    pair.peer.open()
    now = 0.0
    for _ in range(30):
        now += rng.choice([1, 5, 20, 70])
        for _ in range(rng.randrange(4)):
            at, psid = T0 + int(now), 8 + rng.randrange(40)
            pair.db.apply([change(psid, at, rng.choice(["ACTIVE", "RELEASED"]), rng.randrange(3))], at)
        pair.run(now, piece=rng.choice([1 << 20, 77, 1]), budget=rng.choice([1, 1000]))
        buffered = sum(len(link._in) for link in pair.peer.session()._links.values())
        assert buffered <= 2 * (2 + 0xFFFF)
    pair.ill = False
    for _ in range(60):
        now += 60
        pair.run(now)
        if pair.peer.session().current and pair.peer.table == pair.truth:
            break
    assert pair.peer.table == pair.truth
    assert pair.peer.session().current


def test_octets_that_lie_inside_of_messages_raise_nothing() -> None:
    """What they say may look true, so the table is not looked at; but the session lives, and a full bulk mends it."""
    rng = random.Random(5)
    pair = Liar(inside_lies, rng)
    pair.db.apply([change(psid, T0, "ACTIVE") for psid in range(8)], T0)
    pair.peer.open()
    now = 0.0
    for _ in range(60):
        now += rng.choice([1, 5, 70])
        pair.db.apply([change(rng.randrange(40), T0 + int(now))], T0 + int(now))
        pair.run(now)
    assert sum(count for name, count in pair.peer.session().counts.items() if name.startswith("malformed_")) > 3
    pair.ill = False
    for _ in range(20):
        pair.peer.requestor.resync(now)
        now += 60
        pair.run(now)
    assert pair.peer.table == pair.truth


def test_an_alarm_is_raised_at_the_moment_it_is_due() -> None:
    """Not a rounding later, with a timer that is due until then: since + 300 - since may be less than 300."""
    for since in (0.1, 258.2734974359021, 1e6 / 3):
        watch = Watch(Timers())
        assert not watch.see("lonely", True, since)
        due = watch.timer()
        assert due is not None
        assert watch.see("lonely", True, due)
        assert watch.timer() is None


# --- stalls -----------------------------------------------------------------------------------------------------------


def test_half_a_frame_and_then_nothing_ends_the_stream_and_keeps_the_leases() -> None:
    peer = started(SETTLED)
    peer.recv(data(A, 5, lease(1, 5)) + data(A, 6, lease(2, 6))[:100], ACTIVE, 6)
    peer.run_to(125)
    assert not peer.taken(Shut, ACTIVE)
    peer.run_to(127)
    assert (psids(peer), peer.taken(Shut, ACTIVE)) == ({1}, True)
    asked = peer.connect(ACTIVE, 200, A + 9)
    assert (T0 + 5).to_bytes(4) in asked  # so that the second is told again


def test_octets_one_at_a_time_do_not_keep_a_stalled_stream_alive() -> None:
    peer = started(SETTLED)
    for second, octet in enumerate(data(A, 6, lease(2, 6))[:130]):
        peer.run_to(second)
        peer.requestor.feed("A", ACTIVE, bytes([octet]), second)
    peer.after(130)
    assert peer.taken(Shut, ACTIVE)


def test_a_bulk_that_stalls_sweeps_nothing_and_is_done_again() -> None:
    peer = started(None, lease(1), lease(2))
    peer.resync(10)
    peer.accept(BULK, 10, B + 1, lease(1, 10), then=data(B + 1, 10, lease(3, 10))[:50])
    for at in range(60, 361, 60):
        peer.run_to(at)
        peer.recv(data(A, at), ACTIVE, at)
    assert (psids(peer), peer.session().saved.resync) == ({1, 2}, True)
    bulk(peer, 400, lease(3, 400), xid=B + 2)
    assert psids(peer) == {3}


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_the_whole_stream_once_more_changes_nothing() -> None:
    story = [lease(1, 1), lease(2, 2), ended(lease(1), 3), lease(2, 4, b4="2001:db8:9::9"), lease(1, 5, client=7)]
    octets = b"".join(data(A, 5, one) for one in story)
    peer = started(SETTLED)
    peer.recv(octets, ACTIVE, 5)
    before = dict(peer.table)
    for _ in range(3):
        peer.recv(octets, ACTIVE, 6)
        assert not len(peer.outputs[-1].changes)
    assert peer.table == before


def test_the_same_lease_a_thousand_times_is_one_change() -> None:
    peer = started(SETTLED)
    peer.recv(data(A, 5, lease(1, 5)) * 1000, ACTIVE, 5)
    assert len(peer.outputs[-1].changes.bind) == 1


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back_s", [61, 3600, 10 * 365 * 86400])
def test_a_clock_that_goes_back_in_a_stream_is_seen(back_s: int) -> None:
    """What is new would look stale, until it had caught up."""
    peer = started(SETTLED)
    peer.recv(data(A, 500, lease(1, 500), lease(2, 500)), ACTIVE, 500)
    at = 500 - back_s
    peer.recv(data(A, at, ended(lease(1), at)), ACTIVE, 501)
    assert psids(peer) == {2}
    assert peer.session().saved.resync
    assert peer.session().saved.start.unix == T0 + at  # type: ignore[union-attr]
    assert peer.session().counts["clock_went_back"] == 1
    bulk(peer, 502, replace(lease(3, at), base=T0 + at))
    assert psids(peer) == {3}
    peer.recv(data(A, at + 10, lease(4, at + 10)), ACTIVE, 510)
    assert (psids(peer), peer.session().counts["clock_went_back"]) == ({3, 4}, 1)


def test_messages_that_overtake_each_other_are_no_step_of_the_clock() -> None:
    peer = started(SETTLED)
    for at in (100, 70, 130, 71, 135):
        peer.recv(data(A, at, lease(at % 64, at)), ACTIVE, 140)
    assert (peer.session().counts["clock_went_back"], peer.session().saved.resync) == (0, False)


def test_one_time_of_the_far_future_does_not_stop_the_stream() -> None:
    peer = started(SETTLED)
    far = 0xF0000000 - T0
    peer.recv(data(A, far, lease(1, far)), ACTIVE, 10)
    peer.recv(data(A, 11, ended(lease(1), 11)) + data(A, 11, lease(2, 11)), ACTIVE, 11)
    assert psids(peer) == {2}
    assert peer.session().saved.resync  # something is wrong: all of it once more


SKEWS = [0, 30, -30, 3600, -3600, 40_000_000]


@pytest.mark.parametrize("skew_s", SKEWS)
def test_the_newer_news_of_two_servers_win_whatever_their_clocks_say(skew_s: int) -> None:
    """B's clock is ahead of A's by as much."""
    for b_is_newer in (True, False):
        peer = Peer(server("A"), server("B"), saved=SETTLED)
        peer.open()
        for name, xid, ahead in (("A", A, 0), ("B", B, skew_s)):
            peer.connect(ACTIVE, 0, xid, name)
            peer.recv(reply(xid, ahead), ACTIVE, 0, name)
            for at in range(1, 60):
                peer.recv(data(xid, at + ahead), ACTIVE, at, name)
        at = {"A": 60, "B": 80 if b_is_newer else 40}
        told = {
            "A": data(A, 90, lease(1, at["A"], b4="2001:db8:a::1")),
            "B": data(B, 90 + skew_s, lease(1, at["B"] + skew_s, b4="2001:db8:b::1")),
        }
        for name in ("B", "A") if b_is_newer else ("A", "B"):
            peer.recv(told[name], ACTIVE, 90, name)
        assert set(peer.table.values()) == {"2001:db8:b::1" if b_is_newer else "2001:db8:a::1"}
        assert "servers_disagree" in [report.name for out in peer.outputs for report in out.reports]


@pytest.mark.parametrize("skew_s", SKEWS)
def test_a_lease_lives_as_long_as_its_server_says_whatever_its_clock_does(skew_s: int) -> None:
    peer = started(SETTLED)
    peer.recv(data(A, 10 + skew_s, lease(1, 10 + skew_s, lifetime=100)), ACTIVE, 10)
    for at in range(60, 109, 10):
        peer.recv(data(A, at + skew_s), ACTIVE, at)
    if peer.session().saved.resync:  # the clock went back: overdue leases wait for the full bulk then
        peer.connect(BULK, 108, B)
        one = lease(1, 10 + skew_s, lifetime=100 - 98)
        peer.recv(reply(B, 108 + skew_s, one) + done(B), BULK, 108)
    peer.run_to(109)
    assert psids(peer) == {1}
    peer.recv(data(A, 111 + skew_s), ACTIVE, 111)
    peer.run_to(112)
    assert psids(peer) == set()
