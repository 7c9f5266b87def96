"""What a terminal of 80 columns shows: addresses and numbers as they are, and whole."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pylwaftr.api.client import Client
from pylwaftr.cli.binding_import import _bar
from pylwaftr.cli.counters import live_table
from pylwaftr.daemon.router import COUNTERS, Sample
from tests.api_router import Served, one
from tests.test_run import PYLWAFTR

pytest_plugins = ("tests.api_fixtures",)

B4 = "2001:db8:0:100:0:c633:6400:2"  # ":100:" is the name of a picture
BR = "2001:db8:aa::1"


def seen(served: Served, *words: str) -> str:
    """Without colours and movements of the cursor."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    environment = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"PYLWAFTR_SERVER": served.target, "TERM": "xterm"}
    with subprocess.Popen([PYLWAFTR, *words], stdout=slave, stderr=subprocess.PIPE, env=environment) as process:
        os.close(slave)
        octets = b""
        while True:
            try:
                octets += (part := os.read(master, 65536))
            except OSError:  # how Linux says that the other side is closed
                break
            if not part:
                break
    os.close(master)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", octets.decode()).replace("\r\n", "\n")


SHOWN = [
    (("bindings", "ls"), ["203.0.113.5", "33", B4, BR, "operator"]),
    (("lookup", "203.0.113.5:33792"), ["203.0.113.5", "33792-34815", B4, BR, "operator", "-", "-"]),
    (("history", "203.0.113.5:33792"), ["203.0.113.5", "33792-34815", B4, BR, "operator"]),
]


@pytest.mark.parametrize("words, cells", SHOWN, ids=[words[0] for words, _ in SHOWN])
def test_a_list_is_shown_whole(served: Served, client: Client, words: tuple[str, ...], cells: list[str]) -> None:
    client.load(one("203.0.113.5", 6, 33, b4=B4).tobytes())
    head, line = seen(served, *words).splitlines()
    assert head.startswith("IPv4 ")
    assert [cell for cell in cells if cell not in line.split()] == []
    assert "…" not in line


def test_top_keeps_names_and_numbers(served: Served) -> None:
    lines = seen(served, "top", "-n", "1", "-i", "0.1").splitlines()
    shown = {line.split()[0]: line.split()[1] for line in lines if re.match(r"(rx|tx|drop)_", line)}
    assert shown == {"rx_v4": "15", "tx_v6": "13", "drop_no_binding_v4": "2"}
    assert max(map(len, lines)) <= 80


def test_the_live_view_of_a_router_keeps_them_too() -> None:
    totals = np.full(len(COUNTERS), 123_456_789_012, np.uint64)
    out = StringIO()
    Console(file=out, width=80).print(
        live_table({one.name: 14_880_952.0 for one in COUNTERS}, Sample(1.0, totals, {}, []))
    )
    lines = out.getvalue().splitlines()
    for counter in COUNTERS:
        if counter.name not in ("busy_cycles", "idle_polls"):
            assert any(counter.name in re.split(r"[ │]+", line) for line in lines), counter.name
    assert max(map(len, lines)) <= 80


def test_the_name_of_a_file_is_no_markup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(Console, "is_terminal", True)
    with _bar(3, "[red]:100:.csv") as advance:
        advance(3)
    assert "[red]:100:.csv" in out.getvalue()
