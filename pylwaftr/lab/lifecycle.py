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

from . import network
from .commands import LabError, Process, spawn
from .topology import BR_ADDRESS, FORWARDED_TO, ROUTER, Home, Topology, router_config

STATE = Path("/run/pylwaftr-lab")
LOCK = Path("/run/pylwaftr-lab.lock")
ROUTER_START_S = 60.0
_B4_START_S = 20.0


class Stopped(BaseException):
    """SIGTERM: unwind and clean up, as Ctrl-C does."""


@dataclass(slots=True)
class Lab:
    topology: Topology
    processes: list[Process] = field(default_factory=list)
    router: Process | None = None

    @property
    def counters_file(self) -> Path:
        return STATE / "counters.json"

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

    def stop(self, process: Process) -> None:
        process.stop()
        self.processes.remove(process)

    def start_router(self, command: str | None) -> None:
        """`command`, if given, is another program in the router's place."""
        config = STATE / "lab.yaml"
        config.write_text(yaml.safe_dump(router_config(self.topology, str(STATE / "state")), sort_keys=False))
        words = [*_pylwaftr(), "run"] if command is None else shlex.split(command)
        arguments = ["-c", str(config), "--counters-file", str(self.counters_file)]
        self.router = self.start(ROUTER, "router", *words, *arguments)
        self.router.wait_for_line("ready", ROUTER_START_S)
        network.join_tap()

    def start_home(self, home: Home) -> None:
        ports, port = home.ports, home.forwarded_port
        inside = f"{home.lan_address(10)}:{FORWARDED_TO}"
        process = self.start(
            home.name, f"b4-{home.number}", *_pylwaftr(), "b4",
            "--aftr", BR_ADDRESS, "--tunnel-source", str(home.prefix), "--wan", "wan", "--ipv4", str(home.ipv4),
            "--psid-len", str(ports.length), "--psid-offset", str(ports.offset), "--psid", str(ports.psid),
            "--lan", "lan", "--forward", f"udp/{port}={inside}", "--forward", f"tcp/{port}={inside}",
        )  # fmt: skip
        process.wait_for_line("ready", _B4_START_S)


def _pylwaftr() -> list[str]:
    """The command as installed beside this Python; else the package."""
    command = Path(sys.executable).with_name("pylwaftr")
    return [str(command)] if command.exists() else [sys.executable, "-m", "pylwaftr"]


@contextmanager
def running(topology: Topology, router: str | None) -> Iterator[Lab]:
    """The lab from nothing to nothing."""
    with _only_one(), _signals():
        lab = Lab(topology)
        try:
            _clean()
            STATE.mkdir(mode=0o700)
            network.build(topology)
            lab.start_router(router)
            for home in topology.homes:
                lab.start_home(home)
            yield lab
        finally:
            _take_down(lab)


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
