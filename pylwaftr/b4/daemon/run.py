"""A lwB4 from its start to its end."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from contextlib import ExitStack
from dataclasses import replace

from ..core import B4
from ..host import HostError, HostOptions, interface_towards, open_tun, prepare, turn_gro_off
from ..proxy import Proxy
from ..softwire import Softwire
from .forwarder import Forwarder
from .lan import LanServer
from .plan import PcpPlan, Plan, Report, UnboundError
from .provisioner import Provisioner
from .rules import Rules
from .sockets import (
    chosen_source,
    flush_connections,
    open_icmp6,
    open_lan_server,
    open_tunnel,
    path_mtu,
    resolve,
)

_LOOK_S = 2.0  # for another address of our own


def run(plan: Plan, report: Report) -> None:
    """Until SIGTERM or SIGINT; SIGUSR1 shows the counters."""
    asyncio.run(_Run(plan, report).serve())


class _Run:
    def __init__(self, plan: Plan, report: Report) -> None:
        self._plan, self._report = plan, report
        self._unbound = asyncio.Event()
        self._unbound_at = float("-inf")

    async def serve(self) -> None:
        plan = self._plan
        with ExitStack() as undo:
            tun = open_tun(plan.host.tun)
            undo.callback(os.close, tun)
            aftr = resolve(plan.aftr)
            ends = Softwire(aftr, plan.source or chosen_source(aftr))
            prepare(ends.source, plan.host, undo)
            tunnel, errors = open_tunnel(ends), open_icmp6(ends)
            turn_gro_off(interface_towards(aftr), tunnel.fileno(), undo)
            flush_connections()
            undo.callback(flush_connections)
            mtu = plan.core.mtu or path_mtu(tunnel)
            self._b4 = B4(ends, replace(plan.core, mtu=mtu, first_identification=secrets.randbits(32)))
            self._forwarder = Forwarder(self._b4, tun, tunnel, errors)
            undo.callback(self._forwarder.close)
            self._rules = Rules(plan.host)
            await self._forward(ends, undo)

    async def _forward(self, ends: Softwire, undo: ExitStack) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, lambda: self._report(_shown(self._b4)))
        self._forwarder.on_unbound = self._lost
        self._forwarder.start(loop)
        undo.callback(self._forwarder.stop)
        if self._plan.given is not None:
            await self._use_given(ends)
        if self._plan.pcp is not None:
            self._provision(self._plan.pcp, ends, undo)
        await _until(stop, self._unbound if self._plan.stop_when_unbound else None)
        self._report(_shown(self._b4))

    async def _use_given(self, ends: Softwire) -> None:
        assert self._plan.given is not None
        ipv4, ports = self._plan.given
        self._rules.napt = (ipv4, ports)
        await self._rules.apply()
        self._b4.use(Softwire(ends.aftr, ends.source, ipv4, ports))
        self._ready(str(ipv4), ends)

    def _provision(self, plan: PcpPlan, ends: Softwire, undo: ExitStack) -> None:
        loop = asyncio.get_running_loop()
        provisioner = Provisioner(plan, ends, self._b4, self._forwarder, self._rules, self._report)
        provisioner.flush = flush_connections
        provisioner.on_ready = lambda assignment: self._ready(str(assignment), ends)
        if plan.lan is not None:
            proxy = Proxy(plan.lan, loop.time(), self._plan.host.forwards)
            lan = LanServer(proxy, _lan_servers(self._plan.host), self._rules, self._report)
            lan.on_scarce = provisioner.ask_for_more
            provisioner.lan = lan
            self._rules.forwards = proxy.forwards
            lan.start(loop)
            undo.callback(lan.stop)
        provisioner.start(loop)
        undo.callback(provisioner.stop)
        self._report(f"asking {ends.aftr} for a port set, from {ends.source}")
        if self._plan.source is None:
            watch = loop.create_task(self._watch_source(provisioner, ends))
            undo.callback(watch.cancel)

    async def _watch_source(self, provisioner: Provisioner, ends: Softwire) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                source = chosen_source(ends.aftr)
                if source == ends.source:
                    continue
                ends = Softwire(ends.aftr, source)
                self._forwarder.rebind(*_both(ends))
            except HostError as fault:
                self._report(f"no address for the softwire: {fault}")
                continue
            self._report(f"the softwire's own address is {source} now")
            self._b4.move(source)
            provisioner.moved(source)

    def _ready(self, what: str, ends: Softwire) -> None:
        tun, mtu = self._plan.host.tun, self._b4.path_mtu
        self._report(f"ready: {what} on {tun} through {ends.aftr}, path MTU {mtu}")

    def _lost(self) -> None:
        """One line a minute: every packet that goes out may bring such an error back."""
        now = asyncio.get_running_loop().time()
        self._unbound.set()
        if now - self._unbound_at >= 60:
            self._unbound_at = now
            self._report("the lwAFTR has no binding for this lwB4 (ICMPv6 1/5)")


def _both(ends: Softwire) -> tuple[socket.socket, socket.socket]:
    tunnel = open_tunnel(ends)
    try:
        return tunnel, open_icmp6(ends)
    except BaseException:
        tunnel.close()
        raise


def _lan_servers(host: HostOptions) -> list[socket.socket]:
    return [open_lan_server(lan.address.ip) for lan in host.lans if lan.address is not None]


async def _until(stop: asyncio.Event, unbound: asyncio.Event | None) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in (stop, unbound) if event is not None]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    if unbound is not None and unbound.is_set():
        raise UnboundError("the lwAFTR has no binding for this lwB4")


def _shown(b4: B4) -> str:
    return "counters: " + (", ".join(f"{name} {n}" for name, n in sorted(b4.counters.items())) or "no drops")
