"""What has to fit among the services: pools, lifetimes, listeners, certificates."""

import os
from pathlib import Path

from pylwaftr.config.checks import unusable
from pylwaftr.config.faults import Report
from pylwaftr.config.model import Interfaces
from pylwaftr.config.services import Api, Fleet, Leasequery, Pcp, Tls


def check_pcp(report: Report, pcp: Pcp, sides: Interfaces, max_bindings: int) -> None:
    if report.sound("pcp.server_addresses"):
        if pcp.enabled and not pcp.server_addresses:
            report.error("pcp.server_addresses", "is empty, but PCP is enabled; give 192.0.0.1 or switch PCP off")
        for index, address in enumerate(pcp.server_addresses):
            if reason := unusable(address):
                report.error(f"pcp.server_addresses[{index}]", f"{address} is {reason}")
    if report.sound("pcp.pools"):
        _pools(report, pcp, sides, max_bindings)
    times = pcp.lifetime
    if report.sound("pcp.lifetime") and not times.min_s <= times.default_s <= times.max_s:
        order = f"min_s {times.min_s}, default_s {times.default_s}, max_s {times.max_s}"
        report.error("pcp.lifetime", f"must not decrease from min_s over default_s to max_s, but is {order}")
    third = pcp.third_party
    if third.listen is not None and not third.allow and report.sound("pcp.third_party"):
        report.warn("pcp.third_party.allow", "is empty: the listener will refuse everybody; give their prefixes")


def _pools(report: Report, pcp: Pcp, sides: Interfaces, max_bindings: int) -> None:
    own = [address.ip for address in sides.v4.addresses]
    sets = 0
    for index, pool in enumerate(pcp.pools):
        path = f"pcp.pools[{index}]"
        usable = len(pool.psids())
        sets += usable * pool.ipv4.num_addresses
        reason = unusable(pool.ipv4.network_address) or unusable(pool.ipv4.broadcast_address)
        if reason is not None:
            report.error(f"{path}.ipv4", f"{pool.ipv4} holds {reason}; give a prefix of public addresses")
        for address in own:
            if address in pool.ipv4:
                remedy = "packets to it are the router's own (RFC 1812 section 5.2.3): take it out of the pool"
                report.error(f"{path}.ipv4", f"{pool.ipv4} holds the own address {address}; {remedy}")
        for address in pcp.server_addresses:
            if address in pool.ipv4:
                report.error(f"{path}.ipv4", f"{pool.ipv4} holds the PCP server's address {address}")
        for other in range(index):
            if pool.ipv4.overlaps(pcp.pools[other].ipv4):
                first = f"pcp.pools[{other}] ({pcp.pools[other].ipv4}, line {report.line(f'pcp.pools[{other}]')})"
                report.error(f"{path}.ipv4", f"{pool.ipv4} overlaps {first}; every address belongs to one pool")
        if usable == 0:
            remedy = "sets with ports 5350, 5351 or exclude_ports are left out: raise psid_len"
            report.error(f"{path}.psid_len", f"leaves no port set to hand out; {remedy}")
    if sets > max_bindings and report.sound("dataplane.max_bindings"):
        message = f"together hold {sets} port sets, more than dataplane.max_bindings ({max_bindings}) has room for"
        report.warn("pcp.pools", message)


def check_leasequery(report: Report, leasequery: Leasequery) -> None:
    seen: set[tuple[str, int]] = set()
    for index, server in enumerate(leasequery.servers if report.sound("leasequery.servers") else ()):
        path = f"leasequery.servers[{index}]"
        if (server.address, server.port) in seen:
            report.error(f"{path}.address", f"{server.address} port {server.port} is given twice; remove one")
        seen.add((server.address, server.port))
        if server.require_tls and (server.tls is None or server.tls.ca is None):
            report.warn(f"{path}.tls", "names no ca: the system's certificates decide whether the server is trusted")
        if server.source is not None and ":" in server.address and server.source.version != 6:
            report.error(f"{path}.source", f"{server.source} cannot reach the IPv6 address {server.address}")
        if server.tls is not None:
            _tls(report, f"{path}.tls", server.tls)


def check_api(report: Report, api: Api) -> None:
    if not report.sound("api"):
        return
    if api.tls is not None:
        _tls(report, "api.tls", api.tls)
        if api.tls.require_client_cert and api.tls.ca is None:
            remedy = "give the file of the CA that signs them, or set require_client_cert: false"
            report.error("api.tls.ca", f"is needed to verify the clients' certificates; {remedy}")
    elif api.listen is not None and not api.listen.loopback and not api.allow_plaintext:
        remedy = "give api.tls, listen on a loopback address, or set api.allow_plaintext: true"
        report.error("api.listen", f"{api.listen} can be reached by others without TLS; {remedy}")
    if api.roles and api.tls is None:
        report.warn("api.roles", "has no effect without api.tls: roles go by the client's certificate")


def check_fleet(report: Report, fleet: Fleet | None) -> None:
    """The place of the settings is kept for the shared store; who fills it in has to know that there is none yet."""
    if fleet is None or not report.sound("fleet"):
        return
    missing = "is read, and nothing uses it yet: bindings are not shared with other routers, routes are not announced"
    report.warn("fleet", f"{missing}; give each router its bindings (docs/operations.md, Fail-over)")
    if fleet.etcd.tls is not None:
        _tls(report, "fleet.etcd.tls", fleet.etcd.tls)


def _tls(report: Report, path: str, tls: Tls) -> None:
    if (tls.cert is None) != (tls.key is None) and report.sound(path):
        report.error(path, "cert and key belong together; give both or neither")
    for name, file in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)):
        if file is not None and not _readable(file):
            # Only a warning: who checks a configuration is often not who may read the key.
            report.warn(f"{path}.{name}", f"{file} cannot be read here; the service that needs it will not start")


def _readable(file: Path) -> bool:
    return file.is_file() and os.access(file, os.R_OK)
