"""The sockets of the lwB4, and what it asks its kernel.

The tunnel is a raw socket of protocol 4. Its kernel reassembles outer fragments, steps over extension headers, and
hands over packets between the softwire's two addresses alone, for the socket is bound to the one and connected to the
other (RFC 7596 section 5.2: discard what is not from the lwAFTR). Outer headers and outer fragments are ours.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from .. import nft
from ..host import HostError
from ..softwire import Softwire

_IPV6_MTU, _IPV6_HDRINCL, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 24, 36, 32, 33
_SOCKET_BUFFER = 8 << 20
_PCP_PORT = 5351


def open_tunnel(softwire: Softwire) -> socket.socket:
    try:
        tunnel = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_IPIP)
    except PermissionError:
        raise HostError("raw sockets need root (CAP_NET_RAW): run this as root") from None
    tunnel.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
    tunnel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
        tunnel.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)
    _bind(tunnel, softwire)
    try:
        tunnel.connect((str(softwire.aftr), 0))
    except OSError as fault:
        raise HostError(f"no way to the lwAFTR {softwire.aftr}: {fault.strerror}: add an IPv6 route") from None
    return tunnel


def open_icmp6(softwire: Softwire) -> socket.socket:
    """Errors about the tunnel, from any router on the way: types 1 to 4."""
    errors = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    blocked = struct.pack("=8I", 0xFFFFFFFF & ~0x1E, *[0xFFFFFFFF] * 7)
    errors.setsockopt(socket.IPPROTO_ICMPV6, 1, blocked)  # ICMPV6_FILTER
    _bind(errors, softwire)
    return errors


def _bind(sock: socket.socket, softwire: Softwire) -> None:
    sock.setblocking(False)
    try:
        sock.bind((str(softwire.source), 0))
    except OSError as fault:
        if fault.errno != errno.EADDRNOTAVAIL:
            raise
        raise HostError(
            f"the tunnel source {softwire.source} is not an address of this machine: add it, or name --wan"
        ) from None


def flush_connections() -> None:
    """RFC 7596 section 5.1: no mapping of another address or port set lives on. Deletes the marked connections."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netfilter:  # NETLINK_NETFILTER
        # CTA_MARK and CTA_MARK_MASK: lengths and types in host order, values in network order
        mark, mask = struct.pack("!I", nft.MARK), struct.pack("!I", nft.MARK_MASK)
        attributes = struct.pack("=HH", 8, 8) + mark + struct.pack("=HH", 8, 21) + mask
        body = struct.pack("!BBH", socket.AF_INET, 0, 0) + attributes
        head = struct.pack("=IHHII", 16 + len(body), (1 << 8) | 2, 1, 1, 0)  # IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST
        with suppress(OSError):  # a kernel without connection tracking has nothing to flush
            netfilter.send(head + body)


def path_mtu(tunnel: socket.socket) -> int:
    """What the kernel knows of the way to the lwAFTR."""
    return tunnel.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)


def resolve(aftr: str) -> IPv6Address:
    """Of an address or a name (RFC 6334); of several addresses the first that the resolver gives."""
    with suppress(ValueError):
        return IPv6Address(aftr)
    try:
        found = socket.getaddrinfo(aftr, None, socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError as fault:
        raise HostError(f"the lwAFTR's name {aftr}: {fault.strerror}: check the name and the resolver") from None
    return IPv6Address(found[0][4][0])


def chosen_source(aftr: IPv6Address) -> IPv6Address:
    """The address that this machine would send from (RFC 6724)."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(aftr), _PCP_PORT))
        except OSError as fault:
            raise HostError(f"no way to the lwAFTR {aftr}: {fault.strerror}: add an IPv6 route") from None
        return IPv6Address(probe.getsockname()[0])


def open_lan_server(address: IPv4Address) -> socket.socket:
    """For PCP from the LAN, and announcements to it."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setblocking(False)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address.packed)
    try:
        server.bind((str(address), _PCP_PORT))
    except OSError as fault:
        server.close()
        raise HostError(
            f"PCP for the LAN on {address}: {fault.strerror}: stop what listens there, or use --no-lan-pcp"
        ) from None
    return server
