"""Rows of forwarding: what the network sees, packet in, packets out, counters moved. What the examples do not cover."""

from __future__ import annotations

import struct

import pytest

from tests.compare import Expected
from tests.frames import (
    DCCP,
    DF,
    ESP,
    GRE,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    echo4,
    edit4,
    error4,
    hop,
    ipv4,
    sent,
    udp,
)
from tests.softwires import (
    B1,
    B2,
    B3,
    INET,
    INET2,
    OTHER_BR,
    SYSTEM_PORTS,
    WHOLE,
    Row,
    bounces,
    check_row,
    comes_in,
    crosses,
    encap,
    from_b4,
    goes_out,
    refuses_in,
    refuses_out,
    spoofs,
)
from tests.vector_config import Binding, bindings

IN = udp(INET, B1.ipv4, 53, 1024)
OUT = udp(B1.ipv4, INET, 1500, 53)
ACROSS = udp(B1.ipv4, B3.ipv4, 1500, 1600)


def _port_protocol(name: str, protocol: int) -> list[Row]:
    body = struct.pack("!HHIIBBHHH", 1500, 1500, 1, 0, 0x50, 0x10, 1000, 0, 0)
    two, four = ipv4(INET, B1.ipv4, protocol, body[:2]), ipv4(INET, B1.ipv4, protocol, body[:4])
    return [
        comes_in(f"{name} to a bound port", ipv4(INET, B1.ipv4, protocol, body)),
        goes_out(f"{name} from a bound port", ipv4(B1.ipv4, INET, protocol, body)),
        comes_in(f"{name} of four octets has its ports", four),
        refuses_in(f"{name} cut after two octets", two, "no_binding", (3, 1)),
        spoofs(f"{name} cut after two octets", ipv4(B1.ipv4, INET, protocol, body[:2])),
    ]


def _portless(name: str, protocol: int) -> list[Row]:
    body = struct.pack("!HHI", 1500, 1500, 7) + b"payload."  # would be ports of B1, were they ports
    return [
        comes_in(f"{name} to a whole address", ipv4(INET, WHOLE.ipv4, protocol, body), WHOLE),
        goes_out(f"{name} from a whole address", ipv4(WHOLE.ipv4, INET, protocol, body), WHOLE),
        refuses_in(f"{name} to a shared address", ipv4(INET, B1.ipv4, protocol, body), "no_binding", (3, 1)),
        spoofs(f"{name} from a shared address", ipv4(B1.ipv4, INET, protocol, body)),
    ]


PORT_PROTOCOLS = {"TCP": TCP, "UDP": UDP, "DCCP": DCCP, "SCTP": SCTP, "UDP-Lite": UDPLITE}
PORTLESS = {"GRE": GRE, "ESP": ESP, "protocol 253": 253, "IPv6 in IPv4": 41}
PROTOCOL_ROWS = [
    *(row for name, protocol in PORT_PROTOCOLS.items() for row in _port_protocol(name, protocol)),
    *(row for name, protocol in PORTLESS.items() for row in _portless(name, protocol)),
]


def _edges_of(b: Binding) -> list[int]:
    """First and last port of the first and last range of a set, and their neighbours outside of it."""
    if b.psid_len == 0:
        return [0, 1, 1023, 65535]
    size = 1 << (16 - b.psid_offset - b.psid_len)
    indexes = {1, (1 << b.psid_offset) - 1} if b.psid_offset else {0}
    starts = [(index << (16 - b.psid_offset)) + b.psid * size for index in indexes]
    edges = {port for start in starts for port in (start - 1, start, start + size - 1, start + size)}
    excluded = {b.psid * size} if b.psid_offset else set()
    return sorted(port for port in edges | excluded if 0 <= port <= 65535)


def _owner(address: str, port: int) -> Binding | None:
    """Section 4.1 read once more: who holds a port of an address."""
    for b in bindings():
        rest = 16 - b.psid_offset - b.psid_len
        if b.ipv4 != address or (b.psid_len and b.psid_offset and port >> (16 - b.psid_offset) == 0):
            continue
        if not b.psid_len or (port >> rest) & ((1 << b.psid_len) - 1) == b.psid:
            return b
    return None


def _at_port(b: Binding, port: int) -> list[Row]:
    what, to = f"{b.name} port {port}", _owner(b.ipv4, port)
    incoming, outgoing = udp(INET, b.ipv4, 53, port), udp(b.ipv4, INET, port, 53)
    mine = to is not None and (to.b4, to.br) == (b.b4, b.br)
    return [
        comes_in(what, incoming, to) if to else refuses_in(what, incoming, "no_binding", (3, 1)),
        goes_out(what, outgoing, b) if mine else spoofs(what, outgoing, b),
    ]


PORT_SET_ROWS = [row for b in bindings() for port in _edges_of(b) for row in _at_port(b, port)]


def _aged(packet: bytes, ttl: int) -> bytes:
    return edit4(packet, 8, bytes([ttl]))


TTL_ROWS = [
    comes_in("TTL 255 leaves as 254", _aged(IN, 255)),
    goes_out("TTL 2 leaves as 1", _aged(OUT, 2)),
    goes_out("TTL 255 leaves as 254", _aged(OUT, 255)),
    crosses("TTL 2 leaves as 1", _aged(ACROSS, 2), B1, B3),
    bounces("TTL 0", _aged(OUT, 0), "ttl_expired", (11, 0)),
    refuses_in("TTL 1 of an ICMP error", error4(INET2, B1.ipv4, 3, 3, OUT[:28], ttl=1), "ttl_expired"),
    refuses_in("TTL 1 with errors off", _aged(IN, 1), "ttl_expired", (11, 0), {"icmpv4_generate_errors": False}),
]


def _marked(packet: bytes, tos: int) -> bytes:
    return edit4(packet, 1, bytes([tos]))


def _outer_class(packet: bytes, to: Binding, tc: int) -> list[Expected]:
    return [Expected("v6", sent("v6", encap(packet, to, tc=tc))[1], "forwarded")]


PIPE = {"dscp_mode": "pipe", "pipe_dscp": 10}
COMPATIBILITY = {"ecn_mode": "compatibility"}
EF, EF_CE = 0xB8, 0xBB
TRAFFIC_CLASS_ROWS = [
    Row("pipe: outer DSCP 10, ECN copied", "v4", _marked(IN, EF_CE), _outer_class(hop(_marked(IN, EF_CE)), B1, 0x2B),
        {"encap": 1}, PIPE),
    Row("pipe with ECN compatibility", "v4", _marked(IN, EF_CE), _outer_class(hop(_marked(IN, EF_CE)), B1, 0x28),
        {"encap": 1}, {**PIPE, **COMPATIBILITY}),
    goes_out("pipe: the outer DSCP does not come in", _marked(OUT, EF), B1, PIPE,
             tunnel=from_b4(_marked(OUT, EF), B1, tc=0x28)),
    Row("pipe: hairpin keeps the inner DSCP", "v6", from_b4(_marked(ACROSS, EF), B1, tc=0),
        _outer_class(hop(_marked(ACROSS, EF)), B3, 0x28), {"hairpin": 1}, PIPE),
    Row("compatibility: hairpin clears the outer ECN alone", "v6", from_b4(_marked(ACROSS, 2), B1, tc=3),
        _outer_class(hop(ACROSS, tos=3), B3, 0), {"hairpin": 1}, COMPATIBILITY),
    goes_out("compatibility does not change decapsulation", _marked(OUT, 2), B1, COMPATIBILITY),
]  # fmt: skip

LARGE = udp(B1.ipv4, B3.ipv4, 1500, 1600, size=1472, flags=DF)
ESP_ACROSS = ipv4(WHOLE.ipv4, B1.ipv4, ESP, b"\0\0\1\1\0\0\0\1")
QUOTE, QUOTE_OF_NOBODY = udp(WHOLE.ipv4, B1.ipv4, 7, 1500)[:28], udp(B1.ipv4, WHOLE.ipv4, 9000, 7)[:28]
TIMESTAMP = b"\x0d\0\xf2\xff" + bytes(16)
ECHO_ACROSS, ECHO_TO_NOBODY = echo4(WHOLE.ipv4, B3.ipv4, 1500), echo4(WHOLE.ipv4, B3.ipv4, 9999)
UNBOUND = udp(B1.ipv4, B3.ipv4, 1500, 9999)
SPOOFED = udp(B1.ipv4, B3.ipv4, 7777, 1600)
ERRORS_OFF = {"icmpv4_generate_errors": False}
HAIRPIN_ROWS = [
    goes_out("external: a ping goes to the internet side", ECHO_ACROSS, WHOLE, {"hairpin": "external"}),
    goes_out("external: an unbound port goes there too", UNBOUND, B1, {"hairpin": "external"}),
    goes_out("external: an ICMP error goes there too", error4(B1.ipv4, WHOLE.ipv4, 3, 3, QUOTE), B1,
             {"hairpin": "external"}),
    refuses_out("drop: a ping is dropped without an error", from_b4(ECHO_ACROSS, WHOLE), "hairpin_disabled", None,
                {"hairpin": "drop"}),
    refuses_out("drop: an unbound port is dropped without an error", from_b4(UNBOUND, B1), "hairpin_disabled", None,
                {"hairpin": "drop"}),
    spoofs("drop: a spoofed source is what is told", SPOOFED, B1, {"hairpin": "drop"}),
    spoofs("external: a spoofed source does not go out", SPOOFED, B1, {"hairpin": "external"}),
    crosses("ping from a whole to a shared address", ECHO_ACROSS, WHOLE, B3),
    crosses("timestamp between whole addresses", ipv4(WHOLE.ipv4, OTHER_BR.ipv4, 1, TIMESTAMP), WHOLE, OTHER_BR),
    crosses("GRE between whole addresses", ipv4(WHOLE.ipv4, OTHER_BR.ipv4, GRE, b"\0\0\x08\0gre!"), WHOLE, OTHER_BR),
    crosses("to a whole address", udp(B2.ipv4, WHOLE.ipv4, 2500, 1), B2, WHOLE),
    refuses_out("hairpin ping to nobody: no error", from_b4(ECHO_TO_NOBODY, WHOLE), "icmp_no_binding"),
    refuses_out("hairpin error about nobody: no error",
                from_b4(error4(WHOLE.ipv4, B1.ipv4, 3, 3, QUOTE_OF_NOBODY), WHOLE), "icmp_no_binding"),
    refuses_out("hairpin to nobody with errors off", from_b4(UNBOUND, B1), "no_binding", None, ERRORS_OFF),
    bounces("hairpin too big for the second softwire", LARGE, "too_big_df", (3, 4, 1460), B1, {"v6_path_mtu": 1500}),
    bounces("hairpin of ESP to a shared address", ESP_ACROSS, "no_binding", (3, 1), WHOLE),
]  # fmt: skip


def _in(length: int) -> bytes:
    return udp(INET, B1.ipv4, 53, 1024, size=length - 28, flags=DF)


def _out(length: int) -> bytes:
    return udp(B1.ipv4, INET, 1500, 53, size=length - 28, flags=DF)


SMALL_PATH, JUMBO = {"v6_path_mtu": 1500}, {"v4_mtu": 9000, "v6_path_mtu": 9000}
PAYLOAD_1280 = {"softwire_payload_mtu": 1280}
SIZE_ROWS = [
    refuses_in("too big with errors off", _in(1500), "too_big_df", (3, 4, 1460), {**SMALL_PATH, **ERRORS_OFF}),
    refuses_in("one too many for a payload MTU of 1280", _in(1281), "too_big_df", (3, 4, 1280), PAYLOAD_1280),
    comes_in("fits a payload MTU of 1280", _in(1280), B1, PAYLOAD_1280),
    goes_out("as large as the IPv4 link", _out(1500)),
    bounces("one octet larger than the IPv4 link", _out(1501), "too_big_df", (3, 4, 1500), B1, {"v6_path_mtu": 9000}),
    comes_in("jumbo of 8960 octets", _in(8960), B1, JUMBO),
    refuses_in("jumbo of 8961 octets", _in(8961), "too_big_df", (3, 4, 8960), JUMBO),
    goes_out("jumbo of 8960 octets", _out(8960), B1, JUMBO),
    crosses("jumbo of 8960 octets", udp(B1.ipv4, B3.ipv4, 1500, 1600, size=8932), B1, B3, JUMBO),
    comes_in("UDP without data", udp(INET, B1.ipv4, 53, 1024, size=0)),
    goes_out("UDP without data", udp(B1.ipv4, INET, 1500, 53, size=0)),
    comes_in("an IPv4 header alone for a whole address", ipv4(INET, WHOLE.ipv4, 253, b""), WHOLE),
    goes_out("an IPv4 header alone from a whole address", ipv4(WHOLE.ipv4, INET, 253, b""), WHOLE),
]  # fmt: skip

IDENTIFIER_ROWS = [
    comes_in("echo identifier 0 is a port like any other", echo4(INET, SYSTEM_PORTS.ipv4, 0), SYSTEM_PORTS),
    goes_out("echo identifier 0 is a port like any other", echo4(SYSTEM_PORTS.ipv4, INET, 0), SYSTEM_PORTS),
    refuses_in("echo identifier 0 of nobody", echo4(INET, B1.ipv4, 0), "icmp_no_binding"),
    spoofs("echo identifier 0 of nobody", echo4(B1.ipv4, INET, 0)),
    comes_in("echo identifier 65535 of a whole address", echo4(INET, WHOLE.ipv4, 65535), WHOLE),
    goes_out("echo reply by identifier", echo4(B1.ipv4, INET, 2047, reply=True)),
    spoofs("echo reply with a neighbour's identifier", echo4(B1.ipv4, INET, 2048, reply=True)),
]


def _at_br(b: Binding, port: int, br: str) -> Row:
    tunnel = from_b4(udp(b.ipv4, INET, port, 53), b, dst=br)
    return refuses_out(f"B4 of {b.name} at {br}", tunnel, "source_validation", (1, 5))


BR_ADDRESSES = ("2001:db8:aa::1", "2001:db8:aa::2", "2001:db8:ffff::1")
BR_ROWS = [
    _at_br(b, port, br) for b, port in ((B1, 1500), (WHOLE, 5), (OTHER_BR, 5)) for br in BR_ADDRESSES if br != b.br
]

ROWS = [
    *PROTOCOL_ROWS,
    *PORT_SET_ROWS,
    *TTL_ROWS,
    *TRAFFIC_CLASS_ROWS,
    *HAIRPIN_ROWS,
    *SIZE_ROWS,
    *IDENTIFIER_ROWS,
    *BR_ROWS,
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def test_names_of_rows_are_different() -> None:
    names = [str(row) for row in ROWS]
    assert len(set(names)) == len(names), {name for name in names if names.count(name) > 1}
