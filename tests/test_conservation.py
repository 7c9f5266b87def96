"""The law: every frame that comes in leaves by one edge or one drop or is held, and no packet buffer is ever lost.

Random traffic of every kind with structured damage, over configurations that open every door of the pipeline.
LW_PACKETS sets how many packets each configuration of the quick test sees; the slow one sees a million in all.
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random

import pytest

from tests.compare import faults_of
from tests.frames import V4_IF, V6_IF
from tests.lane_router import kinds, router
from tests.random_packets import Traffic, damage
from tests.softwires import changed
from tests.vector_config import Settings, bindings, settings

QUICK = int(os.environ.get("LW_PACKETS", "10000"))
MILLION = 1_000_000

TAGGED = {"v4.vlan": 100, "v6.vlan": 200}
TIGHT = {"max_packets": 8, "timeout_s": 1, "max_fragments": 3}
CONFIGURATIONS: dict[str, Settings] = {
    "default": settings(),
    "small path, encapsulation limit, clamp": changed(
        settings({"v6_path_mtu": 1280, "encap_limit": 4, "flow_label": "hash"}), {"tcp_mss": 1200}
    ),
    "small IPv4 link, pipe": settings({"v4_mtu": 576, "v6_path_mtu": 9000, "dscp_mode": "pipe", "pipe_dscp": 46}),
    "on a stick": changed(settings(), {"one_port": True, "v6.mac": V4_IF}),
    "tags": changed(settings(), TAGGED),
    "tight limits": changed(
        settings({"icmpv4_incoming_rate": {"per_second": 5, "burst": 5}}),
        {"reassembly": TIGHT, "icmp.rate_limit": (3, 1, 1), "icmp.error_tos": None},
    ),
    "hairpin external, errors off": settings(
        {
            "hairpin": "external",
            "icmpv4_generate_errors": False,
            "icmpv4_allow_incoming": False,
            "icmpv6_generate_errors": False,
        }
    ),
    "hairpin dropped, proxy ARP, options passed": settings(
        {"hairpin": "drop", "proxy_arp": True, "opt_source_route": "ignore", "opt_timestamp": "ignore"}
    ),
    "PCP, a control side": changed(
        settings(),
        {
            "pcp": {"enabled": True, "addresses": [b"\xc0\0\0\1"], "rate_limit": (0, 1)},
            "events": {"miss": True, "move": True, "hold_code5_ms": 100},
        },
    ),
}


def _tagged(side: str, frame: bytes) -> bytes:
    return frame[:12] + b"\x81\0\0" + bytes([100 if side == "v4" else 200]) + frame[12:]


def corpus_of(
    random: Random, chosen: Settings, size: int, neighbours: bool = True, largest: int = 3000
) -> dict[str, list[bytes]]:
    """Valid frames by side, to be damaged on their way."""
    traffic = Traffic(random, bindings(), neighbours=neighbours, largest=largest)
    corpus: dict[str, list[bytes]] = {"v4": [], "v6": []}
    for _ in range(size):
        side, frame = traffic.frame()
        if chosen["one_port"] and frame[:6] == V6_IF:
            frame = V4_IF + frame[6:]
        corpus[side].append(frame if chosen["v4"]["vlan"] is None else _tagged(side, frame))
    return corpus


def _run(chosen: Settings, packets: int, seed: int, look_at: int, resolved: bool = True) -> dict[str, int]:
    random = Random(seed)
    corpus = corpus_of(random, chosen, 1500, neighbours=resolved)
    with router(chosen, resolved=resolved, mbufs=4096) as lane:
        fed = left = 0
        while fed < packets:
            side = random.choice(("v4", "v6"))
            burst = [
                frame if random.random() < 0.6 else damage(random, frame)
                for frame in random.choices(corpus[side], k=random.choice((1, 2, 31, 64)))
            ]
            seen = lane.burst(side, burst)
            if random.random() < (0.02 if resolved else 0.3):
                seen += lane.advance(random.choice((1, 10, 300, 1000, 2500, 61_000)))
            fed += len(burst)
            left += len(seen)
            for number in range(0, len(seen), look_at):
                assert faults_of(seen[number][1]) == [], seen[number][1].hex()
            if random.random() < 0.05:
                lane.check_law()
        counters = lane.lane.counters()
        assert counters["rx_v4"] + counters["rx_v6"] == fed
        assert counters["tx_v4"] + counters["tx_v6"] == left
        assert counters["drop_no_buffer"] == 0
        return dict(counters)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_law_holds(name: str) -> None:
    _run(CONFIGURATIONS[name], QUICK, seed=1, look_at=1)


@pytest.mark.parametrize("seed", range(3))
def test_law_holds_while_next_hops_are_unknown(seed: int) -> None:
    """Packets wait for ARP and NDP, are thrown out of full queues, and are dropped when nobody answers."""
    _run(CONFIGURATIONS["default"], QUICK, seed=seed, look_at=1, resolved=False)


def test_law_holds_when_buffers_run_out() -> None:
    """A pool that fragments and errors exhaust: counted, never lost, and the router goes on afterwards."""
    random = Random(7)
    chosen = settings({"v6_path_mtu": 1280, "v4_mtu": 576})
    corpus = corpus_of(random, chosen, 1500, largest=9000)
    with router(chosen, mbufs=64) as lane:
        for _ in range(QUICK // 32):
            side = random.choice(("v4", "v6"))
            lane.burst(side, random.choices(corpus[side], k=32))
            if random.random() < 0.1:
                lane.advance(100)
            lane.check_law()
        assert lane.count("drop_no_buffer") > 0
        lane.advance(70_000)
        assert lane.lane.mbufs_in_use() == 0


# Doors that these runs cannot open: filters, a full port or ring, what only a real worker counts.
CLOSED = {"drop_filter_in", "drop_filter_out", "drop_no_buffer", "drop_punt_queue", "filtered_made", "tx_failed"}


def test_the_traffic_opens_every_door() -> None:
    """Else the law would be tested on less than it says: every edge and every drop is taken by some packet."""
    seen: Counter[str] = Counter()
    for seed, chosen in enumerate(CONFIGURATIONS.values()):
        seen.update(_run(chosen, 4000, seed, look_at=1000))
    seen.update(_run(CONFIGURATIONS["default"], 4000, seed=0, look_at=1000, resolved=False))
    ways = {name for name, kind in kinds().items() if kind in ("edge", "drop")}
    assert ways - CLOSED - set(+seen) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_law_holds_for_a_million_packets(name: str) -> None:
    _run(CONFIGURATIONS[name], MILLION // len(CONFIGURATIONS) + 1, seed=2, look_at=25)
