"""What a router has because of what was heard of servers A and B, and leases for it to hear."""

from __future__ import annotations

from typing import Any

from pylwaftr.dhcp.codec_lease import Lease
from pylwaftr.dhcp.leases import Leases, Outcome, Policy
from pylwaftr.rows import text6
from tests.leasequery_peer import BR, _key, lease, rows

Heard = tuple[str, Lease]


class Table:
    """What the router has because of what was heard."""

    def __init__(self, *policies: Policy) -> None:
        self.leases = Leases(policies or (Policy("A"), Policy("B")), BR.packed)
        self.bound: dict[Any, str] = {}
        self.reports: list[str] = []
        self.resync: set[str] = set()

    def heed(self, out: Any) -> None:
        changes = self.leases.take()
        for row in changes.unbind:
            assert self.bound.pop(_key(row)) == text6(row["b4"].tobytes())
        for row in changes.bind:
            assert self.bound.get(_key(row)) != text6(row["b4"].tobytes())
            self.bound[_key(row)] = text6(row["b4"].tobytes())
        assert self.bound == {_key(row): text6(row["b4"].tobytes()) for row in self.leases.bindings()}
        self.reports += [report.name for report in out.reports]
        self.resync |= out.resync

    def hear(self, *heard: Heard, now: float = 0.0) -> None:
        for name, one in heard:
            self.heed(self.leases.heard(name, rows(one), now))

    def judge(self, policy: Policy) -> list[Outcome]:
        """All parts, and what was said of each."""
        outcomes = [self.leases.judge_anew(policy)]
        self.heed(outcomes[0])
        while self.leases.judging:
            outcomes.append(self.leases.judge_on())
            self.heed(outcomes[-1])
        return outcomes

    @property
    def psids(self) -> dict[int, str]:
        return {key[3]: b4 for key, b4 in self.bound.items()}


ONE = lease(1)
B4 = "2001:db8:100:1::1"
RENEWED, MOVED = lease(1, 60, since=0), lease(1, 70, b4="2001:db8:1ff:1::1", since=0)
SEVEN = "2001:db8:7::"
OTHER = lease(1, 100, client=99, b4="2001:db8:99::1")
