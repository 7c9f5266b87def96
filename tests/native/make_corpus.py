"""make_corpus.py: the seeds of fuzz_lane in tests/data/corpus: every example of dataplane.json, and more.

The format is that of lane_program.hpp, the meaning of the choices that of settings_of in lane_world.hpp. Options that
have no choice there are left out: a seed only has to lead to the place that its example is about. The seeds found-* are
those of a long run that reach what the others do not.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests import frames as f

DATA = Path(__file__).resolve().parent.parent / "data"
SEEDS = DATA / "corpus" / "fuzz_lane"
FRAME, PIECES, JOINS, EVENT = 0, 1, 2, 3
INTERFACE_UP, ANSWER_V4, ANSWER_V6, DROP_HELD = 255, 254, 253, 252

CHOICES = {  # (option, value) -> (octet, bits)
    ("hairpin", "external"): (0, 1),
    ("hairpin", "drop"): (0, 2),
    ("pmtud", False): (0, 1 << 2),
    ("proxy_arp", True): (0, 1 << 3),
    ("encap_limit", 4): (0, 1 << 7),
    ("dscp_mode", "pipe"): (1, 1),
    ("ecn_mode", "compatibility"): (1, 1 << 1),
    ("flow_label", "hash"): (1, 1 << 2),
    ("icmpv4_allow_incoming", False): (1, 1 << 3),
    ("icmpv4_generate_errors", False): (1, 1 << 5),
    ("icmpv6_generate_errors", False): (1, 1 << 6),
    ("v4_mtu", 9000): (2, 1),
    ("v6_path_mtu", 1500): (2, 1 << 2),
    ("v6_path_mtu", 1280): (2, 2 << 2),
    ("v6_path_mtu", 9000): (2, 3 << 2),
    ("softwire_payload_mtu", 1400): (2, 1 << 4),
    ("neighbours_resolved", False): (4, 3),
}
LIMITS = {"icmpv6_error_rate": (3, 1 << 4), "icmpv4_incoming_rate": (3, 1 << 5)}


def choices(options: dict[str, Any]) -> bytes:
    octets = bytearray(6)
    for name, value in options.items():
        octet, bits = LIMITS.get(name) or CHOICES.get((name, value), (0, 0))
        octets[octet] |= bits
    return bytes(octets)


def step(raw: dict[str, Any]) -> bytes:
    out = b""
    if raw.get("advance_ms"):
        out += bytes([EVENT << 1, min(251, round(raw["advance_ms"] ** 0.5 + 0.5))])
    if raw.get("event") == "interface-up":
        out += bytes([EVENT << 1, INTERFACE_UP])
    if raw["in"]:
        frame = bytes.fromhex(raw["in"]["frame"])
        out += fed(raw["in"]["side"], frame)
    return out


def fed(side: str, frame: bytes, kind: int = FRAME, pieces: bytes = b"") -> bytes:
    lengths = bytes([len(pieces)]) + pieces if kind == PIECES else b""
    return bytes([kind << 1 | (side == "v6")]) + lengths + struct.pack("<H", len(frame)) + frame


def event(which: int) -> bytes:
    return bytes([EVENT << 1, which])


# What no example shows.
B1, B1_V4, BR, INET = "2001:db8:1:100:0:cb00:7101:1", "203.0.113.1", "2001:db8:aa::1", "198.51.100.10"
ROUTER, HOP, LOCAL = "2001:db8:ffff::1", "2001:db8:ffff::fe", "fe80::fe"
PING = f.icmp6(B1, BR, 128, 0, b"\0\1\0\1", bytes(2800))


def link6(packet: bytes, group: str = "") -> bytes:
    return f.ethernet("v6", packet, dst=f.group_mac(group) if group else None)


def fragments_of_a_large_datagram() -> list[bytes]:
    return f.fragments4(f.udp(INET, B1_V4, 53, 1024, size=2600), 1000)


def mld_query() -> bytes:
    message = f.icmp6(LOCAL, "ff02::1", 130, 0, bytes(4), bytes(20))
    return link6(f.ipv6(LOCAL, "ff02::1", 0, bytes.fromhex("3a00050200000100") + message, hop_limit=1), "ff02::1")


def advertisement(flags: int, option: bytes) -> bytes:
    message = f.icmp6(HOP, ROUTER, 136, 0, struct.pack("!I", flags << 24), f.ip6(HOP) + option)
    return link6(f.ipv6(HOP, ROUTER, f.ICMP6, message, hop_limit=255))


def more() -> dict[str, bytes]:
    """Name -> seed."""
    none = bytes(6)
    unresolved, scarce, filtered = bytes([0, 0, 0, 0, 3, 0]), bytes([0, 0, 0, 0, 4, 0]), bytes([0, 0, 0, 0, 0, 0x55])
    down, up = f.udp(INET, B1_V4, 53, 1024), f.ipv6(B1, BR, f.IPIP, f.udp(B1_V4, INET, 1024, 53))
    down4, up6 = f.ethernet("v4", down), link6(up)
    pcp = f.ipv6(B1, BR, f.IPIP, f.udp(B1_V4, "192.0.0.1", 1024, 5351, size=24))
    late_first = [f.ethernet("v4", one) for one in reversed(fragments_of_a_large_datagram())]
    outer = [link6(one) for one in f.fragments6(f.ipv6(B1, BR, f.ICMP6, PING), 1280, 7)]
    forgiving = b"".join(fed("v4", one, JOINS) for one in late_first)
    return {
        "more-mld-query": none + event(INTERFACE_UP) + fed("v6", mld_query()),
        "more-advertisement-confirms": none + fed("v6", advertisement(0x40, b"")) + event(200) + fed("v4", down4),
        "more-advertisement-doubts": none + fed("v6", advertisement(0, b"\2\1" + f.V4_PEER)) + event(100),
        "more-next-hop-late": unresolved
        + fed("v4", down4)
        + fed("v6", up6)
        + event(ANSWER_V6)
        + event(ANSWER_V4)
        + event(1),
        "more-next-hop-never": unresolved + fed("v4", down4) + fed("v6", up6) + b"".join(event(40) for _ in range(5)),
        "more-neighbours-age": none
        + fed("v4", down4)
        + event(200)
        + fed("v4", down4)
        + event(90) * 6
        + fed("v4", down4),
        "more-pcp": bytes([0, 0, 0, 0x80, 0, 0]) + fed("v6", link6(pcp)),
        "more-burst": none + fed("v4", down4, JOINS) * 3 + fed("v4", down4) + fed("v6", up6, JOINS) + fed("v6", up6),
        "more-pieces": none + fed("v4", down4, PIECES, bytes([14, 20, 8])) + fed("v6", up6, PIECES, bytes([1, 60])),
        "more-late-first-in-a-burst": none + forgiving + event(1),
        "more-large-echo": none + b"".join(fed("v6", one) for one in outer),
        "more-scarce": scarce + forgiving + b"".join(fed("v6", one) for one in outer[:2]) + event(DROP_HELD),
        "more-filtered": filtered
        + fed("v4", down4)
        + fed("v6", up6)
        + fed("v4", f.ethernet("v4", f.echo4(INET, B1_V4, 1024))),
        "more-mss": bytes([0, 0, 0x40, 0, 0, 0]) + fed("v4", f.ethernet("v4", syn())),
    }


def syn() -> bytes:
    return f.tcp(INET, B1_V4, 443, 1024, options=bytes.fromhex("020405b401010402"))


def main() -> None:
    SEEDS.mkdir(parents=True, exist_ok=True)
    examples = json.loads((DATA / "dataplane.json").read_text())["examples"]
    for example in examples:
        if example["dut"] == "lwaftr":
            seed = choices(example["config"]["options"]) + b"".join(step(raw) for raw in example["steps"])
            (SEEDS / example["name"]).write_bytes(seed)
    for name, seed in more().items():
        (SEEDS / name).write_bytes(seed)


if __name__ == "__main__":
    main()
