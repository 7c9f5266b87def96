"""The short way of plain packets does what the stages do: the same frames in the same order, the same counters.

A watched lane uses the stages alone, so every burst goes through two lanes, one of them watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random

import pytest

from tests.frames import V4_IF, checksum, edit, ethernet, ip6, tcp, udp
from tests.lane_router import Router, router
from tests.random_packets import damage
from tests.softwires import B1, B2, INET, changed, encap, from_b4
from tests.test_conservation import CONFIGURATIONS as OF_ALL_DOORS
from tests.test_conservation import TAGGED, corpus_of
from tests.vector_config import Settings, settings

# As most routers are: labels by hash, one BR address, nothing rare. For it there is a loop of its own.
SHIPPED = changed(settings({"flow_label": "hash"}), {"br_addresses": [ip6("2001:db8:aa::1")]})
RARE = {"encap_limit": 4, "flow_label": "hash", "dscp_mode": "pipe", "pipe_dscp": 63}
FILTERS = {"v4.egress_filter": "arp or udp", "v6.egress_filter": "less 900 or icmp6"}
CONFIGURATIONS: dict[str, Settings] = OF_ALL_DOORS | {
    "as shipped": SHIPPED,
    "as shipped, tags": changed(SHIPPED, TAGGED),
    "as shipped, on a stick": changed(SHIPPED, {"one_port": True, "v6.mac": V4_IF}),
    "as shipped, three BR addresses": settings({"flow_label": "hash"}),
    "compatible ECN, fixed label": changed(settings({"ecn_mode": "compatibility"}), {"flow_label": 0xABCDE}),
    "filters in": changed(SHIPPED, {"v4.ingress_filter": "not tcp", "v6.ingress_filter": "less 900"}),
    "filters out, tags": changed(SHIPPED, TAGGED | FILTERS),
    "all that is rare": changed(settings(RARE), {"tcp_mss": 1200, "v6.egress_filter": "less 1300"}),
}

BURST = 64
MSS = b"\2\4\5\xb4"  # 1460

DOWN = {
    "UDP": udp(INET, B1.ipv4, 53, 1024),
    "TCP": tcp(INET, B1.ipv4, 443, 1500, flags=0x10),
    "SYN": tcp(INET, B1.ipv4, 443, 1500, options=MSS),
    "1240 octets": udp(INET, B1.ipv4, 53, 1024, 1212),
    "1500 octets": udp(INET, B1.ipv4, 53, 1024, 1472),
    "marked": udp(INET, B1.ipv4, 53, 1024, tos=0xBA),
}
UP = {
    "UDP": udp(B1.ipv4, INET, 1500, 53),
    "SYN": tcp(B1.ipv4, INET, 1500, 443, options=MSS),
    "1500 octets": udp(B1.ipv4, INET, 1500, 53, 1472),
    "marked": udp(B1.ipv4, INET, 1500, 53, tos=0xBA),
    "hairpin": udp(B1.ipv4, B2.ipv4, 1500, 2500),
    "hairpin of 1240 octets": udp(B1.ipv4, B2.ipv4, 1500, 2500, 1212),
    "PCP": udp(B1.ipv4, "192.0.0.1", 1500, 5351),
}
HEADERS = 20 + 20 + 4  # octets behind the link and outer headers that are changed one by one
CHANGES = (0x01, 0x02, 0x03, 0x10, 0x40, 0x80, 0xFF)


class Both:
    """Two lanes that get the same; the second one's stages do all of it."""

    def __init__(self, plain: Router, staged: Router) -> None:
        self._lanes = plain, staged
        staged.lane.watch()

    def burst(self, side: str, frames: Sequence[bytes]) -> None:
        short, long = (lane.burst(side, frames) for lane in self._lanes)
        if short != long:  # say which, not that a list of 64 differs
            assert len(short) == len(long)
            for one, other in zip(short, long, strict=True):
                assert one[0] == other[0]
                assert one[1].hex() == other[1].hex()
        self.same_counters()

    def advance(self, ms: int) -> None:
        short, long = (lane.advance(ms) for lane in self._lanes)
        assert short == long

    def same_counters(self) -> None:
        short, long = (lane.lane.counters() for lane in self._lanes)
        assert {n: v for n, v in short.items() if v != long[n]} == {n: v for n, v in long.items() if v != short[n]}


def in_bursts(frames: Iterable[bytes]) -> Iterator[list[bytes]]:
    waiting = list(frames)
    for at in range(0, len(waiting), BURST):
        yield waiting[at : at + BURST]


def mended(frame: bytes, ip: int) -> bytes:
    header = edit(frame[ip : ip + 20], 10, b"\0\0")
    return edit(frame, ip + 10, checksum(header).to_bytes(2))


def variants(frame: bytes, ip: int) -> Iterator[bytes]:
    """Each octet of the headers changed, the IPv4 checksum as it was and mended; cut short anywhere."""
    yield frame
    for at in range(min(ip + HEADERS, len(frame))):
        for change in CHANGES:
            changed = edit(frame, at, bytes([frame[at] ^ change]))
            yield changed
            if at >= ip and at - ip not in (10, 11):
                yield mended(changed, ip)
    for value in (0, 1, 2, 255):
        yield mended(edit(frame, ip + 8, bytes([value])), ip)
    for length in range(ip + HEADERS + 8):
        yield frame[:length]
    yield frame + bytes(9)


CASES = [*((side, name) for side, packets in (("v4", DOWN), ("v6", UP)) for name in packets)]


def _frame(side: str, name: str, chosen: Settings) -> bytes:
    frame = ethernet("v4", DOWN[name]) if side == "v4" else ethernet("v6", from_b4(UP[name], B1))
    if chosen["one_port"]:
        frame = V4_IF + frame[6:]
    if chosen[side]["vlan"] is not None:
        frame = frame[:12] + b"\x81\0" + chosen[side]["vlan"].to_bytes(2) + frame[12:]
    return frame


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("side, name", CASES, ids=[f"{side} {name}" for side, name in CASES])
def test_changed_octets(side: str, name: str, configuration: str) -> None:
    chosen = CONFIGURATIONS[configuration]
    frame = _frame(side, name, chosen)
    ip = frame.index(DOWN[name][:10] if side == "v4" else UP[name][:10])
    with router(chosen, mbufs=4096) as plain, router(chosen, mbufs=4096) as staged:
        both = Both(plain, staged)
        for burst in in_bursts(variants(frame, ip)):
            both.burst(side, [one for one in burst if one])
            both.advance(10)
        ends = ("encap", "decap", "hairpin", "punt_pcp", "drop_filter_in", "drop_filter_out")
        assert sum(plain.count(end) for end in ends) > 0 or ("hairpin" in name and "hairpin" in configuration)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_random_traffic(configuration: str) -> None:
    random = Random(5)
    chosen = CONFIGURATIONS[configuration]
    corpus = corpus_of(random, chosen, 1500)
    with router(chosen, mbufs=4096) as plain, router(chosen, mbufs=4096) as staged:
        both = Both(plain, staged)
        for _ in range(150):
            side = random.choice(("v4", "v6"))
            frames = random.choices(corpus[side], k=random.choice((1, 2, 31, 64)))
            both.burst(side, [frame if random.random() < 0.7 else damage(random, frame) for frame in frames])
            if random.random() < 0.05:
                both.advance(random.choice((1, 300, 2500)))


def test_every_pair_of_marks() -> None:
    """Outer and inner DSCP and ECN: those that are equal are plain, the others are combined (RFC 6040)."""
    frames = []
    for outer in range(0, 256, 5):
        for inner in range(0, 256, 7):
            packet = udp(B1.ipv4, INET, 1500, 53, tos=inner)
            frames.append(ethernet("v6", from_b4(packet, B1, tc=outer)))
    for chosen in (settings(), SHIPPED):
        with router(chosen) as plain, router(chosen) as staged:
            both = Both(plain, staged)
            for burst in in_bursts(frames):
                both.burst("v6", burst)


def test_what_is_learnt_in_a_burst_holds_for_plain_packets_behind_it() -> None:
    """A lowered path MTU and an unresolved next hop meet plain packets and others alike."""
    chosen = settings()
    with router(chosen, resolved=False) as plain, router(chosen, resolved=False) as staged:
        both = Both(plain, staged)
        frames = [ethernet("v4", DOWN[name]) for name in DOWN]
        both.burst("v4", frames)
        both.advance(100)
        both.burst("v6", [ethernet("v6", from_b4(packet, B1)) for packet in UP.values()])
        both.advance(4000)


def test_encapsulated_as_the_specification_says() -> None:
    """Not only the same: right. One packet each way against frames made by hand."""
    with router() as lane:
        ((_, out),) = lane.burst("v4", [ethernet("v4", DOWN["UDP"])])
        assert out[14:] == encap(mended_ttl(DOWN["UDP"]), B1)


def mended_ttl(packet: bytes) -> bytes:
    return mended(edit(packet, 8, bytes([packet[8] - 1])), 0)
