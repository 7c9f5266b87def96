"""The PCP client of a lwB4 and any octets at all, in any order with anything else."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.pcp import codec
from pylwaftr.pcp.codec import AnnounceRequest, MapRequest
from pylwaftr.pcp.numbers import address16
from pylwaftr.pcp.options import PortSet
from tests.pcp_client_world import (
    B4,
    KNOWN,
    NONCE,
    World,
)
from tests.test_vectors_pcp import VECTORS

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
