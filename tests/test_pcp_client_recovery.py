"""The PCP client of a lwB4 when something was lost: announcements, ICMPv6 1/5, a move, a reboot, a silent server."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest

from pylwaftr.pcp import codec
from pylwaftr.pcp.client import Client, Options, State
from pylwaftr.pcp.client_values import Granted, Kept, Recovering, Saved
from pylwaftr.pcp.codec import AnnounceResponse, MapRequest
from pylwaftr.pcp.numbers import Result, address16
from tests.pcp_client_world import (
    B4,
    GRANTED,
    LWAFTR,
    NONCE,
    PUBLIC,
    UDP_8080,
    Middle,
    World,
)
from tests.test_vectors_pcp import VECTORS


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
