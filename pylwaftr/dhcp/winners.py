"""From claims to bindings: whose claim is programmed for each key, and what that changes.

Almost always one server alone speaks of a key and its port set fits its address: that way is in columns. The rare rest
(two servers, two divisions of one address, two clients of one tunnel address) goes key by key.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp._index import KeyIndex
from pylwaftr.dhcp.records import ACTIVE, GONE, NONE, Claims, Slots, better, compare
from pylwaftr.dhcp.slots import NOBODY, Keys, SlotTable
from pylwaftr.rows import Rows, describe, no_rows, text6

NOTES_LEAST = 65536  # so many notes of changes are kept before they are put together
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

    def __len__(self) -> int:
        return len(self.unbind) + len(self.bind)


class Winners:
    def __init__(self, br: bytes, counts: Counter[str]) -> None:
        self.table = SlotTable()
        self.claims: dict[int, Claims] = {}  # by the server's number
        self.names: dict[int, str] = {}
        self.br = np.frombuffer(br, np.uint8)
        self._counts = counts
        self._b4s = KeyIndex()  # the slot that a tunnel address was bound for last
        self._before: list[tuple[Slots, npt.NDArray[np.int16], npt.NDArray[np.uint8]]] = []
        self._noted = 0

    def add(self, number: int, name: str, rank: int) -> Claims:
        self.claims[number] = Claims(self.table.capacity, rank)
        self.names[number] = name
        return self.claims[number]

    def make_room(self, more: int) -> None:
        while not self.table.room(more):
            self.table.grow()
            for claims in self.claims.values():
                claims.grow(self.table.capacity)

    def resolve(self, slots: Slots, out: Outcome) -> None:
        """Decides these keys anew. `slots`: each once."""
        if not len(slots):
            return
        self._note(slots)
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
        if not self._before:
            return Changes()
        slots, owner, b4 = self._first_notes()
        self._before, self._noted = [], 0
        bound, was = self.table.owner[slots] != NOBODY, owner != NOBODY
        bind = self.table.rows(slots[bound & (~was | (self.table.b4[slots] != b4).any(1))], self.br)
        unbind = self.table.rows(slots[was & ~bound], self.br)
        unbind["b4"] = b4[was & ~bound]
        return Changes(unbind, bind)

    def _note(self, slots: Slots) -> None:
        """How it stood before the first change since the last `take`."""
        self._before.append((slots, self.table.owner[slots], self.table.b4[slots]))
        self._noted += len(slots)
        if self._noted > NOTES_LEAST + 2 * self.table.count:
            self._before = [self._first_notes()]
            self._noted = len(self._before[0][0])

    def _first_notes(self) -> tuple[Slots, npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
        slots, first = np.unique(np.concatenate([note[0] for note in self._before]), return_index=True)
        owner = np.concatenate([note[1] for note in self._before])[first]
        return slots, owner, np.concatenate([note[2] for note in self._before])[first]

    def free_unclaimed(self) -> None:
        slots = self.table.used()
        claimed = np.zeros(len(slots), np.bool_)
        for claims in self.claims.values():
            claimed |= claims.verdict[slots] != NONE
        self.table.free(slots[~claimed])

    # --- who wins ---

    def _winners(self, slots: Slots, out: Outcome) -> npt.NDArray[np.int16]:
        winner = np.full(len(slots), NOBODY, np.int16)
        speakers = np.zeros(len(slots), np.int16)
        for number, claims in self.claims.items():
            verdict = claims.verdict[slots]
            winner[verdict == ACTIVE] = number
            speakers += (verdict == ACTIVE) | (verdict == GONE)
        for at in np.flatnonzero(speakers > 1):
            winner[at] = self._winner(int(slots[at]), out)
        return winner

    def _winner(self, slot: int, out: Outcome) -> int:
        best: int | None = None
        active = []
        for number, claims in self.claims.items():
            if claims.verdict[slot] not in (ACTIVE, GONE):
                continue
            if claims.verdict[slot] == ACTIVE:
                active.append(number)
            if best is None or better(claims, self.claims[best], slot):
                best = number
        if len({self.claims[number].rows[slot]["b4"].tobytes() for number in active}) > 1:
            names = ", ".join(self.names[number] for number in active)
            self.report(out, "servers_disagree", best, f"{self.text(slot)} has different tunnel addresses at {names}")
        return NOBODY if best is None or self.claims[best].verdict[slot] != ACTIVE else best

    def _b4_of(self, slots: Slots, winner: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
        b4 = self.table.b4[slots].copy()
        for number, claims in self.claims.items():
            his = winner == number
            b4[his] = claims.rows["b4"][slots[his]]
        return b4

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
            self._check_b4s(good, winner[fits], b4[fits], out)
            self.table.program(good, b4[fits], winner[fits])
        for at in np.flatnonzero(~fits):
            self._contest(int(slots[at]), int(winner[at]), b4[at], out)

    def _contest(self, slot: int, number: int, b4: npt.NDArray[np.uint8], out: Outcome) -> None:
        """The address is divided in another way by leases that are programmed: the better side has it."""
        ipv4 = int(self.table.keys[slot] >> np.uint64(26))
        rivals = self.table.of_address(ipv4)
        rivals = rivals[self.table.owner[rivals] != NOBODY]
        wins = all(self._beats(number, slot, int(rival)) for rival in rivals)
        text = f"{self.text(slot)} does not fit the port sets of its address; "
        text += f"{len(rivals)} other leases {'give way' if wins else 'stay'}"
        self.report(out, "other_division", number, text)
        if not wins:
            return
        self._counts["quarantined_division"] += len(rivals)
        self._note(rivals)
        self.table.clear(rivals)
        one = np.array([slot], np.int32)
        self.table.fits(one)
        self.table.contest(one)
        self.table.program(one, b4.reshape(1, 16), number)

    def _beats(self, number: int, slot: int, rival: int) -> bool:
        his = self.claims[int(self.table.owner[rival])]
        mine = self.claims[number]
        return compare(mine.rows[slot], mine, his.rows[rival], his) > 0

    def _check_b4s(self, slots: Slots, winner: npt.NDArray[np.int16], b4: npt.NDArray[np.uint8], out: Outcome) -> None:
        """RFC 8539 section 8.2: two clients at one tunnel address; one of the leases is old."""
        keys = _b4_keys(b4)
        others = self._b4s.find(keys)
        self._b4s.put(keys, slots)
        if len(self._b4s) > 2 * len(self.table) + 1024:
            self._rebuild_b4s()
        maybe = np.flatnonzero((others >= 0) & (others != slots))
        maybe = maybe[(self.table.owner[others[maybe]] != NOBODY) & (self.table.b4[others[maybe]] == b4[maybe]).all(1)]
        for at in maybe:
            slot, other = int(slots[at]), int(others[at])
            mine, his = self.claims[int(winner[at])], self.claims[int(self.table.owner[other])]
            if (mine.rows[slot]["client"] != his.rows[other]["client"]).any():
                text = f"{self.text(slot)} and {self.text(other)} of two clients share {text6(b4[at].tobytes())}"
                self.report(out, "b4_shared", int(winner[at]), text)
                out.resync.add(self.names[int(winner[at])])

    def _rebuild_b4s(self) -> None:
        slots = np.flatnonzero(self.table.owner[: self.table.count] != NOBODY).astype(np.int32)
        self._b4s = KeyIndex()
        self._b4s.put(_b4_keys(self.table.b4[slots]), slots)

    # --- reports ---

    def report(self, out: Outcome, name: str, number: int | None, text: str) -> None:
        self._counts[name] += 1
        if len(out.reports) < REPORTS_MOST:
            out.reports.append(Report(name, "" if number is None else self.names[number], text))

    def text(self, slot: int) -> str:
        return describe(self.table.rows(np.array([slot], np.int32), self.br)[0])


def _b4_keys(b4: npt.NDArray[np.uint8]) -> Keys:
    words = np.ascontiguousarray(b4).view(np.uint64).reshape(-1, 2)
    return words[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ words[:, 1]
