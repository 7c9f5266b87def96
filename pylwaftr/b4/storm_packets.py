"""The packets of simulated lwB4s: a provisioning request in its softwire, and what comes back. One look at each."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pylwaftr.pcp.codec import MapRequest, encode_request
from pylwaftr.pcp.numbers import IPV4_MAPPED, NO_IPV4
from pylwaftr.pcp.options import PortSet

from . import packet as pk

_MODULUS = 0xFFFF  # of ones' complement sums: a number modulo 65535 is the sum of its 16-bit words
_B4, _AFTR = bytes([192, 0, 0, 2]), bytes([192, 0, 0, 1])
_SERVER_PORT = 5351
_PORTS = PortSet(65535, 1)
_INNER, _UDP, _MESSAGE = 40, 60, 68  # where they begin
_UNBOUND = b"\x01\x05"  # ICMPv6 type and code

_ANSWER = struct.Struct("!BBxBII12x12sBxxxHH16s")
_SIZE = struct.Struct("!HHB")
# IPv6 header in three parts, IPv4 and UDP up to the checksum, it, then MAP and PORT_SET between what differs.
_REQUEST = struct.Struct("!8s16s16s26sH24s12s6sH16s12s")


class Answer(NamedTuple):
    """A MAP response as far as a simulated lwB4 looks."""

    result: int
    lifetime: int
    epoch: int
    nonce: bytes
    port: int
    external: bytes
    size: int


class Announcement(NamedTuple):
    epoch: int


class Unbound(NamedTuple):
    """ICMPv6 1/5."""


class Requests:
    """Makes provisioning requests, of which only some fields differ."""

    def __init__(self, aftr: bytes, client_port: int, lifetime: int) -> None:
        message = encode_request(MapRequest(lifetime, IPV4_MAPPED + _B4, bytes(12), 0, 1, options=(_PORTS,)))
        size = 8 + len(message)
        datagram = struct.pack("!HHHH", client_port, _SERVER_PORT, size, 0) + message
        inner = pk.ipv4(_B4, _AFTR, pk.UDP, datagram)
        self._head = struct.pack("!IHBB", 6 << 28, len(inner), 4, 64)
        self._aftr = aftr
        self._before_check, self._before_nonce = inner[:26], message[:24]
        self._before_port, self._behind = message[36:42], message[60:]
        # The external address comes with all its octets, so the one that is there now does not count.
        plain = int.from_bytes(datagram) - int.from_bytes(NO_IPV4)
        self._sum = int.from_bytes(_B4 + _AFTR) + pk.UDP + size + plain

    def make(self, source: bytes, nonce: bytes, port: int = 0, external: bytes = NO_IPV4) -> bytes:
        """From the IPv6 header on. `port` and `external`: what is suggested."""
        number = self._sum + int.from_bytes(nonce) + port + int.from_bytes(external)
        return _REQUEST.pack(
            self._head, source, self._aftr, self._before_check, -number % _MODULUS or _MODULUS,
            self._before_nonce, nonce, self._before_port, port, external, self._behind,
        )  # fmt: skip


def read(packet: bytes) -> tuple[bytes, Answer | Announcement | Unbound] | None:
    """The lwB4's address, and what it is told; None for what no lwB4 would look at."""
    if len(packet) < _UDP:
        return None
    if packet[6] == pk.ICMP6 and packet[40:42] == _UNBOUND:
        return packet[24:40], Unbound()
    if packet[6] != 4 or packet[_INNER] != 0x45 or packet[49] != pk.UDP or len(packet) < _MESSAGE + 24:
        return None
    if not _is_whole(packet):
        return None
    if packet[_MESSAGE + 1] == 0x80:
        return packet[24:40], Announcement(int.from_bytes(packet[_MESSAGE + 8 : _MESSAGE + 12]))
    if len(packet) < _MESSAGE + 60 or packet[_MESSAGE + 1] != 0x81:
        return None
    version, _, result, lifetime, epoch, nonce, _, _, port, external = _ANSWER.unpack_from(packet, _MESSAGE)
    size = 1
    if len(packet) >= _MESSAGE + 72 and packet[_MESSAGE + 60] == 130:
        size = _SIZE.unpack_from(packet, _MESSAGE + 64)[0]
    return (packet[24:40], Answer(result, lifetime, epoch, nonce, port, external, size)) if version == 2 else None


def _is_whole(packet: bytes) -> bool:
    """Lengths and checksums are right."""
    size = (packet[_UDP + 4] << 8) | packet[_UDP + 5]
    end = _UDP + size
    if end != len(packet) or size & 1 or packet[60:62] != b"\x14\xe7":
        return False
    if int.from_bytes(packet[40:60]) % _MODULUS:
        return False
    return (int.from_bytes(packet[52:end]) + pk.UDP + size) % _MODULUS == 0
