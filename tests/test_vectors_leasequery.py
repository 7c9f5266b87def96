"""The leasequery vectors by name: what a session does on each message, and whole exchanges."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import numpy as np
import pytest

from pylwaftr.dhcp import codec_lease
from pylwaftr.dhcp.events import Channel, Leases, Saved, Secure, Shut
from pylwaftr.dhcp.standing import QUARANTINE
from tests import leasequery_vectors as vectors
from tests.leasequery_peer import (
    ACTIVE,
    BULK,
    CATCH_UP_COMPLETE,
    Peer,
    data,
    lease,
    reply,
    rows,
    server,
    start,
    table_of,
    told,
)
from tests.leasequery_vectors import EXCHANGES, MESSAGES, T0

ANSWERS = [v for v in MESSAGES.values() if v["dir"] == "s2c" and v["transport"] != "udp6" and v["context"] != "request"]
BEFORE = start(T0 - 1000)


def prepared(vector: dict[str, Any]) -> tuple[Peer, Channel]:
    """A session in the state for which the vector is meant, with nothing to resync."""
    context, native = vector["context"], vector["transport"] == "tcp4"
    octets = vectors.octets(vector)
    xid = int.from_bytes(octets[6:10]) if native else int.from_bytes(octets[3:6])
    catching_up = vector["expect"] in ("catchup-complete", "data-missing") or "catch" in vector["name"].lower()
    xid = 0xA001 if vector["id"] in ("V108", "V109", "V112") else xid
    saved = Saved(None if native and vector["expect"] == "keepalive" else BEFORE, resync=False)
    peer = Peer(server(profile="N" if native else "W", secure=context == "starttls"), saved=saved)
    peer.open()
    first_reply = octets[2:3] == b"\x0f" and not native and vector["id"] != "V113"
    if context == "starttls":
        peer.connect(ACTIVE, 0, xid)
        return peer, ACTIVE
    if context == "bulk":
        if native:
            peer.connect(ACTIVE, 0)
            peer.run_to(5.0)
            peer.requestor.sessions["A"]._active.accept()
        else:
            peer.live()
        peer.requestor.resync(10.0)
        peer.after(10.0)
        peer.connect(BULK, 10.0, xid)
        if not native and not first_reply:
            peer.recv(first_of_bulk(xid), BULK, 10.0)
        return peer, BULK
    peer.connect(ACTIVE, 0, xid)
    if context == "active" and not first_reply and not native:
        peer.recv(reply(xid, 0), ACTIVE, 0)
        if not catching_up:
            peer.recv(data(xid, 0, status=CATCH_UP_COMPLETE), ACTIVE, 0)
    return peer, ACTIVE


def first_of_bulk(xid: int) -> bytes:
    """V014, which opens a bulk, with another transaction-id."""
    octets = vectors.octets(MESSAGES["V014"])
    return octets[:3] + xid.to_bytes(3) + octets[6:]


@pytest.mark.parametrize("vector", ANSWERS, ids=lambda v: v["id"])
def test_an_answer(vector: dict[str, Any]) -> None:
    peer, channel = prepared(vector)
    session, table = peer.session(), dict(peer.table)
    counts, saved = session.counts.copy(), session.saved
    octets = vectors.octets(vector)
    if vector["expect"] == "discard-partial":
        peer.recv(octets, channel, 20)
        peer.lost(channel, 20)
        assert session.counts["unfinished_frames"] == 1
        assert peer.table == table
        return
    peer.recv(octets, channel, 20)
    shut = peer.taken(Shut, channel)
    moved = session.counts - counts
    EXPECTED[vector["expect"]](vector, peer, shut, moved, saved)
    if vector["expect"] not in ("accept", "accept-warn"):
        assert peer.table == table


def accepted(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert not shut
    assert not peer.session().saved.resync or "lease-time" in vector["name"]
    if vector.get("record"):
        record = vector["record"]
        (row,) = [r for r in told(peer.requestor.leases, "A") if r["psid"] == record["psid"]]
        found = vectors.record_of(codec_lease.of_row(row))
        assert {k: found[k] for k in record} == record
        key = (record["ipv4"], record["psid_offset"], record["psid_len"], record["psid"])
        assert peer.table.get(key) == (record["b4"] if record["state"] == "ACTIVE" else None)


def warned(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    accepted(vector, peer, shut, moved, saved)
    assert [name for name in moved if name.startswith("warn_")]


def kept_alive(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert (shut, moved["keepalives"]) == (False, 1)
    assert peer.session().saved.start != saved.start


def dropped(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert not shut
    assert any(name.startswith(("malformed_", "bulk_rubbish")) for name in moved)
    assert peer.session().saved.resync is (vector["expect"] == "drop-resync" or vector["context"] == "bulk")


def quarantined(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert not shut
    assert np.isin(peer.requestor.leases.standings("A"), QUARANTINE).sum() == 1


def ambiguous(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert not shut


def closed(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert shut
    bulk = vector["context"] == "bulk"
    assert (peer.session().bulk_state if bulk else peer.session().state) in ("waiting", "polling", "idle")


def ended_catch_up(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert not shut
    assert peer.session().state == "live"
    assert peer.session().saved.start != BEFORE
    assert peer.session().saved.resync is (vector["expect"] == "data-missing")


def bulk_complete(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert shut
    assert moved["bulks_complete"] == 1
    assert not peer.session().saved.resync


def bulk_incomplete(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert shut
    assert (moved["bulks_complete"], moved["bulks_incomplete"]) == (0, 1)
    assert peer.session().saved.resync


def terminated(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert shut
    assert moved["refused_query_terminated"] == 1


def handshakes(vector: dict[str, Any], peer: Peer, shut: bool, moved: Any, saved: Saved) -> None:
    assert not shut
    assert peer.taken(Secure, ACTIVE)


EXPECTED = {
    "accept": accepted,
    "accept-warn": warned,
    "accept-if-enabled": accepted,
    "keepalive": kept_alive,
    "drop": dropped,
    "drop-resync": dropped,
    "quarantine": quarantined,
    "ambiguous": ambiguous,
    "close": closed,
    "query-failed": closed,
    "catchup-complete": ended_catch_up,
    "data-missing": ended_catch_up,
    "bulk-complete": bulk_complete,
    "bulk-incomplete": bulk_incomplete,
    "done-terminated": terminated,
    "done-success": closed,
    "start-tls-handshake": handshakes,
}


# --- exchanges --------------------------------------------------------------------------------------------------------


class Player:
    """Plays the steps of an exchange; `cut` sends what the server says in pieces."""

    def __init__(self, exchange: dict[str, Any], piece: int = 1 << 20) -> None:
        self.steps, self.piece = exchange["steps"], piece
        names = sorted({step["conn"] for step in self.steps if step["conn"] in "AB"}) or ["A"]
        first = self.steps[0].get("before", {})
        self.start = start(first["saved_start_unix"]) if "saved_start_unix" in first else None
        bulk_only = all(step["conn"].startswith("b") for step in self.steps)
        secure = exchange["id"] in ("X07", "X08")
        saved = Saved(self.start, resync=bulk_only)
        self.peer = Peer(*(server(name, secure=secure) for name in names), saved=saved)
        self.bulk_only = bulk_only
        for entry in first.get("table", []):
            self._know(entry)

    def _know(self, entry: dict[str, Any]) -> None:
        """A lease of long ago."""
        old = lease(entry["psid"], -90000, entry["ipv4"], entry["b4"], lifetime=200000)
        self.peer.requestor._heed_outcome(self.peer.requestor.leases.heard("A", rows(old), 0.0), 0.0)
        self.peer.after(0.0)

    def channel(self, conn: str) -> Channel:
        return BULK if conn.startswith("b") else ACTIVE

    def play(self) -> Peer:
        peer = self.peer
        peer.open()
        if self.bulk_only:
            peer.live()
        for number, step in enumerate(self.steps):
            self._step(step, self.steps[number + 1 :])
            self._check(step)
        return peer

    def _step(self, step: dict[str, Any], rest: list[dict[str, Any]]) -> None:
        peer, conn, now = self.peer, step["conn"], step["t"]
        name, channel = conn if conn in "AB" else "A", self.channel(conn)
        xid = next((int(s["hex"][6:12], 16) for s in rest if s["conn"] == conn and s["event"] == "send"), None)
        match step["event"]:
            case "connect":
                self.sent = peer.connect(channel, now, xid, name)
            case "send":
                self.sent = self.sent or peer.requestor.data_to_send(name, channel)
                assert self.sent.hex() == step["hex"]
                self.sent = b""
            case "recv":
                octets = bytes.fromhex(step["hex"])
                for at in range(0, len(octets), self.piece):
                    self.sent = peer.recv(octets[at : at + self.piece], channel, now, name)
            case "peer-reset" | "peer-close":
                peer.lost(channel, now, name)
            case "close":
                assert peer.taken(Shut, channel, name)
            case "check-empty-buffer":
                assert peer.taken(Secure, channel, name)
            case "tls-handshake":
                peer.session(name)._parts.xid = (xid or 1) - 1
                peer.requestor.secured(name, channel, now)
                peer.after(now)
            case other:
                raise AssertionError(f"unknown event {other}")

    def _check(self, step: dict[str, Any]) -> None:
        after, session = step.get("after", {}), self.peer.session(step["conn"] if step["conn"] in "AB" else "A")
        if "table" in after:
            assert self.peer.table == table_of(after["table"]), step
        if "saved_start_unix" in after:
            assert session.saved.start is not None
            assert session.saved.start.unix == after["saved_start_unix"], step
        states = {"ACTIVE_LIVE": "live", "ACTIVE_CATCHUP": "catching up", "WAIT_RETRY": "waiting"}
        if "state" in after:
            name = after["state"].split(" ")[0]
            assert states.get(name, session.state) == session.state, step
            if "RESYNC" in after["state"]:
                assert session.saved.resync
            if name == "BULK_DONE":
                assert session.counts["bulks_complete"] == 1
            if name == "BULK_RETRY":
                assert (session.counts["bulks_complete"], session.saved.resync) == (0, True)


@pytest.mark.parametrize("piece", [1 << 20, 1, 7], ids=["whole", "octet by octet", "in sevens"])
@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=lambda x: x["id"])
def test_an_exchange(exchange: dict[str, Any], piece: int) -> None:
    Player(exchange, piece).play()


@pytest.mark.parametrize("name", ["X01", "X02", "X03"])
def test_an_exchange_with_every_message_twice(name: str) -> None:
    """Servers may repeat any binding at any time; a second REPLY or DONE would be another matter."""
    exchange = EXCHANGES[name]
    steps = []
    for step in exchange["steps"]:
        if step["event"] == "recv" and step["hex"][4:6] == "11" and "CatchUp" not in step["summary"]:
            steps.append({key: value for key, value in step.items() if key != "after"})
        steps.append(step)
    Player(exchange | {"steps": steps}).play()


def test_the_bulk_in_any_order() -> None:
    exchange = EXCHANGES["X01"]
    steps = exchange["steps"]
    data = [step for step in steps if step["event"] == "recv" and step["hex"][4:6] == "11"]
    mixed = iter(data[::-1])
    Player(exchange | {"steps": [next(mixed) if step in data else step for step in steps]}).play()


# --- recordings of a real server --------------------------------------------------------------------------------------

CLIENT = {  # of the recording, the profile that reads it
    "dhcpkit_V003": "W",
    "dhcpkit_bulk_v4msg": "W",
    "dhcpkit_bulk_link": "S",
    "dhcpkit_bulk_s46lw": "S",
}


@pytest.mark.parametrize("name, profile", CLIENT.items())
def test_a_recorded_bulk_of_a_real_server(name: str, profile: str) -> None:
    peer = recorded(name, profile)
    assert peer.session().counts["bulks_complete"] == 1
    assert sorted(key[3] for key in peer.table) == [1, 2, 3, 4, 5]
    assert {key[:3] for key in peer.table} == {("198.51.100.10", 0, 6)}


def recorded(name: str, profile: str, cut: int | None = None) -> Peer:
    """`cut`: the connection is lost after so many octets; the next try gets all."""
    frames = [bytes.fromhex(f["hex"]) for f in vectors.RECORDINGS[name]["frames"]]
    xid, duid = int.from_bytes(frames[0][3:6]), frames[0][10 : 10 + int.from_bytes(frames[0][8:10])]
    one = server(profile=profile)
    peer = Peer(replace(one, settings=replace(one.settings, duid=duid)), saved=Saved())
    peer.open()
    octets = peer.connect(ACTIVE, 0)
    peer.recv(reply(int.from_bytes(octets[3:6]), 0, client=duid), ACTIVE, 0)
    peer.connect(BULK, 1, xid)
    octets = b"".join(frames[1:])
    peer.recv(octets[:cut], BULK, 2)
    if cut is not None and cut < len(octets):
        peer.lost(BULK, 3)
        peer.run_to(70)
        peer.connect(BULK, 70, xid)
        peer.recv(octets, BULK, 71)
    return peer


@pytest.mark.parametrize("name", ["dhcpkit_bulk_s46lw", "dhcpkit_V003"])
def test_a_recorded_bulk_cut_at_every_octet_resumes(name: str) -> None:
    whole = recorded(name, CLIENT[name])
    length = sum(len(f["hex"]) // 2 for f in vectors.RECORDINGS[name]["frames"][1:])
    for cut in range(0, length + 1, 1 if length < 1000 else 3):
        peer = recorded(name, CLIENT[name], cut)
        assert peer.table == whole.table, cut
        assert not peer.session().saved.resync, cut


def test_leases_event_is_what_a_session_tells() -> None:
    peer, channel = prepared(MESSAGES["V015"])
    session = peer.session()
    session.feed(channel, vectors.octets(MESSAGES["V015"]), 20)
    (event,) = [e for e in session.events() if isinstance(e, Leases)]
    assert IPv6Address(event.rows[0]["b4"].tobytes()) == IPv6Address("2001:db8:100:2:0:c633:640a:2")
