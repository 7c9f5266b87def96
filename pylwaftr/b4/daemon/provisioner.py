"""Provisioning by PCP through the softwire: the client's datagrams, its clock, and what its answers change here."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from pylwaftr.pcp.client import Client, Options
from pylwaftr.pcp.client_values import Saved

from ..core import B4
from ..host import HostError
from ..inner_udp import Datagram
from ..provisioning import Assignment, Provisioning, Step
from ..softwire import Softwire
from . import state
from .forwarder import Forwarder
from .lan import LanServer
from .plan import PcpPlan, Report
from .rules import Rules

_SERVER_PORT, _ANNOUNCE_PORT = 5351, 5350
_SCARCE_PAUSE_S = 60.0


class Provisioner:
    def __init__(
        self, plan: PcpPlan, ends: Softwire, b4: B4, forwarder: Forwarder, rules: Rules, report: Report
    ) -> None:
        saved = state.load(plan.state, ends.aftr, report) if plan.state else None
        client = Client(Options(servers=plan.server, lifetime=plan.lifetime), random.SystemRandom(), saved)
        self._provisioning = Provisioning(client)
        self._client = client
        self._plan, self._ends, self._b4, self._forwarder, self._rules = plan, ends, b4, forwarder, rules
        self._report = report
        self._port = 49152 + secrets.randbelow(16384)  # section 8.1: random, one per client
        self._timer: asyncio.TimerHandle | None = None
        self._steps: asyncio.Queue[Step] = asyncio.Queue()
        self._scarce_until = 0.0
        self.lan: LanServer | None = None
        self.flush: Callable[[], None] = lambda: None
        self.on_ready: Callable[[Assignment], None] = lambda assignment: None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._worker = loop.create_task(self._work())
        self._forwarder.on_message = self._on_message
        self._forwarder.on_unbound = self._on_unbound
        self._client.start(loop.time())
        self._turn()

    def stop(self) -> None:
        """Gives the sets back."""
        if self._timer is not None:
            self._timer.cancel()
        self._worker.cancel()
        self._client.delete(self._loop.time())
        self._transmit()

    def moved(self, source: IPv6Address) -> None:
        """The softwire's own address is another one."""
        self._ends = Softwire(self._ends.aftr, source)
        self._client.reprovision(self._loop.time())
        if self.lan is not None:
            self.lan.proxy.announce(self._loop.time())  # RFC 7785 section 4.4
            self.lan.transmit()
        self._turn()

    def ask_for_more(self) -> None:
        """A further set, if there may be one."""
        now = self._loop.time()
        if len(self._client.grants()) < self._plan.sets and now >= self._scarce_until:
            self._scarce_until = now + _SCARCE_PAUSE_S
            self._client.ask_another(now)
            self._turn()

    # the client's clock and datagrams

    def _turn(self) -> None:
        self._transmit()
        step = self._provisioning.step()
        for line in step.lines:
            self._report(line)
        if step.changed or step.renewed or step.save:
            self._steps.put_nowait(step)
        if self._timer is not None:
            self._timer.cancel()
        due = self._client.timer()
        self._timer = None if due is None else self._loop.call_at(due, self._on_timer)

    def _transmit(self) -> None:
        for datagram, server in self._client.datagrams_to_send():
            self._forwarder.send(self._b4.request(self._port, server.packed, _SERVER_PORT, datagram))

    def _on_timer(self) -> None:
        self._client.handle_timer(self._loop.time())
        self._turn()

    def _on_message(self, message: Datagram) -> None:
        if message.destination_port in (self._port, _ANNOUNCE_PORT):
            source = IPv4Address(message.source), message.source_port
            self._client.receive(message.payload, source, self._loop.time())
            self._turn()

    def _on_unbound(self) -> None:
        self._client.icmp_code5(self._loop.time())
        self._turn()

    # what its answers change

    async def _work(self) -> None:
        """One step after the other, for each waits for its rules."""
        while True:
            step = await self._steps.get()
            if step.save is not None:
                await self._save(step.save)
            if step.changed:
                try:
                    await self._change(step)
                except HostError as fault:
                    self._report(f"the set cannot be used: {fault}")
            elif step.renewed and self.lan is not None:
                self.lan.proxy.use(step.assignment, self._loop.time())

    async def _save(self, saved: Saved) -> None:
        if self._plan.state is None:
            return
        try:
            await asyncio.to_thread(state.save, self._plan.state, self._ends.aftr, saved)
        except OSError as fault:
            self._report(f"state: {self._plan.state}: {fault.strerror}; after a restart we may be refused for a while")

    async def _change(self, step: Step) -> None:
        assignment = step.assignment
        if assignment is None:
            self._b4.use(self._ends)
            self._rules.napt = None
            if self.lan is not None:
                self.lan.proxy.use(None, self._loop.time())
            await self._rules.apply()
            return
        ports = assignment.ports
        if self.lan is not None:
            self.lan.proxy.use(assignment, self._loop.time())
            ports = self.lan.proxy.napt_ports()
        self._rules.napt = (assignment.ipv4, ports)
        await self._rules.apply()
        if step.flush:
            self.flush()
        self._b4.use(Softwire(self._ends.aftr, self._ends.source, assignment.ipv4, assignment.ports))
        if self.lan is not None:
            self.lan.transmit()
        self.on_ready(assignment)
