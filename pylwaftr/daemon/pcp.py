"""The PCP server on its sockets: punted requests and a management port in; commits, then answers, out.

One batch at a time: what waits is answered together, and its changes are one commit. What comes meanwhile is the next
batch, so a slow disk makes larger batches and not a longer queue of commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any, Protocol, cast

from pylwaftr import framing
from pylwaftr.changes import Change, Op, Record, Report, Source
from pylwaftr.config.values import Endpoint
from pylwaftr.daemon.control import CommitRefused
from pylwaftr.daemon.router import StartFault
from pylwaftr.framing import Punted
from pylwaftr.pcp.numbers import IPV4_MAPPED, SERVER_PORT, Result, address16, ipv4_of
from pylwaftr.pcp.outcome import Outcome, Send, Sender
from pylwaftr.pcp.server import PcpServer, promises
from pylwaftr.rows import Rows
from pylwaftr.store import StoreFault
from pylwaftr.telemetry.values import Value

log = logging.getLogger("pylwaftr")

SPACE = "pcp"
_TURN = 4096  # requests: in a storm the first answers leave after a tenth of a second, and epochs are fresh
_GATHER_S = 0.004  # from turn to turn at least, for a commit costs as much as fifty requests …
_ENOUGH = 512  # … unless so many wait
_RETRY_S = 1.0  # a store that failed is asked again this often
_TELL_S = 10.0  # between two lines about what the table refuses: a B4 that names itself wrongly may ask often
_MOST = 1 << 17  # requests that wait, some 90 MB: a storm of 100,000 lwB4s at once fits; more have to ask again
_STRANGERS = 256  # the same of those on the management side who may ask for nothing
Answer = Callable[[bytes], None]  # to where a request came from
Inject = Callable[[Sequence[bytes]], None]
Asked = tuple[bytes, Sender, Punted | Answer]  # a request, and where its answers go


class Committer(Protocol):
    async def commit(self, changes: Sequence[Change], records: Sequence[Record], source: int) -> Report:
        """Durable and forwarding when it returns. Raises StoreFault, and then nothing was done."""
        ...


class PcpService:
    def __init__(self, server: PcpServer, control: Committer, inject: Inject) -> None:
        self.server = server
        self._control, self._inject = control, inject
        self._waiting: list[Asked] = []
        self._moves: list[framing.InnerSource] = []
        self._strangers = 0  # that wait
        self._wake = asyncio.Event()
        self._told_at = float("-inf")
        self._due: float | None = None  # what `run` waits for, if for nothing else
        self._turn = asyncio.Lock()  # an outcome is settled before the next is made
        self._displaced: set[int] = set()  # port sets that others have taken from mappings in this turn
        self._management: asyncio.DatagramTransport | None = None
        self.healthy = True
        # What others did is taken over before PCP decides anything. False: not all of it could be.
        self.catch_up: Callable[[], Awaitable[bool]] = _nothing

    # --- in

    def punted(self, packets: Iterable[bytes]) -> None:
        for datagram in map(framing.strip, packets):
            if datagram is not None and len(self._waiting) < _MOST:
                tunnel, br, source, port, _, _, payload = datagram
                self._waiting.append((payload, Sender(tunnel, br, IPV4_MAPPED + source, port), datagram))
        self._wake.set()

    def moved(self, packets: Iterable[bytes]) -> None:
        """Data from a B4 address that the binding does not name."""
        if len(self._moves) < _MOST:
            self._moves += [source for packet in packets if (source := framing.inner_source(packet)) is not None]
        self._wake.set()

    async def listen(self, at: Endpoint) -> None:
        """The port for third parties. Raises StartFault."""
        loop = asyncio.get_running_loop()
        try:
            self._management, _ = await loop.create_datagram_endpoint(
                lambda: _Management(self._from_management), local_addr=(at.host, at.port)
            )
        except OSError as fault:
            raise StartFault(f"pcp.third_party.listen: {at}: {fault.strerror or fault}") from None

    @property
    def management_port(self) -> int | None:
        return None if self._management is None else int(self._management.get_extra_info("sockname")[1])

    def _from_management(self, datagram: bytes, peer: tuple[Any, ...], answer: Answer) -> None:
        address = ip_address(peer[0].partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        sender = Sender(b"", b"", address16(address), peer[1])
        if not self.server.authorises(sender):
            self._strangers += 1
            if self._strangers > _STRANGERS:
                return
        if len(self._waiting) < _MOST:
            self._waiting.append((datagram, sender, answer))
        self._wake.set()

    # --- turns

    async def run(self) -> None:
        """Until it is cancelled."""
        began = 0.0
        while True:
            await self._pause()
            wait = began + _GATHER_S - time.monotonic()
            if wait > 0 and len(self._waiting) < _ENOUGH:
                await asyncio.sleep(wait)
            began = time.monotonic()
            async with self._turn:
                await self._take_turn()
            if not self.healthy:
                await asyncio.sleep(_RETRY_S)

    async def _pause(self) -> None:
        due = self._due = self.server.timer()
        wait = None if due is None else max(0.0, due - time.time())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), wait)
        self._wake.clear()

    async def _take_turn(self) -> None:
        if not await self.catch_up():
            self._wake.set()
            return
        now = time.time()
        due = self.server.timer()
        if due is not None and due <= now:
            await self.settled(self.server.handle_timer(now))
        moves, self._moves = self._moves, []
        for ipv4, port, tunnel, br in moves:
            with contextlib.suppress(CommitRefused):  # an address that no B4 can have: there it does not go
                await self._kept(self.server.follow(ipv4, port, tunnel, br, now))
        if not await self.catch_up():  # with what became durable beside those
            self._wake.set()
            return
        waiting, self._waiting = self._waiting[:_TURN], self._waiting[_TURN:]
        if self._waiting:
            self._wake.set()
        else:
            self._strangers = 0
        if not waiting:
            return
        outcome = await self._served([(datagram, sender) for datagram, sender, _ in waiting])
        if outcome is None:
            return
        self.server.counters.update(outcome.counted)
        # What others bound before this was durable may have what is granted here: its commit then only waits behind
        # them. Who was to get that is served anew, and gets another set or the reason why there is none.
        if not await self.catch_up():
            self._wake.set()
            return
        answers = [(index, reply) for index, reply in enumerate(outcome.replies) if reply is not None] + outcome.more
        anew: set[int] = set()
        if self._displaced:
            anew = {index for index, reply in answers if promises(reply, self._displaced)}
            self._waiting = [waiting[index] for index in sorted(anew)] + self._waiting
            self._wake.set()
        self._answer(waiting, [(index, reply) for index, reply in answers if index not in anew])

    async def _served(self, requests: Sequence[tuple[bytes, Sender]]) -> Outcome | None:
        """None: the store does not keep it. Whom the table has nothing for is refused, and nobody else with them."""
        barred: dict[bytes, Result] = {}
        while True:
            outcome = self.server.receive_many(requests, time.time(), barred)
            self._displaced.clear()
            try:
                return outcome if await self._kept(outcome) else None
            except CommitRefused as fault:
                more = _barred(outcome.bind, fault.report)
                if more.keys() <= barred.keys():  # it is not about whom it could be left out for
                    self._unhealthy(str(fault))
                    return None
                barred |= more
                if (now := time.monotonic()) >= self._told_at + _TELL_S:
                    self._told_at = now
                    log.warning("PCP: %s; who asked is refused", fault)

    def _answer(self, waiting: Sequence[Asked], answers: Iterable[tuple[int, bytes]]) -> None:
        packets: list[bytes] = []
        for index, reply in answers:
            to = waiting[index][2]
            if isinstance(to, Punted):
                packets.append(framing.reply(to, reply))
            else:
                to(reply)
        self._inject(packets)

    @property
    def busy(self) -> bool:
        """Whether requests wait, or their answers."""
        return bool(self._waiting) or self._turn.locked()

    async def settle(self, make: Callable[[float], Outcome]) -> Outcome:
        """An outcome asked for by others (the operator, bindings of other sources), in its turn. Raises StoreFault."""
        async with self._turn:
            if not await self.catch_up() or not await self.settled(outcome := make(time.time())):
                raise StoreFault("the PCP change could not be made durable: see the log")
            if self.server.timer() != self._due:
                self.wake()
            return outcome

    async def settled(self, outcome: Outcome) -> bool:
        """For `catch_up`, whose turn it is; others ask `settle`."""
        try:
            return await self._kept(outcome)
        except CommitRefused as fault:
            self._unhealthy(str(fault))
            return False

    async def _kept(self, outcome: Outcome) -> bool:
        """Raises CommitRefused; then nothing was done, as if it is False."""
        if not outcome.changes_nothing:
            try:
                await self._control.commit(*_commit(outcome), Source.PCP)
            except StoreFault as fault:
                self.server.revert(outcome)
                if isinstance(fault, CommitRefused):
                    raise
                self._unhealthy(str(fault))
                return False
            self.healthy = True
        for event in outcome.events:
            about = str(IPv6Address(event.tunnel)) if event.tunnel else "-"
            log.warning("PCP %s: %s: %s", event.kind, about, event.text)
        self._displaced.update(outcome.displaced)
        self._send(outcome.sends)
        return True

    def _unhealthy(self, why: str) -> None:
        if self.healthy:
            log.error("PCP requests get no answer: %s", why)
        self.healthy = False

    # --- out

    def _send(self, sends: Sequence[Send]) -> None:
        packets = []
        for send in sends:
            if send.tunnel:
                ends = send.source[12:], SERVER_PORT, send.destination[12:], send.port
                packets.append(framing.wrap(send.payload, send.br, send.tunnel, *ends))
            elif self._management is not None:
                of_ipv6 = ":" in self._management.get_extra_info("sockname")[0]
                ipv4 = None if of_ipv6 else ipv4_of(send.destination)
                # A listener moved to the other family has no way to peers of the former one; uvloop raises that.
                with contextlib.suppress(ValueError):
                    self._management.sendto(send.payload, (str(ipv4 or IPv6Address(send.destination)), send.port))
        self._inject(packets)

    def wake(self) -> None:
        """Its timer may be another now."""
        self._wake.set()

    def values(self) -> Iterable[Value]:
        """For the metrics."""
        yield Value("lwaftr_pcp_mappings", "PCP mappings in force", "gauge", {}, self.server.active)
        yield Value(
            "lwaftr_pcp_announcing", "Softwires not heard of since an announcement", "gauge", {}, self.server.announcing
        )
        text = "PCP requests by what became of them"
        for result, count in sorted(self.server.counters.items()):
            yield Value("lwaftr_pcp_requests", text, "counter", {"result": result.lower()}, count)
        for pool in self.server.pools():
            labels = {"pool": str(pool.ipv4)}
            for state, count in (("sets", pool.sets), ("held", pool.held), ("free", pool.free)):
                yield Value(f"lwaftr_pcp_pool_{state}", f"Port sets of a pool: {state}", "gauge", labels, count)

    def close(self) -> None:
        if self._management is not None:
            self._management.close()


class _Management(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, tuple[Any, ...], Answer], None]) -> None:
        self._received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # it is one, though not by its class

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._received(data, addr, lambda answer: self._transport.sendto(answer, addr))


async def _nothing() -> bool:
    return True


def _commit(outcome: Outcome) -> tuple[list[Change], list[Record]]:
    changes = []
    if len(outcome.bind):
        changes.append(Change(Op.BIND, Source.PCP, outcome.bind))
    if len(outcome.unbind):
        changes.append(Change(Op.UNBIND, Source.PCP, outcome.unbind))
    return changes, [Record(SPACE, key, value) for key, value in outcome.records.items()]


def _barred(bind: Rows, report: Report) -> dict[bytes, Result]:
    """B4s of the rows that the table refuses. Of very many only the first are named: if there is no room, all are."""
    if report.more_refused and any(one.reason == "table_full" for one in report.refused):
        return dict.fromkeys((row["b4"].tobytes() for row in bind), Result.NO_RESOURCES)
    reasons = {one.index: one.reason for one in report.refused if one.index < len(bind)}
    return {
        bind[index]["b4"].tobytes(): Result.NO_RESOURCES if reason == "table_full" else Result.NOT_AUTHORIZED
        for index, reason in reasons.items()
    }
