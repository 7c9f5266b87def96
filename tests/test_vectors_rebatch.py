"""Independence of neighbours: what becomes of a packet depends on the packet, not on which others share its burst,
nor on how its frame is split into buffers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.compare import piece6
from tests.frames import V4_IF, V6_IF, Seen, edit, ethernet, udp
from tests.lane_router import router
from tests.softwires import B1, changed, down
from tests.vector_config import Example, examples, is_stateful, settings


def _same_for_all(example: Example) -> bool:
    """One step, default options, and nothing remembered: the packet may come at any time and any number of times."""
    return len(example.steps) == 1 and not example.options and not is_stateful(example)


STATELESS = [e for e in examples() if _same_for_all(e)]


def _comparable(seen: Iterable[Seen]) -> Counter[Seen]:
    """Frames as a multiset; identifications of outer fragments are free."""
    return Counter((side, edit(frame, 58, bytes(4)) if piece6(frame) else frame) for side, frame in seen)


@cache
def _alone(side: str, frame: bytes) -> tuple[Counter[Seen], dict[str, int]]:
    with router() as lane:
        return _comparable(lane.send(side, frame)), lane.ways()


def _input(example: Example) -> tuple[str, bytes]:
    step = example.steps[0]
    assert step.side is not None
    return step.side, step.frame


def _expect(packets: Iterable[tuple[str, bytes]]) -> tuple[Counter[Seen], Counter[str]]:
    frames: Counter[Seen] = Counter()
    ways: Counter[str] = Counter()
    for side, frame in packets:
        out, why = _alone(side, frame)
        frames.update(out)
        ways.update(why)
    return frames, ways


def test_most_examples_are_stateless() -> None:
    assert len(STATELESS) > 200


@pytest.mark.parametrize("seed", range(40))
def test_shuffled_and_rebatched(seed: int) -> None:
    """Each example three times, in any order, in bursts of 1 to 64."""
    random = Random(seed)
    for side in ("v4", "v6"):
        packets = [p for p in map(_input, STATELESS) if p[0] == side] * 3
        random.shuffle(packets)
        with router() as lane:
            seen: list[Seen] = []
            at = 0
            while at < len(packets):
                size = random.randint(1, 64)
                seen += lane.burst(side, [frame for _, frame in packets[at : at + size]])
                at += size
            wanted, ways = _expect(packets)
            assert _comparable(seen) == wanted
            assert lane.ways() == ways


@pytest.mark.parametrize("seed", range(10))
def test_both_sides_of_one_port_in_one_burst(seed: int) -> None:
    """On a stick IPv4, ARP and IPv6 share bursts; the examples' frames come to the one MAC address of the port."""
    random = Random(seed)
    stick = changed(settings(), {"one_port": True, "v6.mac": V4_IF})
    packets = [(s, V4_IF + f[6:] if f[:6] in (V4_IF, V6_IF) else f) for s, f in map(_input, STATELESS)]
    packets = [(s, f) for s, f in packets if f[:6] == V4_IF]
    with router(stick) as lane:
        apart = Counter(frame for _, frame in packets for _, frame in lane.send("v4", frame))
        ways = lane.ways()
    random.shuffle(packets)
    with router(stick) as lane:
        together: Counter[bytes] = Counter()
        for at in range(0, len(packets), 50):
            together.update(frame for _, frame in lane.burst("v4", [f for _, f in packets[at : at + 50]]))
        assert Counter(together) == apart
        assert lane.ways() == ways


@pytest.mark.parametrize("example", STATELESS, ids=lambda e: e.name)
def test_split_into_segments_at_random_places(example: Example) -> None:
    """Buffers of any lengths, cuts inside headers included: the same frames and the same counters."""
    random = Random(example.name)
    side, frame = _input(example)
    wanted, ways = _alone(side, frame)
    with router() as lane:
        for count in (2, 2, 2, 3, 3, 5, 8):
            cuts = sorted(random.sample(range(1, len(frame)), min(count - 1, len(frame) - 1)))
            segments = [b - a for a, b in zip([0, *cuts], [*cuts, len(frame)], strict=True)]
            assert _comparable(lane.send(side, frame, segments=segments)) == wanted, segments
            assert lane.ways() == ways, segments


@pytest.mark.parametrize("name", ["encap-udp-shared", "decap-udp-shared", "hairpin-udp", "v6-no-match-long-quote"])
def test_split_at_every_single_place(name: str) -> None:
    side, frame = _input(next(e for e in STATELESS if e.name == name))
    wanted, ways = _alone(side, frame)
    with router() as lane:
        for cut in range(1, min(len(frame), 160)):
            assert _comparable(lane.send(side, frame, segments=[cut, len(frame) - cut])) == wanted, cut
            assert lane.ways() == ways, cut


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.sampled_from(STATELESS))
@hypothesis_settings(max_examples=300, deadline=None)
def test_split_into_many_small_segments(segments: list[int], example: Example) -> None:
    side, frame = _input(example)
    wanted, ways = _alone(side, frame)
    with router() as lane:
        assert _comparable(lane.send(side, frame, segments=segments)) == wanted
        assert lane.ways() == ways


@pytest.mark.parametrize("seed", range(10))
def test_a_flow_stays_in_order_among_others(seed: int) -> None:
    random = Random(seed)
    flow = [udp("198.51.100.10", B1.ipv4, 53, 1500, ident=n, size=random.randint(0, 900)) for n in range(200)]
    others = [frame for side, frame in map(_input, STATELESS) if side == "v4"]
    mixed: list[bytes] = []
    for packet in flow:
        mixed += [random.choice(others) for _ in range(random.randint(0, 4))] + [ethernet("v4", packet)]
    with router() as lane:
        seen = [f for at in range(0, len(mixed), 64) for _, f in lane.burst("v4", mixed[at : at + 64])]
    mine = {down(packet, B1).frame: number for number, packet in enumerate(flow)}
    assert [mine[frame] for frame in seen if frame in mine] == list(range(len(flow)))
