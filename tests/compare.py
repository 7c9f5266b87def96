"""The compare rules of tests/data/dataplane.json: what may differ between an expected and a seen frame.

A field that a rule leaves free is still checked for sense: checksums, lengths and fragments have to be right.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.frames import (
    DEST_OPTIONS,
    DF,
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    FRAGMENT,
    ICMP,
    ICMP6,
    IPIP,
    MF,
    Seen,
    checksum,
    dissect,
    edit,
    payload4,
    pseudo_header,
)


@dataclass(frozen=True)
class Expected:
    side: str
    frame: bytes
    rule: str


def faults_of(frame: bytes) -> list[str]:
    """What is wrong with a frame that left, whatever was expected. Transport checksums are the hosts' own."""
    seen = dissect(frame)
    if seen.kind == ETH_ARP:
        return [] if len(seen.payload) == 28 or not any(seen.payload[28:]) else ["ARP with a tail"]
    if seen.kind == ETH_IPV4:
        return _faults4(seen.payload)
    if seen.kind != ETH_IPV6:
        return [f"EtherType {seen.kind:#06x}"]
    packet, faults = seen.payload, []
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return ["no IPv6 header"]
    if struct.unpack("!H", packet[4:6])[0] != len(packet) - 40:
        faults.append("IPv6 payload length")
    pseudo = pseudo_header(packet[8:24], packet[24:40], len(packet) - 40, ICMP6)
    if packet[6] == ICMP6 and checksum(pseudo + packet[40:]):
        faults.append("ICMPv6 checksum")
    inner = seen.ipv4
    return faults + (_faults4(inner) if inner is not None else [])


def _faults4(packet: bytes) -> list[str]:
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[0] & 15 < 5:
        return ["no IPv4 header"]
    faults = []
    if checksum(packet[: (packet[0] & 15) * 4]):
        faults.append("IPv4 header checksum")
    if struct.unpack("!H", packet[2:4])[0] != len(packet):
        faults.append("IPv4 total length")
    return faults


def _difference(what: str, want: bytes, got: bytes) -> list[str]:
    if want == got:
        return []
    at = next((i for i, (a, b) in enumerate(zip(want, got, strict=False)) if a != b), min(len(want), len(got)))
    lengths = f"({len(want)} octets wanted, {len(got)} seen)"
    return [f"{what} differ at octet {at} {lengths}\n  want {want.hex()}\n  seen {got.hex()}"]


def _blank(data: bytes, *spans: tuple[int, int]) -> bytes:
    for start, end in spans:
        data = edit(data, start, b"\0" * (end - start))
    return data


def _forwarded(want: bytes, got: bytes) -> list[str]:
    return _difference("frames", want, got)


def _icmpv4_error(want: bytes, got: bytes) -> list[str]:
    """Free: ID, DF, TOS (the outer class follows it) and TTL of the error; the length of the quote within limits."""
    outer_want, inner_want = _split_softwire(want)
    outer_got, inner_got = _split_softwire(got)
    if len(inner_got) < 28 or inner_got[0] != 0x45:
        return _difference("frames", want, got)
    faults = []
    if dissect(got).kind == ETH_IPV6:
        wanted_class, tc = (struct.unpack("!H", outer[14:16])[0] >> 4 & 0xFF for outer in (outer_want, outer_got))
        follows = wanted_class == inner_want[1]  # the pipe model has a class of its own
        if tc != (inner_got[1] if follows else wanted_class):
            faults.append(f"outer traffic class {tc:#x} does not follow the TOS {inner_got[1]:#x}")
        blanks = ((14, 16), (18, 20))  # version, traffic class, half of the flow label; payload length
        faults += _difference("outer headers", _blank(outer_want, *blanks), _blank(outer_got, *blanks))
        if outer_got[14] >> 4 != 6 or outer_got[15] & 15:
            faults.append("outer version or flow label")
    else:
        faults += _difference("Ethernet headers", outer_want, outer_got)
    head = ((1, 4), (4, 9), (10, 12))
    faults += _difference("error headers", _blank(inner_want[:20], *head), _blank(inner_got[:20], *head))
    if struct.unpack("!H", inner_got[6:8])[0] & ~DF or not inner_got[8]:
        faults.append("error is a fragment or has TTL 0")
    faults += _difference("ICMP types and values", _blank(inner_want[20:28], (2, 4)), _blank(inner_got[20:28], (2, 4)))
    if checksum(inner_got[20:]):
        faults.append("ICMPv4 checksum")
    return faults + _quote_faults(inner_want[28:], inner_got[28:], len(inner_got))


def _quote_faults(want: bytes, got: bytes, size: int) -> list[str]:
    if size > 576:
        return [f"ICMPv4 error of {size} octets"]
    least = min(len(want), (want[0] & 15) * 4 + 8)
    if len(got) < least:
        return [f"quote of {len(got)} octets, {least} is the least"]
    # The expected quote is as long as 576 octets allow: a longer one would hold octets that are not in the packet.
    return _difference("quotes", want[: len(got)], got)


def _split_softwire(frame: bytes) -> tuple[bytes, bytes]:
    """(headers before the IPv4 packet, the IPv4 packet)."""
    inner = dissect(frame).ipv4 or b""
    return frame[: len(frame) - len(inner)], inner


def _icmpv6_error(want: bytes, got: bytes) -> list[str]:
    """Free: traffic class, flow label and hop limit. The quote has to fill 1280 octets."""
    if len(got) - 14 > 1280:
        return [f"ICMPv6 error of {len(got) - 14} octets"]
    free = ((14, 18), (21, 22))
    return _difference("frames", _blank(want, *free), _blank(got, *free))


def _icmp_echo_reply(want: bytes, got: bytes) -> list[str]:
    """Free: ID, DF and TTL of IPv4, hop limit and flow label of IPv6."""
    if dissect(want).ipv4 is None:
        free: tuple[tuple[int, int], ...] = ((16, 18), (21, 22))
        clear = edit(got, 15, bytes([got[15] & 0xF0])) if len(got) > 22 else got
        return _difference("frames", _blank(want, *free), _blank(clear, *free))
    outer_want, inner_want = _split_softwire(want)
    outer_got, inner_got = _split_softwire(got)
    free = ((4, 9), (10, 12))
    faults = _difference("outer headers", outer_want, outer_got)
    if len(inner_got) >= 20 and (struct.unpack("!H", inner_got[6:8])[0] & ~DF or not inner_got[8]):
        faults.append("reply is a fragment or has TTL 0")
    return faults + _difference("replies", _blank(inner_want, *free), _blank(inner_got, *free))


def _arp(want: bytes, got: bytes) -> list[str]:
    """Free: the target hardware address of requests. A short frame may be padded with zeros."""
    got = got[:42] if not any(got[42:]) else got
    if want[20:22] == b"\0\1":
        return _difference("ARP requests", _blank(want, (32, 38)), _blank(got, (32, 38)))
    return _difference("ARP replies", want, got)


def _ndp(want: bytes, got: bytes) -> list[str]:
    return _difference("frames", want, got)


_SINGLE: dict[str, Callable[[bytes, bytes], list[str]]] = {
    "forwarded": _forwarded,
    "icmpv4-error": _icmpv4_error,
    "icmpv6-error": _icmpv6_error,
    "icmp-echo-reply": _icmp_echo_reply,
    "arp": _arp,
    "ndp": _ndp,
}


@dataclass(frozen=True)
class Piece:
    """One fragment, of either version: where it lies and what all fragments of its packet have in common."""

    common: bytes
    ident: int
    start: int
    data: bytes
    more: bool
    size: int  # of the whole packet, link header left out
    options: bytes = b""  # of IPv4

    @property
    def end(self) -> int:
        return self.start + len(self.data)


def piece6(frame: bytes) -> Piece | None:
    packet = dissect(frame).payload
    if dissect(frame).kind != ETH_IPV6 or len(packet) < 48 or packet[6] != FRAGMENT:
        return None
    following, reserved, position, ident = struct.unpack("!BBHI", packet[40:48])
    common = frame[: len(frame) - len(packet)] + _blank(packet[:40], (4, 6)) + bytes([following, reserved])
    return Piece(common, ident, position & 0xFFF8, packet[48:], bool(position & 1), len(packet))


def piece4(frame: bytes) -> Piece | None:
    packet = dissect(frame).payload
    if dissect(frame).kind != ETH_IPV4 or len(packet) < 20:
        return None
    (position,) = struct.unpack("!H", packet[6:8])
    if not position & 0x3FFF:
        return None
    link, flags = frame[: len(frame) - len(packet)], struct.pack("!H", position & 0xC000)
    common = link + packet[1:2] + packet[4:6] + flags + packet[8:10] + packet[12:20]  # not: sizes, offset, checksum
    (ident,) = struct.unpack("!H", packet[4:6])
    options = packet[20 : (packet[0] & 15) * 4]
    start, more = (position & 0x1FFF) * 8, bool(position & MF)
    return Piece(common, ident, start, payload4(packet), more, len(packet), options)


def _listed(options: bytes) -> list[bytes]:
    """IPv4 options one by one, no-operations and what is behind the end left out."""
    found, at = [], 0
    while at < len(options) and options[at] != 0:
        length = 1 if options[at] == 1 or at + 1 == len(options) else max(2, options[at + 1])
        found += [options[at : at + length]] if options[at] != 1 else []
        at += length
    return found


def _options_of_later(first: bytes, later: bytes) -> list[str]:
    """RFC 791: those with the copied flag go into every fragment, the others into the first alone or into all."""
    every, copied = _listed(first), [option for option in _listed(first) if option[0] & 0x80]
    return [] if _listed(later) in (every, copied) else [f"options {later.hex()} behind {first.hex()}"]


def reassemble(pieces: Sequence[Piece], mtu: int) -> tuple[bytes, list[str]]:
    """The data of a fragmented packet, and what is wrong with the way it was split."""
    faults = []
    if len({piece.ident for piece in pieces}) != 1:
        faults.append("identification not the same in all fragments")
    if len({piece.common for piece in pieces}) != 1:
        faults.append("fragments' headers differ")
    at, data = 0, b""
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        if piece.size > mtu:
            faults.append(f"fragment of {piece.size} octets on a link of {mtu}")
        faults += _options_of_later(pieces[0].options, piece.options)
        if piece.start != at:
            faults.append(f"fragment at {piece.start}, {at} expected: a gap, an overlap or disorder")
        if piece.more is last:
            faults.append("M flag")
        if not last and len(piece.data) % 8:
            faults.append(f"fragment of {len(piece.data)} octets is not a multiple of 8")
        at, data = piece.end, data + piece.data
    return data, faults


def _first_fragment_has_chain(first: Piece) -> list[str]:
    """RFC 7112 section 5: all headers through the inner IPv4 header are in the first fragment (DP-165)."""
    at, following = 0, first.common[-2]
    if following == DEST_OPTIONS:
        following, at = first.data[0], 8 * (first.data[1] + 1)
    if following == IPIP and len(first.data) < at + 20:
        return ["the inner IPv4 header is not in the first fragment"]
    return []


@dataclass
class Comparison:
    """Compares step after step of one example; flow labels have to stay the same over all of them."""

    path_mtu: int = 1500
    v4_mtu: int = 1500
    labels: dict[tuple[bytes, ...], int] = field(default_factory=dict)

    def step(self, want: Sequence[Expected], got: Sequence[Seen]) -> list[str]:
        """All differences, in words; an empty list is a match."""
        faults = [f"frame {i}: {fault}" for i, (_, frame) in enumerate(got) for fault in faults_of(frame)]
        at = used = 0
        while at < len(want):
            expected = want[at]
            if used >= len(got):
                return [*faults, f"{len(want) - at} frame(s) missing, the first: {expected}"]
            if got[used][0] != expected.side:
                return [*faults, f"frame {used} left on the wrong side {got[used][0]}: {got[used][1].hex()}"]
            if expected.rule.startswith("fragment-"):
                end = at + self._run([e.frame for e in want[at:]], expected.rule)
                taken = max(1, self._run([frame for _, frame in got[used:]], expected.rule))
                seen = [frame for _, frame in got[used : used + taken]]
                faults += self._fragments([e.frame for e in want[at:end]], seen, expected.rule)
                at, used = end, used + taken
            else:
                faults += self.one(expected, got[used][1])
                at, used = at + 1, used + 1
        return faults + [f"unexpected frame on {side}: {frame.hex()}" for side, frame in got[used:]]

    def one(self, want: Expected, got: bytes) -> list[str]:
        if want.rule == "flow-label-hash":
            return self._flow_label(want.frame, got)
        return [f"{want.rule}: {fault}" for fault in _SINGLE[want.rule](want.frame, got)]

    def _flow_label(self, want: bytes, got: bytes) -> list[str]:
        if len(got) < 54 or dissect(got).kind != ETH_IPV6:
            return _forwarded(want, got)
        label = struct.unpack("!I", got[14:18])[0] & 0xFFFFF
        inner = dissect(got).ipv4 or b"\0" * 20
        flow = (inner[9:10], inner[12:20], payload4(inner)[:4])
        if not label:
            return ["flow label 0"]
        faults = []
        if self.labels.setdefault(flow, label) != label:
            faults.append(f"flow label {label:#x} is not that of the same flow before, {self.labels[flow]:#x}")
        blank = [edit(frame, 15, bytes([frame[15] & 0xF0]) + b"\0\0") for frame in (want, got)]
        return faults + _difference("frames", *blank)

    @staticmethod
    def _run(frames: Sequence[bytes], rule: str) -> int:
        """How many of the frames, from the first on, are fragments of one packet."""
        read = piece6 if rule == "fragment-v6" else piece4
        first = read(frames[0])
        if first is None:
            return 0
        count = 1
        for frame in frames[1:]:
            piece = read(frame)
            if piece is None or piece.ident != first.ident or not piece.start:
                break
            count += 1
        return count

    def _fragments(self, want: Sequence[bytes], got: Sequence[bytes], rule: str) -> list[str]:
        read, mtu = (piece6, self.path_mtu) if rule == "fragment-v6" else (piece4, self.v4_mtu)
        wanted = [piece for piece in map(read, want) if piece is not None]
        pieces = [piece for piece in map(read, got) if piece is not None]
        if not pieces:
            return [f"{rule}: not a fragment: {got[0].hex()}"]
        want_data, _ = reassemble(wanted, mtu)
        got_data, faults = reassemble(pieces, mtu)
        faults += _difference("fragments' headers", *(p[0].common + p[0].options for p in (wanted, pieces)))
        faults += _difference("reassembled data", want_data, got_data)
        if rule == "fragment-v6":
            faults += _first_fragment_has_chain(pieces[0])
        elif pieces[0].ident != wanted[0].ident:
            faults.append("the identification was not copied")
        return [f"{rule}: {fault}" for fault in faults]


def is_icmp_error(packet: bytes) -> bool:
    body = payload4(packet)
    return packet[9] == ICMP and len(body) > 0 and body[0] in (3, 4, 5, 11, 12)
