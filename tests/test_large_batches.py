"""Batches that are large beside the table, which are worked on in the table's order instead of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from pylwaftr import _core
from tests.table_model import Model
from tests.table_rows import rows_of

CONFIG, OPERATOR, PCP = _core.SOURCE_CONFIG, _core.SOURCE_OPERATOR, _core.SOURCE_PCP
N = 70_000  # a table of several parts (binding_judge.cpp)

Rows = np.ndarray[Any, Any]


def shuffled(rows: Rows) -> Rows:
    return rows[np.random.default_rng(3).permutation(len(rows))]


def in_order(rows: Rows) -> Rows:
    return np.sort(rows, order=["ipv4", "psid"])


def with_faults() -> Rows:
    """More than there is room for, and every 1,000th row something that is refused for itself or for another row."""
    rows = shuffled(_core.bench_rows(0, N + 500))
    for at in range(0, N, 1_000):
        match at // 1_000 % 5:
            case 0:
                rows[at] = rows[at // 2 + 7]
            case 1:
                rows["psid_len"][at] = 5
            case 2:
                rows["psid"][at] = 64
            case 3:
                rows["b4"][at] = 0
            case 4:
                rows["ipv4"][at] = 0x7F000001
    return rows


def test_refusals_are_those_of_the_rows_in_their_order() -> None:
    standing = _core.bench_rows(0, 40)
    table, model = _core.BindingTable(N), Model(N)
    for first, source in ((0, CONFIG), (20, PCP)):
        assert table.bind(standing[first : first + 20], source, 1)["added"] == 20
        model.bind(rows_of(standing[first : first + 20]), source, 1)
    batch = with_faults()
    expected = model.bind(rows_of(batch), OPERATOR, 2)["refused"]
    reasons = {reason for _, reason in expected}
    assert reasons == {
        "duplicate_in_batch", "other_params_on_address", "psid_range", "bad_address", "outranked", "table_full",
    }  # fmt: skip
    assert table.bind(batch, OPERATOR, 2, validate_only=True)["refused"] == expected
    assert table.bind(batch, OPERATOR, 2)["refused"] == expected
    assert np.array_equal(in_order(table.dump()), standing)


def test_new_changed_and_unchanged_at_once() -> None:
    """With the last of the new ones come to 95 %: others are moved to make room for them."""
    table = _core.BindingTable(N)
    rows = shuffled(_core.bench_rows(0, N))
    assert table.bind(rows[:50_000], OPERATOR, 1)["added"] == 50_000
    rows["b4"][:30_000, 15] ^= 2
    report = {"added": 20_000, "replaced": 30_000, "unchanged": 20_000, "removed": 0, "refused": []}
    assert table.bind(rows, CONFIG, 2, validate_only=True) == report
    assert table.bind(rows, CONFIG, 2) == report
    assert (table.size_of(CONFIG), table.size_of(OPERATOR)) == (N, 0)
    assert len(table.sweep(CONFIG, 2)) == 0
    assert np.array_equal(in_order(table.dump()), in_order(rows))
    bound, b4, br = table.find_keys(rows["ipv4"].copy(), rows["psid"].copy())
    assert bound.all()
    assert np.array_equal(b4, rows["b4"])
    assert np.array_equal(br, rows["br"])


def homes(ipv4: int, buckets: int) -> frozenset[int]:
    """Of a whole address (cuckoo_way.hpp)."""
    key = ipv4 << 16
    turned = (key << 40 | key >> 24) & 0xFFFFFFFFFFFFFFFF
    product = (key ^ 0x9E3779B97F4A7C15) * (turned ^ 0xD6E8FEB86659FD93)
    mixed = (product ^ product >> 64) & 0xFFFFFFFFFFFFFFFF
    return frozenset(half * buckets >> 32 for half in (mixed & 0xFFFFFFFF, mixed >> 32))


def test_no_way_to_a_free_slot_takes_the_whole_batch_back() -> None:
    """Fifteen keys that have the same two buckets of seven."""
    table = _core.BindingTable(30)
    buckets = table.slots // 7
    crowd = [n for n in range(0x0A000000, 0x0A010000) if homes(n, buckets) == {2, 5}][:15]
    rows = _core.bench_rows(0, 20)
    rows["psid_len"] = rows["psid"] = rows["psid_offset"] = 0
    rows["ipv4"] = [0x0B000001, 0x0B000002, *crowd, 0x0B000003, 0x0B000004, 0x0B000005]
    [(index, reason)] = table.bind(rows, CONFIG, 1)["refused"]
    assert reason == "table_full"
    assert rows["ipv4"][index] in crowd
    assert table.size == 0
    assert len(table.dump()) == 0
    assert table.find_key(crowd[0], 0) is None
    assert table.bind(np.delete(rows, index), CONFIG, 1)["added"] == 19
