"""The lwB4 as a program between a LAN host and a lwAFTR, in network namespaces; its PCP client against miniupnpd."""

from __future__ import annotations

import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns]

ROOT = Path(__file__).resolve().parent.parent
HOME, AFTR, LAN = "b4test-home", "b4test-aftr", "b4test-lan"  # not as the lab's, whose test may run beside
AFTR_ADDRESS = "2001:db8:aa::1"
LINKS = [  # namespace and interface of either end
    ((HOME, "wan"), (AFTR, "v6")),
    ((HOME, "lan"), (LAN, "eth")),
]
SET_UP = [
    (HOME, "-6 address add 2001:db8:2::2/64 dev wan nodad"),
    (AFTR, "-6 address add 2001:db8:2::1/64 dev v6 nodad"),
    (AFTR, f"-6 address add {AFTR_ADDRESS}/128 dev v6 nodad"),
    (HOME, "-6 route add default via 2001:db8:2::1"),
    (AFTR, "-6 route add 2001:db8:1::/48 via 2001:db8:2::2"),
    (LAN, "address add 192.168.1.10/24 dev eth"),
    (LAN, "route add default via 192.168.1.1"),
]
BASE = ["--aftr", AFTR_ADDRESS, "--tunnel-source", "2001:db8:1:100::/56", "--wan", "wan"]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[None]:
    remove()
    try:
        for name in (HOME, AFTR, LAN):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for number, ends in enumerate(LINKS):
            names = [f"lwb4t{number}{side}" for side in "ab"]
            ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
            for temporary, (space, interface) in zip(names, ends, strict=True):
                ip("link", "set", temporary, "netns", space, "name", interface)
                ip("-n", space, "link", "set", interface, "up")
        for space, words in SET_UP:
            ip("-n", space, *words.split())
        yield
    finally:
        remove()


def remove() -> None:
    for name in (HOME, AFTR, LAN):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


class Program:
    """A process in a namespace, and the lines that it says."""

    def __init__(self, space: str, *command: str) -> None:
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", space, *command], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lines: list[str] = []
        self._queue: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip())

    def wait_for(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        """The next line that fits."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._queue.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {pattern!r} in {seconds} s; said: {self.lines[-20:]}") from None
            self.lines.append(line)
            if (found := re.search(pattern, line)) is not None:
                return found

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(60)


@pytest.fixture
def aftr(network: None) -> Iterator[Program]:
    program = Program(AFTR, sys.executable, "-m", "tests.aftr_process", AFTR_ADDRESS)
    program.wait_for("^ready$")
    yield program
    program.end(signal.SIGKILL)


class Home:
    def __init__(self, state: Path, ends: list[str] = BASE) -> None:
        self._state, self._ends = state, ends
        self.program = self.started()

    def started(self) -> Program:
        words = [*self._ends, "--pcp", "--state", str(self._state), "--lan", "lan/192.168.1.1/24"]
        self.program = Program(HOME, sys.executable, "-m", "pylwaftr", "b4", *words)
        return self.program


@pytest.fixture
def home(aftr: Program, tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "b4.json")
    made.program.wait_for(r"^ready: 203\.0\.113\.7, 2048-4095 on lw4o6")
    yield made
    if made.program.process.poll() is None:
        made.program.end(signal.SIGKILL)


def on_lan(code: str) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", LAN, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(b"hello", ("198.51.100.9", 7))
print(s.recv(100))
"""


def until_reached() -> None:
    """The answer to what was asked is under way."""
    end = time.monotonic() + 30
    while True:
        try:
            assert "hello" in on_lan(ECHO)
            return
        except AssertionError:
            if time.monotonic() > end:
                raise


def test_a_lan_host_reaches_the_internet_by_a_port_of_the_granted_set(aftr: Program, home: Home) -> None:
    assert "hello" in on_lan(ECHO)
    port = int(aftr.wait_for(r"data from (\d+)")[1])
    assert 2048 <= port <= 4095 - 256  # not one of the reserve


MAP = """
import socket, sys
from ipaddress import IPv4Address
from pylwaftr.pcp import codec
from pylwaftr.pcp.numbers import address16
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect(("192.168.1.1", 5351))
request = codec.MapRequest(600, address16(IPv4Address("192.168.1.10")), bytes(12), 17, 8080)
s.send(codec.encode_request(request))
answer = codec.decode_response(s.recv(1100))
inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
inside.settimeout(5)
inside.bind(("192.168.1.10", 8080))
inside.sendto(b"out", ("198.51.100.9", 7))
print(answer.result, answer.external_port, inside.recv(100))
"""


def test_a_lan_host_gets_a_mapping_and_uses_it(aftr: Program, home: Home) -> None:
    result, port, received = on_lan(MAP).split()
    assert (result, received) == ("0", "b'out'")
    assert 4095 - 255 <= int(port) <= 4095
    assert aftr.wait_for(r"data from (\d+)")[1] == port
    rules = subprocess.run(["ip", "netns", "exec", HOME, "nft", "list", "ruleset"], capture_output=True, text=True)
    assert f"udp dport {port} dnat to 192.168.1.10:8080" in rules.stdout


def test_a_crash_keeps_nonce_and_set(aftr: Program, home: Home) -> None:
    nonce, suggested = aftr.wait_for(r"asked (\w+) (\d+) 7200").groups()
    assert suggested == "0"
    home.program.end(signal.SIGKILL)
    home.started().wait_for(r"^ready: 203\.0\.113\.7, 2048-4095")
    aftr.wait_for(rf"asked {nonce} 2048 7200")


def test_an_orderly_end_gives_the_set_back(aftr: Program, home: Home) -> None:
    nonce = aftr.wait_for(r"asked (\w+) 0 7200")[1]
    home.program.end()
    aftr.wait_for(rf"asked {nonce} 0 0$")
    rules = subprocess.run(["ip", "netns", "exec", HOME, "nft", "list", "tables"], capture_output=True, text=True)
    assert rules.stdout == ""


def test_icmpv6_code5_makes_it_ask_anew_and_traffic_goes_on(aftr: Program, home: Home) -> None:
    aftr.say("forget")
    aftr.wait_for("did forget")
    with pytest.raises(AssertionError, match="timed out"):
        on_lan(ECHO)
    home.program.wait_for("asking again: the lwAFTR has no binding for us")
    aftr.wait_for(r"asked \w+ 2048 7200")
    until_reached()


def test_an_announcement_makes_it_ask_anew_without_traffic(aftr: Program, home: Home) -> None:
    time.sleep(8)  # while a server is seconds old, a new epoch is plausible
    aftr.say("forget")
    aftr.say("announce")
    home.program.wait_for("asking again: the server announces that it lost its state")
    aftr.wait_for(r"asked \w+ 2048 7200")


LISTEN = """
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5350))
group = socket.inet_aton("224.0.0.1") + socket.inet_aton("192.168.1.10")
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
s.settimeout(60)
print("listening", flush=True)
print(s.recvfrom(100)[0].hex(), flush=True)
"""


def test_another_tunnel_address_keeps_the_set_and_is_told_to_the_lan(aftr: Program, tmp_path: Path) -> None:
    old, new = "2001:db8:1:100::5/64", "2001:db8:1:1ff::6/64"  # of one /56, so of one subscriber
    ip("-n", HOME, "-6", "address", "del", "2001:db8:2::2/64", "dev", "wan")
    ip("-n", HOME, "-6", "address", "add", old, "dev", "wan", "nodad")
    ip("-n", HOME, "-6", "route", "replace", "2001:db8:2::/64", "dev", "wan")
    ip("-n", HOME, "-6", "route", "replace", "default", "via", "2001:db8:2::1", "dev", "wan")
    ip("-n", AFTR, "-6", "route", "replace", "2001:db8:1::/48", "dev", "v6")
    home = Home(tmp_path / "b4.json", ["--aftr", AFTR_ADDRESS, "--tunnel-source", "auto"])
    try:
        home.program.wait_for("asking 2001:db8:aa::1 for a port set, from 2001:db8:1:100::5")
        home.program.wait_for("^ready")
        nonce = aftr.wait_for(r"asked (\w+) 0 7200")[1]
        host = Program(LAN, sys.executable, "-u", "-c", LISTEN)
        host.wait_for("listening")
        ip("-n", HOME, "-6", "address", "add", new, "dev", "wan", "nodad")
        ip("-n", HOME, "-6", "address", "del", old, "dev", "wan")
        home.program.wait_for("own address is 2001:db8:1:1ff::6 now")
        aftr.wait_for(rf"asked {nonce} 2048 7200")
        assert host.wait_for("^0280")[0]  # an announcement
        until_reached()
        assert not any(line.startswith("granted") for line in home.program.lines[3:])
    finally:
        home.program.end(signal.SIGKILL)


def test_without_a_lwaftr_it_keeps_asking(network: None, tmp_path: Path) -> None:
    home = Home(tmp_path / "b4.json")
    home.program.wait_for("asking 2001:db8:aa::1 for a port set, from 2001:db8:1:100::1")
    time.sleep(1)
    assert home.program.process.poll() is None
    home.program.end()
    assert (tmp_path / "b4.json").exists()  # the nonce, before anything depends on it


# --- another server --------------------------------------------------------------------------------------------------

MINIUPNPD = """ext_ifname=wan
listening_ip=lan
enable_natpmp=yes
enable_upnp=no
uuid=11111111-2222-3333-4444-555555555555
allow 1024-65535 0.0.0.0/0 1024-65535
"""
CHAINS = """table inet filter {
chain miniupnpd {
}
chain prerouting_miniupnpd {
}
chain postrouting_miniupnpd {
}
chain forward {
type filter hook forward priority 0; policy accept;
jump miniupnpd
}
chain prerouting {
type nat hook prerouting priority dstnat; policy accept;
jump prerouting_miniupnpd
}
chain postrouting {
type nat hook postrouting priority srcnat; policy accept;
jump postrouting_miniupnpd
}
}
"""
CLIENT = """
import random, socket, time
from ipaddress import IPv4Address
from pylwaftr.pcp.client import Client, Options
from pylwaftr.pcp.client_values import Wanted
us, server = IPv4Address("192.168.1.10"), IPv4Address("192.168.1.1")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((str(us), 0))
s.settimeout(0.1)
def turn(client, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.handle_timer(time.monotonic())
        for datagram, to in client.datagrams_to_send():
            s.sendto(datagram, (str(to), 5351))
        try:
            datagram, (address, port) = s.recvfrom(1100)
        except OSError:
            continue
        client.receive(datagram, (IPv4Address(address), port), time.monotonic())
    for event in client.events():
        print(type(event).__name__, getattr(event, "result", ""), getattr(event, "hold", ""),
              getattr(getattr(event, "grant", None), "first", ""))
plain = Client(Options(us, (server,), 600), random.SystemRandom())
plain.start(time.monotonic(), (Wanted(17, 8080, 1),))
turn(plain, 2)
plain.reprovision(time.monotonic())
turn(plain, 1)
plain.delete(time.monotonic())
turn(plain, 1)
sets = Client(Options(us, (server,), 600), random.SystemRandom())
sets.start(time.monotonic())
turn(sets, 1)
"""


def test_miniupnpd_serves_our_client(network: None, tmp_path: Path) -> None:
    """Plain mappings work; a port set it takes for malformed, with an error of no lifetime, which we wait 30 s for."""
    if shutil.which("miniupnpd") is None:
        pytest.fail("miniupnpd is missing: scripts/apt_packages.sh names it")
    ip("-n", HOME, "address", "add", "192.168.1.1/24", "dev", "lan")
    ip("-n", HOME, "address", "add", "11.0.0.5/24", "dev", "wan")
    subprocess.run(["ip", "netns", "exec", HOME, "nft", "-f", "-"], input=CHAINS, text=True, check=True)
    (tmp_path / "conf").write_text(MINIUPNPD)
    server = Program(
        HOME, "miniupnpd", "-d", "-f", str(tmp_path / "conf"), "-P", str(tmp_path / "pid")
    )  # fmt: skip
    try:
        server.wait_for("(?i)listening for NAT-PMP|PCP")
        lines = on_lan(CLIENT).splitlines()
    finally:
        server.end(signal.SIGKILL)
    assert lines == ["Granted   8080", "Recovering   ", "Granted   8080", "Refused 6 30 "]
