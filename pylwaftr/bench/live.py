"""A router of its own for the benchmarks of the control side: `pylwaftr run` with a state folder and traffic.

Its IPv4 port never runs dry: 64 packets to one binding of the configuration come again and again, as fast as the worker
takes them. The IPv6 port swallows what is sent. So the worker is as busy as it can be, and a packet that is not
forwarded shows in a drop counter.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml

from pylwaftr import eal_args
from pylwaftr.api.client import CallFailed, Client

BR = "2001:db8:ffff::1"
MACS = ("02:00:00:00:00:04", "02:00:00:00:00:06")
PEER = "02:00:00:00:00:99"
STEADY = "198.51.100.1"  # the address whose packets come all the time
READY_S, STOP_S = 120.0, 60.0
_PCAP = struct.Struct("<IHHiIII")
_FRAME = struct.Struct("!6s6sHBBHHHBBH4s4sHHHH")


class LiveFault(Exception):
    """The router did not come up; the text says what it said."""


@dataclass(frozen=True, slots=True)
class Live:
    """A router that is ready."""

    process: subprocess.Popen[str]
    target: str
    metrics: str
    ready_s: float  # from its start to its saying so

    def memory(self, name: str) -> int:
        """MiB of a line of /proc/…/status."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) // 1024
        raise KeyError(name)

    def control_cpu_s(self) -> float:
        """CPU time of all threads but the workers: what neighbours on the machine cannot stretch."""
        ticks = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            head, _, tail = (task / "stat").read_text().rpartition(")")
            if not _is_worker(head.partition("(")[2]):
                ticks += sum(map(int, tail.split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")


def _is_worker(name: str) -> bool:
    """Threads of DPDK that poll: their CPU time says nothing."""
    return name.startswith(("dpdk-worker", "lcore-worker", "rte-worker"))


def environment() -> dict[str, str]:
    """Compiled modules are kept, as where it is installed: from the second start on they are there."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / f"pylwaftr-bench-{os.geteuid()}")} | kept


@contextmanager
def away_from_workers() -> Iterator[None]:
    """This process stays meanwhile where the router's control side is, too."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, eal_args.place(None, allowed).control)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def router(folder: Path, room: int, more: dict[str, Any] | None = None) -> Iterator[Live]:
    """`room`: bindings that fit. State of an earlier router in the folder is taken up. Raises LiveFault."""
    api, metrics = free_port(), free_port()
    config = folder / "router.yaml"
    config.write_text(yaml.safe_dump(_configuration(folder, room, api, metrics) | (more or {})))
    command = [sys.executable, "-m", "pylwaftr", "run", "-c", str(config)]
    with (folder / "router.log").open("a") as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment())
    try:
        yield Live(process, f"127.0.0.1:{api}", f"http://127.0.0.1:{metrics}/metrics", _wait(process, began, folder))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[str], began: float, folder: Path) -> float:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), True)
    line = process.stdout.readline()
    if line.strip() != "ready":
        said = (folder / "router.log").read_text().strip().splitlines()
        raise LiveFault("the router did not start: " + "; ".join(said[-2:]))
    return time.perf_counter() - began


def _configuration(folder: Path, room: int, api: int, metrics: int) -> dict[str, Any]:
    traffic = folder / "traffic.pcap"
    traffic.write_bytes(pcap(64))
    v4 = {
        "port": f"net_pcap0,rx_pcap={traffic},infinite_rx=1",
        "addresses": ["192.0.2.1/24"],
        "next_hop": "192.0.2.254",
    }
    v6 = {"port": "net_null1,no-rx=1", "addresses": ["2001:db8:fffe::2/64"], "next_hop": "2001:db8:fffe::1"}
    for side, mac in zip((v4, v6), MACS, strict=True):
        side |= {"mac": mac, "next_hop_mac": PEER}
    steady = {"ipv4": STEADY, "b4_ipv6": "2001:db8:fffd::1"}
    return {
        "dataplane": {"max_bindings": room},
        "interfaces": {"v4": v4, "v6": v6},
        "softwire": {"br_addresses": [BR]},
        "bindings": {"entries": [steady]},
        "api": {"listen": f"127.0.0.1:{api}"},
        "metrics": {"listen": f"127.0.0.1:{metrics}"},
        "state": {"directory": str(folder / "state")},
        "logging": {"level": "warning"},
    }


def pcap(count: int) -> bytes:
    frames = [_frame(1024 + number) for number in range(count)]
    head = _PCAP.pack(0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return head + b"".join(struct.pack("<IIII", 0, 0, len(one), len(one)) + one for one in frames)


def _frame(port: int) -> bytes:
    """UDP from the internet, 18 octets of payload."""
    words = 0x4500 + 46 + (64 << 8 | 17)
    ends = IPv4Address("192.0.2.200").packed, IPv4Address(STEADY).packed
    for at in (0, 2):
        words += sum(int.from_bytes(end[at : at + 2]) for end in ends)
    check = 0xFFFF - (words % 0xFFFF)
    macs = bytes.fromhex(MACS[0].replace(":", "")), bytes.fromhex(PEER.replace(":", ""))
    ip = (0x45, 0, 46, 0, 0, 64, 17, check, *ends)
    return _FRAME.pack(*macs, 0x0800, *ip, 40000, port, 26, 0) + bytes(18)


class Traffic:
    """What the data plane did meanwhile."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._kinds = {info.name: info.kind for info in client.describe_counters()}
        self._before, self._began = self._read(), time.perf_counter()

    def _read(self) -> dict[str, int]:
        return dict(self._client.counters().counters)

    def told(self) -> dict[str, Any]:
        now, seconds = self._read(), time.perf_counter() - self._began
        moved = {name: now[name] - self._before[name] for name in now}
        lost = sum(count for name, count in moved.items() if self._kinds[name] == "drop") + moved["tx_failed"]
        return {"forwarded": moved["encap"], "lost": lost, "mpps": round(moved["encap"] / seconds / 1e6, 3)}


def wait_for(client: Client, ipv4: str, psid: int, limit_s: float = 60.0, pause_s: float = 0.0) -> float:
    """The time (perf_counter) at which the table has that binding."""
    end = time.perf_counter() + limit_s
    while True:
        try:
            client.get(ipv4, psid)
            return time.perf_counter()
        except CallFailed as fault:
            if fault.code != "NOT_FOUND":
                raise
        if time.perf_counter() > end:
            raise TimeoutError(f"{ipv4} PSID {psid} is not bound after {limit_s:.0f} seconds")
        time.sleep(pause_s)
