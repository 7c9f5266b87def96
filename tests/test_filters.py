"""pcap filters: which frames pass on each side and in each direction, and what is said against bad ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pylwaftr import _core, filters
from tests import pcap_files
from tests.config_text import V4, V6, faults, text
from tests.frames import (
    BROADCAST,
    ENCAP_LIMIT_4,
    ETH_ARP,
    PEER_MAC,
    V4_PEER,
    arp,
    dissect,
    echo4,
    edit4,
    ethernet,
    fragments4,
    hop,
    icmp6,
    ipv6,
    sent,
    tcp,
    udp,
)
from tests.lane_router import Router, router, start_eal
from tests.softwires import (
    B1,
    B2,
    GATEWAY4,
    GATEWAY6,
    INET,
    INET2,
    ROUTER4,
    ROUTER6,
    WHOLE,
    changed,
    encap,
    from_b4,
    solicitation,
)
from tests.vector_config import configuration, default_options, settings

DNS = udp(INET, B1.ipv4, 53, 1024)
WEB = tcp(INET2, B1.ipv4, 443, 1025, flags=0x10)
SYN = tcp(INET, B1.ipv4, 443, 1025)
PING = echo4(INET, WHOLE.ipv4, 7)
LARGE = udp(INET, WHOLE.ipv4, 53, 1024, size=1472)
OUT_DNS, OUT_WEB = udp(B1.ipv4, INET, 1500, 53), tcp(B1.ipv4, INET2, 1500, 443, flags=0x10)
OUT_PING = echo4(WHOLE.ipv4, INET, 7)
ASK = ethernet("v4", arp(1, V4_PEER, GATEWAY4, bytes(6), ROUTER4), dst=BROADCAST, kind=ETH_ARP)

# What came: an IPv4 packet of the internet, or one of a subscriber; how it looks where the filter is.
INGRESS_V4 = [
    ("", DNS, True),
    ("ip", DNS, True),
    ("ip6", DNS, False),
    ("udp port 53", DNS, True),
    ("udp port 53", WEB, False),
    ("udp src port 53 and dst portrange 1000-1100", DNS, True),
    ("not udp", DNS, False),
    (f"host {INET2}", WEB, True),
    (f"host {INET2}", DNS, False),
    (f"src net 198.51.100.0/25 and dst host {B1.ipv4}", DNS, True),
    ("icmp", PING, True),
    ("icmp", DNS, False),
    ("icmp[icmptype] = icmp-echo", PING, True),
    ("icmp[icmptype] = icmp-echoreply", PING, False),
    ("tcp[tcpflags] & tcp-syn != 0", SYN, True),
    ("tcp[tcpflags] & tcp-syn != 0", WEB, False),
    ("tcp[13] & 0x12 = 0x10", WEB, True),
    ("ip[8] > 63", DNS, True),
    ("ip[8] < 64", DNS, False),
    ("ether multicast", DNS, False),
    ("less 1500", LARGE, False),
    ("greater 1500", LARGE, True),
    ("ip[6:2] & 0x1fff = 0", fragments4(LARGE, 800)[0], True),
    ("vlan", DNS, False),
    ("ip protochain 17", DNS, True),  # a loop: run by libpcap
    ("ip protochain 17", WEB, False),
]
INGRESS_V6 = [
    ("ip6 proto 4", from_b4(OUT_DNS, B1), True),
    ("ip6 proto 4", from_b4(OUT_DNS, B1, ext=ENCAP_LIMIT_4, first=60), False),
    ("ip6 protochain 4", from_b4(OUT_DNS, B1, ext=ENCAP_LIMIT_4, first=60), True),
    ("ip6 protochain 4", ipv6(B1.b4, B1.br, 58, icmp6(B1.b4, B1.br, 128, 0, b"\0\1\0\1")), False),
    ("icmp6", from_b4(OUT_DNS, B1), False),
    (f"ip6 host {B1.b4}", from_b4(OUT_DNS, B1), True),
    (f"ip6 host {B1.b4}", from_b4(OUT_PING, WHOLE), False),
    (f"dst net {B1.br}/128 and ip6[40] & 0xf0 = 0x40", from_b4(OUT_WEB, B1), True),
    ("ip6[49] = 17", from_b4(OUT_DNS, B1), True),
    ("ip6[49] = 17", from_b4(OUT_WEB, B1), False),
    ("udp", from_b4(OUT_DNS, B1), False),  # what is in the softwire is not looked for by itself
    ("ip", from_b4(OUT_DNS, B1), False),
]
EGRESS_V4 = [
    ("udp port 53", from_b4(OUT_DNS, B1), True),
    ("udp port 53", from_b4(OUT_WEB, B1), False),
    (f"src host {B1.ipv4}", from_b4(OUT_WEB, B1), True),
    ("icmp", from_b4(OUT_PING, WHOLE), True),
    ("not icmp", from_b4(OUT_PING, WHOLE), False),
    ("ip[8] = 63", from_b4(OUT_DNS, B1), True),  # as it leaves: one hop less
    ("ip6", from_b4(OUT_DNS, B1), False),
]
EGRESS_V6 = [
    ("ip6 proto 4", DNS, True),
    ("not ip6 proto 4", DNS, False),
    (f"dst host {B1.b4}", DNS, True),
    (f"dst host {B1.b4}", PING, False),
    ("ip6[49] = 1", PING, True),
    ("ip", DNS, False),
]
ROWS = [
    *(("v4", "ingress", *row) for row in INGRESS_V4),
    *(("v6", "ingress", *row) for row in INGRESS_V6),
    *(("v4", "egress", *row) for row in EGRESS_V4),
    *(("v6", "egress", *row) for row in EGRESS_V6),
]
OTHER = {"v4": "v6", "v6": "v4"}
IN_PIECES: list[tuple[int, ...]] = [(), (15, 9, 12, 3), (14,), (1,) * 60]


def _filtered(side: str, direction: str, expression: str, vlans: tuple[int, int] | None = None) -> Router:
    changes: dict[str, object] = {f"{side}.{direction}_filter": expression}
    if vlans:
        changes |= {"v4.vlan": vlans[0], "v6.vlan": vlans[1]}
    return Router(changed(settings({"v6_path_mtu": 2000}), changes))


def _ids(rows: list[tuple[str, str, str, bytes, bool]]) -> list[str]:
    return [f"{number}-{row[0]}-{row[1]}-{row[2] or 'all'}-{row[4]}" for number, row in enumerate(rows)]


@pytest.mark.parametrize("vlans", [None, (100, 200)], ids=["untagged", "tagged"])
@pytest.mark.parametrize("side, direction, expression, packet, passes", ROWS, ids=_ids(ROWS))
def test_what_passes(
    side: str, direction: str, expression: str, packet: bytes, passes: bool, vlans: tuple[int, int] | None
) -> None:
    lane = _filtered(side, direction, expression, vlans)
    came_on = side if direction == "ingress" else OTHER[side]
    tags = dict(zip(("v4", "v6"), vlans or (None, None), strict=True))
    refused = {"drop_filter_in" if direction == "ingress" else "drop_filter_out": 1}
    for segments in IN_PIECES:
        out = lane.send(came_on, ethernet(came_on, packet, vlan=tags[came_on]), segments=segments)
        moved = lane.ways()
        if passes:
            # The very frame that an unfiltered router sends: the filter leaves no trace, the tag is back.
            plain = Router(changed(settings({"v6_path_mtu": 2000}), {f"{s}.vlan": tags[s] for s in tags}))
            assert out == plain.send(came_on, ethernet(came_on, packet, vlan=tags[came_on])) != []
            assert not refused.keys() & moved.keys()
        else:
            assert out == []
            assert moved == refused
    lane.check_end()


def test_a_priority_tag_is_a_tag() -> None:
    with router(changed(settings(), {"v4.ingress_filter": "udp port 53"})) as lane:
        assert lane.send("v4", ethernet("v4", DNS, vlan=0)) == [sent("v6", encap(hop(DNS), B1))]
        assert lane.send("v4", ethernet("v4", WEB, vlan=0)) == []


def test_each_side_has_its_own_on_one_port() -> None:
    mac = settings()["v4"]["mac"]
    stick = changed(settings(), {"one_port": True, "v6.mac": mac})
    options = changed(stick, {"v4.ingress_filter": "udp", "v6.ingress_filter": "ip6"})
    with router(options) as lane:
        assert lane.send("v4", ethernet("v4", WEB)) == []
        assert len(lane.send("v4", ethernet("v4", DNS))) == 1
        assert len(lane.send("v4", ethernet("v6", from_b4(OUT_WEB, B1), dst=mac))) == 1


def test_fragments_made_here_are_filtered_one_by_one() -> None:
    """The first goes by the packet's edge or drop, the others are made here."""
    first_only = "ip6 proto 44 and ip6[42:2] & 0xfff8 = 0"
    options = changed(settings({"v6_path_mtu": 1280}), {"v6.egress_filter": first_only})
    with router(options) as lane:
        out = lane.send("v4", ethernet("v4", LARGE))
        assert [dissect(frame).payload[6] for _, frame in out] == [44]
        assert lane.moved() == {"rx_v4": 1, "encap": 1, "fragments_v6_made": 2, "filtered_made": 1, "tx_v6": 1}
    with router(changed(options, {"v6.egress_filter": f"not ({first_only})"})) as lane:
        assert len(lane.send("v4", ethernet("v4", LARGE))) == 1
        assert lane.moved() == {"rx_v4": 1, "drop_filter_out": 1, "fragments_v6_made": 2, "tx_v6": 1}


def test_answers_of_our_own_are_filtered_and_counted_beside_the_law() -> None:
    with router(changed(settings(), {"v4.egress_filter": "not icmp and not arp"})) as lane:
        assert lane.send("v4", ethernet("v4", echo4(INET, ROUTER4, 1))) == []
        assert lane.moved() == {"rx_v4": 1, "answered_echo_v4": 1, "filtered_made": 1}
        assert lane.send("v4", ASK) == []
        assert lane.moved() == {"rx_v4": 1, "answered_arp": 1, "filtered_made": 1}


SPOOFED = ethernet("v6", from_b4(udp(B1.ipv4, INET, 2500, 53), B1))
REFUSED = [  # what is made here, the filter that refuses it, and the counters that therefore stand still
    ("ICMPv4 error", "v4", ethernet("v4", edit4(udp(INET, B1.ipv4, 53, 1500), 8, b"\1")), "not icmp", "icmp4_sent_ttl"),
    (
        "ICMPv6 error",
        "v6",
        ethernet("v6", from_b4(udp(B1.ipv4, INET, 2500, 53), B1)),
        "not icmp6",
        "icmp6_sent_no_binding",
    ),
    ("hairpin", "v6", ethernet("v6", from_b4(udp(B1.ipv4, B2.ipv4, 1500, 2500), B1)), "not ip6", "hairpin_bytes"),
]


@pytest.mark.parametrize(("what", "side", "frame", "refusing", "counter"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_a_filter_refuses_was_not_sent(what: str, side: str, frame: bytes, refusing: str, counter: str) -> None:
    with router(changed(settings(), {f"{side}.egress_filter": refusing})) as lane:
        assert lane.send(side, frame) == []
        assert lane.count(counter) == 0
    with router() as lane:
        assert len(lane.send(side, frame)) == 1
        assert lane.count(counter) == (46 if counter == "hairpin_bytes" else 1)


@pytest.mark.parametrize(("side", "counter"), [("v4", "arp_sent"), ("v6", "ndp_sent")])
def test_questions_that_a_filter_refuses_were_not_asked(side: str, counter: str) -> None:
    for refusing in (None, "not arp and not icmp6"):
        with router(changed(settings(), {f"{side}.egress_filter": refusing}), resolved=False) as lane:
            lane.interface_up()
            assert (lane.count(counter) > 0) is (refusing is None)


def test_an_error_that_waits_is_sent_when_it_leaves() -> None:
    with router(resolved=False) as lane:
        lane.send("v4", ethernet("v4", edit4(udp(INET, B1.ipv4, 53, 1500), 8, b"\1")))
        assert lane.count("icmp4_sent_ttl") == 0
        lane.lane.set_next_hop("v4", PEER_MAC["v4"])
        lane.advance(1)
        assert lane.count("icmp4_sent_ttl") == 1


def test_what_waited_for_its_next_hop_is_filtered_when_it_leaves() -> None:
    with router(changed(settings(), {"v6.egress_filter": "ip6[49] = 17 or icmp6"}), resolved=False) as lane:
        lane.send("v4", ethernet("v4", DNS), ethernet("v4", WEB))
        lane.moved()
        lane.lane.set_next_hop("v6", bytes.fromhex("0200000006fe"))
        assert lane.advance(1) == [sent("v6", encap(hop(DNS), B1))]
        assert lane.ways() == {"encap": 1, "drop_filter_out": 1, "held_next_hop": -2}


def test_link_frames_are_frames_too() -> None:
    """A list of what may pass has to name ARP and neighbour discovery."""
    with router(changed(settings(), {"v4.ingress_filter": "ip", "v6.ingress_filter": "ip6 proto 4"})) as lane:
        assert lane.send("v4", ASK) == []
        assert lane.ways() == {"drop_filter_in": 1}
        assert lane.send("v6", solicitation(ROUTER6, GATEWAY6)) == []
        assert lane.ways() == {"drop_filter_in": 1}
    with router(changed(settings(), {"v4.ingress_filter": "arp or ip", "v6.ingress_filter": "icmp6"})) as lane:
        assert len(lane.send("v4", ASK) + lane.send("v6", solicitation(ROUTER6, GATEWAY6))) == 2


# ---------------------------------------------------------------- engines


@pytest.mark.parametrize("expression", ["", "udp port 53", "ether multicast", "icmp[0] = 8", "ip6 proto 4", "vlan"])
def test_filters_are_compiled_to_machine_code(expression: str) -> None:
    start_eal()
    assert _core.filter_engine(expression) == "jit"


def test_loops_are_left_to_libpcap() -> None:
    start_eal()
    assert _core.filter_engine("ip6 protochain 17") == "libpcap"


# ---------------------------------------------------------------- bad filters

BAD = ["udp port", "foo bar", "port 70000", "host 1.2.3.4.5", "ip and (udp", "ip6 host 203.0.113.1", "udp\0"]


@pytest.mark.parametrize("expression", BAD)
def test_bad_filters_are_refused_with_what_libpcap_says(expression: str) -> None:
    said = _core.check_filter(expression)
    assert said
    assert "\n" not in said
    assert filters.fault(expression) == said
    start_eal()
    table = _core.BindingTable(16)
    with pytest.raises(ValueError, match=r"^settings: v6\.egress_filter: is no pcap filter: "):
        _core.Lane(changed(settings(), {"v6.egress_filter": expression}), table, 64)


def test_a_filter_has_to_be_text() -> None:
    start_eal()
    with pytest.raises(ValueError, match=r"v4\.ingress_filter: has to be a str"):
        _core.Lane(changed(settings(), {"v4.ingress_filter": 5}), _core.BindingTable(16), 64)


CONFIGURED = [
    ("good ones", f"{V4}, ingress_filter: udp port 53 or arp", f"{V6}, egress_filter: ip6 proto 4 or icmp6", []),
    ("none", f"{V4}, ingress_filter: null", V6, []),
    ("a bad one", f'{V4}, ingress_filter: "udp port"', V6, ["2: interfaces.v4.ingress_filter"]),
    ("two bad ones", f'{V4}, egress_filter: "foo"', f'{V6}, ingress_filter: "ip6 ip6"', ["2: interfaces.v4", "3: "]),
]


@pytest.mark.parametrize("what, v4, v6, expected", CONFIGURED, ids=[row[0] for row in CONFIGURED])
def test_a_configuration_names_its_bad_filters(what: str, v4: str, v6: str, expected: list[str]) -> None:
    found = faults(text(v4=v4, v6=v6))
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)
        assert "is no pcap filter (" in line
        assert "pcap-filter(7)" in line


# ---------------------------------------------------------------- replay


@pytest.mark.vectors
def test_replay_with_filters(tmp_path: Path) -> None:
    document = yaml.safe_load(configuration(default_options()))
    document["interfaces"]["v4"] |= {"ingress_filter": "udp or icmp", "egress_filter": "not icmp"}
    document["interfaces"]["v6"] |= {"ingress_filter": "not ip6[49] = 6", "egress_filter": "ip6[49] = 17"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
    pcap_files.write(tmp_path / "a.pcap", [ethernet("v4", packet) for packet in (DNS, WEB, PING)])
    inside = [from_b4(OUT_DNS, B1), from_b4(OUT_WEB, B1), from_b4(OUT_PING, WHOLE)]
    pcap_files.write(tmp_path / "b.pcap", [ethernet("v6", packet) for packet in inside])
    command = [sys.executable, "-m", "pylwaftr", "replay", "-c", "c.yaml", "--v4-in", "a.pcap", "--v6-in", "b.pcap"]
    command += ["--v4-out", "c.pcap", "--v6-out", "d.pcap", "--counters", "f.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sent("v4", hop(OUT_DNS))[1] in pcap_files.read(tmp_path / "c.pcap")
    assert sent("v6", encap(hop(DNS), B1))[1] in pcap_files.read(tmp_path / "d.pcap")
    counters = json.loads((tmp_path / "f.json").read_text())
    wanted = {"encap": 1, "decap": 1, "drop_filter_in": 2, "drop_filter_out": 2}
    assert {name: counters[name] for name in wanted} == wanted
