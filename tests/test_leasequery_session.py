"""Sessions with a leasequery server: what each event leads to, the traps by name."""

from __future__ import annotations

from ipaddress import IPv6Address
from itertools import pairwise
from typing import Any

import pytest

from pylwaftr.dhcp.events import Open, Saved, Shut
from tests.leasequery_peer import (
    ACTIVE,
    BULK,
    CATCH_UP_COMPLETE,
    DATA_MISSING,
    MALFORMED,
    NOT_ALLOWED,
    NOT_SUPPORTED,
    SERVER_DUID,
    SETTLED,
    TERMINATED,
    A,
    B,
    Peer,
    amid_a_bulk,
    asking,
    bulk,
    data,
    done,
    ended,
    lease,
    psids,
    reply,
    start,
    started,
)
from tests.leasequery_vectors import T0

# --- cold start, reconnect --------------------------------------------------------------------------------------------


def test_a_cold_start_is_the_stream_first_and_then_a_full_bulk() -> None:
    peer = Peer()
    peer.open()
    assert b"\x00\x65\x00\x04" not in peer.connect(ACTIVE, 0, A)  # no start time
    assert not peer.taken(Open, BULK)
    peer.recv(reply(A, 0), ACTIVE, 0)
    bulk(peer, 0.1, lease(1), lease(2))
    assert psids(peer) == {1, 2}
    assert peer.taken(Shut, BULK)
    assert not peer.session().saved.resync


def test_a_change_during_the_bulk_is_not_undone_by_it() -> None:
    peer = asking()
    peer.connect(BULK, 0, B)
    peer.recv(data(A, 5, ended(lease(1), 5)) + data(A, 5, lease(3, 5)), ACTIVE, 5)
    peer.recv(reply(B, 0, lease(1)) + data(B, 0, lease(2)) + done(B), BULK, 6)
    assert psids(peer) == {2, 3}


def test_an_empty_reply_ends_a_bulk_but_opens_an_active_query() -> None:
    peer = started(SETTLED)
    assert peer.session().state == "live"
    peer.resync(1)
    peer.accept(BULK, 1, B)
    assert peer.session().counts["bulks_complete"] == 1
    assert peer.session().state == "live"


def test_the_start_time_is_frozen_during_catch_up_and_moves_with_keepalives_after() -> None:
    peer = Peer(saved=Saved(start(T0 - 50), resync=False))
    peer.open()
    assert (T0 - 50).to_bytes(4) in peer.connect(ACTIVE, 0, A)
    begun = peer.session().saved.start
    for octets in (reply(A, 1), data(A, 2, lease(1, 2)), data(A, 3)):
        peer.recv(octets, ACTIVE, 3)
        assert (peer.session().state, peer.session().saved.start) == ("catching up", begun)
    peer.recv(data(A, 4, status=CATCH_UP_COMPLETE), ACTIVE, 4)
    assert (peer.session().state, peer.session().saved.start) == ("live", start(T0 + 4))
    peer.recv(data(A, 60), ACTIVE, 60)
    assert peer.session().saved.start == start(T0 + 60)
    peer.recv(data(A, 30, lease(2, 30)), ACTIVE, 61)  # an older base-time does not take it back
    assert peer.session().saved.start == start(T0 + 60)


def test_many_data_at_once_move_the_start_time_as_one_by_one() -> None:
    octets = [data(A, at, lease(at, at)) for at in (5, 9, 7)]
    for pieces in (octets, [b"".join(octets)]):
        peer = started(SETTLED)
        for piece in pieces:
            peer.recv(piece, ACTIVE, 10)
        assert peer.session().saved.start == start(T0 + 9)
        assert psids(peer) == {5, 7, 9}


def test_a_connection_lost_in_catch_up_starts_again_from_the_same_time() -> None:
    peer = asking(Saved(start(T0 - 50), resync=False))
    peer.recv(data(A, 2, lease(1, 2)), ACTIVE, 3)
    peer.lost(ACTIVE, 4)
    peer.run_to(70)
    assert (T0 - 50).to_bytes(4) in peer.connect(ACTIVE, 70, A + 1)


@pytest.mark.parametrize("restart", [False, True], ids=["reconnect", "restart"])
@pytest.mark.parametrize("in_reply", [False, True], ids=["in DATA", "in REPLY"])
def test_after_data_missing_the_need_of_a_full_bulk_survives(restart: bool, in_reply: bool) -> None:
    """Only a full mark and sweep shows what vanished; a reconnect with the new start time would hide the gap."""
    peer = asking(Saved(start(T0 - 50), resync=False), status=DATA_MISSING if in_reply else None)
    if not in_reply:
        peer.recv(data(A, 0, status=DATA_MISSING), ACTIVE, 0)
    assert (peer.session().state, peer.session().saved.resync) == ("live", True)
    peer.lost(BULK, 1)
    peer.lost(ACTIVE, 1)
    if restart:
        peer = Peer(restored=peer.saved)
        peer.open(2)
    peer.run_to(100)
    assert (T0).to_bytes(4) in peer.accept(ACTIVE, 100, A)
    peer.recv(data(A, 100, status=CATCH_UP_COMPLETE), ACTIVE, 100)
    peer.run_to(101)
    bulk(peer, 101, lease(1, 100), lease(2, 100))
    assert not peer.session().saved.resync
    assert Saved.of(peer.saved["A"]).resync is False


def test_data_missing_during_a_bulk_asks_for_another_one() -> None:
    peer = amid_a_bulk(lease(1, 10))
    peer.recv(data(A, 11, status=DATA_MISSING), ACTIVE, 11)
    peer.recv(done(B + 1), BULK, 12)
    assert (psids(peer), peer.session().saved.resync) == ({1, 2}, True)


SAVED = [b"", b"{}", b"null", b'{"start":[1,-1],"resync":false,"skew_s":0,"server":""}', b"\xff\xfe", b"[1]"]


@pytest.mark.parametrize("octets", SAVED)
def test_a_damaged_saved_state_means_a_full_bulk(octets: bytes) -> None:
    assert Saved.of(octets) == Saved(None, resync=True)


def test_the_saved_state_both_ways() -> None:
    saved = Saved(start(T0), False, -3.5, b"\0\1ab")
    assert Saved.of(saved.octets()) == saved


# --- sweeps -----------------------------------------------------------------------------------------------------------

NO_SWEEP = [
    ("DONE with an error", lambda p: p.recv(done(B + 1, TERMINATED), BULK, 12)),
    ("the connection is lost before DONE", lambda p: p.lost(BULK, 12)),
    ("silence before DONE", lambda p: p.run_to(400)),
    (
        "a message of the bulk is malformed",
        lambda p: p.recv(b"\0\x05\x11" + (B + 1).to_bytes(3) + b"\0" + done(B + 1), BULK, 12),
    ),
    ("the stream goes down meanwhile", lambda p: (p.lost(ACTIVE, 11), p.recv(done(B + 1), BULK, 12))),
    (
        "an option that TCP forbids",
        lambda p: p.recv(b"\0\x18\x11" + (B + 1).to_bytes(3) + b"\0\x30\0\x10" + bytes(16) + done(B + 1), BULK, 12),
    ),
]


@pytest.mark.parametrize("what, then", NO_SWEEP, ids=[row[0] for row in NO_SWEEP])
def test_nothing_is_swept_after(what: str, then: Any) -> None:
    peer = amid_a_bulk(lease(1, 10))
    for at in range(60, 360, 60):
        if "silence" in what:
            peer.recv(data(A, at), ACTIVE, at)
    then(peer)
    assert {1, 2} <= psids(peer)
    assert peer.session().saved.resync


def test_a_full_bulk_that_ends_well_sweeps() -> None:
    peer = started(None, lease(1), lease(2))
    peer.resync(10)
    bulk(peer, 10, lease(2, 10), lease(3, 10), xid=B + 1)
    assert psids(peer) == {2, 3}


LINKS = (IPv6Address("2001:db8:1::"), IPv6Address("2001:db8:2::"))


@pytest.mark.parametrize("status", [MALFORMED, 9, None], ids=["MalformedQuery", "NotConfigured", "empty success"])
def test_no_all_query_in_dhcpv6_so_per_link(status: int | None) -> None:
    peer = asking(links=LINKS)
    first = peer.connect(BULK, 0, B)
    assert b"\x04" + bytes(16) in first
    second = peer.recv(reply(B, 0, status=status), BULK, 0)
    assert b"\x04" + LINKS[0].packed in second
    third = peer.recv(reply(B + 1, 0, lease(1)) + done(B + 1), BULK, 0)
    assert b"\x04" + LINKS[1].packed in third
    assert peer.session().saved.resync
    peer.recv(reply(B + 2, 0), BULK, 0)
    assert (psids(peer), peer.session().saved.resync) == ({1}, False)
    peer.resync(70)
    assert b"\x04" + LINKS[0].packed in peer.connect(BULK, 70, B + 9)  # it is known now


def test_an_empty_answer_to_everything_means_no_leases_if_no_links_are_configured() -> None:
    peer = started(None, lease(1))
    peer.resync(10)
    peer.accept(BULK, 10, B + 1)
    assert peer.table == {}


# --- attempts, silence ------------------------------------------------------------------------------------------------


def test_at_most_one_attempt_a_minute_and_never_exactly_together() -> None:
    peer = Peer()
    peer.open()
    times = []
    for _ in range(30):
        if not peer.taken(Open, ACTIVE):
            due = peer.requestor.timer()
            assert due is not None
            peer.tick(due)
            continue
        times.append(peer.now)
        peer.lost(ACTIVE, peer.now)
    gaps = [b - a for a, b in pairwise(times)]
    assert len(gaps) > 5
    assert min(gaps) >= 60
    assert max(gaps) <= 306
    assert len({round(gap, 3) for gap in gaps}) == len(gaps)


def test_120_seconds_without_a_whole_message_end_the_connection() -> None:
    peer = started(SETTLED)
    for at in (50, 100, 119):
        peer.recv(b"\0", ACTIVE, at) if at == 50 else peer.recv(b"\x30", ACTIVE, at)  # parts of a frame are nothing
        assert not peer.taken(Shut, ACTIVE)
    peer.tick(120)
    assert peer.taken(Shut, ACTIVE)


@pytest.mark.parametrize(
    "status, state, again_s",
    [
        (NOT_SUPPORTED, "polling", 3600),
        (NOT_ALLOWED, "waiting", 600),
        (MALFORMED, "polling", 3600),
        (TERMINATED, "waiting", 60),
    ],
    ids=["NotSupported", "NotAllowed", "MalformedQuery", "QueryTerminated"],
)
def test_a_refused_active_query(status: int, state: str, again_s: float) -> None:
    peer = asking(status=status)
    assert (peer.session().state, peer.taken(Shut, ACTIVE)) == (state, True)
    due = peer.session()._attempts[ACTIVE].due
    assert due is not None
    assert again_s <= due <= again_s + 6


def test_a_server_without_active_leasequery_is_polled() -> None:
    peer = asking(status=NOT_SUPPORTED)
    bulk(peer, 0, lease(1), lease(2))
    assert psids(peer) == {1, 2}
    peer.run_to(310)
    bulk(peer, 310, lease(2, 310), xid=B + 1)
    assert psids(peer) == {2}


def test_silence_three_times_in_a_row_means_bulk_only() -> None:
    peer = Peer()
    peer.open()
    for number in range(3):
        assert peer.session().state != "polling"
        while not peer.taken(Open, ACTIVE):
            peer.tick(peer.requestor.timer() or 0)
        peer.requestor.connected("A", ACTIVE, peer.now)
        peer.after(peer.now)
        peer.wanted.clear()
        peer.run_to(peer.now + 121)
        assert peer.session()._polling.silent == number + 1
    assert peer.session().state == "polling"


# --- another server, another clock ------------------------------------------------------------------------------------


def test_a_base_time_before_the_saved_one_means_a_full_bulk() -> None:
    peer = asking(Saved(start(T0 + 500), resync=False, server=SERVER_DUID))
    assert (peer.session().saved.resync, peer.session().saved.start) == (True, start(T0))


def test_another_serverid_means_a_full_bulk() -> None:
    peer = asking(Saved(start(T0 - 5), resync=False, server=b"\0\1other"))
    assert (peer.session().saved.resync, peer.session().saved.server) == (True, SERVER_DUID)


def test_the_skew_of_a_server_is_known() -> None:
    peer = started(SETTLED)
    for at in range(1, 40):
        peer.recv(data(A, at + 100), ACTIVE, at)
    assert 90 < peer.session().saved.skew_s < 101


# --- single queries ---------------------------------------------------------------------------------------------------

B4 = IPv6Address("2001:db8:100:1::1")


def test_a_miss_asks_once_and_the_lease_is_bound() -> None:
    peer = started(None)
    peer.wanted.clear()
    assert peer.requestor.query(B4, 100)
    peer.after(100)
    assert b"\x01" + bytes(16) + b"\0\5\0\x18" + B4.packed in peer.connect(BULK, 100, B + 1)
    assert peer.requestor.query(B4, 100.1)  # pending, not asked again
    peer.recv(reply(B + 1, 100, lease(1, 100)) + done(B + 1), BULK, 100.2)
    assert (psids(peer), peer.outputs[-1].answered) == ({1}, [(B4, True)])
    assert not peer.requestor.query(B4, 100.3)
    other = IPv6Address("2001:db8::7")
    assert peer.requestor.query(other, 101)  # the connection still stands
    peer.after(101)
    assert other.packed in peer.requestor.data_to_send("A", BULK)
    peer.recv(reply(B + 2, 101), BULK, 101.1)
    assert peer.outputs[-1].answered == [(other, False)]
    peer.run_to(115)
    assert peer.taken(Shut, BULK)


def test_a_server_that_closes_what_is_idle_is_asked_again_at_once() -> None:
    """That is no failure: the next packet without a binding does not wait a minute for its question."""
    peer = started(None)
    peer.wanted.clear()
    for number in range(3):
        b4, now = IPv6Address(f"2001:db8::{number + 1:x}"), 100.0 + number
        assert peer.requestor.query(b4, now)
        peer.after(now)
        assert b4.packed in peer.accept(BULK, now, B + number)
        assert peer.outputs[-1].answered == [(b4, False)]
        peer.lost(BULK, now + 0.1)
    assert (peer.session().counts["connections_lost"], peer.session().progress.fault) == (0, None)
    peer.resync(104)
    bulk(peer, 104, lease(1, 104), xid=B + 9)
    assert psids(peer) == {1}


def test_a_packet_waits_for_an_answer_for_a_second_at_most() -> None:
    peer = started(None)
    assert peer.requestor.query(B4, 100)
    peer.after(100)
    peer.tick(101)
    assert peer.outputs[-1].answered == [(B4, False)]
    assert not peer.requestor.query(B4, 102)


def test_the_table_stays_when_the_server_is_gone_and_the_grace_ends_it() -> None:
    peer = started(None, lease(1, lifetime=600), lease(2, lifetime=600), hold_s=1000)
    peer.lost(ACTIVE, 10)
    peer.wanted.clear()
    peer.requestor.sessions["A"]._attempts[ACTIVE].due = None  # it never comes back
    peer.run_to(1595)
    assert psids(peer) == {1, 2}
    peer.run_to(1610)
    assert psids(peer) == set()
