"""The reference lwB4's softwire end: the worked examples, port sets, ECN, fragments, errors from inside the tunnel."""

from __future__ import annotations

import json
import struct
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pylwaftr.b4 import nft
from pylwaftr.b4 import packet as pk
from pylwaftr.b4.core import B4, BINDING_LOST, ECN, OUTER, Options
from pylwaftr.b4.napt import Mapping, Napt
from pylwaftr.b4.softwire import PortSet, Softwire, tunnel_source
from pylwaftr.cli.b4 import b4 as command

DATA = json.loads((Path(__file__).parent / "data" / "dataplane.json").read_text())
EXAMPLES = [e for e in DATA["examples"] if e["dut"] == "lwb4"]
BINDINGS = {b["name"]: b for b in DATA["configs"]["default"]["bindings"]}
SITE = IPv4Address("203.0.113.1").packed
HOST = IPv4Address("198.51.100.10").packed


def softwire(name: str = "b1") -> Softwire:
    b = BINDINGS[name]
    ports = PortSet(b["psid_offset"], b["psid_len"], b["psid"])
    return Softwire(IPv6Address(b["br_ipv6"]), IPv6Address(b["b4_ipv6"]), IPv4Address(b["ipv4"]), ports)


def napt(state: dict[str, Any], outside: bytes) -> Napt:
    mappings = []
    for m in state["napt"]:
        address, _, port = m["inside"].partition(":")
        mappings.append(Mapping(m["proto"], IPv4Address(address).packed, int(port), m["outside_port"]))
    return Napt(outside, mappings)


def from_example(example: dict[str, Any]) -> B4:
    state, line = example["state"], softwire(example["state"]["binding"])
    options = Options(
        mtu=state["wan_mtu"],
        hop_limit=state["outer_hop_limit"],
        error_source=IPv4Address(state["lan_address"]).packed,
        prohibited=example["name"] == "lwb4-port-outside-set",  # the example shows the answer that is off by default
        first_identification=0x5EED0008,
    )
    return B4(line, options, napt(state, line.ipv4.packed))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: str(e["name"]))
def test_worked_example(example: dict[str, Any]) -> None:
    home = from_example(example)
    for step in example["steps"]:
        frame = bytes.fromhex(step["in"]["frame"])
        outcome = home.from_lan(frame) if step["in"]["side"] == "lan" else home.from_wan(frame)
        wanted = [(o["side"], o["frame"]) for o in step["out"]]
        seen = [("wan", p.hex()) for p in outcome.wan] + [("lan", p.hex()) for p in outcome.lan]
        assert seen == wanted
        assert outcome.drop == step.get("drop")
        assert (outcome.event == BINDING_LOST) == (example["name"] == "lwb4-icmp6-1-5-from-lwaftr")


def test_all_nine_examples_are_here() -> None:
    assert len(EXAMPLES) == 9


def test_no_answer_about_a_foreign_port_by_default() -> None:
    example = next(e for e in EXAMPLES if e["name"] == "lwb4-port-outside-set")
    outcome = B4(softwire()).from_wan(bytes.fromhex(example["steps"][0]["in"]["frame"]))
    assert (outcome.wan, outcome.lan, outcome.drop) == ([], [], "not-my-port")


# provisioning


@pytest.mark.parametrize("row", DATA["vectors"]["b4_addresses"], ids=lambda r: str(r["address"]))
def test_tunnel_source_is_built_from_the_prefix(row: dict[str, Any]) -> None:
    built = tunnel_source(IPv6Network(row["prefix"]), IPv4Address(row["ipv4"]), row["psid"])
    assert str(built) == row["address"]


@pytest.mark.parametrize("row", DATA["vectors"]["port_sets"], ids=lambda r: f"a{r['a']}k{r['k']}psid{r['psid']}")
def test_port_set(row: dict[str, Any]) -> None:
    ports = PortSet(row["a"], row["k"], row["psid"])
    ranges = list(ports.ranges())
    assert (len(ranges), list(ranges[0]), list(ranges[-1])) == (row["ranges"], row["first"], row["last"])
    assert sum(ports.members()) == row["ports"]


@pytest.mark.parametrize("offset, length, psid", [(6, 11, 0), (0, 6, 64), (-1, 4, 0), (0, 17, 0)])
def test_impossible_port_set_is_refused(offset: int, length: int, psid: int) -> None:
    with pytest.raises(ValueError, match="fit"):
        PortSet(offset, length, psid)


# the two ways through the core agree


def udp(
    source: bytes, destination: bytes, sport: int, dport: int, size: int = 30, tos: int = 0, df: bool = False
) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, tos, 28 + size, 7, 0x4000 if df else 0, 64, pk.UDP, 0) + source + destination
    head = head[:10] + struct.pack("!H", pk.checksum(head)) + head[12:]
    return head + struct.pack("!HHHH", sport, dport, 8 + size, 0) + bytes(size)


def in_buffer(packet: bytes, room: int = OUTER) -> bytearray:
    return bytearray(room) + packet + bytearray(100)


@pytest.mark.parametrize("tos", [0, 0x02, 0xB8, 0xFF])
@pytest.mark.parametrize("size", [0, 30, 1432])
def test_in_place_encapsulation_is_the_long_one(tos: int, size: int) -> None:
    home, packet = B4(softwire()), udp(SITE, HOST, 1500, 53, size, tos)
    buffer = in_buffer(packet)
    end = home.encapsulate(buffer, OUTER + len(packet))
    assert [bytes(buffer[:end])] == home.from_lan(packet).wan


@pytest.mark.parametrize(
    "what, packet",
    [
        ("larger than the path", udp(SITE, HOST, 1500, 53, 1433)),
        ("a source that is not ours", udp(HOST, SITE, 1500, 53)),
        ("IPv6", b"\x60" + bytes(59)),
    ],
)
def test_in_place_encapsulation_leaves_the_rest_to_the_long_way(what: str, packet: bytes) -> None:
    assert B4(softwire()).encapsulate(in_buffer(packet), OUTER + len(packet)) == 0


def test_in_place_decapsulation_is_the_long_one() -> None:
    home, packet = B4(softwire()), udp(HOST, SITE, 53, 1500, tos=0xB8)
    length = home.decapsulate(in_buffer(packet, 0), len(packet) + 6, 0xB8)
    assert length == len(packet)
    assert home.from_tunnel(softwire().aftr.packed, 0xB8, packet + bytes(6)).lan == [packet]


@pytest.mark.parametrize(
    "what, packet, traffic_class, drop",
    [
        ("a neighbour's port", udp(HOST, SITE, 53, 2500), 0, "not-my-port"),
        ("a neighbour's address", udp(HOST, HOST, 53, 1500), 0, "not-my-port"),
        ("CE outside, Not-ECT inside", udp(HOST, SITE, 53, 1500), 3, "ce-on-not-ect"),
        ("a length beyond the payload", udp(HOST, SITE, 53, 1500)[:-1], 0, "malformed"),
        ("a runt", b"\x45\x00", 0, "malformed"),
        ("IPv6 in IPv6", b"\x60" + bytes(59), 0, "malformed"),
        ("no port at all", pk.ipv4(HOST, SITE, 47, bytes(20)), 0, "not-my-port"),
        ("an ICMP timestamp request", pk.ipv4(HOST, SITE, pk.ICMP, b"\x0d" + bytes(19)), 0, "not-my-port"),
    ],
)
def test_dropped_out_of_the_tunnel(what: str, packet: bytes, traffic_class: int, drop: str) -> None:
    home = B4(softwire())
    assert home.decapsulate(in_buffer(packet, 0), len(packet), traffic_class) == 0
    outcome = home.from_tunnel(softwire().aftr.packed, traffic_class, packet)
    assert (outcome.wan, outcome.lan, outcome.drop) == ([], [], drop)
    assert home.counters["drop " + drop] == 1


def test_any_protocol_reaches_a_whole_address() -> None:
    home, line = B4(softwire("b4")), softwire("b4")
    packet = pk.ipv4(HOST, line.ipv4.packed, 47, bytes(20))
    assert home.from_tunnel(line.aftr.packed, 0, packet).lan == [packet]


def test_later_fragment_passes_for_the_first_one_decides() -> None:
    packet = bytearray(udp(HOST, SITE, 53, 9))
    packet[7] = 100
    assert B4(softwire()).from_tunnel(softwire().aftr.packed, 0, bytes(packet)).lan == [bytes(packet)]


@pytest.mark.parametrize("row", DATA["vectors"]["ecn_decapsulation"], ids=lambda r: f"{r['inner']}-{r['outer']}")
def test_ecn_combination(row: dict[str, Any]) -> None:
    bits = {"Not-ECT": 0, "ECT(1)": 1, "ECT(0)": 2, "CE": 3}
    inner, outer = bits[row["inner"]], bits[row["outer"]]
    assert ECN[inner][outer] == bits.get(row["result"])
    outcome = B4(softwire()).from_tunnel(softwire().aftr.packed, 0xB8 | outer, udp(HOST, SITE, 53, 1500, tos=inner))
    if row["result"] == "drop":
        assert outcome.drop == "ce-on-not-ect"
    else:
        assert outcome.lan[0][1] == 0xB8 | bits[row["result"]]  # the outer DSCP is carried inward (RFC 6333)
        assert pk.sum16(outcome.lan[0][:20]) == 0xFFFF


# path MTU and errors from inside the tunnel


def reassembled(packets: list[bytes]) -> bytes:
    whole = b""
    for i, packet in enumerate(packets):
        at, more = struct.unpack("!H", packet[42:44])[0] & 0xFFF8, packet[43] & 1
        assert at == len(whole)
        assert more == (i < len(packets) - 1)
        assert more == 0 or (len(packet) - 48) % 8 == 0
        whole += packet[48:]
    assert len({p[44:48] for p in packets}) == 1
    return whole


@pytest.mark.parametrize("mtu", [1280, 1281, 1400, 1500])
@pytest.mark.parametrize("size", [1480, 3000, 8192])
def test_outer_fragments_carry_the_packet_whole(mtu: int, size: int) -> None:
    packet = udp(SITE, HOST, 1500, 53, size)
    packets = B4(softwire(), Options(mtu=mtu)).from_lan(packet).wan
    assert all(len(p) <= mtu for p in packets)
    assert reassembled(packets) == packet


def icmp6(kind: int, code: int, value: int, quoted: bytes) -> bytes:
    return struct.pack("!BBHI", kind, code, 0, value) + quoted


def tunnelled(packet: bytes) -> bytes:
    return B4(softwire(), Options(mtu=9000)).from_lan(packet).wan[0]


ROUTER = IPv6Address("2001:db8:ee::9").packed


def test_packet_too_big_lowers_the_path_mtu_until_it_is_old() -> None:
    home = B4(softwire())
    sent = udp(SITE, HOST, 1500, 53, 1400, df=True)
    outcome = home.from_icmp6(ROUTER, icmp6(2, 0, 1400, tunnelled(sent)), 100.0)
    assert home.path_mtu == 1400
    error = outcome.lan[0]
    assert (error[20], error[21], error[26:28]) == (3, 4, struct.pack("!H", 1360))
    assert (error[12:16], error[16:20]) == (bytes([192, 0, 0, 2]), SITE)
    home.from_icmp6(ROUTER, icmp6(2, 0, 1450, tunnelled(sent)), 101.0)
    assert home.path_mtu == 1400, "an error never raises it"
    home.tick(699.0)
    assert home.path_mtu == 1400
    home.tick(700.0)
    assert home.path_mtu == 1500


@pytest.mark.parametrize("mtu", [0, 68, 1279])
def test_packet_too_big_below_1280_is_ignored(mtu: int) -> None:
    home = B4(softwire())
    outcome = home.from_icmp6(ROUTER, icmp6(2, 0, mtu, tunnelled(udp(SITE, HOST, 1500, 53, df=True))), 0.0)
    assert (home.path_mtu, outcome.lan) == (1500, [])


@pytest.mark.parametrize(
    "what, kind, code, told",
    [
        ("no route", 1, 0, (3, 1)),
        ("address unreachable", 1, 3, (3, 1)),
        ("hop limit exceeded", 3, 0, (3, 1)),
        ("reassembly time exceeded", 3, 1, None),
        ("parameter problem", 4, 0, None),
    ],
)
def test_tunnel_error_is_relayed(what: str, kind: int, code: int, told: tuple[int, int] | None) -> None:
    outcome = B4(softwire()).from_icmp6(ROUTER, icmp6(kind, code, 0, tunnelled(udp(SITE, HOST, 1500, 53))), 0.0)
    assert [(p[20], p[21]) for p in outcome.lan] == ([told] if told else [])


def test_tunnel_error_reaches_the_host_behind_the_given_mapping() -> None:
    inside = bytes([192, 168, 1, 10])
    home = B4(softwire(), napt=Napt(SITE, [Mapping(pk.UDP, inside, 5353, 1500)]))
    outcome = home.from_icmp6(ROUTER, icmp6(1, 0, 0, tunnelled(udp(SITE, HOST, 1500, 53))), 0.0)
    error = outcome.lan[0]
    assert (error[16:20], error[40:44], error[48:50]) == (inside, inside, struct.pack("!H", 5353))
    assert pk.sum16(error[:20]) == pk.sum16(error[20:]) == pk.sum16(error[28:48]) == 0xFFFF


@pytest.mark.parametrize("quoted", [b"", bytes(60), tunnelled(udp(SITE, HOST, 1500, 53))[:30]])
def test_error_about_anothers_packet_is_dropped(quoted: bytes) -> None:
    home = B4(softwire())
    outcome = home.from_icmp6(ROUTER, icmp6(2, 0, 1300, quoted), 0.0)
    assert (home.path_mtu, outcome.drop) == (1500, "icmp6-not-about-my-tunnel")


def test_no_binding_is_believed_only_about_a_packet_of_ours() -> None:
    aftr, ours = softwire().aftr.packed, tunnelled(udp(SITE, HOST, 1500, 53))
    assert B4(softwire()).from_icmp6(aftr, icmp6(1, 5, 0, ours), 0.0).event == BINDING_LOST
    assert B4(softwire()).from_icmp6(aftr, icmp6(1, 5, 0, bytes(60)), 0.0).event is None
    assert B4(softwire()).from_icmp6(ROUTER, icmp6(1, 5, 0, ours), 0.0).drop == "not-my-lwaftr"


def test_no_packet_makes_the_core_raise() -> None:
    home, packet = B4(softwire()), udp(HOST, SITE, 53, 1500)
    wrapped = icmp6(2, 0, 1300, tunnelled(udp(SITE, HOST, 1500, 53)))
    for length in range(len(packet)):
        home.from_lan(packet[:length])
        home.from_tunnel(softwire().aftr.packed, 0, packet[:length])
    for length in range(8, len(wrapped)):
        home.from_icmp6(ROUTER, wrapped[:length], 0.0)
    for example in EXAMPLES:
        frame = bytes.fromhex(example["steps"][0]["in"]["frame"])[:200]
        for length in range(len(frame)):
            from_example(example).from_wan(frame[:length])


# nftables rules and the command line


def test_rules_of_one_range() -> None:
    rules = nft.ruleset("t", "lw4o6", IPv4Address("203.0.113.1"), PortSet(0, 6, 1))
    assert "snat ip to 203.0.113.1:1024-2047" in rules
    assert "jhash" not in rules


def test_rules_of_many_ranges_name_every_one() -> None:
    rules = nft.ruleset("t", "lw4o6", IPv4Address("203.0.113.1"), PortSet(6, 8, 0x34))
    for i, (first, last) in enumerate(PortSet(6, 8, 0x34).ranges()):
        assert f"{i} : 203.0.113.1 . {first}-{last}" in rules


ARGUMENTS = ["--aftr", "2001:db8:aa::1", "--tunnel-source", "2001:db8:1:100::/56", "--ipv4", "203.0.113.1"]


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["--psid-len", "6", "--psid", "64"], "does not fit"),
        (["--psid-len", "12", "--psid-offset", "5"], "do not fit"),
        (["--psid-len", "6", "--psid", "1", "--forward", "udp/80=192.168.1.10:80"], "not in the port set"),
        (["--forward", "udp:80"], "not of the form"),
        (["--forward", "udp/70000=192.168.1.10:80"], "at most 65535"),
        (["--mtu", "1279"], "1279"),
        (["--ipv4", "203.0.113"], "203.0.113"),
    ],
)
def test_wrong_option_is_a_usage_error(wrong: list[str], said: str) -> None:
    result = CliRunner().invoke(command, [*ARGUMENTS, *wrong])
    assert result.exit_code == 2
    assert said in result.output
