"""Commands and processes inside network namespaces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STOP_S = 5.0


class LabError(Exception):
    """One or a few sentences: what failed, and what to do."""


# What the steps call, and the Debian package that has it.
TOOLS = {
    "ip": "iproute2",
    "nft": "nftables",
    "ethtool": "ethtool",
    "ping": "iputils-ping",
    "tracepath": "iputils-tracepath",
    "traceroute": "traceroute",
    "curl": "curl",
    "openssl": "openssl",
}


KEA = {"kea-dhcp4": "kea-dhcp4-server", "kea-dhcp6": "kea-dhcp6-server"}


def require_tools(tools: Mapping[str, str] = TOOLS) -> None:
    missing = sorted({package for tool, package in tools.items() if shutil.which(tool) is None})
    if missing:
        raise LabError(f"tools are missing: apt install {' '.join(missing)}")


def run(*command: str, timeout: float = 60.0, given: str | None = None) -> str:
    """Output of a command that has to succeed."""
    done = attempt(*command, timeout=timeout, given=given)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise LabError(f"{' '.join(command)}: {said[-1] if said else f'exit status {done.returncode}'}")
    return done.stdout


def attempt(*command: str, timeout: float = 60.0, given: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(command)}: no end within {timeout:.0f} s") from None


def inside(namespace: str, *command: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", namespace, *command)


@dataclass(slots=True)
class Process:
    """A program of the lab that runs beside it; what it says goes into a file."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 12) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_for_line(self, start: str, timeout: float) -> str:
        """The first line that starts so. The end of the process before that is a failure."""
        return self.wait_for(lambda line: line.startswith(start), f"say '{start}'", timeout)

    def wait_for_text(self, text: str, timeout: float) -> str:
        return self.wait_for(lambda line: text in line, f"say '…{text}…'", timeout)

    def wait_for(self, wanted: Callable[[str], bool], what: str, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while True:
            ended = self.popen.poll() is not None
            for line in self.log.read_text(errors="replace").splitlines():
                if wanted(line):
                    return line
            if ended:
                raise LabError(f"{self.name} ended with status {self.popen.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} did not {what} within {timeout:.0f} s:\n{self.tail()}")
            time.sleep(0.05)

    def result(self, timeout: float) -> str:
        """What it said, once it ended well."""
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            raise LabError(f"{self.name}: no end within {timeout:.0f} s:\n{self.tail()}") from None
        if status:
            raise LabError(f"{self.name} ended with status {status}:\n{self.tail()}")
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        """Asked first, killed when it does not listen."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        return self.popen.returncode


def spawn(namespace: str, name: str, command: Sequence[str], log: Path) -> Process:
    """In a session of its own, so that the terminal's Ctrl-C reaches the lab alone."""
    with log.open("wb") as out:
        popen = subprocess.Popen(
            inside(namespace, *command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    return Process(name, popen, log)


def namespaces() -> set[str]:
    return {line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip()}


def remove_namespace(name: str) -> None:
    """With everything that still runs inside: what an earlier lab left behind, or did not stop."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_S
        pids = _pids(name)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        while pids and time.monotonic() < deadline:
            time.sleep(0.05)
            pids = _pids(name)
        if not pids:
            break
    run("ip", "netns", "delete", name)


def _pids(namespace: str) -> list[int]:
    """Zombies are listed too; their parent (we, or init) takes them."""
    pids = []
    for word in run("ip", "netns", "pids", namespace).split():
        with suppress(OSError):
            if Path(f"/proc/{word}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                pids.append(int(word))
    return pids
