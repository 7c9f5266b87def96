"""All leasequery servers together: sessions in, bindings out. Still no socket and no clock.

requestor.open(now)
requestor.feed(server, channel, octets, now) ...    as of a Session, with the server's name
output = requestor.take(now)                        after every call
"""

from __future__ import annotations

import random
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from itertools import groupby

from pylwaftr.dhcp.codec_lease import joined
from pylwaftr.dhcp.events import (
    Alarm,
    Answered,
    BulkBegan,
    BulkEnded,
    Channel,
    Event,
    Leases,
    Moved,
    Open,
    Rebased,
    Saved,
    Secure,
    Shut,
)
from pylwaftr.dhcp.leasequery import Session, Settings
from pylwaftr.dhcp.leases import Leases as LeaseTable
from pylwaftr.dhcp.leases import Policy
from pylwaftr.dhcp.winners import Changes, Outcome, Report
from pylwaftr.rows import Rows

ROWS_MOST = 16384  # leases that wait to be looked at together
MANY, ENOUGH = 1024, 32768  # changes of a bulk that are gathered, and that are taken at once
ANSWER_S = 1.0  # a packet without a binding waits for a single query no longer
AGAIN_S = 10.0  # the same B4 is not asked about sooner
ASKED_MOST = 65536
SAVE_S = 1.0
DOUBT_S = 900.0  # between full bulks that odd leases ask for


@dataclass(frozen=True, slots=True)
class Server:
    settings: Settings
    policy: Policy

    @property
    def name(self) -> str:
        return self.policy.name


@dataclass(slots=True)
class Output:
    """`changes` and `saved` become durable together, or `saved` later: it speaks of what `changes` has."""

    changes: Changes = field(default_factory=Changes)
    saved: dict[str, bytes | None] = field(default_factory=dict)  # None: nothing, the server is configured no more
    commands: list[tuple[str, Open | Secure | Shut]] = field(default_factory=list)
    moves: list[tuple[str, Moved]] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    answered: list[tuple[IPv6Address, bool]] = field(default_factory=list)
    queued: Mapping[str, int] = field(default_factory=dict)  # of `changes`, for the sake of which server
    since: Mapping[str, float] = field(default_factory=dict)  # when the first of them was heard


@dataclass(slots=True)
class _Asked:
    at: float
    waiting: set[str]
    found: bool = False


class Requestor:
    def __init__(
        self,
        servers: Sequence[Server],
        br: bytes,
        own: Sequence[bytes] = (),
        saved: Mapping[str, bytes] | None = None,
        rng: random.Random | None = None,
        own_v4: Collection[int] = (),
    ) -> None:
        """`own`, `own_v4`: as of Leases. `saved`: by server, what an Output once said."""
        self._rng = rng or random.Random()
        self.leases = LeaseTable([server.policy for server in servers], br, own, own_v4=own_v4)
        self.sessions: dict[str, Session] = {}
        self._saved: dict[str, Saved] = {}
        self._saved_at: dict[str, float] = {}
        self._asked: dict[IPv6Address, _Asked] = {}
        self._doubted: dict[str, float] = {}
        self._out = Output()
        self._rows: dict[str, list[Leases]] = {}  # heard and not yet looked at
        self._row_count = 0
        self._since: dict[str, float] = {}  # when the first of what waits was heard
        self._current: dict[str, bool] = {}
        self._servers = {server.name: server for server in servers}
        self._forget: set[str] = set()  # servers whose records are to go
        self._open = False
        for server in servers:
            octets = (saved or {}).get(server.name)
            self._begin(server, Saved() if octets is None else Saved.of(octets))

    def _begin(self, server: Server, saved: Saved) -> None:
        self._saved[server.name] = saved
        self.sessions[server.name] = Session(server.settings, saved, self._rng)

    # --- the caller's calls ---

    def reconfigure(self, servers: Sequence[Server], anew: Container[str], now: float) -> None:
        """Other servers from now on. `anew`: those to connect to anew. The others' sessions go on undisturbed."""
        self._hear(now)
        wanted = {server.name: server for server in servers}
        gone = [server for name, server in self._servers.items() if name not in wanted]
        before, self._servers = self._servers, wanted
        for server in wanted.values():  # all before any lease is judged: what one may tell of no more another may
            self.leases.add(server.policy)
        for name, server in wanted.items():
            old, begun = before.get(name), False
            if old is not None and old.policy != server.policy:
                self._heed_outcome(self.leases.judge_anew(server.policy), now)
            if old is None:
                begun = True
                self._begin(server, Saved())
                self._forget.discard(name)
            elif name in anew or old.settings != server.settings:
                self._end(name, "it is configured otherwise now", now)
                begun = True
                self._begin(server, self._saved[name])
                self.leases.reorder(name)  # the new session does not know the server's clock
            if self._open and begun:
                self.sessions[name].open(now)
            if old is not None and old.policy != server.policy:
                self.sessions[name].resync(now)  # leases are judged otherwise
            self._heed(name, now)
        for server in gone:
            self._end(server.name, "it is configured no more", now)
            del self._saved[server.name]
            self._forget.add(server.name)
            self._heed_outcome(self.leases.retire(server.name, now, server.policy.hold_s), now)

    def set_br(self, br: bytes, own: Sequence[bytes], now: float, own_v4: Collection[int] = ()) -> None:
        self._hear(now)
        self._heed_outcome(self.leases.set_br(br, own, own_v4), now)

    def _end(self, name: str, reason: str, now: float) -> None:
        session = self.sessions.pop(name)
        self._out.commands += [(name, shut) for shut in session.close(reason)]
        self._saved[name] = session.saved
        self._current.pop(name, None)
        self._doubted.pop(name, None)
        self.leases.set_live(name, False)
        for b4, asked in self._asked.items():
            if name in asked.waiting:
                asked.waiting.discard(name)
                if not asked.waiting:
                    self._answer(b4, asked, False)

    def open(self, now: float) -> None:
        self._open = True
        for name, session in self.sessions.items():
            session.open(now)
            self._heed(name, now)

    def restore(self, rows: Rows, now: float, hold_s: float) -> None:
        """What was bound before a restart. No record says of which lease it is, so every server is asked for all."""
        self._heed_outcome(self.leases.restore(rows, now, hold_s), now)
        for session in self.sessions.values():
            session.resync(now)

    def connected(self, server: str, channel: Channel, now: float) -> None:
        self.sessions[server].connected(channel, now)
        self._heed(server, now)

    def secured(self, server: str, channel: Channel, now: float) -> None:
        self.sessions[server].secured(channel, now)
        self._heed(server, now)

    def feed(self, server: str, channel: Channel, data: bytes | memoryview, now: float) -> None:
        self.sessions[server].feed(channel, data, now)
        self._heed(server, now)

    def closed(self, server: str, channel: Channel, now: float, reason: str) -> None:
        self.sessions[server].closed(channel, now, reason)
        self._heed(server, now)

    def data_to_send(self, server: str, channel: Channel) -> bytes:
        return self.sessions[server].data_to_send(channel)

    def resync(self, now: float, server: str | None = None) -> None:
        """A full bulk, of one server or of all."""
        for name in self.sessions if server is None else (server,):
            self.sessions[name].resync(now)
            self._heed(name, now)

    def drop(self, server: str, now: float) -> None:
        """All that was learnt of a server ends here; it is asked for all anew."""
        self._hear(now)
        self._heed_outcome(self.leases.drop(server), now)
        self.sessions[server].forget(now)
        self._heed(server, now)

    def set_unix_offset(self, seconds: float) -> None:
        for session in self.sessions.values():
            session.unix_offset = seconds

    def timer(self) -> float | None:
        times = [session.timer() for session in self.sessions.values()] + [self.leases.timer()]
        times += [min((asked.at for asked in self._asked.values() if asked.waiting), default=None)]
        if times[-1] is not None:
            times[-1] += ANSWER_S
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        for name, session in self.sessions.items():
            due = session.timer()
            if due is not None and now >= due:
                session.handle_timer(now)
                self._heed(name, now)
        due = self.leases.timer()
        if due is not None and now >= due:
            self._hear(now)
            self._heed_outcome(self.leases.expire(now), now)
        for b4, asked in list(self._asked.items()):
            if asked.waiting and now >= asked.at + ANSWER_S:
                self._answer(b4, asked, False)
            elif now >= asked.at + AGAIN_S:
                del self._asked[b4]

    @property
    def waiting(self) -> int:
        """Leases and changes that the next `take` is about."""
        return self._row_count + self.leases.changed

    def waiting_of(self, name: str) -> tuple[int, float | None]:
        """Of that what is for the sake of a server, and when the first of it was heard."""
        rows = sum(len(part.rows) for part in self._rows.get(name, ()))
        return rows + self.leases.changed_by_server().get(name, 0), self._since.get(name)

    @property
    def flooded(self) -> bool:
        """A bulk is being read, and more of it is worth waiting for."""
        return MANY <= self.waiting < ENOUGH and any(session.in_bulk for session in self.sessions.values())

    def take(self, now: float, changes: bool = True) -> Output:
        if changes:
            self._hear(now)
            if self.leases.judging:
                self._heed_outcome(self.leases.judge_on(), now)
            self._heed_all(now)
        out, self._out = self._out, Output()
        if changes:
            out.queued, out.since, self._since = self.leases.changed_by_server(), self._since, {}
            out.changes = self.leases.take()
            out.saved = self._to_save(now)
        return out

    def _to_save(self, now: float) -> dict[str, bytes | None]:
        """No more than once a second, unless it is about the need of a full bulk."""
        found: dict[str, bytes | None] = dict.fromkeys(self._forget)
        self._forget.clear()
        for name, session in self.sessions.items():
            old, new = self._saved[name], session.saved
            soon = new.resync is not old.resync or new.server != old.server
            if new != old and (soon or now >= self._saved_at.get(name, float("-inf")) + SAVE_S):
                self._saved[name], self._saved_at[name] = new, now
                found[name] = new.octets()
        return found

    # --- a packet of a B4 without a binding ---

    def query(self, b4: IPv6Address, now: float) -> bool:
        """Ask all servers, once. True: an answer is pending, in `answered` within a second."""
        asked = self._asked.get(b4)
        if asked is not None and now < asked.at + AGAIN_S:
            return bool(asked.waiting)
        if len(self._asked) >= ASKED_MOST:
            return False
        waiting = {name for name, session in self.sessions.items() if session.query(b4, now)}
        self._asked[b4] = _Asked(now, waiting)
        for name in list(waiting):
            self._heed(name, now)
        return bool(self._asked[b4].waiting)

    def _answer(self, b4: IPv6Address, asked: _Asked, found: bool) -> None:
        asked.waiting.clear()
        self._out.answered.append((b4, found))

    def _answered(self, server: str, event: Answered) -> None:
        asked = self._asked.get(event.b4)
        if asked is not None and server in asked.waiting:
            asked.waiting.discard(server)
            if event.found or not asked.waiting:
                self._answer(event.b4, asked, event.found)

    # --- what sessions say ---

    def _heed_all(self, now: float) -> None:
        """A lease may have asked for a full bulk."""
        for name in self.sessions:
            self._heed(name, now)

    def _heed(self, name: str, now: float) -> None:
        session = self.sessions[name]
        while events := session.events():
            for event in events:
                self._event(name, session, event, now)
            if session.current is not self._current.get(name):
                self._current[name] = session.current
                self._hear(now)
                self.leases.set_live(name, session.current)

    def _hear(self, now: float) -> None:
        """Leases in large batches cost less each; nothing else overtakes them."""
        rows, self._rows, self._row_count = self._rows, {}, 0
        for name, parts in rows.items():
            self.leases.set_skew(name, self.sessions[name].saved.skew_s)
            for bulk, some in groupby(parts, lambda part: part.bulk):
                self._heed_outcome(self.leases.heard(name, joined([part.rows for part in some]), now, bulk), now)

    def _event(self, name: str, session: Session, event: Event, now: float) -> None:
        if isinstance(event, Leases):
            self._rows.setdefault(name, []).append(event)
            self._since.setdefault(name, now)
            self._row_count += len(event.rows)
            if self._row_count >= ROWS_MOST:
                self._hear(now)
            return
        self._hear(now)
        match event:
            case Open() | Secure() | Shut():
                self._out.commands.append((name, event))
            case BulkBegan():
                self.leases.bulk_begins(name)
            case BulkEnded(sweep, why):
                if sweep:
                    outcome = self.leases.bulk_ends(name)
                    if name in outcome.resync:
                        session.resync(now)
                        outcome.resync.clear()
                    self._heed_outcome(outcome, now)
                else:
                    self._out.reports.append(Report("bulk_incomplete", name, f"nothing is swept: {why}"))
            case Rebased():
                self.leases.rebase(name)
                self._out.reports.append(Report("rebased", name, "the server's clock went back, or it is another one"))
            case Alarm(alarm, text):
                self._out.reports.append(Report(alarm, name, text))
            case Moved():
                self._out.moves.append((name, event))
            case Answered():
                self._answered(name, event)

    def _heed_outcome(self, outcome: Outcome, now: float) -> None:
        for name in outcome.resync:
            if name not in self.sessions:  # what was bound before a restart is of no server
                continue
            if now >= self._doubted.get(name, float("-inf")) + DOUBT_S:
                self._doubted[name] = now
                self.sessions[name].resync(now)
        self._out.reports += outcome.reports
