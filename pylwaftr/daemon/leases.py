"""Leases of the DHCP servers as bindings: from the requestor's edge through the quarantine to the control side."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import IPv6Address

import numpy as np

from pylwaftr import _core, row_sets
from pylwaftr.api.backend import Ended, KnownLease, LeaseFilter, ListFilter, SourceStatus
from pylwaftr.applied import Applied
from pylwaftr.changes import Change, Op, Record, Report, Source
from pylwaftr.config import Config
from pylwaftr.config.binding_rows import around
from pylwaftr.config.row_checks import Surroundings
from pylwaftr.daemon.control import CommitRefused, Control
from pylwaftr.daemon.lease_list import LeaseList
from pylwaftr.daemon.lease_servers import of_config, reached_otherwise
from pylwaftr.daemon.lease_status import LeaseStatus
from pylwaftr.daemon.leasequery import ENDED, Edge, Endpoint
from pylwaftr.daemon.left_out import LeftOut
from pylwaftr.daemon.quarantine import Quarantine
from pylwaftr.daemon.router import StartFault
from pylwaftr.daemon.writer import Closed
from pylwaftr.dhcp.requestor import Requestor, Server
from pylwaftr.dhcp.winners import Changes
from pylwaftr.row_sets import Sourced
from pylwaftr.rows import Rows, no_rows, text6
from pylwaftr.store import StoreFault
from pylwaftr.table import ALL
from pylwaftr.telemetry.values import Value

log = logging.getLogger("pylwaftr")

Found = tuple[list[Server], dict[str, Endpoint]]

SPACE = "leasequery"
_MOST = 1 << 24  # rows of a source
_HOLD_S = 3600.0  # expiry_hold_s where no server is configured any more
_RETRY_S = 1.0
_ROOM_S = 5.0  # between two tries of what the table had no room for
_DURABLE_S = 8.0  # for which `drop` waits; clients do for ten seconds
_B4 = slice(8, 24)  # the outer source of a packet


def found(config: Config) -> Found:
    """The servers of a configuration. Raises StartFault."""
    try:
        return of_config(config.leasequery.servers)
    except OSError as fault:
        raise StartFault(f"leasequery.servers: {fault.filename or 'tls'}: {fault.strerror or fault}") from None


def b4s_of(packets: Iterable[bytes]) -> set[IPv6Address]:
    """Whom packets without a binding are from."""
    return {IPv6Address(b4) for b4 in {packet[_B4] for packet in packets}}


def _own(near: Surroundings) -> tuple[list[bytes], frozenset[int]]:
    """Tunnel addresses that no B4 can have, and addresses that no lease can: an operator is refused the same."""
    return [*near.br, *sorted(near.own_v6)], near.own_v4 | near.server_v4


def _served(rows: Rows, brs: Sequence[bytes]) -> row_sets.Mask:
    """Which have one of these BR addresses; by words, for there are millions."""
    *_, high, low = row_sets.words(rows).T
    found = np.zeros(len(rows), np.bool_)
    for first, last in (np.frombuffer(br, np.uint64) for br in brs):
        found |= (high == first) & (low == last)
    return found


class LeaseService:
    """Implements api.backend.LeasequeryView."""

    def __init__(self, config: Config, servers: Found, control: Control, table: _core.BindingTable) -> None:
        """`servers`: as `found` in the configuration. `begin` comes before anything else."""
        self._control, self._table = control, table
        saved = {key.decode(): value for key, value in control.records.get(SPACE, {}).items()}
        near = around(config)
        self._limits, self._brs = config.subscribers, near.br
        self._hold_s = max((server.expiry_hold_s for server in config.leasequery.servers), default=_HOLD_S)
        self._quarantine = Quarantine(self._limits.mask, self._limits.max_softwires, no_rows())
        own, own_v4 = _own(near)
        self.edge = Edge(Requestor(servers[0], near.br[0], own, saved, own_v4=own_v4), servers[1], self._apply)
        self.refused = 0
        self._left_out = LeftOut()
        self._retry: asyncio.TimerHandle | None = None

    async def begin(self) -> None:
        """Takes over what is bound, and what waits. A store that fails is asked again: that was about what others
        changed."""
        held = no_rows()

        def counted(bound: Sourced) -> Callable[[Applied], None]:
            nonlocal held
            held = row_sets.select(bound.rows, bound.sources == Source.DHCP)
            self._quarantine = Quarantine(self._limits.mask, self._limits.max_softwires, bound.rows)
            return self._observe

        await self._until_kept(lambda: self._control.observe_all(counted))
        waits = (await self._control.list(ListFilter(source=Source.DHCP, shadowed=True), _MOST, "")).rows
        if len(waits):
            held = np.concatenate([held, row_sets.without(waits, held)])
        if len(held):
            self.edge.requestor.restore(held, time.monotonic(), self._hold_s)
            self._rebind(row_sets.select(held, ~_served(held, self._brs)))

    def _rebind(self, lost: Rows) -> None:
        """By the first BR address: theirs was left out of the configuration while the router was down."""
        if len(lost):
            text = (
                "leasequery: %d leases have a BR address that is not served: they get %s, and their B4s have to use it"
            )
            log.warning(text, len(lost), text6(self._brs[0]))
            self.edge.requestor.leases.tell_again(lost)

    def reconfigure(
        self, old: Config, new: Config, servers: Sequence[Server], endpoints: Mapping[str, Endpoint]
    ) -> None:
        """`servers`, `endpoints`: as `found` in the new configuration."""
        if new.subscribers != old.subscribers:
            self._quarantine.limit(new.subscribers.mask, new.subscribers.max_softwires)
            self.edge.apply_again()  # there may be room for some that wait
        self._try_left_out()  # the table may be larger
        was, will = around(old), around(new)
        if _own(was) != _own(will) or was.br != will.br:
            own, own_v4 = _own(will)
            self.edge.requestor.set_br(will.br[0], own, time.monotonic(), own_v4)
            self.edge.after()
        if was.br != will.br:
            self._take_brs(will.br)
        if new.leasequery != old.leasequery:
            anew = reached_otherwise(old.leasequery.servers, new.leasequery.servers)
            self.edge.reconfigure(servers, endpoints, anew)

    def _take_brs(self, brs: Sequence[bytes]) -> None:
        """A softwire stays at its BR address as long as that is the router's. All others get the first one: also those
        that are not bound, over their subscriber's limit, behind another source or on their way to the table."""
        leases = self.edge.requestor.leases
        rows, sources, _ = self._table.dump_chunk(0, ALL)
        served = _served(rows, brs)
        stay = row_sets.distinct(row_sets.keys(row_sets.select(rows, served & (sources == Source.DHCP))))
        wanted = leases.bindings()
        leases.tell_again(row_sets.select(wanted, ~row_sets.found(row_sets.keys(wanted), stay)[0]))
        self.edge.apply_again()

    def _observe(self, applied: Applied) -> None:
        """What is bound otherwise now. A lease that waits has its turn as soon as its subscriber has room."""
        self._quarantine.observe(applied)
        if self._quarantine.makes_room(applied.gone.rows):
            self.edge.apply_again()
        if not applied.empty and self._room_for_left_out() and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_ROOM_S, self._try_left_out)

    def _room_for_left_out(self) -> int:
        return max(self._table.capacity - self._table.size, 0) if len(self._left_out) else 0

    def _try_left_out(self) -> None:
        """As many as there is room for."""
        if self._retry is not None:
            self._retry.cancel()
        self._retry = None
        if room := self._room_for_left_out():
            self.edge.requestor.leases.tell_again(self._left_out.take(room))
            self.edge.apply_again()

    async def _apply(self, changes: Changes, saved: Mapping[str, bytes | None]) -> None:
        self._left_out.forget(changes.unbind, changes.bind)
        before = len(self._quarantine.waiting)
        unbind, bind = self._quarantine.admit(changes.unbind, changes.bind, self._held(changes))
        if len(self._quarantine.waiting) > before:
            text = "leasequery: %d leases over their subscriber's limit wait; `leasequery leases --kept-out` names them"
            log.warning(text, len(self._quarantine.waiting))
        records = [Record(SPACE, name.encode(), value) for name, value in saved.items()]
        if len(unbind) or len(bind) or records:
            await self._commit(unbind, bind, records)

    def _held(self, changes: Changes) -> Rows:
        """What is bound of what leases had before; the rest is another source's, or waits."""
        ipv4, psid = (np.concatenate([changes.unbind[name], changes.former[name]]) for name in ("ipv4", "psid"))
        rows, sources = self._table.holders(ipv4, psid)
        return row_sets.select(rows, sources == Source.DHCP)

    async def _commit(self, unbind: Rows, bind: Rows, records: Sequence[Record]) -> None:
        """Until it is done: a lease that cannot be bound is named and left out, and tried again if it was for want of
        room; a store that fails is asked again."""
        while True:
            wanted = [Change(op, Source.DHCP, rows) for op, rows in ((Op.UNBIND, unbind), (Op.BIND, bind)) if len(rows)]
            try:
                await self._until_kept(partial(self._control.commit, wanted, records, Source.DHCP))
                return
            except CommitRefused as fault:
                full, others = self._refused(bind, fault.report)
                if not full and not others:  # it is not about a row that could be left out
                    raise
                log.warning("leasequery: %d leases are not bound: %s", len(full) + len(others), fault)
                self.refused += len(full) + len(others)
                self._left_out.add(bind[full])
                bind = np.delete(bind, full + others)

    def _refused(self, bind: Rows, report: Report) -> tuple[list[int], list[int]]:
        """Which of the rows there was no room for, and which were refused for another reason."""
        named = [one for one in report.refused if one.index < len(bind)]
        full = [one.index for one in named if one.reason == "table_full"]
        if full and report.more_refused:  # not all are named; all that are new behind the last have no room either
            first = max(full) + 1
            behind = bind[first:]
            _, sources = self._table.holders(behind["ipv4"].copy(), behind["psid"].copy())
            full += (first + np.flatnonzero(sources == row_sets.UNBOUND)).tolist()
        return full, [one.index for one in named if one.reason != "table_full"]

    async def _until_kept(self, act: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await act()
                return
            except (Closed, CommitRefused):
                raise
            except StoreFault as fault:
                log.error("leasequery: %s; trying again", fault)
                await asyncio.sleep(_RETRY_S)

    # --- packets without a binding

    async def ask(self, b4: IPv6Address) -> None:
        """The server may know a lease that was not heard of yet; what it says is bound as any other."""
        await self.edge.query(b4)

    # --- views

    def live(self) -> list[str]:
        """Servers whose news reach us."""
        sessions = {} if self.edge.ended else self.edge.requestor.sessions
        return [name for name, session in sessions.items() if session.current]

    def status(self) -> LeaseStatus:
        now = time.monotonic()
        edge = self.edge
        waiting = self._quarantine.waiting
        return LeaseStatus(edge.requestor, edge.under_way, waiting, now, time.time(), edge.ended)

    @property
    def names(self) -> Sequence[str]:
        return list(self.edge.requestor.sessions)

    def sources(self) -> Sequence[SourceStatus]:
        return self.status().sources()

    async def leases(self, wanted: LeaseFilter, size: int, page: str) -> tuple[Sequence[KnownLease], str]:
        leases = self.edge.requestor.leases
        return await LeaseList(leases, self._table, self._quarantine.waiting).page(wanted, size, page)

    async def resync(self, name: str | None) -> Sequence[str]:
        known = self.names
        if name is not None and name not in known:
            raise KeyError(name)
        self._serves()
        self.edge.resync(name)
        return known if name is None else [name]

    async def drop(self, name: str, validate_only: bool) -> int:
        if name not in self.names:
            raise KeyError(name)
        leases = self.edge.requestor.leases.told(name)
        if validate_only:
            return leases
        self._serves()
        log.warning("leasequery: %s: all that it told is dropped, %d leases; it is asked anew", name, leases)
        self.edge.drop(name)
        try:
            async with asyncio.timeout(_DURABLE_S):
                await self.edge.settled()
        except TimeoutError:
            text = f"leases of {name} are dropped, and after {_DURABLE_S:g} s that is not durable: the store is slow or"
            raise StoreFault(f"{text} fails; the router goes on trying, and after a crash they may be back") from None
        return leases

    def _serves(self) -> None:
        """Raises Ended."""
        if self.edge.ended:
            raise Ended(ENDED)

    def values(self) -> Iterable[Value]:
        """For the metrics."""
        waiting = len(self._quarantine.waiting)
        yield Value("lwaftr_leases_refused", "Leases that the table did not take", "counter", {}, self.refused)
        yield Value("lwaftr_leases_over_limit", "Leases over their subscriber's limit", "gauge", {}, waiting)
        left = len(self._left_out)
        yield Value("lwaftr_leases_left_out", "Leases that wait for room in the table", "gauge", {}, left)
        yield from self.status().values()
