"""Our requestor against a real bulk leasequery server, and our server fed by a real DHCP server."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.responder import kea
from tests.lease_peers import ROOT, dhcpkit, install_dhcpkit, namespace, put, requestor_program, until
from tests.leasequery_peer import BR

LINK = "2001:db8:1::"
EXPECTED = {f"198.51.100.10 {n}/6": f"2001:db8:100:{n}::{n}" for n in (1, 2, 3)}


@pytest.mark.needs_netns
@pytest.mark.slow
@pytest.mark.parametrize(
    "profile, links", [("W", []), ("W", [LINK]), ("S", [])], ids=["wrapped", "per link", "softwire options"]
)
def test_dhcpkit_answers_our_bulk_query(profile: str, links: list[str], tmp_path: Path) -> None:
    """It knows no active leasequery (it says nothing), and its bulk has no base-time."""
    if (reason := install_dhcpkit()) is not None:
        pytest.skip(reason)
    with namespace("lqkit") as inside, dhcpkit(inside, tmp_path) as database:
        for psid in (1, 2):
            put(database, psid, LINK, wrapped=True, softwire=True)
        wanted: dict[str, Any] = {"address": "2001:db8:ffff::1", "source": "2001:db8:ffff::2", "profile": profile}
        # Everything 50 times as fast: the silence that stands for "no active query" is 120 s.
        with requestor_program(inside, **wanted, links=links, scale=0.02, poll_s=2) as bindings:
            until(lambda: len(bindings()) == 2, 60)
            put(database, 3, LINK, wrapped=True, softwire=True)
            until(lambda: bindings() == EXPECTED, 60)


# --- Kea --------------------------------------------------------------------------------------------------------------

HEADER = "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context"
NOW = 1_800_000_000
KEA_LINES = [  # line, state, PSID, B4
    (f"198.51.100.10,,ff:00:00:00:01:aa,600,{NOW + 500},1,0,0,,0,", "ACTIVE", 3, "2001:db8:9:0:0:c633:640a:3"),
    (f"198.51.100.10,,ff:00:00:00:01:aa,600,{NOW - 1},1,0,0,,0,", "EXPIRED", 3, None),
    (f"198.51.100.10,,ff:00:00:00:01:aa,0,{NOW - 5},1,0,0,,0,", "RELEASED", 3, None),
    (f"198.51.100.10,,,600,{NOW + 500},1,0,0,,1,", "ABANDONED", 3, None),
    (f"198.51.100.10,,ff:00:00:00:01:aa,600,{NOW + 5},1,0,0,,2,", "EXPIRED", 3, None),
    (f"198.51.100.11,,ff:00:00:00:01:aa,600,{NOW + 500},2,0,0,h,0,", "ACTIVE", 0, "2001:db8:9:0:0:c633:640b:0"),
    (
        f"198.51.100.10,,ff:00:00:00:01:aa,600,{NOW + 500},1,0,0,,0,{{ \"b4\": \"2001:db8::5\" }}".replace('"', '""')
        .replace("{", '"{', 1) + '"',
        "ACTIVE", 3, "2001:db8::5",
    ),
]  # fmt: skip


@pytest.mark.parametrize("line, state, psid, b4", KEA_LINES)
def test_a_line_of_keas_lease_file(line: str, state: str, psid: int, b4: str | None) -> None:
    reader = kea.Leases({"1": kea.Ports.of("0, 3/6")}, kea.IPv6Network("2001:db8:9::/64"))
    assert reader.line(HEADER, NOW) is None
    change = reader.line(line, NOW)
    assert change is not None
    assert (change.state, change.psid, None if change.b4 is None else str(change.b4)) == (
        state,
        psid,
        b4 and str(change.b4),
    )
    assert b4 is None or str(change.b4) == str(kea.IPv6Address(b4))


@pytest.mark.parametrize("line", ["", "198.51.100.10", "x,,,1,1,1,0,0,,0,", "198.51.100.10,,zz,1,1,1,0,0,,0,"])
def test_a_line_that_is_none(line: str) -> None:
    reader = kea.Leases()
    reader.line(HEADER, NOW)
    with pytest.raises(ValueError, match=r"."):
        reader.line(line, NOW)


HOOKED = [  # event, environment, what the journal then has
    (
        "leases4_committed",
        {"LEASES4_SIZE": "1", "LEASES4_AT0_ADDRESS": "198.51.100.10", "LEASES4_AT0_CLIENT_ID": "ff:00:00:00:01:aa",
         "LEASES4_AT0_VALID_LIFETIME": "600", "LEASES4_AT0_CLTT": "1800000000", "QUERY4_REMOTE_ADDR": "2001:db8::b4"},
        {"state": "ACTIVE", "ipv4": "198.51.100.10", "psid_len": 6, "psid": 3, "b4": "2001:db8::b4",
         "client": "ff00000001aa", "lifetime": 600, "cltt": 1800000000},
    ),
    (
        "lease4_renew",
        {"LEASE4_ADDRESS": "198.51.100.10", "LEASE4_CLIENT_ID": "ff:00:00:00:01:aa", "LEASE4_VALID_LIFETIME": "600",
         "LEASE4_CLTT": "1800000000", "QUERY4_REMOTE_ADDR": "fe80::1"},
        {"state": "ACTIVE", "ipv4": "198.51.100.10", "psid_len": 6, "psid": 3, "client": "ff00000001aa",
         "lifetime": 600, "cltt": 1800000000},
    ),
    ("lease4_release", {"LEASE4_ADDRESS": "198.51.100.10", "LEASE4_CLIENT_ID": "ff:00:00:00:01:aa"},
     {"state": "RELEASED", "ipv4": "198.51.100.10", "psid_len": 6, "psid": 3, "client": "ff00000001aa"}),
    ("lease4_expire", {"LEASE4_ADDRESS": "198.51.100.10"},
     {"state": "EXPIRED", "ipv4": "198.51.100.10", "psid_len": 6, "psid": 3, "client": ""}),
]  # fmt: skip


@pytest.mark.parametrize("event, environment, told", HOOKED, ids=[row[0] for row in HOOKED])
def test_the_hook_of_kea(event: str, environment: dict[str, str], told: dict[str, Any], tmp_path: Path) -> None:
    from pylwaftr.responder import journal

    (tmp_path / "hook.sh").write_text(kea.HOOK)
    more = {
        "LEASE_JOURNAL": str(tmp_path / "journal"),
        "LEASE_PORTS": '"psid_len": 6, "psid": 3,',
        "PATH": "/usr/bin:/bin",
    }
    subprocess.run(["sh", tmp_path / "hook.sh", event], env=environment | more, check=True)
    (line,) = (tmp_path / "journal").read_text().splitlines()
    found = json.loads(line)
    del found["at"]
    assert found == told
    assert journal.parse(line).state == told["state"]


KEA4 = {
    "Dhcp4": {
        "interfaces-config": {"interfaces": ["k0"], "dhcp-socket-type": "udp"},
        "control-socket": {"socket-type": "unix", "socket-name": "@/k4.sock"},
        "lease-database": {"type": "memfile", "persist": True, "name": "@/kea-leases4.csv", "lfc-interval": 0},
        "valid-lifetime": 600,
        "hooks-libraries": [{"library": "/usr/lib/x86_64-linux-gnu/kea/hooks/libdhcp_lease_cmds.so"}],
        "subnet4": [{"id": 1, "subnet": "198.51.100.0/24", "pools": [{"pool": "198.51.100.10 - 198.51.100.20"}]}],
        "loggers": [{"name": "kea-dhcp4", "output_options": [{"output": "@/kea.log"}], "severity": "INFO"}],
    }
}


def command(folder: Path, name: str, **arguments: Any) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(folder / "k4.sock"))
        one.sendall(json.dumps({"command": name, "arguments": arguments}).encode())
        octets = b""
        while piece := one.recv(65536):
            octets += piece
    found = json.loads(octets)
    assert isinstance(found, dict)
    return found


@contextmanager
def running_kea(inside: list[str], folder: Path) -> Iterator[None]:
    (folder / "kea4.json").write_text(json.dumps(KEA4).replace("@", str(folder)))
    paths = [f"KEA_PIDFILE_DIR={folder}", f"KEA_LOCKFILE_DIR={folder}"]
    output = (folder / "kea.out").open("w")
    child = subprocess.Popen(
        [*inside, "env", *paths, "kea-dhcp4", "-c", folder / "kea4.json"], stdout=output, stderr=subprocess.STDOUT
    )
    try:
        until(lambda: (folder / "k4.sock").exists(), 90)
        yield
    finally:
        child.terminate()
        child.wait(20)


@contextmanager
def our_server(inside: list[str], folder: Path) -> Iterator[None]:
    ours = [sys.executable, "-m", "pylwaftr", "leasequery-server", "--listen", "[::1]:547", "--allow-plaintext"]
    source = [
        "--kea-leases",
        str(folder / "kea-leases4.csv"),
        "--kea-ports",
        "1:0,3/6",
        "--kea-b4-prefix",
        "2001:db8:9::/64",
    ]
    child = subprocess.Popen([*inside, *ours, *source], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert child.stdout is not None
        assert "listening" in child.stdout.readline()
        yield
    finally:
        child.terminate()
        child.wait(20)


@pytest.mark.needs_netns
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("kea-dhcp4") is None, reason="needs kea-dhcp4")
def test_leases_of_kea_reach_the_router(tmp_path: Path) -> None:
    """Kea's lease file -> our server -> our requestor: new, gone, Kea restarted, our server restarted."""
    tmp_path.chmod(0o755)

    def bound(*last: int) -> dict[str, str]:
        return {f"198.51.100.{n} 3/6": f"2001:db8:9::c633:64{n:02x}:3" for n in last}

    def add(n: int) -> None:
        told = {
            "ip-address": f"198.51.100.{n}",
            "hw-address": f"02:00:00:00:00:{n:02x}",
            "client-id": f"ff0000000100030001{n:02x}",
        }
        found = command(tmp_path, "lease4-add", **told, **{"subnet-id": 1, "valid-lft": 600})
        assert found["result"] == 0, found

    with namespace("lqkea") as inside:
        for setup in (
            "ip link add k0 type veth peer name k1",
            "ip link set k1 up",
            "ip link set k0 up",
            "ip addr add 198.51.100.1/24 dev k0",
        ):
            subprocess.run([*inside, *setup.split()], check=True)
        with requestor_program(inside, address="::1", scale=0.01) as bindings:
            with running_kea(inside, tmp_path):
                add(10)
                with our_server(inside, tmp_path):
                    until(lambda: bindings() == bound(10), 90)
                    add(11)
                    until(lambda: bindings() == bound(10, 11), 90)
                    command(tmp_path, "lease4-del", **{"ip-address": "198.51.100.10"})
                    until(lambda: bindings() == bound(11), 90)
                add(12)  # while our server is down
                with our_server(inside, tmp_path):
                    until(lambda: bindings() == bound(11, 12), 90)
            with running_kea(inside, tmp_path), our_server(inside, tmp_path):
                add(13)
                until(lambda: bindings() == bound(11, 12, 13), 90)
                time.sleep(0.5)
                assert bindings() == bound(11, 12, 13)


@pytest.mark.needs_tshark
def test_tshark_agrees_with_what_we_send(tmp_path: Path) -> None:
    from scapy.layers.inet import TCP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    from pylwaftr.dhcp import codec6
    from pylwaftr.dhcp.profiles import PROFILES
    from tests.leasequery_vectors import DUID

    octets = codec6.frame(PROFILES["W"].bulk(DUID, 0xB001, codec6.Ask()))
    packet = Ether() / IPv6(src="2001:db8::1", dst=str(BR)) / TCP(sport=4000, dport=547, flags="PA", seq=1) / octets
    wrpcap(str(tmp_path / "one.pcap"), [packet])
    fields = ["dhcpv6.msgtype", "dhcpv6.option.type", "dhcpv6.lq-query", "dhcpv6.lq-query.link_address"]
    done = subprocess.run(
        ["tshark", "-r", tmp_path / "one.pcap", "-Y", "dhcpv6.bulk_leasequery", "-T", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    text = json.dumps(seen)
    assert len(seen) == 1, fields
    assert '"dhcpv6.bulk_leasequery.size": "321"' in text
    assert '"dhcpv6.bulk_leasequery.msgtype": "14"' in text
    assert "Malformed" not in text
