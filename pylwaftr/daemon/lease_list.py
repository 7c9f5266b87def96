"""Leases one by one, page by page: what each server told, and what has become of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import IPv6Network

import numpy as np
import numpy.typing as npt

from pylwaftr import row_sets
from pylwaftr.api.backend import KnownLease, LeaseFilter
from pylwaftr.changes import Source
from pylwaftr.daemon.lease_status import LIMIT
from pylwaftr.dhcp.codec_lease import LeaseRows, of_row
from pylwaftr.dhcp.leases import Leases
from pylwaftr.dhcp.records import Slots
from pylwaftr.dhcp.standing import CONFLICTS, QUARANTINE, Standing
from pylwaftr.row_sets import Mask
from pylwaftr.rows import Rows
from pylwaftr.table import Table

ABSENT, OTHER_SOURCE = "absent", "other_source"
_TOGETHER = 1 << 14  # leases that are looked at between two turns of the loop
_ACTIVE = (Standing.BOUND, *CONFLICTS, *QUARANTINE)
_NAMES = {int(standing): standing.name.lower() for standing in Standing}


class LeaseList:
    """Of one moment; who lists slowly sees several."""

    def __init__(self, leases: Leases, table: Table, over_limit: Rows) -> None:
        self._leases, self._table = leases, table
        self._over_limit = row_sets.distinct(row_sets.keys(over_limit))

    async def page(self, wanted: LeaseFilter, size: int, page: str) -> tuple[list[KnownLease], str]:
        """Raises KeyError, ValueError. A server that goes meanwhile is left out, and so it is between two pages."""
        if wanted.name is not None and wanted.name not in self._leases.servers:
            raise KeyError(wanted.name)
        first, start = _parsed(page)
        if page and wanted.name not in (None, first):
            raise ValueError(page)
        selective = wanted.kept_out or wanted.ipv4 is not None or wanted.b4 is not None
        together = _TOGETHER if selective else min(2 * size, _TOGETHER)
        found: list[KnownLease] = []
        for name in sorted(self._leases.servers):
            if name < first or wanted.name not in (None, name):
                continue
            begin, more = start if name == first else 0, True
            while more and name in self._leases.servers:
                at, end = self._leases.said(name, begin, together)
                for place, known in self._known(name, at, wanted):
                    if len(found) == size:
                        return found, f"{place:x}-{name}"
                    found.append(known)
                begin, more = end, bool(end)
                await asyncio.sleep(0)
        return found, ""

    def _known(self, name: str, at: Slots, wanted: LeaseFilter) -> Iterator[tuple[int, KnownLease]]:
        rows = self._leases.rows_of(name, at)
        some = _matching(rows, wanted)
        at, rows = at[some], rows[some]
        standings = self._leases.standings(name, at)
        if wanted.kept_out:
            some = np.isin(standings, _ACTIVE)
            at, rows, standings = at[some], rows[some], standings[some]
        for place, row, word in zip(at.tolist(), rows, self._words(rows, standings), strict=True):
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


def _parsed(page: str) -> tuple[str, int]:
    """The server with which a page begins, and the place there."""
    if not page:
        return "", 0
    place, _, name = page.partition("-")
    if not name or len(place) > 16:
        raise ValueError(page)
    return name, int(place, 16)


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
