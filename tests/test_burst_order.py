"""A burst is its packets in order: what one of them changes holds for those behind it and for none ahead of it."""

from __future__ import annotations

import struct

import pytest

from tests.frames import (
    DEST_OPTIONS,
    ICMP6,
    Seen,
    ethernet,
    icmp6,
    ip6,
    ipv6,
    udp,
)
from tests.lane_router import router
from tests.softwires import B1, GATEWAY4, GATEWAY6, INET, ROUTER4, ROUTER6, arp_frame, changed, encap, from_b4
from tests.vector_config import settings

BIG = ethernet("v4", udp(INET, B1.ipv4, 53, 1024, 1400))
SPOOFED = ethernet("v6", from_b4(udp("203.0.113.9", INET, 1500, 53), B1))
BAD_OPTION = ethernet("v6", from_b4(udp(B1.ipv4, INET, 1500, 53), B1, ext=b"\4\0\x9e\4\0\0\0\0", first=DEST_OPTIONS))
GOOD = ethernet("v6", from_b4(udp(B1.ipv4, INET, 1500, 53), B1))
OTHER_MAC = bytes.fromhex("020000007777")


def too_big(mtu: int) -> bytes:
    quoted = encap(udp(INET, B1.ipv4, 53, 1024, 1400), B1)[:1000]
    message = icmp6("2001:db8:ee::9", B1.br, 2, 0, struct.pack("!I", mtu), quoted)
    return ethernet("v6", ipv6("2001:db8:ee::9", B1.br, ICMP6, message))


def next_hop_moved() -> bytes:
    told = icmp6(GATEWAY6, ROUTER6, 136, 0, b"\x60\0\0\0", ip6(GATEWAY6) + b"\2\1" + OTHER_MAC)
    return ethernet("v6", ipv6(GATEWAY6, ROUTER6, ICMP6, told, hop_limit=255))


ONE_ERROR = {"icmp": {**settings({})["icmp"], "rate_limit": (1, 10, 10)}}
ON_A_STICK = {"one_port": True}

BURSTS: list[tuple[str, dict[str, object], list[Seen]]] = [
    ("the one error goes to the first that deserves it", ONE_ERROR, [("v6", SPOOFED), ("v6", BAD_OPTION)]),
    ("also the other way round", ONE_ERROR, [("v6", BAD_OPTION), ("v6", SPOOFED)]),
    (
        "frames leave in the order in which they came",
        {},
        [("v6", GOOD), ("v6", BAD_OPTION), ("v6", SPOOFED), ("v6", GOOD)],
    ),
    (
        "a path gets narrower for what comes after",
        ON_A_STICK,
        [("v4", BIG), ("v6", too_big(1300)), ("v4", BIG)],
    ),
    ("a next hop moves for what comes after", {"one_port": True}, [("v4", BIG), ("v6", next_hop_moved()), ("v4", BIG)]),
    (
        "the other next hop too",
        ON_A_STICK,
        [("v6", GOOD), ("v4", arp_frame(1, OTHER_MAC, GATEWAY4, ROUTER4)), ("v6", GOOD)],
    ),
]


@pytest.mark.parametrize("what, changes, frames", BURSTS, ids=[burst[0] for burst in BURSTS])
def test_a_burst_is_its_packets_in_order(what: str, changes: dict[str, object], frames: list[Seen]) -> None:
    options = changed(settings({}), changes)
    with router(options) as alone:
        wanted = [out for side, frame in frames for out in alone.send(side, frame)]
        ways = alone.ways()
    with router(options) as together:
        assert _by_side(together.burst(frames[0][0], [frame for _, frame in frames])) == _by_side(wanted), what
        assert together.ways() == ways


def _by_side(frames: list[Seen]) -> dict[str, list[bytes]]:
    """The order between the sides is free."""
    return {side: [_without_identification(frame) for s, frame in frames if s == side] for side in ("v4", "v6")}


def _without_identification(frame: bytes) -> bytes:
    """Of an outer fragment: it is meant to differ from one datagram to the next."""
    return frame[:58] + bytes(4) + frame[62:] if frame[12:14] == b"\x86\xdd" and frame[20] == 44 else frame
