"""A PCP client for the lab's hosts: `python -m pylwaftr.lab.pcp_host SERVER CLIENT …`, one JSON object as the result.

It asks once for a mapping (RFC 6887), on a LAN for a port, or as a third party for a port set (RFC 7753) of a
softwire. Written from the RFCs with nothing but the standard library, so that it shares no mistake with the server.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

_PORT, _VERSION, _MAP = 5351, 2, 1
_THIRD_PARTY, _PORT_SET = 1, 130
_TRIES, _WAIT_S = 3, 3.0


def address(text: str) -> bytes:
    """IPv4 addresses are mapped (section 5)."""
    parsed = ip_address(text)
    return bytes(10) + b"\xff\xff" + parsed.packed if isinstance(parsed, IPv4Address) else parsed.packed


def request(given: argparse.Namespace) -> bytes:
    header = struct.pack("!BBHI", _VERSION, _MAP, 0, given.lifetime) + address(given.client)
    body = bytes.fromhex(given.nonce).ljust(12, b"\0") + struct.pack(
        "!B3xHH", given.protocol, given.inside, given.outside
    )
    packet = header + body + address(given.external)
    if given.third_party:
        packet += struct.pack("!BxH", _THIRD_PARTY, 16) + address(given.third_party)
    if given.size:
        packet += struct.pack("!BxHHHB3x", _PORT_SET, 5, given.size, given.inside, 0)
    return packet


def answer(packet: bytes) -> dict[str, object]:
    version, opcode, result, lifetime, epoch = struct.unpack_from("!BBxBII", packet)
    if (version, opcode) != (_VERSION, 0x80 | _MAP):
        raise SystemExit(f"no answer to MAP: {packet.hex()}")
    inside, outside = struct.unpack_from("!HH", packet, 40)
    external = IPv6Address(packet[44:60])
    said = {"result": result, "lifetime": lifetime, "epoch": epoch, "inside": inside, "outside": outside}
    said |= {"external": str(external.ipv4_mapped or external), "size": 1}
    at = 60
    while at + 4 <= len(packet):
        code, length = struct.unpack_from("!BxH", packet, at)
        if code == _PORT_SET:
            said["size"], said["inside"] = struct.unpack_from("!HH", packet, at + 4)
        at += 4 + (length + 3) // 4 * 4
    return said


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pylwaftr.lab.pcp_host")
    parser.add_argument("server")
    parser.add_argument("client", help="our own address")
    parser.add_argument("--external", default="0.0.0.0", help="suggested")
    parser.add_argument("--third-party", metavar="ADDRESS")
    parser.add_argument("--nonce", default="c0ffee", help="hexadecimal")
    for name, default in (("--protocol", 0), ("--inside", 1), ("--outside", 0), ("--size", 0), ("--lifetime", 600)):
        parser.add_argument(name, type=int, default=default)
    given = parser.parse_args()
    packet = request(given)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((given.client, 0))
        sock.connect((given.server, _PORT))
        sock.settimeout(_WAIT_S)
        for _ in range(_TRIES):
            sock.send(packet)
            try:
                print(json.dumps(answer(sock.recv(1100))), flush=True)
                return
            except TimeoutError:
                continue
    raise SystemExit(f"{given.server} does not answer")


if __name__ == "__main__":
    main()
