"""Real DHCP programs to test against, each in a network namespace: dhcpkit's bulk leasequery server, and Kea."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from pylwaftr.dhcp import codec4, codec6, s46

ROOT = Path(__file__).resolve().parent.parent
DHCPKIT = ROOT / ".build/dhcpkit"


@contextmanager
def namespace(name: str) -> Iterator[list[str]]:
    """Yields the beginning of a command that runs in it."""
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = ["ip", "netns", "exec", name]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        yield inside
    finally:
        pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout.split()
        for pid in pids:
            subprocess.run(["kill", "-9", pid], check=False)
        subprocess.run(["ip", "netns", "del", name], check=False)


def until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} seconds")
        time.sleep(0.05)


# --- dhcpkit 1.0.7 (GPLv3, so only ever run as a program of its own) --------------------------------------------------

# Its leasequery store cannot start, and its TCP server never answers, without these.
PATCHES = (
    ("extensions/leasequery/sqlite.py", 'db.execute("VACUUM")', 'db.commit(); db.execute("VACUUM")'),
    ("nonblocking_pool.py", "ApplyResult(self._cache, callback", "ApplyResult(self, callback"),
)


def install_dhcpkit() -> str | None:
    """Into .build, once. Returns what is wrong."""
    program = DHCPKIT / "bin/ipv6-dhcpd"
    if not (DHCPKIT / "patched").exists():
        for command in (
            ["python3", "-m", "venv", str(DHCPKIT)],
            [str(DHCPKIT / "bin/pip"), "-q", "install", "setuptools<81", "dhcpkit==1.0.7"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"dhcpkit cannot be installed: {done.stderr.strip()[-200:]}"
        (folder,) = DHCPKIT.glob("lib/python3*/site-packages/dhcpkit/ipv6/server")
        for file, old, new in PATCHES:
            text = (folder / file).read_text()
            (folder / file).write_text(text if new in text else text.replace(old, new))
        (DHCPKIT / "patched").touch()
    return None if program.exists() else f"{program} is missing"


DHCPKIT_CONF = """
user root
group root
pid-file {folder}/dhcpd.pid
control-socket {folder}/dhcpd.sock
workers 1
<logging>
    <console>
        level info
    </console>
</logging>
<duid-en server-id>
    enterprise-number 40208
    identifier 62:75:6c:6b:2d:6c:71
</duid-en>
<listen-unicast 2001:db8:ffff::1 />
<listen-tcp>
    address 2001:db8:ffff::1
    allow-from 2001:db8:ffff::/64
</listen-tcp>
<leasequery>
    allow-from 2001:db8:ffff::/64
    <lq-sqlite {folder}/lq.sqlite />
</leasequery>
<server-unicast>
    address 2001:db8:ffff::1
</server-unicast>
"""


@contextmanager
def dhcpkit(inside: list[str], folder: Path) -> Iterator[Path]:
    """Yields the database that it answers from."""
    for last in (1, 2):
        subprocess.run([*inside, "ip", "-6", "addr", "add", f"2001:db8:ffff::{last}/128", "dev", "lo"], check=True)
    (folder / "dk.conf").write_text(DHCPKIT_CONF.format(folder=folder))
    output = (folder / "dhcpkit.log").open("w")
    child = subprocess.Popen(
        [*inside, DHCPKIT / "bin/ipv6-dhcpd", "-v", folder / "dk.conf"], stdout=output, stderr=subprocess.STDOUT
    )
    try:
        listening = [*inside, "ss", "-ltnH", "sport = :547"]
        until(lambda: subprocess.run(listening, capture_output=True, text=True, check=False).stdout, 60)
        until(lambda: _has_tables(folder / "lq.sqlite"), 60)
        yield folder / "lq.sqlite"
    finally:
        child.terminate()
        child.wait(20)


def _has_tables(database: Path) -> bool:
    with sqlite3.connect(database, timeout=20) as db:
        found = db.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('clients', 'addresses')").fetchone()
    return bool(found[0] == 2)


def put(database: Path, psid: int, link: str, wrapped: bool, softwire: bool) -> None:
    """A client with one lease of PSID `psid` of 198.51.100.10."""
    now, duid = int(time.time()), f"000300010200000000{psid:02x}"
    b4 = IPv6Address(f"2001:db8:100:{psid:x}::{psid:x}")
    options: list[tuple[int, bytes]] = []
    ports = s46.PortParams(0, 6, psid)
    if softwire:
        bind = s46.Bind(IPv4Address("198.51.100.10"), s46.IPv6Network(b4), ports)
        container = s46.encode(s46.Container((IPv6Address("2001:db8:a::1"),), bind))
        options.append((96, container[4:]))
    if wrapped:
        told = (
            (53, b"\x0d"),
            (51, (3600).to_bytes(4)),
            (61, b"\xff\0\0\0\1" + bytes.fromhex(duid)),
            (91, bytes(4)),
            (152, now.to_bytes(4)),
            (156, b"\2"),
            (159, codec4.port_params_data(ports)),
            (109, b4.packed),
        )
        options.append((87, codec4.encode(codec4.Message4(2, 0, told, IPv4Address("198.51.100.10")))))
    with sqlite3.connect(database, timeout=20) as db:
        row = db.execute(
            "INSERT INTO clients (client_id, link_address, options, last_interaction, relay_data) "
            "VALUES (?, ?, ?, ?, ?)",
            (duid, IPv6Address(link).exploded, codec6.join(tuple(options)), now, b""),
        )
        db.execute(
            "INSERT INTO addresses (client_fk, address, preferred_lifetime_end, valid_lifetime_end, options) "
            "VALUES (?, ?, ?, ?, ?)",
            (row.lastrowid, b4.exploded, now + 1800, now + 3600, b""),
        )


# --- our requestor as a program ---------------------------------------------------------------------------------------

REQUESTOR = """
import asyncio, json, sys
from ipaddress import IPv6Address
from pathlib import Path
from tests.lease_peers import requestor
asyncio.run(requestor(json.loads(sys.argv[1])))
"""


async def requestor(wanted: dict[str, Any]) -> None:
    """Prints the bindings, one JSON object a line, each time they change."""
    from pylwaftr.config.services import LeaseServer
    from pylwaftr.daemon.lease_servers import of_config
    from pylwaftr.daemon.leasequery import Edge
    from pylwaftr.dhcp.requestor import Requestor
    from pylwaftr.rows import text4, text6

    server = LeaseServer(
        wanted["address"],
        wanted.get("port", 547),
        None if wanted.get("source") is None else IPv6Address(wanted["source"]),
        wanted.get("profile", "W"),
        False,
        None,
        tuple(IPv6Address(link) for link in wanted.get("links", ())),
        (),
        0,
        wanted.get("poll_s", 300),
        3600,
        wanted.get("scale", 1.0),
    )
    servers, endpoints = of_config([server])
    asked = Requestor(servers, IPv6Address("2001:db8:ffff:f::1").packed)
    bound: dict[str, str] = {}

    async def apply(changes: Any, saved: Any) -> None:
        def key(row: Any) -> str:
            return f"{text4(int(row['ipv4']))} {row['psid']}/{row['psid_len']}"

        for row in changes.unbind:
            del bound[key(row)]
        for row in changes.bind:
            bound[key(row)] = text6(row["b4"].tobytes())
        print(json.dumps(bound), flush=True)

    await Edge(asked, endpoints, apply).run()


@contextmanager
def requestor_program(inside: list[str], **wanted: Any) -> Iterator[Any]:
    """Yields a function that gives the bindings as they are now."""
    command = [*inside, sys.executable, "-c", REQUESTOR, json.dumps(wanted)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    seen, rest = [{}], b""

    def bindings() -> dict[str, str]:
        nonlocal rest
        assert child.poll() is None, "the requestor has ended"
        assert child.stdout is not None
        *lines, rest = (rest + (child.stdout.read() or b"")).split(b"\n")
        seen.extend(json.loads(line) for line in lines)
        return seen[-1]

    try:
        yield bindings
    finally:
        child.terminate()
        child.wait(20)


__all__ = ["asyncio", "dhcpkit", "install_dhcpkit", "namespace", "put", "requestor_program", "until"]
