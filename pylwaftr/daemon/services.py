"""The control side of a running router, put together: store, bindings, PCP, API, metrics, binding log.

restore() before the workers run: what was bound forwards from the first packet on. start() after it. A service that
fails is named and the router forwards on; what cannot start at all raises StartFault.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import numpy as np

from pylwaftr import row_sets
from pylwaftr.api import server as api_server
from pylwaftr.api.backend import Parts, RestartNeeded, SettingsFaulty
from pylwaftr.api.server import ApiFault
from pylwaftr.applied import Applied
from pylwaftr.changes import Source
from pylwaftr.config import Config, Fault, binding_rows, core_settings
from pylwaftr.config.diff import Plan
from pylwaftr.daemon import binding_log
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.diagnostics import Diagnostics
from pylwaftr.daemon.leases import Found, LeaseService, b4s_of, found
from pylwaftr.daemon.machine import Machine
from pylwaftr.daemon.metrics_port import MetricsPort
from pylwaftr.daemon.pcp import PcpService
from pylwaftr.daemon.pcp_view import PcpView
from pylwaftr.daemon.punts import Punts
from pylwaftr.daemon.restoring import ConfigRefused
from pylwaftr.daemon.router import Router, StartFault
from pylwaftr.daemon.settings import Settings
from pylwaftr.icmp_policy import IcmpPolicy, Policy
from pylwaftr.pcp import settings as pcp_settings
from pylwaftr.pcp.mapping import EPOCH_KEY
from pylwaftr.pcp.outcome import Outcome
from pylwaftr.pcp.server import PcpServer
from pylwaftr.row_sets import Sourced
from pylwaftr.rows import Rows
from pylwaftr.store import StoreFault
from pylwaftr.store.sqlite import SqliteStore
from pylwaftr.table import ALL

log = logging.getLogger("pylwaftr")

_DAY_S = 86400.0
_HEALTH_S = 1.0
_RESTORING_S = 300.0  # a server that gives no leases for so long silences ICMPv6 1/5 no longer
_ASK_MS = 1000  # no ICMPv6 1/5 for so long while a server is asked about a B4


def opened_store(config: Config) -> SqliteStore:
    """Raises StartFault."""
    try:
        return SqliteStore(config.state.directory, time.time())
    except StoreFault as fault:
        raise StartFault(f"state.directory: {fault}") from None


class Services:
    def __init__(self, config: Config, router: Router, store: SqliteStore) -> None:
        self._router = router
        self.control = Control(router.table, store)
        self.machine = Machine(router)
        self.policy = IcmpPolicy(Policy.from_config(config.icmp))
        self.settings = Settings(config, [self._take], lambda: self.control.revision)
        self.pcp = PcpService(PcpServer(_pcp_settings(config), time.time()), self.control, router.inject)
        self._applied: asyncio.Queue[Applied] = asyncio.Queue()
        self.control.observe(self._applied.put_nowait)
        self.leases: LeaseService | None = None
        self._api: api_server.Running | None = None
        self._parts: Parts | None = None
        self._pcp_task: asyncio.Task[None] | None = None
        self._log_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stack = AsyncExitStack()

    @property
    def config(self) -> Config:
        return self.settings.config

    # --- start and stop

    async def restore(self) -> None:
        """What was bound before, from configuration and store. Raises StartFault."""
        try:
            restored = await self.control.start(binding_rows(self.config))
            self.machine.remarks += restored.set_aside
            await self._limit_operator(self.config)
            records = self.control.records.get("pcp", {})
            damaged = bool(restored.set_aside)
            loaded = await self.pcp.settle(lambda now: self.pcp.server.load(records, now, damaged))
            others = await self._rows_of_others()
            await self.pcp.settle(lambda now: self.pcp.server.reserve(others, now))
            await self._hold_back()
        except (StoreFault, ConfigRefused) as fault:
            raise StartFault(str(fault)) from None
        log.info("%d bindings, revision %d", restored.bound, self.control.revision)
        began_anew = EPOCH_KEY in loaded.records  # mappings that B4s still use may be unknown here
        if self.config.pcp.enabled and began_anew:
            self.pcp.server.announce(time.time(), others)

    async def start(self) -> None:
        """Raises StartFault."""
        config = self.config
        self._start_leases()
        punts = Punts(self._router, self.pcp.punted, self._missed, self.pcp.moved)
        punts.start()
        self._stack.callback(punts.stop)
        self._pcp_task = self._run(self.pcp.run(), "PCP")
        self._stack.callback(self.pcp.close)
        if config.pcp.third_party.listen is not None:
            await self.pcp.listen(config.pcp.third_party.listen)
        self._run(self._follow(), "PCP's view of other bindings")
        self._run(self._forget(), "retention of the history")
        self._log_task = self._start_log(config)
        self._start_metrics()
        await self._start_api()
        self._run(self._watch_health(), "health")

    async def stop(self) -> None:
        self.control.end_watches()  # or the API waits for their clients
        if self._api is not None:
            await self._api.stop()
        await self.settings.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()
        await self.control.stop()

    async def _hold_back(self) -> None:
        """Before a worker runs: no B4 whose lease is still to be read gets ICMPv6 1/5."""
        if not self.config.leasequery.servers:
            return
        servers = found(self.config)
        self.leases = LeaseService(self.config, servers, self.control, self._router.table)
        await self.leases.begin()
        self._hold_for(servers[1])
        self._router.engine.apply(self._core_settings(self.config))

    def _hold_for(self, names: Iterable[str]) -> None:
        for name in names:
            self.policy.hold(name, time.time() + _RESTORING_S)

    def _start_leases(self) -> None:
        if self.leases is None:
            return
        self.machine.values.append(self.leases.values)
        self._run(self.leases.edge.run(), "leasequery")
        self._run(self._watch_restoring(self.leases), "hold of ICMPv6 1/5")

    async def _take_leases(self, old: Config, new: Config, servers: Found) -> None:
        """ICMPv6 1/5 is held back for those that come; of those that go nothing more is awaited."""
        if self.leases is not None:
            gone = self._lease_sources() - set(servers[1])
            self.leases.reconfigure(old, new, *servers)
            if new.leasequery == old.leasequery:
                return
            for name in gone:
                self.policy.restored(name)
            self._run(self._watch_restoring(self.leases), "hold of ICMPv6 1/5")
        elif new.leasequery.servers:
            leases = LeaseService(new, servers, self.control, self._router.table)
            await leases.begin()
            self.leases = leases
            if self._parts is not None:
                self._parts.leasequery = leases
            self._start_leases()

    def _lease_sources(self) -> set[str]:
        return set() if self.leases is None else set(self.leases.names)

    async def _watch_restoring(self, leases: LeaseService) -> None:
        """No B4 is sent away while its lease may still be among those that are read."""
        while self.policy.holding(time.time()):
            await asyncio.sleep(_HEALTH_S)
            for name in leases.live():
                self.policy.restored(name)
        await self.settings.again(self._apply_settings)

    async def _apply_settings(self, config: Config) -> None:
        await asyncio.to_thread(self._router.engine.apply, self._core_settings(config))

    def _missed(self, packets: Iterable[bytes]) -> None:
        if self.leases is not None:
            for b4 in b4s_of(packets):
                self._run(self.leases.ask(b4), "a question about a B4")

    def _core_settings(self, config: Config) -> dict[str, Any]:
        """While there are servers to ask, a B4 without a binding is not sent away before they have been asked."""
        miss = bool(config.leasequery.servers)
        settings = core_settings(config, miss_events=miss, hold_code5_ms=_ASK_MS if miss else 0)
        return self.policy.applied(settings, time.time())

    def _start_metrics(self) -> None:
        machine, listen = self.machine, self.config.metrics.listen
        machine.values.append(self.pcp.values)
        machine.sources = self._bindings_by_source
        machine.updates = self.control.update_seconds
        if listen is not None:
            port = MetricsPort(listen, machine)
            self._stack.push_async_callback(asyncio.to_thread, port.close)

    async def _start_api(self) -> None:
        if self.config.api.listen is None:
            return
        pcp = PcpView(self.pcp, lambda: self.config, self._announce)
        diagnostics = Diagnostics(self._router.table, lambda: self.config)
        self._parts = Parts(self.control, self.machine, self.settings, diagnostics, pcp, self.leases)
        try:
            self._api = await api_server.start(self.config.api, self._parts)
        except ApiFault as fault:
            raise StartFault(str(fault)) from None

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("%s has ended, the router forwards on: %r", task.get_name(), fault, exc_info=fault)
            if task is self._pcp_task:
                self.pcp.healthy = False
            if (remark := f"{task.get_name()} has ended: {fault!r}") not in self.machine.remarks:
                self.machine.remarks.append(remark)

    # --- what goes on beside

    async def _limit_operator(self, config: Config) -> None:
        limits = config.subscribers
        await self.control.limit_operator(limits.mask, limits.max_softwires if limits.limit_operator else None)

    async def _follow(self) -> None:
        """PCP leaves alone what others bind, also when they bind it now."""
        server = self.pcp.server
        while True:
            applied = await self._applied.get()
            gone, come = _without(applied.gone, Source.PCP), _without(applied.come, Source.PCP)
            if len(gone):
                await self.pcp.settle(partial(_unreserved, server, gone, come))
            while len(come):
                try:
                    await self.pcp.settle(partial(server.reserve, come))
                    break
                except StoreFault:  # what was noted of it goes before the next try
                    await self.pcp.settle(partial(_unreserved, server, come, gone[:0]))
                    await asyncio.sleep(_HEALTH_S)

    async def _forget(self) -> None:
        while True:
            days = self.config.history.retention_days
            if days is not None:
                try:
                    await self.control.forget(time.time() - days * _DAY_S)
                except StoreFault as fault:
                    log.warning("history: %s", fault)
            await asyncio.sleep(_DAY_S / 24)

    async def _watch_health(self) -> None:
        healthy, trial = self.machine.healthy, None
        while True:
            healthy["store"] = self.control.store_serves
            if not healthy["store"] and not self.control.failed and (trial is None or trial.done()):
                trial = asyncio.create_task(self.control.try_store())  # a disk may keep it waiting
            if self.config.pcp.enabled:
                healthy["pcp"] = self.pcp.healthy
            if self.leases is not None:
                healthy["leasequery"] = bool(self.leases.live()) or not self.config.leasequery.servers
            if self._api is not None:
                for part, well in healthy.items():
                    await self._api.health(part, well)
            await asyncio.sleep(_HEALTH_S)

    def _start_log(self, config: Config) -> asyncio.Task[None] | None:
        wanted = config.history.syslog
        return None if wanted is None else self._run(binding_log.stream(self.control, wanted), "history.syslog")

    def _bindings_by_source(self) -> Mapping[str, int]:
        return {source.name.lower(): self._router.table.size_of(source) for source in Source}

    async def _announce(self) -> int:
        softwires = await asyncio.to_thread(self._router.table.dump)
        count = self.pcp.server.announce(time.time(), softwires)
        self.pcp.wake()
        return count

    async def _rows_of_others(self) -> Rows:
        rows, sources, _ = await asyncio.to_thread(self._router.table.dump_chunk, 0, ALL)
        return np.asarray(rows[sources != Source.PCP])

    # --- reload

    async def reload(self) -> None:
        """SIGHUP: the file as it is now. A faulty one changes nothing."""
        try:
            await self.settings.apply(None, None)
        except SettingsFaulty as faulty:
            for fault in faulty.faults:
                log.error("reload: %s", fault)
            log.error("reload: nothing was changed")
        except RestartNeeded as needed:
            for difference in needed.differences:
                log.error("reload: %s: %s -> %s needs a restart", difference.path, difference.before, difference.after)
            log.error("reload: nothing was changed")
        except (StoreFault, ConfigRefused) as fault:
            log.error("reload: %s; nothing was changed", fault)
        except Exception:
            log.exception("reload: it may have been done in part")

    async def _take(self, old: Config, new: Config, plan: Plan) -> None:
        try:
            servers = found(new)
        except StartFault as fault:
            raise SettingsFaulty([Fault(new.source, 1, "leasequery.servers", str(fault))]) from None
        if new.dataplane.max_bindings > old.dataplane.max_bindings:
            await asyncio.to_thread(self._router.table.grow, new.dataplane.max_bindings)
        self.policy.policy = Policy.from_config(new.icmp)
        limited_otherwise = new.subscribers != old.subscribers
        come = set(servers[1]) - self._lease_sources()
        self._hold_for(come)
        try:
            await self._apply_settings(new)
            if limited_otherwise:
                await self._limit_operator(new)
            if plan.rows_changed:
                await self.control.reload(binding_rows(new))
        except BaseException:
            self.policy.policy = Policy.from_config(old.icmp)
            for name in come:
                self.policy.restored(name)
            if limited_otherwise:
                with suppress(StoreFault):  # it limits all the same: only the answer goes with what others changed
                    await self._limit_operator(old)
            await self._apply_settings(old)
            raise
        self.pcp.server.reconfigure(_pcp_settings(new))
        await self._take_leases(old, new, servers)
        logging.getLogger().setLevel(new.logging.level.upper())
        if self._api is not None:
            self._api.roles.take(new.api)
        if new.history.syslog != old.history.syslog:
            if self._log_task is not None:
                self._log_task.cancel()
            self._log_task = self._start_log(new)


def _without(rows: Sourced, source: Source) -> Rows:
    return row_sets.select(rows.rows, rows.sources != source)


def _unreserved(server: PcpServer, rows: Rows, come: Rows, now: float) -> Outcome:
    server.unreserve(rows, now, come)
    return Outcome()


def _pcp_settings(config: Config) -> pcp_settings.Settings:
    return pcp_settings.from_config(config.pcp, config.subscribers, config.softwire.br_addresses[0])
