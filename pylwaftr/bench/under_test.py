"""The router under test, as far as a tester has to know it: its bindings, its addresses, who the tester is to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path

from pylwaftr import _core, addresses, binding_files, config
from pylwaftr.bench.plan import PlanFault, Ports, numbers
from pylwaftr.config import Config, row_checks
from pylwaftr.rows import Rows

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII | re.IGNORECASE)
_COUNT = re.compile(r"[0-9.]+[kM]?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Peer4:
    """One side: the router's address, or its MAC, and the tester's own address to ask from."""

    router: IPv4Address | None
    mac: bytes | None
    own: IPv4Address | None


@dataclass(frozen=True, slots=True)
class Peer6:
    router: IPv6Address | None
    mac: bytes | None
    own: IPv6Address | None


@dataclass(frozen=True, slots=True)
class UnderTest:
    rows: Rows
    v4: Peer4
    v6: Peer6
    host: IPv4Address


def by_formula(count: int) -> Rows:
    """64 port sets an address, each B4 in a /56 of its own."""
    rows: Rows = _core.bench_rows(0, count)
    return rows


def read(plan: Ports) -> UnderTest:
    """Raises PlanFault, ConfigFaults or OSError."""
    router = config.load(plan.config) if plan.config else None
    mac4, text4 = _mac_or_address(plan.router_v4)
    mac6, text6 = _mac_or_address(plan.router_v6)
    router4 = _ipv4("--router-v4", text4) if text4 else None
    router6 = _ipv6("--router-v6", text6) if text6 else None
    own4 = _ipv4("--own-v4", plan.own_v4) if plan.own_v4 else None
    own6 = _ipv6("--own-v6", plan.own_v6) if plan.own_v6 else None
    if router is not None:
        _no_tags(router)
        sides = router.interfaces
        mac4, mac6 = mac4 or sides.v4.mac, mac6 or sides.v6.mac
        router4, router6 = router4 or sides.v4.addresses[0].ip, router6 or sides.v6.addresses[0].ip
        own4, own6 = own4 or sides.v4.next_hop, own6 or sides.v6.next_hop
    for side, mac, address, own in (("v4", mac4, router4, own4), ("v6", mac6, router6, own6)):
        if mac is None and (address is None or own is None):
            raise PlanFault(
                f"--router-{side}: say the router's MAC address, or its address and in --own-{side} the tester's, "
                "or name its configuration with --config"
            )
    rows = _rows(plan, router)
    return UnderTest(rows, Peer4(router4, mac4, own4), Peer6(router6, mac6, own6), _ipv4("--host", plan.host))


def _rows(plan: Ports, router: Config | None) -> Rows:
    wanted = plan.bindings
    if _COUNT.fullmatch(wanted) and not Path(wanted).exists():
        rows = by_formula(numbers(wanted, least=0)[0])
    elif wanted:
        br = router.softwire.br_addresses[0].packed if router is not None else bytes(16)
        try:
            loaded = binding_files.load(Path(wanted), br)
        except binding_files.Unusable as fault:
            raise PlanFault(f"{wanted}: {fault}") from None
        if loaded.faults:
            first = loaded.faults[0]
            raise PlanFault(f"{wanted}:{first.line}: {first.field}: {first.message}")
        rows = loaded.rows
        _has_ports(wanted, rows)
    elif router is not None:
        rows = config.binding_rows(router)
    else:
        raise PlanFault("--bindings: name a file of bindings, or a number of them, or the router's --config")
    if len(rows) == 0:
        raise PlanFault("there is no binding to send through: name a file of bindings with --bindings")
    if not rows["br"].any(1).all():
        raise PlanFault(f"{wanted}: bindings without a BR address: add it to the file, or name the router's --config")
    return rows


def _has_ports(file: str, rows: Rows) -> None:
    for finding in row_checks.alone(rows)[1]:
        for row in finding.rows[:1].tolist():
            raise PlanFault(f"{file}: binding {row + 1}: {finding.field}: {finding.message(row)}")


def _no_tags(router: Config) -> None:
    for side in ("v4", "v6"):
        if getattr(router.interfaces, side).vlan is not None:
            raise PlanFault(f"interfaces.{side}.vlan: the tester sends frames without tags")


def _mac_or_address(text: str) -> tuple[bytes | None, str]:
    if _MAC.fullmatch(text):
        return bytes.fromhex(text.replace(":", "")), ""
    return None, text


def _ipv4(option: str, text: str) -> IPv4Address:
    try:
        return addresses.ipv4(text)
    except (ValueError, AddressValueError) as fault:
        raise PlanFault(f"{option}: {fault}") from None


def _ipv6(option: str, text: str) -> IPv6Address:
    try:
        return addresses.ipv6(text)
    except (ValueError, AddressValueError) as fault:
        raise PlanFault(f"{option}: {fault}") from None
