"""Whatever comes: no exception, no trace of garbage, nobody starves; and the compiled form is the readable one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylwaftr.pcp import codec
from pylwaftr.pcp.numbers import Result
from pylwaftr.pcp.options import Description, PreferFailure, ThirdParty
from pylwaftr.pcp.outcome import Outcome, Sender
from pylwaftr.pcp.server import PcpServer
from tests import pcp_world
from tests.pcp_world import (
    A_MOVED,
    BR,
    DHCP,
    INSIDE,
    NO_ADDRESS,
    NONCE,
    NOW,
    OTHER_NONCE,
    SHARED,
    A,
    B,
    ask,
    ask_port,
    manager,
    pool,
    row,
    said,
    tunnel,
)

POOLS = (pool(), pool("192.0.2.6/32", 0), pool("198.51.100.0/30", 3, signalling="draft-b"), pool("192.0.2.9/32", 16))
FIXED = np.concatenate([row("192.0.2.5", 3, B), row("203.0.113.1", 1, A_MOVED), row("198.51.100.1", 2, DHCP, 3)])
SENDERS = [tunnel(A), tunnel(A_MOVED), tunnel(B), tunnel(A, 7), Sender(A, DHCP, INSIDE, 7), manager(), manager(INSIDE)]

_REQUESTS = [ask(), ask(lifetime=0), ask_port(2100), ask_port(2100, lifetime=0), ask(options=[Description(b"text")])]
_MORE = [ask(client=DHCP, options=[ThirdParty(B)]), codec.encode_request(codec.AnnounceRequest(INSIDE))]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request with some octets changed, cut, or more of them."""
    octets = bytearray(draw(st.sampled_from(_REQUESTS + _MORE)))
    for _ in range(draw(st.integers(0, 6))):
        octets[draw(st.integers(0, len(octets) - 1))] = draw(st.sampled_from([0, 1, 2, 5, 127, 128, 130, 255]))
    cut = draw(st.integers(0, len(octets)))
    return bytes(octets[:cut] if draw(st.booleans()) else octets) + draw(st.binary(max_size=12))


def is_answer(reply: bytes) -> bool:
    return len(reply) % 4 == 0 and 24 <= len(reply) <= 1100 and reply[0] == 2 and reply[1] & 128 == 128


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.binary(max_size=1400), damaged()), st.sampled_from(SENDERS), st.booleans())
def test_no_datagram_makes_the_server_raise_or_leaves_a_trace_of_what_was_refused(
    datagram: bytes, sender: Sender, known: bool
) -> None:
    server = pcp_world.server(pools=POOLS)
    if known:
        server.receive(ask(), tunnel(A), NOW)
    before = dict(server.mappings())
    outcome = server.receive(datagram, sender, NOW + 1)
    assert outcome.reply is None or is_answer(outcome.reply)
    assert len(outcome.reply or b"") <= max(24, len(datagram) + 3)  # nothing is amplified
    if outcome.reply is None or outcome.reply[3]:
        assert outcome.changes_nothing
        assert dict(server.mappings()) == before
    server.revert(outcome)
    assert dict(server.mappings()) == before


_ASKED = st.builds(
    ask,
    first=st.sampled_from([1, 1, 1, 0, 2048, 30000]),
    size=st.sampled_from([65535, 65535, 65535, 2, 2048, 40000]),
    lifetime=st.sampled_from([7200, 7200, 1, 600, 0xFFFFFFFF, 0]),
    nonce=st.sampled_from([NONCE, NONCE, OTHER_NONCE]),
    hint=st.sampled_from([(NO_ADDRESS, 0), (SHARED, 0), (SHARED, 2049), (SHARED, 40960), (bytes(16), 0), (DHCP, 9)]),
    protocol=st.sampled_from([0, 0, 0, 6, 17]),
    parity=st.booleans(),
)
_STEPS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.one_of(_ASKED, damaged()), st.sampled_from(SENDERS)), min_size=1, max_size=6),
        st.sampled_from([0, 1, 130, 4000]),  # seconds until then
        st.sampled_from(["keep", "keep", "keep", "revert", "timer", "reconfigure"]),
    ),
    max_size=8,
)
_SETTINGS = st.sampled_from(
    [
        {},
        {"max_sets": 3},
        {"nonce_policy": "subscriber", "max_softwires": 2, "max_sets": 2},
        {"mask": 60, "on_new_address": "reject", "protocols": frozenset({0, 6})},
        {"per_subscriber": 2, "per_s": 5},
    ]
)


def told(outcome: Outcome) -> tuple[object, ...]:
    bind, unbind = outcome.bind.tobytes(), outcome.unbind.tobytes()
    return outcome.replies, outcome.more, bind, unbind, outcome.records, outcome.sends, outcome.events


@settings(max_examples=150, deadline=None)
@given(_STEPS, _SETTINGS, st.sampled_from([(0, 1, 2, 3), (1, 0), (2,), (3, 0)]), st.booleans())
def test_the_compiled_form_is_the_readable_one(
    steps: list[tuple[list[tuple[bytes, Sender]], int, str]],
    changed: dict[str, object],
    order: tuple[int, ...],
    lost: bool,
) -> None:
    wanted = pcp_world.settings(**{"pools": tuple(POOLS[index] for index in order), **changed})
    fast, plain = (PcpServer(wanted, NOW, compiled) for compiled in (True, False))
    for server in (fast, plain):
        server.load({}, NOW, lost)
        server.reserve(FIXED[: len(order)], NOW)
    now = NOW
    for requests, wait, then in steps:
        now += wait
        one, other = (server.receive_many(requests, now) for server in (fast, plain))
        assert told(one) == told(other)
        assert one.counted == other.counted
        if then == "revert":
            fast.revert(one)
            plain.revert(other)
        elif then == "timer":
            assert told(fast.handle_timer(now)) == told(plain.handle_timer(now))
        elif then == "reconfigure":
            fast.reconfigure(wanted)
            plain.reconfigure(wanted)
        assert dict(fast.mappings()) == dict(plain.mappings())
        assert fast.pools() == plain.pools()
        assert fast.timer() == plain.timer()
        in_step(fast)


def in_step(server: PcpServer) -> None:
    """What is kept beside the mappings says the same as they do."""
    mappings = server._mappings
    active = [key for key, one in server.mappings() if one.active]
    assert server.active == len(active) == len(server.rows())
    assert sum(view.held for view in server.pools()) == len(active)
    assert sorted(key for keys in mappings.holders.values() for key in keys) == sorted(mappings.records)
    for subscriber, keys in mappings.holders.items():
        assert all(mappings.subscriber(mappings.records[key][20:36]) == subscriber for key in keys)
    for key in mappings.records:
        one = mappings.pools.of(key)
        assert one is not None
        assert (key in one.freed) is (key not in active)
    for key in active:
        one_mapping = mappings.get(key)
        assert one_mapping is not None
        assert mappings.due[key] < one_mapping.until + 1
    counted = Counter(b4 for key, one in server.mappings() if one.active for b4 in [mappings.subscriber(one.b4)])
    assert all(count <= server.settings.max_sets for count in counted.values())


# --- floods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "readable"])
@pytest.mark.parametrize("flood", [ask(), ask(nonce=OTHER_NONCE), b"\0\0", ask(options=[PreferFailure()])],
                         ids=["its own renewal", "another nonce", "NAT-PMP", "a bad option"])  # fmt: skip
def test_a_flood_from_one_subscriber_starves_nobody(flood: bytes, compiled: bool) -> None:
    limits = pcp_world.settings(pools=(pool("192.0.2.0/24"),), per_subscriber=10, per_s=1000)
    server = PcpServer(limits, NOW, compiled)
    server.receive(ask(), tunnel(A), NOW - 1)
    crowd = [A[:5] + number.to_bytes(2) + A[7:] for number in range(0x8000, 0x8000 + 200)]
    batch = [(flood, tunnel(A[:8] + number.to_bytes(8))) for number in range(5000)]
    for number, b4 in enumerate(crowd):
        batch.insert(25 * number, (ask(), tunnel(b4)))
    outcome = server.receive_many(batch, NOW)
    answered = [sender.tunnel for (_, sender), reply in zip(batch, outcome.replies, strict=True) if reply is not None]
    assert [b4 for b4 in crowd if b4 not in answered] == []
    assert len(answered) == len(crowd) + 10
    assert outcome.counted["rate_limited"] == 4990


def test_all_together_are_limited_too() -> None:
    server = pcp_world.server(pools=(pool("192.0.2.0/24"),), per_s=100)
    crowd = [(ask(), tunnel(A[:5] + number.to_bytes(2) + A[7:])) for number in range(300)]
    assert sum(reply is not None for reply in server.receive_many(crowd, NOW).replies) == 100
    assert sum(reply is not None for reply in server.receive_many(crowd, NOW + 1).replies) == 100


def test_a_pool_runs_dry_for_all_alike_and_serves_again_when_sets_come_back() -> None:
    server = pcp_world.server(pools=(pool("192.0.2.0/30", 4),), quarantine_s=120)
    room = server.pools()[0].sets
    crowd = [A[:5] + number.to_bytes(2) + A[7:] for number in range(room + 20)]
    results = [said(server.receive(ask(), tunnel(b4), NOW)).result for b4 in crowd]
    assert results == [0] * room + [Result.NO_RESOURCES] * 20
    assert server.pools()[0].free == 0
    server.handle_timer(NOW + 7200)
    later = [said(server.receive(ask(), tunnel(b4), NOW + 7320)).result for b4 in crowd[room:]]
    assert later == [0] * 20
    assert server.rows()["br"][0].tobytes() == BR
