"""The leasequery server: its octets against the vectors, its answers, its memory."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

import numpy as np
import pytest

from pylwaftr.dhcp.profiles import Kind, Word
from pylwaftr.responder import encode
from pylwaftr.responder.database import STATES, Database
from pylwaftr.responder.encode import INFINITE, LEASE
from pylwaftr.responder.server import Connection, Settings
from tests import leasequery_vectors as vectors
from tests.leasequery_vectors import DUID, MESSAGES, T0
from tests.responder_pair import SERVER, SETTINGS, THREE, change, database, psids, said

# --- octets -----------------------------------------------------------------------------------------------------------

ENCODED = ["V015", "V017", "V018", "V021", "V022", "V023", "V025", "V026", "V027", "V029"]


def of_record(record: dict[str, Any], lifetime: bool) -> Any:
    one = np.zeros(1, LEASE)
    client = bytes.fromhex(record["client_id"])
    field = record["psid"] << (16 - record["psid_len"]) & 0xFFFF
    one["ipv4"], one["params"] = (
        int(IPv4Address(record["ipv4"])),
        (record["psid_offset"], record["psid_len"], field >> 8, field & 255),
    )
    one["b4"], one["has_b4"] = np.frombuffer(IPv6Address(record["b4"]).packed, np.uint8), True
    one["client"][0, : len(client)], one["client_len"] = np.frombuffer(client, np.uint8), len(client)
    one["state"], one["cltt"], one["since"] = STATES[record["state"]], record["cltt_unix"], record["state_since_unix"]
    one["expires"] = record["expires_unix"] if lifetime else INFINITE
    return one


@pytest.mark.parametrize("name", ENCODED)
def test_what_the_server_encodes_is_the_vector(name: str) -> None:
    vector = MESSAGES[name]
    record = vector["record"]
    lease = of_record(record, record["state"] == "ACTIVE")
    assert encode.data(lease, 0xA001, record["base_unix"]).hex() == vector["hex"]


@pytest.mark.parametrize(
    "name, octets",
    [
        ("V035", encode.framed(17, 0xA001, encode.base_time(T0 + 65))),
        ("V013", encode.framed(15, 0xA001, encode.identities(SERVER, DUID) + encode.base_time(T0))),
        ("V041", encode.framed(16, 0xB001, b"")),
    ],
)
def test_what_else_the_server_encodes_is_the_vector(name: str, octets: bytes) -> None:
    theirs = vectors.octets(MESSAGES[name])
    if name == "V035":  # its base-time is its own
        octets = octets[:10] + theirs[10:14]
    assert octets.hex() == theirs.hex()


# --- answers ----------------------------------------------------------------------------------------------------------


def ask(
    database: Database, message: bytes, settings: Settings = SETTINGS, unix: int = T0 + 10
) -> tuple[list[Any], Connection]:
    connection = Connection(database, settings)
    connection.feed(message, 0.0)
    return said(connection, unix), connection


LINKS = {IPv6Address("2001:db8:1::"): (IPv4Network("198.51.100.0/24"),)}

QUERIES = [  # vector, settings, PSIDs, status of the reply, closes
    ("V003", SETTINGS, [1, 2, 3], None, False),
    ("V005", SETTINGS, [], Word.UNKNOWN_QUERY_TYPE, False),
    ("V006", SETTINGS, [], Word.UNKNOWN_QUERY_TYPE, False),
    ("V007", SETTINGS, [], None, False),
    ("V009", SETTINGS, [], None, False),
    ("V001", SETTINGS, [], None, False),
    ("V001", Settings(SERVER, active=False), [], Word.NOT_SUPPORTED, True),
    ("V001", Settings(SERVER, tls=True, require_tls=True), [], Word.NOT_ALLOWED, True),
    ("V003", Settings(SERVER, tls=True, require_tls=True), [], Word.NOT_ALLOWED, True),
    ("V121", SETTINGS, [], Word.MALFORMED_QUERY, True),
]


@pytest.mark.parametrize("name, settings, found, word, closes", QUERIES)
def test_a_query(name: str, settings: Settings, found: list[int], word: Word | None, closes: bool) -> None:
    heard, connection = ask(database(*THREE), vectors.octets(MESSAGES[name]), settings)
    assert heard[0].kind is Kind.REPLY
    assert (psids(heard), heard[0].word, connection.done) == (found, word, closes)
    if found:
        assert heard[-1].kind is Kind.DONE


def test_a_query_by_tunnel_address() -> None:
    octets = vectors.octets(MESSAGES["V007"])
    b4 = IPv6Address("2001:db8:100:1:0:c633:640a:1")
    heard, _ = ask(database(*THREE, change(9, b4=b4)), octets)
    assert (psids(heard), [one.kind for one in heard]) == ([9], [Kind.REPLY, Kind.DONE])


@pytest.mark.parametrize(
    "link, found, word", [("2001:db8:1::", [1, 2], None), ("2001:db8:2::", [], Word.NOT_CONFIGURED)]
)
def test_a_query_by_link(link: str, found: list[int], word: Word | None) -> None:
    octets = vectors.octets(MESSAGES["V003"]).replace(b"\x04" + bytes(16), b"\x04" + IPv6Address(link).packed)
    heard, _ = ask(database(*THREE), octets, Settings(SERVER, links=LINKS))
    assert (psids(heard), heard[0].word) == (found, word)


def test_starttls_without_a_certificate_is_refused() -> None:
    connection = Connection(database(), SETTINGS)
    connection.feed(vectors.octets(MESSAGES["V010"]), 0)
    octets = connection.produce(0, T0)
    assert (octets[2:6].hex(), octets[10:12].hex(), connection.done) == ("0700c001", "000f", True)


@pytest.mark.parametrize("at_once", [True, False])
def test_octets_in_clear_text_behind_starttls_are_not_used(at_once: bool) -> None:
    connection = Connection(database(*THREE), Settings(SERVER, tls=True))
    starttls, query = vectors.octets(MESSAGES["V010"]), vectors.octets(MESSAGES["V003"])
    if at_once:
        connection.feed(starttls + query, 0)
    else:
        connection.feed(starttls, 0)
        assert connection.wants_tls
        connection.feed(query, 0)
    octets = b"".join(iter(lambda: connection.produce(0, T0), b""))
    assert (connection.done, connection.wants_tls, octets.hex()) == (
        True,
        False,
        vectors.octets(MESSAGES["V011"]).hex(),
    )


# --- the stream -------------------------------------------------------------------------------------------------------


def test_changes_catch_up_and_keep_alives() -> None:
    db = database(change(1, T0 - 500), change(2, T0 - 100))
    heard, connection = ask(db, vectors.octets(MESSAGES["V002"]), unix=T0 + 31)  # starts at T0 + 30
    assert [one.kind for one in heard] == [Kind.REPLY, Kind.DATA]
    assert heard[1].word is Word.CATCH_UP_COMPLETE
    db.apply([change(3, T0 + 32), change(3, T0 + 33, "RELEASED")], T0 + 33)
    (last,) = said(connection, T0 + 33)
    assert (int(last.rows[0]["psid"]), int(last.rows[0]["state"])) == (3, STATES["RELEASED"])
    assert said(connection, T0 + 90, 59.0) == []
    (alive,) = said(connection, T0 + 95, 60.0)
    assert (alive.data, alive.base.unix) == (False, T0 + 95)


def test_the_catch_up_has_what_changed_since() -> None:
    db = database(change(1, T0 - 500), change(2, T0 + 40), change(1, T0 + 50, "RELEASED"))
    heard, _ = ask(db, vectors.octets(MESSAGES["V002"]), unix=T0 + 60)
    assert psids(heard) == [1, 2]


def test_a_start_before_the_history_is_data_missing() -> None:
    db = database(*(change(n % 64, T0 + n) for n in range(100)), log_size=64)
    heard, connection = ask(db, vectors.octets(MESSAGES["V002"]), unix=T0 + 101)
    assert [(one.kind, one.word) for one in heard] == [(Kind.REPLY, Word.DATA_MISSING)]
    db.apply([change(1, T0 + 102)], T0 + 102)
    assert psids(said(connection, T0 + 102)) == [1]


def test_a_client_too_slow_for_the_log_is_told() -> None:
    db = database(log_size=64)
    _, connection = ask(db, vectors.octets(MESSAGES["V001"]))
    db.apply(change(n % 64, T0 + n) for n in range(100))
    assert [one.word for one in said(connection, T0 + 101)] == [Word.DATA_MISSING]


def test_ended_leases_are_forgotten_with_the_log() -> None:
    db = Database(log_size=64)
    for n in range(2000):
        ipv4 = str(IPv4Address("198.51.100.0") + n // 64)
        db.apply([change(n % 64, T0 + n, ipv4=ipv4), change(n % 64, T0 + n, "RELEASED", ipv4=ipv4)])
    assert (len(db), db.count <= 66) == (0, True)


def test_a_lease_inherits_nothing_of_a_forgotten_one() -> None:
    db = database(change(1), change(1, T0 + 1, "RELEASED"), log_size=4)
    db.apply(change(2, T0 + n) for n in range(10))  # 1 is forgotten
    db.apply([change(3, T0 + 20, "RELEASED")])
    leases, _ = db.part(0, 9)
    (three,) = leases[leases["state"] == STATES["RELEASED"]]
    assert (db.count, bool(three["has_b4"]), int(three["client_len"]), int(three["cltt"])) == (2, False, 0, 0)
    assert not three["b4"].any()


def test_leases_end_by_themselves() -> None:
    db = database(change(1, lifetime=60), change(2, lifetime=INFINITE))
    assert (db.expire(T0 + 59), db.expire(T0 + 60), len(db)) == (0, 1, 1)
    heard, _ = ask(db, vectors.octets(MESSAGES["V003"]), unix=T0 + 61)
    assert {int(r["psid"]): int(r["state"]) for one in heard for r in one.rows} == {1: STATES["EXPIRED"], 2: 2}


def test_a_kilobyte_of_log_and_a_thousand_clients() -> None:
    """Memory of a client is its cursor: changes are kept once for all."""
    db = database(*THREE)
    clients = [Connection(db, SETTINGS) for _ in range(1000)]
    for client in clients:
        client.feed(vectors.octets(MESSAGES["V001"]), 0)
        said(client, T0)
    db.apply([change(5, T0 + 1)], T0 + 1)
    assert all(psids(said(client, T0 + 1)) == [5] for client in clients)
