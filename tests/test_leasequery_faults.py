"""Sessions with a leasequery server that is bad, or not who it claims to be; and streams cut at every octet."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pylwaftr.dhcp.events import Saved, Secure, Shut
from tests import leasequery_vectors as vectors
from tests.leasequery_peer import (
    ACTIVE,
    BULK,
    SETTLED,
    A,
    Peer,
    lease,
    reply,
    server,
    start,
    started,
)
from tests.leasequery_vectors import EXCHANGES, MESSAGES, T0

# --- TLS --------------------------------------------------------------------------------------------------------------

GO_AHEAD = vectors.octets(MESSAGES["V011"])


def asked_for_tls() -> Peer:
    peer = Peer(server(secure=True))
    peer.open()
    assert peer.connect(ACTIVE, 0, 0xC001) == vectors.octets(MESSAGES["V010"])
    return peer


def test_octets_in_clear_text_behind_the_answer_to_starttls_are_not_used() -> None:
    """What came in clear text must never be read as if TLS had carried it."""
    peer = asked_for_tls()
    injected = reply(A, 0, lease(1))
    peer.recv(GO_AHEAD + injected, ACTIVE, 1)
    assert (peer.taken(Shut, ACTIVE), peer.taken(Secure, ACTIVE), peer.table) == (True, False, {})
    assert peer.session().counts["broken_clear_text"] == 1


@pytest.mark.parametrize("octets", [b"\0", reply(A, 0, lease(1))], ids=["one octet", "a whole message"])
def test_octets_in_clear_text_before_tls_is_up_are_not_used(octets: bytes) -> None:
    peer = asked_for_tls()
    peer.recv(GO_AHEAD, ACTIVE, 1)
    assert peer.taken(Secure, ACTIVE)
    peer.recv(octets, ACTIVE, 2)
    assert (peer.taken(Shut, ACTIVE), peer.table) == (True, {})
    peer.requestor.secured("A", ACTIVE, 3)  # too late
    assert peer.requestor.data_to_send("A", ACTIVE) == b""


def test_after_tls_comes_the_query() -> None:
    peer = asked_for_tls()
    assert peer.recv(GO_AHEAD, ACTIVE, 1) == b""
    peer.session()._parts.xid = A - 1
    peer.requestor.secured("A", ACTIVE, 2)
    assert peer.requestor.data_to_send("A", ACTIVE) == vectors.octets(MESSAGES["V001"])


REFUSALS = [
    ("refused", lambda p: p.recv(b"\0\x0a\x07\x00\xc0\x01\0\x0d\0\x02\0\x0f", ACTIVE, 1)),
    ("closed", lambda p: p.lost(ACTIVE, 1)),
    ("silence", lambda p: p.run_to(30)),
    ("an answer to something else", lambda p: p.recv(b"\0\x04\x07\x00\xc0\x02", ACTIVE, 1)),
    ("a lease message", lambda p: p.recv(reply(0xC001, 0, lease(1)), ACTIVE, 1)),
    ("silence in the handshake", lambda p: (p.recv(GO_AHEAD, ACTIVE, 1), p.run_to(40))),
]


@pytest.mark.parametrize("what, then", REFUSALS, ids=[row[0] for row in REFUSALS])
def test_without_tls_there_is_no_query(what: str, then: Any) -> None:
    peer = asked_for_tls()
    then(peer)
    assert (peer.session().state, peer.table) == ("waiting", {})
    assert peer.connect(ACTIVE, 100, 0xC009)[2] == 23  # STARTTLS again, no query in clear text


# --- bad servers ------------------------------------------------------------------------------------------------------


def test_more_than_five_malformed_messages_in_a_minute_end_the_connection() -> None:
    peer = started(SETTLED)
    bad = vectors.octets(MESSAGES["V079"])
    for number in range(6):
        assert not peer.taken(Shut, ACTIVE), number
        peer.recv(bad, ACTIVE, 10 + number)
    assert peer.taken(Shut, ACTIVE)
    assert peer.session().saved.resync


def test_gigabytes_of_garbage_take_no_memory() -> None:
    rng = random.Random(4)
    peer = started(SETTLED)
    session = peer.session()
    for _ in range(200):
        peer.recv(rng.randbytes(65536), ACTIVE, 1)
        assert len(session._links[ACTIVE]._in) <= 65537
        if peer.taken(Shut, ACTIVE):
            peer.session()._attempts[ACTIVE]._earliest = 0
            peer.session()._attempts[ACTIVE].due = 1
            peer.connect(ACTIVE, 1, A)
            peer.recv(reply(A, 0), ACTIVE, 1)
    assert peer.table == {}


def test_a_stall_in_the_middle_of_a_frame_holds_one_frame() -> None:
    peer = started(SETTLED)
    peer.recv(b"\xff\xff\x11" + bytes(60000), ACTIVE, 1)
    assert len(peer.session()._links[ACTIVE]._in) == 60003
    peer.run_to(130)
    assert peer.taken(Shut, ACTIVE)
    assert len(peer.session()._links[ACTIVE]._in) == 0


ALL = [vectors.octets(v) for v in MESSAGES.values()]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=80), st.sampled_from(ALL)), max_size=8))
def test_no_stream_of_octets_raises(pieces: list[bytes]) -> None:
    for channel in (ACTIVE, BULK):
        peer = started(Saved(resync=True))
        peer.wanted.clear()
        peer.requestor.connected("A", BULK, 0)
        for number, piece in enumerate(pieces):
            peer.recv(piece, channel, number)
        peer.run_to(200)


# --- every cut --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["X02", "X03"])
def test_a_stream_cut_at_every_octet_resumes(name: str) -> None:
    """Wherever the connection broke, after a reconnect the table is what the server has."""
    frames = [
        bytes.fromhex(step["hex"])
        for step in EXCHANGES[name]["steps"]
        if step["event"] == "recv" and step["conn"] in ("a1", "a3")
    ]
    stream = b"".join(frames)
    xid = int.from_bytes(frames[0][3:6])
    saved = Saved(start(T0 - 90000) if name == "X03" else None, resync=False)
    whole: Any = None
    for cut in range(len(stream), -1, -1):
        peer = Peer(saved=saved)
        peer.open()
        peer.connect(ACTIVE, 0, xid)
        peer.recv(stream[:cut], ACTIVE, 1)
        known = peer.session().saved.start
        peer.lost(ACTIVE, 95)
        peer.run_to(400)
        sent = peer.connect(ACTIVE, 400, xid)
        if known is None:
            assert b"\x00\x65\x00\x04" not in sent
        else:
            assert b"\x00\x65\x00\x04" + known.outer.to_bytes(4) in sent
        peer.recv(stream, ACTIVE, 400)  # the server repeats from the start time on
        whole = whole or peer.table
        assert peer.table == whole, cut
