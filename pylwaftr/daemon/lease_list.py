"""Leases one by one, page by page: what each server told, and what has become of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import IPv6Network

import numpy as np
import numpy.typing as npt

from pylwaftr import row_sets
from pylwaftr.api.backend import KnownLease, LeaseFilter
from pylwaftr.bindings import Table
from pylwaftr.changes import Source
from pylwaftr.daemon.lease_status import LIMIT
from pylwaftr.dhcp.codec_lease import LeaseRows, of_row
from pylwaftr.dhcp.leases import Leases
from pylwaftr.dhcp.standing import CONFLICTS, QUARANTINE, Standing
from pylwaftr.row_sets import Mask
from pylwaftr.rows import Rows

ABSENT, OTHER_SOURCE = "absent", "other_source"
_TOGETHER = 1 << 14  # leases that are looked at between two turns of the loop
_ACTIVE = (Standing.BOUND, *CONFLICTS, *QUARANTINE)
_NAMES = {int(standing): standing.name.lower() for standing in Standing}


class LeaseList:
    """Of one moment; who lists slowly sees several."""

    def __init__(self, leases: Leases, names: list[str], table: Table, over_limit: Rows) -> None:
        self._leases, self._names, self._table = leases, names, table
        self._over_limit = row_sets.distinct(row_sets.keys(over_limit))

    async def page(self, wanted: LeaseFilter, size: int, page: str) -> tuple[list[KnownLease], str]:
        """Raises KeyError, ValueError."""
        if wanted.name is not None and wanted.name not in self._names:
            raise KeyError(wanted.name)
        first, start = _parsed(page)
        found: list[KnownLease] = []
        for index, name in enumerate(self._names):
            if index < first or wanted.name not in (None, name):
                continue
            for at in self._parts(name, wanted, start if index == first else 0):
                for place, known in self._known(name, at, wanted):
                    if len(found) == size:
                        return found, f"{index:x}-{place:x}"
                    found.append(known)
                await asyncio.sleep(0)
        return found, ""

    def _parts(self, name: str, wanted: LeaseFilter, start: int) -> Iterator[npt.NDArray[np.intp]]:
        standings = self._leases.standings(name)
        some = np.isin(standings, _ACTIVE) if wanted.kept_out else standings != Standing.NOT_KNOWN
        at = np.flatnonzero(some)
        for begin in range(int(np.searchsorted(at, start)), len(at), _TOGETHER):
            yield at[begin : begin + _TOGETHER]

    def _known(self, name: str, at: npt.NDArray[np.intp], wanted: LeaseFilter) -> Iterator[tuple[int, KnownLease]]:
        standings = self._leases.standings(name)
        at = at[at < len(standings)]
        at = at[standings[at] != Standing.NOT_KNOWN]  # some may have gone since the last turn
        rows = self._leases.rows_of(name, at)
        some = _matching(rows, wanted)
        at, rows = at[some], rows[some]
        words = self._words(rows, standings[at])
        for place, row, word in zip(at.tolist(), rows, words, strict=True):
            if word != "bound" or not wanted.kept_out:
                yield place, KnownLease(name, of_row(row), word)

    def _words(self, rows: LeaseRows, standings: npt.NDArray[np.uint8]) -> list[str]:
        words = [_NAMES[standing] for standing in standings.tolist()]
        bound = np.flatnonzero(standings == Standing.BOUND)
        if not len(bound):
            return words
        ipv4, psid = rows["ipv4"][bound], rows["psid"][bound]
        _, sources = self._table.holders(ipv4.copy(), psid.copy())
        waits = np.isin(row_sets.joined_keys(ipv4, psid), self._over_limit)
        for at, source, limit in zip(bound.tolist(), sources.tolist(), waits.tolist(), strict=True):
            if limit:
                words[at] = LIMIT
            elif source != Source.DHCP:
                words[at] = ABSENT if source == row_sets.UNBOUND else OTHER_SOURCE
        return words


def _parsed(page: str) -> tuple[int, int]:
    if not page:
        return 0, 0
    index, dash, place = page.partition("-")
    if not dash or len(page) > 32:
        raise ValueError(page)
    return int(index, 16), int(place, 16)


def _matching(rows: LeaseRows, wanted: LeaseFilter) -> Mask:
    some = np.ones(len(rows), np.bool_)
    if wanted.ipv4 is not None:
        some &= rows["ipv4"] & np.uint32(int(wanted.ipv4.netmask)) == int(wanted.ipv4.network_address)
    if wanted.b4 is not None:
        some &= _inside(rows["b4"], wanted.b4)
    return some


def _inside(b4: npt.NDArray[np.uint8], prefix: IPv6Network) -> Mask:
    mask = np.frombuffer(prefix.netmask.packed, np.uint8)
    inside: Mask = (b4 & mask == np.frombuffer(prefix.network_address.packed, np.uint8)).all(1)
    return inside
