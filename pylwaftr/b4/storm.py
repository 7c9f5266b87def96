"""Very many simulated lwB4s: they ask, renew, move to other addresses, reboot and recover, as the specification has it.

A lwB4 here is a number: its state lies in lists, its packets are made when they are due. No I/O and no clock; `rng`
decides all that is left to chance, so a storm can be run again.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from pylwaftr.pcp import timing
from pylwaftr.pcp.numbers import NO_IPV4, NONCE, Result

from . import storm_packets as packets
from .storm_packets import Announcement, Answer

_SUBSCRIBER = 56  # bits of a subscriber's prefix
_HOST_BITS = 128 - _SUBSCRIBER
_SPREAD_S = 5.0  # RFC 6887 section 14.1.3
_ERROR_FLOOR_S = 30
_CLIENT_PORT = 49152

IDLE, ASKING, BOUND = 0, 1, 2
_RESULTS = frozenset(Result)
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True, slots=True)
class StormPlan:
    aftr: IPv6Address
    prefix: IPv6Network  # of all subscribers, each has a /56 of it
    count: int
    lifetime: int = 7200
    ramp: float = 0.0  # seconds over which they start
    moves: float = 0.0  # a second: tunnel addresses that change within their /56
    reboots: float = 0.0  # a second
    forgetful: float = 0.0  # share of the reboots that lose the nonce
    renew_at: float | None = None  # seconds after the grant, in place of half the lifetime and more

    def __post_init__(self) -> None:
        room = 1 << max(_SUBSCRIBER - self.prefix.prefixlen, 0)
        if self.prefix.prefixlen > _SUBSCRIBER or room < self.count:
            raise ValueError(f"{self.prefix} has room for {room} subscribers with a /56 each, not for {self.count}")
        if self.count < 1:
            raise ValueError("a storm needs one lwB4 at least")


class Storm:
    def __init__(self, plan: StormPlan, rng: random.Random) -> None:
        self.plan = plan
        self._rng = rng
        self._requests = packets.Requests(plan.aftr.packed, _CLIENT_PORT, plan.lifetime)
        self._base = int(plan.prefix.network_address)
        n = plan.count
        self._phase = bytearray(n)
        self._host = [1] * n  # interface identifier: grows with each move
        self._nonce = [rng.randbytes(NONCE) for _ in range(n)]
        self._port = [0] * n
        self._external = [NO_IPV4] * n
        self._size = [0] * n
        self._due = [0.0] * n
        self._rt: list[float | None] = [None] * n
        self._waiting = bytearray(n)  # 1: a request is not answered yet
        self._asked_at = [0.0] * n  # of the first packet of this request
        self._granted_at = [0.0] * n
        self._lifetime = [0] * n
        self._until = [0.0] * n  # end of the lifetime
        self._epoch = timing.EpochCheck()  # one server, so one for all
        self._recovered = bytearray(b"\1" * n)  # since the server lost its state
        self._queue: list[tuple[float, int]] = []  # (due, number); an entry whose time is not `_due` is void
        self._holders: dict[tuple[bytes, int], int] = {}
        self.counts: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.bound = 0
        self.all_bound_after: float | None = None
        self._began = 0.0
        self._next_event: dict[str, float] = {}

    # the caller's side

    def start(self, now: float) -> None:
        self._began = now
        step = self.plan.ramp / self.plan.count
        for number in range(self.plan.count):
            self._ask_at(number, now + number * step)
        for kind, rate in (("move", self.plan.moves), ("reboot", self.plan.reboots)):
            if rate:
                self._next_event[kind] = now + self.plan.ramp + 1 / rate

    def timer(self) -> float | None:
        times = [*self._next_event.values(), *(self._queue[0][:1])] if self._queue else list(self._next_event.values())
        return min(times, default=None)

    def take(self, now: float, most: int) -> list[bytes]:
        """Packets that are due, the oldest first, `most` at a time."""
        self._happen(now)
        out: list[bytes] = []
        while self._queue and len(out) < most and self._queue[0][0] <= now:
            due, number = heapq.heappop(self._queue)
            if due == self._due[number]:
                out.append(self._packet(number, now))
        return out

    def receive(self, packet: bytes, now: float) -> None:
        found = packets.read(packet)
        if found is None:
            self.counts["not for a lwB4"] += 1
            return
        address, told = found
        offset = int.from_bytes(address) - self._base
        number, host = offset >> _HOST_BITS, offset & ((1 << _HOST_BITS) - 1)
        if not 0 <= number < self.plan.count or host != self._host[number]:
            self.counts["to an address that is no more"] += 1
        elif isinstance(told, Answer):
            self._answered(number, told, now)
        elif isinstance(told, Announcement):
            self._announced(number, told, now)
        else:
            self.counts["ICMPv6 1/5"] += 1
            if self._phase[number] == BOUND:
                self._ask_at(number, now + self._rng.uniform(0, _SPREAD_S))

    def report(self, now: float) -> dict[str, Any]:
        """What became of them, for printing as JSON."""
        seconds = now - self._began
        sorted_ms = sorted(1000 * latency for latency in self.latencies)

        def percentile(share: float) -> float | None:
            return round(sorted_ms[min(int(share * len(sorted_ms)), len(sorted_ms) - 1)], 2) if sorted_ms else None

        return {
            "lwb4s": self.plan.count,
            "bound": self.bound,
            "seconds": round(seconds, 3),
            "all_bound_after_s": None if self.all_bound_after is None else round(self.all_bound_after, 3),
            "answers_per_s": round(len(sorted_ms) / seconds, 1) if seconds else None,
            "answer_ms": {name: percentile(share) for name, share in _PERCENTILES.items()},
            "counts": dict(sorted(self.counts.items())),
        }

    # one lwB4's way

    def address(self, number: int) -> bytes:
        return (self._base | number << _HOST_BITS | self._host[number]).to_bytes(16)

    def _ask_at(self, number: int, when: float) -> None:
        if self._phase[number] == BOUND:
            self.bound -= 1
        self._phase[number], self._rt[number], self._waiting[number] = IDLE, None, 0
        self._schedule(number, when)

    def _schedule(self, number: int, when: float) -> None:
        self._due[number] = when
        heapq.heappush(self._queue, (when, number))

    def _packet(self, number: int, now: float) -> bytes:
        """The request, the first time or again; from a bound one it is a renewal."""
        if self._phase[number] == BOUND and now >= self._until[number]:
            self.counts["ran out"] += 1
            self._ask_at(number, now)
        self.counts["requests again" if self._waiting[number] else "requests"] += 1
        if not self._waiting[number]:
            self._waiting[number], self._asked_at[number] = 1, now
        if self._phase[number] == BOUND:
            self._schedule(number, self._next_renewal(number, now))
        else:
            self._phase[number] = ASKING
            self._rt[number] = rt = timing.retransmission(self._rt[number], self._rng.uniform)
            self._schedule(number, now + rt)
        return self._requests.make(
            self.address(number), self._nonce[number], self._port[number], self._external[number]
        )  # fmt: skip

    def _next_renewal(self, number: int, now: float) -> float:
        """Or the end of the lifetime, if that is nearer."""
        granted_at = self._granted_at[number]
        after = timing.renewal(self._lifetime[number], now - granted_at, self._rng.uniform)
        return self._until[number] if after is None else granted_at + after

    def _answered(self, number: int, answer: Answer, now: float) -> None:
        if answer.nonce != self._nonce[number]:
            self.counts["answers with another nonce"] += 1
            return
        self._check_epoch(answer.epoch, now)
        self._recovered[number] = 1
        if answer.result == Result.SUCCESS and answer.size > 1 and answer.lifetime:
            self._granted(number, answer, now)
            return
        name = Result(answer.result).name if answer.result in _RESULTS else str(answer.result)
        self.counts[f"refused: {name}" if answer.result else "no port set in a success"] += 1
        self._ask_at(number, now + max(answer.lifetime, _ERROR_FLOOR_S))

    def _granted(self, number: int, answer: Answer, now: float) -> None:
        if self._waiting[number]:
            self.latencies.append(now - self._asked_at[number])
            self._waiting[number] = 0
        else:
            self.counts["answers that nobody waits for"] += 1
        if self._phase[number] == BOUND:
            self.counts["renewals"] += 1
        else:
            self.counts["grants"] += 1
            self.bound += 1
        self._phase[number] = BOUND
        self._hold(number, answer, now)
        self._granted_at[number], self._lifetime[number] = now, answer.lifetime
        self._until[number] = now + answer.lifetime
        first = self._next_renewal(number, now) if self.plan.renew_at is None else now + self.plan.renew_at
        self._schedule(number, first)
        if self.bound == self.plan.count and self.all_bound_after is None:
            self.all_bound_after = now - self._began

    def _hold(self, number: int, answer: Answer, now: float) -> None:
        """Two that hold the same set at once is what must never be."""
        before, after = (self._external[number], self._port[number]), (answer.external, answer.port)
        if before != after:
            if self._port[number]:
                self.counts["sets that changed"] += 1
                if self._holders.get(before) == number:
                    del self._holders[before]
            holder = self._holders.get(after, number)
            if holder != number and self._phase[holder] == BOUND and now < self._until[holder]:
                self.counts["sets given to two"] += 1
            self._holders[after] = number
        self._external[number], self._port[number], self._size[number] = answer.external, answer.port, answer.size

    def _announced(self, number: int, announcement: Announcement, now: float) -> None:
        """Each acts once on a loss, however many copies it hears."""
        self.counts["announcements"] += 1
        self._check_epoch(announcement.epoch, now)
        if not self._recovered[number]:
            self._recovered[number] = 1
            self._ask_at(number, now + self._rng.uniform(0, _SPREAD_S))

    def _check_epoch(self, epoch: int, now: float) -> None:
        """The first who sees that the server lost its state sees it for all, and the clock starts anew."""
        if epoch == self._epoch.server and now < self._epoch.client + 1:
            return  # as told a moment ago
        if not self._epoch.is_valid(epoch, now):
            self.counts["losses of state"] += 1
            self._recovered = bytearray(self.plan.count)
            self.all_bound_after, self._began = None, now
            self.latencies.clear()

    # what happens to them

    def _happen(self, now: float) -> None:
        for kind, due in self._next_event.items():
            rate = self.plan.moves if kind == "move" else self.plan.reboots
            while due <= now:
                due += 1 / rate
                number = self._rng.randrange(self.plan.count)
                if kind == "move":
                    self._host[number] += 1
                elif self._rng.random() < self.plan.forgetful:
                    self._nonce[number] = self._rng.randbytes(NONCE)
                    self._port[number], self._external[number] = 0, NO_IPV4
                self.counts[f"{kind}s"] += 1
                self._ask_at(number, now)
            self._next_event[kind] = due
