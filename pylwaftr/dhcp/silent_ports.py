"""Leases whose message says nothing of ports: which port set is meant."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp import codec_lease
from pylwaftr.dhcp.codec_lease import Has, LeaseRows, State
from pylwaftr.dhcp.policies import Policy
from pylwaftr.dhcp.records import ACTIVE
from pylwaftr.dhcp.s46 import PortParams
from pylwaftr.dhcp.slots import keys_of
from pylwaftr.dhcp.winners import Outcome, Winners


def in_parts(rows: LeaseRows) -> Iterator[LeaseRows]:
    """A batch in order, cut in front of each silent end that may be that of a lease which the same part tells of: that
    has to be known first."""
    ends = np.flatnonzero((rows["has"] & int(Has.PORTS) == 0) & (rows["state"] != State.ACTIVE))
    start = 0
    if len(ends):
        before = _same_before(rows)
        for at in ends.tolist():
            if before[at] >= start:
                yield rows[start:at]
                start = at
    yield rows[start:]


def _same_before(rows: LeaseRows) -> npt.NDArray[np.intp]:
    """By row, the last one before it of the same address; -1: none."""
    order = np.argsort(rows["ipv4"], kind="stable")
    same = rows["ipv4"][order[1:]] == rows["ipv4"][order[:-1]]
    before = np.full(len(rows), -1, np.intp)
    before[order[1:][same]] = order[:-1][same]
    return before


def with_ports(winners: Winners, number: int, policy: Policy, rows: LeaseRows, out: Outcome) -> LeaseRows:
    """The rows of a server with port sets; an end of nobody knows which lease is left out, and asks for a bulk."""
    silent, source = rows["has"] & int(Has.PORTS) == 0, policy.port_sets
    if not silent.any():
        return rows
    if source is None:
        silent &= rows["state"] != State.ACTIVE
    rows, silent = rows.copy(), np.flatnonzero(silent)
    ended = rows["state"][silent] != State.ACTIVE
    known = winners.table.find(keys_of(rows[silent])) >= 0
    drop = []
    for at, gone, whole in zip(silent, ended, known, strict=True):
        lease = codec_lease.of_row(rows[at])
        ports = source.of(lease) if source is not None else None
        if ports is None and gone and not whole:
            ports = _of_client(winners, number, rows[at])
            if ports is None and len(winners.table.of_address(int(rows[at]["ipv4"]))):
                winners.report(out, "whose_port_set", number, f"which lease of {lease.ipv4} has ended?")
                out.resync.add(policy.name)
                drop.append(at)
        if ports is not None and ports.psid_len:
            rows["psid"][at], rows["psid_len"][at] = ports.psid, ports.psid_len
            rows["psid_offset"][at] = ports.offset
    return np.delete(rows, drop)


def _of_client(winners: Winners, number: int, row: np.void) -> PortParams | None:
    """The one port set of the address that this client has."""
    slots, claims = winners.table.of_address(int(row["ipv4"])), winners.claims[number]
    slots = slots[claims.verdict[slots] == ACTIVE]
    if not int(row["has"]) & Has.CLIENT:
        return None
    slots = slots[(claims.rows["client"][slots] == row["client"]).all(1)]
    if len(slots) != 1:
        return None
    found = claims.rows[slots[0]]
    return PortParams(int(found["psid_offset"]), int(found["psid_len"]), int(found["psid"]))
