"""A session with one leasequery server: an active query that stays, full bulk queries beside it when they are needed,
and single queries on a miss. No clock, no socket: the caller connects, feeds, sends, and asks when to come back.

    session.open(now)                      first thing
    for event in session.events(): ...     after every call: Open, Secure, Shut are for who owns the sockets
    session.connected(channel, now)        session.feed(channel, octets, now)      session.data_to_send(channel)
    session.secured(channel, now)          session.closed(channel, now, reason)    session.timer(), handle_timer(now)

`now` is monotonic. `unix_offset` added to it is the time of day; it may change at any moment.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address

from pylwaftr.dhcp.active import Active, Failed, Stream
from pylwaftr.dhcp.alone import Alone
from pylwaftr.dhcp.bulk import Bulk, Step
from pylwaftr.dhcp.connection import Broken, Connection, Dropped, Phase, Timers
from pylwaftr.dhcp.events import (
    Alarm,
    BulkBegan,
    BulkEnded,
    Channel,
    Connected,
    Event,
    Moved,
    Open,
    Saved,
    Secure,
    Shut,
)
from pylwaftr.dhcp.polling import Polling
from pylwaftr.dhcp.profiles import PROFILES, Heard, Word
from pylwaftr.dhcp.retry import Attempts, Watch

LINGER_S = 10.0  # how long the connection of a single query waits for the next one
_NOT_ACTIVE = (Word.NOT_SUPPORTED, Word.UNKNOWN_QUERY_TYPE, Word.MALFORMED_QUERY)
ACTIVE, BULK = Channel.ACTIVE, Channel.BULK


@dataclass(frozen=True, slots=True)
class Settings:
    duid: bytes  # ours
    profile: str = "W"
    secure: bool = True
    links: tuple[IPv6Address, ...] = ()
    timers: Timers = field(default_factory=Timers)


class Session:
    def __init__(self, settings: Settings, saved: Saved, rng: random.Random) -> None:
        self._timers, self._rng = settings.timers, rng
        self._secure = settings.secure
        self._profile = profile = PROFILES[settings.profile]
        self.counts: Counter[str] = Counter()
        self.unix_offset = 0.0
        make = (profile, settings.duid, settings.secure, settings.timers, self.counts)
        self._links = {channel: Connection(*make) for channel in Channel}
        self._active = Active(profile, settings.duid, saved, self.counts)
        self._bulk = Bulk(profile, settings.duid, settings.links, self.counts)
        self._attempts = {channel: Attempts(settings.timers, rng) for channel in Channel}
        self._watch = Watch(settings.timers)
        self._alone, self._polling = Alone(settings.timers), Polling(settings.timers)
        self._events: list[Event] = []
        self._xid = rng.randrange(1 << 24)
        self._accept_due: float | None = None
        self._linger_until: float | None = None
        self._wishes = 0  # for a full bulk, when the round began
        self._live = False
        self.bulk_began: float | None = None
        self.bulk_took_s: float | None = None

    # --- what others may read ---

    @property
    def saved(self) -> Saved:
        return self._active.saved

    @property
    def state(self) -> str:
        phase = self._links[ACTIVE].phase
        if phase is Phase.OPEN:
            return str(self._active.state.value)
        if phase is Phase.CLOSED:
            return "polling" if self._polling.on else "waiting"
        return str(phase.value)

    @property
    def bulk_state(self) -> str:
        phase = self._links[BULK].phase
        return str(self._bulk.step.value if phase in (Phase.OPEN, Phase.CLOSED) else phase.value)

    @property
    def in_bulk(self) -> bool:
        return self._bulk.in_round

    @property
    def live(self) -> bool:
        """News of leases reaches us."""
        return self._live

    @property
    def current(self) -> bool:
        """All that the server knows has reached us: what is overdue now was not renewed."""
        return (self._active.state is Stream.LIVE or self._polling.on) and not self._owed

    @property
    def _owed(self) -> bool:
        """A full bulk, and now."""
        return self.saved.resync and not self._alone.puts_off(self._active.wishes)

    @property
    def heard_at(self) -> float:
        return max(link.heard_at for link in self._links.values())

    # --- the caller's calls ---

    def open(self, now: float) -> None:
        self._connect(ACTIVE, now)
        self._after(now)

    def close(self, reason: str) -> list[Shut]:
        """For good. Which connections there are to be shut."""
        there = [channel for channel in Channel if self._links[channel].phase is not Phase.CLOSED]
        for channel in there:
            self._links[channel].close()
        return [Shut(channel, reason) for channel in there]

    def resync(self, now: float) -> None:
        """A full bulk as soon as can be."""
        self._active.need_resync()
        self._after(now)

    def query(self, b4: IPv6Address, now: float) -> bool:
        """Ask for the lease of one B4; `Answered` follows if True."""
        if not self._attempts[BULK].allowed(now) or (self._active.running and self._alone.needed(now)):
            return False
        if not self._bulk.query(b4):
            return False
        self.counts["single_queries"] += 1
        if self._links[BULK].phase is Phase.CLOSED:
            self._connect(BULK, now)
        self._after(now)
        return True

    def connected(self, channel: Channel, now: float) -> None:
        link = self._links[channel]
        if link.phase is Phase.CONNECTING:
            link.connected(now, self._next_xid())
            self._moved(channel, Phase.CONNECTING.value, self._links[channel].phase.value)
            if not self._secure:
                self._ready(channel, now)
            self._after(now)

    def secured(self, channel: Channel, now: float) -> None:
        def proceed() -> None:
            self._links[channel].secured(now)
            self._ready(channel, now)

        self._guarded(channel, now, proceed)

    def feed(self, channel: Channel, data: bytes, now: float) -> None:
        self._guarded(channel, now, lambda: self._feed(channel, data, now))

    def closed(self, channel: Channel, now: float, reason: str) -> None:
        """The connection ended, or never came up."""
        if self._links[channel].phase is not Phase.CLOSED:
            self.counts["connections_lost"] += 1
            self._lost(channel, now, reason, ours=False)
            self._after(now)

    def data_to_send(self, channel: Channel) -> bytes:
        return self._links[channel].data_to_send()

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def timer(self) -> float | None:
        times = [self._accept_due, self._linger_until, self._polling.due, self._alone.bulk_due, self._watch.timer()]
        times += [attempts.due for attempts in self._attempts.values()]
        times += [self._silence(channel) for channel in Channel]
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        for channel in Channel:
            silence = self._silence(channel)
            if silence is not None and now >= silence:
                self.counts["silences"] += 1
                self._lost(channel, now, f"silent while {self._links[channel].phase.value}", ours=True)
            if self._attempts[channel].is_due(now):
                self._connect(channel, now)
        if self._accept_due is not None and now >= self._accept_due:
            self._accept_due = None
            if self._active.state is Stream.AWAIT_REPLY:
                self._active.accept()
        if self._linger_until is not None and now >= self._linger_until:
            self._close_bulk("no more queries", now)
        if self._polling.is_due(now):
            self._active.need_resync()
        if self._alone.bulk_due is not None and now >= self._alone.bulk_due:
            self._alone.bulk_due = None
        self._after(now)

    # --- connections ---

    def _silence(self, channel: Channel) -> float | None:
        if channel is BULK and self._linger_until is not None:
            return None
        return self._links[channel].deadline(self._timers.receive_s if channel is ACTIVE else self._timers.bulk_s)

    def _connect(self, channel: Channel, now: float) -> None:
        if channel is BULK and self._active.running and self._owed and self._alone.needed(now):
            self._lost(ACTIVE, now, "the server takes one connection at a time, and a full bulk is due", ours=True)
            self._alone.turn, self._attempts[ACTIVE].due = True, None
            self._attempts[BULK].due = self._alone.aside(now)
            return
        self._attempts[channel].begun(now)
        self._links[channel].open(now)
        self.counts[f"connects_{channel.value}"] += 1
        self._events.append(Open(channel))
        self._moved(channel, "waiting", Phase.CONNECTING.value)

    def _ready(self, channel: Channel, now: float) -> None:
        if channel is ACTIVE:
            self._links[ACTIVE].send(self._active.begin(self._next_xid()))
            self._accept_due = None if self._profile.replies else now + self._timers.of(self._timers.accept_s)
            self._moved(ACTIVE, Phase.OPEN.value, Stream.AWAIT_REPLY.value)

    def _next_xid(self) -> int:
        """Unique on a connection and never 0; 24 bits do for DHCPv4 too."""
        self._xid = self._xid % 0xFFFFFF + 1
        return self._xid

    def _guarded(self, channel: Channel, now: float, action: Callable[[], None]) -> None:
        try:
            action()
        except Broken as fault:
            self.counts[f"broken_{fault.reason}"] += 1
            if fault.reason in ("malformed", "contradiction"):
                self._active.need_resync()
            self._lost(channel, now, str(fault), ours=True)
        self._after(now)

    def _lost(self, channel: Channel, now: float, reason: str, ours: bool, wait_s: float | None = None) -> None:
        """The connection is over, whoever ended it."""
        link, before = self._links[channel], self.state if channel is ACTIVE else self.bulk_state
        queried = link.phase is Phase.OPEN
        link.close()
        if ours:
            self._events.append(Shut(channel, reason))
        if channel is ACTIVE:
            if queried and self._active.state is Stream.AWAIT_REPLY and not self._active.heard_any:
                wait_s = self._unanswered(closed=not ours)
            self._active.end()
            self._alone.stream_ended()
            self._accept_due = None
            self._attempts[ACTIVE].ended(now, wait_s)
        else:
            if self._active.running and (not queried or self._bulk.step is Step.AWAIT_REPLY):
                self._alone.refused()
            self._linger_until = None
            self._bulk.abandon(reason)
            self._attempts[BULK].ended(now, wait_s)
            self._attempts[BULK].due = None  # `_after` plans it if there is something to ask
            self._turn_over(now)
        self._moved(channel, before, "waiting", reason)

    def _unanswered(self, closed: bool) -> float | None:
        if self._polling.unanswered(closed):
            self._start_polling("the active query was not answered")
        return self._polling.wait_s()

    def _start_polling(self, why: str) -> None:
        if not self._polling.on:
            self._polling.on = True
            self._active.need_resync()
            self._moved(ACTIVE, "active", "polling", why)

    # --- what comes in ---

    def _feed(self, channel: Channel, data: bytes, now: float) -> None:
        link = self._links[channel]
        unix = int(now + self.unix_offset)
        query: Active | Bulk = self._active if channel is ACTIVE else self._bulk
        waiting = link.phase is Phase.TLS_REQUESTED
        for item in link.receive(data, now, unix, lambda: query.xid):
            if isinstance(item, Dropped):
                if item.resync:
                    self._active.need_resync()
                    self._bulk.flaw(f"a message was lost: {item.text}")
            else:
                self._active.measure(item.base, unix)
                if channel is ACTIVE:
                    self._heard_active(item, now)
                else:
                    self._heard_bulk(item, now)
        if waiting and link.phase is Phase.TLS_HANDSHAKE:
            self._events.append(Secure(channel))
            self._moved(channel, Phase.TLS_REQUESTED.value, Phase.TLS_HANDSHAKE.value)

    def _heard_active(self, heard: Heard, now: float) -> None:
        before = self._active.state
        try:
            self._active.heard(heard)
        except Failed as failed:
            self._events += self._active.take()
            self._refused(failed, now)
            return
        finally:
            self._events += self._active.take()
        if self._active.running:
            self._accept_due = None
            self._polling.stream_runs()
            self._attempts[ACTIVE].succeeded()
            only = self._active.wishes == self._wishes + 1  # nothing else asks for a bulk
            if heard.word is Word.DATA_MISSING and only and self._alone.data_missing(self._active.wishes, now):
                self.counts["bulks_put_off"] += 1
        if self._active.state is Stream.LIVE:
            self._alone.stream_began()
        if self._active.state is not before:
            self._moved(ACTIVE, before.value, self._active.state.value, heard.word.value if heard.word else "")

    def _refused(self, failed: Failed, now: float) -> None:
        timers, wait_s = self._timers, None
        self.counts[f"refused_{failed.word.name.lower()}"] += 1
        if self._active.state is Stream.AWAIT_REPLY:
            self._polling.anyway = True
            if failed.word in _NOT_ACTIVE:
                self._start_polling(str(failed))
                wait_s = timers.later_s
            elif failed.word is Word.NOT_ALLOWED:
                wait_s = timers.refused_s
            if failed.word is not Word.NOT_SUPPORTED:
                self._events.append(Alarm("active_refused", f"the active query was refused: {failed}"))
        self._lost(ACTIVE, now, str(failed), ours=True, wait_s=wait_s)

    def _heard_bulk(self, heard: Heard, now: float) -> None:
        try:
            self._bulk.heard(heard)
        except Failed as failed:
            self.counts[f"refused_{failed.word.name.lower()}"] += 1
            self._events.append(Alarm("bulk_refused", f"the bulk query was refused or ended early: {failed}"))
            wait_s = self._timers.refused_s if failed.word is Word.NOT_ALLOWED else None
            if failed.word is Word.NOT_ALLOWED and self._active.running:
                self._alone.refused()
            self._lost(BULK, now, str(failed), ours=True, wait_s=wait_s)
        else:
            self._ask(now)

    # --- the bulk ---

    def _ask(self, now: float) -> None:
        """The next query of the round, or a single one, or the end of the connection."""
        self._collect(now)
        link = self._links[BULK]
        if link.phase is not Phase.OPEN or self._bulk.step is not Step.IDLE:
            return
        if self._round_due() and self._attempts[BULK].allowed(now):
            self._bulk.begin_round()
        if self._bulk.wanted:
            single, query = self._bulk.single_next, self._bulk.next(self._next_xid())
            self._linger_until = None
            link.restart_silence(now)
            link.send(query)
            self.counts["queries_bulk"] += not single
            self._collect(now)
        elif self._bulk.last_was_single and not self._alone.turn:
            if self._linger_until is None:
                self._linger_until = now + self._timers.of(LINGER_S)
        else:
            self._close_bulk("complete", now)  # RFC 6926 section 7.8

    def _round_due(self) -> bool:
        ready = self._active.running or self._polling.on or self._polling.anyway or self._alone.turn
        return self._owed and ready and not self._bulk.in_round

    def _close_bulk(self, why: str, now: float) -> None:
        self._links[BULK].close()
        self._linger_until = None
        self._events.append(Shut(BULK, why))
        self._turn_over(now)

    def _turn_over(self, now: float) -> None:
        """The stream has the only connection again."""
        if self._alone.turn:
            self._alone.turn = False
            self._attempts[ACTIVE].plan(self._alone.aside(now))

    def _collect(self, now: float) -> None:
        for event in self._bulk.take():
            if isinstance(event, BulkBegan):
                self._wishes, self.bulk_began = self._active.wishes, now
            elif isinstance(event, BulkEnded):
                event = self._bulk_ended(event, now)
            self._events.append(event)

    def _bulk_ended(self, event: BulkEnded, now: float) -> BulkEnded:
        """Whether a sweep is sound: what came by bulk and by stream together has to be all there is."""
        why = event.reason
        if event.sweep and self._active.wishes != self._wishes:
            why = "changes were lost while it ran"
        if event.sweep and not (self._active.running or self._polling.on or self._alone.turn):
            why = "the active stream is down"
        self._polling.bulk_ended(now)
        if why:
            self.counts["bulks_incomplete"] += 1
            if self._links[BULK].phase is Phase.OPEN:  # a lost connection has been noted as a failure already
                self._attempts[BULK].ended(now)
                self._attempts[BULK].due = None
            return BulkEnded(False, why)
        self.counts["bulks_complete"] += 1
        self._polling.bulk_worked()
        self.bulk_took_s = now - (self.bulk_began or now)
        self._attempts[BULK].succeeded()
        self._alone.bulk_ended()
        start = self.saved.start
        if self._alone.turn:
            start = self._bulk.first_base or start
        elif self._active.running:
            self._alone.both_worked()
        self._active.saved = replace(self.saved, start=start, resync=False)
        return event

    # --- after every call ---

    def _after(self, now: float) -> None:
        self._ask(now)
        if self._links[BULK].phase is Phase.CLOSED and (self._round_due() or self._bulk.wanted):
            self._attempts[BULK].plan(now)
            if self._attempts[BULK].is_due(now):
                self._connect(BULK, now)
        live = self._active.running or self._polling.on
        if live is not self._live:
            self._live = live
            self._events.append(Connected(live))
        if self._watch.see("lonely", not live, now):
            self._events.append(Alarm("lonely", "no news of leases for five minutes"))
        if self._watch.see("resync_late", self._owed, now):
            self._events.append(Alarm("resync_late", "no full bulk has succeeded for fifteen minutes"))

    def _moved(self, channel: Channel, before: str, after: str, reason: str = "") -> None:
        if before != after:
            self._events.append(Moved(channel, before, after, reason))
