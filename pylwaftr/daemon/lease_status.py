"""What the leasequery servers and their leases are told about, to the API and to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from pylwaftr.api.backend import SourceStatus
from pylwaftr.dhcp.leasequery import STATES, Session
from pylwaftr.dhcp.requestor import Output, Requestor
from pylwaftr.dhcp.standing import CONFLICTS, QUARANTINE, Standing
from pylwaftr.rows import Rows
from pylwaftr.telemetry.values import Value

LIMIT = "subscriber_limit"
ENDED = "ended"  # in place of the state of each session
_NOT_ACTIVE = (Standing.NOT_KNOWN, Standing.ENDED)
_COUNTED = {  # of a session's counts, by what their names begin with: family, label, help, which are always there
    "received_": ("received", "type", "Messages of a server, by type", ("reply", "data", "done")),
    "malformed_": ("malformed", "reason", "Messages of a server that could not be used", ()),
    "warn_": ("warnings", "warning", "Oddities in messages of a server that were used", ()),
    "refused_": ("refusals", "status", "Queries that a server refused or ended, by its status", ()),
    "broken_": ("broken", "reason", "Connections that were closed for a fault of a server", ()),
    "connects_": ("connects", "connection", "Attempts to connect to a server", ("active", "bulk")),
    "bulks_": ("bulks", "result", "Full bulks of a server that ended", ("complete", "incomplete")),
}
_EVENTS = (
    "connections_lost",
    "silences",
    "data_missing",
    "keepalives",
    "resyncs_wanted",
    "clock_went_back",
    "clock_ahead",
)


class LeaseStatus:
    """Of one moment."""

    def __init__(
        self, requestor: Requestor, under_way: Output, over_limit: Rows, now: float, unix: float, ended: bool = False
    ) -> None:
        """`under_way`: taken, and not durable yet; `over_limit`: bindings that wait for room; `ended`: by a fault."""
        self._requestor, self._under_way = requestor, under_way
        self._over_limit, self._now, self._unix, self._ended = over_limit, now, unix, ended

    def sources(self) -> list[SourceStatus]:
        return [self._source(name, self._kept_out(name)) for name in self._requestor.sessions]

    def values(self) -> Iterator[Value]:
        for name, session in self._requestor.sessions.items():
            counted = self._kept_out(name)
            yield from _of_source(self._source(name, counted), counted)
            yield from self._of_session(session, {"server": name})
        for (name, report), count in self._requestor.leases.reported.items():
            label = {"server": name or "-", "report": report}
            yield Value("lwaftr_lease_reports", "What was reported about leases", "counter", label, count)

    def _source(self, name: str, counted: Mapping[str, int]) -> SourceStatus:
        session, fault = self._requestor.sessions[name], self._requestor.sessions[name].progress.fault
        queued, lag_s = self._behind(name, session)
        known = session.progress.known is not None
        return SourceStatus(
            name=name,
            state=self._state(session),
            leases=counted["active"],
            conflicts=sum(counted[standing.name.lower()] for standing in CONFLICTS),
            lag_s=lag_s,
            queued=queued,
            synchronised=self._unix - lag_s if known else None,
            last_fault="" if fault is None else fault.text,
            last_fault_at=self._time_of(None if fault is None else fault.at),
            quarantined=counted[LIMIT] + sum(counted[standing.name.lower()] for standing in QUARANTINE),
            received=session.counts["messages_received"],
            sent=session.counts["messages_sent"],
            bulk=session.bulk_state,
            skew_s=session.saved.skew_s,
            bulk_at=self._time_of(session.bulk_ended),
        )

    def _state(self, session: Session) -> str:
        return ENDED if self._ended else session.state

    def _time_of(self, moment: float | None) -> float | None:
        return None if moment is None else self._unix - self._now + moment

    def _behind(self, name: str, session: Session) -> tuple[int, float]:
        """Leases that were heard of and are not durable yet, and for how long anything the server knows is not."""
        waiting, since = self._requestor.waiting_of(name)
        taken = self._under_way.queued.get(name, 0)
        times = [since] if waiting else []
        times += [self._under_way.since.get(name)] if taken else []
        heard = min((time for time in times if time is not None), default=self._now)
        return waiting + taken, max(session.behind_s(self._now), self._now - heard)

    def _kept_out(self, name: str) -> dict[str, int]:
        """How many leases a server calls active, and of those kept out how many why."""
        leases = self._requestor.leases
        found = leases.standings(name)
        by_standing = np.bincount(found, minlength=256).tolist()
        counted = {standing.name.lower(): by_standing[standing] for standing in (*QUARANTINE, *CONFLICTS)}
        counted["active"] = len(found) - sum(by_standing[standing] for standing in _NOT_ACTIVE)
        at = leases.places(self._over_limit)
        counted[LIMIT] = int(np.count_nonzero(found[at[at >= 0]] == Standing.BOUND))
        return counted

    def _of_session(self, session: Session, label: Mapping[str, str]) -> Iterator[Value]:
        for state in (*STATES, ENDED):
            at, value = {**label, "state": state}, self._state(session) == state
            yield Value("lwaftr_lease_source_state", "1 for the state it is in", "gauge", at, value)
        for direction in ("received", "sent"):
            at = {**label, "direction": direction}
            count = session.counts[f"messages_{direction}"]
            yield Value("lwaftr_lease_messages", "Messages from and to a server", "counter", at, count)
        for event in _EVENTS:
            at = {**label, "event": event}
            yield Value("lwaftr_lease_events", "What happened with a server", "counter", at, session.counts[event])
        yield from _counted(session.counts, label)
        yield from self._times(session, label)

    def _times(self, session: Session, label: Mapping[str, str]) -> Iterator[Value]:
        start, skew_s = session.saved.start, session.saved.skew_s
        times = {
            "silence_seconds": ("Since the last message of a server", self._now - session.heard_at),
            "skew_seconds": ("How far the clock of a server is ahead", skew_s),
        }
        if session.bulk_took_s is not None:
            times["bulk_seconds"] = ("How long the last complete full bulk took", session.bulk_took_s)
        if start is not None:
            age_s = self._unix - (start.unix - skew_s)
            times["start_age_seconds"] = ("Age of the point from which a new stream would start", age_s)
        for name, (text, seconds) in times.items():
            yield Value(f"lwaftr_lease_{name}", text, "gauge", label, seconds)


def _of_source(source: SourceStatus, counted: Mapping[str, int]) -> Iterator[Value]:
    label = {"server": source.name}
    yield Value("lwaftr_leases", "Leases that a server calls active", "gauge", label, source.leases)
    for standings, name, text in (
        (QUARANTINE, "lwaftr_leases_quarantined", "Leases that may not be bound"),
        (CONFLICTS, "lwaftr_lease_conflicts", "Leases that wait for the end of another"),
    ):
        reasons = [standing.name.lower() for standing in standings]
        for reason in [*reasons, LIMIT] if standings is QUARANTINE else reasons:
            yield Value(name, text, "gauge", {**label, "reason": reason}, counted[reason])
    yield Value("lwaftr_lease_lag_seconds", "How far behind the server", "gauge", label, source.lag_s)
    yield Value("lwaftr_lease_changes_queued", "Leases heard of and not durable", "gauge", label, source.queued)
    up = float(source.state == "live")
    yield Value("lwaftr_lease_source_live", "1 while the active query of a server is live", "gauge", label, up)


def _counted(counts: Mapping[str, int], label: Mapping[str, str]) -> Iterator[Value]:
    for prefix, (family, name, text, always) in _COUNTED.items():
        found = dict.fromkeys(always, 0)
        found |= {key.removeprefix(prefix): count for key, count in counts.items() if key.startswith(prefix)}
        for value, count in found.items():
            yield Value(f"lwaftr_lease_{family}", text, "counter", {**label, name: value}, count)
