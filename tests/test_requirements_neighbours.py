"""Requirements about neighbours that are told by the clock: rounds, reachability, conflicts, announcements."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.frames import (
    BROADCAST,
    ETH_ARP,
    ETH_IPV6,
    ICMP6,
    OWN_MAC,
    PEER_MAC,
    V4_IF,
    V4_PEER,
    arp,
    dissect,
    edit,
    ethernet,
    icmp6,
    ip4,
    ip6,
    ipv6,
    udp,
)
from tests.lane_router import Router, router
from tests.softwires import B1, GATEWAY4, GATEWAY6, INET, ROUTER4, ROUTER6, arp_frame, changed, from_b4, solicitation
from tests.vector_config import settings

IN = ethernet("v4", udp(INET, B1.ipv4, 53, 1500))
OUT = ethernet("v6", from_b4(udp(B1.ipv4, INET, 1500, 53), B1))
TRAFFIC = {"v4": OUT, "v6": IN}  # what leaves on the side
ENTERS = {"v4": "v6", "v6": "v4"}
STRANGER = bytes.fromhex("020000009999")
SIDES = pytest.mark.parametrize("side", ["v4", "v6"])

Asked = tuple[int, str]  # when in ms, "group" or "direct"


def _question(side: str, frame: bytes) -> str | None:
    """How a frame of ours asks for the next hop of the side: to the group, or to the station itself."""
    seen = dissect(frame)
    if side == "v4":
        asks = seen.kind == ETH_ARP and seen.payload[6:8] == b"\0\1" and seen.payload[24:28] == ip4(GATEWAY4)
    else:
        packet = seen.payload
        asks = seen.kind == ETH_IPV6 and packet[6] == ICMP6 and packet[40] == 135 and packet[48:64] == ip6(GATEWAY6)
    if not asks:
        return None
    return "direct" if seen.dst == PEER_MAC[side] else "group"


class Watch:
    """Turns a router's clock in steps of 100 ms and notes what it asks on one side."""

    def __init__(self, lane: Router, side: str) -> None:
        self.lane, self.side, self.now = lane, side, 0
        self.asked: list[Asked] = []

    def note(self, seen: list[tuple[str, bytes]]) -> None:
        found = [_question(self.side, frame) for side, frame in seen if side == self.side]
        self.asked += [(self.now, how) for how in found if how]

    def packet(self) -> None:
        """One that leaves on the side."""
        self.note(self.lane.send(ENTERS[self.side], TRAFFIC[self.side]))

    def until(self, ms: int, traffic: bool = False) -> None:
        while self.now < ms:
            self.now += 100
            self.note(self.lane.advance(100))
            if traffic:
                self.packet()

    def answer(self, mac: bytes | None = None, flags: int = 0x60) -> None:
        """What the next hop says to a question: that it is (still) there. NA flags: solicited, override."""
        link = mac or PEER_MAC[self.side]
        if self.side == "v4":
            self.lane.send("v4", arp_frame(2, link, GATEWAY4, ROUTER4, target=V4_IF, dst=V4_IF))
        else:
            body = ip6(GATEWAY6) + b"\2\1" + link
            message = icmp6(GATEWAY6, ROUTER6, 136, 0, bytes([flags, 0, 0, 0]), body)
            self.lane.send("v6", ethernet("v6", ipv6(GATEWAY6, ROUTER6, ICMP6, message, hop_limit=255)))


def _resolved(side: str) -> Router:
    made = Router(resolved=False)
    made.lane.set_next_hop("v4" if side == "v6" else "v6", PEER_MAC["v4" if side == "v6" else "v6"])
    return made


# ---------------------------------------------------------------- resolution (DP-202, DP-203)
@SIDES
def test_a_round_has_three_questions_and_the_next_packet_starts_another(side: str) -> None:
    watch = Watch(_resolved(side), side)
    watch.packet()
    watch.until(3_500)
    assert watch.asked == [(0, "group"), (1_000, "group"), (2_000, "group")]
    assert watch.lane.count("drop_next_hop_unresolved") == 1
    watch.packet()
    watch.until(7_000)
    assert watch.asked[3:] == [(3_500, "group"), (4_500, "group"), (5_500, "group")]
    assert watch.lane.count("drop_next_hop_unresolved") == 2
    watch.lane.check_end()


@SIDES
def test_without_packets_the_next_round_comes_within_ten_seconds(side: str) -> None:
    watch = Watch(_resolved(side), side)
    watch.packet()
    watch.until(17_000)
    pauses = [b - a for (a, _), (b, _) in pairwise(watch.asked)]
    assert pauses[:2] == [1_000, 1_000]
    assert 10_000 <= pauses[2] <= 11_000 + 100
    assert all(how == "group" for _, how in watch.asked)
    watch.lane.check_end()


@SIDES
def test_never_two_questions_within_a_second(side: str) -> None:
    """However many packets wait, and though the packets of a failed round are followed by others at once."""
    watch = Watch(_resolved(side), side)
    watch.until(20_000, traffic=True)
    times = [at for at, _ in watch.asked]
    assert len(times) >= 15
    assert all(b - a >= 1_000 for a, b in pairwise(times))
    watch.lane.check_end()


# ---------------------------------------------------------------- reachability (DP-204)
@SIDES
def test_a_quiet_neighbour_is_probed_five_seconds_after_traffic_of_the_31st_second(side: str) -> None:
    with router() as lane:
        watch = Watch(lane, side)
        watch.until(31_000)
        assert watch.asked == []
        watch.packet()
        watch.until(36_000)
        assert watch.asked == []
        watch.until(36_300)
        assert [how for _, how in watch.asked] == ["direct"]
        watch.answer()
        watch.until(60_000)
        assert len(watch.asked) == 1, "it answered: nothing more for 30 s"


@SIDES
def test_a_neighbour_without_traffic_is_left_alone(side: str) -> None:
    with router() as lane:
        watch = Watch(lane, side)
        watch.until(300_000)
        assert watch.asked == []


@SIDES
def test_three_probes_without_an_answer_and_the_group_is_asked(side: str) -> None:
    """Packets go on to the known MAC meanwhile, and wait once it is given up."""
    with router() as lane:
        watch = Watch(lane, side)
        watch.until(31_000)
        watch.packet()
        sent = lane.count(f"tx_{side}")
        watch.until(38_000, traffic=True)
        assert lane.count(f"tx_{side}") - sent >= 70
        watch.until(42_000)
        hows = [how for _, how in watch.asked]
        assert hows[:4] == ["direct"] * 3 + ["group"]
        times = [at for at, _ in watch.asked]
        assert all(b - a >= 1_000 for a, b in pairwise(times[:4]))
        watch.answer(STRANGER)
        ((_, frame),) = lane.send(ENTERS[side], TRAFFIC[side])
        assert frame[:6] == STRANGER


def test_an_advertisement_without_override_does_not_move_a_reachable_neighbour() -> None:
    """RFC 4861 section 7.2.5: it becomes stale, so that the next traffic has it probed."""
    with router() as lane:
        watch = Watch(lane, "v6")
        watch.answer(STRANGER, flags=0x40)
        ((_, frame),) = lane.send("v4", IN)
        assert frame[:6] == PEER_MAC["v6"]
        watch.until(5_500)
        assert [how for _, how in watch.asked] == ["direct"]
        watch.answer(STRANGER, flags=0x60)
        assert lane.send("v4", IN)[0][1][:6] == STRANGER


# ---------------------------------------------------------------- what ARP teaches (DP-191, DP-192)
def test_a_request_of_the_next_hop_moves_it_and_a_probe_teaches_nothing() -> None:
    with router() as lane:
        lane.send("v4", arp_frame(1, STRANGER, "0.0.0.0", GATEWAY4))
        lane.send("v4", arp_frame(1, STRANGER, "0.0.0.0", ROUTER4))
        assert lane.send("v6", OUT)[0][1][:6] == V4_PEER
        lane.send("v4", arp_frame(1, STRANGER, GATEWAY4, "192.0.2.99"))
        assert lane.send("v6", OUT)[0][1][:6] == STRANGER


def _defences(seen: list[tuple[str, bytes]]) -> int:
    wanted = BROADCAST + V4_IF + ETH_ARP.to_bytes(2) + arp(1, V4_IF, ROUTER4, bytes(6), ROUTER4)
    return sum(frame == wanted for _, frame in seen)


def test_a_conflict_is_counted_each_time_and_defended_once_in_ten_seconds() -> None:
    """RFC 5227 section 2.4(c): while the other goes on, the address is kept and nothing more is said."""
    intruder = arp_frame(1, STRANGER, ROUTER4, GATEWAY4)
    with router() as lane:
        told = []
        for _ in range(4):
            told.append(_defences(lane.send("v4", intruder)))
            lane.advance(6_000)
        assert told == [1, 0, 0, 0]
        lane.advance(6_000)
        assert _defences(lane.send("v4", intruder)) == 1
        assert lane.count("address_conflict") == 5
        answer = lane.send("v4", arp_frame(1, V4_PEER, GATEWAY4, ROUTER4))
        assert [frame[22:28] for _, frame in answer] == [V4_IF]


# ---------------------------------------------------------------- announcements (DP-193, DP-199, DP-200, DP-201)
def _kind(frame: bytes) -> str:
    seen = dissect(frame)
    if seen.kind == ETH_ARP:
        return "arp"
    packet = seen.payload
    if packet[6] == 0:
        return "mld"
    return {135: "ns", 136: "na"}[packet[40]] + f" {packet[48:64].hex()}"


def test_announcements_keep_their_distances() -> None:
    """Two gratuitous ARPs 2 s apart; of each address at most three advertisements 1 s apart; two MLD reports."""
    with router() as lane:
        times: dict[str, list[int]] = {}
        seen = lane.interface_up()
        for now in range(0, 12_000, 100):
            for _, frame in seen:
                times.setdefault(_kind(frame), []).append(now)
            seen = lane.advance(100)
        assert times["arp"] == [0, 2_000]
        assert len(times["mld"]) == 2
        advertised = {name: at for name, at in times.items() if name.startswith("na")}
        assert {name[3:] for name in advertised} >= {ip6(ROUTER6).hex()}
        for at in advertised.values():
            assert len(at) <= 3
            assert all(b - a >= 1_000 for a, b in pairwise(at))


def test_addresses_of_others_are_not_advertised() -> None:
    """DP-199: nothing is proxied on the IPv6 side, not even the B4s of the table."""
    with router() as lane:
        for target in (B1.b4, GATEWAY6, "2001:db8:ffff::99"):
            assert lane.send("v6", solicitation(target, "2001:db8:ffff::77")) == []
        assert lane.count("drop_ndp_not_ours") == 3


@pytest.mark.parametrize("target", [ROUTER6, B1.br], ids=["interface", "BR"])
def test_a_solicitation_to_the_group_reaches_us_and_only_that_group(target: str) -> None:
    """DP-201: the port passes all groups; the stages take the link's group of the destination."""
    frame = solicitation(target, GATEWAY6)
    with router() as lane:
        assert len(lane.send("v6", frame)) == 1
        assert lane.send("v6", edit(frame, 0, STRANGER)) == []
        assert lane.ways() == {"answered_ndp": 1, "drop_l2_not_for_us": 1}


def test_a_fixed_next_hop_is_never_asked_and_never_moved() -> None:
    fixed = changed(settings(), {f"{side}.next_hop_mac": peer for side, peer in PEER_MAC.items()})
    with router(fixed, resolved=False) as lane:
        watches = [Watch(lane, side) for side in ("v4", "v6")]
        for _ in range(60):
            seen = lane.advance(1_000) + lane.send("v4", IN) + lane.send("v6", OUT)
            for watch in watches:
                watch.note(seen)
        lane.send("v4", arp_frame(1, STRANGER, GATEWAY4, ROUTER4))
        watches[1].answer(STRANGER)
        assert [frame[:6] for _, frame in lane.send("v4", IN) + lane.send("v6", OUT)] == [
            PEER_MAC["v6"],
            PEER_MAC["v4"],
        ]
        assert [watch.asked for watch in watches] == [[], []]
        assert all(frame[6:12] in OWN_MAC.values() for _, frame in seen)
