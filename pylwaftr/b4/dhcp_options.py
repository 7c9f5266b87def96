"""What a lwB4 learns by DHCP: the lwAFTR's name (DHCPv6 option 64, RFC 6334), PCP servers (RFC 7291: DHCPv6 86, DHCPv4
158). Octets in, values and remarks out. An option with a fault is left out whole, with a remark; the others count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

AFTR_NAME, V6_PCP_SERVER, V4_PCP_SERVER = 64, 86, 158
_LONGEST_NAME, _LONGEST_LABEL = 255, 63  # RFC 1035 section 2.3.4

Option: TypeAlias = tuple[int, bytes]  # code and data, without the length
Address: TypeAlias = IPv4Address | IPv6Address
Server: TypeAlias = tuple[Address, ...]  # all addresses of one PCP server


@dataclass(frozen=True, slots=True)
class Learned:
    aftr: str | None = None
    server: tuple[IPv4Address, ...] = ()  # of the PCP server that a softwire reaches
    remarks: tuple[str, ...] = ()


def learned(dhcp6: Iterable[Option], dhcp4: Iterable[Option] = ()) -> Learned:
    """All options that came, in their order; those of no use here are stepped over."""
    remarks: list[str] = []
    aftr: str | None = None
    named = False
    servers: list[Server] = []
    for code, data in dhcp6:
        try:
            if code == AFTR_NAME and not named:  # the first option counts, and no other
                named = True
                aftr = aftr_name(data)
            elif code == V6_PCP_SERVER:
                servers.append(pcp_server6(data))
        except ValueError as fault:
            remarks.append(f"DHCPv6 option {code} is not used: {fault}")
    try:
        # RFC 3396: several instances of a DHCPv4 option are the parts of one.
        if whole := b"".join(data for code, data in dhcp4 if code == V4_PCP_SERVER):
            servers = [*pcp_servers4(whole), *servers]
    except ValueError as fault:
        remarks.append(f"DHCPv4 option {V4_PCP_SERVER} is not used: {fault}")
    server = next((found for one in servers if (found := _inside(one))), ())
    if any(servers) and not server:
        remarks.append("no PCP server of DHCP has an IPv4 address, so none can be reached through the softwire")
    return Learned(aftr, server, tuple(remarks))


def aftr_name(data: bytes) -> str:
    """Domain names in the form of DNS, not compressed; the first one counts. Raises ValueError."""
    if not 3 < len(data) <= _LONGEST_NAME:
        raise ValueError(f"a name takes 4 to {_LONGEST_NAME} octets, not {len(data)}")
    names: list[str] = []
    at = 0
    while at < len(data):
        name, at = _name(data, at)
        names.append(name)
    return names[0]


def _name(data: bytes, at: int) -> tuple[str, int]:
    """And where the next one begins."""
    labels: list[str] = []
    while length := data[at]:
        if length > _LONGEST_LABEL:
            raise ValueError(f"octet {at} is no length of a label: {length}")
        label = data[at + 1 : at + 1 + length]
        at += 1 + length
        if at >= len(data):
            raise ValueError("it ends within the name")
        if not all(octet in _OF_HOSTS for octet in label) or label[:1] == b"-" or label[-1:] == b"-":
            raise ValueError(f"{label!r} is no part of a host's name")
        labels.append(label.decode("ascii"))
    if not labels:
        raise ValueError(f"octet {at} is the name of the root")
    return ".".join(labels), at + 1


_OF_HOSTS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


def pcp_server6(data: bytes) -> Server:
    """One server; several instances are several servers. Raises ValueError."""
    if not data or len(data) % 16:
        raise ValueError(f"{len(data)} octets are not addresses of 16 each")
    found = [IPv6Address(data[at : at + 16]) for at in range(0, len(data), 16)]
    return _usable([address.ipv4_mapped or address for address in found])


def pcp_servers4(data: bytes) -> list[Server]:
    """Lists, each with its length before it and of one server. Raises ValueError."""
    servers: list[Server] = []
    at = 0
    while at < len(data):
        length = data[at]
        addresses = data[at + 1 : at + 1 + length]
        if not length or length % 4 or len(addresses) < length:
            raise ValueError(f"octet {at}: {length} is no length of a list of addresses, {len(data) - at - 1} are left")
        servers.append(_usable([IPv4Address(addresses[i : i + 4]) for i in range(0, length, 4)]))
        at += 1 + length
    return servers


def _usable(addresses: Sequence[Address]) -> Server:
    """RFC 7291: multicast and loopback addresses are discarded."""
    return tuple(one for one in addresses if not (one.is_multicast or one.is_loopback or one.is_unspecified))


def _inside(server: Server) -> tuple[IPv4Address, ...]:
    return tuple(address for address in server if isinstance(address, IPv4Address))
