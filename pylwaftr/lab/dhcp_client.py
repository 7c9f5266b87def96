"""A DHCP 4o6 client: `python -m pylwaftr.lab.dhcp_client ACT SERVER TUNNEL …`, one JSON object as the result.

DHCPv4 messages inside DHCPv6 (RFC 7341), a shared address (RFC 7618), the tunnel's own address told to the server
(RFC 8539). One exchange and no timers: the lab decides when. Only the standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

_QUERY, _RESPONSE, _V4_MESSAGE = 20, 21, 87  # RFC 7341 sections 6 and 7
_UNICAST = 0x800000  # section 6.2: the DHCPv4 message would have been unicast
_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK, _RELEASE = 1, 2, 3, 5, 6, 7
_PAD, _ADDRESS, _LIFETIME, _TYPE, _SERVER, _LIST, _CLIENT, _TUNNEL, _PORTS, _END = (
    0,
    50,
    51,
    53,
    54,
    55,
    61,
    109,
    159,
    255,
)
_COOKIE = bytes.fromhex("63825363")
CLIENT = "ff00000001000300010200000000c1"
_MAC = bytes.fromhex("0200000000c1")
_WAIT_S = 5.0


def option(code: int, data: bytes) -> bytes:
    return bytes([code, len(data)]) + data


def message(kind: int, xid: bytes, ours: IPv4Address, options: bytes, client: bytes) -> bytes:
    head = (
        struct.pack("!BBBB4sHH", 1, 1, 6, 0, xid, 0, 0) + ours.packed + bytes(12) + _MAC.ljust(16, b"\0") + bytes(192)
    )
    wanted = option(_LIST, bytes([1, 3, _LIFETIME, _SERVER, _TUNNEL, _PORTS]))
    return head + _COOKIE + option(_TYPE, bytes([kind])) + option(_CLIENT, client) + wanted + options + bytes([_END])


def options_of(packet: bytes) -> dict[int, bytes]:
    found, at = {}, 240
    while at < len(packet) and packet[at] != _END:
        if packet[at] == _PAD:
            at += 1
            continue
        found[packet[at]] = packet[at + 2 : at + 2 + packet[at + 1]]
        at += 2 + packet[at + 1]
    return found


class Exchange:
    def __init__(self, given: argparse.Namespace) -> None:
        self._given, self._xid = given, os.urandom(4)
        self._client = bytes.fromhex(given.client)
        self._sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._sock.bind((given.tunnel, 546))
        self._sock.settimeout(_WAIT_S)

    def send(self, kind: int, options: bytes, ours: str = "0.0.0.0", flags: int = 0) -> None:
        v4 = message(kind, self._xid, IPv4Address(ours), options, self._client)
        query = struct.pack("!I", _QUERY << 24 | flags) + struct.pack("!HH", _V4_MESSAGE, len(v4)) + v4
        self._sock.sendto(query, (self._given.server, 547))

    def wait(self, *wanted: int) -> tuple[IPv4Address, dict[int, bytes]]:
        while True:
            packet, _ = self._sock.recvfrom(4096)
            code, length = struct.unpack_from("!HH", packet, 4)
            v4 = packet[8 : 8 + length]
            if packet[0] != _RESPONSE or code != _V4_MESSAGE or v4[4:8] != self._xid:
                continue
            said = options_of(v4)
            if said[_TYPE][0] not in wanted:
                raise SystemExit(f"DHCPv4 message {said[_TYPE][0]} instead of {' or '.join(map(str, wanted))}")
            return IPv4Address(v4[16:20]), said


def lease(given: argparse.Namespace) -> dict[str, object]:
    exchange, tunnel = Exchange(given), option(_TUNNEL, IPv6Address(given.tunnel).packed)
    asked = option(_LIFETIME, struct.pack("!I", given.lifetime)) if given.lifetime else b""
    wish = option(_ADDRESS, IPv4Address(given.ipv4).packed) if given.ipv4 else b""
    exchange.send(_DISCOVER, wish + asked)
    address, offer = exchange.wait(_OFFER)
    chosen = option(_ADDRESS, address.packed) + option(_SERVER, offer[_SERVER]) + option(_PORTS, offer[_PORTS])
    exchange.send(_REQUEST, chosen + tunnel + asked)
    return leased(*exchange.wait(_ACK))


def renew(given: argparse.Namespace) -> dict[str, object]:
    """After a NAK the client has to begin anew (RFC 2131 section 4.4.5): the lab says when."""
    exchange = Exchange(given)
    exchange.send(_REQUEST, option(_TUNNEL, IPv6Address(given.tunnel).packed), given.ipv4, _UNICAST)
    address, said = exchange.wait(_ACK, _NAK)
    return {"refused": True} if said[_TYPE][0] == _NAK else leased(address, said)


def release(given: argparse.Namespace) -> dict[str, object]:
    """Nobody answers it. It has no tunnel address (RFC 8539 section 7)."""
    Exchange(given).send(_RELEASE, b"", given.ipv4, _UNICAST)
    return {}


def leased(address: IPv4Address, ack: dict[int, bytes]) -> dict[str, object]:
    """The PSID stands in the highest bits of its field (RFC 7618 section 9)."""
    offset, length, psid = struct.unpack("!BBH", ack[_PORTS])
    (lifetime,) = struct.unpack("!I", ack[_LIFETIME])
    ports = {"offset": offset, "length": length, "psid": psid >> 16 - length}
    return {"ipv4": str(address), "lifetime": lifetime, "tunnel": str(IPv6Address(ack[_TUNNEL]))} | ports


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pylwaftr.lab.dhcp_client")
    parser.add_argument("act", choices=["lease", "renew", "release"])
    parser.add_argument("server", help="IPv6 address")
    parser.add_argument("tunnel", help="our IPv6 address, the softwire's and the query's")
    parser.add_argument("--ipv4", help="ours, or wanted")
    parser.add_argument("--lifetime", type=int, default=0, help="asked for")
    parser.add_argument("--client", default=CLIENT, help="client identifier, hexadecimal")
    given = parser.parse_args()
    print(json.dumps({"lease": lease, "renew": renew, "release": release}[given.act](given)), flush=True)


if __name__ == "__main__":
    main()
