"""A configuration as short as can be, for tests to add to, and its faults as lines."""

from __future__ import annotations

from pylwaftr import config

# Four lines; what a row adds begins on line 5.
V4 = "port: net_tap0, addresses: [192.0.2.1/24], next_hop: 192.0.2.254"
V6 = 'port: net_tap1, addresses: ["2001:db8:ffff::2/64"], next_hop: "2001:db8:ffff::1"'
SOFTWIRE = 'br_addresses: ["2001:db8:aa::1"]'

NO_HOP = "port: net_tap0, addresses: [192.0.2.1/24]"
STICK6 = V6.replace("tap1", "tap0")

# Entries.
E1 = 'ipv4: 203.0.113.1, psid_len: 6, psid: 1, b4_ipv6: "2001:db8:1::1"'
E2 = 'ipv4: 203.0.113.1, psid_len: 6, psid: 2, b4_ipv6: "2001:db8:2::1"'


def text(more: str = "", v4: str = V4, v6: str = V6, softwire: str = SOFTWIRE) -> str:
    return f"interfaces:\n  v4: {{{v4}}}\n  v6: {{{v6}}}\nsoftwire: {{{softwire}}}\n{more}\n"


def entries(*lines: str) -> str:
    """Entry 0 is on line 7."""
    return "bindings:\n  entries:\n" + "".join(f"    - {{{line}}}\n" for line in lines)


def faults(yaml: str) -> list[str]:
    try:
        found = config.load_text(yaml, "f").warnings
    except config.ConfigFaults as faulty:
        found = faulty.faults
    return [str(fault).removeprefix("f:") for fault in found]
