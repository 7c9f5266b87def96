"""Homes that are provisioned by PCP: what they get, and what becomes of it when something goes away and comes back."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address
from typing import Any

from ..b4.softwire import PortSet
from . import network
from .commands import LabError, Process, attempt, inside, run
from .control_steps import gets_through
from .lifecycle import Lab
from .steps import SERVICE, TRAFFIC, Step, beside, check_ports, expect, said, tcp_transfer, udp_exchange
from .topology import DHCP, INTERNET, MANAGE_DHCP, MANAGE_ROUTER, POOL, POOL_PSID_LEN, Home, PcpHome

_START_S = 20.0
_NEVER_BOUND = "2001:db8:1:ff00::1"  # of a subscriber that is not there
_SHORT = {"min_s": 6, "default_s": 6, "max_s": 6}


def only(lab: Lab) -> PcpHome:
    (home,) = lab.topology.pcp_homes
    return home


def mapping(lab: Lab, home: PcpHome) -> dict[str, Any]:
    found = lab.ask("pcp", "mappings", "--b4", str(home.prefix))
    if len(found) != 1:
        raise LabError(f"{home.name} has {len(found)} mappings in the router instead of one: {found}")
    return found[0]


def as_given(lab: Lab, home: PcpHome) -> Home:
    """The home with the address and ports that router and lwB4 agree on."""
    binding = mapping(lab, home)["binding"]
    given = Home(home.number, IPv4Address(binding["ipv4"]), PortSet(0, binding["psid_len"], binding["psid"]))
    ((first, last),) = given.ports.ranges()
    used = re.findall(r"^ready: (\S+), (\d+)-(\d+)", lab.b4[home.number].log.read_text(), re.MULTILINE)
    expect("what the lwB4 uses", used and used[-1], (str(given.ipv4), str(first), str(last)))
    return given


def start_b4(lab: Lab, home: PcpHome, until: str = "ready") -> None:
    lab.start_pcp_home(home).wait_for_line(until, _START_S)


def until(what: str, true: Callable[[], object], seconds: float = 15.0) -> float:
    """How long it took."""
    begin = time.monotonic()
    while not true():
        if time.monotonic() - begin > seconds:
            raise LabError(f"after {seconds:.0f} s: not yet {what}")
        time.sleep(0.05)
    return time.monotonic() - begin


def provisioning(lab: Lab) -> str:
    home = only(lab)
    given = as_given(lab, home)
    expect("B4 address of the mapping", mapping(lab, home)["binding"]["b4_ipv6"], str(home.first_address))
    peers = udp_exchange(lab, (INTERNET, SERVICE), (home.lan, SERVICE), 20, 512, "--fresh")
    check_ports(given, list(peers))
    speed = tcp_transfer(lab, (INTERNET, SERVICE), (home.lan, ""), SERVICE, 4 << 20)
    ((first, last),) = given.ports.ranges()
    return f"{home.name} got {given.ipv4}, {first}-{last}; UDP from {len(peers)} of them; 4 MiB, {speed:.0f} Mbit/s"


def b4_reboot(lab: Lab) -> str:
    home = only(lab)
    before = as_given(lab, home)
    lab.stop_b4(home, signal.SIGKILL)
    begin = time.monotonic()
    start_b4(lab, home)
    seconds = time.monotonic() - begin
    expect("set after the reboot", as_given(lab, home), before)
    traffic(lab, before)
    return f"killed, started, and the same set {seconds:.1f} s later"


def traffic(lab: Lab, given: Home) -> None:
    check_ports(given, list(udp_exchange(lab, (INTERNET, SERVICE), (given.lan, SERVICE), 5, 512)))


def renewal(lab: Lab) -> str:
    """SIGHUP makes lifetimes short; the lwB4 renews between 1/2 and 5/8 of them, and nothing of it is seen."""
    home = only(lab)
    before = as_given(lab, home)
    with _settings(lab, lifetime=_SHORT):
        lab.stop_b4(home, signal.SIGKILL)
        start_b4(lab, home)
        ends = {mapping(lab, home)["expires"]}
        with session(lab, home) as talk:
            begin = time.monotonic()
            while len(ends) < 3:
                if time.monotonic() - begin > 20:
                    raise LabError(f"{len(ends) - 1} renewals in 20 s")
                ends.add(mapping(lab, home)["expires"])
            seconds = time.monotonic() - begin
            talk.goes_on()
        expect("set after the renewals", as_given(lab, home), before)
    log = lab.b4[home.number].log.read_text()
    expect("times it was granted a set, or lost it", len(re.findall("^(?:granted|lost)", log, re.MULTILINE)), 1)
    return f"lifetime {_SHORT['max_s']} s: {len(ends) - 1} renewals in {seconds:.1f} s, a TCP session goes on"


@contextmanager
def _settings(lab: Lab, section: str = "pcp", **changed: Any) -> Iterator[None]:
    """Other keys of a section for a while, by SIGHUP."""
    before = lab.config
    lab.config = before | {section: before.get(section, {}) | changed}
    _reload(lab)
    try:
        yield
    finally:
        lab.config = before
        _reload(lab)


def _reload(lab: Lab) -> None:
    assert lab.router is not None
    lab.write_config()
    lab.router.popen.send_signal(signal.SIGHUP)
    until("reloaded", lambda: lab.cli("reload", "--dry-run") == "nothing differs\n")


def lost_nonce(lab: Lab) -> str:
    """RFC 6887 section 11.3: without its nonce a lwB4 is refused, until the operator helps or trusts the tunnel."""
    home = only(lab)
    before = as_given(lab, home)
    _reboot_without_state(lab, home, "the PCP server refuses: NOT_AUTHORIZED")
    expect("binding meanwhile", mapping(lab, home)["binding"]["psid"], before.ports.psid)
    lab.stop_b4(home)
    (released,) = lab.ask("pcp", "release", "--b4", str(home.prefix))
    expect("mappings released", released["released"], 1)
    start_b4(lab, home)
    expect("set after the release", as_given(lab, home), before)
    with _settings(lab, nonce_policy="subscriber"):
        _reboot_without_state(lab, home, "ready")
        expect("set with nonce_policy subscriber", as_given(lab, home), before)
    return "NOT_AUTHORIZED; after `pcp release` the same set; with nonce_policy subscriber at once"


def _reboot_without_state(lab: Lab, home: PcpHome, then: str) -> None:
    lab.stop_b4(home, signal.SIGKILL)
    lab.b4_state(home).unlink()
    start_b4(lab, home, then)


class Session:
    """A TCP connection from a LAN host to the internet that is always in use."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def lines(self) -> int:
        said = re.findall(r"^lines (\d+)$", self._process.log.read_text(), re.MULTILINE)
        return int(said[-1]) if said else 0

    def goes_on(self, seconds: float = 20.0) -> float:
        """Seconds until the next tens of lines were echoed."""
        before = self.lines
        return until("any echo of the TCP session's lines", lambda: self.lines > before + 10, seconds)


@contextmanager
def session(lab: Lab, home: PcpHome) -> Iterator[Session]:
    with beside(lab, INTERNET, "tcp-echo", "tcp-echo", "--listen", SERVICE):
        process = lab.module(home.lan, "tcp-session", TRAFFIC, "tcp-session", "--connect", SERVICE)
        try:
            process.wait_for_line("ready", 10.0)
            talk = Session(process)
            talk.goes_on()
            yield talk
            process.popen.terminate()
            expect("every line came back", said(process, 10.0)["ok"], True)
        finally:
            lab.stop(process)


def ask_pcp(lab: Lab, namespace: str, server: str, client: str, *words: str) -> dict[str, Any]:
    command = inside(namespace, sys.executable, "-m", "pylwaftr.lab.pcp_host", server, client, *words)
    answer: dict[str, Any] = json.loads(run(*command))
    return answer


def third_party(lab: Lab, tunnel: str, *words: str) -> dict[str, Any]:
    """The DHCP server asks for a port set of somebody's softwire."""
    asked = ("--third-party", tunnel, "--size", "65535", *words)
    return ask_pcp(lab, DHCP, MANAGE_ROUTER, MANAGE_DHCP, *asked)


def epoch(lab: Lab) -> int:
    """By a deletion of what is not there, which succeeds."""
    answer = third_party(lab, _NEVER_BOUND, "--lifetime", "0")
    expect("result of a deletion", answer["result"], 0)
    return int(answer["epoch"])


def router_with_state(lab: Lab) -> str:
    """Killed, not stopped: what it has answered is durable."""
    home = only(lab)
    before, asked, epoch_before = as_given(lab, home), lab.b4[home.number].log.read_text(), epoch(lab)
    with session(lab, home) as talk:
        lab.stop_router(signal.SIGKILL)
        begin = time.monotonic()
        lab.start_router()
        talk.goes_on(30.0)
        seconds = time.monotonic() - begin
    expect("mapping after the restart", as_given(lab, home), before)
    now = epoch(lab)
    if now <= epoch_before:
        raise LabError(f"the epoch began anew: {now} after {epoch_before}")
    expect("what the lwB4 noticed", lab.b4[home.number].log.read_text(), asked)
    return f"same mapping, epoch {epoch_before} -> {now}, a TCP session goes on {seconds:.1f} s after the kill"


def router_without_state(lab: Lab) -> str:
    """ICMPv6 1/5 tells the lwB4; it asks for the set that it had."""
    home = only(lab)
    before = as_given(lab, home)
    lab.stop_router()
    shutil.rmtree(lab.state_directory)
    lab.start_router()
    expect("mappings of the new router", lab.ask("pcp", "mappings"), [])
    seconds = until(f"traffic of {home.name}", lambda: gets_through(home.lan), 30.0)
    lab.b4[home.number].wait_for_line("asking again: the lwAFTR has no binding for us", 1.0)
    expect("set after the loss of state", as_given(lab, home), before)
    return f"ICMPv6 1/5, and the same set after {seconds:.1f} s of traffic; epoch {epoch(lab)}"


def damaged_state(lab: Lab) -> str:
    """A record with a wrong checksum: the router says so, begins a new epoch and announces it, also without traffic."""
    home = only(lab)
    before, epoch_before, ends = as_given(lab, home), epoch(lab), mapping(lab, home)["expires"]
    lab.stop_router()
    with closing(sqlite3.connect(lab.state_directory / "state.db")) as store, store:
        changed = store.execute("UPDATE records SET check_sum = check_sum + 1 WHERE key = ?", (b"epoch",)).rowcount
    expect("records damaged", changed, 1)
    lab.start_router()
    began = time.monotonic()
    assert lab.router is not None
    lab.router.wait_for_text("records of", 1.0)
    lab.b4[home.number].wait_for_line("asking again: the server announces that it lost its state", 20.0)
    seconds = time.monotonic() - began
    until("renewed", lambda: mapping(lab, home)["expires"] > ends)
    now = epoch(lab)
    if now >= epoch_before:
        raise LabError(f"the epoch went on: {now} after {epoch_before}")
    expect("set after the recovery", as_given(lab, home), before)
    return f"ANNOUNCE heard {seconds:.1f} s after the start, asked again, same set; epoch {epoch_before} -> {now}"


def renumbering(lab: Lab) -> str:
    """RFC 7785: the access network gives the home another address of its /56; its bindings follow."""
    home = only(lab)
    before = as_given(lab, home)
    with session(lab, home) as talk:
        network.use_tunnel_address(home, home.next_address, home.first_address)
        begin = time.monotonic()
        lab.b4[home.number].wait_for_line(f"the softwire's own address is {home.next_address} now", 10.0)
        talk.goes_on(30.0)
        seconds = time.monotonic() - begin
    expect("set after the renumbering", as_given(lab, home), before)
    expect("B4 address of the mapping", mapping(lab, home)["binding"]["b4_ipv6"], str(home.next_address))
    ((port, _),) = before.ports.ranges()
    lives = lab.ask("history", f"{before.ipv4}:{port}")
    b4s = {life["binding"]["b4_ipv6"] for life in lives}
    if not {str(home.first_address), str(home.next_address)} <= b4s:
        raise LabError(f"the history of {before.ipv4}:{port} lacks an address: {sorted(b4s)}")
    return f"{home.first_address} -> {home.next_address}: a TCP session goes on after {seconds:.1f} s"


def moved_by_data(lab: Lab) -> str:
    """RFC 7785 section 4.3: with `on_new_address: data` the binding follows the packets, though no PCP arrives."""
    home = only(lab)
    before = as_given(lab, home)
    there, here = home.next_address, home.first_address
    expect("B4 address of the mapping", mapping(lab, home)["binding"]["b4_ipv6"], str(there))
    assert lab.router is not None
    with _settings(lab, "subscribers", on_new_address="data", min_change_interval_s=0), session(lab, home) as talk:
        with _without_pcp(home) as lost:
            network.use_tunnel_address(home, here, there)
            begin = time.monotonic()
            lab.router.wait_for_text(f"from {there} by data", 20.0)
            talk.goes_on(30.0)
            seconds = time.monotonic() - begin
            expect("B4 address of the mapping", mapping(lab, home)["binding"]["b4_ipv6"], str(here))
            until("a PCP request lost", lost)
        talk.goes_on(30.0)
    until("the same set", lambda: as_given(lab, home) == before)
    return f"{there} -> {here}: a TCP session goes on after {seconds:.1f} s, with {lost()} PCP requests lost"


_WITHOUT_PCP = """
table ip6 lab {
  counter lost { }
  chain sent {
    type filter hook output priority 0;
    meta l4proto 4 @th,72,8 17 @th,176,16 5351 counter name lost drop
  }
}
"""  # in the softwire: UDP to port 5351


@contextmanager
def _without_pcp(home: PcpHome) -> Iterator[Callable[[], int]]:
    """Yields how many requests of the lwB4 were lost."""
    last = 0

    def lost() -> int:
        nonlocal last
        done = attempt(*inside(home.name, "nft", "list", "counter", "ip6", "lab", "lost"))
        shown = re.search(r"packets (\d+)", done.stdout)
        last = int(shown[1]) if shown else last
        return last

    run(*inside(home.name, "nft", "-f", "-"), given=_WITHOUT_PCP)
    try:
        yield lost
    finally:
        attempt(*inside(home.name, "nft", "delete", "table", "ip6", "lab"))


def lan_host(lab: Lab) -> str:
    """The lwB4 serves it from its own set (RFC 7648's place, not its way)."""
    home = only(lab)
    given = as_given(lab, home)
    inner = f"{home.lan_address(10)}:8080"
    asked = ("--protocol", "17", "--inside", "8080")
    answer = ask_pcp(lab, home.lan, home.lan_address(1), home.lan_address(10), *asked)
    expect("result", answer["result"], 0)
    to = f"{answer['external']}:{answer['outside']}"
    check_ports(given, [to])
    peers = udp_exchange(lab, (home.lan, inner), (INTERNET, to), 10, 512)
    return f"{to} leads to {inner}: 10 datagrams from {', '.join(peers)}"


def for_a_third_party(lab: Lab) -> str:
    """A DHCP server gets the set that it means to lease out, and the home then uses it."""
    (usual,) = lab.topology.free_homes
    wanted = Home(usual.number, POOL[2], PortSet(0, POOL_PSID_LEN, 40))
    ((first, _),) = wanted.ports.ranges()
    suggested = ("--external", str(wanted.ipv4), "--outside", str(first))
    answer = third_party(lab, str(wanted.tunnel_source), *suggested)
    got = answer["result"], answer["external"], answer["outside"], answer["size"]
    expect("result, address, first port, size", got, (0, str(wanted.ipv4), first, 1024))
    lab.stop_b4(usual)
    lab.start_home(wanted).wait_for_line("ready", _START_S)
    traffic(lab, wanted)
    expect(
        "result of the deletion",
        third_party(lab, str(wanted.tunnel_source), *suggested, "--lifetime", "0")["result"],
        0,
    )
    expect("a ping after it is answered", gets_through(wanted.lan), False)
    lab.stop_b4(usual)
    lab.start_home(usual).wait_for_line("ready", _START_S)
    return f"{MANAGE_DHCP} bound {wanted.ipv4}, {first}-{first + 1023} to {wanted.tunnel_source}, and unbound it"


PROVISIONED = (Step("home provisioned by PCP", provisioning),)
PCP_LIFE = (
    Step("PCP: reboot of the B4", b4_reboot),
    Step("PCP: renewal", renewal),
    Step("PCP: B4 forgot its nonce", lost_nonce),
    Step("PCP: LAN host", lan_host),
    Step("PCP: third party", for_a_third_party),
    Step("PCP: router killed", router_with_state),
    Step("PCP: state damaged", damaged_state),
    Step("PCP: router without state", router_without_state),
    Step("PCP: renumbering", renumbering),
    Step("PCP: moved by data", moved_by_data),
)
