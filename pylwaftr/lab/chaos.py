"""Random kills of router and leasequery server while leases change. After each round the router's whole table of leases
is what the server's journal says, key by key with its B4.

All that is random comes from one seed, so that a round that failed can be run again; what the kernel and two programs
make of it differs each time. A round also may replace the journal by a shorter one without the leases that have ended:
who was away then learns of their end from nothing but the sweep after a full bulk.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from .commands import LabError, attempt, inside
from .lifecycle import STATE, Lab, pylwaftr
from .steps import Step
from .topology import ROUTER

_ROUND_S = 1.5  # in which changes, kills and starts fall
_CHANGES = (30, 90)
_SHORTER = 0.7  # how often the journal is replaced while somebody is away
_SHORT_S = (1, 2)  # lifetimes of leases that end by themselves
_EDGE_S = 1.6  # so long before and after its end both sides may still differ about a lease
_SETTLED_S = 30.0
_WAIT_S = 20.0
_ENDED = ("RELEASED", "EXPIRED", "ABANDONED", "RESET", "AVAILABLE")

Key = tuple[str, int, int]  # address, PSID length, PSID
# Fewer than the hundred from which on a sweep of more than half of them waits for a second one.
KEYS: tuple[Key, ...] = (
    *((str(IPv4Address("203.0.113.96") + number), 4, psid) for number in range(4) for psid in range(16)),
    *((str(IPv4Address("203.0.113.100") + number), 0, 0) for number in range(30)),
)


@dataclass(slots=True)
class Truth:
    """Writes the journal, and knows what it says."""

    journal: Path
    rng: random.Random
    leases: dict[Key, tuple[str, float | None]] = field(default_factory=dict)  # B4, end

    def change(self) -> None:
        key = self.rng.choice(KEYS)
        known = self.leases.get(key)
        if known is None or self.rng.random() < 0.4:
            self._lease(key, self._new_b4(key))
        elif self.rng.random() < 0.2:
            self._lease(key, known[0])
        else:
            self._put(key, {"state": self.rng.choice(_ENDED)})
            del self.leases[key]

    def compact(self) -> None:
        """The journal as it were if those leases had been all that ever was."""
        now, old = time.time(), self.leases
        whole, self.journal = self.journal, self.journal.with_suffix(".part")
        self.journal.write_text("")
        self.leases = {}
        for key, (b4, end) in old.items():
            if end is None or end > now + 1:
                self._lease(key, b4, None if end is None else int(end - int(now)))
        self.journal.replace(whole)
        self.journal = whole

    def near_an_end(self) -> bool:
        return any(end is not None and abs(end - time.time()) < _EDGE_S for _, end in self.leases.values())

    def table(self) -> dict[Key, str]:
        now = time.time()
        self.leases = {key: lease for key, lease in self.leases.items() if lease[1] is None or lease[1] > now}
        return {key: b4 for key, (b4, _) in self.leases.items()}

    def _new_b4(self, key: Key) -> str:
        """Of a subscriber that has no other lease, nor ever had."""
        generation = self.rng.randrange(256)
        return str(IPv6Address(0x20010DB8 << 96 | 0x4000 + KEYS.index(key) << 80 | generation << 72 | generation + 1))

    def _lease(self, key: Key, b4: str, lifetime: int | None = None) -> None:
        short = lifetime is None and self.rng.random() < 0.2
        lifetime = self.rng.randint(*_SHORT_S) if short else lifetime
        at = self._put(key, {"state": "ACTIVE", "b4": b4} | ({} if lifetime is None else {"lifetime": lifetime}))
        self.leases[key] = b4, None if lifetime is None else at + lifetime

    def _put(self, key: Key, told: dict[str, Any]) -> int:
        """In two pieces, for the server may read at any moment."""
        at = int(time.time())
        ipv4, psid_len, psid = key
        told = {"at": at, "ipv4": ipv4, "psid_len": psid_len, "psid": psid, "client": "ff" + 4 * "00"} | told
        line = json.dumps(told) + "\n"
        middle = self.rng.randrange(len(line))
        with self.journal.open("a") as journal:
            journal.write(line[:middle])
            journal.flush()
            journal.write(line[middle:])
        return at


@dataclass(slots=True)
class Chaos:
    seed: int
    truth: Truth | None = None

    def steps(self, rounds: int) -> tuple[Step, ...]:
        return tuple(Step(f"round {number}", self._step(number)) for number in range(1, rounds + 1))

    def _step(self, number: int) -> Callable[[Lab], str]:
        return lambda lab: self.round(lab, number)

    def round(self, lab: Lab, number: int) -> str:
        rng = random.Random(f"{self.seed}/{number}")
        self.truth = truth = self.truth or Truth(lab.journal, rng)
        truth.rng = rng
        killed, events = _plan(lab, truth, rng)
        begin = time.monotonic()
        for at, event in events:
            time.sleep(max(0.0, begin + at - time.monotonic()))
            event()
        try:
            waited = _settle(lab, truth)
        except LabError as fault:
            raise LabError(f"{fault}; killed: {killed}; --seed {self.seed}") from None
        return f"killed: {killed}; {len(truth.table())} leases, right after {waited:.1f} s"


def _plan(lab: Lab, truth: Truth, rng: random.Random) -> tuple[str, list[tuple[float, Callable[[], object]]]]:
    """Who is killed, and what happens when."""
    events: list[tuple[float, Callable[[], object]]] = []
    for _ in range(rng.randint(*_CHANGES)):
        events.append((rng.uniform(0, _ROUND_S), truth.change))
    victims = rng.choice([("router",), ("server",), ("router", "server")])
    for victim in victims:
        at = 0.0
        for _ in range(rng.choice([1, 1, 2])):  # the second kill may hit a program that has not finished its start
            at += rng.uniform(0, _ROUND_S / 2)
            events.append((at, _KILL[victim](lab)))
            away = rng.uniform(0, _ROUND_S / 2)
            if rng.random() < _SHORTER:
                events.append((at + rng.uniform(away / 2, away), truth.compact))
            at += away
            events.append((at, _START[victim](lab)))
    return " and ".join(victims), sorted(events, key=lambda event: event[0])


_KILL: dict[str, Callable[[Lab], Callable[[], object]]] = {
    "router": lambda lab: lambda: lab.stop_router(signal.SIGKILL),
    "server": lambda lab: lambda: lab.stop_responder(signal.SIGKILL),
}
_START: dict[str, Callable[[Lab], Callable[[], object]]] = {
    "router": lambda lab: lab.launch_router,
    "server": lambda lab: lab.launch_responder,
}


def _settle(lab: Lab, truth: Truth) -> float:
    """Seconds until the router said that it has all leases, and the table was right."""
    assert lab.responder is not None
    begin = time.monotonic()
    lab.responder.wait_for_line("listening", _WAIT_S)
    lab.router_ready()
    deadline = time.monotonic() + _SETTLED_S
    while True:
        in_step = _in_step(lab)
        while truth.near_an_end():
            time.sleep(0.1)
        seen, wanted = _leases(lab), truth.table()
        if seen == wanted and in_step:
            return time.monotonic() - begin
        if time.monotonic() > deadline:
            raise LabError(_difference(seen, wanted))


def _leases(lab: Lab) -> dict[Key, str]:
    bound = [one for one in lab.ask("bindings", "ls") if one["source"] == "dhcp"]
    return {(one["ipv4"], one["psid_len"], one["psid"]): one["b4_ipv6"] for one in bound}


def _in_step(lab: Lab) -> bool:
    """The router itself says that it has all that the server knows."""
    done = attempt(*inside(ROUTER, *pylwaftr(), "health", "--json"))
    return done.returncode == 0 and bool(json.loads(done.stdout)["parts"].get("leasequery"))


def _difference(seen: dict[Key, str], wanted: dict[Key, str]) -> str:
    if seen == wanted:
        return "the table is right, but the router does not say that it has all leases"
    wrong = [f"{key}: {seen.get(key)} instead of {wanted.get(key)}" for key in sorted(seen.keys() | wanted.keys())
             if seen.get(key) != wanted.get(key)]  # fmt: skip
    return f"{len(wrong)} leases are wrong, such as {'; '.join(wrong[:3])} (logs: {STATE})"
