"""Our requestor as the client of our leasequery server: bulk, stream, and chaos."""

from __future__ import annotations

import random

import pytest

from pylwaftr.responder.database import Database
from tests.leasequery_peer import ACTIVE, BULK, Peer, server
from tests.leasequery_vectors import T0
from tests.responder_pair import THREE, Pair, change, chaos, database, settle


@pytest.mark.parametrize("profile", ["W", "N", "S"])
def test_a_bulk_and_then_the_stream(profile: str) -> None:
    pair = Pair(database(*THREE), profile)
    pair.peer.open()
    pair.run(1)
    assert pair.peer.table == pair.truth
    assert len(pair.truth) == 3
    pair.db.apply([change(4, T0 + 2), change(1, T0 + 2, "RELEASED")], T0 + 2)
    pair.run(2)
    assert pair.peer.table == pair.truth
    assert {key[3] for key in pair.peer.table} == {2, 3, 4}
    assert pair.peer.session().counts["connects_bulk"] == 1


@pytest.mark.parametrize("profile, seeds", [("W", 6), ("N", 3), ("S", 3)])
def test_chaos_ends_with_the_table_of_the_server(profile: str, seeds: int) -> None:
    """Random leases, cuts, restarts of the requestor, a log that is too short: after a while both have the same."""
    for seed in range(seeds):
        pair = after_chaos(random.Random(seed), profile)
        assert pair.peer.table == pair.truth, f"seed {seed}"


def after_chaos(rng: random.Random, profile: str) -> Pair:
    pair = Pair(Database(log_size=rng.choice([64, 1 << 16])), profile)

    def meddle(now: float) -> None:
        for channel in (ACTIVE, BULK):
            if rng.random() < 0.3:
                pair.cut(channel, now)
        if rng.random() < 0.1:  # the router is killed: its bindings and what was saved survive
            old = pair.peer
            pair.links.clear()
            pair.peer = Peer(server(profile=profile), restored=old.saved)
            pair.peer.table = dict(old.table)
            pair.peer.requestor.restore(old.requestor.leases.bindings(), now, 3600)
            pair.peer.open(now)

    settle(pair, chaos(pair, rng, meddle), 30)
    return pair
