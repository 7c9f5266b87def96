"""Every lwAFTR example of tests/data/dataplane.json through the real stages, under its compare rules."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.compare import Comparison, Expected
from tests.frames import BROADCAST, ETH_ARP, ETH_IPV6, ICMP6, OWN_MAC, Seen, dissect, ip6
from tests.lane_router import Router, kinds, router
from tests.vector_config import Example, Step, examples, path_mtu, settings

# The names of the examples' drops and our counters. The names in the file are suggestions.
DROPS = {
    "no-binding": "drop_no_binding",
    "source-validation": "drop_source_validation",
    "l2-not-unicast": "drop_l2_group_unicast",
    "l2-not-for-us": "drop_l2_not_for_us",
    "v4-malformed": "drop_v4_malformed",
    "v4-truncated": "drop_v4_truncated",
    "v4-bad-checksum": "drop_v4_bad_checksum",
    "v4-martian": "drop_v4_martian",
    "v4-option-policy": "drop_v4_option_policy",
    "ttl-expired": "drop_ttl_expired",
    "too-big-df": "drop_too_big_df",
    "ecn-ce-on-not-ect": "drop_ecn_ce_on_not_ect",
    "hairpin-disabled": "drop_hairpin_disabled",
    "icmp-policy": "drop_icmp_policy",
    "icmp-rate": "drop_icmp_rate",
    "icmp-type-not-allowed": "drop_icmp_type",
    "icmp-bad-checksum": "drop_icmp_bad_checksum",
    "icmp-bad-embedded": "drop_icmp_bad_embedded",
    "icmp-no-binding": "drop_icmp_no_binding",
    "frag4-tiny": "drop_fragment_v4_tiny",
    "frag4-timeout": "drop_fragment_v4_timeout",
    "v6-bad-source": "drop_v6_bad_source",
    "v6-not-for-us": "drop_v6_not_for_us",
    "v6-bad-extension": "drop_v6_bad_extension",
    "v6-unknown-next-header": "drop_v6_unknown_next_header",
    "v6-no-payload": "drop_v6_no_payload",
    "v6-no-listener": "drop_v6_no_listener",
    "frag6-overlap": "drop_fragment_v6_overlap",
    "frag6-duplicate": "drop_fragment_v6_duplicate",
    "frag6-bad-length": "drop_fragment_v6_bad_length",
    "frag6-too-long": "drop_fragment_v6_too_long",
    "frag6-incomplete-chain": "drop_fragment_v6_incomplete_chain",
    "frag6-timeout": "drop_fragment_v6_timeout",
    "icmp6-bad-checksum": "drop_icmp6_bad_checksum",
    "icmp6-ignored": "drop_icmp6_ignored",
    "arp-bad-sender": "drop_arp_bad_sender",
    "arp-not-ours": "drop_arp_not_ours",
    "ndp-invalid": "drop_ndp_invalid",
    "ndp-not-ours": "drop_ndp_not_ours",
}


@pytest.mark.parametrize("example", examples(), ids=lambda e: e.name)
def test_example(example: Example) -> None:
    options = example.all_options()
    rules = Comparison(path_mtu(options), options["v4_mtu"])
    with router(settings(options), resolved=options["neighbours_resolved"]) as lane:
        announced = any(step.event for step in example.steps)
        for number, step in enumerate(example.steps):
            seen = _run(lane, step)
            if announced:
                seen = _without_other_announcements(seen, step.out)
            faults = rules.step(step.out, seen)
            assert not faults, f"step {number}:\n" + "\n".join(faults)
            _check_drop(lane, step)
            lane.check_law()


def _run(lane: Router, step: Step) -> list[Seen]:
    seen = lane.advance(step.advance_ms) if step.advance_ms else []
    if step.event == "interface-up":
        seen += lane.interface_up()
    if step.side is not None:
        seen += lane.send(step.side, step.frame)
    return seen


def _check_drop(lane: Router, step: Step) -> None:
    """What the file calls a drop moved that one drop counter, by as many as were held with it; else none moved."""
    dropped = {name for name in lane.moved() if kinds()[name] == "drop"}
    assert dropped == ({DROPS[step.drop]} if step.drop else set())


def _without_other_announcements(seen: Sequence[Seen], wanted: Sequence[Expected]) -> list[Seen]:
    """The examples about start-up show one side and one address: announcements of the others are left out."""
    return [(side, frame) for side, frame in seen if not _announces(side, frame) or _is_wanted(side, frame, wanted)]


def _is_wanted(side: str, frame: bytes, wanted: Sequence[Expected]) -> bool:
    return any(e.side == side and not Comparison().one(e, frame) for e in wanted)


def _announces(side: str, frame: bytes) -> bool:
    """An ARP request of ours, a neighbour advertisement to all nodes, or a report of the groups we are in."""
    seen = dissect(frame)
    if seen.src != OWN_MAC[side]:
        return False
    if seen.kind == ETH_ARP:
        return seen.dst == BROADCAST and seen.payload[6:8] == b"\0\1"
    if seen.kind != ETH_IPV6 or seen.payload[24] != 0xFF:
        return False
    return seen.payload[24:40] == ip6("ff02::16") or (seen.payload[6] == ICMP6 and seen.payload[40] == 136)


def test_every_drop_name_of_the_file_has_a_counter() -> None:
    named = {step.drop for example in examples() for step in example.steps if step.drop}
    assert named == set(DROPS)
    assert set(DROPS.values()) <= {name for name, kind in kinds().items() if kind == "drop"}


def test_there_are_276_examples_for_the_router() -> None:
    assert len(examples()) == 276
