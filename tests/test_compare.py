"""The compare rules themselves: they take what the file allows and see every octet that is wrong."""

from __future__ import annotations

import struct

import pytest

from tests.compare import Comparison, Expected
from tests.frames import edit, fragments4, fragments6, ipv6, own_error4, sent, udp, with_header_checksum
from tests.vector_config import Example, examples, path_mtu

ABOUT = udp("198.51.100.10", "203.0.113.200", 53, 1024, size=700)
ERROR = own_error4(ABOUT, 3, 1, src="192.0.2.1")


def _free(rule: str, frame: bytes, at: int) -> bool:
    """Octets (with their low bits) that a rule leaves free although no checksum covers them."""
    if rule == "icmpv6-error":
        return 14 <= at < 18 or at == 21
    if rule == "icmp-echo-reply" and frame[12:14] == b"\x86\xdd" and frame[20] == 58:
        return 15 <= at < 18 or at == 21
    if rule == "flow-label-hash":
        return 15 <= at < 18
    return rule == "arp" and frame[20:22] == b"\0\1" and 32 <= at < 38


@pytest.mark.parametrize("example", [e for e in examples() if any(s.out for s in e.steps)], ids=lambda e: e.name)
def test_every_wrong_octet_is_seen(example: Example) -> None:
    options = example.all_options()
    for step in example.steps:
        want = step.out
        right = [(e.side, e.frame) for e in want]
        assert Comparison(path_mtu(options), options["v4_mtu"]).step(want, right) == []
        for which, e in enumerate(want):
            for at in range(len(e.frame)):
                if _free(e.rule, e.frame, at):
                    continue
                wrong = [*right]
                wrong[which] = (e.side, edit(e.frame, at, bytes([e.frame[at] ^ 0x11])))
                assert Comparison(path_mtu(options), options["v4_mtu"]).step(want, wrong), (which, at)


@pytest.mark.parametrize(
    "what, seen, accepted",
    [
        ("other ID, no DF", with_header_checksum(edit(ERROR, 4, b"\xab\xcd\0\0")), True),
        ("other TOS", with_header_checksum(edit(ERROR, 1, b"\0")), True),
        ("other TTL", with_header_checksum(edit(ERROR, 8, b"\xff")), True),
        ("TTL 0", with_header_checksum(edit(ERROR, 8, b"\0")), False),
        ("other source", with_header_checksum(edit(ERROR, 12, b"\x0a")), False),
        ("shorter quote", own_error4(ABOUT[:28], 3, 1, src="192.0.2.1"), True),
        ("quote too short", own_error4(ABOUT[:27], 3, 1, src="192.0.2.1"), False),
        ("quote of something else", own_error4(edit(ABOUT, 40, b"!"), 3, 1, src="192.0.2.1"), False),
        ("a value in the unused octets", own_error4(ABOUT, 3, 1, src="192.0.2.1", mtu=1500), False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_icmpv4_error_rule(what: str, seen: bytes, accepted: bool) -> None:
    want = [Expected("v4", sent("v4", ERROR)[1], "icmpv4-error")]
    assert (Comparison().step(want, [sent("v4", seen)]) == []) is accepted


def _tunnelled(size: int) -> bytes:
    return ipv6("2001:db8:aa::1", "2001:db8:1::1", 4, udp("198.51.100.10", "203.0.113.1", 53, 1024, size=size))


def test_fragments_may_be_split_elsewhere_but_not_lost_or_too_large() -> None:
    packet = _tunnelled(1472)
    want = [Expected("v6", sent("v6", f)[1], "fragment-v6") for f in fragments6(packet, 1500, 1)]
    smaller = [sent("v6", f) for f in fragments6(packet, 1280, 77)]
    assert Comparison(1500).step(want, smaller) == []
    assert Comparison(1500).step(want, smaller[:-1])
    assert Comparison(1500).step(want, list(reversed(smaller)))
    assert Comparison(1400).step(want, [sent("v6", f) for f in fragments6(packet, 1500, 1)])
    mixed = [smaller[0], *[sent("v6", f) for f in fragments6(packet, 1280, 78)][1:]]
    assert Comparison(1500).step(want, mixed)


def test_first_fragment_holds_the_header_chain() -> None:
    packet = _tunnelled(1472)
    want = [Expected("v6", sent("v6", f)[1], "fragment-v6") for f in fragments6(packet, 1500, 1)]
    tiny = [sent("v6", f) for f in fragments6(packet, 64, 1)]  # 16 octets of data each
    assert any("first fragment" in fault for fault in Comparison(1500).step(want, tiny))


def test_ipv4_fragments_keep_their_identification() -> None:
    packet = udp("203.0.113.1", "198.51.100.10", 1500, 53, size=1600, ident=7)
    want = [Expected("v4", sent("v4", f)[1], "fragment-v4") for f in fragments4(packet, 1500)]
    assert Comparison().step(want, [sent("v4", f) for f in fragments4(packet, 1000)]) == []
    renamed = with_header_checksum(edit(packet, 4, struct.pack("!H", 8)))
    assert Comparison().step(want, [sent("v4", f) for f in fragments4(renamed, 1500)])


def test_flow_label_is_not_zero_and_stays() -> None:
    packet = _tunnelled(18)
    want = [Expected("v6", sent("v6", packet)[1], "flow-label-hash")]
    rules = Comparison()
    assert rules.step(want, [sent("v6", packet)])
    assert rules.step(want, [sent("v6", edit(packet, 2, b"\x12\x34"))]) == []
    assert rules.step(want, [sent("v6", edit(packet, 2, b"\x12\x34"))]) == []
    assert rules.step(want, [sent("v6", edit(packet, 2, b"\x12\x35"))])
