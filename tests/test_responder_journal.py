"""The leasequery server's journal, and any leases and octets at all."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.dhcp.profiles import PROFILES
from pylwaftr.responder import encode, journal
from pylwaftr.responder.database import STATES, Change
from pylwaftr.responder.encode import CLIENT_MOST, INFINITE
from pylwaftr.responder.server import Connection
from tests import leasequery_vectors as vectors
from tests.leasequery_vectors import DUID, MESSAGES, T0
from tests.responder_pair import SETTINGS, THREE, database

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
