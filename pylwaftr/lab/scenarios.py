"""What `--full` adds: harder ways of using the softwires, each with real kernel hosts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .commands import LabError, attempt, inside, run
from .lifecycle import Lab
from .steps import SERVICE, Step, beside, check_ports, expect, role, seen_by, tcp_transfer, udp_exchange
from .topology import ACCESS, BR_ADDRESS, FORWARDED_TO, INTERNET, INTERNET_HOST, V6_ROUTER, Home

# Downwards, for neither router nor lwB4 may let an error raise a path MTU (RFC 8201 section 4).
PATH_MTUS = (1500, 1460, 1400, 1340, 1280)
LARGE_DATAGRAM = 8192
ENCAP_LIMIT_HEADER = "60"  # destination options
_TRANSFER_S = 900.0


def scenarios(transfer: int) -> tuple[Step, ...]:
    return (
        Step("every home", every_home),
        Step("ping with identifiers", ping_identifiers),
        Step("hairpin between homes", hairpin),
        Step("8 KB datagrams", large_datagrams),
        Step("encapsulation limit", encap_limit_option),
        Step("TCP with loss, reordered", lambda lab: lossy_transfer(lab, transfer)),
        Step("path MTU upstream", path_mtu_upstream),
        Step("path MTU downstream", path_mtu_downstream),
        Step("8 KB datagrams, MTU 1280", large_datagrams),
        Step("TCP both ways, MTU 1280", small_path_transfer),
    )


def every_home(lab: Lab) -> str:
    """Each kind of port set gets out, and uses no port but its own."""
    ports: dict[str, int] = {}
    for home in lab.topology.homes:
        peers = set(udp_exchange(lab, (INTERNET, SERVICE), (home.lan, SERVICE), 40, 64, "--fresh"))
        check_ports(home, sorted(peers))
        ports[home.name] = len(peers)
        run(*inside(home.name, "ping", "-n", "-c", "1", "-W", "2", INTERNET_HOST))  # the lwB4's own traffic
    return "ports used: " + ", ".join(f"{name} {n}" for name, n in ports.items())


def ping_identifiers(lab: Lab) -> str:
    """RFC 7596 section 8.2: two hosts with one identifier are told apart by identifiers of the port set."""
    count = 0
    for home in lab.topology.homes:
        with beside(lab, INTERNET, "echo-watch", "echo-identifiers") as watch:
            for host in (10, 11):
                _ping(home, "-I", home.lan_address(host), "-e", "7")
            _ping(home, "-e", "65535")
            seen = seen_by(watch)["identifiers"].get(str(home.ipv4), [])
        count += len(seen)
        check_ports(home, [f"{home.ipv4}:{identifier}" for identifier in seen])
        expect(f"identifiers of {home.name}", len(seen), 3)
    return f"{count} identifiers, each in the set of its home"


def _ping(home: Home, *how: str) -> None:
    for _ in range(2):  # one at a time: after a first reply ping waits for the next no longer than two round trips
        shown = attempt(*inside(home.lan, "ping", "-n", "-c", "1", "-W", "5", *how, INTERNET_HOST))
        if shown.returncode:
            raise LabError(f"{home.name}: an echo reply is missing:\n{shown.stdout}")


def hairpin(lab: Lab) -> str:
    """RFC 7596 section 6.2: from home to home, also behind one IPv4 address, and not through the internet."""
    homes = lab.topology.homes
    before = _received_v4(lab)
    pairs = [(homes[0], homes[1]), (homes[1], homes[0]), (homes[2], homes[0]), (homes[0], homes[3])]
    for source, target in pairs:
        to = f"{target.ipv4}:{target.forwarded_port}"
        listen = f"{target.lan_address(10)}:{FORWARDED_TO}"
        check_ports(source, list(udp_exchange(lab, (target.lan, listen), (source.lan, to), 5, 700)))
        tcp_transfer(lab, (target.lan, listen), (source.lan, ""), to, 1 << 20)
    moved = _received_v4(lab) - before
    if moved > 50:  # ARP and the like
        raise LabError(f"{moved} packets of the homes' traffic crossed the internet side")
    return ", ".join(f"{a.name} -> {b.name}" for a, b in pairs) + ": UDP and 1 MiB of TCP each"


def _received_v4(lab: Lab) -> int:
    path = "/sys/class/net/v4/statistics/rx_packets"
    return int(run(*inside(INTERNET, "cat", path)))


def large_datagrams(lab: Lab) -> str:
    """IPv4 fragments both ways: the question's and the answer's; from either side."""
    for home in lab.topology.homes:
        check_ports(home, list(udp_exchange(lab, (INTERNET, SERVICE), (home.lan, SERVICE), 10, LARGE_DATAGRAM)))
        listen = f"{home.lan_address(10)}:{FORWARDED_TO}"
        to = f"{home.ipv4}:{home.forwarded_port}"
        udp_exchange(lab, (home.lan, listen), (INTERNET, to), 10, LARGE_DATAGRAM)
    return f"10 of {LARGE_DATAGRAM} octets each way, from either side, for {len(lab.topology.homes)} homes"


def encap_limit_option(lab: Lab) -> str:
    """RFC 2473 section 4.1.1, written by the kernel: it is stepped over."""
    home = lab.topology.homes[3]
    source = f"{home.ipv4}:4242"
    with (
        beside(lab, INTERNET, "udp-answer", "udp-answer", "--listen", SERVICE) as receiver,
        beside(lab, ACCESS, "next-headers", "next-headers", "--interface", "v6") as watch,
    ):
        sent = role(lab, home.name, "encap-limit", "encap-limit", "--source", source, "--connect", SERVICE,
                    "--tunnel", str(home.tunnel_source), BR_ADDRESS)  # fmt: skip
        time.sleep(0.3)
        seen = seen_by(receiver)
        headers = seen_by(watch)["next_headers"]
    if ENCAP_LIMIT_HEADER not in headers:
        raise LabError(f"the kernel wrote no destination options header: next headers {headers}")
    expect("payload", seen["last"], sent["payload"])
    expect("source", list(seen["peers"]), [source])
    return f"a packet with the option arrived from {source}"


def lossy_transfer(lab: Lab, size: int) -> str:
    """1 % of the packets lost in each direction, and every 50th late."""
    home = lab.topology.homes[0]
    with _reordered(lab, home), _lossy():
        speed = tcp_transfer(lab, (INTERNET, SERVICE), (home.lan, ""), SERVICE, size, _TRANSFER_S)
        lost = _lost()
    if not lost:
        raise LabError("no packet was lost: the transfer did not go through the relay")
    return f"{size >> 20} MiB, SHA-256 right, {speed:.0f} Mbit/s, {lost} packets lost"


@contextmanager
def _reordered(lab: Lab, home: Home) -> Iterator[None]:
    """Both directions of a home's softwire go through the relay; what comes out of it takes the real way."""
    relay = lab.module(ACCESS, "reorder", "pylwaftr.lab.reorder", "shuffle", "50")
    relay.wait_for_line("ready", 10.0)
    ways = ((f"{BR_ADDRESS}/128", V6_ROUTER), (str(home.prefix), home.wan_address(2)))
    ip = ("ip", "-6", "-n", ACCESS)
    run(*ip, "rule", "add", "iif", "shuffle", "lookup", "100")
    try:
        for network, real in ways:
            run(*ip, "route", "add", network, "via", real, "table", "100")
            run(*ip, "route", "replace", network, "dev", "shuffle")
        yield
    finally:
        for network, real in ways:
            attempt(*ip, "route", "replace", network, "via", real)
        attempt(*ip, "route", "flush", "table", "100")
        attempt(*ip, "rule", "del", "iif", "shuffle", "lookup", "100")
        lab.stop(relay)


_LOSS = """table ip6 lab {
  counter lost { }
  chain through {
    type filter hook forward priority 0; policy accept;
    iifname "shuffle" numgen random mod 100 < 1 counter name lost drop
  }
}
"""


@contextmanager
def _lossy() -> Iterator[None]:
    run(*inside(ACCESS, "nft", "-f", "-"), given=_LOSS)
    try:
        yield
    finally:
        attempt(*inside(ACCESS, "nft", "delete", "table", "ip6", "lab"))


def _lost() -> int:
    shown = re.search(r"packets (\d+)", run(*inside(ACCESS, "nft", "list", "counter", "ip6", "lab", "lost")))
    return int(shown[1]) if shown else 0


def path_mtu_upstream(lab: Lab) -> str:
    """The lwB4 learns from ICMPv6 packet too big, the LAN host from the lwB4's ICMPv4 3/4."""
    home, seen = lab.topology.homes[0], []
    for mtu in PATH_MTUS:
        run("ip", "-6", "-n", ACCESS, "route", "replace", f"{BR_ADDRESS}/128", "via", V6_ROUTER, "mtu", str(mtu))
        run("ip", "-n", home.lan, "route", "flush", "cache")
        shown = run(*inside(home.lan, "tracepath", "-n", "-m", "10", INTERNET_HOST))
        found = re.search(r"Resume: pmtu (\d+)", shown)
        reached = f"{INTERNET_HOST} " in shown and "reached" in shown
        expect(
            f"tracepath over a path of {mtu}: path MTU, reached", (found and int(found[1]), reached), (mtu - 40, True)
        )
        seen.append(f"{mtu - 40} over {mtu}")
    return "tracepath found " + ", ".join(seen)


def path_mtu_downstream(lab: Lab) -> str:
    """The router learns from ICMPv6 packet too big, the internet host from the ICMPv4 3/4 that it relays."""
    home, seen = lab.topology.homes[0], []
    to = f"{home.ipv4}:{home.forwarded_port}"
    listen = f"{home.lan_address(10)}:{FORWARDED_TO}"
    for mtu in PATH_MTUS:
        run("ip", "-6", "-n", ACCESS, "route", "replace", str(home.prefix), "via", home.wan_address(2), "mtu", str(mtu))
        run("ip", "-n", INTERNET, "route", "flush", "cache")
        with beside(lab, home.lan, "udp-answer", "udp-answer", "--listen", listen):
            found = role(lab, INTERNET, "pmtu", "pmtu", "--connect", to)
        expect(f"path of {mtu}: path MTU, answered", (found["pmtu"], found["answered"]), (mtu - 40, True))
        seen.append(f"{mtu - 40} over {mtu}")
    return "found " + ", ".join(seen)


def small_path_transfer(lab: Lab) -> str:
    """TCP with DF over the path of 1280 octets, down and up."""
    home = lab.topology.homes[0]
    for name in (INTERNET, home.lan):
        run("ip", "-n", name, "route", "flush", "cache")
    down = tcp_transfer(lab, (INTERNET, SERVICE), (home.lan, ""), SERVICE, 8 << 20)
    up = tcp_transfer(lab, (home.lan, ""), (INTERNET, SERVICE), SERVICE, 8 << 20)
    return f"8 MiB each, {down:.0f} Mbit/s down, {up:.0f} Mbit/s up"
