"""The tester's link: who the router is, by ARP and neighbour discovery, and answers to what it asks.

The tester stands for all hosts of either side: it answers for each address but the router's own, so that a router
needs no static entries. Sans-IO: frames in, frames out.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

_ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_IPV6 = struct.Struct("!6s6sHIHBB16s16s")
_NDP = struct.Struct("!BBHI16sBB6s")
_BROADCAST = b"\xff" * 6
_ARP_TYPE, _IPV6_TYPE = 0x0806, 0x86DD
_REQUEST, _REPLY = 1, 2
_ICMP6, _HOPS = 58, 255  # RFC 4861 section 7.1: a packet of 255 hops comes from this link
_SOLICITATION, _ADVERTISEMENT = 135, 136
_SOURCE_LINK, _TARGET_LINK = 1, 2
_SOLICITED_OVERRIDE = 0x60000000
_LEAST = 60  # octets of an Ethernet frame without FCS


def _is_group(mac: bytes) -> bool:
    return bool(mac[0] & 1)


class Arp:
    """The IPv4 side. `own` only has a use for asking."""

    def __init__(
        self, mac: bytes, own: IPv4Address | None, router: IPv4Address | None, router_mac: bytes | None = None
    ):
        self._mac, self._own = mac, own
        self._router = router
        self.router_mac = router_mac

    def question(self) -> bytes | None:
        if self._own is None or self._router is None:
            return None
        return self._frame(_BROADCAST, _REQUEST, self._own.packed, bytes(6), self._router.packed)

    def heard(self, frame: bytes) -> bytes | None:
        """The answer, if one is due."""
        if len(frame) < _ARP.size:
            return None
        _, _, kind, hardware, protocol, *lengths, operation, mac, sender, _, target = _ARP.unpack_from(frame)
        if (kind, hardware, protocol, lengths) != (_ARP_TYPE, 1, 0x0800, [6, 4]) or _is_group(mac):
            return None
        router = None if self._router is None else self._router.packed
        if sender == router:
            self.router_mac = mac
        # An announcement, and a probe for an address that the router wants (RFC 5227), get no answer.
        if operation != _REQUEST or target in (sender, router) or sender == bytes(4):
            return None
        return self._frame(mac, _REPLY, target, mac, sender)

    def _frame(self, to: bytes, operation: int, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
        packed = _ARP.pack(
            to, self._mac, _ARP_TYPE, 1, 0x0800, 6, 4, operation, self._mac, sender, target_mac, target
        )  # fmt: skip
        return packed.ljust(_LEAST, b"\0")


class Ndp:
    """The IPv6 side."""

    def __init__(
        self, mac: bytes, own: IPv6Address | None, router: IPv6Address | None, router_mac: bytes | None = None
    ):
        self._mac, self._own = mac, own
        self._router = router
        self.router_mac = router_mac

    def question(self) -> bytes | None:
        if self._own is None or self._router is None:
            return None
        group = IPv6Address("ff02::1:ff00:0").packed[:13] + self._router.packed[13:]
        to = b"\x33\x33" + group[12:]
        return self._frame(to, self._own.packed, group, _SOLICITATION, 0, self._router.packed, _SOURCE_LINK)

    def heard(self, frame: bytes) -> bytes | None:
        """The answer, if one is due."""
        if len(frame) < _IPV6.size + 24:
            return None
        _, link, kind, _, length, next_header, hops, source, _ = _IPV6.unpack_from(frame)
        message = frame[_IPV6.size : _IPV6.size + length]
        if (kind, next_header, hops) != (_IPV6_TYPE, _ICMP6, _HOPS) or len(message) < 24:
            return None
        target, router = message[8:24], None if self._router is None else self._router.packed
        if message[0] == _SOLICITATION:
            mac = _option(message, _SOURCE_LINK)
            if source == router and mac is not None:
                self.router_mac = mac
            if target == router or source == bytes(16):  # RFC 4862: the router asks whether its address is free
                return None
            return self._frame(mac or link, target, source, _ADVERTISEMENT, _SOLICITED_OVERRIDE, target, _TARGET_LINK)
        if message[0] == _ADVERTISEMENT and target == router and (mac := _option(message, _TARGET_LINK)) is not None:
            self.router_mac = mac
        return None

    def _frame(
        self, to: bytes, source: bytes, group: bytes, kind: int, flags: int, target: bytes, option: int
    ) -> bytes:
        message = _NDP.pack(kind, 0, 0, flags, target, option, 1, self._mac)
        words = int.from_bytes(source + group + message) + len(message) + _ICMP6
        check = 0xFFFF - words % 0xFFFF
        message = message[:2] + check.to_bytes(2) + message[4:]
        return _IPV6.pack(to, self._mac, _IPV6_TYPE, 6 << 28, len(message), _ICMP6, _HOPS, source, group) + message


def _option(message: bytes, wanted: int) -> bytes | None:
    """The link-layer address in an option (RFC 4861 section 4.6.1)."""
    at = 24
    while at + 8 <= len(message):
        kind, length = message[at], message[at + 1] * 8
        if length == 0:
            return None
        if kind == wanted and not _is_group(message[at + 2 : at + 8]):
            return message[at + 2 : at + 8]
        at += length
    return None
