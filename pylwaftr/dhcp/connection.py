"""One TCP connection to a leasequery server, without the TCP: frames, STARTTLS, silence, what cannot be read.

The octets that came before TLS was up never meet those of TLS: the answer to STARTTLS has to be the last octet in the
buffer (an attacker could have put more behind it), and from there to `secured` the caller may feed nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from pylwaftr.dhcp import _bulk
from pylwaftr.dhcp.codec4 import Malformed
from pylwaftr.dhcp.codec6 import frame
from pylwaftr.dhcp.profiles import Heard, Kind, Profile, Start, Word

MALFORMED_MOST, MALFORMED_WITHIN_S = 5, 60.0


class Broken(Exception):
    """The connection has to be closed. `reason` is a stable name, the text is for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Timers:
    """Seconds (RFC 7653 section 5, RFC 5460 section 5.7). Tests scale them; production uses 1."""

    scale: float = 1.0
    receive_s: float = 120.0  # ACTIVE_LQ_RCV_TIMEOUT
    gap_s: float = 60.0  # ACTIVE_LQ_IDLE_TIMEOUT: between attempts to connect
    most_gap_s: float = 300.0
    jitter: float = 0.1  # of gap_s
    bulk_s: float = 300.0  # BULK_LQ_DATA_TIMEOUT
    connect_s: float = 30.0
    tls_s: float = 30.0
    accept_s: float = 5.0  # profile N has no answer to an active query that waits for news
    poll_s: float = 300.0
    later_s: float = 3600.0  # until the next try of what the server does not do
    refused_s: float = 600.0

    def of(self, seconds: float) -> float:
        return seconds * self.scale


class Phase(Enum):
    CLOSED = "closed"
    CONNECTING = "connecting"
    TLS_REQUESTED = "TLS requested"
    TLS_HANDSHAKE = "TLS handshake"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message that could not be used. `resync`: a change of a lease may have been in it."""

    reason: str
    text: str
    resync: bool


class Connection:
    def __init__(self, profile: Profile, duid: bytes, secure: bool, timers: Timers, counts: Counter[str]) -> None:
        self._profile, self._duid, self._secure = profile, duid, secure
        self._timers, self._counts = timers, counts
        self.phase = Phase.CLOSED
        self._in = bytearray()
        self._at = 0  # what of it is read already, while it is being read
        self._out = bytearray()
        self._heard_at = 0.0
        self._tls_xid = 0
        self._malformed: deque[float] = deque(maxlen=MALFORMED_MOST)

    # --- the caller's side ---

    def open(self, now: float) -> None:
        self.phase, self._heard_at = Phase.CONNECTING, now
        self._in.clear()
        self._out.clear()
        self._malformed.clear()

    def connected(self, now: float, tls_xid: int) -> None:
        self._heard_at = now
        if not self._secure:
            self.phase = Phase.OPEN
            return
        self.phase, self._tls_xid = Phase.TLS_REQUESTED, tls_xid
        self.send(self._profile.tls_request(tls_xid))

    def secured(self, now: float) -> None:
        if self.phase is not Phase.TLS_HANDSHAKE:
            raise Broken("protocol", "TLS came up that nobody asked for")
        self.phase, self._heard_at = Phase.OPEN, now

    def close(self) -> None:
        """A frame that is not finished goes with it; all finished ones were heard."""
        if self._at < len(self._in):
            self._counts["unfinished_frames"] += 1
        self.phase = Phase.CLOSED
        self._in.clear()
        self._out.clear()

    def send(self, message: bytes) -> None:
        self._counts["messages_sent"] += 1
        self._out += frame(message)

    def data_to_send(self) -> bytes:
        octets = bytes(self._out)
        self._out.clear()
        return octets

    # --- time ---

    def deadline(self, silence_s: float) -> float | None:
        """When the connection is given up, if nothing is heard; a part of a frame is nothing."""
        seconds = {
            Phase.CLOSED: None,
            Phase.CONNECTING: self._timers.connect_s,
            Phase.TLS_REQUESTED: self._timers.tls_s,
            Phase.TLS_HANDSHAKE: self._timers.tls_s,
            Phase.OPEN: silence_s,
        }[self.phase]
        return None if seconds is None else self._heard_at + self._timers.of(seconds)

    @property
    def heard_at(self) -> float:
        return self._heard_at

    def restart_silence(self, now: float) -> None:
        self._heard_at = now

    # --- what comes in ---

    def receive(
        self, data: bytes | memoryview, now: float, unix: int, xid: Callable[[], int | None]
    ) -> Iterator[Heard | Dropped]:
        """`xid`: of the query whose DATA may be taken many at a time. Raises Broken, after all that was sound."""
        if self.phase is Phase.TLS_HANDSHAKE:
            raise Broken("clear_text", "octets in clear text between STARTTLS and TLS")
        self._in += data
        try:
            while not self._closed:
                many = self._many(now, xid())
                if many is not None:
                    yield many
                message = self._next_message()
                if message is None:
                    break
                self._heard_at = now
                item = self._message(message, now, unix)
                if item is not None:
                    yield item
                elif self._at < len(self._in):
                    rest = len(self._in) - self._at
                    raise Broken("clear_text", f"{rest} octets in clear text behind the answer to STARTTLS")
        finally:
            del self._in[: self._at]
            self._at = 0

    @property
    def _closed(self) -> bool:
        """Whoever is told what was heard may close, between one message and the next."""
        return self.phase is Phase.CLOSED

    def _next_message(self) -> bytes | None:
        at = self._at
        if self._closed or len(self._in) - at < 2:
            return None
        length = int.from_bytes(self._in[at : at + 2])
        if length < self._profile.least:
            what = f"a frame of {length} octets; a message has {self._profile.least} at least"
            raise Broken("frame_length", what)
        if len(self._in) - at - 2 < length:
            return None
        self._at = at + 2 + length
        self._counts["messages_received"] += 1
        return bytes(self._in[at + 2 : self._at])

    def _many(self, now: float, xid: int | None) -> Heard | None:
        """Ordinary DATA of profile W, compiled; it leaves the first frame that has anything odd about it."""
        if xid is None or self._profile.letter != "W":
            return None
        rows, octets, frames, outer, nested = _bulk.decode(self._in, self._at, xid)
        if not frames:
            return None
        self._at += octets
        self._heard_at = now
        self._counts["messages_received"] += frames
        self._counts["received_data"] += frames
        return Heard(Kind.DATA, xid, base=Start(outer, nested), data=True, rows=rows)

    def _message(self, message: bytes, now: float, unix: int) -> Heard | Dropped | None:
        """None: the answer to STARTTLS."""
        try:
            heard = self._profile.hear(message, self._duid, unix)
        except Malformed as fault:
            return self._dropped(fault, now)
        for warning in heard.warnings:
            self._counts[f"warn_{warning}"] += 1
        if self.phase is Phase.TLS_REQUESTED:
            self._tls_answer(heard)
            return None
        if heard.kind is Kind.OTHER:
            self._counts["malformed_type"] += 1
            return Dropped("type", f"message type {message[0]} has no place here", False)
        self._counts[f"received_{heard.kind.name.lower()}"] += 1
        return heard

    def _dropped(self, fault: Malformed, now: float) -> Dropped:
        self._counts[f"malformed_{fault.reason}"] += 1
        full = len(self._malformed) == MALFORMED_MOST
        if full and now - self._malformed[0] <= self._timers.of(MALFORMED_WITHIN_S):
            raise Broken("malformed", f"more than {MALFORMED_MOST} malformed messages in a minute, the last: {fault}")
        self._malformed.append(now)
        return Dropped(fault.reason, str(fault), True)

    def _tls_answer(self, heard: Heard) -> None:
        if heard.kind is not Kind.TLS_ANSWER or heard.xid != self._tls_xid:
            raise Broken("tls_answer", "something else than the answer to STARTTLS came first")
        if heard.word is Word.SUCCESS:
            self._counts["warn_tls_status_success"] += 1
        elif heard.word is not None:
            raise Broken("tls_refused", f"the server refuses TLS: {heard.word.value} {heard.text}".rstrip())
        self.phase = Phase.TLS_HANDSHAKE
