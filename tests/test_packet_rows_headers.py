"""Rows about headers: martians, IPv4 options, IPv6 extension headers, truncated and lying packets."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest

from tests.frames import (
    DEST_OPTIONS,
    ENCAP_LIMIT_4,
    HOP_BY_HOP,
    ROUTING,
    TCP,
    edit,
    edit4,
    ethernet,
    ipv4,
    udp,
)
from tests.lane_router import router
from tests.softwires import (
    B1,
    B2,
    INET,
    ROUTER4,
    TUNNEL4,
    WHOLE,
    Row,
    check_row,
    comes_in,
    from_b4,
    goes_out,
    refuses_in,
    refuses_out,
    spoofs,
)

IN = udp(INET, B1.ipv4, 53, 1024)
OUT = udp(B1.ipv4, INET, 1500, 53)

BAD_SOURCES = ("0.0.0.0", "0.255.255.255", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.0")
BAD_DESTINATIONS = ("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255")
INNER_ONLY = ("192.0.0.0", "192.0.0.1", "192.0.0.2", "192.0.0.7")
JUST_OUTSIDE = ("1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255", "192.0.0.8", "192.0.1.0")
NO_SUBSCRIBER = ("127.0.0.1", "192.0.0.2", "10.0.0.1", INET, ROUTER4, TUNNEL4)


def _to(address: str) -> bytes:
    return udp(B1.ipv4, address, 1500, 53)


MARTIAN_ROWS = [
    *(refuses_in(f"source {a}", udp(a, B1.ipv4, 53, 1024), "v4_martian") for a in BAD_SOURCES + INNER_ONLY),
    *(refuses_in(f"destination {a}", udp(INET, a, 53, 53), "v4_martian") for a in BAD_DESTINATIONS + INNER_ONLY),
    *(comes_in(f"source {a}", udp(a, B1.ipv4, 53, 1024)) for a in JUST_OUTSIDE),
    *(refuses_in(f"destination {a}", udp(INET, a, 53, 53), "no_binding", (3, 1)) for a in JUST_OUTSIDE),
    *(refuses_out(f"destination {a}", from_b4(_to(a), B1), "v4_martian") for a in BAD_DESTINATIONS),
    *(refuses_out(f"destination {a}", from_b4(_to(a), B1), "v4_martian") for a in ("192.0.0.0", "192.0.0.7")),
    *(goes_out(f"destination {a}", _to(a)) for a in JUST_OUTSIDE),
    *(spoofs(f"source {a} is no subscriber", udp(a, INET, 1500, 53)) for a in NO_SUBSCRIBER),
    refuses_out("UDP to 192.0.0.1 is nothing we serve", from_b4(_to(TUNNEL4), B1), "v4_local"),
    refuses_in("UDP to the router", udp(INET, ROUTER4, 53, 53), "v4_local"),
]


def _with(option: bytes, packet: bytes = IN) -> bytes:
    src, dst = (str(IPv4Address(packet[at : at + 4])) for at in (12, 16))
    return ipv4(src, dst, packet[9], packet[20:], options=option)


LSRR, SSRR = b"\x83\x07\x04\xc6\x33\x64\x4d\0", b"\x89\x07\x04\xc6\x33\x64\x4d\0"
POLICIES = {
    "source_route": LSRR,
    "record_route": b"\x07\x07\x04\0\0\0\0\0",
    "timestamp": b"\x44\x08\x05\0\0\0\0\0",
    "router_alert": b"\x94\x04\0\0",
}


def _policy(name: str, option: bytes) -> list[Row]:
    drop, ignore = {f"opt_{name}": "drop"}, {f"opt_{name}": "ignore"}
    return [
        refuses_in(f"{name} to be dropped", _with(option), "v4_option_policy", None, drop),
        refuses_out(f"{name} to be dropped", from_b4(_with(option, OUT), B1), "v4_option_policy", None, drop),
        comes_in(f"{name} to be passed", _with(option), B1, ignore),
        goes_out(f"{name} to be passed", _with(option, OUT), B1, ignore),
    ]


OPTION_ROWS = [
    *(row for name, option in POLICIES.items() for row in _policy(name, option)),
    refuses_in("strict source route", _with(SSRR), "v4_option_policy"),
    refuses_in("source route behind no-operations", _with(b"\1\1\1\1" + LSRR), "v4_option_policy"),
    comes_in("source route behind the end of options is padding", _with(b"\0\1\1\1" + LSRR)),
    refuses_in("option of length 0", _with(b"\xde\0\0\0"), "v4_malformed"),
    refuses_in("option of length 1", _with(b"\xde\1\0\0"), "v4_malformed"),
    refuses_in("option longer than the header", _with(b"\xde\5\0\0"), "v4_malformed"),
    refuses_in("option type without a length", _with(b"\1\1\1\xde"), "v4_malformed"),
    refuses_out("option of length 0", from_b4(_with(b"\xde\0\0\0", OUT), B1), "v4_malformed"),
    comes_in("40 octets of options", _with(b"\1" * 40)),
    goes_out("40 octets of options", _with(b"\1" * 40, OUT)),
    spoofs("options of a spoofed packet are not looked at", _with(LSRR, OUT), B2),
    refuses_in("options of a packet for the router", _with(LSRR, udp(INET, ROUTER4, 53, 53)), "v4_option_policy"),
]

PAD_6 = b"\1\4\0\0\0\0"
CHAINS = {
    "two destination options headers": (bytes([DEST_OPTIONS, 0]) + PAD_6 + ENCAP_LIMIT_4, DEST_OPTIONS),
    "hop-by-hop, routing at its end, destination options": (
        bytes([ROUTING, 0]) + PAD_6 + bytes([DEST_OPTIONS, 0, 0, 0, 0, 0, 0, 0]) + ENCAP_LIMIT_4,
        HOP_BY_HOP,
    ),
    "Pad1 only": (bytes([4, 0, 0, 0, 0, 0, 0, 0]), DEST_OPTIONS),
    "destination options of 64 octets": (bytes([4, 7, 1, 60]) + bytes(60), DEST_OPTIONS),
    "encapsulation limit 0": (bytes.fromhex("0400040100010100"), DEST_OPTIONS),
}


def _ext(ext: bytes, first: int) -> bytes:
    return from_b4(OUT, B1, ext=ext, first=first)


UNKNOWN_11 = _ext(bytes([4, 0, 0xDE, 4, 0, 0, 0, 0]), DEST_OPTIONS)
LATE_HBH = _ext(bytes([HOP_BY_HOP, 0]) + PAD_6 + bytes([4, 0]) + PAD_6, DEST_OPTIONS)
BEHIND = _ext(bytes([253, 0]) + PAD_6, DEST_OPTIONS)
TOO_LONG = from_b4(b"", B1, ext=bytes([4, 200, 1, 4, 0, 0, 0, 0]), first=DEST_OPTIONS)
EXTENSION_ROWS = [
    *(goes_out(what, OUT, tunnel=_ext(*chain)) for what, chain in CHAINS.items()),
    refuses_out("unknown option that wants an error", UNKNOWN_11, "v6_bad_extension", (4, 2, 42)),
    refuses_out("hop-by-hop not first", LATE_HBH, "v6_unknown_next_header", (4, 1, 40)),
    *(
        refuses_out(f"next header {n}", _ext(b"", n), "v6_unknown_next_header", (4, 1, 6))
        for n in (50, 51, 41, 47, 132, 200)
    ),
    refuses_out("unknown next header behind destination options", BEHIND, "v6_unknown_next_header", (4, 1, 40)),
    refuses_out("TCP to a BR address", _ext(b"", TCP), "v6_no_listener", (1, 4)),
    refuses_out("extension header longer than the packet", TOO_LONG, "v6_malformed"),
]


def _length(packet: bytes, at: int, value: int) -> bytes:
    return edit(packet, at, struct.pack("!H", value))


TUNNEL = from_b4(OUT, B1)
LYING_ROWS = [
    refuses_in("Total Length one too long", edit4(IN, 2, struct.pack("!H", len(IN) + 1)), "v4_truncated"),
    refuses_in("Total Length 65535", edit4(IN, 2, b"\xff\xff"), "v4_truncated"),
    refuses_in("Total Length 0", edit4(IN, 2, b"\0\0"), "v4_malformed"),
    refuses_in("IHL 15 in a packet of 46 octets", edit(IN, 0, b"\x4f"), "v4_malformed"),
    refuses_in("IHL 0", edit4(IN, 0, b"\x40"), "v4_malformed"),
    refuses_in("version 5", edit4(IN, 0, b"\x55"), "v4_malformed"),
    refuses_out("Payload Length one too long", _length(TUNNEL, 4, len(OUT) + 1), "v6_truncated"),
    refuses_out("Payload Length 65535", _length(TUNNEL, 4, 65535), "v6_truncated"),
    refuses_out("Payload Length cuts the inner packet", _length(TUNNEL, 4, len(OUT) - 1), "v4_truncated"),
    refuses_out("Payload Length cuts the inner header", _length(TUNNEL, 4, 19), "v4_malformed"),
    refuses_out("outer version 5", edit(TUNNEL, 0, b"\x50"), "v6_malformed"),
    comes_in("UDP length is the hosts' own affair", _length(IN, 24, 9999)),
    goes_out("UDP length is the hosts' own affair", _length(OUT, 24, 0)),
]

ROWS = [*MARTIAN_ROWS, *OPTION_ROWS, *EXTENSION_ROWS, *LYING_ROWS]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def test_names_of_rows_are_different() -> None:
    names = [str(row) for row in ROWS]
    assert len(set(names)) == len(names), {name for name in names if names.count(name) > 1}


CUT = {
    "IPv4": ("v4", IN, "v4"),
    "IPv4 with options": ("v4", _with(b"\1" * 8), "v4"),
    "softwire": ("v6", TUNNEL, "v6"),
    "softwire with extension headers": (
        "v6",
        _ext(*CHAINS["hop-by-hop, routing at its end, destination options"]),
        "v6",
    ),
}


@pytest.mark.parametrize("side, packet, version", CUT.values(), ids=CUT.keys())
def test_every_truncation_is_a_named_drop(side: str, packet: bytes, version: str) -> None:
    frame, least = ethernet(side, packet), 14 + (20 if version == "v4" else 40)
    with router() as lane:
        for size in range(1, len(frame)):
            assert lane.send(side, frame[:size]) == [], size
            why = lane.ways()
            if size < 14:
                assert why == {"drop_l2_runt": 1}, size
            elif size < least:
                assert why == {f"drop_{version}_malformed": 1}, size
            else:
                assert why in ({f"drop_{version}_truncated": 1}, {f"drop_{version}_malformed": 1}), size


@pytest.mark.parametrize("cut", range(len(OUT)))
def test_a_truncated_inner_packet_never_leaves(cut: int) -> None:
    """The outer header tells the truth; the inner one promises more than there is."""
    with router() as lane:
        assert lane.send("v6", ethernet("v6", from_b4(OUT[:cut], B1))) == []
        assert lane.ways() == {"drop_v4_malformed" if cut < 20 else "drop_v4_truncated": 1}


@pytest.mark.parametrize("packet", [IN, ipv4(INET, WHOLE.ipv4, 253, b"")], ids=["UDP", "header only"])
def test_link_padding_does_not_travel(packet: bytes) -> None:
    for extra in (1, 3, 18, 100):
        with router() as lane:
            padded = lane.send("v4", ethernet("v4", packet) + b"\xa5" * extra)
        with router() as lane:
            assert padded == lane.send("v4", ethernet("v4", packet))
