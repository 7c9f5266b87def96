"""Lines of a journal: what compiled code reads is what the readable way reads, and it leaves the rest to that."""

from __future__ import annotations

import json
import random
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.responder import _lines, encode, journal
from pylwaftr.responder.database import CHANGE, STATES, Change, Changes, Database, rows_of
from pylwaftr.responder.encode import CLIENT_MOST, INFINITE, LEASE

WORD = st.integers(0, INFINITE)
LONG = '{"at": 1772366400, "state": "ACTIVE", "ipv4": "198.51.100.10", "offset": 2, "psid_len": 6, "psid": 33, '
LONG += '"lifetime": 3600, "b4": "2001:db8::1", "client": "ff000001Ab", "cltt": 1772366399}'


def compiled(line: str) -> Changes | None:
    """None: it leaves the line to the readable way."""
    out = np.zeros(1, CHANGE)
    at, count = _lines.read([line], 0, out, 0)
    assert at == count
    return out if count else None


def readable(line: str) -> Changes | None:
    try:
        return rows_of([journal.parse(line)])
    except journal.FAULTS:
        return None


def both(line: str) -> bool:
    """Whether compiled code takes the line; it may only if the readable way takes it for the same."""
    found, wanted = compiled(line), readable(line)
    assert found is None or (wanted is not None and found.tobytes() == wanted.tobytes()), line
    return found is not None


@st.composite
def changes(draw: st.DrawFn) -> Change:
    offset = draw(st.integers(0, 15))
    length = draw(st.integers(0, 16 - offset))
    return Change(
        at=draw(WORD),
        ipv4=IPv4Address(draw(WORD)),
        state=draw(st.sampled_from(list(STATES))),
        offset=offset,
        psid_len=length,
        psid=draw(st.integers(0, (1 << length) - 1)),
        b4=draw(st.none() | st.builds(IPv6Address, st.integers(0, (1 << 128) - 1))),
        client=draw(st.binary(max_size=CLIENT_MOST).filter(lambda client: len(client) != 1)),
        lifetime=draw(WORD),
        cltt=draw(st.none() | WORD),
    )


@given(changes(), st.randoms(use_true_random=False), st.sampled_from([(", ", ": "), (",", ":"), (" ,  ", " :  ")]))
def test_what_is_written_is_read_compiled(change: Change, order: random.Random, marks: tuple[str, str]) -> None:
    """In any order of names, with or without blanks."""
    assert both(journal.line(change))
    told = list(json.loads(journal.line(change)).items())
    order.shuffle(told)
    line = json.dumps(dict(told), separators=marks)
    found = compiled(line)
    assert found is not None
    assert found.tobytes() == rows_of([change]).tobytes()


USUAL = [
    '{"at": 0, "state": "ACTIVE", "ipv4": "0.0.0.0"}',
    '{"at": 4294967295, "state": "RELEASED", "ipv4": "255.255.255.255", "client": ""}',
    '{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.1", "b4": "2001:DB8:0:0:0:0:192.0.2.1"}',
    f'{{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.1", "client": "{"ab" * CLIENT_MOST}"}}',
    '{ "at" :1 ,"state":"ACTIVE","ipv4":"192.0.2.1","psid_len": 16, "psid": 65535}',
    '{"at": 1, "state": "ACTIVE", "ipv4": "192.0.2.1",  "client": "ff00", "lifetime": 3600}',  # Kea's hook
]
# Sound or not, the readable way alone knows.
ODD = [
    "",
    "{}",
    "[]",
    "{",
    LONG[:-1],
    LONG + "x",
    LONG + "}",
    " " + LONG,
    LONG.replace('"at"', '"\\u0061t"'),
    LONG.replace("1772366400", "1772366400.0"),
    LONG.replace("1772366400", "-1"),
    LONG.replace("1772366400", "01"),
    LONG.replace("1772366400", "4294967296"),
    LONG.replace("1772366400", "1" * 30),
    LONG.replace("1772366400", "true"),
    LONG.replace("1772366400", '"1"'),
    LONG.replace("ACTIVE", "active"),
    LONG.replace("ACTIVE", "ACTIV"),
    LONG.replace("ACTIVE", "ACTIVEX"),
    LONG.replace("ACTIVE", "AKTÏVE"),
    LONG.replace('"198.51.100.10"', "3325256714"),
    LONG.replace("198.51.100.10", "198.51.100.010"),
    LONG.replace("198.51.100.10", "198.51.100"),
    LONG.replace("198.51.100.10", "198.51.100.10 "),
    LONG.replace("2001:db8::1", "2001:db8::1%eth0"),
    LONG.replace("2001:db8::1", "2001:db8::1/64"),
    LONG.replace("2001:db8::1", "2001:db8:" + "0" * 60),
    LONG.replace('"2001:db8::1"', "null"),
    LONG.replace("ff000001Ab", "f"),
    LONG.replace("ff000001Ab", "ff"),
    LONG.replace("ff000001Ab", "ff 00"),
    LONG.replace("ff000001Ab", "fg00"),
    LONG.replace("ff000001Ab", "ab" * (CLIENT_MOST + 1)),
    LONG.replace('"offset": 2', '"offset": 16'),
    LONG.replace('"psid_len": 6', '"psid_len": 15'),
    LONG.replace('"psid": 33', '"psid": 64'),
    LONG.replace('"cltt"', '"at"'),
    LONG.replace('"cltt"', '"clt"'),
    LONG.replace('"state": "ACTIVE", ', ""),
    LONG.replace(", ", ",\t"),
    LONG.replace(", ", " "),
]


@pytest.mark.parametrize("line", [LONG, *USUAL])
def test_what_is_usual(line: str) -> None:
    assert both(line)


@pytest.mark.parametrize("line", ODD)
def test_what_is_left_to_the_readable_way(line: str) -> None:
    assert not both(line)


@given(st.integers(0, len(LONG) - 1), st.integers(0, 3), st.text(max_size=3))
def test_no_line_is_read_otherwise_than_the_readable_way(at: int, gone: int, come: str) -> None:
    both(LONG[:at] + come + LONG[at + gone :])


@given(st.text(alphabet="0123456789abcdefF:.", max_size=46))
def test_no_address_is_read_otherwise(text: str) -> None:
    both(LONG.replace("2001:db8::1", text))
    both(LONG.replace("198.51.100.10", text))


def test_lines_stay_in_order_and_a_refused_one_is_told() -> None:
    lines = [journal.line(Change(at, IPv4Address("192.0.2.1"), "ACTIVE")) for at in range(5)]
    lines[1] = lines[1].replace(", ", ",\t")  # sound, and odd
    lines[3] = "odd"
    refused: list[tuple[str, str]] = []
    found = journal.read(lines, lambda text, fault: refused.append((text, str(fault))))
    assert found["at"].tolist() == [0, 1, 2, 4]
    ((text, fault),) = refused
    assert text == "odd"
    assert "Expecting" in fault
    assert len(journal.read([], lambda text, fault: refused.append((text, "")))) == 0


# --- and what becomes of them -----------------------------------------------------------------------------------------


class Model:
    """The leases and their ring as one would write them down."""

    def __init__(self, size: int) -> None:
        self.size, self.log, self.now = size, list[tuple[int, int]](), 0
        self.leases: dict[int, dict[str, Any]] = {}

    def apply(self, change: Change) -> None:
        lease = self.leases.setdefault(change.key, {"state": 0, "since": 0, "cltt": 0, "b4": None, "client": b""})
        active = change.state == "ACTIVE"
        if lease["state"] != STATES[change.state]:
            lease |= {"state": STATES[change.state], "since": change.at}
        if active or change.cltt is not None:
            lease["cltt"] = change.at if change.cltt is None else change.cltt
        if active or change.b4 is not None:
            lease["b4"] = change.b4
        if active or change.client:
            lease["client"] = change.client
        if active:
            end = min(lease["cltt"] + change.lifetime, INFINITE - 1)
            lease["expires"] = INFINITE if change.lifetime == INFINITE else end
        self.now = max(self.now, change.at)
        lease["number"] = len(self.log)
        self.log.append((change.key, self.now))
        gone = len(self.log) - 1 - self.size
        old = self.leases.get(self.log[gone][0]) if gone >= 0 else None
        if old is not None and old["state"] != STATES["ACTIVE"] and old["number"] == gone:
            del self.leases[self.log[gone][0]]


FEW = st.builds(
    lambda change, key: Change(
        **{name: getattr(change, name) for name in ("at", "state", "b4", "client", "lifetime", "cltt")},
        ipv4=IPv4Address("192.0.2.1"),
        psid_len=3,
        psid=key,
    ),
    changes(),
    st.integers(0, 7),
)


@given(st.lists(st.lists(FEW, max_size=8), max_size=8), st.sampled_from([2, 5, 1000]))
def test_leases_are_what_their_changes_made_of_them(batches: list[list[Change]], size: int) -> None:
    database, model = Database(log_size=size), Model(size)
    for batch in batches:
        database.apply(batch)
        for change in batch:
            model.apply(change)
    leases, _ = database.part(0, database.count)
    assert len(leases) == len(model.leases)
    for lease in leases:
        psid = int(lease["params"][2]) >> 5
        wanted = model.leases[int(IPv4Address("192.0.2.1")) << 26 | 3 << 16 | psid]
        assert (int(lease["state"]), int(lease["since"]), int(lease["cltt"])) == tuple(
            wanted[name] for name in ("state", "since", "cltt")
        )
        assert lease["client"][: lease["client_len"]].tobytes() == wanted["client"]
        assert bool(lease["has_b4"]) == (wanted["b4"] is not None)
        assert lease["b4"].tobytes() == (bytes(16) if wanted["b4"] is None else wanted["b4"].packed)
        if "expires" in wanted:
            assert int(lease["expires"]) == wanted["expires"]
    assert database.head == len(model.log)
    overwritten = model.log[: max(0, len(model.log) - size)]
    assert database.horizon == (overwritten[-1][1] + 1 if overwritten else 0)


def test_more_leases_than_there_was_room_for_are_as_they_were() -> None:
    count = 3000
    database = Database()
    database.take(rows_of(Change(1, IPv4Address(n << 8), "ACTIVE", b4=IPv6Address(n)) for n in range(1, count)), None)
    leases, _ = database.part(0, count)
    assert leases.dtype == LEASE  # octet for octet
    assert [(int(lease["ipv4"]) >> 8, lease["b4"].tobytes()) for lease in leases] == [
        (n, n.to_bytes(16)) for n in range(1, count)
    ]
    told = encode.data(leases, 7, 2)
    frame = 2 + int.from_bytes(told[:2])
    assert len(told) == frame * len(leases)
    for n in (1, 2, count - 1):  # in the order of the leases, each with its tunnel address
        assert n.to_bytes(16) in told[frame * (n - 1) : frame * n]
