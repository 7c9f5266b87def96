"""The compiled decode against the readable one, frame for frame; and the index of keys against a dict."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.dhcp import _bulk, codec6
from pylwaftr.dhcp._index import KeyIndex
from pylwaftr.dhcp.codec4 import Malformed
from pylwaftr.dhcp.codec_lease import LEASE_ROW, State
from pylwaftr.dhcp.profiles import PROFILES, Heard
from tests import leasequery_vectors as vectors
from tests.leasequery_peer import data, ended, lease
from tests.leasequery_vectors import DUID, MESSAGES, T0

XID = 0xA001
STREAM = [v for v in MESSAGES.values() if v["transport"] == "tcp6" and v["dir"] == "s2c" and v["hex"][4:6] == "11"]


def readable(octets: bytes) -> Heard | None:
    try:
        return PROFILES["W"].hear(octets[2:], DUID, T0)
    except Malformed:
        return None


def agree(frame: bytes, xid: int = XID) -> bool:
    """Whether it was taken; if so, the readable codec has to take it too, and say the same without a warning."""
    rows, octets, frames, outer, nested = _bulk.decode(frame, 0, xid)
    if not frames:
        assert (octets, len(rows)) == (0, 0)
        return False
    heard = readable(frame)
    assert heard is not None
    assert heard.rows.tobytes() == rows.tobytes()
    assert (heard.warnings, heard.word, heard.client_link, heard.xid) == ((), None, False, xid)
    assert heard.base is not None
    assert (heard.base.outer, heard.base.nested, octets) == (outer, nested, len(frame))
    return True


@pytest.mark.parametrize("vector", STREAM, ids=lambda v: v["id"])
def test_a_vector_is_taken_only_if_ordinary(vector: dict[str, Any]) -> None:
    taken = agree(vectors.octets(vector))
    ordinary = vector["expect"] in ("accept", "quarantine", "ambiguous") or vector["context"] == "await-reply"
    assert taken is (ordinary and "options" not in vector["name"] and "two" not in vector["name"])


leases = st.builds(
    lease,
    psid=st.integers(0, 63),
    at=st.integers(0, 2),
    b4=st.sampled_from(["", None, "fe80::1", "2001:db8::1"]),
    client=st.integers(0, 65535),
    lifetime=st.sampled_from([None, 0, 1, 3600, 0xFFFFFFFF]),
    since=st.one_of(st.none(), st.integers(-5000, 0)),
)
news = st.one_of(leases, st.builds(ended, leases, at=st.integers(0, 2), state=st.sampled_from(State)))


@given(st.lists(news, max_size=4))
def test_any_leases(some: Any) -> None:
    agree(data(XID, 1, *some))


@given(st.sampled_from(STREAM), st.lists(st.tuples(st.integers(2, 500), st.integers(0, 255)), max_size=3))
def test_any_changed_octets(vector: dict[str, Any], changes: list[tuple[int, int]]) -> None:
    octets = bytearray(vectors.octets(vector))
    for at, value in changes:
        if 2 <= at < len(octets):
            octets[at] = value
    agree(bytes(octets))


@given(st.sampled_from(STREAM), st.integers(0, 500), st.integers(0, 500), st.binary(max_size=4))
def test_any_octets_taken_out_and_put_in(vector: dict[str, Any], at: int, end: int, more: bytes) -> None:
    body = vectors.octets(vector)[2:]
    agree(codec6.frame(body[:at] + more + body[max(at, end) :]))


@given(st.binary(max_size=700))
def test_any_octets(octets: bytes) -> None:
    _bulk.decode(octets, 0, XID)
    agree(codec6.frame(b"\x11\x00\xa0\x01" + octets))


def test_it_stops_in_front_of_what_is_odd() -> None:
    one, odd, two = data(XID, 0, lease(1)), vectors.octets(MESSAGES["V037"]), data(XID, 0, lease(2))
    buffer = one + odd + two
    rows, octets, frames, *_ = _bulk.decode(buffer, 0, XID)
    assert (rows["psid"].tolist(), octets, frames) == ([1], len(one), 1)
    rows, octets, frames, *_ = _bulk.decode(buffer, len(one) + len(odd), XID)
    assert (rows["psid"].tolist(), octets, frames) == ([2], len(two), 1)


def test_an_unfinished_frame_waits() -> None:
    whole = data(XID, 0, lease(1)) + data(XID, 0, lease(2))
    for cut in range(len(whole)):
        rows, octets, *_ = _bulk.decode(whole[:cut], 0, XID)
        assert (len(rows), octets) == ((1, len(whole) // 2) if cut >= len(whole) // 2 else (0, 0))


def test_the_highest_base_time_is_told() -> None:
    rows, _, _, outer, nested = _bulk.decode(data(XID, 5, lease(1, 5)) + data(XID, 3, lease(2, 3)), 0, XID)
    assert (len(rows), outer, nested) == (2, T0 + 5 - codec6.EPOCH, T0 + 5)


def test_a_row_has_72_octets() -> None:
    assert LEASE_ROW.itemsize == 72


@pytest.mark.parametrize("seed", range(5))
def test_the_index_is_a_dict(seed: int) -> None:
    rng = random.Random(seed)
    index, model = KeyIndex(), dict[int, int]()
    for _ in range(60):
        keys = np.array(rng.sample(range(4000), rng.randrange(1, 300)), np.uint64) * np.uint64(1 << rng.choice([0, 26]))
        if rng.random() < 0.6:
            slots = np.array([rng.randrange(1 << 20) for _ in keys], np.int32)
            index.put(keys, slots)
            model |= dict(zip(keys.tolist(), slots.tolist(), strict=True))
        else:
            index.remove(keys)
            for key in keys.tolist():
                model.pop(key, None)
        asked = np.array([*model, *range(100)], np.uint64)
        assert index.find(asked).tolist() == [model.get(key, -1) for key in asked.tolist()]
        assert len(index) == len(model)
