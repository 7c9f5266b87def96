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

from pylwaftr.dhcp.active import Active, Stream
from pylwaftr.dhcp.alone import Alone
from pylwaftr.dhcp.bulk import Bulk
from pylwaftr.dhcp.clock import Clock
from pylwaftr.dhcp.connection import Broken, Connection, Dropped, Phase, Timers
from pylwaftr.dhcp.events import Alarm, Channel, Connected, Event, Open, Saved, Secure, Shut
from pylwaftr.dhcp.parts import Parts
from pylwaftr.dhcp.polling import Polling
from pylwaftr.dhcp.profiles import PROFILES, Heard, Word
from pylwaftr.dhcp.progress import Progress
from pylwaftr.dhcp.retry import Attempts, Watch
from pylwaftr.dhcp.rounds import Rounds
from pylwaftr.dhcp.streaming import Streaming

ACTIVE, BULK = Channel.ACTIVE, Channel.BULK

STATES = (  # of a session; one at a time
    "waiting",
    "polling",
    *(phase.value for phase in (Phase.CONNECTING, Phase.TLS_REQUESTED, Phase.TLS_HANDSHAKE)),
    *(stream.value for stream in (Stream.AWAIT_REPLY, Stream.CATCH_UP, Stream.LIVE)),
)


@dataclass(frozen=True, slots=True)
class Settings:
    duid: bytes  # ours
    profile: str = "W"
    secure: bool = True
    links: tuple[IPv6Address, ...] = ()
    timers: Timers = field(default_factory=Timers)
    active: bool = True  # False: bulk queries only


class Session:
    def __init__(self, settings: Settings, saved: Saved, rng: random.Random) -> None:
        self._timers, self._secure, self._wants_stream = settings.timers, settings.secure, settings.active
        profile, duid, timers = PROFILES[settings.profile], settings.duid, settings.timers
        self.counts: Counter[str] = Counter()
        self.unix_offset = 0.0
        self._links = {channel: Connection(profile, duid, settings.secure, timers, self.counts) for channel in Channel}
        self._active = Active(profile, duid, saved, self.counts)
        self._bulk = Bulk(profile, duid, settings.links, self.counts)
        self._attempts = {channel: Attempts(timers, rng) for channel in Channel}
        self._alone, self._polling = Alone(timers), Polling(timers)
        self._parts = Parts(
            profile,
            timers,
            self.counts,
            self._links,
            self._attempts,
            self._active,
            self._bulk,
            self._alone,
            self._polling,
            xid=rng.randrange(1 << 24),
        )
        self._rounds = Rounds(self._parts)
        self._stream = Streaming(self._parts, self._rounds)
        self._watch = Watch(timers)
        self._clock = Clock()
        self._told_ahead: set[Channel] = set()  # of these connections
        self._live = False

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
        return self._rounds.state

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
        return (self._active.state is Stream.LIVE or self._polling.on) and not self._parts.owed

    @property
    def bulk_took_s(self) -> float | None:
        """The last one that was complete."""
        return self._rounds.took_s

    @property
    def bulk_ended(self) -> float | None:
        return self._rounds.ended

    @property
    def progress(self) -> Progress:
        return self._parts.progress

    def behind_s(self, now: float) -> float:
        """How old what has reached us may be."""
        if self._active.state is Stream.LIVE and not self.saved.resync:
            return 0.0
        return self.progress.behind_s(now)

    @property
    def heard_at(self) -> float:
        return max(link.heard_at for link in self._links.values())

    # --- the caller's calls ---

    def open(self, now: float) -> None:
        self.progress.begin(now)
        if self._wants_stream:
            self._connect(ACTIVE, now)
        else:
            self._stream.start_polling("the active query is left out, as configured")
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

    def forget(self, now: float) -> None:
        """What it said is known no more: it is asked for all, as if for the first time."""
        self._active.forget()
        self._after(now)

    def query(self, b4: IPv6Address, now: float) -> bool:
        """Ask for the lease of one B4; `Answered` follows if True."""
        if not self._rounds.query(b4, now):
            return False
        if self._links[BULK].phase is Phase.CLOSED:
            self._connect(BULK, now)
        self._after(now)
        return True

    def connected(self, channel: Channel, now: float) -> None:
        link = self._links[channel]
        if link.phase is Phase.CONNECTING:
            link.connected(now, self._parts.next_xid())
            self._parts.moved(channel, Phase.CONNECTING.value, self._links[channel].phase.value)
            if not self._secure:
                self._ready(channel, now)
            self._after(now)

    def secured(self, channel: Channel, now: float) -> None:
        def proceed() -> None:
            self._links[channel].secured(now)
            self._ready(channel, now)

        self._guarded(channel, now, proceed)

    def feed(self, channel: Channel, data: bytes | memoryview, now: float) -> None:
        self._guarded(channel, now, lambda: self._feed(channel, data, now))

    def closed(self, channel: Channel, now: float, reason: str) -> None:
        """The connection ended, or never came up."""
        if channel is BULK and self._rounds.linger_until is not None:
            self._rounds.ended_idle()
            self._after(now)
        elif self._links[channel].phase is not Phase.CLOSED:
            self.counts["connections_lost"] += 1
            self._lost(channel, now, reason, ours=False)
            self._after(now)

    def data_to_send(self, channel: Channel) -> bytes:
        return self._links[channel].data_to_send()

    def events(self) -> list[Event]:
        events, self._parts.events = self._parts.events, []
        return events

    def timer(self) -> float | None:
        times = [
            self._stream.accept_due,
            self._rounds.linger_until,
            self._polling.due,
            self._alone.bulk_due,
            self._watch.timer(),
        ]
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
        if self._stream.accept_due is not None and now >= self._stream.accept_due:
            self._stream.accept_in_silence(now)
        if self._rounds.linger_until is not None and now >= self._rounds.linger_until:
            self._rounds.close("no more queries", now)
        if self._polling.is_due(now):
            self._active.need_resync()
        if self._alone.bulk_due is not None and now >= self._alone.bulk_due:
            self._alone.bulk_due = None
        self._after(now)

    # --- connections ---

    def _silence(self, channel: Channel) -> float | None:
        if channel is BULK and self._rounds.linger_until is not None:
            return None
        return self._links[channel].deadline(self._timers.receive_s if channel is ACTIVE else self._timers.bulk_s)

    def _connect(self, channel: Channel, now: float) -> None:
        if channel is BULK and self._active.running and self._parts.owed and self._alone.needed(now):
            self._step_aside(now)
            return
        self._attempts[channel].begun(now)
        self._told_ahead.discard(channel)
        self._links[channel].open(now)
        self.counts[f"connects_{channel.value}"] += 1
        self._parts.events.append(Open(channel))
        self._parts.moved(channel, "waiting", Phase.CONNECTING.value)

    def _step_aside(self, now: float) -> None:
        """The stream, for a bulk that has to have the only connection."""
        self._end(ACTIVE, now, "the server takes one connection at a time, and a full bulk is due", ours=True)
        self._alone.turn, self._attempts[ACTIVE].due = True, None
        self._attempts[BULK].due = self._alone.aside(now)

    def _ready(self, channel: Channel, now: float) -> None:
        if channel is ACTIVE:
            self._stream.begin(now)
            self._parts.moved(ACTIVE, Phase.OPEN.value, Stream.AWAIT_REPLY.value)

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
        self.progress.failed(now, f"{channel.value} connection: {reason}")
        self._end(channel, now, reason, ours, wait_s)

    def _end(self, channel: Channel, now: float, reason: str, ours: bool, wait_s: float | None = None) -> None:
        """The connection is over, whoever ended it."""
        link, before = self._links[channel], self.state if channel is ACTIVE else self.bulk_state
        queried = link.phase is Phase.OPEN
        link.close()
        if ours:
            self._parts.events.append(Shut(channel, reason))
        if channel is ACTIVE:
            self._stream.lost(queried, not ours, now, wait_s)
        else:
            self._rounds.lost(reason, queried, now, wait_s)
        self._parts.moved(channel, before, "waiting", reason)

    # --- what comes in ---

    def _feed(self, channel: Channel, data: bytes | memoryview, now: float) -> None:
        link = self._links[channel]
        unix = self._clock.shows(now, self.unix_offset)
        query: Active | Bulk = self._active if channel is ACTIVE else self._bulk
        waiting = link.phase is Phase.TLS_REQUESTED
        for item in link.receive(data, now, unix, lambda: query.xid):
            if isinstance(item, Dropped):
                self.progress.failed(now, f"{channel.value} connection: {item.text}")
                if item.resync:
                    self._active.need_resync()
                    self._bulk.flaw(f"a message was lost: {item.text}")
            else:
                item = self._timed(channel, item, now)
                if channel is ACTIVE:
                    self._heard_active(item, now)
                else:
                    self._heard_bulk(item, now)
        if waiting and link.phase is Phase.TLS_HANDSHAKE:
            self._parts.events.append(Secure(channel))
            self._parts.moved(channel, Phase.TLS_REQUESTED.value, Phase.TLS_HANDSHAKE.value)

    def _timed(self, channel: Channel, heard: Heard, now: float) -> Heard:
        """With times that its leases can have."""
        stream = channel is ACTIVE
        if heard.base is not None and (stream or not self._active.running):  # a bulk may lag behind
            self._clock.see(heard.base.unix, now, stream)
        if self._clock.ahead is not None:
            self._active.measured(self._clock.ahead - self.unix_offset)
        rows, ahead_s = self._clock.tamed(heard.rows, now)
        if not ahead_s:
            return heard
        self.counts["clock_ahead"] += 1
        if channel not in self._told_ahead:
            self._told_ahead.add(channel)
            text = f"a lease has a base-time {ahead_s} s ahead of the server's clock; it is taken as told now"
            self._parts.events.append(Alarm("base_time_ahead", text))
            self.progress.failed(now, f"{channel.value} connection: {text}")
        return replace(heard, rows=rows)

    def _heard_active(self, heard: Heard, now: float) -> None:
        if (end := self._stream.heard(heard, now)) is not None:
            failed, wait_s = end
            self._lost(ACTIVE, now, str(failed), ours=True, wait_s=wait_s)

    def _heard_bulk(self, heard: Heard, now: float) -> None:
        if (failed := self._rounds.heard(heard, now)) is not None:
            wait_s = self._timers.refused_s if failed.word is Word.NOT_ALLOWED else None
            self._lost(BULK, now, str(failed), ours=True, wait_s=wait_s)

    # --- after every call ---

    def _after(self, now: float) -> None:
        self._rounds.ask(now)
        if self._links[BULK].phase is Phase.CLOSED and (self._rounds.due or self._bulk.wanted):
            self._attempts[BULK].plan(now)
            if self._attempts[BULK].is_due(now):
                self._connect(BULK, now)
        if self._active.state is Stream.LIVE and not self.saved.resync:
            self.progress.reached(self._links[ACTIVE].heard_at)
        live = self._active.running or self._polling.on
        if live is not self._live:
            self._live = live
            self._parts.events.append(Connected(live))
        if self._watch.see("lonely", not live, now):
            self._parts.events.append(Alarm("lonely", "no news of leases for five minutes"))
        if self._watch.see("resync_late", self._parts.owed, now):
            self._parts.events.append(Alarm("resync_late", "no full bulk has succeeded for fifteen minutes"))
