"""make_corpus.py: a seed of fuzz_lane for each example of tests/data/dataplane.json, into tests/data/corpus/fuzz_lane.

The format is that of lane_program.hpp, the meaning of the choices that of settings_of in lane_world.hpp. Options that
have no choice there are left out: a seed only has to lead to the place that its example is about.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "data"
SEEDS = DATA / "corpus" / "fuzz_lane"
FRAME, EVENT = 0, 3
INTERFACE_UP = 255

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
        out += bytes([FRAME << 1 | (raw["in"]["side"] == "v6")]) + struct.pack("<H", len(frame)) + frame
    return out


def main() -> None:
    SEEDS.mkdir(parents=True, exist_ok=True)
    examples = json.loads((DATA / "dataplane.json").read_text())["examples"]
    for example in examples:
        if example["dut"] == "lwaftr":
            seed = choices(example["config"]["options"]) + b"".join(step(raw) for raw in example["steps"])
            (SEEDS / example["name"]).write_bytes(seed)


if __name__ == "__main__":
    main()
