"""What ports can do by themselves, used where they do it: verdicts on checksums, checksums left open, frames in pieces.

That nothing else changes is shown by test_vectors_lane, which runs all examples with and without.
"""

from __future__ import annotations

import pytest

from tests.frames import PEER_MAC, edit4, ethernet, fragments4, fragments6, hop, ipv4, sent, udp
from tests.lane_router import Router, router
from tests.softwires import B1, INET, TUNNEL4, changed, encap, from_b4, own_error4
from tests.vector_config import Settings, settings

PORTS = ["none", "checksum", "open"]
IN = udp(INET, B1.ipv4, 53, 1500)
OUT = udp(B1.ipv4, INET, 1500, 53)
BIG = udp(B1.ipv4, INET, 1500, 53, size=1400)


def _damaged(packet: bytes) -> bytes:
    """A header checksum that is wrong by one."""
    return packet[:11] + bytes([packet[11] ^ 1]) + packet[12:]


@pytest.mark.parametrize("offloads", PORTS)
@pytest.mark.parametrize(
    ("side", "packet", "way"),
    [
        ("v4", IN, "encap"),
        ("v4", _damaged(IN), "drop_v4_bad_checksum"),
        # A device says "good" of each IPv6 packet: what it carries is still ours to check.
        ("v6", from_b4(OUT, B1), "decap"),
        ("v6", from_b4(_damaged(OUT), B1), "drop_v4_bad_checksum"),
        ("v4", ipv4(INET, B1.ipv4, 17, udp(INET, B1.ipv4, 53, 1500)[20:], options=bytes([1, 1, 1, 0])), "encap"),
    ],
    ids=["good", "bad", "inner-good", "inner-bad", "options"],
)
@pytest.mark.parametrize("vlan", [None, 7])
def test_the_verdict_of_the_port(offloads: str, side: str, packet: bytes, way: str, vlan: int | None) -> None:
    chosen = changed(settings(), {"v4.vlan": vlan, "v6.vlan": vlan})
    with router(chosen, offloads=offloads) as lane:
        lane.send(side, ethernet(side, packet, vlan=vlan))
        assert lane.ways() == {way: 1}


def _fragments_out(lane: Router, vlan: int | None) -> None:
    """Larger than the link to the internet: fragments with checksums of their own."""
    seen = lane.send("v6", ethernet("v6", from_b4(BIG, B1), vlan=vlan))
    assert seen == [sent("v4", piece, vlan=vlan) for piece in fragments4(hop(BIG), 1280)]


def _error_out(lane: Router, vlan: int | None) -> None:
    expired = edit4(IN, 8, b"\1")
    wanted = own_error4(expired, 11, 0, src="192.0.2.1")
    assert lane.send("v4", ethernet("v4", expired, vlan=vlan)) == [sent("v4", wanted, vlan=vlan)]


def _error_inside(lane: Router, vlan: int | None) -> None:
    """The header that the port would see is that of the softwire: the inner one is never left to it."""
    expired = edit4(OUT, 8, b"\1")
    wanted = encap(own_error4(expired, 11, 0, src=TUNNEL4), B1)
    assert lane.send("v6", ethernet("v6", from_b4(expired, B1), vlan=vlan)) == [sent("v6", wanted, vlan=vlan)]


@pytest.mark.parametrize("offloads", PORTS)
@pytest.mark.parametrize("vlan", [None, 7])
@pytest.mark.parametrize("case", [_fragments_out, _error_out, _error_inside])
def test_headers_made_here_have_their_checksum(case: object, offloads: str, vlan: int | None) -> None:
    chosen = changed(settings(), {"v4.mtu": 1280, "v4.vlan": vlan, "v6.vlan": vlan})
    with router(chosen, offloads=offloads) as lane:
        case(lane, vlan)  # type: ignore[operator]


@pytest.mark.parametrize("offloads", PORTS)
def test_a_fragment_that_waited_in_vain_is_quoted_with_its_checksum(offloads: str) -> None:
    """It was made for the port to complete, and goes back into the softwire instead."""
    chosen = changed(settings(), {"v4.mtu": 1280})
    made = Router(chosen, resolved=False, offloads=offloads)
    made.lane.set_next_hop("v6", bytes.fromhex("020000000061"))
    made.send("v6", ethernet("v6", from_b4(BIG, B1)))
    seen = [frame for _ in range(80) for side, frame in made.advance(100) if side == "v6"]
    first = fragments4(hop(BIG), 1280)[0]
    wanted = encap(own_error4(first, 3, 1, src=TUNNEL4), B1)
    assert wanted in [frame[14:] for frame in seen]
    made.check_end()


# ------------------------------------------------------------------------------------------- frames in several buffers
PIECES = fragments6(from_b4(BIG, B1), 600, 5)


@pytest.mark.parametrize("offloads", PORTS)
@pytest.mark.parametrize("spare", [1, 0], ids=["a-buffer-for-the-copy", "no-buffer-for-the-copy"])
def test_a_port_that_takes_one_buffer_a_frame_gets_a_copy(offloads: str, spare: int) -> None:
    """A reassembled packet lies in as many buffers as it had fragments."""
    lane = Router(resolved=False, mbufs=16, offloads=offloads)
    lane.lane.set_next_hop("v4", PEER_MAC["v4"])
    lane.send("v4", *[ethernet("v4", IN)] * (16 - len(PIECES) - spare))  # wait for their next hop
    seen = lane.send("v6", *[ethernet("v6", piece) for piece in PIECES])
    taken = spare > 0 or offloads != "none"
    assert seen == ([sent("v4", hop(BIG))] if taken else [])
    assert lane.count("tx_failed") == (0 if taken else 1)
    assert lane.count("tx_v4_bytes") == (14 + 1428 if taken else 0)
    lane.check_end()


JUMBO = udp(INET, B1.ipv4, 53, 1500, size=8900)


@pytest.mark.parametrize("offloads", PORTS)
def test_a_jumbo_frame_that_came_in_pieces(offloads: str) -> None:
    chosen: Settings = changed(settings(), {"v4.mtu": 9000, "v6.mtu": 9040})
    with router(chosen, offloads=offloads) as lane:
        seen = lane.send("v4", ethernet("v4", JUMBO), segments=[2048, 2048, 2048, 2048, 1000])
        assert seen == [sent("v6", encap(hop(JUMBO), B1))]
