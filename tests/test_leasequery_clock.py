"""Base-times that cannot be: of the far future, in one message, one of its layers, a whole bulk; clocks set right.

What is told later counts, whatever time it bears, and somebody is told why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pylwaftr.dhcp import codec6
from pylwaftr.dhcp.clock import Clock
from pylwaftr.dhcp.codec_lease import Has, Lease
from pylwaftr.dhcp.leases import Leases, Policy
from tests.lease_table import Table
from tests.leasequery_peer import (
    ACTIVE,
    BR,
    BULK,
    SETTLED,
    A,
    B,
    Peer,
    data,
    done,
    ended,
    lease,
    psids,
    reply,
    rows,
    server,
    start,
    started,
    told,
)
from tests.leasequery_vectors import DUID, T0

HOUR, YEARS, LAST = 3600, 10 * 365 * 86400, 0xFFFFFFFF - T0
AHEAD = [61, 300, HOUR, YEARS, LAST]
Tell = Callable[[Peer, float], None]


def full(peer: Peer, now: float, *leases: Lease, xid: int, at: float | None = None) -> None:
    """A whole bulk, written at `at`."""
    at = now if at is None else at
    peer.requestor.resync(now)
    peer.after(now)
    peer.connect(BULK, now, xid)
    peer.recv(reply(xid, at, *leases[:1]), BULK, now)
    peer.recv(b"".join(data(xid, at, one) for one in leases[1:]) + done(xid), BULK, now)


def reports(peer: Peer) -> set[str]:
    return {report.name for out in peer.outputs for report in out.reports}


# --- one time among many that are right -------------------------------------------------------------------------------


def by_bulk(peer: Peer, *octets: bytes) -> None:
    peer.requestor.resync(10)
    peer.after(10)
    peer.connect(BULK, 10, B + 1)
    peer.recv(b"".join([reply(B + 1, 10, lease(2, 10)), *octets, done(B + 1)]), BULK, 10)


def by_stream(peer: Peer, *octets: bytes) -> None:
    peer.recv(b"".join(octets), ACTIVE, 10)


TOLD: dict[str, Tell] = {  # lease 1, with a time so far ahead, at 10 seconds
    "a bulk, in both layers": lambda peer, far: by_bulk(peer, data(B + 1, 10 + far, lease(1, 10 + far))),
    "a bulk, in the lease alone": lambda peer, far: by_bulk(peer, data(B + 1, 10, lease(1, 10 + far))),
    "the stream, in the lease alone": lambda peer, far: by_stream(peer, data(A, 10, lease(1, 10 + far))),
    "the stream, between others": lambda peer, far: by_stream(
        peer, data(A, 10, lease(3, 10)), data(A, 10, lease(1, 10 + far)), data(A, 10, lease(4, 10))
    ),
}


@pytest.mark.parametrize("far", AHEAD)
@pytest.mark.parametrize("how", TOLD)
def test_news_of_a_lease_whose_time_lay_ahead_count(how: str, far: int) -> None:
    peer = started(SETTLED)
    TOLD[how](peer, min(far, LAST - 10))
    assert 1 in psids(peer)
    assert "base_time_ahead" in reports(peer)
    assert peer.session().counts["clock_ahead"] == 1
    peer.recv(data(A, 20, ended(lease(1), 20)), ACTIVE, 20)
    assert 1 not in psids(peer)
    peer.recv(data(A, 30, lease(1, 30, b4="2001:db8:9::9")), ACTIVE, 30)
    assert peer.table["198.51.100.10", 0, 6, 1] == "2001:db8:9::9"


def test_the_server_s_word_of_then_does_not_beat_its_partner_s_of_now() -> None:
    peer = Peer(server("A"), server("B"), saved=SETTLED)
    peer.open()
    for name, xid in (("A", A), ("B", B)):
        peer.connect(ACTIVE, 0, xid, name)
        peer.recv(reply(xid, 0), ACTIVE, 0, name)
    peer.recv(data(A, 10, lease(1, 10 + HOUR, b4="2001:db8:a::1")), ACTIVE, 10, "A")
    peer.recv(data(B, 20, lease(1, 20, b4="2001:db8:b::1")), ACTIVE, 20, "B")
    assert set(peer.table.values()) == {"2001:db8:b::1"}


def test_it_is_told_once_of_a_connection() -> None:
    peer = started(SETTLED)
    for at in range(10, 20):
        peer.recv(data(A, at, lease(at, at + HOUR)), ACTIVE, at)
    names = [report.name for out in peer.outputs for report in out.reports]
    assert (names.count("base_time_ahead"), peer.session().counts["clock_ahead"]) == (1, 10)
    assert "ahead of the server's clock" in peer.session().progress.fault.text  # type: ignore[union-attr]


def test_a_server_whose_leases_are_always_ahead_is_no_reason_to_ask_for_ever() -> None:
    """Its DHCPv4 part has another time zone, say; nothing of what it says is lost by that."""
    peer = started(SETTLED)
    full(peer, 10, lease(1, 10 + HOUR), lease(2, 10 + HOUR), xid=B + 1)
    assert not peer.session().saved.resync
    peer.recv(data(A, 20, ended(lease(1), 20 + HOUR)), ACTIVE, 20)
    assert psids(peer) == {2}
    full(peer, 30, lease(3, 30 + HOUR), xid=B + 2)
    assert (psids(peer), peer.session().saved.resync) == ({3}, False)


# --- nothing before it to compare with --------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [HOUR, YEARS])
def test_a_stream_that_begins_ahead_is_seen_by_its_next_message(far: int) -> None:
    peer = Peer(saved=SETTLED)
    peer.open()
    peer.connect(ACTIVE, 0, A)
    peer.recv(reply(A, far, lease(1, far)), ACTIVE, 0)
    peer.recv(data(A, 10, ended(lease(1), 10)), ACTIVE, 10)
    assert psids(peer) == set()
    assert "rebased" in reports(peer)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("far", [1000, HOUR, YEARS])
def test_a_whole_bulk_ahead_is_outdone_by_what_comes_later(far: int, compiled: bool) -> None:
    """A server that is polled, and whose clock was set right between two bulks: no stream tells of it."""
    leases = Leases([Policy("A")], BR.packed, compiled=compiled)
    leases.heard("A", rows(lease(1, far), lease(2, far)), 0, bulk=True)
    out = leases.heard("A", rows(ended(lease(1), 300), lease(2, 300, b4="2001:db8:9::9")), 300, bulk=True)
    assert leases.bindings()["psid"].tolist() == [2]
    assert [report.name for report in out.reports] == ["base_time_back"]
    assert out.resync == {"A"}
    assert leases.counts["lay_ahead"] == 2


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("told, left", [(ended(lease(1), 1000), []), (lease(1, 1000, b4="2001:db8:9::9"), [1])])
def test_a_bulk_that_takes_long_does_not_undo_what_the_stream_told_meanwhile(
    told: Lease, left: list[int], compiled: bool
) -> None:
    """It was written as a whole when it began."""
    leases = Leases([Policy("A")], BR.packed, compiled=compiled)
    leases.heard("A", rows(lease(1)), 0)
    leases.bulk_begins("A")
    leases.heard("A", rows(told), 1000)
    before = leases.bindings().tobytes()
    out = leases.heard("A", rows(lease(1, 100)), 1100, bulk=True)
    assert (leases.bindings()["psid"].tolist(), leases.bindings().tobytes()) == (left, before)
    assert (out.reports, out.resync) == ([], set())
    leases.bulk_ends("A")
    assert leases.bindings().tobytes() == before


def test_a_message_that_is_late_is_no_proof_of_that() -> None:
    """A bulk has a backlog."""
    table = Table(Policy("A"))
    table.hear(("A", lease(1, 500)))
    table.heed(table.leases.heard("A", rows(ended(lease(1), 10)), 500, bulk=True))
    assert (set(table.psids), table.resync) == ({1}, set())


def test_a_polled_server_whose_clock_was_wrong_is_believed_in_the_end() -> None:
    peer = Peer(server("A"), saved=SETTLED)
    peer.open()
    peer.connect(ACTIVE, 0, A)
    peer.recv(reply(A, YEARS, status=14), ACTIVE, 0)  # NotSupported
    peer.connect(BULK, 1, B)
    peer.recv(reply(B, YEARS, lease(1, YEARS)) + data(B, YEARS, lease(2, YEARS)) + done(B), BULK, 1)
    assert psids(peer) == {1, 2}
    full(peer, 400, lease(2, 400, b4="2001:db8:9::9"), ended(lease(1), 400), xid=B + 1)
    assert peer.table == {("198.51.100.10", 0, 6, 2): "2001:db8:9::9"}


# --- a start time ahead -----------------------------------------------------------------------------------------------


def test_a_start_time_ahead_is_found_out_also_by_a_later_message() -> None:
    """The REPLY has no base-time; and nothing was told in catch-up, for nothing was that new."""
    peer = Peer(saved=replace(SETTLED, start=start(T0 + HOUR)))
    peer.open()
    peer.connect(ACTIVE, 0, A)
    peer.recv(codec6.frame(codec6.encode(codec6.Message6(15, A, ((2, b"\0\2server"), (1, DUID))))), ACTIVE, 0)
    peer.recv(data(A, 0, status=13), ACTIVE, 0)
    assert peer.session().saved.resync
    assert "rebased" in reports(peer)


# --- the clock itself -------------------------------------------------------------------------------------------------


def test_a_step_of_our_clock_does_not_reorder_a_server_without_base_times() -> None:
    peer = Peer(server("A"), saved=SETTLED)
    shown = [peer.session()._clock.shows(now, T0 - step) for now, step in ((0, 0), (10, 0), (20, HOUR), (30, -HOUR))]
    assert shown == [T0, T0 + 10, T0 + 20, T0 + 30]


def test_a_message_without_base_time_bears_that_of_the_server_s_clock() -> None:
    clock = Clock()
    clock.see(T0 + HOUR, 0, stream=True)
    assert clock.shows(10, T0) == T0 + HOUR + 10


def test_one_message_of_a_bulk_does_not_move_the_clock_and_two_do() -> None:
    clock = Clock()
    for base, ahead in ((0, 0), (HOUR, 0), (8, 1), (HOUR, 1), (HOUR + 1, HOUR + 1)):
        clock.see(base, 0, stream=False)
        assert clock.ahead == ahead


def test_the_other_times_are_as_far_back_as_they_were() -> None:
    clock = Clock()
    clock.see(T0, 0, stream=True)
    far = replace(lease(1, HOUR), cltt=T0 + HOUR - 7, since=T0 + HOUR - 9)
    tamed, ahead_s = clock.tamed(rows(lease(2), far), 0)
    assert ahead_s == HOUR
    assert [tamed[name].tolist() for name in ("base", "cltt", "since")] == [[T0] * 2, [T0, T0 - 7], [T0, T0 - 9]]
    assert (tamed["has"] & Has.LIFETIME).all()


def test_a_session_that_is_begun_anew_knows_nothing_of_times() -> None:
    peer = started(None, lease(1, 100))
    told_before = told(peer.requestor.leases, "A")["base"].max()
    peer.requestor.reconfigure([server("A", links=())], ("A",), 200)
    peer.after(200)
    assert told_before > T0
    assert told(peer.requestor.leases, "A")["base"].max() == 0
    assert psids(peer) == {1}
