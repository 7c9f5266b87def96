"""DHCP leases that become bindings: the journal of a leasequery server is written here, and the router has to follow.

After each step the router's table is exactly what the server knows.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from ipaddress import IPv4Address

from ..b4.softwire import PortSet
from .commands import LabError
from .control_steps import expect_table, expect_through, metric, row_of
from .dhcp_client import CLIENT
from .lifecycle import Lab
from .pcp_steps import until
from .steps import SERVICE, TRAFFIC, Step, beside, check_ports, expect, said, udp_exchange
from .topology import INTERNET, Home

_START_S = 20.0
_ROUNDS = 3
_LIFETIME_S = 3600
_OTHER_ADDRESS = IPv4Address("203.0.113.41")
_ELSEWHERE = "2001:db8:1:800::1"
_NOBODY = Home(7, IPv4Address("203.0.113.42"), PortSet(0, 6, 9))  # a subscriber with leases and no home


def only(lab: Lab) -> Home:
    (home,) = lab.topology.free_homes
    return home


def moved(home: Home) -> Home:
    """As it is after a renewal that brought another address."""
    return replace(home, ipv4=_OTHER_ADDRESS)


def leased(lab: Lab, *homes: Home) -> None:
    """The table has leases for these homes and for nobody else, and the router says where they are from."""
    expect_table(lab, [row_of(home, "dhcp") for home in homes])
    (source,) = lab.ask("leasequery", "status")
    expect("leases by `leasequery status`", source["leases"], len(homes))


def write(lab: Lab, home: Home, state: str) -> float:
    """One line of the journal, and when it was written."""
    ports = home.ports
    told = {"at": int(time.time()), "state": state, "ipv4": str(home.ipv4), "offset": ports.offset}
    told |= {"psid_len": ports.length, "psid": ports.psid, "client": CLIENT}
    if state == "ACTIVE":
        told |= {"b4": str(home.tunnel_source), "lifetime": _LIFETIME_S}
    with lab.journal.open("a") as journal:
        journal.write(json.dumps(told) + "\n")
    return time.monotonic()


def start_b4(lab: Lab, home: Home) -> None:
    """Again, as its DHCP client would after another ACK."""
    lab.stop_b4(home)
    lab.start_home(home).wait_for_line("ready", _START_S)


def traffic(lab: Lab, home: Home) -> None:
    check_ports(home, list(udp_exchange(lab, (INTERNET, SERVICE), (home.lan, SERVICE), 5, 512)))


def lease(lab: Lab) -> str:
    """Milliseconds from the line in the journal to the first answer from the internet."""
    home = only(lab)
    leased(lab)
    expect_through(home.lan, False)
    times = []
    with beside(lab, INTERNET, "udp-answer", "udp-answer", "--listen", SERVICE, "--timeout", "60"):
        for _ in range(_ROUNDS - 1):
            times.append(_until_answer(lab, home))
            write(lab, home, "RELEASED")
        times.append(_until_answer(lab, home))
    leased(lab, home)
    traffic(lab, home)
    shown = ", ".join(f"{1000 * seconds:.0f}" for seconds in sorted(times))
    return f"from the lease to the first answer: {shown} ms, with all of the lab on this machine"


def _until_answer(lab: Lab, home: Home) -> float:
    asking = lab.module(home.lan, "first-answer", TRAFFIC, "first-answer", "--connect", SERVICE)
    try:
        asking.wait_for_line("ready", 10.0)
        time.sleep(0.3)  # what it has sent until now was not answered
        written = write(lab, home, "ACTIVE")
        answered = float(said(asking, _START_S)["at"])
    finally:
        lab.stop(asking)
    if answered < written:
        raise LabError(f"an answer came {written - answered:.3f} s before the lease")
    return answered - written


def release(lab: Lab) -> str:
    home = only(lab)
    write(lab, home, "RELEASED")
    leased(lab)
    expect_through(home.lan, False)
    return "no binding, no answer"


def new_address(lab: Lab) -> str:
    """A renewal that ends with another address: the old one is released."""
    home = only(lab)
    write(lab, home, "ACTIVE")
    leased(lab, home)
    write(lab, home, "RELEASED")
    write(lab, moved(home), "ACTIVE")
    leased(lab, moved(home))
    start_b4(lab, moved(home))
    traffic(lab, moved(home))
    return f"{home.ipv4} -> {_OTHER_ADDRESS}, the home uses it"


def responder_restart(lab: Lab) -> str:
    """While it is away what was known forwards on; then the router has what changed meanwhile."""
    home, other = only(lab), _NOBODY
    lab.stop_responder(signal.SIGKILL)
    write(lab, other, "ACTIVE")
    write(lab, other, "RELEASED")
    write(lab, moved(home), "RELEASED")
    write(lab, home, "ACTIVE")
    traffic(lab, moved(home))
    expect_table(lab, [row_of(moved(home), "dhcp")])
    begin = time.monotonic()
    lab.start_responder()
    leased(lab, home)
    seconds = time.monotonic() - begin
    start_b4(lab, home)
    traffic(lab, home)
    return f"forwarded on without it; two changes meanwhile, right {seconds:.1f} s after its start"


def router_restart(lab: Lab) -> str:
    """Killed. A lease that ended meanwhile is gone after it, one that began is there."""
    home, other = only(lab), _NOBODY
    lab.stop_router(signal.SIGKILL)
    write(lab, home, "RELEASED")
    write(lab, moved(home), "ACTIVE")
    write(lab, other, "ACTIVE")
    lab.start_router()
    begin = time.monotonic()
    leased(lab, moved(home), other)
    seconds = time.monotonic() - begin
    write(lab, other, "RELEASED")
    write(lab, moved(home), "RELEASED")
    leased(lab)
    start_b4(lab, home)
    return f"right {seconds:.1f} s after its start"


def only_over_tls(lab: Lab) -> str:
    """Without TLS, or with a certificate of a stranger's, the router neither asks nor believes; what it knows stays."""
    home, other = only(lab), _NOBODY
    write(lab, home, "ACTIVE")
    leased(lab, home)
    refused = {"the server refuses TLS": ("--allow-plaintext",), "certificate verify failed": lab.certified("other")}
    for why, options in refused.items():
        lab.stop_responder()
        lab.start_responder(*options)
        write(lab, other, "ACTIVE")
        assert lab.router is not None
        lab.router.wait_for_text(why, _START_S)
        expect_table(lab, [row_of(home, "dhcp")])
        write(lab, other, "RELEASED")
    traffic(lab, home)
    lab.stop_responder()
    lab.start_responder()
    write(lab, home, "RELEASED")
    leased(lab)
    return f"{' and '.join(refused)}: no news, and no lease lost; then TLS again"


def one_connection(lab: Lab) -> str:
    """The server refuses a second one: the stream makes way for the full bulk, and goes on from where that began."""
    home, other = only(lab), _NOBODY
    lab.stop_responder()
    lab.start_responder(*lab.certified("server"), "--max-clients", "1")
    write(lab, home, "ACTIVE")
    leased(lab, home)
    before = _last_bulk(lab)
    lab.cli("leasequery", "resync")
    assert lab.router is not None
    lab.router.wait_for_text("the server takes one connection at a time", 30.0)
    write(lab, other, "ACTIVE")
    seconds = until("a full bulk", lambda: _last_bulk(lab) != before, 30.0)
    leased(lab, home, other)
    traffic(lab, home)
    lab.stop_responder()
    lab.start_responder()
    for one in (home, other):
        write(lab, one, "RELEASED")
    leased(lab)
    return f"a full bulk over the only connection after {seconds:.1f} s, and the change meanwhile"


def _last_bulk(lab: Lab) -> str | None:
    (source,) = lab.ask("leasequery", "status")
    found: str | None = source.get("last_bulk")
    return found


def precedence(lab: Lab) -> str:
    """What the operator binds goes first; the lease waits behind it and is back when it goes."""
    home = only(lab)
    write(lab, home, "ACTIVE")
    leased(lab, home)
    words = (str(home.ipv4), "--psid", str(home.ports.psid))
    lab.cli("bindings", "add", *words, "--psid-len", str(home.ports.length), "--b4", _ELSEWHERE, "--replace")
    address, ports, _, _ = row_of(home, "operator")
    expect_table(lab, [(address, ports, _ELSEWHERE, "operator")])
    shadowed = [one["b4_ipv6"] for one in lab.ask("bindings", "ls", "--shadowed")]
    expect("waits behind the operator's", shadowed, [str(home.tunnel_source)])
    expect_through(home.lan, False)
    lab.cli("bindings", "rm", *words)
    leased(lab, home)
    traffic(lab, home)
    return "the operator's binding, then the lease again"


def subscriber_limit(lab: Lab) -> str:
    """A second softwire of the /56 is one too many; it is bound when the first has gone."""
    home = only(lab)
    write(lab, moved(home), "ACTIVE")
    until("in quarantine by the metrics", lambda: metric(lab, "lwaftr_leases_over_limit") == 1.0)
    (source,) = lab.ask("leasequery", "status")
    expect("quarantined by `leasequery status`", source["quarantined"], 1)
    (waiting,) = lab.ask("leasequery", "leases", "--kept-out")
    expect(
        "why, by `leasequery leases`", (waiting["ipv4"], waiting["standing"]), (str(_OTHER_ADDRESS), "subscriber_limit")
    )
    expect_table(lab, [row_of(home, "dhcp")])
    write(lab, home, "RELEASED")
    leased(lab, moved(home))
    write(lab, moved(home), "RELEASED")
    leased(lab)
    return f"{_OTHER_ADDRESS} waited until {home.ipv4} was released"


LEASES = (
    Step("lease: forwarding", lease),
    Step("lease: release", release),
    Step("lease: another address", new_address),
    Step("lease: server killed", responder_restart),
    Step("lease: router killed", router_restart),
    Step("lease: only over TLS", only_over_tls),
    Step("lease: one connection", one_connection),
    Step("lease: precedence", precedence),
    Step("lease: subscriber limit", subscriber_limit),
)
