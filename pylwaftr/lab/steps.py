"""The demonstration, step by step. A step returns what it saw, or raises LabError with what it missed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import traffic
from .commands import LabError, Process, attempt, inside, run
from .lifecycle import Lab
from .topology import AFTR_IN_TUNNEL, FORWARDED_TO, INTERNET, INTERNET_HOST, Home

TRAFFIC = "pylwaftr.lab.traffic"
DOWNLOAD = 8 << 20
_MOVED = ("rx_v4", "tx_v6", "rx_v6", "tx_v4")
SERVICE = f"{INTERNET_HOST}:8080"


@dataclass(frozen=True, slots=True)
class Step:
    """What it is called in the report, and how it is done."""

    title: str
    do: Callable[[Lab], str]


@dataclass(frozen=True, slots=True)
class Result:
    title: str
    ok: bool
    detail: str
    seconds: float


def perform(step: Step, lab: Lab) -> Result:
    begin = time.monotonic()
    try:
        lab.check_alive()
        ok, detail = True, step.do(lab)
    except LabError as fault:
        ok, detail = False, str(fault)
    return Result(step.title, ok, detail, time.monotonic() - begin)


@contextmanager
def beside(lab: Lab, namespace: str, name: str, *arguments: str) -> Iterator[Process]:
    """A traffic role that listens while the other end talks."""
    process = lab.module(namespace, name, TRAFFIC, *arguments)
    try:
        process.wait_for_line("ready", 10.0)
        yield process
    finally:
        lab.stop(process)


def role(lab: Lab, namespace: str, name: str, *arguments: str, timeout: float = 60.0) -> dict[str, Any]:
    """A traffic role from start to end."""
    process = lab.module(namespace, name, TRAFFIC, *arguments)
    try:
        return said(process, timeout)
    finally:
        lab.stop(process)


def said(process: Process, timeout: float = 60.0) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(process.result(timeout).splitlines()[-1])
    return answer


def seen_by(process: Process) -> dict[str, Any]:
    """What a role that watches saw until now."""
    process.popen.terminate()
    return said(process, 10.0)


def expect(what: str, seen: object, wanted: object) -> None:
    if seen != wanted:
        raise LabError(f"{what}: {seen!r} instead of {wanted!r}")


def softwire_up(lab: Lab) -> str:
    """The next hops are resolved, and each home's first packet comes back."""
    begin = time.monotonic()
    for home in lab.topology.homes:
        while attempt(*inside(home.lan, "ping", "-n", "-c", "1", "-W", "1", INTERNET_HOST)).returncode:
            lab.check_alive()
            if time.monotonic() - begin > 30:
                raise LabError(f"nothing came back to {home.lan} within 30 s{_why_not(lab)}")
    return f"after {time.monotonic() - begin:.1f} s"


def _why_not(lab: Lab) -> str:
    moved = [f"{name} {n}" for name, n in lab.counters().items() if n and name.startswith(("drop_", "held_", "rx_v"))]
    return "; the router's counters: " + (", ".join(moved) or "none moved")


def ping(lab: Lab) -> str:
    home = lab.topology.homes[0]
    shown = run(*inside(home.lan, "ping", "-n", "-c", "5", "-i", "0.2", "-w", "10", INTERNET_HOST))
    answered = re.search(r"(\d+) received", shown)
    expect("echo replies of 5", answered and int(answered[1]), 5)
    times = re.search(r"= [\d.]+/([\d.]+)/", shown)
    return f"{home.lan} -> {INTERNET_HOST}: 5 of 5, {times[1] if times else '?'} ms on average"


def tcp_transfer(
    lab: Lab, sender: tuple[str, str], receiver: tuple[str, str], connect: str, size: int, timeout: float = 120.0
) -> float:
    """Both ends are (namespace, LISTEN address or ""); who listens is connected to. Mbit/s, the digest verified."""
    (listener, talker) = (sender, receiver) if sender[1] else (receiver, sender)
    sends = {sender: ("--send", str(size)), receiver: ()}
    waiting = ("tcp", "--listen", listener[1], "--timeout", str(timeout), *sends[listener])
    with beside(lab, listener[0], "tcp-listen", *waiting) as other:
        asking = ("tcp", "--connect", connect, "--timeout", str(timeout), *sends[talker])
        first = role(lab, talker[0], "tcp-connect", *asking, timeout=timeout)
        second = said(other, 10.0)
    got = first if talker == receiver else second
    expect("octets received", got["size"], size)
    expect("SHA-256 of what was received", got["sha256"], traffic.digest(size))
    return size * 8 / 1e6 / float(got["seconds"])


def tcp_download(lab: Lab) -> str:
    home = lab.topology.homes[0]
    speed = tcp_transfer(lab, (INTERNET, SERVICE), (home.lan, ""), SERVICE, DOWNLOAD)
    return f"{DOWNLOAD >> 20} MiB, SHA-256 right, {speed:.0f} Mbit/s"


def udp_exchange(
    lab: Lab, server: tuple[str, str], client: tuple[str, str], count: int, size: int, *how: str
) -> dict[str, Any]:
    """(namespace, address to listen on) and (namespace, address to ask): who asked, as the server saw it."""
    with beside(lab, server[0], "udp-answer", "udp-answer", "--listen", server[1]) as answerer:
        question = ("--connect", client[1], "--count", str(count), "--size", str(size), *how)
        asked = role(lab, client[0], "udp-ask", "udp-ask", *question)
        seen = seen_by(answerer)
    expect(f"datagrams of {size} octets from {client[0]} that were answered", asked["answered"], count)
    peers: dict[str, Any] = seen["peers"]
    return peers


def udp_from_lan(lab: Lab) -> str:
    home = lab.topology.homes[0]
    peers = udp_exchange(lab, (INTERNET, SERVICE), (home.lan, SERVICE), 50, 512)
    check_ports(home, list(peers))
    return f"50 datagrams answered, seen from {', '.join(peers)}"


def udp_to_lan(lab: Lab) -> str:
    home = lab.topology.homes[0]
    to = f"{home.ipv4}:{home.forwarded_port}"
    peers = udp_exchange(lab, (home.lan, f"{home.lan_address(10)}:{FORWARDED_TO}"), (INTERNET, to), 50, 512)
    expect("source address as the LAN host sees it", {peer.rpartition(":")[0] for peer in peers}, {INTERNET_HOST})
    return f"50 datagrams to the forwarded port {to} answered, seen from {', '.join(peers)}"


def check_ports(home: Home, peers: list[str]) -> None:
    """What the internet sees of a home is its address and a port of its set."""
    members = home.ports.members()
    for peer in peers:
        address, _, port = peer.rpartition(":")
        expect(f"source address of {home.name}", address, str(home.ipv4))
        if not members[int(port)]:
            raise LabError(f"{home.name} used port {port}, which is not in its set")


def traceroute(lab: Lab) -> str:
    home = lab.topology.homes[0]
    shown = run(*inside(home.lan, "traceroute", "-n", "-q", "1", "-w", "2", "-N", "1", "-m", "6", INTERNET_HOST))
    hops = re.findall(r"^\s*\d+\s+(\S+)", shown, re.MULTILINE)
    expect("hops", hops, [home.lan_address(1), AFTR_IN_TUNNEL, INTERNET_HOST])
    return " -> ".join(hops)


def counters(lab: Lab) -> str:
    """The router tells what it did; the file is rewritten each second."""
    deadline = time.monotonic() + 5
    while not all((now := lab.counters()).get(name) for name in _MOVED):
        if time.monotonic() > deadline:
            raise LabError(f"{lab.counters_file} does not show packets of all four: {', '.join(_MOVED)}")
        time.sleep(0.2)
    return ", ".join(f"{name} {now[name]}" for name in _MOVED)


BASIC = (
    Step("softwire", softwire_up),
    Step("ping", ping),
    Step("TCP download", tcp_download),
    Step("UDP from the LAN", udp_from_lan),
    Step("UDP to the LAN", udp_to_lan),
    Step("traceroute", traceroute),
    Step("router counters", counters),
)
