"""Leasequery servers as the configuration names them: who they are, what is believed, and how they are reached."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Sequence
from pathlib import Path

from pylwaftr.config.services import LeaseServer, PeerTls
from pylwaftr.daemon.leasequery import Endpoint
from pylwaftr.dhcp.connection import Timers
from pylwaftr.dhcp.leasequery import Settings
from pylwaftr.dhcp.leases import Policy
from pylwaftr.dhcp.requestor import Server


def own_duid() -> bytes:
    """DUID-UUID (RFC 6355) that stays with this host and does not give its machine-id away."""
    host = b""
    for file in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        with contextlib.suppress(OSError):
            host = host or file.read_bytes().strip()
    return b"\0\4" + hashlib.blake2b(host, digest_size=16, person=b"pylwaftr-duid").digest()


def tls_context(wanted: PeerTls | None) -> ssl.SSLContext:
    """TLS 1.2 at least (RFC 9325 section 3.1.1), the server's name verified, our certificate if there is one."""
    context = ssl.create_default_context(cafile=None if wanted is None or wanted.ca is None else str(wanted.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if wanted is not None and wanted.cert is not None:
        context.load_cert_chain(wanted.cert, wanted.key)
    return context


def name_of(server: LeaseServer) -> str:
    return f"[{server.address}]:{server.port}" if ":" in server.address else f"{server.address}:{server.port}"


def policy_of(server: LeaseServer) -> Policy:
    hold_s, offsets = server.expiry_hold_s, server.accept_psid_offset
    return Policy(name_of(server), server.pools, server.priority, hold_s, offsets=offsets)


def of_config(servers: Sequence[LeaseServer]) -> tuple[list[Server], dict[str, Endpoint]]:
    """Raises OSError for the files of TLS; ssl.SSLError is one."""
    known: list[Server] = []
    endpoints: dict[str, Endpoint] = {}
    for server in servers:
        name, scale = name_of(server), server.timer_scale
        timers = Timers(scale=scale, poll_s=server.poll_interval_s / scale)
        settings = Settings(own_duid(), server.profile, server.require_tls, server.links, timers, server.active_query)
        known.append(Server(settings, policy_of(server)))
        tls = tls_context(server.tls) if server.require_tls else None
        source = None if server.source is None else str(server.source)
        peer = None if server.tls is None else server.tls.name
        endpoints[name] = Endpoint(server.address, server.port, source, tls, peer)
    return known, endpoints


def reached_otherwise(old: Sequence[LeaseServer], new: Sequence[LeaseServer]) -> set[str]:
    """Names of servers whose connections are made with other settings than before."""
    before = {name_of(server): _connection(server) for server in old}
    return {name for server in new if before.get(name := name_of(server), ()) not in ((), _connection(server))}


def _connection(server: LeaseServer) -> tuple[object, ...]:
    return server.source, server.require_tls, server.tls
