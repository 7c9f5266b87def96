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
from pylwaftr.api.backend import SourceStatus
from pylwaftr.bindings import Applied
from pylwaftr.changes import Change, Op, Record, Source
from pylwaftr.config import Config
from pylwaftr.daemon.control import CommitRefused, Control
from pylwaftr.daemon.leasequery import Edge, Endpoint, of_config, reached_otherwise
from pylwaftr.daemon.quarantine import Quarantine
from pylwaftr.daemon.router import StartFault
from pylwaftr.daemon.writer import Closed
from pylwaftr.dhcp.requestor import Requestor, Server
from pylwaftr.dhcp.winners import Changes
from pylwaftr.row_sets import Sourced
from pylwaftr.rows import Rows, no_rows
from pylwaftr.store import StoreFault
from pylwaftr.telemetry.metrics import Value

log = logging.getLogger("pylwaftr")

Found = tuple[list[Server], dict[str, Endpoint]]

SPACE = "leasequery"
_RETRY_S = 1.0
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


class LeaseService:
    """Implements api.backend.LeasequeryView."""

    def __init__(self, config: Config, servers: Found, control: Control, table: _core.BindingTable) -> None:
        """`servers`: as `found` in the configuration. `begin` comes before anything else."""
        self._control, self._table = control, table
        saved = {key.decode(): value for key, value in control.records.get(SPACE, {}).items()}
        brs = [address.packed for address in config.softwire.br_addresses]
        self._limits = config.subscribers
        self._hold_s = max(server.expiry_hold_s for server in config.leasequery.servers)
        self._quarantine = Quarantine(self._limits.mask, self._limits.max_softwires, no_rows())
        self.edge = Edge(Requestor(servers[0], brs[0], brs, saved), servers[1], self._apply)
        self.refused = 0
        self._under_way, self._began = 0, 0.0  # changes that are not durable yet, and since when

    async def begin(self) -> None:
        """Takes over what is bound. A store that fails is asked again: that was about what others changed."""
        held = no_rows()

        def counted(bound: Sourced) -> Callable[[Applied], None]:
            nonlocal held
            held = row_sets.select(bound.rows, bound.sources == Source.DHCP)
            self._quarantine = Quarantine(self._limits.mask, self._limits.max_softwires, bound.rows)
            return self._quarantine.observe

        await self._until_kept(lambda: self._control.observe_all(counted))
        if len(held):
            self.edge.requestor.restore(held, asyncio.get_running_loop().time(), self._hold_s)

    def reconfigure(
        self, old: Config, new: Config, servers: Sequence[Server], endpoints: Mapping[str, Endpoint]
    ) -> None:
        """`servers`, `endpoints`: as `found` in the new configuration."""
        if new.subscribers != old.subscribers:
            self._quarantine.limit(new.subscribers.mask, new.subscribers.max_softwires)
            self.edge.apply_again()  # there may be room for some that wait
        if new.softwire.br_addresses != old.softwire.br_addresses:
            self._take_brs([address.packed for address in new.softwire.br_addresses])
        if new.leasequery != old.leasequery:
            anew = reached_otherwise(old.leasequery.servers, new.leasequery.servers)
            self.edge.reconfigure(servers, endpoints, anew)

    def _take_brs(self, brs: Sequence[bytes]) -> None:
        """A softwire stays at its BR address as long as that is the router's. All others get the first one: also those
        that are not bound, over their subscriber's limit, behind another source or on their way to the table."""
        leases = self.edge.requestor.leases
        leases.set_br(brs[0], brs)
        rows, sources, _ = self._table.dump_chunk(0, 1 << 40)
        ours = np.zeros(len(rows), np.bool_)
        for br in brs:
            ours |= (rows["br"] == np.frombuffer(br, np.uint8)).all(1)
        stay = row_sets.distinct(row_sets.keys(row_sets.select(rows, ours & (sources == Source.DHCP))))
        wanted = leases.bindings()
        leases.tell_again(row_sets.select(wanted, ~row_sets.found(row_sets.keys(wanted), stay)[0]))
        self.edge.apply_again()

    async def _apply(self, changes: Changes, saved: Mapping[str, bytes | None]) -> None:
        self._under_way, self._began = len(changes), asyncio.get_running_loop().time()
        before = len(self._quarantine.waiting)
        unbind, bind = self._quarantine.admit(changes.unbind, changes.bind, self._held(changes))
        if len(self._quarantine.waiting) > before:
            log.warning("leasequery: %d leases over their subscriber's limit wait", len(self._quarantine.waiting))
        await self._commit(unbind, bind, [Record(SPACE, name.encode(), value) for name, value in saved.items()])
        self._under_way = 0

    def _held(self, changes: Changes) -> Rows:
        """What is bound of what leases had before; the rest is another source's, or waits."""
        ipv4, psid = (np.concatenate([changes.unbind[name], changes.former[name]]) for name in ("ipv4", "psid"))
        rows, sources = self._table.holders(ipv4, psid)
        return row_sets.select(rows, sources == Source.DHCP)

    async def _commit(self, unbind: Rows, bind: Rows, records: Sequence[Record]) -> None:
        """Until it is done: a lease that cannot be bound is named and left out, a store that fails is asked again."""
        while True:
            wanted = [Change(op, Source.DHCP, rows) for op, rows in ((Op.UNBIND, unbind), (Op.BIND, bind)) if len(rows)]
            try:
                await self._until_kept(partial(self._control.commit, wanted, records, Source.DHCP))
                return
            except CommitRefused as fault:
                refused = [refusal.index for refusal in fault.report.refused if refusal.index < len(bind)]
                if not refused:  # it is not about a row that could be left out
                    raise
                log.warning("leasequery: %d leases are not bound: %s", len(refused), fault)
                self.refused += len(refused)
                bind = np.delete(bind, refused)

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
        return [name for name, session in self.edge.requestor.sessions.items() if session.current]

    def sources(self) -> Sequence[SourceStatus]:
        """`queued` is what all of them said together: changes that are heard of and not durable yet."""
        requestor, now = self.edge.requestor, asyncio.get_running_loop().time()
        queued = requestor.waiting + self._under_way
        found = []
        for name, session in requestor.sessions.items():
            since = min(session.heard_at, self._began) if self._under_way else session.heard_at
            lag = 0.0 if session.current and not queued else max(0.0, now - since)
            synchronised = None
            if session.bulk_began is not None and session.bulk_took_s is not None:
                synchronised = time.time() - now + session.bulk_began + session.bulk_took_s
            active, conflicts = requestor.leases.count_of(name)
            if len(waiting := self._quarantine.waiting):
                claims = requestor.leases.claims_of(name)
                mine = np.isin(row_sets.joined_keys(claims["ipv4"], claims["psid"]), row_sets.keys(waiting))
                conflicts += int(np.count_nonzero(mine))
            found.append(SourceStatus(name, session.state, active, conflicts, lag, queued, synchronised))
        return found

    async def resync(self, name: str | None) -> Sequence[str]:
        known = [source.name for source in self.sources()]
        if name is not None and name not in known:
            raise KeyError(name)
        self.edge.resync(name)
        return known if name is None else [name]

    def values(self) -> Iterable[Value]:
        """For the metrics."""
        waiting = len(self._quarantine.waiting)
        yield Value("lwaftr_leases_refused", "Leases that the table did not take", "counter", {}, self.refused)
        yield Value("lwaftr_leases_quarantined", "Leases over their subscriber's limit", "gauge", {}, waiting)
        for source in self.sources():
            label = {"server": source.name}
            yield Value("lwaftr_leases", "Leases known of a server", "gauge", label, source.leases)
            yield Value(
                "lwaftr_lease_conflicts", "Leases that wait for the end of another", "gauge", label, source.conflicts
            )
            yield Value("lwaftr_lease_lag_seconds", "How far behind the server", "gauge", label, source.lag_s)
            yield Value("lwaftr_lease_changes_queued", "Changes heard and not durable", "gauge", label, source.queued)
            up = float(source.state == "live")
            yield Value("lwaftr_lease_source_live", "1 while the active query of a server is live", "gauge", label, up)
