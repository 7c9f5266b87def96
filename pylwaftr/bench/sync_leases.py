"""The leases of `bench sync`: those of the bindings by formula, as a journal for `pylwaftr leasequery-server`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from pylwaftr import _core
from pylwaftr.bench import live

_MOVES = 1 << 8  # of one lease within its /64
_MOVED = 1 << 56  # the bits of the interface identifier that tell them apart


class Leases:
    """By number. A B4 that moves stays in the /56 of its subscriber."""

    def __init__(self, count: int) -> None:
        rows = _core.bench_rows(0, count)
        self.psid_offset, self.psid_len = int(rows["psid_offset"][0]), int(rows["psid_len"][0])
        self._ipv4: list[int] = rows["ipv4"].tolist()
        self._psid: list[int] = rows["psid"].tolist()
        self._b4: bytes = rows["b4"].tobytes()

    def key(self, number: int) -> tuple[int, int]:
        return self._ipv4[number], self._psid[number]

    def ipv4(self, number: int) -> IPv4Address:
        return IPv4Address(self._ipv4[number])

    def b4(self, number: int, moved: int = 0) -> IPv6Address:
        first = int.from_bytes(self._b4[number * 16 : number * 16 + 16])
        return IPv6Address(first ^ moved % _MOVES * _MOVED)

    def line(self, number: int, moved: int = 0) -> str:
        """Of the journal."""
        ipv4, psid = self.key(number)
        return (
            f'{{"at": {int(time.time())}, "state": "ACTIVE", '
            f'"ipv4": "{ipv4 >> 24}.{ipv4 >> 16 & 255}.{ipv4 >> 8 & 255}.{ipv4 & 255}", '
            f'"offset": {self.psid_offset}, "psid_len": {self.psid_len}, "psid": {psid}, '
            f'"b4": "{self.b4(number, moved)}", "client": "{client_id(number).hex()}", "lifetime": 86400}}\n'
        )

    def write(self, journal: Path, numbers: Iterable[int]) -> None:
        with journal.open("w") as out:
            out.writelines(map(self.line, numbers))


def client_id(number: int) -> bytes:
    return b"\xff\0\0\0\1\0\3\0\1" + number.to_bytes(6)


@dataclass(frozen=True, slots=True)
class Moves:
    """The B4 of each of so many leases moves, in turn."""

    leases: Leases
    among: int
    total: int

    def lines(self, first: int, end: int) -> Iterator[str]:
        return (self.leases.line(at % self.among, 1 + at // self.among) for at in range(first, end))

    @property
    def last(self) -> tuple[int, IPv6Address]:
        """Number and new address."""
        number = (self.total - 1) % self.among
        return number, self.leases.b4(number, 1 + (self.total - 1) // self.among)


@dataclass(frozen=True, slots=True)
class LeaseServer:
    port: int
    process: subprocess.Popen[str]

    def cpu_s(self) -> float:
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def lease_server(journal: Path) -> Iterator[LeaseServer]:
    command = [sys.executable, "-m", "pylwaftr.bench.parent"]
    command += [sys.executable, "-m", "pylwaftr", "leasequery-server", "--listen", "127.0.0.1:0", "--allow-plaintext"]
    command += ["--quiet", "--journal", str(journal)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=live.environment())
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError("the leasequery server did not start")
        yield LeaseServer(int(line.split()[-1]), child)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)
