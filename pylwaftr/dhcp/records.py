"""What one server said of each lease, and which of two records is the better one (RFC 6926 section 7.6, refined).

A claim is a server's last word about a key (address and port set). Claims of all servers stand at the same slot
numbers; `leases.py` owns the slots. The columns are numpy arrays, for there are millions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp import codec4
from pylwaftr.dhcp.clock import TIMES
from pylwaftr.dhcp.codec_lease import LEASE_ROW, Has, LeaseRows, State

# Verdicts: what a claim means for the key.
NONE, ACTIVE, GONE, QUARANTINED, OVERDUE = range(5)
TIE_S, TIE_SERVERS_S = 1, 2  # differences of times that are none
LATE_S = 600  # no message is heard later after it was written
ANY_TIME = 0  # a base-time that says no more than that: all that comes next is newer
FOREVER = float("inf")

Slots = npt.NDArray[np.int32]
Verdicts = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Claims:
    """Of one server."""

    def __init__(self, capacity: int, rank: int) -> None:
        self.rank = rank  # the configured order decides last; lower is better
        self.skew_s = 0.0
        self.rows = np.zeros(capacity, LEASE_ROW)
        self.verdict = np.zeros(capacity, np.uint8)
        self.generation = np.zeros(capacity, np.uint32)
        self.streamed = np.zeros(capacity, np.uint8)  # the claim came by the stream, since the bulk began
        self.deadline = np.zeros(capacity)  # of active claims
        self.current = 1  # generation
        self.next_due = FOREVER  # no deadline is earlier
        self.live = False
        self.hold_s = 0.0
        self.held: int | None = None  # how many a sweep would have removed that was held back
        self.verify_due = FOREVER

    def grow(self, capacity: int, used: int) -> None:
        """Of the slots that were ever used; a server that has said nothing yet has no octet touched."""
        used = used if self.verdict[:used].any() else 0
        for name in ("rows", "verdict", "generation", "streamed", "deadline"):
            old = getattr(self, name)
            new = np.zeros(capacity, old.dtype)
            octets = old.dtype.itemsize
            new.view(np.uint8)[: used * octets] = old.view(np.uint8)[: used * octets]
            setattr(self, name, new)

    def accept(self, slots: Slots, rows: LeaseRows, bulk: bool) -> tuple[Mask, Mask]:
        """Which rows are no older than what the server said before (same clock, so no skew); and which of those only
        because what it said before lies ahead.

        Times are in whole seconds. Where they do not tell, the later message counts; but a bulk has a backlog and the
        stream has none, so what came by the stream is no older than what a bulk says of the same second. What says that
        it was written long after what is heard later has a time that lay ahead, or the clock was set back; but what
        a slow bulk says of what the stream told since it began is old. Of a wrong clock the stream itself tells.
        """
        old = self.rows[slots]
        then, now = _activity(old), _activity(rows)
        both = (then >= 0) & (now >= 0)
        ahead = now - then
        streamed = bulk & (self.streamed[slots] != 0)
        least = np.where(streamed, TIE_S + 1, 0)
        later = rows["base"].astype(np.int64) - old["base"]
        newer = np.where(both & (np.abs(ahead) > TIE_S), ahead > 0, later >= least)
        known = (self.verdict[slots] != NONE) & (old["base"] != ANY_TIME)
        lay_ahead: Mask = known & (later < -LATE_S) & ~streamed
        accepted: Mask = ~known | newer | lay_ahead
        return accepted, lay_ahead

    def speaks(self, slots: Slots) -> Mask:
        """Where it says that there is a lease, or that there is none; not where that is left to others."""
        verdict = self.verdict[slots]
        found: Mask = verdict == ACTIVE
        gone = verdict == GONE
        if gone.any():
            found |= gone & ~yields(self.rows["state"][slots])
        return found

    def touch(self, slots: Slots, rows: LeaseRows) -> None:
        """Only the times are news."""
        for name in TIMES:
            self.rows[name][slots] = rows[name]
        times = int(Has.CLTT | Has.SINCE)
        self.rows["has"][slots] = self.rows["has"][slots] & (0xFF ^ times) | rows["has"] & times

    def forget_order(self) -> None:
        """Whatever the server says next is newer. Between servers its times still count."""
        self.rows["base"] = ANY_TIME

    def forget_times(self) -> None:
        """They were of a clock that is gone: another server's word with a time is better from here on."""
        self.forget_order()
        self.rows["has"] &= 0xFF ^ int(Has.CLTT | Has.SINCE)

    def due(self, now: float, count: int) -> Slots:
        """Active claims whose lifetime is over. While nobody could tell of a renewal they are held."""
        if now < self.next_due:
            return np.zeros(0, np.int32)
        hold = 0.0 if self.live else self.hold_s
        deadline = np.where(self.verdict[:count] == ACTIVE, self.deadline[:count], FOREVER) + hold
        over = deadline <= now
        self.next_due = float(deadline[~over].min(initial=FOREVER))
        return np.flatnonzero(over).astype(np.int32)

    def set_live(self, live: bool) -> None:
        if live is not self.live:
            self.live = live
            self.next_due = float("-inf")


def yields(state: npt.NDArray[np.uint8]) -> Mask:
    """REMOTE: free, but the partner's to lease. TRANSITIONING: not known yet. Who says so decides nothing."""
    found: Mask = (state == State.REMOTE) | (state == State.TRANSITIONING)
    return found


def _activity(rows: LeaseRows) -> npt.NDArray[np.int64]:
    """max(last transaction, state start); -1 = neither is known."""
    has = rows["has"]
    cltt = np.where(has & int(Has.CLTT), rows["cltt"].astype(np.int64), -1)
    since = np.where(has & int(Has.SINCE), rows["since"].astype(np.int64), -1)
    activity: npt.NDArray[np.int64] = np.maximum(cltt, since)
    return activity


def deadlines(rows: LeaseRows, now: float) -> npt.NDArray[np.float64]:
    """The lifetime counts from the server's now, so no clock is compared."""
    limited = (rows["has"] & int(Has.LIFETIME) != 0) & (rows["lifetime"] != codec4.INFINITE)
    found: npt.NDArray[np.float64] = np.where(limited, now + rows["lifetime"].astype(np.float64), FOREVER)
    return found


def better(one: Claims, slots: Slots, other: Claims, rivals: Slots) -> Mask:
    """Where the claims of `one` at these slots beat those of `other` at those: two servers on one lease (RFC 6926
    section 7.6), or two leases of one address. Of two servers in failover each has them all."""
    a, b = one.rows[slots], other.rows[rivals]
    cltt = [_times(a, "cltt", Has.CLTT, one), _times(b, "cltt", Has.CLTT, other)]
    since = [_times(a, "since", Has.SINCE, one), _times(b, "since", Has.SINCE, other)]
    # An expiry or a reset does not change the time of the last transaction: then the state start alone tells.
    pairs = [np.where(np.isnan(x), y, x) for x, y in zip(cltt, since, strict=True)]
    won = _laters(*pairs)
    second = np.where(np.isnan(cltt[0]) | np.isnan(cltt[1]), 0, _laters(*since))
    remote = [row["has"] & int(Has.REMOTE) != 0 for row in (b, a)]
    active = [row["state"] == int(State.ACTIVE) for row in (a, b)]
    for step in (second, *(np.subtract(*pair, dtype=np.int8) for pair in (remote, active)), other.rank - one.rank or 1):
        won = np.where(won == 0, step, won)
    return np.asarray(won > 0)


def _times(rows: LeaseRows, name: str, flag: Has, claims: Claims) -> npt.NDArray[np.float64]:
    """On our clock; NaN is not known."""
    return np.where(rows["has"] & int(flag) != 0, rows[name].astype(np.float64) - claims.skew_s, np.nan)


def _laters(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    known_a, known_b, ahead = ~np.isnan(a), ~np.isnan(b), a - b
    by_time = np.where(np.abs(ahead) <= TIE_SERVERS_S, 0, np.where(ahead > 0, 1, -1))
    by_knowledge = np.subtract(known_a, known_b, dtype=np.int8)
    return np.where(known_a & known_b, by_time, by_knowledge).astype(np.int8)


def unusable(b4: npt.NDArray[np.uint8], own: npt.NDArray[np.uint8]) -> Mask:
    """No tunnel endpoint of a B4: unspecified, loopback, v4-mapped (all in ::/64), multicast, link-local, our own."""
    words = np.ascontiguousarray(b4).view(">u8").reshape(-1, 2)
    high = words[:, 0]
    bad: Mask = (high == 0) | (high >> np.uint64(56) == 0xFF) | (high >> np.uint64(54) == 0xFE80 >> 6)
    for address in own:
        bad |= (b4 == address).all(1)
    return bad
