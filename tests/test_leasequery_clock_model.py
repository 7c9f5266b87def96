"""Random leases of a server that stamps one message in seven with a time of the future.

After each of them the table is the server's, whether a stream or a bulk told of it.
"""

from __future__ import annotations

import random

import pytest

from tests.leasequery_peer import ACTIVE, BULK, A, B, Peer, data, done, ended, lease, reply, started
from tests.leasequery_vectors import T0

AHEAD = [61, 90, 400, 3600, 10 * 365 * 86400, 0xFFFFFFFF - T0 - 5000]
Truth = dict[int, str]  # by PSID, the tunnel address


class World:
    def __init__(self, seed: int, nested: bool, outer: bool) -> None:
        """Which layer's times are spoilt."""
        self._rng, self._nested, self._outer = random.Random(seed), nested, outer
        self.peer: Peer = started(None)
        self.truth: Truth = {}
        self._now, self._active, self._bulk = 2.0, A, B

    def _at(self, spoilt: bool) -> int:
        ahead = self._rng.choice(AHEAD) if spoilt and self._rng.random() < 0.15 else 0
        return int(self._now) + ahead

    def step(self) -> None:
        self._now += self._rng.choice([0, 1, 2, 5, 20])
        if self.peer.session().state != "live":
            self._begin_again()
        elif self._rng.random() < 0.15:
            self._tell_all()
        else:
            self._change(self._rng.randrange(20))

    def _change(self, psid: int) -> None:
        at = self._at(self._nested)
        if self._rng.random() < 0.4:
            self.truth.pop(psid, None)
            news = ended(lease(psid), at)
        else:
            self.truth[psid] = f"2001:db8:{self._rng.randrange(9999):x}::1"
            news = lease(psid, at, b4=self.truth[psid])
        self.peer.recv(data(self._active, self._at(self._outer), news), ACTIVE, self._now)

    def _tell_all(self) -> None:
        self.peer.requestor.resync(self._now)
        self.peer.after(self._now)
        self._bulk += 1
        self.peer.connect(BULK, self._now, self._bulk)
        self._now = max(self._now, self.peer.now)
        leases = [lease(psid, self._at(self._nested), b4=b4) for psid, b4 in self.truth.items()]
        octets = [data(self._bulk, self._at(self._outer), one) for one in leases]
        end = [*octets, done(self._bulk)] if leases else []
        self.peer.recv(b"".join([reply(self._bulk, self._now, *leases[:1]), *end]), BULK, self._now)

    def _begin_again(self) -> None:
        """The stream was silent for too long; all that has changed since is told."""
        self._active = int.from_bytes(self.peer.connect(ACTIVE, self._now)[3:6])
        self._now = max(self._now, self.peer.now)
        at = int(self._now)
        news = [
            lease(psid, at, b4=self.truth[psid]) if psid in self.truth else ended(lease(psid), at) for psid in range(20)
        ]
        told = b"".join(data(self._active, at, one) for one in news)
        self.peer.recv(reply(self._active, at) + told + data(self._active, at, status=13), ACTIVE, self._now)


@pytest.mark.parametrize(
    "nested, outer", [(True, False), (False, True), (True, True)], ids=["lease", "message", "both"]
)
@pytest.mark.parametrize("seed", range(5))
def test_the_table_is_the_server_s_whatever_its_times_say(seed: int, nested: bool, outer: bool) -> None:
    world = World(seed, nested, outer)
    for _ in range(60):
        world.step()
        assert {key[3]: b4 for key, b4 in world.peer.table.items()} == world.truth
    assert world.peer.session().counts["clock_ahead"] + world.peer.session().counts["clock_went_back"] > 0
