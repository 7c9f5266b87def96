"""The running lab: made, held, and removed whatever happened."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from . import certificates, network
from .commands import LabError, Process, attempt, inside, spawn
from .topology import (
    BR_ADDRESS,
    DHCP,
    FORWARDED_TO,
    LEASEQUERY4_PORT,
    LEASEQUERY_PORT,
    MANAGE_DHCP,
    ROUTER,
    Home,
    PcpHome,
    Site,
    Topology,
    router_config,
)

STATE = Path("/run/pylwaftr-lab")
LOCK = Path("/run/pylwaftr-lab.lock")
ROUTER_START_S = 60.0
_START_S = 20.0
_CALL_S = 50  # of a command that asks the router, on a machine that has much else to do


class Stopped(BaseException):
    """SIGTERM: unwind and clean up, as Ctrl-C does."""


@dataclass(slots=True)
class Lab:
    topology: Topology
    processes: list[Process] = field(default_factory=list)
    router: Process | None = None
    responder: Process | None = None
    other_router: str | None = None  # another program in the router's place
    config: dict[str, Any] = field(default_factory=dict)
    b4: dict[int, Process] = field(default_factory=dict)  # by number of the home

    @property
    def counters_file(self) -> Path:
        return STATE / "counters.json"

    @property
    def state_directory(self) -> Path:
        return STATE / "state"

    @property
    def tls(self) -> Path:
        """Certificates of the leasequery server, the router, and others."""
        return STATE / "tls"

    @property
    def journal(self) -> Path:
        """Of leases, for the leasequery server."""
        return STATE / "leases.journal"

    def b4_state(self, site: Site) -> Path:
        return STATE / f"b4-{site.number}.json"

    def counters(self) -> dict[str, int]:
        """What the router last wrote; empty before its first time."""
        with suppress(FileNotFoundError, json.JSONDecodeError):
            found: dict[str, int] = json.loads(self.counters_file.read_text())
            return found
        return {}

    def start(self, namespace: str, name: str, *command: str) -> Process:
        process = spawn(namespace, name, command, STATE / f"{name}.log")
        self.processes.append(process)
        return process

    def module(self, namespace: str, name: str, module: str, *arguments: str) -> Process:
        """A program of this package."""
        return self.start(namespace, name, sys.executable, "-m", module, *arguments)

    def check_alive(self) -> None:
        for process in self.processes:
            if process.popen.poll() not in (None, 0):
                raise LabError(f"{process.name} ended with status {process.popen.returncode}:\n{process.tail()}")

    def stop(self, process: Process, number: int = signal.SIGTERM) -> None:
        if number == signal.SIGKILL:
            process.popen.kill()
            process.popen.wait()
        process.stop()
        self.processes.remove(process)

    # the router

    def start_router(self) -> None:
        self.launch_router()
        self.router_ready()

    def launch_router(self) -> None:
        self.write_config()
        words = [*pylwaftr(), "run"] if self.other_router is None else shlex.split(self.other_router)
        arguments = ["-c", str(STATE / "lab.yaml"), "--counters-file", str(self.counters_file)]
        self.router = self.start(ROUTER, "router", *words, *arguments)

    def router_ready(self) -> None:
        assert self.router is not None
        self.router.wait_for_line("ready", ROUTER_START_S)
        network.join_tap()

    def stop_router(self, number: int = signal.SIGTERM) -> None:
        assert self.router is not None
        self.stop(self.router, number)

    def write_config(self) -> None:
        (STATE / "lab.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))

    def cli(self, *words: str, status: int = 0) -> str:
        """What `pylwaftr WORDS` says beside the router."""
        done = attempt(*inside(ROUTER, "env", f"PYLWAFTR_TIMEOUT={_CALL_S}", *pylwaftr(), *words))
        if done.returncode != status:
            said = done.stderr.strip() or done.stdout.strip()
            raise LabError(f"pylwaftr {' '.join(words)}: exit status {done.returncode} instead of {status}: {said}")
        return done.stdout

    def ask(self, *words: str) -> list[dict[str, Any]]:
        """The objects that the command prints with --json."""
        return [json.loads(line) for line in self.cli(*words, "--json").splitlines()]

    # the homes

    def start_home(self, home: Home) -> Process:
        """`ready` is still to come."""
        ports, port = home.ports, home.forwarded_port
        to = f"{home.lan_address(10)}:{FORWARDED_TO}"
        return self._start_b4(
            home, "--tunnel-source", str(home.prefix), "--wan", "wan", "--ipv4", str(home.ipv4),
            "--psid-len", str(ports.length), "--psid-offset", str(ports.offset), "--psid", str(ports.psid),
            "--lan", "lan", "--forward", f"udp/{port}={to}", "--forward", f"tcp/{port}={to}",
        )  # fmt: skip

    def start_pcp_home(self, home: PcpHome) -> Process:
        lan = f"lan/{home.lan_address(1)}/24"
        return self._start_b4(
            home, "--tunnel-source", "auto", "--pcp", "--state", str(self.b4_state(home)), "--lan", lan
        )

    def _start_b4(self, site: Site, *options: str) -> Process:
        name = f"b4-{site.number}"
        self.b4[site.number] = self.start(site.name, name, *pylwaftr(), "b4", "--aftr", BR_ADDRESS, *options)
        return self.b4[site.number]

    def stop_b4(self, site: Site, number: int = signal.SIGTERM) -> None:
        self.stop(self.b4.pop(site.number), number)

    # the DHCP side

    def start_responder(self, *tls: str) -> Process:
        """Leases over TLS alone, to routers with a certificate of the lab's authority; `tls`: other options."""
        process = self.launch_responder(*tls)
        process.wait_for_line("listening", _START_S)
        return process

    def launch_responder(self, *tls: str) -> Process:
        self.journal.touch()
        scale = self.topology.timer_scale
        self.responder = self.start(
            DHCP, "leasequery-server", *pylwaftr(), "leasequery-server",
            "--listen", f"{MANAGE_DHCP}:{LEASEQUERY_PORT}", "--listen-dhcpv4", f"{MANAGE_DHCP}:{LEASEQUERY4_PORT}",
            "--br", BR_ADDRESS, "--journal", str(self.journal),
            "--history", str(self.topology.history), "--idle", str(25 * scale), *(tls or self.certified("server")),
        )  # fmt: skip
        return self.responder

    def certified(self, name: str) -> tuple[str, ...]:
        """The server's options for a certificate of that name."""
        cert, key = (str(self.tls / f"{name}.{kind}") for kind in ("pem", "key"))
        return "--tls-cert", cert, "--tls-key", key, "--tls-ca", str(self.tls / "ca.pem")

    def stop_responder(self, number: int = signal.SIGTERM) -> None:
        assert self.responder is not None
        self.stop(self.responder, number)


def pylwaftr() -> list[str]:
    """The command as installed beside this Python; else the package."""
    command = Path(sys.executable).with_name("pylwaftr")
    return [str(command)] if command.exists() else [sys.executable, "-m", "pylwaftr"]


@contextmanager
def running(topology: Topology, router: str | None) -> Iterator[Lab]:
    """The lab from nothing to nothing."""
    with _only_one(), _signals():
        lab = Lab(topology, other_router=router)
        lab.config = router_config(topology, STATE)
        try:
            _clean()
            STATE.mkdir(mode=0o700)
            network.build(topology)
            if topology.leasequery:
                certificates.make(lab.tls, MANAGE_DHCP)
                lab.start_responder()
            lab.start_router()
            _start_homes(lab)
            yield lab
        finally:
            _take_down(lab)


def _start_homes(lab: Lab) -> None:
    """All at once, for most of it is Python's own start."""
    starting = [lab.start_home(home) for home in (*lab.topology.homes, *lab.topology.free_homes)]
    for home in lab.topology.pcp_homes:
        network.use_tunnel_address(home, home.first_address)
        starting.append(lab.start_pcp_home(home))
    for process in starting:
        process.wait_for_line("ready", _START_S)


@contextmanager
def _only_one() -> Iterator[None]:
    """The kernel frees the lock of a lab that was killed."""
    with LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError("another lab is running: stop it first (Ctrl-C where it runs)") from None
        os.set_inheritable(lock.fileno(), False)
        yield


@contextmanager
def _signals() -> Iterator[None]:
    """Each of them unwinds. SIGINT too is set, for it may have come to us ignored (started in the background)."""

    def stopped(*_: Any) -> None:
        raise Stopped

    handlers = {signal.SIGTERM: stopped, signal.SIGHUP: stopped, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_down(lab: Lab) -> None:
    """No second Ctrl-C may interrupt this: what it left behind would be in the next one's way."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for process in reversed(lab.processes):
        process.stop()
    _clean()


def _clean() -> None:
    network.remove_all()
    shutil.rmtree(STATE, ignore_errors=True)
