"""tests/data/dataplane.json read, and its topology and options told to the router in its own words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import yaml

from tests.compare import Expected
from tests.frames import FRAGMENT, ICMP6, dissect, ip4, ip6, mac

DATA = Path(__file__).parent / "data" / "dataplane.json"
# In the examples without a limit on errors: more than any test sends.
NO_LIMIT = (1_000_000, 1, 1_000_000)

# The names of the examples' drops and our counters. The names in the file are suggestions.
DROPS = {
    "no-binding": "drop_no_binding",
    "source-validation": "drop_source_validation",
    "l2-not-unicast": "drop_l2_group_unicast",
    "l2-not-for-us": "drop_l2_not_for_us",
    "v4-malformed": "drop_v4_malformed",
    "v4-truncated": "drop_v4_truncated",
    "v4-bad-checksum": "drop_v4_bad_checksum",
    "v4-martian": "drop_v4_martian",
    "v4-option-policy": "drop_v4_option_policy",
    "ttl-expired": "drop_ttl_expired",
    "too-big-df": "drop_too_big_df",
    "ecn-ce-on-not-ect": "drop_ecn_ce_on_not_ect",
    "hairpin-disabled": "drop_hairpin_disabled",
    "icmp-policy": "drop_icmp_policy",
    "icmp-rate": "drop_icmp_rate",
    "icmp-type-not-allowed": "drop_icmp_type",
    "icmp-bad-checksum": "drop_icmp_bad_checksum",
    "icmp-bad-embedded": "drop_icmp_bad_embedded",
    "icmp-no-binding": "drop_icmp_no_binding",
    "frag4-tiny": "drop_fragment_v4_tiny",
    "frag4-timeout": "drop_fragment_v4_timeout",
    "v6-bad-source": "drop_v6_bad_source",
    "v6-not-for-us": "drop_v6_not_for_us",
    "v6-bad-extension": "drop_v6_bad_extension",
    "v6-unknown-next-header": "drop_v6_unknown_next_header",
    "v6-no-payload": "drop_v6_no_payload",
    "v6-no-listener": "drop_v6_no_listener",
    "frag6-overlap": "drop_fragment_v6_overlap",
    "frag6-duplicate": "drop_fragment_v6_duplicate",
    "frag6-bad-length": "drop_fragment_v6_bad_length",
    "frag6-too-long": "drop_fragment_v6_too_long",
    "frag6-incomplete-chain": "drop_fragment_v6_incomplete_chain",
    "frag6-timeout": "drop_fragment_v6_timeout",
    "icmp6-bad-checksum": "drop_icmp6_bad_checksum",
    "icmp6-ignored": "drop_icmp6_ignored",
    "arp-bad-sender": "drop_arp_bad_sender",
    "arp-not-ours": "drop_arp_not_ours",
    "ndp-invalid": "drop_ndp_invalid",
    "ndp-not-ours": "drop_ndp_not_ours",
}

Settings = dict[str, Any]
Options = dict[str, Any]


@dataclass(frozen=True)
class Binding:
    name: str
    ipv4: str
    psid_offset: int
    psid_len: int
    psid: int
    b4: str
    br: str


@dataclass(frozen=True)
class Step:
    side: str | None  # of the input; None = no frame comes in
    frame: bytes
    advance_ms: int
    event: str | None
    drop: str | None
    out: tuple[Expected, ...]


@dataclass(frozen=True)
class Example:
    name: str
    requirements: tuple[str, ...]
    options: tuple[tuple[str, str], ...]  # what deviates from the default, values as JSON: comparable and hashable
    steps: tuple[Step, ...]

    def option(self, name: str) -> Any:
        return {**default_options(), **{key: json.loads(value) for key, value in self.options}}[name]

    def all_options(self) -> Options:
        return {name: self.option(name) for name in default_options()}


@cache
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DATA.read_text())
    return loaded


def is_stateful(example: Example) -> bool:
    """Several steps, or a message that changes what happens to later packets: it may not be mixed with others."""
    if len(example.steps) > 1 or example.steps[0].side is None:
        return True
    frame = example.steps[0].frame
    following = frame[20] if frame[12:14] == b"\x86\xdd" else None
    too_big = following == ICMP6 and frame[54] == 2
    inner = dissect(frame).ipv4
    inner_fragment = inner is not None and len(inner) >= 20 and bool(inner[6] & 0x3F or inner[7])
    return following == FRAGMENT or too_big or inner_fragment


def default_options() -> Options:
    options: Options = document()["configs"]["default"]["options"]
    return options


def bindings() -> list[Binding]:
    return [
        Binding(b["name"], b["ipv4"], b["psid_offset"], b["psid_len"], b["psid"], b["b4_ipv6"], b["br_ipv6"])
        for b in document()["configs"]["default"]["bindings"]
    ]


def binding(name: str) -> Binding:
    return next(b for b in bindings() if b.name == name)


def examples() -> list[Example]:
    return [_example(e) for e in document()["examples"] if e["dut"] == "lwaftr"]


def _example(raw: dict[str, Any]) -> Example:
    options = tuple(sorted((name, json.dumps(value)) for name, value in raw["config"]["options"].items()))
    return Example(raw["name"], tuple(raw["requirements"]), options, tuple(_step(step) for step in raw["steps"]))


def _step(raw: dict[str, Any]) -> Step:
    given = raw["in"] or {"side": None, "frame": ""}
    out = tuple(Expected(o["side"], bytes.fromhex(o["frame"]), o["class"]) for o in raw["out"])
    event, drop = raw.get("event"), raw.get("drop")
    return Step(given["side"], bytes.fromhex(given["frame"]), raw.get("advance_ms", 0), event, drop, out)


def path_mtu(options: Options) -> int:
    """The largest outer packet: a configured payload MTU stands for a path MTU (spec 4.12)."""
    capped = int(options["v6_path_mtu"])
    if options["softwire_payload_mtu"]:
        capped = min(capped, options["softwire_payload_mtu"] + (48 if options["encap_limit"] is not None else 40))
    return max(capped, 1280)


def _side(side: str, mtu: int) -> Settings:
    topology = document()["topology"]
    address, length = topology[f"{side}_interface"].split("/")
    packed = ip4 if side == "v4" else ip6
    return {
        "mac": mac(topology["mac"][f"{side}_if"]),
        "vlan": None,
        "mtu": mtu,
        "next_hop_mac": None,
        "addresses": [(packed(address), int(length))],
        "next_hop": packed(topology[f"{side}_next_hop"]),
    }


def _rate(rate: dict[str, int] | None) -> tuple[int, int] | None:
    return (rate["burst"], rate["burst"] // rate["per_second"]) if rate else None


def settings(options: Options | None = None) -> Settings:
    """The settings dict of _core for the topology of the examples; `options` in the examples' own words."""
    o = {**default_options(), **(options or {})}
    errors = _rate(o["icmpv6_error_rate"])
    drop = {name: o[f"opt_{name}"] == "drop" for name in ("source_route", "record_route", "timestamp", "router_alert")}
    return {
        "v4": _side("v4", o["v4_mtu"]),
        "v6": _side("v6", o["v6_path_mtu"]),
        "one_port": False,
        "br_addresses": [ip6(address) for address in document()["topology"]["br_addresses"]],
        "tunnel_payload_mtu": o["softwire_payload_mtu"],
        "hop_limit": o["outer_hop_limit"],
        "encap_limit": o["encap_limit"],
        "dscp": o["pipe_dscp"] if o["dscp_mode"] == "pipe" else "copy",
        "ecn": o["ecn_mode"],
        "flow_label": "hash" if o["flow_label"] == "hash" else 0,
        "pmtud": o["pmtud"],
        "hairpin": o["hairpin"],
        "tcp_mss": None,
        "proxy_arp": o["proxy_arp"],
        "reassembly": {"max_packets": 1000, "timeout_s": o["v6_reasm_timeout_ms"] / 1000, "max_fragments": 64},
        "ipv4_options": drop,
        "icmp": {
            "incoming_v4": o["icmpv4_allow_incoming"],
            "incoming_v4_rate": _rate(o["icmpv4_incoming_rate"]),
            "incoming_v6": True,
            "unbound_v4": o["icmpv4_generate_errors"],
            "unknown_b4_v6": o["icmpv6_generate_errors"],
            "rate_limit": (*errors, errors[0]) if errors else NO_LIMIT,
            "error_tos": o["icmpv4_error_tos"],
        },
        "subscriber_mask": 56,
        "pcp": {"enabled": False, "addresses": [], "rate_limit": (0, 0)},
        "events": {"miss": False, "move": False, "hold_code5_ms": 0},
    }


def configuration(options: Options, rows: list[Binding] | None = None) -> str:
    """The same as a configuration file for the command line. Next hops are fixed: their MACs are in the topology."""
    topology, s = document()["topology"], settings(options)
    rate = dict(zip(("packets", "period_s", "per_source"), s["icmp"]["rate_limit"], strict=True))
    incoming = s["icmp"]["incoming_v4_rate"]
    sides = {
        side: {
            "port": f"net_null{number}",  # replay puts a net_pcap port in its place
            "mac": topology["mac"][f"{side}_if"],
            "addresses": [topology[f"{side}_interface"]],
            "next_hop": topology[f"{side}_next_hop"],
            "next_hop_mac": topology["mac"][f"{side}_peer"],
            "mtu": s[side]["mtu"],
        }
        for number, side in enumerate(("v4", "v6"))
    }
    policy = {name: "drop" if drop else "pass" for name, drop in s["ipv4_options"].items()}
    softwire = {
        "br_addresses": topology["br_addresses"],
        "tunnel_payload_mtu": s["tunnel_payload_mtu"],
        "hop_limit": s["hop_limit"],
        "encap_limit": s["encap_limit"],
        "dscp": s["dscp"] if s["dscp"] == "copy" else f"pipe:{s['dscp']}",
        "ecn": s["ecn"],
        "flow_label": s["flow_label"] or "zero",
        "pmtud": s["pmtud"],
        "hairpinning": {"local": True, "external": False, "drop": "drop"}[s["hairpin"]],
        "answer_arp_for_pools": s["proxy_arp"],
        "ipv4_options": policy,
    }
    icmp = {
        "incoming_v4": s["icmp"]["incoming_v4"],
        "incoming_v4_rate": {"packets": incoming[0], "period_s": incoming[1]} if incoming else None,
        "unbound_v4": s["icmp"]["unbound_v4"],
        "unknown_b4_v6": s["icmp"]["unknown_b4_v6"],
        "rate_limit": rate,
        "error_tos": s["icmp"]["error_tos"],
    }
    document_ = {
        "dataplane": {"hugepages": "never", "max_bindings": 1000},
        "interfaces": sides,
        "softwire": softwire,
        "icmp": icmp,
        "bindings": {"entries": [_entry(row) for row in (bindings() if rows is None else rows)]},
        "subscribers": {"max_softwires": 16},
        "pcp": {"enabled": False, "pools": []},
    }
    return yaml.safe_dump(document_, sort_keys=False)


def _entry(row: Binding) -> dict[str, Any]:
    entry = {"ipv4": row.ipv4, "psid_offset": row.psid_offset, "psid_len": row.psid_len, "psid": row.psid}
    return {**entry, "b4_ipv6": row.b4, "br_ipv6": row.br}


def numeric4(address: str) -> int:
    return int(IPv4Address(address))


def packed6(address: str) -> bytes:
    return IPv6Address(address).packed
