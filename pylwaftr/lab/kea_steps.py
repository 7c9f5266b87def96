"""DHCP 4o6 end to end: client in the home, Kea, its hook's journal, leasequery server, router, and back to the home."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from ipaddress import IPv6Address
from typing import Any

from . import kea
from .commands import LabError, inside, run
from .control_steps import expect_table, expect_through, row_of
from .lease_steps import leased, moved, only, start_b4, traffic
from .lifecycle import Lab
from .pcp_steps import until
from .steps import Step, expect
from .topology import DHCP_HOST, Home

_SHORT_S = 4


def client(lab: Lab, act: str, home: Home, *words: str) -> dict[str, Any]:
    """Its queries come from the tunnel address that `home` says."""
    command = (sys.executable, "-m", "pylwaftr.lab.dhcp_client", act, DHCP_HOST, str(home.tunnel_source), *words)
    said: dict[str, Any] = json.loads(run(*inside(home.name, *command)))
    return said


def expect_leased(ack: dict[str, Any], home: Home, tunnel: IPv6Address | None = None) -> None:
    """The ACK tells what `home` has, and the tunnel address of the query."""
    ports = home.ports
    told = {"ipv4": str(home.ipv4), "offset": ports.offset, "length": ports.length, "psid": ports.psid}
    told |= {"tunnel": str(tunnel or home.tunnel_source)}
    expect("leased", {name: ack.get(name) for name in told}, told)


def provisioned(lab: Lab) -> str:
    """All of it in one step, for the demonstration."""
    home = only(lab)
    kea.start(lab)
    expect_leased(client(lab, "lease", home, "--ipv4", str(home.ipv4)), home)
    leased(lab, home)
    traffic(lab, home)
    client(lab, "release", home, "--ipv4", str(home.ipv4))
    leased(lab)
    expect_through(home.lan, False)
    kea.stop(lab)
    return f"Kea leased {home.ipv4}, PSID {home.ports.psid} to {home.name}: 5 datagrams; released, and nothing"


def lease(lab: Lab) -> str:
    """DISCOVER to forwarding; the lwB4 uses what the ACK says."""
    home = only(lab)
    leased(lab)
    kea.start(lab)
    ack = client(lab, "lease", home, "--ipv4", str(home.ipv4))
    begin = time.monotonic()
    expect_leased(ack, home)
    leased(lab, home)
    seconds = time.monotonic() - begin
    traffic(lab, home)
    return f"{home.ipv4}, PSID {home.ports.psid} of {home.ports.length} bits, seen bound {seconds:.1f} s after the ACK"


def restart(lab: Lab) -> str:
    home = only(lab)
    kea.stop(lab)
    traffic(lab, home)
    kea.start(lab)
    expect_leased(client(lab, "renew", home, "--ipv4", str(home.ipv4)), home)
    leased(lab, home)
    return "forwarded on without it; renewed after it"


def new_address(lab: Lab) -> str:
    """The operator reserves another address for the client: its renewal is refused, and it has to begin anew.

    A tunnel address contains the IPv4 address (RFC 7596 section 5.1): the new one is told by one more renewal.
    """
    home, new = only(lab), moved(only(lab))
    kea.reserve(lab, new.ipv4)
    traffic(lab, home)
    expect("answer to the renewal", client(lab, "renew", home, "--ipv4", str(home.ipv4)), {"refused": True})
    leased(lab, home)  # Kea holds it until the client has another one
    expect_leased(client(lab, "lease", home), new, home.tunnel_source)
    address, ports, _, source = row_of(new, "dhcp")
    expect_table(lab, [(address, ports, str(home.tunnel_source), source)])
    expect_through(home.lan, False)
    start_b4(lab, new)
    expect_leased(client(lab, "renew", new, "--ipv4", str(new.ipv4)), new)
    leased(lab, new)
    traffic(lab, new)
    return f"{home.ipv4} refused, {new.ipv4} leased; the home uses it"


def release(lab: Lab) -> str:
    home = moved(only(lab))
    client(lab, "release", home, "--ipv4", str(home.ipv4))
    leased(lab)
    expect_through(home.lan, False)
    return "no binding, no answer"


def expiry(lab: Lab) -> str:
    """The history tells how long the binding lived: as long as the lease, and then not much longer."""
    home = moved(only(lab))
    where = f"{home.ipv4}:{home.forwarded_port}"
    before = len(lab.ask("history", where))
    ack = client(lab, "lease", home, "--lifetime", str(_SHORT_S))
    expect("lifetime", ack["lifetime"], _SHORT_S)
    until("bound and unbound", lambda: "ended" in (lab.ask("history", where)[before:] or [{}])[-1], 30.0)
    leased(lab)
    expect_through(home.lan, False)
    life = lab.ask("history", where)[-1]
    began, ended = (datetime.fromisoformat(life[name]) for name in ("began", "ended"))
    lived = (ended - began).total_seconds()
    if not _SHORT_S - 1.5 <= lived <= _SHORT_S + 5:  # times in DHCP are whole seconds
        raise LabError(f"a lease of {_SHORT_S} s was bound for {lived:.1f} s")
    until("expired by Kea's own words", lambda: _last_of_journal(lab) == (str(home.ipv4), "EXPIRED"), 10.0)
    leased(lab)
    return f"a lease of {_SHORT_S} s was bound for {lived:.1f} s; Kea says that it expired"


def _last_of_journal(lab: Lab) -> tuple[str, str]:
    """What Kea's hook has told last."""
    told = json.loads(lab.journal.read_text().splitlines()[-1])
    return told["ipv4"], told["state"]


LEASED = (Step("home leased by DHCP 4o6", provisioned),)
KEA = (
    Step("Kea: lease by DHCP 4o6", lease),
    Step("Kea: restarted", restart),
    Step("Kea: another address", new_address),
    Step("Kea: release", release),
    Step("Kea: expiry", expiry),
)
