"""Requirements on the leasequery requestor that no other file shows, by number; those on sockets are in
test_leasequery_wire.py."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.changes import Op, Record
from pylwaftr.config.services import LeaseServer
from pylwaftr.daemon.lease_servers import of_config
from pylwaftr.dhcp import codec4, codec6
from pylwaftr.dhcp.codec_lease import Lease, State
from pylwaftr.dhcp.events import Open, Saved, Shut
from pylwaftr.dhcp.leases import Leases, Policy
from pylwaftr.dhcp.oddities import FEW, Seen, seen
from pylwaftr.dhcp.s46 import PortParams
from pylwaftr.rows import ports
from tests.leasequery_peer import (
    ACTIVE,
    BR,
    BULK,
    TERMINATED,
    A,
    B,
    Peer,
    asking,
    bulk,
    data,
    done,
    frames_of,
    lease,
    message,
    psids,
    reply,
    rows,
    server,
    started,
)
from tests.leasequery_vectors import T0
from tests.store_rows import TINY, kept_up, many, one, opened

# --- LQ-016: DUIDs are opaque, 3..130 octets --------------------------------------------------------------------------


@pytest.mark.parametrize("octets, taken", [(3, True), (130, True), (2, False), (131, False)])
def test_a_duid_has_3_to_130_octets(octets: int, taken: bool) -> None:
    peer, duid = Peer(saved=Saved(resync=False)), bytes(range(octets))
    peer.open()
    peer.accept(ACTIVE, 0, A, duid=duid)
    assert (peer.session().state, peer.session().saved.server) == (
        ("live", duid) if taken else ("awaiting the reply", b"")
    )
    assert peer.session().counts["malformed_length6"] == (not taken)


# --- LQ-018: every DHCPV4_MSG of a CLIENT_DATA counts -----------------------------------------------------------------


def in_one_client_data(kind: int, xid: int, *leases: Lease) -> bytes:
    nested = [(int(codec6.Code.DHCPV4_MSG), codec4.encode(message(one, xid))) for one in leases]
    client_data = codec6.join(((46, bytes(4)), *nested))
    options = ((2, b"\0\3\0\1server"), (1, PEER_DUID), (45, client_data))
    return codec6.frame(codec6.encode(codec6.Message6(kind, xid, options)))


PEER_DUID = server().settings.duid


@pytest.mark.parametrize("kind", [15, 17], ids=["in LEASEQUERY-REPLY", "in LEASEQUERY-DATA"])
def test_two_leases_in_one_client_data_are_both_taken(kind: int) -> None:
    peer = Peer(saved=Saved(resync=False))
    peer.open()
    peer.connect(ACTIVE, 0, A)
    if kind == 17:
        peer.recv(reply(A, 0), ACTIVE, 0)
    peer.recv(in_one_client_data(kind, A, lease(1), lease(2), lease(3)), ACTIVE, 0)
    assert psids(peer) == {1, 2, 3}


# --- LQ-037: 0xffffffff is for ever -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
def test_an_infinite_lease_never_ends_by_itself(compiled: bool) -> None:
    leases = Leases([Policy("A", hold_s=0)], BR.packed, compiled=compiled)
    leases.set_live("A", True)
    leases.heard("A", rows(lease(1, lifetime=codec4.INFINITE), lease(2, lifetime=codec4.INFINITE - 1)), 0.0)
    assert len(leases.take().bind) == 2
    leases.expire(float(codec4.INFINITE) - 1)
    assert leases.take().unbind["psid"].tolist() == [2]
    leases.expire(1e12)
    assert (len(leases.take()), len(leases), leases.timer()) == (0, 1, None)


# --- LQ-073, LQ-074: transaction-ids ----------------------------------------------------------------------------------


def sent_xids(octets: bytes) -> list[int]:
    return [int.from_bytes(frame[3:6]) for frame in frames_of(octets)]


def test_every_query_of_a_connection_has_a_transaction_id_of_its_own() -> None:
    links = tuple(IPv6Address(f"2001:db8:{n}::") for n in range(1, 6))
    peer = asking(links=links)
    octets, seen = peer.connect(BULK, 0, 0xFFFFFD), []
    while octets:  # everything, then a query for each link, then one about a B4
        (xid,) = sent_xids(octets)
        seen.append(xid)
        if len(seen) == 6:
            assert peer.requestor.query(IPv6Address("2001:db8::7"), 0)
        octets = peer.recv(reply(xid, 0), BULK, 0)
    assert seen == [0xFFFFFD, 0xFFFFFE, 0xFFFFFF, 1, 2, 3, 4]  # RFC 8415 section 8: 24 bits; 0 is left out


@pytest.mark.parametrize("channel", [ACTIVE, BULK], ids=["active", "bulk"])
def test_a_reply_to_another_query_is_discarded_and_the_session_goes_on(channel: Any) -> None:
    peer = Peer()
    peer.open()
    peer.connect(ACTIVE, 0, A)
    if channel is BULK:
        peer.recv(reply(A, 0), ACTIVE, 0)
        peer.connect(BULK, 0, B)
    xid = A if channel is ACTIVE else B
    peer.recv(reply(xid + 5, 0, lease(9)), channel, 0)
    assert (peer.session().counts["malformed_reply_xid"], peer.table) == (1, {})
    assert not peer.taken(Shut, channel)
    peer.recv(reply(xid, 0, lease(1)), channel, 0)
    assert psids(peer) == {1}
    if channel is BULK:
        peer.recv(done(B), BULK, 0)
        assert peer.session().counts["bulks_complete"] == 1


# --- LQ-133: deadlines are on the monotonic clock ---------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-30, 30], ids=["back", "ahead"])
def test_a_step_of_the_wall_clock_moves_no_deadline(hours: int) -> None:
    """Neither of a lease, nor of the silence of a server, nor of the next attempt to connect."""
    peer = started(None, lease(1, lifetime=600), lease(2, lifetime=700))
    peer.requestor.set_unix_offset(T0 + 3600 * hours)
    for at in range(60, 600, 60):
        peer.run_to(at)
        peer.recv(data(A, at), ACTIVE, at)
    peer.run_to(600)
    assert psids(peer) == {1, 2}
    peer.run_to(602)  # the bulk was at 1
    assert psids(peer) == {2}
    peer.taken(Shut, ACTIVE)
    peer.run_to(659)
    assert not peer.taken(Shut, ACTIVE)
    peer.run_to(661)  # 120 seconds after the last word
    assert peer.taken(Shut, ACTIVE)
    due = peer.session()._attempts[ACTIVE].due
    assert due is not None
    assert 660 <= due <= 667


# --- LQ-172: what is stored is for its owner --------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True], ids=["a new directory", "one that others may read"])
def test_files_of_the_state_are_for_their_owner_only(there: bool, tmp_path: Path) -> None:
    folder, before = tmp_path / "state", os.umask(0o022)
    try:
        if there:
            folder.mkdir(mode=0o755)
        store, _ = opened(folder, TINY)
        for number in range(30):
            records = [Record("leasequery", b"A", b"{}")]
            store.commit([one(Op.BIND, many(number, 1 + number % 5), records=records)], 1000.0 + number)
            kept_up(store)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert len(modes) > 5  # the journal with its log, files of events, a snapshot
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE(folder.stat().st_mode) == (0o755 if there else 0o700)


# --- LQ-175: alarms ---------------------------------------------------------------------------------------------------


def alarms(peer: Peer, name: str) -> int:
    return sum(report.name == name for out in peer.outputs for report in out.reports)


def test_five_minutes_without_a_stream_raise_an_alarm_once() -> None:
    peer = started(None)
    peer.lost(ACTIVE, 100)
    for at in range(110, 1000, 10):
        peer.run_to(at)
        if peer.taken(Open, ACTIVE):
            peer.lost(ACTIVE, peer.now)
        assert alarms(peer, "lonely") == (at >= 400), at
    peer.live(1000)
    peer.lost(ACTIVE, 1010)
    peer.run_to(1300)
    assert alarms(peer, "lonely") == 1
    peer.run_to(1311)
    assert alarms(peer, "lonely") == 2


def test_a_quarter_of_an_hour_without_a_full_bulk_raises_an_alarm_once() -> None:
    peer = started(None)
    peer.requestor.resync(100)
    for at in range(110, 2000, 10):
        peer.run_to(at)
        peer.recv(data(A, at), ACTIVE, at)
        if peer.taken(Open, BULK):
            peer.requestor.connected("A", BULK, at)
            (xid,) = sent_xids(peer.requestor.data_to_send("A", BULK))
            peer.recv(reply(xid, at, status=TERMINATED), BULK, at)
        assert alarms(peer, "resync_late") == (at >= 1000), at
    assert alarms(peer, "lonely") == 0


# --- LQ-184: a server that is not known to do active leasequery -------------------------------------------------------


def polled() -> Peer:
    one = server()
    peer = Peer(replace(one, settings=replace(one.settings, active=False)))
    peer.open()
    return peer


def test_without_the_active_query_there_are_bulks_only() -> None:
    peer = polled()
    for number, at in enumerate((0, 310, 620)):
        peer.run_to(at)
        bulk(peer, at, lease(1, at), lease(2 + number, at), xid=B + number)
        assert (psids(peer), peer.session().state, peer.session().current) == ({1, 2 + number}, "polling", True)
        assert peer.session().saved.start is None
    peer.run_to(7200)
    assert not peer.taken(Open, ACTIVE)
    assert peer.session().counts["connects_active"] == 0


def test_a_server_that_is_only_polled_and_fails_is_asked_again() -> None:
    peer = polled()
    peer.connect(BULK, 0, B)
    peer.lost(BULK, 0)
    assert peer.session().saved.resync
    peer.run_to(70)
    bulk(peer, 70, lease(1, 70), xid=B + 1)
    assert (psids(peer), peer.session().saved.resync) == ({1}, False)


# --- LQ-028, LQ-029: port sets that RFC 7596 advises against ----------------------------------------------------------


def with_offset(psid: int, offset: int = 6, psid_len: int = 6, at: float = 0.0) -> Lease:
    return replace(lease(psid, at), ports=PortParams(offset, psid_len, psid))


PORT_SETS = [  # offset, bits, PSID, whether ports below 1024 are in it
    (0, 0, 0, False),  # whole addresses have no choice
    (0, 6, 0, True),
    (0, 6, 1, False),
    (0, 4, 0, True),
    (0, 4, 1, False),
    (0, 10, 15, True),
    (0, 10, 16, False),
    (0, 16, 1023, True),
    (0, 16, 1024, False),
    (4, 6, 0, False),
    (6, 6, 0, False),
    (7, 6, 0, True),
    (7, 2, 1, True),
    (7, 1, 1, True),
    (7, 9, 511, True),
    (6, 10, 0, False),
]


@pytest.mark.parametrize("offset, bits, psid, low", PORT_SETS)
def test_which_port_sets_hold_well_known_ports(offset: int, bits: int, psid: int, low: bool) -> None:
    one = replace(lease(0), ports=PortParams(offset, bits, psid))
    first = ports(offset, bits, psid)[0][0]
    assert (bits > 0 and first < 1024) is low
    for count in (1, 2 * FEW):  # one by one, and all at once
        told = rows(*[lease(40)] * (count - 1), one)
        assert seen(told) == Seen(count, 0, count - 1 if offset else -1, count - 1 if low else -1)
        told["state"], told["has"] = [int(State.RELEASED)] * (count - 1) + [int(State.ACTIVE)], 0
        assert seen(told)[:2] == (1, 1)
        told["state"] = State.RELEASED
        assert seen(told) == Seen(0, 0, -1, -1)


@pytest.mark.parametrize("name, odd", [("other_offset", with_offset), ("low_ports", lambda n: lease(0, n))])
def test_a_server_with_odd_port_sets_is_told_of_once_and_they_are_bound(name: str, odd: Any) -> None:
    peer = started(None, lease(40))
    for number in range(1, 4):
        peer.recv(data(A, number, odd(number), lease(30 + number, number, ipv4="198.51.100.11")), ACTIVE, number)
    told = [report for out in peer.outputs for report in out.reports if report.name == name]
    assert [report.server for report in told] == ["A"]
    assert "RFC 7596" in told[0].text


@pytest.mark.parametrize("compiled", [True, False])
def test_port_sets_with_an_offset_can_be_refused(compiled: bool) -> None:
    leases = Leases([Policy("A", offsets=False), Policy("B")], BR.packed, compiled=compiled)
    one, other = with_offset(1), replace(with_offset(2), ipv4=IPv4Address("198.51.100.11"))
    out = leases.heard("A", rows(one, lease(3, ipv4="198.51.100.12")), 0.0)
    assert [report.name for report in out.reports] == ["other_offset", "psid_offset"]
    leases.heard("B", rows(other), 0.0)
    assert sorted(leases.take().bind["psid"].tolist()) == [2, 3]
    leases.add(Policy("A"))  # accepted from here on, when the server says it again
    leases.heard("A", rows(replace(one, base=one.base + 10)), 10.0)
    assert leases.take().bind["psid"].tolist() == [1]


# --- LQ-032, LQ-175: the tunnel address is missing too often ----------------------------------------------------------


def test_missing_tunnel_addresses_raise_an_alarm_when_they_are_many() -> None:
    leases = Leases([Policy("A"), Policy("B")], BR.packed)

    def alarms(server: str, now: float, lacking: int, good: int) -> int:
        addresses = [f"198.51.{100 + n // 60}.{n % 60}" for n in range(lacking + good)]
        told = [lease(1, now, ipv4=ipv4, b4=None if n < lacking else "") for n, ipv4 in enumerate(addresses)]
        out = leases.heard(server, rows(*told), now)
        return sum(report.name == "no_b4_often" and report.server == server for report in out.reports)

    assert alarms("A", 0, lacking=9, good=0) == 0
    assert alarms("A", 10, lacking=1, good=0) == 1  # the tenth
    assert alarms("A", 20, lacking=40, good=0) == 0  # told once
    assert alarms("B", 20, lacking=15, good=200) == 0  # fewer than one in ten
    assert alarms("B", 30, lacking=40, good=100) == 1
    assert alarms("A", 400, lacking=0, good=50) == 0  # for five minutes it is well
    assert alarms("A", 800, lacking=0, good=50) == 0
    assert alarms("A", 900, lacking=10, good=0) == 1  # told anew


# --- settings of a server ---------------------------------------------------------------------------------------------


def test_a_server_is_asked_as_it_is_configured() -> None:
    plain = LeaseServer("192.0.2.1", 547, None, "W", False, None, (), (), 0, 300, 3600, 1.0)
    (usual,), _ = of_config([plain])
    assert (usual.settings.active, usual.policy.offsets) == (True, True)
    (other,), _ = of_config([replace(plain, active_query=False, accept_psid_offset=False)])
    assert (other.settings.active, other.policy.offsets) == (False, False)
