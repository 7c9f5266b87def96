"""A PCP server with the pool of the worked examples, and how to ask it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import numpy as np

from pylwaftr import rows as r
from pylwaftr.pcp import codec, mapping
from pylwaftr.pcp.numbers import IPV4_MAPPED
from pylwaftr.pcp.options import Option, PortSet
from pylwaftr.pcp.outcome import Outcome, Sender
from pylwaftr.pcp.pool import key_of
from pylwaftr.pcp.server import PcpServer
from pylwaftr.pcp.settings import Settings

NOW = 1_700_000_000.0
BR = IPv6Address("2001:db8:ffff::1").packed
A = IPv6Address("2001:db8:100:100::1").packed
A_MOVED = IPv6Address("2001:db8:100:1ff::2").packed  # of the same /56
B = IPv6Address("2001:db8:200:200::1").packed
INSIDE = IPV4_MAPPED + IPv4Address("192.0.0.2").packed
DHCP = IPv6Address("2001:db8:ffff:f::53").packed
NONCE, OTHER_NONCE = bytes(range(12)), bytes(range(0xC0, 0xCC))
NO_ADDRESS = IPV4_MAPPED + bytes(4)
SHARED = IPV4_MAPPED + IPv4Address("192.0.2.5").packed


@dataclass(frozen=True)
class PoolOf:
    ipv4: IPv4Network
    psid_len: int = 5
    exclude_ports: tuple[tuple[int, int], ...] = ((0, 1023),)
    signalling: str = "rfc7753"


def pool(prefix: str = "192.0.2.5/32", psid_len: int = 5, **more: object) -> PoolOf:
    return replace(PoolOf(IPv4Network(prefix), psid_len), **more)  # type: ignore[arg-type]


def settings(**changed: object) -> Settings:
    plain = Settings(
        pools=(pool(),), br=BR, third_parties=(IPv6Network(IPv6Address(DHCP)),), per_subscriber=10**9, per_s=10**9
    )
    return replace(plain, **changed)  # type: ignore[arg-type]


def server(**changed: object) -> PcpServer:
    return PcpServer(settings(**changed), NOW)


def tunnel(b4: bytes = A, port: int = 49152) -> Sender:
    return Sender(b4, BR, INSIDE, port)


def manager(address: bytes = DHCP) -> Sender:
    return Sender(b"", b"", address, 49152)


def ask(
    first: int = 1,
    size: int = 65535,
    lifetime: int = 7200,
    nonce: bytes = NONCE,
    hint: tuple[bytes, int] = (NO_ADDRESS, 0),
    protocol: int = 0,
    client: bytes = INSIDE,
    options: Iterable[Option] = (),
    parity: bool = False,
) -> bytes:
    """A request for a port set."""
    ports = PortSet(size, first, parity)
    return codec.encode_request(
        codec.MapRequest(lifetime, client, nonce, protocol, first, hint[1], hint[0], (*options, ports), ports)
    )


def ask_port(
    port: int,
    protocol: int = 17,
    lifetime: int = 7200,
    nonce: bytes = NONCE,
    options: Iterable[Option] = (),
    **hint: object,
) -> bytes:
    """A plain MAP."""
    return codec.encode_request(
        codec.MapRequest(lifetime, INSIDE, nonce, protocol, port, options=tuple(options), **hint)  # type: ignore[arg-type]
    )


def said(outcome: Outcome) -> codec.MapResponse:
    assert outcome.reply is not None
    response = codec.decode_response(outcome.reply)
    assert isinstance(response, codec.MapResponse)
    return response


def given(outcome: Outcome) -> tuple[str, int, int]:
    """Address, first port and size of a set that was granted."""
    response = said(outcome)
    assert response.result == 0, response
    ports = codec.option(response.options, PortSet)
    return str(IPv4Address(response.external[12:])), response.external_port, ports.size if ports else 1


def row(ipv4: str, psid: int, b4: bytes, psid_len: int = 5, offset: int = 0, br: bytes = BR) -> r.Rows:
    return r.array([r.row(int(IPv4Address(ipv4)), offset, psid_len, psid, b4, br)])


def others(psids: Iterable[int], ipv4: str = "192.0.2.5", psid_len: int = 5) -> r.Rows:
    """Bindings of subscribers who are none of ours."""
    far = [IPv6Address(f"2001:db8:{0x8000 + psid:x}::1").packed for psid in psids]
    return np.concatenate([row(ipv4, psid, b4, psid_len) for psid, b4 in zip(psids, far, strict=True)])


def bound(rows: r.Rows) -> list[tuple[str, int, bytes]]:
    return [(r.text4(int(one["ipv4"])), int(one["psid"]), one["b4"].tobytes()) for one in rows]


def stored(
    b4: bytes,
    psid: int,
    nonce: bytes = NONCE,
    remaining: float = 6000,
    ipv4: str = "192.0.2.5",
    psid_len: int = 5,
    **more: object,
) -> dict[bytes, bytes]:
    """One mapping as the store has it."""
    kept = mapping.Mapping(mapping.ACTIVE, 0, 0, 1, 49152, nonce, b4, BR, INSIDE, NOW + remaining, 0.0, 7200)._replace(
        **more
    )
    return {mapping.store_key(key_of(int(IPv4Address(ipv4)), psid_len, psid)): mapping.encode(kept)}


def with_epoch(records: dict[bytes, bytes], epoch: int) -> dict[bytes, bytes]:
    return records | {mapping.EPOCH_KEY: mapping.EPOCH_RECORD.pack(NOW - epoch)}
