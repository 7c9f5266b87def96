"""Bindings of others by subscriber: the compiled table is a list of rows."""

from __future__ import annotations

import random
from ipaddress import IPv6Address

import numpy as np
import pytest

from pylwaftr import rows as r
from pylwaftr.pcp.statics import Statics
from pylwaftr.rows import Rows

BR = IPv6Address("2001:db8:ffff::1").packed


def some(rng: random.Random, count: int) -> list[bytes]:
    """Rows of a few subscribers; many are alike in the first half of the address."""
    made = []
    for _ in range(count):
        b4 = (0x20010DB8 << 96) + (rng.randrange(4) << 72) + (rng.randrange(2) << 64) + rng.randrange(3)
        made.append(r.row(rng.randrange(3), 0, 6, rng.randrange(4), b4.to_bytes(16), BR))
    return [row.tobytes() for row in r.array(made)]


def packed(rows: list[bytes]) -> Rows:
    return np.frombuffer(b"".join(rows), r.BINDING_ROW)


def octets(rows: Rows) -> list[bytes]:
    return sorted(row.tobytes() for row in rows)


@pytest.mark.parametrize("mask", [32, 56, 60, 64, 70, 128])
def test_it_is_a_list_of_rows(mask: int) -> None:
    rng, statics, model = random.Random(mask), Statics(mask), list[bytes]()
    for step in range(60):
        come = some(rng, rng.choice([0, 1, 5, 700]))
        statics.add(packed(come))
        model += come
        gone = rng.sample(model, min(len(model), rng.choice([0, 1, 50, 600]))) + some(rng, 1)
        statics.remove(packed(gone))
        for row in gone:
            if row in model:
                model.remove(row)
        if step == 30:
            mask = 60 if mask != 60 else 48
            statics.recut(mask)
        assert len(statics) == len(model)
        assert octets(statics.all()) == sorted(model)
        tunnel = some(rng, 1)[0][8:24]
        for length in (48, mask, 128):
            wanted = int.from_bytes(tunnel) >> (128 - length)
            here = [row for row in model if int.from_bytes(row[8:24]) >> (128 - length) == wanted]
            found = statics.of_prefix(tunnel, length)
            assert octets(found) == sorted(here)
            assert found["ipv4"].tolist() == sorted(found["ipv4"].tolist())
            assert statics.may_have(tunnel, length) or not here


def test_none_is_known_without_looking() -> None:
    statics = Statics(56)
    statics.add(packed(some(random.Random(1), 50)))
    assert not statics.may_have(IPv6Address("2001:db9::1").packed, 56)
    assert not statics.may_have(IPv6Address("2001:db9::1").packed, 128)


def test_a_row_of_a_large_subscriber_goes_as_fast_as_one_alone() -> None:
    """In any order: a walk through all that the subscriber has would be quadratic, and not end today."""
    count = 1_000_000
    many = np.zeros(count, r.BINDING_ROW)
    many["ipv4"] = np.arange(count)
    for gone in (many, many[::-1]):
        statics = Statics(56)
        statics.add(many)
        statics.remove(gone[: count - 1])
        assert octets(statics.all()) == octets(gone[count - 1 :])


def test_rows_alike_but_for_the_br_address_are_told_apart() -> None:
    one, other = (packed(some(random.Random(1), 1)).copy() for _ in range(2))
    other["br"] = 7
    statics = Statics(56)
    statics.add(np.concatenate([one, other, one]))
    statics.remove(one)
    assert octets(statics.all()) == octets(np.concatenate([one, other]))


def test_what_has_gone_does_not_come_back_when_the_table_grows() -> None:
    come = packed([r.array([r.row(n, 0, 6, 1, bytes([32, n % 7, *bytes(14)]), BR)]).tobytes() for n in range(3000)])
    statics = Statics(56)
    statics.add(come[:1000])
    statics.remove(come[100:600])
    statics.add(come[1000:])
    assert octets(statics.all()) == octets(np.concatenate([come[:100], come[600:]]))
    tunnel = bytes([32, 3, *bytes(14)])
    assert octets(statics.of_prefix(tunnel, 56)) == octets(statics.all()[statics.all()["b4"][:, 1] == 3])
