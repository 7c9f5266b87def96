"""The leasequery server in DHCPv4 alone and with softwire containers: octets by name, answers, and what it refuses."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.cli.leasequery_server import leasequery_server
from pylwaftr.dhcp.codec6 import Ask, frame
from pylwaftr.dhcp.profiles import PROFILES, Kind, Word
from pylwaftr.responder import encode
from pylwaftr.responder.daemon import _records
from pylwaftr.responder.database import Change, Database
from pylwaftr.responder.native import Native
from pylwaftr.responder.query import ACTIVELEASEQUERY, LEASEQUERY, STARTTLS, Query
from pylwaftr.responder.server import Connection, Settings
from tests import leasequery_vectors as vectors
from tests.leasequery_vectors import DUID, MESSAGES, RECORDINGS, T0
from tests.responder_pair import BR, SERVER, SETTINGS, THREE, change, database, psids
from tests.test_responder import of_record
from tests.test_responder_journal import changes

SERVER_ID = IPv4Address("192.0.2.1").packed
ACTIVE4, BULK4 = Query(ACTIVELEASEQUERY, 0x1002), Query(LEASEQUERY, 0x1001)


def told(name: str) -> bytes:
    """The server's octets where the vector has its."""
    native, vector = Native(SERVER_ID), MESSAGES[name]
    match name:
        case "V055":
            lease = of_record(vector["record"], True)
            return native.leases(BULK4, vector["record"]["base_unix"], lease)
        case "V057":
            return native.done(BULK4)
        case "V058":
            return native.refused(BULK4, encode.NOT_ALLOWED, "query for all configured addresses is not supported")
        case "V059":
            return native.alive(ACTIVE4, T0 + 60)
        case "V061":
            return native.told(ACTIVE4, T0 + 900, encode.DATA_MISSING)
        case "V062":
            return native.terminated(ACTIVE4, T0 + 901).replace(b"\x97\1\2", b"\x97\4\2bye")
    return native.tls(Query(STARTTLS, 0x1003), refused=True)


@pytest.mark.parametrize("name", ["V055", "V057", "V058", "V059", "V061", "V062", "V065"])
def test_what_the_server_encodes_is_the_vector(name: str) -> None:
    ours, theirs = told(name), vectors.octets(MESSAGES[name])
    assert ours[2:].hex() == theirs[2:].hex()
    assert name == "V062" or ours == theirs  # its text is another one


def test_the_server_identifier_is_in_the_first_answer_alone() -> None:
    native, leases = Native(SERVER_ID), database(*THREE).part(0, 9)[0]
    for octets, first in ((native.leases(BULK4, T0, leases), True), (native.leases(BULK4, T0, leases), False)):
        have = [b"\x36\4" + SERVER_ID in one for one in _records(octets)]
        assert have == [first, False, False]
    assert b"\x36\4" + SERVER_ID in native.leases(replace(BULK4, xid=7), T0, leases[:1])


def test_a_softwire_container_is_what_dhcpkit_sends() -> None:
    """dhcpkit puts no base-time in, and other lifetimes; all else is the same, octet for octet."""
    theirs = bytes.fromhex(RECORDINGS["dhcpkit_bulk_s46lw"]["frames"][2]["hex"])[6:]
    lease = np.zeros(1, encode.LEASE)
    lease["ipv4"], lease["params"] = 0xC633640A, (0, 6, 8, 0)
    lease["b4"], lease["has_b4"] = np.frombuffer(theirs[39:55], np.uint8), True
    client = b"\xff\0\0\0\1" + theirs[8:18]
    lease["client"][0, : len(client)], lease["client_len"] = np.frombuffer(client, np.uint8), len(client)
    lease["state"], lease["cltt"], lease["expires"] = encode.ACTIVE, T0 - 15, T0 + 3995
    ours = encode.client_data(lease, 1, T0, encode.SOFTWIRE, theirs[67:83])
    assert ours[-4:] == theirs[-4:]
    assert theirs[87:103] != ours[87:103]  # their IAADDR is an address of the client, ours the tunnel's
    assert ours[:87].hex() == theirs[:87].hex()


def heard(connection: Connection, profile: str, unix: int = T0 + 10, now: float = 0.0) -> list[Any]:
    octets = b"".join(iter(lambda: connection.produce(now, unix), b""))
    return [PROFILES[profile].hear(one[2:], DUID, unix) for one in _records(octets)]


def asked(message: bytes, settings: Settings = SETTINGS, db: Database | None = None) -> Connection:
    connection = Connection(db or database(*THREE), settings, native=True)
    connection.feed(message, 0)
    return connection


def query4(kind: int, *options: tuple[int, bytes], hlen: int = 0, xid: int = 0xFEDCBA98) -> bytes:
    octets = bytes((1, 0, hlen, 0)) + xid.to_bytes(4) + bytes(228) + b"\x63\x82\x53\x63"
    for code, data in ((53, bytes([kind])), *options):
        octets += bytes((code, len(data))) + data
    return struct.pack("!H", len(octets) + 1) + octets + b"\xff"


CLIENT_2 = b"\xff\0\0\0\1\1\2\1"
QUERIES = [  # query, settings, PSIDs, what the last message says, closes
    (vectors.octets(MESSAGES["V053"]), SETTINGS, [1, 2, 3], (Kind.DONE, None), False),
    (query4(14), SETTINGS, [1, 2, 3], (Kind.DONE, None), False),
    (query4(14, (61, CLIENT_2)), SETTINGS, [2], (Kind.DONE, None), False),
    (query4(14, (61, b"\xffnobody")), SETTINGS, [], (Kind.DONE, None), False),
    (query4(14, (154, (T0 + 1).to_bytes(4))), SETTINGS, [], (Kind.DONE, None), False),
    (query4(14, hlen=6), SETTINGS, [], (Kind.DONE, Word.NOT_ALLOWED), False),
    (query4(14, (82, b"\2\1x")), SETTINGS, [], (Kind.DONE, Word.NOT_ALLOWED), False),
    (query4(14, (154, b"\0")), SETTINGS, [], (Kind.DONE, Word.MALFORMED_QUERY), True),
    (query4(16), SETTINGS, [], (Kind.DATA, Word.CONNECTION_ACTIVE), False),
    (query4(16, (155, bytes(4))), SETTINGS, [], (Kind.DONE, Word.MALFORMED_QUERY), True),
    (query4(14), Settings(SERVER, tls=True, require_tls=True), [], (Kind.DONE, Word.NOT_ALLOWED), True),
    (query4(16), Settings(SERVER, tls=True, require_tls=True), [], (Kind.DONE, Word.NOT_ALLOWED), True),
]


@pytest.mark.parametrize("message, settings, found, last, closes", QUERIES)
def test_a_query(message: bytes, settings: Settings, found: list[int], last: Any, closes: bool) -> None:
    connection = asked(message, settings)
    said = heard(connection, "N")
    assert (psids(said), (said[-1].kind, said[-1].word), connection.done) == (found, last, closes)
    assert {one.xid for one in said} == {int.from_bytes(message[6:10])}


def test_without_active_leasequery_the_connection_is_closed() -> None:
    """RFC 7724 section 8.1.1: there is no word for it."""
    connection = asked(query4(16), Settings(SERVER, active=False))
    assert (heard(connection, "N"), connection.done) == ([], True)


def test_catch_up_news_and_keep_alives() -> None:
    db = database(change(1, T0 - 500), change(2, T0 + 40), change(1, T0 + 50, "RELEASED"))
    connection = asked(vectors.octets(MESSAGES["V054"]), db=db)  # starts at T0 + 30
    said = heard(connection, "N", T0 + 60)
    assert (psids(said), said[-1].word) == ([1, 2], Word.CATCH_UP_COMPLETE)
    db.apply([change(3, T0 + 61)], T0 + 61)
    assert psids(heard(connection, "N", T0 + 61)) == [3]
    assert heard(connection, "N", T0 + 90, 59.0) == []
    (alive,) = heard(connection, "N", T0 + 120, 60.0)
    assert (alive.word, alive.base.unix) == (Word.CONNECTION_ACTIVE, T0 + 120)
    (end,) = [PROFILES["N"].hear(one[2:], DUID, 0) for one in _records(connection.terminate(T0 + 121))]
    assert (end.kind, end.word) == (Kind.DONE, Word.QUERY_TERMINATED)


def test_a_start_before_the_history_is_data_missing() -> None:
    db = database(*(change(n % 64, T0 + n) for n in range(100)), log_size=64)
    assert [one.word for one in heard(asked(vectors.octets(MESSAGES["V054"]), db=db), "N")] == [Word.DATA_MISSING]


def test_dhcptls() -> None:
    request = vectors.octets(MESSAGES["V063"])
    refused = asked(request)
    assert (refused.produce(0, T0).hex(), refused.done) == (vectors.octets(MESSAGES["V065"]).hex(), True)
    connection = asked(request, Settings(SERVER, tls=True, require_tls=True))
    (answer,) = _records(connection.produce(0, T0))
    said = PROFILES["N"].hear(answer[2:], DUID, T0)
    assert (said.kind, said.word, connection.wants_tls) == (Kind.TLS_ANSWER, None, True)
    connection.secured()
    connection.feed(query4(14), 0)
    assert psids(heard(connection, "N")) == [1, 2, 3]


# --- softwire containers ----------------------------------------------------------------------------------------------


def softwire(connection: Connection, active: bool = False) -> Connection:
    profile = PROFILES["S"]
    connection.feed(frame(profile.active(DUID, 5, None) if active else profile.bulk(DUID, 5, Ask())), 0)
    return connection


def test_who_asks_for_containers_gets_them() -> None:
    db = database(*THREE, replace(change(4), b4=None))
    said = heard(softwire(Connection(db, SETTINGS)), "S")
    assert (psids(said), said[-1].kind) == ([1, 2, 3], Kind.DONE)  # a lease without a tunnel address has no container
    connection = softwire(Connection(db, SETTINGS), active=True)
    heard(connection, "S")
    db.apply([change(1, T0 + 20, "RELEASED"), replace(change(5, T0 + 20), b4=None), change(6, T0 + 20)], T0 + 20)
    said = heard(connection, "S", T0 + 20)
    assert [(int(row["psid"]), int(row["state"])) for one in said for row in one.rows] == [(1, 3), (6, 2)]


@pytest.mark.parametrize("state", ["REMOTE", "TRANSITIONING"])
def test_a_container_does_not_call_ended_what_has_not_ended(state: str) -> None:
    db = database(*THREE)
    connection = softwire(Connection(db, SETTINGS), active=True)
    heard(connection, "S")
    db.apply([change(1, T0 + 20, state), change(2, T0 + 20, "RELEASED")], T0 + 20)
    assert psids(heard(connection, "S", T0 + 20)) == [2]
    assert psids(heard(softwire(Connection(db, SETTINGS)), "S", T0 + 20)) == [2, 3]


def test_containers_need_a_br_address() -> None:
    (said,) = heard(softwire(Connection(database(*THREE), Settings(SERVER))), "S")
    assert (said.word, "BR address" in said.text) == (Word.UNSPEC_FAIL, True)


def test_the_container_names_the_br() -> None:
    octets = softwire(Connection(database(*THREE), SETTINGS)).produce(0, T0)
    assert b"\0\x5a\0\x10" + BR.packed in octets


# --- any leases, any octets -------------------------------------------------------------------------------------------


@hypothesis.settings(deadline=None)  # a busy machine
@given(st.lists(changes(), min_size=1, max_size=20), st.integers(0, encode.INFINITE))
def test_any_leases_are_octets_that_the_requestor_reads(some: list[Change], now: int) -> None:
    leases = database(*some).part(0, 1000)[0]
    with_b4 = leases[leases["has_b4"]]
    for profile, way, given_, sender in (
        ("N", encode.NATIVE, leases, b""),
        ("N", encode.NATIVE_FIRST, leases, SERVER_ID),
        ("S", encode.SOFTWIRE, with_b4, BR.packed),
    ):
        octets = encode.data(given_, 7, now, way, sender)
        rows = [row for one in _records(octets) for row in PROFILES[profile].hear(one[2:], DUID, 0).rows]
        assert len(rows) == len(given_)
        assert sorted(int(row["ipv4"]) for row in rows) == sorted(int(one["ipv4"]) for one in given_)
        assert {bytes(row["b4"]) for row in rows} == {bytes(one["b4"]) for one in given_}


@hypothesis.settings(deadline=None)  # a busy machine
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_no_octets_of_a_client_raise(pieces: list[bytes]) -> None:
    connection = Connection(database(*THREE), SETTINGS, native=True)
    for piece in [*pieces, query4(14, *((53, piece[:200]) for piece in pieces))]:
        connection.feed(piece, 0)
        for _ in range(100):
            if not connection.produce(0, T0):
                break


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0:67", "[::]:67"])
def test_the_server_identifier_has_to_be_known(address: str) -> None:
    words = ["--journal", "/nowhere", "--allow-plaintext", "--listen-dhcpv4", address]
    done = CliRunner().invoke(leasequery_server, words)
    assert done.exit_code == 2
    assert "--listen-dhcpv4 names no IPv4 address of its own: give --server-id" in done.output


def test_files_of_tls_that_are_no_good_are_named(tmp_path: Path) -> None:
    there = tmp_path / "there.pem"
    there.write_text("no PEM")
    rows = [("--tls-cert", there), ("--tls-key", there), ("--tls-ca", there)]
    for missing, _ in rows:
        words = [str(word) for name, file in rows for word in (name, tmp_path / "nix" if name == missing else file)]
        done = CliRunner().invoke(leasequery_server, ["--journal", "/nowhere", *words])
        assert (done.exit_code, f"{missing}: {tmp_path}/nix cannot be read: No such" in done.output) == (2, True)
    words = ["--journal", "/nowhere", "--tls-cert", str(there), "--tls-key", str(there)]
    done = CliRunner().invoke(leasequery_server, words)
    assert done.exit_code == 2
    assert f"{there}, {there} are not a certificate, its key and a CA" in done.output
