"""Packets to one binding that a port brings again and again, as fast as they are taken (net_pcap, infinite_rx)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from pylwaftr.bench.live import MACS, PEER

STEADY = "198.51.100.1"
_PCAP = struct.Struct("<IHHiIII")
_FRAME = struct.Struct("!6s6sHBBHHHBBH4s4sHHHH")


def pcap(count: int) -> bytes:
    frames = [_frame(1024 + number) for number in range(count)]
    head = _PCAP.pack(0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return head + b"".join(struct.pack("<IIII", 0, 0, len(one), len(one)) + one for one in frames)


def _frame(port: int) -> bytes:
    """UDP from the internet, 18 octets of payload."""
    words = 0x4500 + 46 + (64 << 8 | 17)
    ends = IPv4Address("192.0.2.200").packed, IPv4Address(STEADY).packed
    for at in (0, 2):
        words += sum(int.from_bytes(end[at : at + 2]) for end in ends)
    check = 0xFFFF - (words % 0xFFFF)
    macs = bytes.fromhex(MACS[0].replace(":", "")), bytes.fromhex(PEER.replace(":", ""))
    ip = (0x45, 0, 46, 0, 0, 64, 17, check, *ends)
    return _FRAME.pack(*macs, 0x0800, *ip, 40000, port, 26, 0) + bytes(18)
