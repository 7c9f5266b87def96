"""The control side of a running router, put together: store, bindings, PCP, API, metrics, binding log.

restore() before the workers run: what was bound forwards from the first packet on. start() after it, also the loading
of what the services are made of (gRPC, Prometheus, PCP), which takes as long as all that comes before. A service that
fails is named and the router forwards on; what cannot start at all raises StartFault.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pylwaftr.api.backend import ListFilter, Parts, RestartNeeded, SettingsFaulty
from pylwaftr.changes import Source
from pylwaftr.config import Config, Fault, binding_rows, core_settings
from pylwaftr.config.diff import Plan
from pylwaftr.daemon import binding_log, bound_checks
from pylwaftr.daemon.control import Control
from pylwaftr.daemon.machine import Machine
from pylwaftr.daemon.punts import Punts
from pylwaftr.daemon.restoring import ConfigRefused
from pylwaftr.daemon.router import Router, StartFault
from pylwaftr.daemon.settings import Settings
from pylwaftr.icmp_policy import IcmpPolicy, Policy
from pylwaftr.row_sets import Sourced
from pylwaftr.store import StoreFault
from pylwaftr.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from pylwaftr.api import server as api_server
    from pylwaftr.daemon.leases import Found, LeaseService
    from pylwaftr.daemon.pcp_beside import PcpBeside

log = logging.getLogger("pylwaftr")

_DAY_S = 86400.0
_HEALTH_S = 1.0
_RESTORING_S = 300.0  # a server that gives no leases for so long silences ICMPv6 1/5 no longer
_TURN_S = 5.0  # what was asked of the store before is usually done
_ASK_MS = 1000  # no ICMPv6 1/5 for so long while a server is asked about a B4


def opened_store(config: Config) -> SqliteStore:
    """Raises StartFault."""
    try:
        return SqliteStore(config.state.directory, time.time())
    except StoreFault as fault:
        raise StartFault(f"state.directory: {fault}") from None


class Services:
    def __init__(self, config: Config, router: Router, store: SqliteStore) -> None:
        self._router, self._loop = router, asyncio.get_running_loop()
        self.control = Control(router.table, store)
        self.machine = Machine(router)
        self.policy = IcmpPolicy(Policy.from_config(config.icmp))
        judge = partial(bound_checks.faults, bound=self._everything)
        self.settings = Settings(config, [self._take], judge, self._taken, lambda: self.control.revision)
        self._unserved: list[str] = []  # remarks about what was bound while the last reload was on its way
        self.pcp: PcpBeside | None = None
        self.leases: LeaseService | None = None
        self._api: api_server.Running | None = None
        self._parts: Parts | None = None
        self._damaged = False  # the state was, in part
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
            await self._hold_back()
        except (StoreFault, ConfigRefused) as fault:
            raise StartFault(str(fault)) from None
        self._damaged = bool(restored.set_aside)
        log.info("%d bindings, revision %d", restored.bound, self.control.revision)

    async def start(self) -> None:
        """Raises StartFault."""
        config = self.config
        self._log_task = self._start_log(config)  # first: it tells what others bind from here on
        self._start_leases()
        pcp = await self._start_pcp(config)
        self._run(self._forget(), "retention of the history")
        self._run(self._name_unserved(), "a look at BR addresses")
        self._start_metrics(pcp)
        await self._start_api(pcp)
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

    async def _start_pcp(self, config: Config) -> PcpBeside:
        from pylwaftr.daemon.pcp_beside import PcpBeside

        self.pcp = pcp = PcpBeside(config, self.control, self._router.inject)
        try:
            await pcp.begin(self._damaged, config.pcp.enabled)
        except StoreFault as fault:
            raise StartFault(str(fault)) from None
        punts = Punts(self._router, pcp.service.punted, self._missed, pcp.service.moved)
        punts.start()
        self._stack.callback(punts.stop)
        self._pcp_task = self._run(pcp.service.run(), "PCP")
        self._stack.callback(pcp.service.close)
        if config.pcp.third_party.listen is not None:
            await pcp.service.listen(config.pcp.third_party.listen)
        self._run(pcp.follow(), "PCP's view of other bindings")
        return pcp

    async def _hold_back(self) -> None:
        """Before a worker runs: no B4 whose lease is still to be read gets ICMPv6 1/5. Leases of servers that are
        configured no more forward on for their time."""
        waits = ListFilter(source=Source.DHCP, shadowed=True)
        if not (
            self.config.leasequery.servers
            or self._router.table.size_of(Source.DHCP)
            or len((await self.control.list(waits, 1, "")).rows)
        ):
            return
        from pylwaftr.daemon.leases import LeaseService

        servers = _servers(self.config)
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
            from pylwaftr.daemon.leases import LeaseService

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
        try:
            await asyncio.to_thread(self._router.engine.apply, self._core_settings(config))
        except ValueError as fault:  # a binding that came since the settings were judged
            raise SettingsFaulty([Fault(config.source, 1, "interfaces", str(fault))]) from None

    def _missed(self, packets: Iterable[bytes]) -> None:
        if self.leases is not None:
            from pylwaftr.daemon.leases import b4s_of

            for b4 in b4s_of(packets):
                self._run(self.leases.ask(b4), "a question about a B4")

    def _core_settings(self, config: Config) -> dict[str, Any]:
        """While there are servers to ask, a B4 without a binding is not sent away before they have been asked."""
        miss = bool(config.leasequery.servers)
        settings = core_settings(config, miss_events=miss, hold_code5_ms=_ASK_MS if miss else 0)
        return self.policy.applied(settings, time.time())

    def _start_metrics(self, pcp: PcpBeside) -> None:
        machine, listen = self.machine, self.config.metrics.listen
        machine.values.append(pcp.service.values)
        machine.sources = self._bindings_by_source
        machine.updates = self.control.update_seconds
        if listen is not None:
            from pylwaftr.daemon.metrics_port import MetricsPort

            port = MetricsPort(listen, machine)
            self._stack.push_async_callback(asyncio.to_thread, port.close)

    async def _start_api(self, pcp: PcpBeside) -> None:
        if self.config.api.listen is None:
            return
        from pylwaftr.api import server as api_server
        from pylwaftr.daemon.diagnostics import Diagnostics
        from pylwaftr.daemon.pcp_view import PcpView

        view = PcpView(pcp.service, lambda: self.config, partial(self._announce, pcp))
        diagnostics = Diagnostics(self._router.table, lambda: self.config)
        self._parts = Parts(self.control, self.machine, self.settings, diagnostics, view, self.leases)
        try:
            self._api = await api_server.start(self.config.api, self._parts)
        except api_server.ApiFault as fault:
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
            if task is self._pcp_task and self.pcp is not None:
                self.pcp.service.healthy = False
            if (remark := f"{task.get_name()} has ended: {fault!r}") not in self.machine.remarks:
                self.machine.remarks.append(remark)

    # --- what goes on beside

    async def _limit_operator(self, config: Config) -> None:
        limits = config.subscribers
        await self.control.limit_operator(limits.mask, limits.max_softwires if limits.limit_operator else None)

    async def _name_unserved(self) -> None:
        """The configuration may have lost a BR address while the router was down."""
        bound = await asyncio.to_thread(self.control.everything)
        for text in await asyncio.to_thread(bound_checks.unserved, self.config, bound):
            log.warning("%s", text)

    def _everything(self) -> Sourced:
        """All that is wanted, bound or waiting; to be called in a thread."""

        def turn() -> None:
            with suppress(TimeoutError):  # of a disk that hangs
                asyncio.run_coroutine_threadsafe(self.control.turn(), self._loop).result(_TURN_S)

        return bound_checks.seen_twice(self.control.everything, turn)

    def _taken(self, old: Config, new: Config) -> None:
        self._run(self._name_meanwhile(old, new), "a look at what was bound during the reload")

    async def _name_meanwhile(self, old: Config, new: Config) -> None:
        """What was asked for under the old settings behind the look at what is bound."""
        await self.control.turn()
        found = await asyncio.to_thread(bound_checks.meanwhile, old, new, self._everything)
        kept = [remark for remark in self.machine.remarks if remark not in self._unserved]
        self.machine.remarks, self._unserved = kept + found, found
        for text in found:
            log.warning("reload: %s", text)

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
            if self.pcp is not None and (self.config.pcp.enabled or "pcp" in healthy):  # a reload may switch it off
                healthy["pcp"] = self.config.pcp.enabled and self.pcp.service.healthy
            if self.leases is not None:
                healthy["leasequery"] = bool(self.leases.live()) or not self.config.leasequery.servers
            if self._api is not None:
                for part, well in healthy.items():
                    await self._api.health(part, well)
            await asyncio.sleep(_HEALTH_S)

    def _start_log(self, config: Config) -> asyncio.Task[None] | None:
        wanted = config.history.syslog
        if wanted is None:
            return None
        return self._run(binding_log.stream(self.control, wanted, self.control.revision), "history.syslog")

    def _bindings_by_source(self) -> Mapping[str, int]:
        return {source.name.lower(): self._router.table.size_of(source) for source in Source}

    async def _announce(self, pcp: PcpBeside) -> int:
        return pcp.announce(await asyncio.to_thread(self._router.table.dump))

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
            servers = _servers(new)
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
        if self.pcp is not None:
            self.pcp.reconfigure(new)
        await self._take_leases(old, new, servers)
        logging.getLogger().setLevel(new.logging.level.upper())
        if self._api is not None:
            self._api.roles.take(new.api)
        if new.history.syslog != old.history.syslog:
            if self._log_task is not None:
                self._log_task.cancel()
            self._log_task = self._start_log(new)


def _servers(config: Config) -> Found:
    """Raises StartFault."""
    if not config.leasequery.servers:
        return [], {}
    from pylwaftr.daemon.leases import found

    return found(config)
