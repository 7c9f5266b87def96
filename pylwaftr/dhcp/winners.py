"""From claims to bindings: whose claim is programmed for each key, and what that changes.

All of it is in columns but the rare rest: two divisions of one address, two clients of one tunnel address, servers that
name different ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp._index import KeyIndex
from pylwaftr.dhcp.records import ACTIVE, NONE, Claims, Mask, Slots, better
from pylwaftr.dhcp.slots import NOBODY, Keys, SlotTable
from pylwaftr.rows import Rows, describe, no_rows, text6

REPORTS_MOST = 50  # in one outcome; all are counted


@dataclass(frozen=True, slots=True)
class Report:
    """Something that people should know. `name` is stable."""

    name: str
    server: str
    text: str


@dataclass(slots=True)
class Outcome:
    reports: list[Report] = field(default_factory=list)
    resync: set[str] = field(default_factory=set)  # servers to ask for a full bulk


@dataclass(frozen=True, slots=True)
class Changes:
    """First unbind, then bind: an address may be divided anew. No key is in both."""

    unbind: Rows = field(default_factory=no_rows)
    bind: Rows = field(default_factory=no_rows)
    former: Rows = field(default_factory=no_rows)  # as some of `bind` were before

    def __len__(self) -> int:
        return len(self.unbind) + len(self.bind)


class Winners:
    def __init__(self, br: bytes, counts: Counter[str]) -> None:
        self.table = SlotTable()
        self.claims: dict[int, Claims] = {}  # by the server's number
        self.names: dict[int, str] = {}
        self.br = np.frombuffer(br, np.uint8)
        self._counts = counts
        self.reported: Counter[tuple[str, str]] = Counter()  # by server, and name of the report
        self.b4s = KeyIndex()  # the slot that a tunnel address was bound for last

    def add(self, number: int, name: str, rank: int) -> Claims:
        self.claims[number] = Claims(self.table.capacity, rank)
        self.names[number] = name
        return self.claims[number]

    def make_room(self, more: int) -> None:
        if self.table.room(more):
            return
        capacity = self.table.needed(more)
        for claims in self.claims.values():  # first: without memory they are longer than need be, and never too short
            claims.grow(capacity, self.table.count)
        self.table.grow(capacity)

    def resolve(self, slots: Slots, out: Outcome) -> None:
        """Decides these keys anew. `slots`: each once."""
        if not len(slots):
            return
        self.table.note(slots)
        winner = self._winners(slots, out)
        old = self.table.owner[slots]
        b4 = self._b4_of(slots, winner)
        same = (winner == old) | ((winner != NOBODY) & (old != NOBODY))
        same &= (b4 == self.table.b4[slots]).all(1)
        moved = same & (winner != old)
        self.table.owner[slots[moved]] = winner[moved]
        self._unbind(slots[(old != NOBODY) & (winner == NOBODY)], out)
        wanted = (winner != NOBODY) & ~same
        self._bind(slots[wanted], winner[wanted], b4[wanted], out)

    def take(self) -> Changes:
        """What all that happened since the last `take` comes down to; who is slow to take gets no more than that."""
        return Changes(*self.table.take(self.br)) if self.table.changes else Changes()

    def free_unclaimed(self) -> None:
        slots = self.table.used()
        claimed = np.zeros(len(slots), np.bool_)
        for claims in self.claims.values():
            claimed |= claims.verdict[slots] != NONE
        self.table.free(slots[~claimed])

    def forget(self, claims: Claims, out: Outcome) -> None:
        """All that a server said."""
        slots = np.flatnonzero(claims.verdict[: self.table.count] != NONE).astype(np.int32)
        claims.verdict[slots] = NONE
        self.resolve(slots, out)

    # --- who wins ---

    def _winners(self, slots: Slots, out: Outcome) -> npt.NDArray[np.int16]:
        winner = np.full(len(slots), NOBODY, np.int16)
        speakers = np.zeros(len(slots), np.int16)
        for number, claims in self.claims.items():
            verdict = claims.verdict[slots]
            winner[verdict == ACTIVE] = number
            speakers += claims.speaks(slots)
        several = speakers > 1
        if several.any():
            winner[several] = self._best(slots[several], out)
        return winner

    def _best(self, slots: Slots, out: Outcome) -> npt.NDArray[np.int16]:
        """Of keys that several servers speak of."""
        best = np.full(len(slots), NOBODY, np.int16)
        active = np.full(len(slots), NOBODY, np.int16)  # the first that calls it active
        differ = np.zeros(len(slots), np.bool_)
        for number, claims in self.claims.items():
            verdict, speaks = claims.verdict[slots], claims.speaks(slots)
            for rival in np.unique(best[speaks]).tolist():
                at = np.flatnonzero(speaks & (best == rival))
                if rival != NOBODY:
                    at = at[better(claims, slots[at], self.claims[rival], slots[at])]
                best[at] = number
            for other in np.unique(active[verdict == ACTIVE]).tolist():
                at = np.flatnonzero((verdict == ACTIVE) & (active == other))
                if other == NOBODY:
                    active[at] = number
                else:
                    theirs = self.claims[other].rows["b4"][slots[at]]
                    differ[at] |= (claims.rows["b4"][slots[at]] != theirs).any(1)
        for one in np.flatnonzero(differ).tolist():
            self._disagreement(int(slots[one]), int(best[one]), out)
        for number, claims in self.claims.items():
            best[(best == number) & (claims.verdict[slots] != ACTIVE)] = NOBODY
        return best

    def _disagreement(self, slot: int, best: int, out: Outcome) -> None:
        active = [number for number, claims in self.claims.items() if claims.verdict[slot] == ACTIVE]
        names = ", ".join(self.names[number] for number in active)
        self.report(out, "servers_disagree", best, f"{self.text(slot)} has different tunnel addresses at {names}")

    def _b4_of(self, slots: Slots, winner: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
        b4 = self.table.b4[slots].copy()
        for number, claims in self.claims.items():
            his = winner == number
            b4[his] = claims.rows["b4"][slots[his]]
        return b4

    def disputed(self, some: slice) -> Mask:
        """Which keys of these slots several servers speak of."""
        slots = np.arange(some.start, some.stop, dtype=np.int32)
        speakers = np.zeros(len(slots), np.int16)
        for claims in self.claims.values():
            speakers += claims.speaks(slots)
        found: Mask = speakers > 1
        return found

    # --- what that changes ---

    def _unbind(self, slots: Slots, out: Outcome) -> None:
        if not len(slots):
            return
        for address in self.table.clear(slots):
            waiting = self.table.of_address(int(address))
            waiting = waiting[self.table.owner[waiting] == NOBODY]
            self.resolve(waiting, out)

    def _bind(self, slots: Slots, winner: npt.NDArray[np.int16], b4: npt.NDArray[np.uint8], out: Outcome) -> None:
        if not len(slots):
            return
        new = self.table.owner[slots] == NOBODY
        fits = np.ones(len(slots), np.bool_)
        fits[new] = self.table.fits(slots[new])
        good = slots[fits]
        if len(good):
            self.table.program(good, b4[fits], winner[fits])
            self._check_b4s(good, winner[fits], b4[fits], out)
        for at in np.flatnonzero(~fits):
            self._contest(int(slots[at]), int(winner[at]), b4[at], out)

    def _contest(self, slot: int, number: int, b4: npt.NDArray[np.uint8], out: Outcome) -> None:
        """The address is divided in another way by leases that are programmed: the better side has it."""
        ipv4 = int(self.table.keys[slot] >> np.uint64(26))
        rivals = self.table.of_address(ipv4)
        rivals = rivals[self.table.owner[rivals] != NOBODY]
        wins = self._beats(number, slot, rivals)
        text = f"{self.text(slot)} does not fit the port sets of its address; "
        text += f"{len(rivals)} other leases {'give way' if wins else 'stay'}"
        self.report(out, "other_division", number, text)
        if not wins:
            return
        self._counts["quarantined_division"] += len(rivals)
        self.table.note(rivals)
        self.table.clear(rivals)
        one = np.array([slot], np.int32)
        self.table.fits(one)
        self.table.contest(one)
        self.table.program(one, b4.reshape(1, 16), number)

    def _beats(self, number: int, slot: int, rivals: Slots) -> bool:
        mine, owner = self.claims[number], self.table.owner[rivals]
        for other in np.unique(owner).tolist():
            his = rivals[owner == other]
            if not better(mine, np.full(len(his), slot, np.int32), self.claims[other], his).all():
                return False
        return True

    def _check_b4s(self, slots: Slots, winner: npt.NDArray[np.int16], b4: npt.NDArray[np.uint8], out: Outcome) -> None:
        """RFC 8539 section 8.2: two clients at one tunnel address; one of the leases is old."""
        others = self.b4s.put(_b4_keys(b4), slots)
        maybe = np.flatnonzero((others >= 0) & (others != slots))
        maybe = maybe[(self.table.owner[others[maybe]] != NOBODY) & (self.table.b4[others[maybe]] == b4[maybe]).all(1)]
        for at in maybe:
            slot, other = int(slots[at]), int(others[at])
            mine, his = self.claims[int(winner[at])], self.claims[int(self.table.owner[other])]
            if (mine.rows[slot]["client"] != his.rows[other]["client"]).any():
                text = f"{self.text(slot)} and {self.text(other)} of two clients share {text6(b4[at].tobytes())}"
                self.report(out, "b4_shared", int(winner[at]), text)
                out.resync.add(self.names[int(winner[at])])

    def tidy_b4s(self) -> None:
        """Tunnel addresses come and go; those that went are forgotten now and then."""
        if len(self.b4s) <= 2 * len(self.table) + 1024:
            return
        slots = np.flatnonzero(self.table.owner[: self.table.count] != NOBODY).astype(np.int32)
        self.b4s = KeyIndex()
        self.b4s.put(_b4_keys(self.table.b4[slots]), slots)

    # --- reports ---

    def report(self, out: Outcome, name: str, number: int | None, text: str) -> None:
        self._counts[name] += 1
        self.reported["" if number is None else self.names[number], name] += 1
        if len(out.reports) < REPORTS_MOST:
            out.reports.append(Report(name, "" if number is None else self.names[number], text))

    def text(self, slot: int) -> str:
        return describe(self.table.rows(np.array([slot], np.int32), self.br)[0])


def _b4_keys(b4: npt.NDArray[np.uint8]) -> Keys:
    words = np.ascontiguousarray(b4).view(np.uint64).reshape(-1, 2)
    return words[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ words[:, 1]
