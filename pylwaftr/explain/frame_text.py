"""One frame in one line: what an operator needs to recognise it."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

_ETHER = 14
_PROTOCOLS = {
    1: "ICMP",
    6: "TCP",
    17: "UDP",
    33: "DCCP",
    41: "IPv6",
    47: "GRE",
    50: "ESP",
    132: "SCTP",
    136: "UDP-Lite",
}
_WITH_PORTS = {6, 17, 33, 132, 136}
_EXTENSIONS = {0: "hop-by-hop", 43: "routing", 60: "destination options"}
_ICMP6 = {
    1: "unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem", 128: "echo request",
    129: "echo reply", 135: "neighbour solicitation", 136: "neighbour advertisement", 143: "MLD report",
}  # fmt: skip
_ICMP4 = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded", 12: "parameter problem"}


def frame_text(frame: bytes) -> str:
    """The frame's headers, outermost first. Never raises: what cannot be read is said to be cut short."""
    try:
        return _link(frame)
    except (struct.error, IndexError, ValueError):
        return f"{len(frame)} octets, cut short"


def _link(frame: bytes) -> str:
    (kind,) = struct.unpack_from("!H", frame, 12)
    at, tag = _ETHER, ""
    if kind == 0x8100:
        vlan, kind = struct.unpack_from("!HH", frame, _ETHER)
        at, tag = _ETHER + 4, f"VLAN {vlan & 0xFFF}, "
    body = frame[at:]
    if kind == 0x0800:
        return tag + ipv4_text(body)
    if kind == 0x86DD:
        return tag + ipv6_text(body)
    if kind == 0x0806:
        return tag + _arp(body)
    return f"{tag}ethertype 0x{kind:04x}, {len(body)} octets"


def _arp(packet: bytes) -> str:
    (operation,) = struct.unpack_from("!H", packet, 6)
    sender, target = IPv4Address(packet[14:18]), IPv4Address(packet[24:28])
    return f"ARP who has {target}, tell {sender}" if operation == 1 else f"ARP {sender} is at {packet[8:14].hex(':')}"


def ipv4_text(packet: bytes) -> str:
    header = (packet[0] & 15) * 4
    length, ident, fragment = struct.unpack_from("!HHH", packet, 2)
    protocol = packet[9]
    source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    notes = [_PROTOCOLS.get(protocol, f"protocol {protocol}"), f"TTL {packet[8]}", f"{length} octets"]
    offset = fragment & 0x1FFF
    if fragment & 0x3FFF:
        notes.append(f"fragment of {ident} at {offset * 8}{'' if fragment & 0x2000 else ', the last'}")
    if fragment & 0x4000:
        notes.append("DF")
    from_port = to_port = ""
    rest = packet[header:]
    if not offset and protocol in _WITH_PORTS and len(rest) >= 4:
        from_port, to_port = (f":{port}" for port in struct.unpack_from("!HH", rest))
    if not offset and protocol == 1 and len(rest) >= 6:
        notes[0] = _icmp4(rest)
    return f"{source}{from_port} > {destination}{to_port} {', '.join(notes)}"


def _icmp4(message: bytes) -> str:
    kind = message[0]
    name = _ICMP4.get(kind, "")
    text = f"ICMP {kind}/{message[1]}" + (f" {name}" if name else "")
    return f"{text} identifier {struct.unpack_from('!H', message, 4)[0]}" if kind in (0, 8) else text


def ipv6_text(packet: bytes) -> str:
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    text = f"[{source} > {destination}]"
    kind, at = packet[6], 40
    while kind in _EXTENSIONS:
        text += f" {_EXTENSIONS[kind]}"
        kind, at = packet[at], at + 8 * (packet[at + 1] + 1)
    if kind == 44:
        field, ident = struct.unpack_from("!HI", packet, at + 2)
        text += f" fragment of {ident:#x} at {field & 0xFFF8}{'' if field & 1 else ', the last'}"
        if field & 0xFFF8:
            return text
        kind, at = packet[at], at + 8
    if kind == 4:
        return f"{text} {ipv4_text(packet[at:])}"
    if kind == 58 and len(packet) >= at + 2:
        name = _ICMP6.get(packet[at], "")
        return f"{text} ICMPv6 {packet[at]}/{packet[at + 1]}" + (f" {name}" if name else "")
    return f"{text} next header {kind}"
