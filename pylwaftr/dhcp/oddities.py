"""What is odd about the leases of a server and is told once, not for each: port sets that RFC 7596 section 5.1 advises
against, and tunnel addresses (option 109) that are missing too often for an accident."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp.codec_lease import LEASE_ROW, Has, LeaseRows, State
from pylwaftr.dhcp.winners import Outcome, Winners
from pylwaftr.rows import text4

WELL_KNOWN = 1024
WINDOW_S = 300.0
FEW = 16  # rows that are looked at one by one
LEAST, SHARE = 10, 10  # so many leases without a tunnel address, and one of so many: that is often


@dataclass(slots=True)
class _Window:
    """Active leases that were told of lately, and how many of them had no tunnel address."""

    began: float
    active: int = 0
    lacking: int = 0
    often: bool = False  # in this window or the last

    def see(self, active: int, lacking: int, now: float) -> bool:
        """True: it is often now, and was not before."""
        if now >= self.began + WINDOW_S:
            self.often = self.often and self._often
            self.began, self.active, self.lacking = now, 0, 0
        self.active += active
        self.lacking += lacking
        begins = self._often and not self.often
        self.often |= begins
        return begins

    @property
    def _often(self) -> bool:
        return self.lacking >= LEAST and self.lacking * SHARE >= self.active


class Seen(NamedTuple):
    """Of some leases: how many are active, how many of these lack the tunnel address, and the first active ones with an
    offset and with ports below 1024; -1 = none."""

    active: int
    lacking: int
    offset: int
    low: int


def seen(rows: LeaseRows) -> Seen:
    words = rows.view(_WORDS)
    return _seen_few(words.tolist()) if len(rows) <= FEW else _seen_many(words)


def _seen_few(words: list[tuple[int, int]]) -> Seen:
    active, lacking, offset, low = 0, 0, -1, -1
    for at, (ports, standing) in enumerate(words):
        if standing & 0xFF != State.ACTIVE:
            continue
        active += 1
        lacking += not standing >> 8 & Has.B4
        if offset < 0 and ports >> 24:
            offset = at
        if low < 0 and ports & 0xFFFF < _LOW[ports >> 16]:
            low = at
    return Seen(active, lacking, offset, low)


def _seen_many(words: LeaseRows) -> Seen:
    standing, ports = words["standing"].copy(), words["ports"].copy()
    active = standing & 0xFF == State.ACTIVE
    lacking = standing & (0xFF | Has.B4 << 8) == State.ACTIVE
    division = ports >> 16
    odd = [active & (division > 0xFF), active & (ports & 0xFFFF < _LOW[division])]
    offset, low = (int(some.argmax()) if some.any() else -1 for some in odd)
    return Seen(int(np.count_nonzero(active)), int(np.count_nonzero(lacking)), offset, low)


_FIELDS: Mapping[str, Any] = LEASE_ROW.fields or {}
_WORDS = np.dtype(  # PSID, its length, its offset as one; state and what there is of the lease as one
    {
        "names": ["ports", "standing"],
        "formats": ["<u4", "<u2"],
        "offsets": [_FIELDS["psid"][1], _FIELDS["state"][1]],
        "itemsize": LEASE_ROW.itemsize,
    }
)


def _lows() -> npt.NDArray[np.uint32]:
    """By length and offset, how many PSIDs hold ports below 1024: the first ones. A whole address is no port set; with
    an offset the ports below 2^(16-offset) are nobody's."""
    found = np.zeros(1 << 12, np.uint32)
    for offset in range(16):
        for bits in range(1, 17 - offset):
            room = WELL_KNOWN - (1 << 16 - offset if offset else 0)
            found[offset << 8 | bits] = max(0, -(-room >> 16 - offset - bits))
    return found


_LOW = _lows()


class Oddities:
    def __init__(self, winners: Winners) -> None:
        self._winners = winners
        self._told: set[tuple[int, str]] = set()
        self._windows: dict[int, _Window] = {}

    def see(self, number: int, rows: LeaseRows, now: float, out: Outcome) -> None:
        """Of one server; before any of these leases is judged."""
        active, lacking, offset, low = seen(rows)
        if active and self._windows.setdefault(number, _Window(now)).see(active, lacking, now):
            window = self._windows[number]
            text = f"{window.lacking} of {window.active} active leases had no tunnel address (option 109)"
            self._winners.report(out, "no_b4_often", number, f"{text}, so they are not bound: let the server send it")
        if offset >= 0:
            self._tell(number, "other_offset", rows[offset], out)
        if low >= 0:
            self._tell(number, "low_ports", rows[low], out)

    def _tell(self, number: int, name: str, row: np.void, out: Outcome) -> None:
        if (number, name) not in self._told:
            self._told.add((number, name))
            which = f"PSID {int(row['psid'])} of {int(row['psid_len'])} bits at {text4(int(row['ipv4']))}"
            text = _TEXTS[name].format(which=which, offset=int(row["psid_offset"]))
            self._winners.report(out, name, number, f"{text}; others of this server are not told of")

    def forget(self, number: int) -> None:
        """The server is configured no more."""
        self._told = {(server, name) for server, name in self._told if server != number}
        self._windows.pop(number, None)


_TEXTS = {
    "other_offset": "{which} has PSID offset {offset}, and lw4o6 wants 0 (RFC 7596 section 5.1)",
    "low_ports": "{which} holds ports below 1024, which a client should not get (RFC 7596 section 5.1)",
}
