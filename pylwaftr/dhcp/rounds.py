"""The second connection of a session: full bulks when they are owed, single queries in between, what their end means.

A bulk shows all leases of a server only together with the stream that runs beside it, or that goes on from where it
began; otherwise nothing is swept.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

from pylwaftr.dhcp.active import Failed
from pylwaftr.dhcp.bulk import Step
from pylwaftr.dhcp.connection import Phase
from pylwaftr.dhcp.events import Alarm, BulkBegan, BulkEnded, Channel, Shut
from pylwaftr.dhcp.parts import Parts
from pylwaftr.dhcp.profiles import Heard, Word

LINGER_S = 10.0  # how long the connection of a single query waits for the next one
ACTIVE, BULK = Channel.ACTIVE, Channel.BULK


class Rounds:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._wishes = 0  # for a full bulk, when the round began
        self.linger_until: float | None = None
        self.began: float | None = None
        self.took_s: float | None = None  # the last one that was complete, and when it ended
        self.ended: float | None = None

    @property
    def state(self) -> str:
        phase = self._parts.links[BULK].phase
        return str(self._parts.bulk.step.value if phase in (Phase.OPEN, Phase.CLOSED) else phase.value)

    @property
    def due(self) -> bool:
        parts = self._parts
        ready = parts.active.running or parts.polling.on or parts.polling.anyway or parts.alone.turn
        return parts.owed and ready and not parts.bulk.in_round

    @property
    def only_wish(self) -> bool:
        """Nothing but the last wish asks for a bulk."""
        return self._parts.active.wishes == self._wishes + 1

    def query(self, b4: IPv6Address, now: float) -> bool:
        """A single query. False: it cannot be asked now."""
        parts = self._parts
        if not parts.attempts[BULK].allowed(now) or (parts.active.running and parts.alone.needed(now)):
            return False
        if not parts.bulk.query(b4):
            return False
        parts.counts["single_queries"] += 1
        return True

    def ask(self, now: float) -> None:
        """The next query of the round, or a single one, or the end of the connection."""
        self._collect(now)
        parts, bulk, link = self._parts, self._parts.bulk, self._parts.links[BULK]
        if link.phase is not Phase.OPEN or bulk.step is not Step.IDLE:
            return
        if self.due and parts.attempts[BULK].allowed(now):
            bulk.begin_round()
        if bulk.wanted:
            single, query = bulk.single_next, bulk.next(parts.next_xid())
            self.linger_until = None
            link.restart_silence(now)
            link.send(query)
            parts.counts["queries_bulk"] += not single
            self._collect(now)
        elif bulk.last_was_single and not parts.alone.turn:
            if self.linger_until is None:
                self.linger_until = now + parts.timers.of(LINGER_S)
        else:
            self.close("complete", now)  # RFC 6926 section 7.8

    def close(self, why: str, now: float) -> None:
        self._parts.links[BULK].close()
        self.linger_until = None
        self._parts.events.append(Shut(BULK, why))
        self._turn_over(now)

    def ended_idle(self) -> None:
        """The server has closed what nobody used: no failure, and the next query connects again."""
        self._parts.links[BULK].close()
        self.linger_until = None

    def heard(self, heard: Heard, now: float) -> Failed | None:
        """Why the connection has to end: the query was refused or ended early."""
        parts = self._parts
        try:
            parts.bulk.heard(heard)
        except Failed as failed:
            parts.counts[f"refused_{failed.word.name.lower()}"] += 1
            parts.events.append(Alarm("bulk_refused", f"the bulk query was refused or ended early: {failed}"))
            if failed.word is Word.NOT_ALLOWED and parts.active.running:
                parts.alone.refused()
            return failed
        self.ask(now)
        return None

    def lost(self, reason: str, queried: bool, now: float, wait_s: float | None) -> None:
        """The connection is over. `queried`: there was one."""
        parts = self._parts
        if parts.active.running and (not queried or parts.bulk.step is Step.AWAIT_REPLY):
            parts.alone.refused()
        self.linger_until = None
        parts.bulk.abandon(reason)
        parts.attempts[BULK].ended(now, wait_s)
        parts.attempts[BULK].due = None  # planned if there is something to ask
        self._turn_over(now)

    def _turn_over(self, now: float) -> None:
        """The stream has the only connection again."""
        parts = self._parts
        if parts.alone.turn:
            parts.alone.turn = False
            parts.attempts[ACTIVE].plan(parts.alone.aside(now))

    def _collect(self, now: float) -> None:
        for event in self._parts.bulk.take():
            if isinstance(event, BulkBegan):
                self._wishes, self.began = self._parts.active.wishes, now
            elif isinstance(event, BulkEnded):
                event = self._ended(event, now)
            self._parts.events.append(event)

    def _ended(self, event: BulkEnded, now: float) -> BulkEnded:
        """Whether a sweep is sound: what came by bulk and by stream together has to be all there is."""
        parts, why = self._parts, event.reason
        if event.sweep and parts.active.wishes != self._wishes:
            why = "changes were lost while it ran"
        if event.sweep and not (parts.active.running or parts.polling.on or parts.alone.turn):
            why = "the active stream is down"
        parts.polling.bulk_ended(now)
        if why:
            parts.counts["bulks_incomplete"] += 1
            parts.progress.failed(now, f"a full bulk was incomplete: {why}")
            if parts.links[BULK].phase is Phase.OPEN:  # a lost connection has been noted as a failure already
                parts.attempts[BULK].ended(now)
                parts.attempts[BULK].due = None
            return BulkEnded(False, why)
        self._complete(now)
        return event

    def _complete(self, now: float) -> None:
        parts, began = self._parts, self.began if self.began is not None else now
        parts.counts["bulks_complete"] += 1
        parts.polling.bulk_worked()
        self.took_s, self.ended = now - began, now
        parts.progress.reached(began)
        parts.attempts[BULK].succeeded()
        parts.alone.bulk_ended()
        start = parts.active.saved.start
        if parts.alone.turn:
            start = parts.bulk.first_base or start
        elif parts.active.running:
            parts.alone.both_worked()
        parts.active.saved = replace(parts.active.saved, start=start, resync=False)
