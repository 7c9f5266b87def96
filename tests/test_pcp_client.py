"""The PCP client of a lwB4: when it sends what, what it makes of answers, and any octets at all."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.pcp import codec
from pylwaftr.pcp.client import Client, Options, State
from pylwaftr.pcp.client_values import Grant, Granted, Kept, Lost, NotUsed, Recovering, Refused, Saved, Wanted
from pylwaftr.pcp.codec import AnnounceRequest, AnnounceResponse, MapRequest
from pylwaftr.pcp.numbers import Result, address16
from pylwaftr.pcp.options import PortSet
from tests.pcp_client_world import (
    B4,
    GRANTED,
    KNOWN,
    LWAFTR,
    NONCE,
    OTHER,
    PUBLIC,
    UDP_8080,
    Middle,
    World,
)
from tests.test_vectors_pcp import VECTORS

# --- what happens ----------------------------------------------------------------------------------------------------


def test_provisioning() -> None:
    world = World().started()
    assert world.sent() == [MapRequest(7200, address16(B4), NONCE, 0, 1, options=(PortSet(65535, 1),),
                                       port_set=PortSet(65535, 1))]  # fmt: skip
    world.answer()
    assert world.events() == [Granted(Wanted(), GRANTED, None)]
    assert (world.state, world.sent(), world.client.timer()) == (State.BOUND, [], 5000 + 4050)


def test_a_renewal_that_is_answered() -> None:
    world = World().bound()
    assert world.later(4100) == [4050]
    assert world.state is State.RENEWING
    world.answer()
    (event,) = world.events()
    assert not event.is_new
    assert event.grant.expires == 5000 + 4100 + 7200


def test_renewals_that_nobody_answers_end_in_loss_and_a_new_request() -> None:
    world = World().bound(lifetime=120)
    assert world.until(5000 + 119) == [67.5, 93.75, 106.875, 113.4375]
    assert (world.events(), world.state) == ([], State.RENEWING)
    assert world.until(5000 + 124) == [120.0, 123.0]
    assert [type(event) for event in world.events()] == [Lost]
    assert world.state is State.REQUESTING


def test_the_lost_set_is_suggested() -> None:
    world = World().bound(lifetime=120)
    world.until(5119)
    world.now = 5120
    world.client.handle_timer(5120)
    (request,) = world.sent()
    assert isinstance(request, MapRequest)
    assert (request.external, request.external_port) == (address16(PUBLIC), 26624)


def test_another_set_at_a_renewal_is_new() -> None:
    world = World().bound()
    world.later(4100)
    world.answer(external=address16(OTHER))
    (event,) = world.events()
    assert event.is_new
    assert event.before == GRANTED


HELD = [  # result, lifetime, seconds until it asks again
    (Result.NO_RESOURCES, 30, 30),
    (Result.USER_EX_QUOTA, 600, 600),
    (Result.NETWORK_FAILURE, 0, 30),  # a floor: miniupnpd sends 0
    (Result.ADDRESS_MISMATCH, 1800, 1800),
    (Result.MALFORMED_REQUEST, 1800, 1800),
    (Result.UNSUPP_PROTOCOL, 0xFFFFFFFF, 86400),
    (77, 60, 60),  # a code that we do not know
]


@pytest.mark.parametrize("result, lifetime, hold", HELD)
def test_an_error_is_waited_out(result: int, lifetime: int, hold: int) -> None:
    world = World().started()
    world.sent()
    world.answer(result, lifetime, options=(PortSet(65535, 1),))
    assert world.events() == [Refused(Wanted(), result, hold)]
    assert world.later(hold + 1) == [float(hold)]
    assert world.state is State.REQUESTING


@pytest.mark.parametrize("result, unable", [(1, True), (3, True), (6, True), (2, False), (8, False)])
def test_who_cannot_do_port_sets(result: int, unable: bool) -> None:
    assert Refused(Wanted(), result, 30).is_unable is unable


def test_an_error_to_a_renewal_takes_nothing_away() -> None:
    world = World().bound()
    world.later(4100)
    world.answer(Result.NO_RESOURCES, 30)
    assert world.grant == GRANTED
    assert world.later(31) == [4130]
    assert 7200.0 in world.later(3200)  # nobody answers: at the end a new request
    assert world.grant is None


def test_no_resources_stops_other_new_mappings_but_no_renewal() -> None:
    world = World().bound(lifetime=120)
    world.client.ask(UDP_8080, world.now)
    world.sent()
    world.later(60)
    world.answer(Result.NO_RESOURCES, 600, UDP_8080)
    world.client.ask(Wanted(6, 22, 1), world.now)
    assert world.sent() == []
    assert world.later(40) == [67.5, 93.75]


def test_no_resources_to_a_deletion_stops_everything() -> None:
    world = World().bound()
    world.client.delete(world.now)
    world.sent()
    world.answer(Result.NO_RESOURCES, 100)
    world.client.ask(Wanted(), world.now)
    assert world.later(101) == [100.0]


VERSIONS = [  # octets, hold, version
    ("0281 0001 00000708 000003e8" + "00" * 12, 1800, 2),
    ("0281 0001 00000000 000003e8" + "00" * 12, 1800, 2),
    ("0281 0001 0000003c 000003e8" + "00" * 12, 60, 2),
    ("0080 0001 00000000", 1800, 0),  # NAT-PMP
    ("0181 0001 00000708", 1800, 1),
]


@pytest.mark.parametrize("octets, hold, version", VERSIONS)
def test_a_server_of_another_version(octets: str, hold: int, version: int) -> None:
    world = World().started()
    world.sent()
    world.receive(bytes.fromhex(octets))
    assert world.events() == [Refused(Wanted(), Result.UNSUPP_VERSION, hold, version)]
    assert world.later(hold + 1) == [float(hold)]
    world.bound().receive(bytes.fromhex(octets))
    assert world.events() == []  # nothing was asked


def test_one_port_where_a_set_was_asked_for() -> None:
    world = World().started()
    world.answer(options=())
    assert (world.grant, world.state) == (None, State.WAITING)
    single = World(Options(use_single_port=True)).started()
    single.answer(options=())
    assert single.grant == Grant(PUBLIC, 26624, 1, 7200, 12200.0)


NONSENSE = [  # what of the answer, what is wrong with it
    {"options": (PortSet(0, 26624),)},
    {"options": (PortSet(2048, 5),)},
    {"options": (PortSet(2048, 65000),), "external_port": 65000},
    {"external_port": 0},
    {"external": bytes(16)},
]


@pytest.mark.parametrize("fields", NONSENSE)
def test_nonsense_is_not_used(fields: dict[str, Any]) -> None:
    world = World().started()
    world.answer(**fields)
    assert [type(event) for event in world.events()] == [NotUsed]
    assert world.grant is None


def test_a_mapping_update_is_adopted_and_renewed() -> None:
    world = World().bound()
    world.now += 100
    world.epoch += 100
    for _ in range(3):
        world.answer(external=address16(OTHER))
    assert [event.is_new for event in world.events()] == [True, False, False]
    (request,) = world.sent()
    assert isinstance(request, MapRequest)
    assert request.external == address16(OTHER)


def test_a_set_that_is_taken_back() -> None:
    world = World().bound()
    world.answer(lifetime=0)
    assert world.events() == [Lost(Wanted(), GRANTED)]
    assert world.later(31) == [30.0]


def test_a_second_announcement_of_the_same_loss_changes_nothing() -> None:
    world = World().bound()
    world.announce(0)
    due = world.client.timer()
    world.now += 0.25
    world.announce(0)
    assert world.client.timer() == due
    assert len(world.events()) == 1


def test_a_lost_state_shows_in_the_answer_for_another_mapping() -> None:
    world = World().bound()
    world.client.ask(UDP_8080, world.now)
    world.sent()
    world.epoch = 3
    world.answer(to=UDP_8080, external_port=8080, options=())
    assert [type(event) for event in world.events()] == [Granted, Recovering]
    (request,) = world.sent()
    assert isinstance(request, MapRequest)
    assert request.internal_port == 1


def test_an_announcement_ends_a_hold() -> None:
    world = World().bound()
    world.later(4100)
    world.answer(Result.NOT_AUTHORIZED, 80000)
    world.later(3200)
    world.sent()
    world.announce(1)
    assert len(world.later(5)) == 1


def test_announcements_that_are_not_the_servers() -> None:
    world = World().bound()
    before = world.client.timer()
    octets = codec.encode_response(AnnounceResponse(0))
    for source in ((B4, 5351), (LWAFTR, 5350)):
        world.receive(octets, source)
    world.receive(codec.encode_response(AnnounceResponse(0, result=8)))
    assert (world.client.timer(), world.events()) == (before, [])


def test_icmp_code5_asks_anew_and_keeps_the_set_until_the_answer() -> None:
    world = World().bound()
    world.client.icmp_code5(world.now)
    assert (world.sent(), world.state, world.grant) == ([], State.WAITING, GRANTED)
    assert world.later(5) == [2.5]
    world.answer()
    assert [type(event) for event in world.events()] == [Recovering, Granted]
    assert world.state is State.BOUND


def test_icmp_code5_that_repeats_is_heard_less_and_less() -> None:
    world = World().bound()
    asked = []
    for second in range(4000):
        world.later(1)
        world.client.icmp_code5(world.now)
        if any(isinstance(event, Recovering) for event in world.events()):
            asked.append(second)
            world.later(2.6)
            world.answer(lifetime=86400)
            world.now -= 2.6
    gaps = [round(b - a, -1) for a, b in pairwise(asked)]
    assert gaps[:5] == [60, 120, 240, 480, 960]


def test_icmp_code5_does_not_cut_the_lifetime_of_an_error() -> None:
    world = World().bound()
    world.later(4100)
    world.answer(Result.NO_RESOURCES, 600)
    world.client.icmp_code5(world.now)
    assert world.later(601) == [4700.0]


def test_icmp_code5_while_nothing_is_held_means_nothing() -> None:
    world = World().started()
    world.client.icmp_code5(world.now)
    assert world.events() == []


def test_a_new_tunnel_address_asks_at_once_with_the_same_nonce() -> None:
    world = World().bound()
    world.client.reprovision(world.now)
    (request,) = world.sent()
    assert isinstance(request, MapRequest)
    assert (request.nonce, request.external, request.external_port) == (NONCE, address16(PUBLIC), 26624)


# --- a restart -------------------------------------------------------------------------------------------------------


def test_the_nonce_and_the_set_survive_a_reboot() -> None:
    """With a fresh nonce the lwAFTR would refuse us for the rest of the lifetime."""
    saved = World().bound().client.saved()
    assert saved == Saved(NONCE, (Kept(0, 1, PUBLIC, 26624),))
    rebooted = Client(Options(), random.Random(2), saved)
    rebooted.start(0.0)
    request = codec.decode_request(rebooted.datagrams_to_send()[0][0], address16(B4))
    assert isinstance(request, MapRequest)
    assert (request.nonce, request.external, request.external_port) == (NONCE, address16(PUBLIC), 26624)


def test_two_clients_without_state_have_different_nonces() -> None:
    nonces = {Client(Options(), random.Random(seed)).saved().nonce for seed in range(2)}
    assert len(nonces) == 2


def test_a_nonce_of_another_length_is_no_state() -> None:
    with pytest.raises(ValueError, match="12 octets"):
        Saved(b"short")


# --- several sets ----------------------------------------------------------------------------------------------------

FURTHER = [  # first and last port of each set, what is asked for next
    ([(26624, 28671)], Wanted(0, 28672, 36864)),
    ([(61440, 63487)], Wanted(0, 2, 61438)),  # from 1 would be a renewal of the first request
    ([(1, 65535)], None),
    ([(2, 65534)], None),  # one port is no set
]


@pytest.mark.parametrize("sets, asked", FURTHER)
def test_a_further_set_is_asked_for_beside_those_that_are_there(
    sets: list[tuple[int, int]], asked: Wanted | None
) -> None:
    world = World().started()
    for first, last in sets:
        world.answer(external_port=first, options=(PortSet(last - first + 1, first),))
    world.sent()
    assert world.client.ask_another(world.now) == asked
    assert len(world.sent()) == (asked is not None)


def test_two_sets_are_renewed_each_for_itself() -> None:
    world = World().bound()
    second = world.client.ask_another(world.now)
    assert second is not None
    world.answer(to=second, external_port=28672, options=(PortSet(2048, 28672),))
    world.sent()
    assert {grant.first for grant in world.client.grants()} == {26624, 28672}
    assert world.later(4100) == [4050, 4050]


def test_a_plain_mapping_has_no_port_set() -> None:
    world = World().started(UDP_8080)
    (datagram,) = world.client.datagrams_to_send()
    assert len(datagram[0]) == 60
    world.answer(to=UDP_8080, external_port=30000, options=())
    assert world.grant == Grant(PUBLIC, 30000, 1, 7200, 12200.0)


# --- several addresses of a server -----------------------------------------------------------------------------------


def test_a_silent_address_is_given_up_after_four_tries() -> None:
    first, second = IPv4Address("192.0.0.1"), IPv4Address("192.0.0.9")
    client = Client(Options(servers=(first, second)), Middle(1), Saved(NONCE))
    client.start(0.0)
    sent: list[tuple[float, IPv4Address | IPv6Address]] = [(0.0, first)]
    client.datagrams_to_send()
    while (now := client.timer()) is not None and now < 1100:
        client.handle_timer(now)
        sent += [(now, server) for _, server in client.datagrams_to_send()]
    assert [when for when, server in sent if server == first][:5] == [0, 3, 9, 21, 990]
    assert [when for when, server in sent if server == second][:4] == [45, 48, 54, 66]


def test_an_icmp_error_moves_on_at_once() -> None:
    client = Client(Options(servers=(LWAFTR, IPv4Address("192.0.0.9"))), Middle(1), Saved(NONCE))
    client.start(0.0)
    client.datagrams_to_send()
    client.unreachable(0.5)
    assert [server for _, server in client.datagrams_to_send()] == [IPv4Address("192.0.0.9")]
    octets = bytes.fromhex(VECTORS["PCPV-180"]["request_hex"])
    client.receive(octets, (LWAFTR, 5351), 1.0)  # an answer from the address that was given up
    assert client.grants() == ()


# --- anything --------------------------------------------------------------------------------------------------------

GOOD = bytes.fromhex(VECTORS["PCPV-180"]["request_hex"])


@given(
    st.binary(max_size=1200) | st.builds(lambda n, rest: GOOD[:n] + rest, st.integers(2, 35), st.binary(max_size=60))
)
def test_garbage_changes_nothing(octets: bytes) -> None:
    """What has neither our nonce nor a result of another version leaves no trace but an announcement's epoch."""
    if len(octets) > 3 and (octets[0] != 2 or octets[3] == 1 or octets[1] == 0x80 or octets[24:36] == NONCE):
        return
    world = World().bound()
    before = world.client.timer(), world.grant, world.state
    world.receive(octets)
    assert (world.client.timer(), world.grant, world.state) == before
    assert (world.sent(), world.events()) == ([], [])


steps = st.lists(
    st.tuples(
        st.sampled_from(["answer", "octets", "time", "code5", "move", "another", "announce"]),
        st.integers(0, 9999),
        st.binary(max_size=80),
    ),
    max_size=30,
)


@given(steps, st.randoms(use_true_random=False))
def test_whatever_happens_it_goes_on(happened: list[tuple[str, int, bytes]], rng: random.Random) -> None:
    """Nothing raises; at any time it holds what it was granted, or has a time at which it asks."""
    world = World(rng=rng).started()
    for what, number, octets in happened:
        if what == "answer":
            world.epoch = number
            world.answer(number % 14, number, external_port=number or 1, options=(PortSet(number % 99, number or 1),))
        elif what == "octets":
            world.receive(GOOD[: number % 72] + octets)
        elif what == "time":
            world.later(number / 3)
        elif what == "announce":
            world.announce(number)
        elif what == "code5":
            world.client.icmp_code5(world.now)
        elif what == "move":
            world.client.reprovision(world.now)
        else:
            world.client.ask_another(world.now)
        for datagram, _ in world.client.datagrams_to_send():
            request = codec.decode_request(datagram, address16(B4), KNOWN)
            assert isinstance(request, MapRequest | AnnounceRequest)
        assert world.client.timer() is not None
        assert all(grant.expires > world.now - 1e-6 for grant in world.client.grants())
