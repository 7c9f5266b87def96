"""The leases that the server tells of, and the order in which they changed.

The change log is a ring: slot numbers and times. Who falls out of it is told DataMissing, and what happened before
`horizon` was never known. A slot once given to a key (address and port set) keeps it, so that the end of a lease is
told too; ended leases are forgotten when the log has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import numpy.typing as npt

from pylwaftr.responder.encode import ACTIVE, CLIENT_MOST, INFINITE, LEASE, Leases

STATES = {
    "AVAILABLE": 1,
    "ACTIVE": 2,
    "EXPIRED": 3,
    "RELEASED": 4,
    "ABANDONED": 5,
    "RESET": 6,
    "REMOTE": 7,
    "TRANSITIONING": 8,
}
# A change may be written down a little after it happened, and by then we may have told a later base-time.
SLACK_S = 10
Slots = npt.NDArray[np.int32]
_NO_B4 = bytes(16)


@dataclass(frozen=True, slots=True)
class Change:
    """What a DHCP server did. `at`, `cltt`: Unix seconds. Of an ended lease only the key is needed."""

    at: int
    ipv4: IPv4Address
    state: str
    offset: int = 0
    psid_len: int = 0
    psid: int = 0
    b4: IPv6Address | None = None
    client: bytes = b""
    lifetime: int = INFINITE
    cltt: int | None = None  # None: `at` if it is active

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"the state is {self.state!r}; one of {', '.join(STATES)}")
        if not (0 <= self.offset <= 15 and 0 <= self.psid_len <= 16 - self.offset):
            raise ValueError(f"offset {self.offset} and PSID-len {self.psid_len} are no division of 16 bits")
        if not 0 <= self.psid < 1 << self.psid_len:
            raise ValueError(f"PSID {self.psid} does not fit {self.psid_len} bits")
        if len(self.client) == 1 or len(self.client) > CLIENT_MOST:
            raise ValueError(f"the client-id has {len(self.client)} octets; it goes from 2 to {CLIENT_MOST}")
        if not 0 <= self.at <= INFINITE or not 0 <= self.lifetime <= INFINITE:
            raise ValueError(f"time {self.at} or lifetime {self.lifetime} is no number of 32 bits")
        if self.cltt is not None and not 0 <= self.cltt <= INFINITE:
            raise ValueError(f"cltt {self.cltt} is no number of 32 bits")

    @property
    def key(self) -> int:
        return int(self.ipv4) << 26 | self.offset << 21 | self.psid_len << 16 | self.psid


def _params(change: Change) -> bytes:
    field = change.psid << (16 - change.psid_len) & 0xFFFF
    return bytes((change.offset, change.psid_len, field >> 8, field & 255))


class Database:
    def __init__(self, log_size: int = 1 << 20) -> None:
        self.horizon = 0  # what happened before is not known in full
        self.head = 0  # changes so far
        self._leases = np.zeros(1024, LEASE)
        self._count = 0
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._log = np.zeros(log_size, np.int32)
        self._times = np.zeros(log_size, np.uint32)
        self._last_of = np.zeros(1024, np.int64)  # the slot's last change, to find the ended ones that nobody asks for
        self._now = 0
        self.next_expiry = float("inf")

    def __len__(self) -> int:
        """Leases that are active."""
        return int((self._leases["state"][: self._count] == ACTIVE).sum())

    @property
    def count(self) -> int:
        return self._count

    @property
    def first_change(self) -> int | None:
        """When the first change happened that is known; None: there is none."""
        return int(self._times[0 if self.head <= len(self._log) else self.head % len(self._log)]) if self.head else None

    def unknown_until(self, at: int) -> None:
        """A journal may begin anew with the leases that there are: who was told less than all until then, and in that
        second, does not hear of those that had ended."""
        self.horizon = max(self.horizon, at + 1)

    # --- changes ---

    def apply(self, changes: Iterable[Change], now: int | None = None) -> int:
        """In order. Returns how many there were. `now`: when they became known; None = when they happened."""
        before = self.head
        run: dict[int, Change] = {}
        for change in changes:
            key = change.key
            if key in run:  # a lease that changes twice: in order
                self._apply(run, now)
                run = {}
            run[key] = change
        if run:
            self._apply(run, now)
        return self.head - before

    def _apply(self, run: dict[int, Change], now: int | None) -> None:
        """Changes of different keys, in columns."""
        slots = np.array([self._slot(key) for key in run], np.int32)
        changes = list(run.values())
        self._fill(slots, changes)
        for slot, change in zip(slots.tolist(), changes, strict=True):
            self._note(slot, change.at if now is None else max(now, change.at))

    def _slot(self, key: int) -> int:
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = self._new_slot()
        return slot

    def load(self, leases: Leases, at: int) -> None:
        """Many new active leases at once, as LEASE."""
        start, self._count = self._count, self._count + len(leases)
        while self._count > len(self._leases):
            self._grow()
        self._leases[start : self._count] = leases
        params = leases["params"].astype(np.int64)
        psid = (params[:, 2] << 8 | params[:, 3]) >> (16 - params[:, 1])
        keys = leases["ipv4"].astype(np.int64) << 26 | params[:, 0] << 21 | params[:, 1] << 16 | psid
        self._slots.update(zip(keys.tolist(), range(start, self._count), strict=True))
        self.next_expiry = min(self.next_expiry, float(leases["expires"].min(initial=INFINITE)))
        self.horizon = self._now = max(at, self._now)

    def expire(self, now: int) -> int:
        """Leases whose time is over end by themselves. Returns how many."""
        if now < self.next_expiry:
            return 0
        leases = self._leases[: self._count]
        active = (leases["state"] == ACTIVE) & (leases["expires"] != INFINITE)
        over = np.flatnonzero(active & (leases["expires"] <= now))
        for slot in over:
            leases["state"][slot] = STATES["EXPIRED"]
            leases["since"][slot] = leases["expires"][slot]
            self._note(int(slot), now)
        rest = leases["expires"][active & (leases["expires"] > now)]
        self.next_expiry = float(rest.min()) if len(rest) else float("inf")
        return len(over)

    def _fill(self, slots: Slots, changes: list[Change]) -> None:
        """What a change does not say of an ended lease stays as it was."""
        leases, count = self._leases, len(changes)
        at = np.fromiter((c.at for c in changes), np.uint32, count)
        states = np.fromiter((STATES[c.state] for c in changes), np.uint8, count)
        active = states == ACTIVE
        moved = leases["state"][slots] != states
        leases["since"][slots[moved]] = at[moved]
        leases["state"][slots] = states
        leases["ipv4"][slots] = np.fromiter((int(c.ipv4) for c in changes), np.uint32, count)
        fields = np.frombuffer(b"".join(map(_params, changes)), np.uint8).reshape(-1, 4)
        leases["params"][slots] = fields
        told = active | np.fromiter((c.cltt is not None for c in changes), np.bool_, count)
        cltt = np.fromiter((c.at if c.cltt is None else c.cltt for c in changes), np.uint32, count)
        leases["cltt"][slots[told]] = cltt[told]
        has_b4 = np.fromiter((c.b4 is not None for c in changes), np.bool_, count)
        b4 = b"".join(_NO_B4 if c.b4 is None else c.b4.packed for c in changes)
        told = active | has_b4
        leases["b4"][slots[told]] = np.frombuffer(b4, np.uint8).reshape(-1, 16)[told]
        leases["has_b4"][slots[told]] = has_b4[told]
        size = np.fromiter((len(c.client) for c in changes), np.uint8, count)
        client = b"".join(c.client.ljust(CLIENT_MOST, b"\0") for c in changes)
        told = active | (size > 0)
        leases["client"][slots[told]] = np.frombuffer(client, np.uint8).reshape(-1, CLIENT_MOST)[told]
        leases["client_len"][slots[told]] = size[told]
        lifetime = np.fromiter((c.lifetime for c in changes), np.int64, count)
        expires = np.where(lifetime == INFINITE, INFINITE, np.minimum(cltt + lifetime, INFINITE - 1))
        leases["expires"][slots[active]] = expires[active]
        self.next_expiry = min(self.next_expiry, float(expires[active].min(initial=INFINITE)))

    def _note(self, slot: int, at: int) -> None:
        self._now = max(self._now, at)
        place = self.head % len(self._log)
        self._last_of[slot] = self.head
        if self.head >= len(self._log):
            self._forget(int(self._log[place]), self.head - len(self._log), int(self._times[place]))
        self._log[place], self._times[place] = slot, self._now
        self.head += 1

    def _forget(self, slot: int, number: int, at: int) -> None:
        """The log overwrites a change: times up to that second are incomplete, and an ended lease goes."""
        self.horizon = max(self.horizon, at + 1)
        lease = self._leases[slot]
        if lease["state"] != ACTIVE and self._last_of[slot] == number:
            params = [int(p) for p in lease["params"]]
            psid = (params[2] << 8 | params[3]) >> (16 - params[1])
            del self._slots[int(lease["ipv4"]) << 26 | params[0] << 21 | params[1] << 16 | psid]
            self._leases[slot] = np.zeros((), LEASE)  # or the next one to have the slot would inherit from it
            self._free.append(slot)

    def _new_slot(self) -> int:
        if self._free:
            return self._free.pop()
        if self._count == len(self._leases):
            self._grow()
        self._count += 1
        return self._count - 1

    def _grow(self) -> None:
        self._leases = np.concatenate([self._leases, np.zeros_like(self._leases)])
        self._last_of = np.concatenate([self._last_of, np.zeros_like(self._last_of)])

    # --- questions ---

    def since(self, unix: int) -> int | None:
        """The number of the first change at or after that time; None if some are no longer known."""
        if unix < self.horizon:
            return None
        size = min(self.head, len(self._log))
        places = np.arange(self.head - size, self.head) % len(self._log)
        return self.head - size + int(np.searchsorted(self._times[places], max(unix - SLACK_S, 0), "left"))

    def changed(self, start: int, most: int) -> tuple[Leases, int] | None:
        """Leases that changed from number `start` on, each once as it is now, and where to go on. None: forgotten."""
        if start < self.head - len(self._log):
            return None
        end = min(self.head, start + most)
        slots = np.unique(self._log[np.arange(start, end) % len(self._log)])
        leases = self._leases[slots]
        return leases[leases["state"] != 0], end

    def part(self, start: int, most: int) -> tuple[Leases, int]:
        """A piece of all there is, and where to go on; `count` is the end."""
        end = min(start + most, self._count)
        leases = self._leases[start:end]
        return leases[leases["state"] != 0], end

    def of_b4(self, b4: bytes) -> Leases:
        leases = self._leases[: self._count]
        found = np.flatnonzero((leases["b4"][:, 8:] == np.frombuffer(b4[8:], np.uint8)).all(1))
        leases = leases[found]
        same = (leases["b4"] == np.frombuffer(b4, np.uint8)).all(1)
        return self._active(leases, same)

    def of_duid(self, duid: bytes) -> Leases:
        """Of a client whose client-id is ff, IAID, DUID (RFC 4361)."""
        leases = self._leases[: self._count]
        size = 5 + len(duid)
        if size > CLIENT_MOST:
            return leases[:0]
        same = (leases["client_len"] == size) & (leases["client"][:, 5:size] == np.frombuffer(duid, np.uint8)).all(1)
        return self._active(leases, same)

    def of_client_id(self, client: bytes) -> Leases:
        leases = self._leases[: self._count]
        if len(client) > CLIENT_MOST:
            return leases[:0]
        wanted = np.frombuffer(client.ljust(CLIENT_MOST, b"\0"), np.uint8)
        return self._active(leases, (leases["client_len"] == len(client)) & (leases["client"] == wanted).all(1))

    @staticmethod
    def _active(leases: Leases, which: npt.NDArray[np.bool_]) -> Leases:
        found: Leases = leases[which & (leases["state"] == ACTIVE)]
        return found
