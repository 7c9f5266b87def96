"""The leases of all servers, and which bindings follow from them.

    leases.heard(server, rows, now)      news, by bulk or stream
    leases.bulk_begins(server)           from here to `bulk_ends` all that is left unsaid is no lease
    leases.bulk_ends(server)             mark and sweep, of this server's claims only
    leases.expire(now)                   at `timer()`
    leases.set_live(server, live)        whether a renewal would be heard of
    leases.take()                        rows to unbind and to bind; the calls above return reports

Per key (address and port set: leases share addresses) each server has one claim; the better one is programmed
(records.py, winners.py). What cannot be programmed stays as a claim and is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from pylwaftr.dhcp import _ordinary
from pylwaftr.dhcp.anew import Anew
from pylwaftr.dhcp.codec_lease import Has, LeaseRows, State
from pylwaftr.dhcp.former import NUMBER, Former
from pylwaftr.dhcp.judging import Judge, keeps, pools_of
from pylwaftr.dhcp.oddities import Oddities
from pylwaftr.dhcp.policies import FromTunnelAddress, Policy, PortSets
from pylwaftr.dhcp.records import ACTIVE, FOREVER, NONE, OVERDUE, Claims, Mask, Slots, deadlines, yields
from pylwaftr.dhcp.silent_ports import in_parts, with_ports
from pylwaftr.dhcp.slots import NOBODY, Keys, each_key_once, keys_of
from pylwaftr.dhcp.standing import Standing, Standings, standings
from pylwaftr.dhcp.winners import Changes, Outcome, Report, Winners
from pylwaftr.rows import Rows, text4

__all__ = ["Changes", "FromTunnelAddress", "Leases", "Outcome", "Policy", "PortSets", "Report"]

GUARD_LEAST = 100  # a sweep of more than half of more than so many needs a second opinion
UNTIMED_S = 3600.0  # within this a lease without a lifetime is verified by a bulk
SCAN_S = 1.0  # deadlines are looked at no more often
AT_ONCE = 4096  # rows that are taken the compiled way together
FEW = 64  # rows that are taken the readable way before the compiled one is tried again


class Leases:
    def __init__(
        self,
        policies: Sequence[Policy],
        br: bytes,
        own: Sequence[bytes] = (),
        most: int = 4_000_000,
        compiled: bool = True,
        own_v4: Collection[int] = (),
    ) -> None:
        """`own`: tunnel addresses that no B4 can have; `own_v4`: addresses that no lease can have. `most`: claims that
        are kept, ended ones included."""
        self.counts: Counter[str] = Counter()
        self._compiled = compiled
        self._judge = Judge(br, own, own_v4)
        self._most = most
        self._winners = Winners(br, self.counts)
        self._table = self._winners.table
        self._policies: dict[int, Policy] = {}
        self._numbers: dict[str, int] = {}
        self._former = Former(self._winners)
        self._anew = Anew(self._winners)
        self._odd = Oddities(self._winners)
        self._scanned = float("-inf")
        self._tidy = False  # there are slots without a claim
        for policy in policies:
            self.add(policy)

    def set_br(self, br: bytes, own: Sequence[bytes], own_v4: Collection[int] = ()) -> Outcome:
        """Of bindings from now on. Those that there are stay as they are, but for what is the router's own."""
        self._judge = Judge(br, own, own_v4)
        self._winners.br = np.frombuffer(br, np.uint8)
        self._anew.begin([*self._policies, *self._restored])
        return self.judge_on()

    def judge_anew(self, policy: Policy) -> Outcome:
        """By the server's new policy, from now on: what that keeps out ends, what it lets in is bound, and another
        priority decides what servers disagree about. While they are `judging` it is not done."""
        self.add(policy)
        self._anew.begin([self._numbers[policy.name], *self._restored], disputed=True)
        return self.judge_on()

    @property
    def _restored(self) -> Sequence[int]:
        """What was bound before a restart is judged with those that may have told of it."""
        return () if self._former.inherits else (NUMBER,)

    @property
    def judging(self) -> bool:
        return self._anew.going

    def judge_on(self) -> Outcome:
        """The next part of what changed settings ask for."""
        out = Outcome()
        self._anew.part(self._judge, self._policies, out)
        return out

    def tell_again(self, rows: Rows) -> None:
        """These bindings are to be made anew, though no lease has changed."""
        self._table.tell_again(self._table.find(keys_of(rows)))

    def add(self, policy: Policy) -> None:
        number = self._numbers.setdefault(policy.name, max(self._numbers.values(), default=NUMBER) + 1)
        self._policies[number] = policy
        if number not in self._winners.claims:
            self._winners.add(number, policy.name, 0)
            self._former.unswept.add(policy.name)
        self._winners.claims[number].hold_s = policy.hold_s
        for rank, other in enumerate(sorted(self._policies, key=lambda n: -self._policies[n].priority)):
            self._winners.claims[other].rank = rank

    # --- what others may read ---

    def __len__(self) -> int:
        """Bindings that are programmed."""
        return int((self._table.owner[: self._table.count] != NOBODY).sum())

    @property
    def changed(self) -> int:
        """Bindings that the next `take` may be about."""
        return self._table.changes

    @property
    def reported(self) -> Mapping[tuple[str, str], int]:
        """How often what was reported of which server: (server, name of the report)."""
        return self._winners.reported

    @property
    def servers(self) -> Collection[str]:
        return self._numbers.keys()

    def standings(self, server: str, which: Slots | None = None) -> Standings:
        """How what a server says stands: all of it by its place, or at these places."""
        number = self._numbers[server]
        return standings(self._winners, number, self._judge, self._policies[number], which)

    def said(self, server: str, start: int, most: int) -> tuple[Slots, int]:
        """The next places where a server says anything, and where the others begin, 0 = nowhere."""
        verdict, count = self._of(server).verdict, self._table.count
        end = min(start + most, count)
        return (start + np.flatnonzero(verdict[start:end])).astype(np.int32), end if end < count else 0

    def told(self, server: str) -> int:
        """Leases that it calls active, and that `drop` takes away."""
        counted = np.bincount(self.standings(server), minlength=256)
        former = int((self._former.claims.verdict == ACTIVE).sum()) if self._alone else 0
        return int(counted.sum() - counted[Standing.NOT_KNOWN] - counted[Standing.ENDED]) + former

    @property
    def _alone(self) -> bool:
        """There is one server, so what was bound before a restart is its."""
        return len(self._policies) == 1

    def places(self, bindings: Rows) -> Slots:
        """Of bindings, in `standings`; -1: there is no such lease."""
        return self._table.find(keys_of(bindings))

    def rows_of(self, server: str, which: Slots) -> LeaseRows:
        """Some of that, by their places in `standings`."""
        rows: LeaseRows = self._of(server).rows[which]
        return rows

    def changed_by_server(self) -> Mapping[str, int]:
        """Of `changed`, for whose sake."""
        if len(self._numbers) == 1:
            return dict.fromkeys(self._numbers, self.changed)
        numbers = self._table.changed_for()
        return {name: int(np.count_nonzero(numbers == number)) for name, number in self._numbers.items()}

    def bindings(self) -> Rows:
        slots = np.flatnonzero(self._table.owner[: self._table.count] != NOBODY).astype(np.int32)
        return self._table.rows(slots, self._winners.br)

    def _of(self, server: str) -> Claims:
        return self._winners.claims[self._numbers[server]]

    def take(self) -> Changes:
        """What changed since the last `take`, however much was heard since."""
        changes = self._winners.take()
        if self._tidy:
            self._tidy = False
            self._winners.free_unclaimed()
        return changes

    # --- news ---

    def heard(self, server: str, rows: LeaseRows, now: float, bulk: bool = False) -> Outcome:
        """`bulk`: it is the answer to a query, and may have waited while the stream went on."""
        out, number = Outcome(), self._numbers[server]
        for part in in_parts(rows):
            part = with_ports(self._winners, number, self._policies[number], part, out)
            self._odd.see(number, part, now, out)
            self._heard(number, part, now, bulk, out)
        self._winners.tidy_b4s()
        return out

    def _heard(self, number: int, rows: LeaseRows, now: float, bulk: bool, out: Outcome) -> None:
        compiled = self._compiled and (self._policies[number].offsets or not rows["psid_offset"].any())
        compiled = compiled and not self._judge.of_router(rows).any()
        few = FEW if compiled else len(rows)
        while len(rows):
            if compiled:
                some = rows[:AT_ONCE]
                heard = self._heard_ordinary(number, some, now, bulk)
                rows = rows[heard:]
                if heard == len(some):
                    continue
                few = FEW if heard > FEW else 4 * few  # where much is odd, not much is lost by trying
            odd, rows = rows[:few], rows[few:]
            keys = keys_of(odd)
            for part in each_key_once(keys):
                self._apply(number, odd[part], keys[part], now, bulk, out)

    def _heard_ordinary(self, number: int, rows: LeaseRows, now: float, bulk: bool) -> int:
        """How many of the first rows were."""
        if len(rows) > self._most - len(self._table):
            return 0
        winners, keys = self._winners, keys_of(rows)
        winners.make_room(len(rows))
        slots, places = self._table.place(keys), self._table.places(keys)
        others = [claims for other, claims in winners.claims.items() if other not in (number, NUMBER)]
        heard, stale = _ordinary.hear(
            np.ascontiguousarray(rows).view(np.uint8),
            slots,
            places,
            self._table,
            winners.claims[number],
            number,
            self._former.claims,
            others,
            winners.b4s,
            self._judge.own,
            pools_of(self._policies[number]),
            now,
            UNTIMED_S,
            bulk,
        )
        self.counts["stale"] += stale
        return heard

    def _apply(self, number: int, rows: LeaseRows, keys: Keys, now: float, bulk: bool, out: Outcome) -> None:
        claims = self._winners.claims[number]
        slots = self._slots(keys, rows["state"] == State.ACTIVE, out)
        if (slots < 0).any():
            rows, slots = rows[slots >= 0], slots[slots >= 0]
        claims.generation[slots] = claims.current
        accepted, lay_ahead = claims.accept(slots, rows, bulk)
        if lay_ahead.any():
            self._lay_ahead(number, rows[lay_ahead], out)
        self.counts["stale"] += int((~accepted).sum())
        if not accepted.all():
            rows, slots = rows[accepted], slots[accepted]
        claims.streamed[slots] = not bulk
        verdict = self._judge.verdicts(self._winners, number, self._policies[number], rows, out)
        kept = keeps(claims, slots, rows, verdict)
        claims.touch(slots[kept], rows[kept])
        rows, slots, verdict = rows[~kept], slots[~kept], verdict[~kept]
        claims.rows[slots] = rows
        claims.verdict[slots] = verdict
        due = deadlines(rows, now)
        claims.deadline[slots] = due  # also of what is in quarantine: it may be released
        claims.next_due = min(claims.next_due, float(due[verdict == ACTIVE].min(initial=FOREVER)))
        self._former.claims.verdict[slots[~yields(rows["state"])]] = NONE
        if ((verdict == ACTIVE) & (rows["has"] & int(Has.LIFETIME) == 0)).any():
            claims.verify_due = min(claims.verify_due, now + UNTIMED_S)
        self._winners.resolve(slots, out)

    def _lay_ahead(self, number: int, rows: LeaseRows, out: Outcome) -> None:
        """Its news would look old until then. What counts instead may be old indeed, so all is asked for once more."""
        which = f"of {len(rows)} leases, the first {text4(int(rows[0]['ipv4']))}"
        text = f"base-times {which}, lay ahead of what it says now, which counts: its clock went back, or was wrong"
        self._winners.report(out, "base_time_back", number, text)
        self.counts["lay_ahead"] += len(rows)
        out.resync.add(self._policies[number].name)

    def _slots(self, keys: Keys, active: Mask, out: Outcome) -> Slots:
        slots = self._table.find(keys)
        new = slots < 0
        if new.any():
            room = self._most - len(self._table)
            if int(new.sum()) > room:  # ended leases are not remembered then; active ones are refused
                new &= active
                new[np.flatnonzero(new)[max(room, 0) :]] = False
                self._winners.report(out, "too_many", None, f"there are more than {self._most} leases")
            self._winners.make_room(int(new.sum()))
            slots[new] = self._table.make(keys[new])
        return slots

    # --- full bulks ---

    def bulk_begins(self, server: str) -> None:
        claims = self._of(server)
        claims.current += 1
        claims.streamed[:] = 0

    def bulk_ends(self, server: str) -> Outcome:
        """Sweeps what this server did not mention since `bulk_begins`, in no way."""
        out, claims, count = Outcome(), self._of(server), self._table.count
        old = (claims.verdict[:count] != NONE) & (claims.generation[:count] < claims.current)
        active = claims.verdict[:count] == ACTIVE
        total, ending = int(active.sum()), int((old & active).sum())
        if total > GUARD_LEAST and ending * 2 > total and claims.held is None:
            claims.held = ending
            text = f"a full bulk would end {ending} of {total} leases; that waits for a second one"
            self._winners.report(out, "mass_removal", self._numbers[server], text)
            out.resync.add(server)
            return out
        claims.held = None
        claims.verify_due = FOREVER
        self.counts["swept"] += ending
        slots = np.flatnonzero(old).astype(np.int32)
        claims.verdict[slots] = NONE
        self._winners.resolve(slots, out)
        self._former.unswept.discard(server)
        self._former.sweep(out)
        self._tidy = True
        return out

    # --- time ---

    def set_live(self, server: str, live: bool) -> None:
        """False also while it is catching up or a full bulk is due: renewals may be on their way."""
        self._of(server).set_live(live)

    def timer(self) -> float | None:
        claims = self._winners.claims.values()
        due = min(min(c.next_due, c.verify_due) for c in claims)
        return None if due == FOREVER else max(due, self._scanned + SCAN_S)

    def expire(self, now: float) -> Outcome:
        out = Outcome()
        self._scanned = now
        for number, claims in self._winners.claims.items():
            slots = claims.due(now, self._table.count)
            if len(slots):
                self.counts["expired"] += len(slots)
                claims.verdict[slots] = OVERDUE if number != NUMBER else NONE
                self._winners.resolve(slots, out)
            if claims.verify_due <= now:
                claims.verify_due = FOREVER
                out.resync.add(self._policies[number].name)
        return out

    def reorder(self, server: str) -> None:
        """It is heard anew, and whatever it says next is newer than what it said before."""
        self._of(server).forget_order()

    def rebase(self, server: str) -> None:
        """The server's times compare no more with its former ones, nor do those with other servers'."""
        self._of(server).forget_times()

    def set_skew(self, server: str, seconds: float) -> None:
        self._of(server).skew_s = seconds

    # --- restarts, other servers ---

    def restore(self, rows: Rows, now: float, hold_s: float) -> Outcome:
        """What was bound before a restart forwards on, until every server has told all it has; `hold_s` at most.

        The rows are bound already, so only what does not stay is a change: what no server may give now ends with
        `judge_on`, so that a start can forward first.
        """
        self._former.restore(rows, now + hold_s)
        self._anew.begin((NUMBER,))
        return self.expire(now) if hold_s <= 0 else Outcome()

    def drop(self, server: str) -> Outcome:
        """All that a server said, at an operator's wish. What it says from here on counts, however old that is. Of what
        was bound before a restart nobody knows whose it is, unless there is one server."""
        out, claims = Outcome(), self._of(server)
        claims.held = None
        self._winners.forget(claims, out)
        if self._alone:
            self._winners.forget(self._former.claims, out)
        self._odd.forget(self._numbers[server])
        self._tidy = True
        return out

    def remove(self, server: str) -> Outcome:
        """A server that is configured no more, and all that it said."""
        out, number = Outcome(), self._numbers.pop(server)
        self._winners.forget(self._winners.claims[number], out)
        self._odd.forget(number)
        self._tidy = True
        del self._policies[number], self._winners.claims[number]
        self._former.unswept.discard(server)
        return out

    def retire(self, server: str, now: float, hold_s: float) -> Outcome:
        """It is configured no more. What is bound for its sake forwards on as after a restart: until every other server
        has told all it has, `hold_s` at most."""
        self._former.inherit(self._numbers[server], now + hold_s)
        self._anew.spare_former()  # what is inherited has its time, whatever others may tell of
        out = self.remove(server)
        if self._policies:
            self._former.sweep(out)
        return out
