"""Mappings over time: expiry, quarantine, restart and epoch, moves, nonces."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from pylwaftr.pcp import codec, mapping
from pylwaftr.pcp.numbers import Result
from pylwaftr.pcp.outcome import Outcome
from pylwaftr.pcp.server import PcpServer
from tests.pcp_world import (
    A_MOVED,
    BR,
    INSIDE,
    NONCE,
    NOW,
    OTHER_NONCE,
    SHARED,
    A,
    B,
    ask,
    ask_port,
    bound,
    given,
    others,
    pool,
    said,
    server,
    settings,
    stored,
    tunnel,
    with_epoch,
)

ADDRESS = "192.0.2.5"
ANNOUNCE = codec.encode_request(codec.AnnounceRequest(INSIDE))


def kept(made: PcpServer, *outcomes: Outcome) -> dict[bytes, bytes]:
    """What a store has after these."""
    records: dict[bytes, bytes] = {}
    for outcome in outcomes:
        for key, value in outcome.records.items():
            records.pop(key, None)
            if value is not None:
                records[key] = value
    return records


# --- expiry and quarantine -------------------------------------------------------------------------------------------


def test_a_mapping_ends_with_its_lifetime_unless_it_is_renewed() -> None:
    made = server()
    made.receive(ask(lifetime=120), tunnel(), NOW)
    assert made.timer() == NOW + 120
    made.receive(ask(lifetime=120), tunnel(), NOW + 100)
    assert made.handle_timer(NOW + 120).changes_nothing
    assert made.timer() == NOW + 220
    assert bound(made.handle_timer(NOW + 220).unbind) == [(ADDRESS, 1, A)]
    assert made.timer() is None
    assert made.active == 0


def test_a_shorter_lifetime_is_kept_too() -> None:
    made = server()
    made.receive(ask(lifetime=86400), tunnel(), NOW)
    made.receive(ask(lifetime=120), tunnel(), NOW)
    assert bound(made.handle_timer(NOW + 120).unbind) == [(ADDRESS, 1, A)]


def test_lifetimes_that_come_and_go_leave_nothing_behind() -> None:
    made = server()
    for second in range(2000):
        now = NOW + second
        made.receive(ask(lifetime=(86400, 120, 0)[second % 3]), tunnel(), now)
        made.handle_timer(now)
    assert sum(map(len, made._mappings.buckets.values())) < 40


def test_what_was_given_back_waits_for_its_subscriber_and_then_goes_to_others() -> None:
    made = server(quarantine_s=3600)
    made.reserve(others(range(4, 32)), NOW)  # PSID 1 and 3 are left
    assert given(made.receive(ask(), tunnel(A), NOW))[1] == 2048
    made.receive(ask(lifetime=0), tunnel(A), NOW)
    assert given(made.receive(ask(hint=(SHARED, 2048)), tunnel(B), NOW))[1] == 6144
    far = B[:4] + b"\x77\x77" + B[6:]
    assert said(made.receive(ask(), tunnel(far), NOW + 119)).result == Result.NO_RESOURCES
    assert given(made.receive(ask(), tunnel(A), NOW + 119))[1] == 2048  # the same subscriber at once
    made.receive(ask(lifetime=0), tunnel(A), NOW + 119)
    outcome = made.receive(ask(), tunnel(far), NOW + 239)  # nothing else is free, so 120 s have to do
    assert given(outcome)[1] == 2048
    assert said(made.receive(ask(), tunnel(A), NOW + 240)).result == Result.NO_RESOURCES


def test_a_subscriber_cannot_put_the_pool_into_quarantine() -> None:
    made = server()
    for psid in range(3, 32):
        nonce = bytes([psid]) * 12
        hint, here = (SHARED, psid * 2048), tunnel(A[:15] + bytes([psid]))
        made.receive(ask(hint=hint, nonce=nonce), here, NOW)
        made.receive(ask(hint=hint, nonce=nonce, lifetime=0), here, NOW)
    assert made.pools()[0].given_back == 2
    assert given(made.receive(ask(hint=(SHARED, 40960)), tunnel(B), NOW))[1] == 40960


# --- restart ---------------------------------------------------------------------------------------------------------

DAMAGED = {mapping.store_key(1): b"\x01\x01rest"}

EPOCHS = [
    # what, stored, lost, epoch 50 s later, recovering
    ("nothing was ever stored", {}, False, 50, False),
    ("mappings and the epoch", with_epoch(stored(A, 13), 1000), False, 1050, False),
    ("no mappings, but the epoch", with_epoch({}, 1000), False, 1050, False),
    ("mappings without the epoch", stored(A, 13), False, 50, True),
    ("the epoch, and the store lost something", with_epoch(stored(A, 13), 1000), True, 50, True),
    ("a record that cannot be read", with_epoch(stored(A, 13) | DAMAGED, 1000), False, 50, True),
    ("a key that cannot be read", with_epoch({b"mxx": b""}, 1000), False, 50, True),
]


@pytest.mark.parametrize("what, records, lost, epoch, recovering", EPOCHS, ids=[row[0] for row in EPOCHS])
def test_trap_the_epoch_survives_a_restart_exactly_when_the_mappings_do(
    what: str, records: dict[bytes, bytes], lost: bool, epoch: int, recovering: bool
) -> None:
    made = server()
    outcome = made.load(records, NOW, lost)
    reply = made.receive(ANNOUNCE, tunnel(), NOW + 50).reply
    assert reply is not None
    assert int.from_bytes(reply[8:12]) == epoch
    far = said(made.receive(ask(), tunnel(B), NOW + 50))
    assert far.result == (Result.NO_RESOURCES if recovering else Result.SUCCESS)
    # What is left in the store has the epoch that is told, so a second restart goes on with it.
    left = {key: value for key, value in (records | outcome.records).items() if value is not None}
    again = server()
    assert again.load(left, NOW + 60).changes_nothing
    assert again.epoch(NOW + 60) == epoch + 10


def test_after_a_restart_all_is_as_it_was() -> None:
    made = server(max_sets=2, quarantine_s=3600)
    steps = [
        made.load({}, NOW),
        made.receive(ask(), tunnel(A), NOW),
        made.receive(ask(8192, 57344), tunnel(A), NOW),
        made.receive(ask(), tunnel(B), NOW + 1),
        made.receive(ask(lifetime=0), tunnel(B), NOW + 2),
    ]
    again = server(max_sets=2, quarantine_s=3600)
    assert again.load(kept(made, *steps), NOW + 100).changes_nothing
    assert dict(again.mappings()) == dict(made.mappings())
    assert sorted(bound(again.rows())) == [(ADDRESS, 1, A), (ADDRESS, 4, A)]
    assert again.timer() == made.timer()
    for one in (made, again):
        outcome = one.receive(ask(hint=(SHARED, 6144)), tunnel(A[:4] + b"\x66" + A[5:]), NOW + 100)
        assert given(outcome)[1] == 10240  # 3 is in quarantine still
    assert given(again.receive(ask(), tunnel(B), NOW + 100))[1] == 6144


def test_after_a_loss_sets_go_to_those_who_claim_them() -> None:
    made = server()
    made.load({}, NOW, lost=True)
    assert given(made.receive(ask(hint=(SHARED, 40960)), tunnel(A), NOW + 1))[1] == 40960
    assert said(made.receive(ask(), tunnel(B), NOW + 119)).result == Result.NO_RESOURCES
    assert given(made.receive(ask(), tunnel(B), NOW + 120))[1] == 2048


# --- a commit that failed --------------------------------------------------------------------------------------------

FAILED = [
    # what, the request that is reverted
    ("a grant", ask(), tunnel(B)),
    ("a renewal", ask(lifetime=600), tunnel(A, 60000)),
    ("a deletion", ask(lifetime=0), tunnel(A)),
    ("a move", ask(), tunnel(A_MOVED)),
]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "readable"])
@pytest.mark.parametrize("what, request_, sender", FAILED, ids=[row[0] for row in FAILED])
def test_what_could_not_be_stored_did_not_happen(what: str, request_: bytes, sender: object, compiled: bool) -> None:
    made = PcpServer(settings(), NOW, compiled)
    made.receive(ask(), tunnel(A), NOW)
    before, free = dict(made.mappings()), made.pools()[0].free
    outcome = made.receive(request_, sender, NOW + 10)  # type: ignore[arg-type]
    assert not outcome.changes_nothing
    made.revert(outcome)
    assert dict(made.mappings()) == before
    assert made.pools()[0].free == free
    again = made.receive(request_, sender, NOW + 10)  # type: ignore[arg-type]
    assert (again.replies, again.records) == (outcome.replies, outcome.records)


def test_a_batch_has_one_net_effect() -> None:
    made = server()
    requests = [
        (ask(), tunnel(A)),
        (ask(lifetime=0), tunnel(A)),
        (ask(), tunnel(B)),
        (ask(), tunnel(A)),
        (ask(), tunnel(B)),
    ]
    outcome = made.receive_many(requests, NOW)
    assert sorted(bound(outcome.bind)) == [(ADDRESS, 1, A), (ADDRESS, 3, B)]
    assert not len(outcome.unbind)
    assert len(outcome.records) == 2
    made.revert(outcome)
    assert made.active == 0


# --- moves -----------------------------------------------------------------------------------------------------------

MOVES = [
    # what, settings, request, sent after, moves, result, lifetime
    ("with the right nonce", {}, ask(), 60, True, 0, 7200),
    ("with another nonce", {}, ask(nonce=OTHER_NONCE), 60, False, Result.NOT_AUTHORIZED, 7140),
    ("where nothing may move", {"on_new_address": "reject"}, ask(), 60, False, Result.NOT_AUTHORIZED, 7140),
    ("by a single port", {}, ask_port(2100), 60, True, 0, 7200),
    ("by a port of nobody: nothing is done, so nothing moves", {}, ask_port(9), 60, False, Result.NOT_AUTHORIZED, 1800),
    ("where two softwires may be, by another client", {"max_softwires": 2, "max_sets": 2}, ask(nonce=OTHER_NONCE),
     60, False, 0, 7200),
]  # fmt: skip


@pytest.mark.parametrize("row", MOVES, ids=[row[0] for row in MOVES])
def test_mappings_follow_their_b4(row: tuple[str, dict[str, object], bytes, int, bool, int, int]) -> None:
    _, changed, request, after, moves, result, lifetime = row
    made = server(**changed)
    made.receive(ask(), tunnel(A), NOW)
    outcome = made.receive(request, tunnel(A_MOVED), NOW + after)
    reply = said(outcome)
    assert (reply.result, reply.lifetime) == (result, lifetime)
    assert (bound(outcome.bind) == [(ADDRESS, 1, A_MOVED)]) is moves
    assert not len(outcome.unbind)  # the row of a key is replaced, so that nothing falls between
    assert [event.kind for event in outcome.events if event.kind == "moved"] == ["moved"] * moves


def test_a_second_move_waits_for_half_an_hour() -> None:
    made = server()
    made.receive(ask(), tunnel(A), NOW)
    assert said(made.receive(ask(), tunnel(A_MOVED), NOW + 10)).result == 0
    for back in (A, A[:15] + b"\x09"):
        refused = said(made.receive(ask(), tunnel(back), NOW + 20))
        assert (refused.result, refused.lifetime) == (Result.NOT_AUTHORIZED, 1790)
    assert said(made.receive(ask(), tunnel(A_MOVED), NOW + 30)).result == 0  # where it is, it renews
    assert said(made.receive(ask(), tunnel(A), NOW + 1810)).result == 0


def test_all_sets_of_a_b4_move_together() -> None:
    made = server(max_sets=2)
    made.receive(ask(), tunnel(A), NOW)
    made.receive(ask(8192, 57344), tunnel(A), NOW)
    outcome = made.receive(ask(8192, 57344), tunnel(A_MOVED), NOW + 1)
    assert sorted(bound(outcome.bind)) == [(ADDRESS, 1, A_MOVED), (ADDRESS, 4, A_MOVED)]


@pytest.mark.parametrize("new", ["every nonce its own", "one nonce"])
def test_who_walks_through_ten_thousand_addresses_gets_no_more_than_the_limit(new: str) -> None:
    made = server(pools=(pool("192.0.2.0/24", 6),))
    base = int(IPv6Address("2001:db8:100:100::"))
    results: dict[int, int] = {}
    for number in range(10_000):
        b4 = (base + number * 0x1_0000_0000_0001).to_bytes(16)
        nonce = number.to_bytes(12) if new == "every nonce its own" else NONCE
        outcome = made.receive(ask(nonce=nonce), tunnel(b4), NOW + number / 100)
        result = said(outcome).result
        results[result] = results.get(result, 0) + 1
    assert made.active == 1
    assert results[Result.NOT_AUTHORIZED] == 10_000 - results[0]
    assert results[0] == (1 if new == "every nonce its own" else 2)  # one grant, and one move in 100 s


def test_data_from_a_new_address_moves_where_that_is_configured() -> None:
    for on_new_address, moves in (("data", True), ("pcp", False), ("reject", False)):
        made = server(on_new_address=on_new_address)
        made.receive(ask(), tunnel(A), NOW)
        ipv4 = int(IPv4Address(ADDRESS))
        assert made.follow(ipv4, 2100, B, BR, NOW).changes_nothing  # a stranger
        assert made.follow(ipv4, 9, A_MOVED, BR, NOW).changes_nothing  # no binding
        outcome = made.follow(ipv4, 2100, A_MOVED, BR, NOW)
        assert bound(outcome.bind) == [(ADDRESS, 1, A_MOVED)] * moves
        assert made.follow(ipv4, 2100, A, BR, NOW + 1799).changes_nothing


# --- nonces ----------------------------------------------------------------------------------------------------------


def test_nonce_policy_subscriber_lets_the_tunnel_take_over_and_logs_it() -> None:
    made = server(nonce_policy="subscriber")
    made.receive(ask(), tunnel(A), NOW)
    outcome = made.receive(ask(nonce=OTHER_NONCE), tunnel(A), NOW)
    assert given(outcome)[1] == 2048
    assert [event.kind for event in outcome.events] == ["nonce_replaced"]
    assert said(made.receive(ask(nonce=NONCE), tunnel(A_MOVED), NOW)).result == Result.NOT_AUTHORIZED


def test_a_refused_grab_is_logged() -> None:
    made = server()
    made.receive(ask(), tunnel(A), NOW)
    outcome = made.receive(ask(nonce=OTHER_NONCE), tunnel(A), NOW)
    (event,) = outcome.events
    assert (event.kind, event.tunnel) == ("nonce_refused", A)
    assert "192.0.2.5 ports 2048-4095" in event.text
