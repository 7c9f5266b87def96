"""The router's control side in the demonstration: asked by its own commands, and by what the hosts see change."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

from .commands import LabError, attempt, inside, run
from .lifecycle import Lab
from .steps import SERVICE, Step, check_ports, expect, udp_exchange
from .topology import INTERNET, INTERNET_HOST, METRICS, ROUTER, Home

Row = tuple[str, str, str, str]  # address, ports as offset/length/PSID, B4, source
_SETTLED_S = 15.0


def row_of(home: Home, source: str) -> Row:
    ports = home.ports
    return str(home.ipv4), f"{ports.offset}/{ports.length}/{ports.psid}", str(home.tunnel_source), source


def table(lab: Lab) -> set[Row]:
    return {_row(one) for one in lab.ask("bindings", "ls")}


def _row(one: dict[str, Any]) -> Row:
    ports = f"{one['psid_offset']}/{one['psid_len']}/{one['psid']}"
    return one["ipv4"], ports, one["b4_ipv6"], one["source"]


def expect_table(lab: Lab, wanted: Iterable[Row]) -> None:
    """Exactly `wanted`, the homes of the configuration and what PCP has granted, once it is so."""
    right = {row_of(home, "config") for home in lab.topology.homes} | set(wanted)
    right |= {_row(one["binding"] | {"source": "pcp"}) for one in lab.ask("pcp", "mappings")}
    deadline = time.monotonic() + _SETTLED_S
    while (seen := table(lab)) != right:
        if time.monotonic() > deadline:
            raise LabError(f"the table has too much: {sorted(seen - right)}, and lacks: {sorted(right - seen)}")


def gets_through(lan: str, count: int = 1) -> bool:
    return not attempt(*inside(lan, "ping", "-n", "-c", str(count), "-i", "0.2", "-W", "1", INTERNET_HOST)).returncode


def expect_through(lan: str, wanted: bool) -> None:
    expect(f"a ping from {lan} is answered", gets_through(lan), wanted)


def lookup(lab: Lab) -> str:
    """Who uses an address and port that the internet saw?"""
    home = lab.topology.homes[0]
    (peer,) = udp_exchange(lab, (INTERNET, SERVICE), (home.lan, SERVICE), 1, 64)
    (found,) = lab.ask("lookup", peer)
    expect(f"B4 that uses {peer}", found["binding"]["b4_ipv6"], str(home.tunnel_source))
    outside = f"{home.ipv4}:{home.forwarded_port - 1}"
    expect(f"who has {outside}", lab.cli("lookup", outside, "--json", status=3), "")
    return f"{peer} is {home.tunnel_source}, {home.name}; {outside} is nobody's"


def binding_over_api(lab: Lab) -> str:
    """A home without a binding gets one, and loses it."""
    (home,) = lab.topology.free_homes
    ports = ("--psid", str(home.ports.psid))
    expect_through(home.lan, False)
    lab.cli(
        "bindings", "add", str(home.ipv4), *ports, "--psid-len", str(home.ports.length), "--b4", str(home.tunnel_source)
    )
    peers = udp_exchange(lab, (INTERNET, SERVICE), (home.lan, SERVICE), 10, 64)
    check_ports(home, list(peers))
    lab.cli("bindings", "rm", str(home.ipv4), *ports)
    expect_through(home.lan, False)
    return f"{home.name}: nothing, then 10 datagrams from {', '.join(peers)}, then nothing"


def history(lab: Lab) -> str:
    """The binding of the step before is gone, but who held it is known."""
    (home,) = lab.topology.free_homes
    port = home.forwarded_port
    lives = [life for life in lab.ask("history", f"{home.ipv4}:{port}") if life["binding"]["b4_ipv6"]]
    if not lives:
        raise LabError(f"nobody is known to have held {home.ipv4}:{port}")
    last = lives[-1]
    expect(f"B4 that held {home.ipv4}:{port}", last["binding"]["b4_ipv6"], str(home.tunnel_source))
    if not last.get("began") or not last.get("ended"):
        raise LabError(f"the life has no begin or no end: {last}")
    expect("who has it now", lab.cli("lookup", f"{home.ipv4}:{port}", "--json", status=3), "")
    return f"{home.ipv4}:{port} was {home.name} from {last['began']} to {last['ended']}"


def health_and_metrics(lab: Lab) -> str:
    (health,) = lab.ask("health")
    expect("parts that do not serve", sorted(part for part, good in health["parts"].items() if not good), [])
    name = 'lwaftr_bindings{source="config"}'
    found = metric(lab, name)
    expect(name, found, float(len(lab.topology.homes)))
    return f"serving: {', '.join(sorted(health['parts']))}; {name} {found:.0f}"


def metric(lab: Lab, sample: str) -> float:
    page = run(*inside(ROUTER, "curl", "-sS", "--max-time", "5", f"http://{METRICS}/metrics"))
    found = re.search(rf"^{re.escape(sample)} (\S+)$", page, re.MULTILINE)
    if found is None:
        raise LabError(f"http://{METRICS}/metrics has no {sample}")
    return float(found[1])


CONTROL = (
    Step("lookup", lookup),
    Step("binding over the API", binding_over_api),
    Step("history", history),
    Step("health and metrics", health_and_metrics),
)
