"""Leases judged once more because settings have changed: part by part, for a million of them take half a second."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from pylwaftr.dhcp.former import NUMBER
from pylwaftr.dhcp.judging import REASONS, Judge
from pylwaftr.dhcp.policies import Policy
from pylwaftr.dhcp.records import ACTIVE, FOREVER, NONE, QUARANTINED, Mask
from pylwaftr.dhcp.winners import Outcome, Winners
from pylwaftr.rows import text4

PART = 1 << 14  # slots: some milliseconds
_FORMER = "former_refused"


class Anew:
    def __init__(self, winners: Winners) -> None:
        self._winners = winners
        self._servers: set[int] = set()  # whose leases are judged
        self._disputed = False  # what several servers speak of is decided anew too
        self._next = self._end = 0  # slots
        self._told: dict[tuple[int, str], tuple[int, str]] = {}  # server, reason -> how many ended, the first

    def begin(self, servers: Iterable[int], disputed: bool = False) -> None:
        """From the first slot on, also if an earlier change is still on its way."""
        self._servers.update(servers)
        self._disputed |= disputed
        self._next, self._end = 0, self._winners.table.count

    def spare_former(self) -> None:
        self._servers.discard(NUMBER)

    @property
    def going(self) -> bool:
        return bool(self._servers)

    def part(self, judge: Judge, policies: Mapping[int, Policy], out: Outcome) -> None:
        """What was heard since the settings changed was judged by them, and is not judged otherwise here."""
        start, end = self._next, min(self._next + PART, self._end)
        some = slice(start, end)
        changed = self._winners.disputed(some) if self._disputed else np.zeros(end - start, np.bool_)
        for number in self._servers & (policies.keys() | {NUMBER}):
            if number == NUMBER:
                changed |= self._former(judge, policies, some)
            else:
                changed |= self._of_server(judge, number, policies[number], some)
        self._winners.resolve((start + np.flatnonzero(changed)).astype(np.int32), out)
        self._next = end
        if end == self._end:
            self._tell(out)
            self._servers.clear()
            self._disputed = False

    def _of_server(self, judge: Judge, number: int, policy: Policy, some: slice) -> Mask:
        claims = self._winners.claims[number]
        active: Mask = claims.verdict[some] == ACTIVE
        held: Mask = claims.verdict[some] == QUARANTINED
        if not active.any() and not held.any():
            return active
        reasons = judge.reasons(policy, claims.rows[some])
        refused: Mask = np.logical_or.reduce(list(reasons.values()))
        for name, bad in reasons.items():
            self._count(number, name, some, active & bad)
        ends: Mask = active & refused
        good: Mask = held & ~refused
        claims.verdict[some][ends] = QUARANTINED
        claims.verdict[some][good] = ACTIVE
        claims.next_due = min(claims.next_due, float(claims.deadline[some][good].min(initial=FOREVER)))
        ends |= good
        return ends

    def _former(self, judge: Judge, policies: Mapping[int, Policy], some: slice) -> Mask:
        """Of no server it is known that it told of them: what none of them may tell of ends."""
        claims = self._winners.claims[NUMBER]
        ends: Mask = claims.verdict[some] == ACTIVE
        if not policies or not ends.any():  # without a server they only have their time
            return np.zeros_like(ends)
        for policy in policies.values():
            ends &= np.logical_or.reduce(list(judge.reasons(policy, claims.rows[some]).values()))
        self._count(NUMBER, _FORMER, some, ends)
        claims.verdict[some][ends] = NONE
        return ends

    def _count(self, number: int, name: str, some: slice, ends: Mask) -> None:
        if (count := int(np.count_nonzero(ends))) == 0:
            return
        row = self._winners.claims[number].rows[some.start + int(ends.argmax())]
        before, first = self._told.get((number, name), (0, text4(int(row["ipv4"]))))
        self._told[number, name] = before + count, first

    def _tell(self, out: Outcome) -> None:
        """Of all parts together."""
        for (number, name), (count, first) in self._told.items():
            if number in self._winners.claims:
                text = f"{count} leases end, the first {first}, by new settings: {REASONS.get(name, _NO_SERVER)}"
                self._winners.report(out, name, number, text)
        self._told.clear()


_NO_SERVER = (
    "bound before the restart, and of no server that may have told of them (pools, accept_psid_offset, own addresses)"
)
