"""The leasequery server: its octets against the vectors, its answers, its memory; and our requestor as its client."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.dhcp.events import Channel, Open, Saved, Shut
from pylwaftr.dhcp.profiles import PROFILES, Kind, Word
from pylwaftr.responder import encode, journal
from pylwaftr.responder.database import STATES, Change, Database
from pylwaftr.responder.encode import CLIENT_MOST, INFINITE, LEASE
from pylwaftr.responder.server import Connection, Settings
from tests import leasequery_vectors as vectors
from tests.leasequery_peer import ACTIVE, BULK, Peer, server
from tests.leasequery_vectors import DUID, MESSAGES, T0

SERVER = bytes.fromhex(vectors.DATA["meta"]["server_A_duid"])
BR = IPv6Address("2001:db8:a::1")
SETTINGS = Settings(SERVER, br=BR.packed, server_id=IPv4Address("192.0.2.1").packed)


def change(
    psid: int, at: int = T0, state: str = "ACTIVE", n: int = 0, ipv4: str = "198.51.100.10", **more: Any
) -> Change:
    if state == "ACTIVE":
        more = {"b4": IPv6Address(f"2001:db8:{n}::{psid}"), "client": b"\xff\0\0\0\1" + bytes([n, psid, 1])} | more
        more = {"lifetime": 3600} | more
    return Change(at, IPv4Address(ipv4), state, 0, 6, psid, **more)


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


def said(connection: Connection, unix: int, now: float = 0.0) -> list[Any]:
    octets = b""
    while piece := connection.produce(now, unix):
        octets += piece
    heard = []
    while octets:
        size = int.from_bytes(octets[:2])
        heard.append(PROFILES["W"].hear(octets[2 : 2 + size], DUID, unix))
        octets = octets[2 + size :]
    return heard


def psids(heard: list[Any]) -> list[int]:
    return sorted(int(row["psid"]) for one in heard for row in one.rows)


def database(*changes: Change, **options: Any) -> Database:
    made = Database(**options)
    made.apply(changes)
    return made


THREE = (change(1), change(2, n=1), change(3, ipv4="203.0.113.7"))
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


# --- the journal ------------------------------------------------------------------------------------------------------

FAULTS = [
    ("[]", "no JSON object"),
    ("{}", "missing: at, ipv4, state"),
    ('{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.1", "b6": 1}', "unknown: b6"),
    ('{"at": 1, "state": "FREE", "ipv4": "192.0.2.1"}', "the state is 'FREE'"),
    ('{"at": 1.5, "state": "ACTIVE", "ipv4": "192.0.2.1"}', "at is 1.5"),
    ('{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.1", "psid": 5}', "PSID 5 does not fit 0 bits"),
    ('{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.1", "client": "f"}', "hex"),
    ('{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.300"}', "Octet"),
    ("{", "Expecting"),
    ('{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.1", "client": 5}', "client is 5"),
    ('{"at": 1, "state": "ACTIVE", "ipv4": [1]}', r"ipv4 is \[1\]"),
    ('{"at": 1, "state": "ACTIVE", "ipv4": true}', "ipv4 is True"),
    ('{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.1", "b4": [1]}', r"b4 is \[1\]"),
    ('{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.1", "cltt": -1}', "cltt -1"),
    ('{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.1", "cltt": 99999999999}', "cltt 99999999999"),
]


@pytest.mark.parametrize("line, why", FAULTS)
def test_a_bad_line_is_refused_with_the_reason(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        journal.parse(line)


numbers = st.integers(0, INFINITE)
leasable = st.integers(1 << 24, 223 << 24).filter(lambda n: n >> 24 != 127).map(IPv4Address)
divisions = st.tuples(st.integers(0, 15), st.integers(0, 16), st.integers(0, 65535)).filter(lambda p: p[0] + p[1] <= 16)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    offset, psid_len, psid = draw(divisions)
    return Change(
        at=draw(numbers),
        ipv4=draw(leasable),
        state=draw(st.sampled_from(sorted(STATES))),
        offset=offset,
        psid_len=psid_len,
        psid=psid & ((1 << psid_len) - 1),
        b4=draw(st.one_of(st.none(), st.integers(0, (1 << 128) - 1).map(IPv6Address))),
        client=draw(st.one_of(st.just(b""), st.binary(min_size=2, max_size=CLIENT_MOST))),
        lifetime=draw(numbers),
        cltt=draw(st.one_of(st.none(), numbers)),
    )


@given(changes())
def test_the_journal_both_ways(one: Change) -> None:
    assert journal.parse(journal.line(one)) == one


@given(st.lists(changes(), min_size=1, max_size=20), st.integers(0, INFINITE))
def test_any_leases_are_octets_that_the_requestor_reads(some: list[Change], now: int) -> None:
    db = database(*some)
    leases = db.part(0, 1000)[0]
    octets, count = encode.data(leases, 7, now), 0
    while octets:
        size = int.from_bytes(octets[:2])
        count += len(PROFILES["W"].hear(octets[2 : 2 + size], DUID, 0).rows)
        octets = octets[2 + size :]
    assert count == len(leases)


def test_lines_that_come_in_pieces() -> None:
    lines = journal.Lines()
    assert [lines.feed(piece) for piece in (b"ab", b"c\nd\n\ne", b"\n")] == [[], ["abc", "d"], ["e"]]


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_no_octets_of_a_client_raise(pieces: list[bytes]) -> None:
    connection = Connection(database(*THREE), SETTINGS)
    for piece in [*pieces, vectors.octets(MESSAGES["V003"])]:
        connection.feed(piece, 0)
        for _ in range(100):
            if not connection.produce(0, T0):
                break


# --- our requestor as its client --------------------------------------------------------------------------------------


class Pair:
    """Both halves, joined by queues that can be cut and delayed."""

    def __init__(self, db: Database, profile: str = "W") -> None:
        self.db, self.profile = db, profile
        self.peer = Peer(server(profile=profile), saved=Saved())
        self.links: dict[Channel, Connection] = {}

    def run(self, now: float, piece: int = 1 << 20, budget: int = 1000) -> None:
        """Until then, and until nobody has anything to say; `budget` messages of a connection at a time."""
        peer = self.peer
        for _ in range(200):
            due = peer.requestor.timer()
            at = now if due is None or due > now else max(due, peer.now)
            peer.tick(at)
            self.db.expire(T0 + int(at))
            for _ in range(5):
                self._turn(at, piece, budget)
            if at == now:
                break

    def _turn(self, now: float, piece: int, budget: int) -> None:
        for channel in Channel:
            if self.peer.taken(Shut, channel):
                self.links.pop(channel, None)
            if self.peer.taken(Open, channel):
                self.links[channel] = Connection(self.db, SETTINGS, native=self.profile == "N")
                self.peer.requestor.connected("A", channel, now)
                self.peer.after(now)
            self._carry(channel, now, piece, budget)

    def _carry(self, channel: Channel, now: float, piece: int, budget: int) -> None:
        link = self.links.get(channel)
        if link is None:
            return
        link.feed(self.peer.requestor.data_to_send("A", channel), now)
        for _ in range(budget):
            octets = link.produce(now, T0 + int(now))
            if not octets:
                break
            for at in range(0, len(octets), piece):
                self.peer.recv(octets[at : at + piece], channel, now)
        if link.done:
            self.cut(channel, now)

    def cut(self, channel: Channel, now: float) -> None:
        if self.links.pop(channel, None) is not None:
            self.peer.lost(channel, now)

    @property
    def truth(self) -> dict[Any, str]:
        leases, _ = self.db.part(0, self.db.count)
        return {
            (str(IPv4Address(int(one["ipv4"]))), 0, 6, (int(one["params"][2]) << 8 | int(one["params"][3])) >> 10): str(
                IPv6Address(one["b4"].tobytes())
            )
            for one in leases
            if one["state"] == STATES["ACTIVE"]
        }


@pytest.mark.parametrize("profile", ["W", "N", "S"])
def test_a_bulk_and_then_the_stream(profile: str) -> None:
    pair = Pair(database(*THREE), profile)
    pair.peer.open()
    pair.run(1)
    assert pair.peer.table == pair.truth
    assert len(pair.truth) == 3
    pair.db.apply([change(4, T0 + 2), change(1, T0 + 2, "RELEASED")], T0 + 2)
    pair.run(2)
    assert pair.peer.table == pair.truth
    assert {key[3] for key in pair.peer.table} == {2, 3, 4}
    assert pair.peer.session().counts["connects_bulk"] == 1


@pytest.mark.parametrize("profile, seeds", [("W", 6), ("N", 3), ("S", 3)])
def test_chaos_ends_with_the_table_of_the_server(profile: str, seeds: int) -> None:
    """Random leases, cuts, restarts of the requestor, a log that is too short: after a while both have the same."""
    for seed in range(seeds):
        pair = chaos(random.Random(seed), profile)
        assert pair.peer.table == pair.truth, f"seed {seed}"


def chaos(rng: random.Random, profile: str) -> Pair:
    pair = Pair(Database(log_size=rng.choice([64, 1 << 16])), profile)
    pair.peer.open()
    now = 0.0
    for _ in range(60):
        now += rng.choice([0, 1, 5, 70])
        for _ in range(rng.randrange(30)):
            at, psid = T0 + int(now), rng.randrange(64)
            state = rng.choice(["ACTIVE", "ACTIVE", "RELEASED", "EXPIRED"])
            life = {"lifetime": rng.choice([30, 3600])} if state == "ACTIVE" else {}
            pair.db.apply([change(psid, at, state, rng.randrange(3), **life)], at)
        pair.run(now, piece=rng.choice([1 << 20, 1000, 77]), budget=rng.choice([1, 1000]))
        for channel in (ACTIVE, BULK):
            if rng.random() < 0.3:
                pair.cut(channel, now)
        if rng.random() < 0.1:  # the router is killed: its bindings and what was saved survive
            old = pair.peer
            pair.links.clear()
            pair.peer = Peer(server(profile=profile), restored=old.saved)
            pair.peer.table = dict(old.table)
            pair.peer.requestor.restore(old.requestor.leases.bindings(), now, 3600)
            pair.peer.open(now)
    for _ in range(30):
        now += 60
        pair.run(now)
    return pair


def test_a_kilobyte_of_log_and_a_thousand_clients() -> None:
    """Memory of a client is its cursor: changes are kept once for all."""
    db = database(*THREE)
    clients = [Connection(db, SETTINGS) for _ in range(1000)]
    for client in clients:
        client.feed(vectors.octets(MESSAGES["V001"]), 0)
        said(client, T0)
    db.apply([change(5, T0 + 1)], T0 + 1)
    assert all(psids(said(client, T0 + 1)) == [5] for client in clients)
