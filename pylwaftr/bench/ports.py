"""A router under test between two ports of this machine, in the manner of RFC 2544 and RFC 8219.

This file turns the crank: it opens the ports, finds the router, runs trials and asks `search` for the next rate.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pylwaftr import _core, ports
from pylwaftr.bench import stats
from pylwaftr.bench.neighbors import Arp, Ndp
from pylwaftr.bench.plan import ETHERNET, FCS, IPV6, PlanFault, Ports, wire_frames
from pylwaftr.bench.search import LossCurve, Search
from pylwaftr.bench.trial import SIDES, Delays, Trial, delays_of, delays_of_runs, judged, of_rates, of_runs, spread
from pylwaftr.bench.under_test import UnderTest
from pylwaftr.daemon.start import raise_interface_mtu
from pylwaftr.eal_args import data_room

Say = Callable[[str], None]
Result = dict[str, Any]

MBUFS, NEED_MIB = 16_384, 128
MTUS = 1500, 1540  # at least
PREAMBLE_AND_GAP = 20  # octets on the wire beside the frame (RFC 5180 section 5.1.1, appendix A)
UNKNOWN_MBPS = 10_000
LINK_S, RESOLVE_S, ASK_EVERY_S, WARM_S, PUMP_S = 15.0, 5.0, 0.3, 3.0, 0.005
WARM_RATE, WARM_FRAMES = 1000.0, 100
MOST_TAGS = 1_000_000
LEAST_FRAMES = 100  # of a trial whose loss says something
LEAST_TAGGED = 500  # RFC 8219 section 7.2
RFC_SECONDS, RFC_REPEAT = 60, 20
MOST_TRIAL = 1 << 15


class Unanswered(Exception):
    """The router under test, its link or its API is not there; the text says what was asked."""


def need_mib(plan: Ports) -> int:
    largest = max(octets for size in plan.sizes for octets in wire_frames(size))
    return NEED_MIB + (MBUFS * (data_room(largest + IPV6) + 1024) >> 20)


def directions(name: str) -> tuple[str, ...]:
    return ("encap", "decap") if name == "both" else (name,)


def devices(plan: Ports) -> list[ports.PortSpec]:
    """Raises PlanFault."""
    if (tests := _at_a_rate(plan)) and not plan.rate and "throughput" not in plan.tests:
        raise PlanFault(f"--tests {tests[0]}: at which rate? Add throughput to the tests, or say a --rate")
    interfaces = [name for _, name in socket.if_nameindex()]
    specs = []
    for option, text, mtu in zip(("--v4", "--v6"), (plan.v4, plan.v6), mtus_of(plan), strict=True):
        try:
            spec = ports.parse(text)
        except ports.PortFault as fault:
            raise PlanFault(f"{option}: {fault}") from None
        if (reason := ports.obstacle(spec, interfaces)) is not None:
            raise PlanFault(f"{option}: {reason}")
        specs.append(ports.fitted(spec, mtu, 1))
    if specs[0].name == specs[1].name:
        raise PlanFault(f"--v4, --v6: {specs[0].name} is named twice: each side of the router has a port of its own")
    return specs


def mtus_of(plan: Ports) -> list[int]:
    """Of packets in the largest frames of the plan."""
    largest = max(octets for size in plan.sizes for octets in wire_frames(size)) - ETHERNET - FCS
    return [max(MTUS[0], largest), max(MTUS[1], largest + IPV6)]


def line_rate(octets: Sequence[int], mbps: int) -> float:
    """Frames a second of the mean frame with FCS."""
    return mbps * 1e6 / 8 / (sum(octets) / len(octets) + PREAMBLE_AND_GAP)


@dataclass(frozen=True, slots=True)
class Case:
    direction: str
    size: str

    @property
    def ways(self) -> tuple[str, ...]:
        return directions(self.direction)


class Bench:
    """The tester and its router."""

    def __init__(
        self, plan: Ports, under: UnderTest, specs: Sequence[ports.PortSpec], lcores: Sequence[int], remarks: list[str]
    ) -> None:
        self._plan, self._under, self._remarks = plan, under, remarks
        mtus = mtus_of(plan)
        for spec, mtu in zip(specs, mtus, strict=True):
            raise_interface_mtu(spec, mtu)
        names = [spec.device for spec in specs]
        self._tester = _core.BenchTester(names, MBUFS, data_room(max(mtus)), mtus, list(lcores))
        self._rows = _core.BenchBindings(under.rows)
        self._hz = _core.bench_tsc_hz()
        self._number = 0
        mac4, mac6 = self._tester.mac("v4"), self._tester.mac("v6")
        self._arp = Arp(mac4, under.v4.own, under.v4.router, under.v4.mac)
        self._ndp = Ndp(mac6, under.v6.own, under.v6.router, under.v6.mac)
        remarks += [text for side in ("v4", "v6") if (text := self._tester.remark(side))]

    def pump(self) -> None:
        """Hears and answers what the router asks."""
        for side, hears in (("v4", self._arp.heard), ("v6", self._ndp.heard)):
            for frame in self._tester.heard(side):
                if (answer := hears(frame)) is not None:
                    self._tester.send(side, answer)

    def wait(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        end = time.monotonic() + seconds
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.pump()
            time.sleep(min(PUMP_S, left))
        return True

    def find(self, say: Say) -> None:
        """Waits for the links and resolves the router's MAC addresses. Raises Unanswered."""
        for side in ("v4", "v6"):
            say(f"waiting for the link of --{side}")
            if not self.wait(LINK_S, partial(self._link_is_up, side)):
                raise Unanswered(f"--{side}: the link is down: check cable and port, and that the router is up")
        self._resolve("v4", self._arp, self._under.v4.router, say)
        self._resolve("v6", self._ndp, self._under.v6.router, say)

    def _resolve(self, side: str, link: Arp | Ndp, router: Any, say: Say) -> None:
        end = time.monotonic() + RESOLVE_S
        while link.router_mac is None:
            say(f"who is {router}?")
            question = link.question()
            assert question is not None  # it has both addresses, or the MAC
            self._tester.send(side, question)
            if not self.wait(ASK_EVERY_S, lambda: link.router_mac is not None) and time.monotonic() > end:
                raise Unanswered(
                    f"--{side}: {router} does not answer: check cable and port, or say its MAC in --router-{side}"
                )

    def _link_is_up(self, side: str) -> bool:
        return bool(self._tester.link(side)[0])

    def rate_of(self, size: str) -> float:
        """The greatest rate of a trial."""
        if self._plan.rate:
            return self._plan.rate
        speeds = []
        for side, more in (("v4", 0), ("v6", IPV6)):
            _, mbps = self._tester.link(side)
            if mbps in (0, 2**32 - 1):
                self.remark(f"the {side} port does not say its speed: 10 Gbit/s is taken; --rate says it")
                mbps = UNKNOWN_MBPS
            speeds.append(line_rate([octets + more for octets in wire_frames(size)], mbps))
        return min(speeds)

    def remark(self, text: str) -> None:
        if text not in self._remarks:
            self._remarks.append(text)

    def trial(self, case: Case, rate: float, seconds: float, tagged: int = 0) -> Trial:
        """`tagged`: of how many frames the delay is kept, from the middle of the stream on."""
        frames = max(int(rate * seconds), 1)
        self._number = self._number % (MOST_TRIAL - 1) + 1
        streams = [self._stream(direction, case.size, frames) for direction in case.ways]
        first = frames // 2
        tags = (first, max((frames - first) // tagged, 1), tagged) if tagged else (0, 1, 0)
        self.pump()
        self._tester.begin(self._number, streams, rate, tags)
        try:
            self.wait(seconds * 2 + 1, lambda: not self._tester.sending())
            self.wait(self._plan.drain, self._tester.complete)
        finally:
            raw = self._tester.finish()
        return judged(raw, rate, frames, case.ways, self._hz)

    def _stream(self, direction: str, size: str, frames: int) -> Any:
        side = SIDES[direction][0]
        link = self._arp if side == "v4" else self._ndp
        more = 0 if direction == "encap" else IPV6
        octets = [octets - FCS + more for octets in wire_frames(size)]
        assert link.router_mac is not None  # find() has seen to that
        mine, host = self._tester.mac(side), int(self._under.host)
        return _core.BenchStream(direction, self._rows, octets, link.router_mac, mine, host, self._number, frames)

    def warm(self, case: Case) -> None:
        """Learning frames (RFC 2544 section 23): until something comes back."""
        rate = min(WARM_RATE, self.rate_of(case.size))
        end = time.monotonic() + WARM_S
        while True:
            trial = self.trial(case, rate, WARM_FRAMES / rate)
            if all(way.right for way in trial.ways.values()):
                return
            if time.monotonic() > end:
                names = [name for name, way in trial.ways.items() if not way.right]
                self.remark(f"before the trials nothing came back right of {' and '.join(names)}: {_beside(trial)}")
                return


def _beside(trial: Trial) -> str:
    counts = {name: count for name, count in trial.beside.items() if count}
    for way in trial.ways.values():
        counts |= {f"wrong {name.replace('_', ' ')}": count for name, count in way.wrong.items()}
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "no frame at all"


def run(
    plan: Ports,
    under: UnderTest,
    specs: Sequence[ports.PortSpec],
    lcores: Sequence[int],
    remarks: list[str],
    say: Say,
) -> list[Result]:
    bench = Bench(plan, under, specs, lcores, remarks)
    bench.find(say)
    if plan.seconds < RFC_SECONDS or plan.repeat < RFC_REPEAT:
        remarks.append(
            f"trials of {plan.seconds:g} s, {plan.repeat} of each: RFC 2544 asks for {RFC_SECONDS} s, "
            f"RFC 8219 for {RFC_REPEAT} repetitions"
        )
    results: list[Result] = []
    for case in (Case(direction, size) for direction in plan.directions for size in plan.sizes):
        bench.warm(case)
        workers = _Workers(plan.api)
        made = list(_case(bench, plan, case, say))
        by_worker = workers.moved()
        for result, last in made:
            named = {way: spread(last.ways[way], under.rows) for way in case.ways}
            results.append(_head(result, plan, case, under) | result | {"spread": named, "last": last.as_json()})
            if by_worker is not None:
                results[-1]["router_workers"] = by_worker
    return results


def _head(result: Result, plan: Ports, case: Case, under: UnderTest) -> Result:
    frames = wire_frames(case.size)
    came = (1 - result.get("loss", {}).get("median", 0.0)) * len(case.ways) / 1e6
    rates = result["frames_per_second"]
    mpps = stats.pair(rates["best"] * came, rates["median"] * came)
    mean = sum(frames) / len(frames)
    return {
        "name": result["name"],
        "unit": "frames",
        "direction": case.direction,
        "bindings": len(under.rows),
        "size": case.size,
        "frame_octets": round(mean, 1),
        "transport": "udp",
        "features": [],
        "seconds_of_a_trial": plan.seconds,
        "mpps": mpps,  # that came back
        "gbps": round(mpps["median"] * mean * 8e-3, 6),  # of the IPv4 side's frames
    }


def _case(bench: Bench, plan: Ports, case: Case, say: Say) -> Iterator[tuple[Result, Trial]]:
    most = bench.rate_of(case.size)
    found = plan.rate
    if "throughput" in plan.tests:
        result, last = _throughput(bench, plan, case, most, say)
        found = result["frames_per_second"]["median"]
        yield result, last
    if "loss" in plan.tests:
        yield from _loss(bench, plan, case, most, say)
    wanted = _at_a_rate(plan)
    if wanted and found:
        yield from _delays(bench, plan, case, found, wanted, say)
    elif wanted:
        bench.remark(f"{case.direction}, {case.size}: nothing passes, so there is no rate to take {wanted[0]} at")


def _at_a_rate(plan: Ports) -> list[str]:
    return [test for test in ("latency", "pdv") if test in plan.tests]


def _throughput(bench: Bench, plan: Ports, case: Case, most: float, say: Say) -> tuple[Result, Trial]:
    rates: list[float] = []
    trials: list[Result] = []
    best: Trial | None = None
    slow = False
    for turn in range(plan.repeat):
        search = Search(most, plan.resolution, LEAST_FRAMES / plan.seconds)
        while search.rate is not None:
            say(f"throughput, {case.direction}, {case.size}, {turn + 1} of {plan.repeat}: {search.rate:,.0f}/s")
            trial = bench.trial(case, search.rate, plan.seconds)
            passed = trial.passed(plan.accept_loss)
            if not passed:
                slow = not trial.in_time
            best = trial if passed or best is None else best
            trials.append(trial.as_json() | {"passed": passed})
            search.heard(passed)
        rates.append(search.passed)
    assert best is not None
    at_most = all(rate == most for rate in rates)
    return {
        "name": "ports.throughput",
        "frames_per_second": of_rates(rates),  # of each direction
        "limited_by": "rate" if at_most else "tester" if slow else "router",
        "resolution": plan.resolution,
        "accepted_loss": plan.accept_loss,
        "trials": trials,
    }, best


def _loss(bench: Bench, plan: Ports, case: Case, most: float, say: Say) -> Iterator[tuple[Result, Trial]]:
    curve = LossCurve(most)
    while (rate := curve.rate) is not None:
        say(f"loss, {case.direction}, {case.size}: {rate:,.0f}/s")
        losses, in_time = [], True
        for _ in range(plan.repeat):
            last = bench.trial(case, rate, plan.seconds)
            losses.append(last.loss)
            in_time = in_time and last.in_time
        curve.heard(max(losses))
        yield (
            {
                "name": "ports.loss",
                "frames_per_second": of_rates([rate]),
                "loss": of_runs(losses, 9),
                "limited_by": "router" if in_time else "tester",
            },
            last,
        )


def _delays(
    bench: Bench, plan: Ports, case: Case, rate: float, tests: Sequence[str], say: Say
) -> Iterator[tuple[Result, Trial]]:
    for test in tests:
        say(f"{test}, {case.direction}, {case.size}: {rate:,.0f}/s")
        tagged = plan.tagged if test == "latency" else MOST_TAGS
        runs: list[dict[str, Delays | None]] = []
        losses, in_time = [], True
        for _ in range(plan.repeat):
            last = bench.trial(case, rate, plan.seconds, tagged)
            runs.append({way: delays_of(last.ways[way]) for way in case.ways})
            losses.append(last.loss)
            in_time = in_time and last.in_time
        delays = {way: delays_of_runs([run[way] for run in runs]) for way in case.ways}
        if any(one is None or one["tagged"] < LEAST_TAGGED for one in delays.values()):
            bench.remark(f"fewer than {LEAST_TAGGED} tagged frames came back (RFC 8219 section 7.2): longer trials")
        yield (
            {
                "name": f"ports.{test}",
                "frames_per_second": of_rates([rate]),
                "loss": of_runs(losses, 9),
                "delay": delays,
                "limited_by": "router" if in_time else "tester",
            },
            last,
        )


class _Workers:
    """How a pylwaftr under test spread the frames over its workers: asked over its API before and after."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._before = self._read()

    def _read(self) -> dict[str, int]:
        if not self._target:
            return {}
        from pylwaftr.api.client import CallFailed, Client  # gRPC: loaded when it is asked for
        from pylwaftr.api.plain import plain

        try:
            with Client(self._target) as router:
                parts = router.workers()
        except CallFailed as fault:
            raise Unanswered(f"--api: {fault}") from None
        queues = {part.name: plain(part)["facts"]["queues"] for part in parts}
        return {name: int(sum(queue["rx_packets"] for queue in of)) for name, of in queues.items()}

    def moved(self) -> list[Result] | None:
        if not self._target:
            return None
        now = self._read()
        frames = np.array([now[name] - self._before.get(name, 0) for name in now])
        total = max(int(frames.sum()), 1)
        return [
            {"worker": name, "frames": int(count), "share": round(int(count) / total, 4)}
            for name, count in zip(now, frames, strict=True)
        ]
