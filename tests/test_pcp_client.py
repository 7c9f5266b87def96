"""The PCP client of a lwB4: when it sends what, and what it makes of answers."""

from __future__ import annotations

from typing import Any

import pytest

from pylwaftr.pcp.client import Options, State
from pylwaftr.pcp.client_values import Grant, Granted, Lost, NotUsed, Refused, Wanted
from pylwaftr.pcp.codec import MapRequest
from pylwaftr.pcp.numbers import Result, address16
from pylwaftr.pcp.options import PortSet
from tests.pcp_client_world import (
    B4,
    GRANTED,
    NONCE,
    OTHER,
    PUBLIC,
    UDP_8080,
    World,
)

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
