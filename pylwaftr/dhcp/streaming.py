"""The first connection of a session: the active query, when it has begun, and what is done where it is refused."""

from __future__ import annotations

from pylwaftr.dhcp.active import Failed, Stream
from pylwaftr.dhcp.events import Alarm, Channel
from pylwaftr.dhcp.parts import Parts
from pylwaftr.dhcp.profiles import Heard, Word
from pylwaftr.dhcp.rounds import Rounds

_NOT_ACTIVE = (Word.NOT_SUPPORTED, Word.UNKNOWN_QUERY_TYPE, Word.MALFORMED_QUERY)
ACTIVE = Channel.ACTIVE


class Streaming:
    def __init__(self, parts: Parts, rounds: Rounds) -> None:
        self._parts, self._rounds = parts, rounds
        self.accept_due: float | None = None

    def begin(self, now: float) -> None:
        """The connection is ready for the query."""
        parts = self._parts
        parts.links[ACTIVE].send(parts.active.begin(parts.next_xid()))
        self.accept_due = None if parts.profile.replies else now + parts.timers.of(parts.timers.accept_s)

    def accept_in_silence(self, now: float) -> None:
        self.accept_due = None
        if self._parts.active.state is Stream.AWAIT_REPLY:
            gaps = self._parts.active.gaps
            self._parts.active.accept()
            self._see_gap(gaps, now)

    def heard(self, heard: Heard, now: float) -> tuple[Failed, float | None] | None:
        """Why the connection has to end, and how long to wait then."""
        parts, active = self._parts, self._parts.active
        before, gaps = active.state, active.gaps
        try:
            active.heard(heard)
        except Failed as failed:
            parts.events += active.take()
            return failed, self._refused(failed)
        finally:
            parts.events += active.take()
        if active.running:
            self.accept_due = None
            parts.polling.stream_runs()
            parts.attempts[ACTIVE].succeeded()
            self._see_gap(gaps, now)
        if active.state is Stream.LIVE:
            parts.alone.stream_began()
        if active.state is not before:
            parts.moved(ACTIVE, before.value, active.state.value, heard.word.value if heard.word else "")
        return None

    def _see_gap(self, gaps: int, now: float) -> None:
        active, alone = self._parts.active, self._parts.alone
        if active.gaps != gaps and self._rounds.only_wish and alone.data_missing(active.wishes, now):
            self._parts.counts["bulks_put_off"] += 1

    def _refused(self, failed: Failed) -> float | None:
        parts, wait_s = self._parts, None
        parts.counts[f"refused_{failed.word.name.lower()}"] += 1
        if parts.active.state is Stream.AWAIT_REPLY:
            parts.polling.anyway = True
            if failed.word in _NOT_ACTIVE:
                self.start_polling(str(failed))
                wait_s = parts.timers.later_s
            elif failed.word is Word.NOT_ALLOWED:
                wait_s = parts.timers.refused_s
            if failed.word is not Word.NOT_SUPPORTED:
                parts.events.append(Alarm("active_refused", f"the active query was refused: {failed}"))
        return wait_s

    def lost(self, queried: bool, closed: bool, now: float, wait_s: float | None) -> None:
        """The connection is over. `queried`: the query was sent; `closed`: by the server."""
        parts = self._parts
        if queried and parts.active.state is Stream.AWAIT_REPLY and not parts.active.heard_any:
            if parts.polling.unanswered(closed):
                self.start_polling("the active query was not answered")
            wait_s = parts.polling.wait_s()
        parts.active.end()
        parts.alone.stream_ended()
        self.accept_due = None
        parts.attempts[ACTIVE].ended(now, wait_s)

    def start_polling(self, why: str) -> None:
        parts = self._parts
        if not parts.polling.on:
            parts.polling.on = True
            parts.active.need_resync()
            parts.moved(ACTIVE, "active", "polling", why)
