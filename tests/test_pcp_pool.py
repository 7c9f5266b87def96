"""Port sets to hand out: which, to whom again, and when no longer."""

from __future__ import annotations

import sys
import tracemalloc
from ipaddress import IPv4Address

import numpy as np
import pytest

from pylwaftr import config
from pylwaftr.pcp.pool import Pool, Pools, key_of, parts, ports_of, reserved_bits
from pylwaftr.rows import BINDING_ROW
from tests.config_text import text
from tests.pcp_world import NOW, A, pool, row

NONE = ()


def drained(one: Pool) -> list[tuple[str, int]]:
    """All fresh sets, in the order that they are handed out in."""
    found = []
    while (key := one.fresh(one.window(1, 65535))) is not None:
        one.hold(key)
        ipv4, _, psid = parts(key)
        found.append((str(IPv4Address(ipv4)), psid))
    return found


CUTS = [
    # what, psid_len, excluded, PSIDs handed out
    ("ports 0-1023 and those of PCP", 5, ((0, 1023),), [1, *range(3, 32)]),
    ("sets of 1024 ports", 6, ((0, 1023),), [1, 2, 3, 4, *range(6, 64)]),
    ("without exclusions port 0 still cannot be asked for", 5, NONE, [1, *range(3, 32)]),
    ("an exclusion across sets", 4, ((0, 1023), (40000, 50000)), [2, 3, 4, 5, 6, 7, 8, 13, 14, 15]),
    ("a whole address", 0, ((0, 1023),), [0]),
    ("half an address: one half has 0-1023 and 5350", 1, ((0, 1023),), [1]),
]


@pytest.mark.parametrize("what, psid_len, excluded, psids", CUTS, ids=[row[0] for row in CUTS])
def test_sets_with_reserved_ports_stay_out(
    what: str, psid_len: int, excluded: tuple[tuple[int, int], ...], psids: list[int]
) -> None:
    one = Pool(pool(psid_len=psid_len, exclude_ports=excluded))
    assert [psid for _, psid in drained(one)] == psids


@pytest.mark.parametrize("psid_len", range(1, 17))
def test_no_set_of_any_size_holds_a_port_of_pcp(psid_len: int) -> None:
    one = Pool(pool(psid_len=psid_len, exclude_ports=((0, 1023),)))
    window = one.window(1, 65535)
    sets = [ports_of(key_of(0, psid_len, psid)) for psid in range(1 << psid_len) if window >> psid & 1]
    assert all(first > 1023 and not first <= port <= last for first, last in sets for port in (5350, 5351))
    assert (65536 >> psid_len) * len(sets) >= 65536 - 1024 - 2 * (65536 >> psid_len) - (65536 >> psid_len)


def test_the_configuration_and_the_pool_agree() -> None:
    loaded = config.load_text(text("pcp: {pools: [{ipv4: 203.0.113.0/30, psid_len: 6}]}")).pcp.pools[0]
    assert sorted({psid for _, psid in drained(Pool(loaded))}) == [p for p in loaded.psids() if p]


def test_an_address_has_as_few_users_as_can_be() -> None:
    assert drained(Pool(pool("192.0.2.0/31", 2))) == [
        ("192.0.2.0", 1), ("192.0.2.1", 1), ("192.0.2.0", 2), ("192.0.2.1", 2), ("192.0.2.0", 3), ("192.0.2.1", 3)
    ]  # fmt: skip


WINDOWS = [
    # what, psid_len, ports, first and last PSID
    ("everything", 5, (1, 65535), (1, 31)),
    ("one set exactly", 5, (26624, 28671), (13, 13)),
    ("one port short of a set", 5, (26625, 28671), None),
    ("from the middle of a set", 5, (50001, 65535), (25, 31)),
    ("too few", 5, (1, 100), None),
    ("a whole address asked from 1", 0, (1, 65535), (0, 0)),
    ("a whole address asked from 2", 0, (2, 65535), None),
    ("backwards", 5, (9, 1), None),
]


@pytest.mark.parametrize("what, psid_len, ports, expected", WINDOWS, ids=[row[0] for row in WINDOWS])
def test_only_sets_within_the_ports_asked_for(
    what: str, psid_len: int, ports: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    bits = Pool(pool(psid_len=psid_len)).window(*ports)
    found = [psid for psid in range(32) if bits >> psid & 1]
    assert (found[0], found[-1]) == expected if expected else not found


def test_a_set_that_came_back_waits_behind_fresh_ones_and_goes_out_oldest_first() -> None:
    pools = Pools([pool(psid_len=3)])
    (one,) = pools.all
    keys = [key_of(one.first, 3, psid) for psid in range(1, 8)]
    for key in keys:
        one.hold(key)
    assert pools.any_set(1, 65535, NOW) is None
    one.free(keys[4], NOW - 10)
    one.free(keys[1], NOW - 5)
    assert pools.any_set(1, 65535, NOW - 20) is None  # in quarantine
    assert pools.any_set(1, 65535, NOW - 10) == keys[4]
    assert pools.any_set(8192, 24575, NOW) == keys[1]  # the older one lies elsewhere
    one.free(keys[0], 0.0)
    assert pools.any_set(1, 65535, NOW - 20) == keys[0]  # nobody waits for it


def test_the_first_pool_goes_first_and_the_next_when_it_is_empty() -> None:
    pools = Pools([pool("198.51.100.9/32", 1), pool("192.0.2.5/32", 1)])
    first = pools.any_set(1, 65535, NOW)
    assert first == key_of(int(IPv4Address("198.51.100.9")), 1, 1)
    pools.all[0].hold(first)
    assert pools.any_set(1, 65535, NOW) == key_of(int(IPv4Address("192.0.2.5")), 1, 1)


def test_bindings_of_others_take_their_set_or_an_address_that_is_cut_otherwise() -> None:
    pools = Pools([pool("192.0.2.4/31", 5)])
    (one,) = pools.all
    rows = np.concatenate([row("192.0.2.5", 13, A), row("192.0.2.4", 1, A, psid_len=6), row("203.0.113.1", 1, A)])
    for where, ipv4, bits in reserved_bits(pools, rows):
        where.reserve(ipv4, bits)
    assert {ipv4 for ipv4, _ in drained(one)} == {"192.0.2.5"}
    assert not one.is_free(key_of(one.first + 1, 5, 13), NOW)
    for where, ipv4, bits in reserved_bits(pools, rows):
        where.unreserve(ipv4, bits, 0, NOW - 120)
    for key in (key_of(one.first + 1, 5, 13), key_of(one.first, 5, 20)):
        assert not one.is_free(key, NOW - 121)
        assert one.is_free(key, NOW - 120)


def test_reserved_sets_of_a_pool_with_thousands_a_address() -> None:
    rows = np.zeros(4000, BINDING_ROW)
    rows["ipv4"], rows["psid_len"], rows["psid"] = int(IPv4Address("192.0.2.5")), 12, np.arange(4000)
    found = list(reserved_bits(Pools([pool(psid_len=12)]), rows))
    bits = 0
    for _, ipv4, more in found:
        assert ipv4 == int(IPv4Address("192.0.2.5"))
        bits |= more
    assert bits == (1 << 4000) - 1


def test_a_million_sets_cost_little_until_somebody_has_them() -> None:
    tracemalloc.start()
    one = Pool(pool("10.0.0.0/8", 6))  # 16 million addresses
    assert one.sets > 10**9
    keys = []
    for _ in range(5000):
        key = one.fresh(one.window(1, 65535))
        assert key is not None
        one.hold(key)
        keys.append(key)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(keys)) == 5000
    assert used < 5000 * 300 + 100_000, f"{used} octets, {sys.version}"
