"""What is not asked by a B4 itself: third parties, announcements, other pools, the operator."""

from __future__ import annotations

import tracemalloc
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from itertools import pairwise

import pytest

from pylwaftr.pcp import codec, mapping
from pylwaftr.pcp.announce import ALL_HOSTS
from pylwaftr.pcp.numbers import Result, address16
from pylwaftr.pcp.options import PortSet, ThirdParty, ThirdPartyId
from pylwaftr.pcp.server import PcpServer
from tests.pcp_world import (
    A_MOVED,
    BR,
    DHCP,
    INSIDE,
    NONCE,
    NOW,
    OTHER_NONCE,
    SHARED,
    A,
    B,
    ask,
    bound,
    given,
    manager,
    pool,
    row,
    said,
    server,
    settings,
    tunnel,
)

ADDRESS = "192.0.2.5"


# --- third parties ---------------------------------------------------------------------------------------------------


def third(*options: object, lifetime: int = 7200, nonce: bytes = OTHER_NONCE, port: int = 28672) -> bytes:
    return ask(lifetime=lifetime, nonce=nonce, hint=(SHARED, port), client=DHCP, options=options)  # type: ignore[arg-type]


THIRD = [
    # what, options, result
    ("a tunnel address", [ThirdParty(B)], 0),
    ("an inner address and the tunnel as its realm", [ThirdParty(INSIDE), ThirdPartyId(B)], 0),
    ("the tunnel twice", [ThirdParty(B), ThirdPartyId(B)], 0),
    ("an inner address alone is nobody's", [ThirdParty(INSIDE)], Result.NOT_AUTHORIZED),
    ("two tunnels", [ThirdParty(B), ThirdPartyId(A)], Result.THIRD_PARTY_ID_UNKNOWN),
    ("a realm that is no address", [ThirdParty(INSIDE), ThirdPartyId(b"sub1")], Result.UNSUPP_THIRD_PARTY_ID_LENGTH),
    ("multicast", [ThirdParty(IPv6Address("ff02::1").packed)], Result.NOT_AUTHORIZED),
    ("a realm without a third party", [ThirdPartyId(B)], Result.THIRD_PARTY_MISSING_OPTION),
]


@pytest.mark.parametrize("what, options, result", THIRD, ids=[row[0] for row in THIRD])
def test_a_third_party_names_the_softwire(what: str, options: list[object], result: int) -> None:
    outcome = server().receive(third(*options), manager(), NOW)
    reply = said(outcome)
    assert reply.result == result
    if not result:
        assert bound(outcome.bind) == [(ADDRESS, 14, B)]
        assert outcome.bind["br"].tobytes() == BR
        assert reply.options == (*options, PortSet(2048, 28672))


def test_a_third_party_mapping_belongs_to_its_nonce() -> None:
    for policy in ("strict", "subscriber"):
        made = server(nonce_policy=policy)
        made.receive(third(ThirdParty(B)), manager(), NOW)
        assert said(made.receive(ask(), tunnel(B), NOW)).result == Result.NOT_AUTHORIZED
        assert bound(made.receive(third(ThirdParty(B), lifetime=0), manager(), NOW).unbind) == [(ADDRESS, 14, B)]


def test_a_third_party_cannot_touch_what_a_b4_asked_for() -> None:
    made = server(nonce_policy="subscriber")
    made.receive(ask(), tunnel(B), NOW)
    for lifetime in (7200, 0):
        refused = said(made.receive(third(ThirdParty(B), lifetime=lifetime), manager(), NOW))
        assert refused.result == Result.NOT_AUTHORIZED
    assert made.active == 1


def test_management_without_a_third_party_is_not_answered() -> None:
    made = server()
    plain = codec.encode_request(codec.AnnounceRequest(DHCP))
    assert made.receive(plain, manager(), NOW).reply is None
    assert said(made.receive(third(ThirdParty(B)), tunnel(DHCP), NOW)).result == Result.ADDRESS_MISMATCH


# --- announcements ---------------------------------------------------------------------------------------------------


def rounds(made: PcpServer, until: float) -> list[tuple[float, int]]:
    """(when, how many) of what is sent."""
    found = []
    while (at := made.timer()) is not None and at <= until:
        outcome = made.handle_timer(at)
        found += [(round(at - NOW, 3), len(outcome.sends))] if outcome.sends else []
    return found


def test_an_announcement_goes_into_every_softwire() -> None:
    made = server()
    made.receive(ask(), tunnel(A, 50123), NOW)
    assert made.announce(NOW + 5, row("203.0.113.1", 1, B)) == 2
    sends = made.handle_timer(NOW + 5).sends
    assert {(send.tunnel, send.br, send.destination, send.port) for send in sends} == {
        (A, BR, INSIDE, 50123),  # the port that the client used
        (B, BR, ALL_HOSTS, 5350),  # not known: multicast
    }
    assert {send.source for send in sends} == {address16(IPv4Address("192.0.0.1"))}
    assert {codec.decode_response(send.payload) for send in sends} == {codec.AnnounceResponse(5)}


def test_a_third_party_hears_it_and_is_no_softwire() -> None:
    made = server()
    assert said(made.receive(third(ThirdParty(B)), manager(), NOW)).result == 0
    assert made.announce(NOW + 5) == 1
    assert {send.tunnel for send in made.handle_timer(NOW + 5).sends} == {B, b""}


def test_ten_copies_with_gaps_that_double() -> None:
    made = server()
    made.announce(NOW, row("203.0.113.1", 1, B))
    times = [at for at, _ in rounds(made, NOW + 1000)]
    gaps = [round(after - before, 3) for before, after in pairwise(times)]
    assert gaps == [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]
    assert made.announcing == 0


def test_who_answered_is_left_in_peace() -> None:
    made = server()
    made.announce(NOW, row("203.0.113.1", 1, B))
    made.handle_timer(NOW)
    made.receive(ask(), tunnel(B), NOW + 0.1)
    assert made.announcing == 0
    assert rounds(made, NOW + 100) == []


def test_announcements_are_paced() -> None:
    made = server(announce_per_s=2000)
    far = [A[:3] + number.to_bytes(4) + A[7:] for number in range(10_000)]
    softwires = row("203.0.113.1", 1, A).repeat(10_000)
    for one, b4 in zip(softwires, far, strict=True):
        one["b4"] = list(b4)
    made.announce(NOW, softwires)
    sent = rounds(made, NOW + 4.99)
    assert sum(count for _, count in sent) == pytest.approx(10_000, abs=200)
    assert max(count for _, count in sent) <= 100


# --- other pools -----------------------------------------------------------------------------------------------------


def test_a_pool_that_grows_keeps_its_mappings() -> None:
    made = server()
    made.receive(ask(), tunnel(A), NOW)
    made.reconfigure(settings(pools=(pool("192.0.2.4/31"),)))
    assert given(made.receive(ask(), tunnel(A), NOW + 60)) == (ADDRESS, 2048, 2048)
    assert given(made.receive(ask(), tunnel(B), NOW + 60)) == ("192.0.2.4", 2048, 2048)
    assert given(made.receive(ask(hint=(SHARED, 2048)), tunnel(B[:4] + b"\x55" + B[5:]), NOW + 60))[1] != 2048
    assert made.draining() == []


def test_a_pool_that_goes_is_drained() -> None:
    made = server()
    made.receive(ask(), tunnel(A), NOW)
    made.reconfigure(settings(pools=(pool("198.51.100.9/32"),)))
    assert len(made.draining()) == 1
    reply = said(made.receive(ask(), tunnel(A), NOW + 7000))  # what was granted holds, and no more
    assert (reply.external_port, reply.lifetime) == (2048, 200)
    assert bound(made.handle_timer(NOW + 7200).unbind) == [(ADDRESS, 1, A)]
    assert given(made.receive(ask(), tunnel(A), NOW + 7200)) == ("198.51.100.9", 2048, 2048)
    assert list(made.mappings(A)) != []
    assert made.draining() == []


def test_an_address_that_is_cut_otherwise_waits_for_its_last_old_set() -> None:
    made = server()
    made.receive(ask(), tunnel(A), NOW)
    made.reconfigure(settings(pools=(pool("192.0.2.5/32", 6),)))
    assert said(made.receive(ask(), tunnel(B), NOW)).result == Result.NO_RESOURCES
    made.handle_timer(NOW + 7200)
    assert given(made.receive(ask(), tunnel(B), NOW + 7200))[2] == 1024
    assert len(made.rows()) == 1


def test_renumbering_moves_what_is_drained_and_tells_each_client_three_times() -> None:
    made = server()
    made.receive(ask(), tunnel(A, 50123), NOW)
    made.receive(third(ThirdParty(B)), manager(), NOW)
    made.reconfigure(settings(pools=(pool("198.51.100.9/32"),)))
    outcome = made.renumber(NOW + 100)
    assert sorted(bound(outcome.bind)) == [("198.51.100.9", 1, A), ("198.51.100.9", 3, B)]
    assert sorted(bound(outcome.unbind)) == [(ADDRESS, 1, A), (ADDRESS, 14, B)]
    assert made.epoch(NOW + 100) == 0  # external addresses changed
    sends = made.handle_timer(NOW + 100).sends
    assert {(send.tunnel, send.destination, send.port) for send in sends} == {(A, INSIDE, 50123), (b"", DHCP, 49152)}
    updates = [codec.decode_response(send.payload) for send in sorted(sends)]
    assert [(u.lifetime, u.nonce, u.external_port, u.options) for u in updates if isinstance(u, codec.MapResponse)] == [
        (7100, NONCE, 2048, (PortSet(2048, 2048),)),
        (7100, OTHER_NONCE, 6144, (ThirdParty(B), PortSet(2048, 6144))),
    ]
    made.receive(ask(), tunnel(A, 50123), NOW + 100.1)  # it has heard
    assert rounds(made, NOW + 200) == [(100.25, 1), (100.75, 1)]


# --- the operator ----------------------------------------------------------------------------------------------------


def test_the_operator_sees_releases_and_clears() -> None:
    made = server()
    made.receive(ask(), tunnel(A), NOW)
    key = made.find(int(IPv4Address(ADDRESS)), 4095)
    assert key is not None
    assert made.find(int(IPv4Address(ADDRESS)), 4096) is None
    assert made.pools() == [(IPv4Network("192.0.2.5/32"), 5, 30, 1, 0, 29)]
    assert bound(made.release(key, NOW).unbind) == [(ADDRESS, 1, A)]
    with pytest.raises(KeyError):
        made.release(key, NOW)
    assert [one.state for _, one in made.mappings(A_MOVED)] == [mapping.FREED]
    assert list(made.clear(A, NOW).records.values()) == [None]
    assert list(made.mappings(A)) == []
    hint = (SHARED, 2048)
    assert given(made.receive(ask(hint=hint), tunnel(B), NOW + 7440))[1] == 2048


def test_a_mapping_costs_less_than_a_kilobyte() -> None:
    made = server(pools=(pool("10.0.0.0/16", 6),))
    requests = [(ask(), tunnel(A[:3] + number.to_bytes(4) + A[7:])) for number in range(20_000)]
    tracemalloc.start()
    for begin in range(0, len(requests), 500):
        made.receive_many(requests[begin : begin + 500], NOW)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made.active == 20_000
    assert used / made.active < 1000, used / made.active
