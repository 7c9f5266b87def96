"""What one lease message says, as a value for people and as a row for the table of leases.

The facts come from the nested DHCPv4 message (address, ports, tunnel source, state, times); where it is silent on time,
from the DHCPv6 message around it, and at last from the moment of receipt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp import codec4
from pylwaftr.dhcp.codec4 import Code, Malformed, Message4, Type
from pylwaftr.dhcp.s46 import PortParams

CLIENT_OCTETS = 28
EPOCHS_APART_S = 2  # base-times of one message may differ by as much


class State(IntEnum):
    """Values of option 156; 0 = not assigned, and the server does not say why."""

    UNASSIGNED = 0
    AVAILABLE = 1
    ACTIVE = 2
    EXPIRED = 3
    RELEASED = 4
    ABANDONED = 5
    RESET = 6
    REMOTE = 7
    TRANSITIONING = 8


class Has(IntFlag):
    """Which fields of a row were in the message, and whose news it is."""

    B4 = 1
    PORTS = 2
    LIFETIME = 4
    CLTT = 8
    SINCE = 16
    BASE = 32
    REMOTE = 64  # not a field: the news of the server's partner
    CLIENT = 128


LEASE_ROW = np.dtype(
    [
        ("ipv4", "<u4"),
        ("psid", "<u2"),
        ("psid_len", "u1"),  # 0 = the whole address
        ("psid_offset", "u1"),
        ("b4", "u1", (16,)),
        ("client", "u1", (CLIENT_OCTETS,)),
        ("base", "<u4"),  # the four: Unix seconds of the server's clock, lifetime from `base` on
        ("cltt", "<u4"),
        ("since", "<u4"),
        ("lifetime", "<u4"),
        ("state", "u1"),
        ("has", "u1"),
        ("reserved", "<u2"),
    ]
)
LeaseRows = npt.NDArray[np.void]


def joined(parts: Sequence[LeaseRows]) -> LeaseRows:
    """As octets: numpy copies the fields of rows one by one."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts]).view(LEASE_ROW)


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease as one server has it. `ports` None: the message did not say; of an active lease the whole address."""

    ipv4: IPv4Address
    state: State
    ports: PortParams | None
    b4: IPv6Address | None
    client: bytes
    base: int
    cltt: int | None
    since: int | None
    lifetime: int | None  # None: not said; codec4.INFINITE
    remote: bool = False
    base_said: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        return self.state is State.ACTIVE

    @property
    def expires(self) -> int | None:
        return None if self.lifetime in (None, codec4.INFINITE) else self.base + (self.lifetime or 0)


def of_message(message: Message4, outer_base: int | None, clt_time: int | None, received: int) -> Lease:
    """`outer_base`: Unix seconds; `clt_time`: option 46. Raises Malformed."""
    if message.op != 2:
        raise Malformed("op", f"op of a server's DHCPv4 message is {message.op} instead of 2")
    if message.type not in (Type.LEASEACTIVE, Type.LEASEUNASSIGNED):
        raise Malformed("type4", f"DHCPv4 message type {message.type} is no answer about a lease")
    warnings = []
    base = message.number(Code.BASE_TIME)
    if base is not None and outer_base is not None and abs(base - outer_base) > EPOCHS_APART_S:
        warnings.append("base_times_apart")
    known = base if base is not None else outer_base
    at = received if known is None else known
    state = _state(message, warnings)
    last, since = message.number(Code.LAST_TRANSACTION), message.number(Code.START_OF_STATE)
    if last is None:
        last = clt_time
    _warn(message, state, warnings)
    return Lease(
        ipv4=leasable(message.ciaddr),
        state=state,
        ports=message.ports,
        b4=message.b4,
        client=message.get(Code.CLIENT_ID) or b"",
        base=at,
        cltt=None if last is None else max(0, at - last),
        since=None if since is None else max(0, at - since),
        lifetime=message.number(Code.LEASE_TIME),
        remote=bool((message.number(Code.DATA_SOURCE) or 0) & 1),
        base_said=known is not None,
        warnings=tuple(warnings),
    )


def _state(message: Message4, warnings: list[str]) -> State:
    """RFC 6926 section 8.3: LEASEACTIVE exactly for ACTIVE."""
    state = message.number(Code.DHCP_STATE)
    if message.type == Type.LEASEACTIVE:
        if state not in (None, State.ACTIVE):
            raise Malformed("state", f"DHCPLEASEACTIVE with dhcp-state {state}")
        return State.ACTIVE
    if state == State.ACTIVE:
        raise Malformed("state", "DHCPLEASEUNASSIGNED with dhcp-state ACTIVE")
    if state is None or state > State.TRANSITIONING or state == 0:
        if state is not None:
            warnings.append("unknown_state")
        return State.UNASSIGNED
    return State(state)


def _warn(message: Message4, state: State, warnings: list[str]) -> None:
    ports = message.get(Code.PORTPARAMS)
    if ports is not None and codec4.port_params_data(codec4.port_params(ports)) != ports:
        warnings.append("psid_padding")
    if message.get(Code.ASSOCIATED_IP) is not None:
        warnings.append("associated_ip")
    if state is State.ACTIVE and message.get(Code.LEASE_TIME) is None:
        warnings.append("no_lease_time")


def leasable(address: IPv4Address) -> IPv4Address:
    first = int(address) >> 24
    if first in (0, 127) or first >= 224:  # RFC 6926 section 7.3: the lease is in ciaddr
        raise Malformed("ciaddr", f"ciaddr {address} cannot be leased")
    return address


def client_field(client: bytes) -> bytes:
    """The client-id in 28 octets: its length and itself, or of a long one its length, beginning and digest."""
    if len(client) < CLIENT_OCTETS:
        return bytes([len(client)]) + client.ljust(CLIENT_OCTETS - 1, b"\0")
    digest = hashlib.blake2b(client, digest_size=16).digest()
    return bytes([min(len(client), 255)]) + client[: CLIENT_OCTETS - 17] + digest


def row(lease: Lease) -> tuple[object, ...]:
    """One element for `rows`. Whole addresses have neither offset nor PSID, as in a binding."""
    has = Has(0)
    for flag, there in (
        (Has.B4, lease.b4 is not None),
        (Has.PORTS, lease.ports is not None),
        (Has.LIFETIME, lease.lifetime is not None),
        (Has.CLTT, lease.cltt is not None),
        (Has.SINCE, lease.since is not None),
        (Has.BASE, lease.base_said),
        (Has.REMOTE, lease.remote),
        (Has.CLIENT, bool(lease.client)),
    ):
        if there:
            has |= flag
    ports = lease.ports if lease.ports is not None and lease.ports.psid_len else PortParams(0, 0, 0)
    b4 = lease.b4.packed if lease.b4 is not None else bytes(16)
    return (
        int(lease.ipv4),
        ports.psid,
        ports.psid_len,
        ports.offset,
        np.frombuffer(b4, np.uint8),
        np.frombuffer(client_field(lease.client), np.uint8),
        lease.base,
        lease.cltt or 0,
        lease.since or 0,
        lease.lifetime or 0,
        int(lease.state),
        int(has),
        0,
    )


def rows(leases: Iterable[Lease]) -> LeaseRows:
    return np.array([row(lease) for lease in leases], LEASE_ROW)


def of_row(one: np.void) -> Lease:
    """The way back, for reports: a long client-id comes back as its field."""
    has = Has(int(one["has"]))
    field = one["client"].tobytes()
    client = field[1 : 1 + field[0]] if field[0] < CLIENT_OCTETS else field
    ports = PortParams(int(one["psid_offset"]), int(one["psid_len"]), int(one["psid"]))
    lease = Lease(
        ipv4=IPv4Address(int(one["ipv4"])),
        state=State(int(one["state"])),
        ports=ports if has & Has.PORTS else None,
        b4=IPv6Address(one["b4"].tobytes()) if has & Has.B4 else None,
        client=client if has & Has.CLIENT else b"",
        base=int(one["base"]),
        cltt=int(one["cltt"]) if has & Has.CLTT else None,
        since=int(one["since"]) if has & Has.SINCE else None,
        lifetime=int(one["lifetime"]) if has & Has.LIFETIME else None,
    )
    return replace(lease, remote=bool(has & Has.REMOTE), base_said=bool(has & Has.BASE))
