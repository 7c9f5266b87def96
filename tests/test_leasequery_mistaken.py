"""Servers that mistake one message for another, and say too much or too little with it."""

from __future__ import annotations

from tests.leasequery_peer import (
    ACTIVE,
    BULK,
    SETTLED,
    A,
    B,
    Peer,
    bulk,
    data,
    ended,
    lease,
    psids,
    reply,
    started,
)
from tests.leasequery_vectors import T0

DATA, DONE = 17, 16


def swapped(octets: bytes) -> bytes:
    """One frame with DATA's number for DONE's, or the other way round."""
    return octets[:2] + bytes([DATA + DONE - octets[2]]) + octets[3:]


def reports(peer: Peer) -> list[str]:
    return [report.text for out in peer.outputs for report in out.reports if report.name == "bulk_incomplete"]


def test_a_bulk_whose_data_is_numbered_done_ends_no_lease() -> None:
    """It would seem complete after its second lease."""
    peer = started(None, *(lease(psid) for psid in range(1, 6)))
    peer.requestor.resync(10)
    peer.after(10)
    peer.connect(BULK, 10, B + 1)
    peer.recv(reply(B + 1, 10, lease(1, 10)) + swapped(data(B + 1, 10, lease(7, 10))), BULK, 10)
    assert psids(peer) == {1, 2, 3, 4, 5, 7}
    assert peer.session().saved.resync
    assert "LEASEQUERY-DONE (16)" in reports(peer)[0]
    bulk(peer, 80, lease(7, 80), xid=B + 2)
    assert psids(peer) == {7}


def test_news_in_the_last_message_of_a_stream_are_not_lost() -> None:
    peer = started(SETTLED, hold_s=1000)
    peer.recv(data(A, 5, lease(1, 5), lease(2, 5)), ACTIVE, 5)
    peer.recv(swapped(data(A, 90, ended(lease(1), 90))), ACTIVE, 90)
    assert psids(peer) == {2}
    assert (peer.session().state, peer.session().saved.resync) == ("waiting", True)
    assert peer.session().saved.start.unix == T0 + 5  # type: ignore[union-attr]
