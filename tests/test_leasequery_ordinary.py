"""The compiled way of news into the table of leases is the readable one, row for row, and batches are rows in order."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

import numpy as np
import pytest

from pylwaftr.dhcp import leases as leases_file
from pylwaftr.dhcp.codec_lease import LEASE_ROW, Has, LeaseRows, State
from pylwaftr.dhcp.leases import Leases, Policy
from pylwaftr.dhcp.records import Claims, better
from pylwaftr.dhcp.slots import NOBODY
from pylwaftr.dhcp.standing import QUARANTINE, Standing
from pylwaftr.dhcp.winners import Changes
from pylwaftr.rows import BINDING_ROW, Rows

BR = IPv6Address("2001:db8:ffff::1").packed
OWN = IPv6Address("2001:db8:ffff::2").packed
POLICIES = (Policy("a", (IPv4Network("192.0.2.0/24"),), 1, hold_s=60.0), Policy("b", hold_s=0.0))
B4S = ["2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1", "fe80::1", "::1", "ff02::1", str(IPv6Address(OWN))]
DIVISIONS = [(0, 0), (6, 0), (6, 0), (6, 0), (4, 2)]


def news(rng: random.Random, odd: float, clock: int) -> LeaseRows:
    """One row; `odd`: how often there is something odd about each part of it."""
    row = np.zeros(1, LEASE_ROW)
    strange = lambda: rng.random() < odd  # noqa: E731
    length, offset = rng.choice(DIVISIONS) if strange() else (6, 0)
    row["ipv4"] = int(IPv4Address("198.51.100.1" if strange() else f"192.0.2.{rng.randrange(3)}"))
    row["psid_len"], row["psid_offset"], row["psid"] = length, offset, rng.randrange(min(3, 1 << length))
    b4 = rng.choice(B4S) if strange() else f"2001:db8:{rng.randrange(1, 3)}::{rng.randrange(40):x}"
    row["b4"] = np.frombuffer(IPv6Address(b4).packed, np.uint8)
    row["client"][0, :2] = 1, rng.randrange(3) if strange() else 7
    row["state"] = rng.choice(list(State)) if strange() or rng.random() < 0.3 else State.ACTIVE
    has = Has.B4 | Has.PORTS | Has.LIFETIME | Has.CLTT | Has.SINCE | Has.BASE | Has.CLIENT
    for flag in (Has.B4, Has.PORTS, Has.LIFETIME, Has.CLTT, Has.SINCE, Has.REMOTE):
        if strange():
            has ^= flag
    row["has"] = int(has)
    row["base"] = clock
    row["cltt"], row["since"] = (clock - rng.randrange(4) for _ in range(2))
    row["lifetime"] = 0xFFFFFFFF if strange() else rng.randrange(30)
    return row


def state(leases: Leases) -> dict[str, Any]:
    """All of it that anybody may notice, whatever the slots are numbered."""
    table, told = leases._table, {}
    for number, claims in leases._winners.claims.items():
        for slot in table.used().tolist():
            key, verdict = int(table.keys[slot]), int(claims.verdict[slot])
            if verdict:
                due = float(claims.deadline[slot]) if verdict == 1 else None
                told[number, key] = (verdict, int(claims.generation[slot]), due, claims.rows[slot].tobytes())
        told[number, -1] = (claims.next_due, claims.verify_due)
    bound = {int(table.keys[s]): (int(table.owner[s]), table.b4[s].tobytes()) for s in table.used().tolist()}
    return {"claims": told, "bound": {key: one for key, one in bound.items() if one[0] != NOBODY}}


def check_standings(leases: Leases, server: str) -> None:
    """Every lease that the server calls active is bound with its B4, or there is a reason why it is not."""
    found, table = leases.standings(server), leases._table
    verdict = leases._of(server).verdict[: table.count]
    bound = (table.owner[: table.count] != NOBODY) & (
        leases._of(server).rows["b4"][: table.count] == table.b4[: table.count]
    ).all(1)
    assert ((found == Standing.BOUND) == ((verdict == 1) & bound)).all()
    assert ((found == Standing.ENDED) == (verdict == 2)).all()
    assert (np.isin(found, QUARANTINE) == (verdict == 3)).all()
    assert ((found == Standing.OVERDUE) == (verdict == 4)).all()


def plain(changes: Changes) -> dict[str, list[bytes]]:
    return {name: sorted(row.tobytes() for row in getattr(changes, name)) for name in ("unbind", "bind", "former")}


def former(count: int) -> Rows:
    rows = np.zeros(count, BINDING_ROW)
    rows["ipv4"], rows["psid"], rows["psid_len"] = int(IPv4Address("192.0.2.1")), np.arange(count), 6
    rows["b4"], rows["br"] = np.frombuffer(IPv6Address(B4S[0]).packed, np.uint8), np.frombuffer(BR, np.uint8)
    return rows


@pytest.mark.parametrize("odd", [0.02, 0.2])
@pytest.mark.parametrize("seed", range(6))
def test_the_compiled_way_is_the_readable_one(seed: int, odd: float) -> None:
    rng = random.Random(seed)
    both = [Leases(POLICIES, BR, [OWN], most=60, compiled=compiled) for compiled in (True, False)]
    for leases in both:
        leases.restore(former(3), 0.0, 50.0)
    for step in range(500):
        server, now = rng.choice("aab"), step / 10
        row, what = news(rng, odd, 1_700_000_000 + step // 5), rng.random()
        outcomes = []
        for leases in both:
            if what < 0.9:
                outcomes.append(leases.heard(server, row, now, bulk=what < 0.3))
            elif what < 0.93:
                leases.bulk_begins(server)
            elif what < 0.96:
                outcomes.append(leases.bulk_ends(server))
            elif what < 0.98:
                outcomes.append(leases.expire(now))
            else:
                leases.set_live(server, step % 2 == 0)
        assert not outcomes or outcomes[0] == outcomes[1]
        assert state(both[0]) == state(both[1])
        for leases in both:
            check_standings(leases, server)
        assert both[0].counts == both[1].counts
        if rng.random() < 0.3:
            assert plain(both[0].take()) == plain(both[1].take())


def test_most_of_ordinary_news_goes_the_compiled_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above compares the readable way with itself."""
    leases, rng = Leases(POLICIES[1:], BR), random.Random(1)
    readable = 0
    apply = Leases._apply

    def counted(self: Leases, number: int, rows: LeaseRows, *rest: Any) -> None:
        nonlocal readable
        readable += len(rows)
        apply(self, number, rows, *rest)

    monkeypatch.setattr(Leases, "_apply", counted)
    for step in range(300):
        row = news(rng, 0.0, 1_700_000_000 + step)
        row["client"][0, 1] = 7
        row["state"] = State.ACTIVE if step % 3 else State.RELEASED
        leases.heard("b", row, step / 10)
    assert readable == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_is_its_rows_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_file, "AT_ONCE", 7)
    rng = random.Random(seed)
    together, alone = (Leases(POLICIES[1:], BR) for _ in range(2))
    for step in range(30):
        rows = np.concatenate([news(rng, 0.0, 1_700_000_000 + step) for _ in range(rng.randrange(1, 40))])
        rows["state"] = np.where(np.arange(len(rows)) % 4, State.ACTIVE, State.EXPIRED)
        together.heard("b", rows, float(step))
        for at in range(len(rows)):
            alone.heard("b", rows[at : at + 1], float(step))
        assert state(together) == state(alone)
        assert plain(together.take()) == plain(alone.take())


def beats(a: np.void, one: Claims, b: np.void, other: Claims) -> bool:
    """RFC 6926 section 7.6 for one lease of each, step by step; times within two seconds are the same."""

    def time(row: np.void, name: str, flag: Has, claims: Claims) -> float | None:
        return float(row[name]) - claims.skew_s if int(row["has"]) & flag else None

    def later(x: float | None, y: float | None) -> int:
        if x is None or y is None:
            return (x is not None) - (y is not None)
        return 0 if abs(x - y) <= 2 else 1 if x > y else -1

    cltt = [time(a, "cltt", Has.CLTT, one), time(b, "cltt", Has.CLTT, other)]
    since = [time(a, "since", Has.SINCE, one), time(b, "since", Has.SINCE, other)]
    steps = [later(*(x if x is not None else y for x, y in zip(cltt, since, strict=True)))]
    if None not in cltt:
        steps.append(later(*since))
    steps.append(bool(b["has"] & Has.REMOTE) - bool(a["has"] & Has.REMOTE))
    steps.append(int(a["state"] == State.ACTIVE) - int(b["state"] == State.ACTIVE))
    steps.append(other.rank - one.rank)
    return next(step for step in steps if step) > 0


@pytest.mark.parametrize("seed", range(3))
def test_many_claims_are_compared_as_one_is(seed: int) -> None:
    rng = random.Random(seed)
    claims = [Claims(400, rank) for rank in (1, 0)]
    for one in claims:
        one.skew_s = rng.choice([0.0, 1.5, 3.0])
        for slot in range(400):
            one.rows[slot] = news(rng, 0.4, 1_700_000_000 + rng.randrange(4))[0]
    slots = np.arange(400, dtype=np.int32)
    for a, b in (claims, claims[::-1]):
        for rivals in (slots, slots[::-1]):
            pairs = zip(slots.tolist(), rivals.tolist(), strict=True)
            found = [beats(a.rows[slot], a, b.rows[rival], b) for slot, rival in pairs]
            assert better(a, slots, b, rivals).tolist() == found
            assert 0 < sum(found) < 400


def test_changes_are_what_they_come_down_to() -> None:
    """Bound, moved and ended between two looks is nothing; what was moved is told with what it was."""
    leases, rng = Leases(POLICIES[1:], BR), random.Random(0)
    first = news(rng, 0.0, 1_700_000_000)
    first["state"] = State.ACTIVE
    leases.heard("b", first, 0.0)
    assert [len(part) for part in (leases.take().bind, leases.take().bind)] == [1, 0]
    moved = first.copy()
    moved["b4"][0, 15] ^= 0x80
    moved["base"] += 5
    moved["cltt"] += 5
    leases.heard("b", moved, 1.0)
    leases.heard("b", moved, 1.0)
    changes = leases.take()
    assert changes.bind["b4"].tobytes() == moved["b4"].tobytes()
    assert changes.former["b4"].tobytes() == first["b4"].tobytes()
    assert not len(changes.unbind)
    for number, b4 in enumerate((first, moved)):
        again = b4.copy()
        again["base"], again["cltt"] = 1_700_000_020 + number, 1_700_000_020 + 5 * number
        leases.heard("b", again, 2.0)
    assert len(leases.take()) == 0
