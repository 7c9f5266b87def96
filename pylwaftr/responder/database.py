"""The leases that the server tells of, and the order in which they changed.

The change log is a ring: slot numbers and times. Who falls out of it is told DataMissing, and what happened before
`horizon` was never known. A slot once given to a key (address and port set) keeps it, so that the end of a lease is
told too; ended leases are forgotten when the log has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
import numpy.typing as npt

from pylwaftr.responder._memory import Memory
from pylwaftr.responder.encode import ACTIVE, CLIENT_MOST, INFINITE, Leases

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
# A Change as it is taken.
CHANGE = np.dtype(
    [
        ("key", "<u8"),
        ("at", "<u4"),
        ("cltt", "<u4"),
        ("lifetime", "<u4"),
        ("ipv4", "<u4"),
        ("params", "u1", (4,)),  # as in LEASE
        ("b4", "u1", (16,)),
        ("client", "u1", (CLIENT_MOST,)),
        ("client_len", "u1"),
        ("has_b4", "?"),
        ("has_cltt", "?"),
        ("state", "u1"),
    ]
)
Changes = npt.NDArray[Any]
_CHANGE = struct.Struct(f"<QIIII4s16s{CLIENT_MOST}sB??B")


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

    def octets(self) -> bytes:
        """As a CHANGE."""
        field = self.psid << (16 - self.psid_len) & 0xFFFF
        return _CHANGE.pack(
            *(self.key, self.at, self.cltt or 0, self.lifetime, int(self.ipv4)),
            bytes((self.offset, self.psid_len, field >> 8, field & 255)),
            b"" if self.b4 is None else self.b4.packed,
            *(self.client, len(self.client), self.b4 is not None, self.cltt is not None, STATES[self.state]),
        )


def rows_of(changes: Iterable[Change]) -> Changes:
    return np.frombuffer(b"".join(change.octets() for change in changes), CHANGE)


def _known(leases: Leases) -> Leases:
    """Without places that nobody has. To copy rows field by field costs more than to encode them."""
    known = leases["state"] != 0
    return leases if known.all() else leases[known]


class Database(Memory):
    def __init__(self, log_size: int = 1 << 20) -> None:
        """`horizon`: what happened before is not known in full; `head`: changes so far; `count`: leases, also ended."""
        super().__init__(log_size)

    def __len__(self) -> int:
        """Leases that are active."""
        return int((self._leases["state"][: self.count] == ACTIVE).sum())

    @property
    def first_change(self) -> int | None:
        """When the first change happened that is known; None: there is none."""
        return int(self._times[0 if self.head <= len(self._log) else self.head % len(self._log)]) if self.head else None

    def unknown_until(self, at: int) -> None:
        """A journal may begin anew with the leases that there are: who was told less than all until then, and in that
        second, does not hear of those that had ended."""
        self.horizon = max(self.horizon, at + 1)

    # --- changes ---

    def apply(self, changes: Iterable[Change], now: int | None = None) -> None:
        """As `take`, of what was not read many at a time."""
        self.take(rows_of(changes), now)

    def expire(self, now: int) -> int:
        """Leases whose time is over end by themselves. Returns how many."""
        if now < self.next_expiry:
            return 0
        leases = self._leases[: self.count]
        active = (leases["state"] == ACTIVE) & (leases["expires"] != INFINITE)
        over = np.flatnonzero(active & (leases["expires"] <= now))
        self.ended(over.tolist(), STATES["EXPIRED"], now)
        rest = leases["expires"][active & (leases["expires"] > now)]
        self.next_expiry = float(rest.min()) if len(rest) else float("inf")
        return len(over)

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
        slots = self._log[np.arange(start, end) % len(self._log)]
        leases = self._leases[slots if end - start == 1 else np.unique(slots)]
        return _known(leases), end

    def part(self, start: int, most: int) -> tuple[Leases, int]:
        """A piece of all there is, as long as nothing changes, and where to go on; `count` is the end."""
        end = min(start + most, self.count)
        return _known(self._leases[start:end]), end

    def of_b4(self, b4: bytes) -> Leases:
        leases = self._leases[: self.count]
        found = np.flatnonzero((leases["b4"][:, 8:] == np.frombuffer(b4[8:], np.uint8)).all(1))
        leases = leases[found]
        same = (leases["b4"] == np.frombuffer(b4, np.uint8)).all(1)
        return self._active(leases, same)

    def of_duid(self, duid: bytes) -> Leases:
        """Of a client whose client-id is ff, IAID, DUID (RFC 4361)."""
        leases = self._leases[: self.count]
        size = 5 + len(duid)
        if size > CLIENT_MOST:
            return leases[:0]
        same = (leases["client_len"] == size) & (leases["client"][:, 5:size] == np.frombuffer(duid, np.uint8)).all(1)
        return self._active(leases, same)

    def of_client_id(self, client: bytes) -> Leases:
        leases = self._leases[: self.count]
        if len(client) > CLIENT_MOST:
            return leases[:0]
        wanted = np.frombuffer(client.ljust(CLIENT_MOST, b"\0"), np.uint8)
        return self._active(leases, (leases["client_len"] == len(client)) & (leases["client"] == wanted).all(1))

    @staticmethod
    def _active(leases: Leases, which: npt.NDArray[np.bool_]) -> Leases:
        found: Leases = leases[which & (leases["state"] == ACTIVE)]
        return found
