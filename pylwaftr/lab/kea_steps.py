"""DHCP 4o6 end to end: client in the home, Kea, its hook's journal, leasequery server, router, and back to the home."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from ipaddress import IPv4Address
from typing import Any

from ..b4.softwire import PortSet
from . import kea
from .commands import LabError, inside, run
from .control_steps import expect_through
from .lease_steps import leased, only, traffic
from .lifecycle import Lab
from .pcp_steps import until
from .steps import Step, expect
from .topology import DHCP_HOST, Home

_SHORT_S = 4


def client(lab: Lab, act: str, *words: str) -> dict[str, Any]:
    home = only(lab)
    command = (sys.executable, "-m", "pylwaftr.lab.dhcp_client", act, DHCP_HOST, str(home.tunnel_source), *words)
    said: dict[str, Any] = json.loads(run(*inside(home.name, *command)))
    return said


def home_of(lab: Lab, ack: dict[str, Any]) -> Home:
    """The home as the ACK tells it to be; the tunnel address stays that of the query."""
    home = only(lab)
    expect("tunnel address in the ACK", ack["tunnel"], str(home.tunnel_source))
    return Home(home.number, IPv4Address(ack["ipv4"]), PortSet(ack["offset"], ack["length"], ack["psid"]))


def lease(lab: Lab) -> str:
    """DISCOVER to forwarding; the lwB4 uses what the ACK says."""
    leased(lab)
    kea.start(lab)
    ack = client(lab, "lease", "--ipv4", str(only(lab).ipv4))
    begin = time.monotonic()
    home = home_of(lab, ack)
    expect("leased", home, only(lab))
    leased(lab, home)
    seconds = time.monotonic() - begin
    traffic(lab, home)
    return f"{home.ipv4}, PSID {home.ports.psid} of {home.ports.length} bits, seen bound {seconds:.1f} s after the ACK"


def restart(lab: Lab) -> str:
    home = only(lab)
    for name in ("kea-dhcp4", "kea-dhcp6"):
        lab.stop(next(process for process in lab.processes if process.name == name))
    traffic(lab, home)
    kea.start(lab)
    ack = client(lab, "renew", "--ipv4", str(home.ipv4))
    expect("renewed", home_of(lab, ack), home)
    leased(lab, home)
    return "forwarded on without it; renewed after it"


def release(lab: Lab) -> str:
    client(lab, "release", "--ipv4", str(only(lab).ipv4))
    leased(lab)
    expect_through(only(lab).lan, False)
    return "no binding, no answer"


def expiry(lab: Lab) -> str:
    """The history tells how long the binding lived: as long as the lease, and then not much longer."""
    home = only(lab)
    where = f"{home.ipv4}:{home.forwarded_port}"
    before = len(lab.ask("history", where))
    ack = client(lab, "lease", "--ipv4", str(home.ipv4), "--lifetime", str(_SHORT_S))
    expect("lifetime", ack["lifetime"], _SHORT_S)
    until("bound and unbound", lambda: "ended" in (lab.ask("history", where)[before:] or [{}])[-1], 30.0)
    leased(lab)
    expect_through(home.lan, False)
    life = lab.ask("history", where)[-1]
    began, ended = (datetime.fromisoformat(life[name]) for name in ("began", "ended"))
    lived = (ended - began).total_seconds()
    if not _SHORT_S - 1.5 <= lived <= _SHORT_S + 5:  # times in DHCP are whole seconds
        raise LabError(f"a lease of {_SHORT_S} s was bound for {lived:.1f} s")
    return f"a lease of {_SHORT_S} s was bound for {lived:.1f} s"


KEA = (
    Step("Kea: lease by DHCP 4o6", lease),
    Step("Kea: restarted", restart),
    Step("Kea: release", release),
    Step("Kea: expiry", expiry),
)
