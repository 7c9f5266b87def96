"""What the router has to do with one packet: a second, slow and readable reading of the specification (section 3).

It keeps no state, so it has no opinion (`NotModelled`) about fragments that need others, neighbour messages and
messages that change a path MTU. For everything else it tells the frames that leave and the one counter that moves.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

from tests.compare import Expected, is_icmp_error
from tests.frames import (
    DEST_OPTIONS,
    DF,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    IPIP,
    NO_NEXT,
    OWN_MAC,
    PORT_PROTOCOLS,
    ROUTING,
    TCP,
    UDP,
    checksum,
    fragments4,
    fragments6,
    hop,
    icmp4,
    icmp6,
    ip4,
    ip6,
    ipv4,
    ipv6,
    own_error4,
    own_error6,
    payload4,
    pseudo_header,
    sent,
)
from tests.oracle_headers import (
    Ended,
    NotModelled,
    bad_destination,
    bad_source,
    checked4,
    checked6,
    header4,
    is_fragment,
    number,
    quoted_port,
    softwire_only,
    text4,
)
from tests.softwires import ROUTER4, TUNNEL4
from tests.vector_config import Binding, Options, document, path_mtu

ETHERNET_V4, ETHERNET_V6 = b"\x08\x00", b"\x86\xdd"
OWN4, AFTR = ip4(ROUTER4), ip4(TUNNEL4)
LONGEST_CHAIN = 40 + 128  # octets of headers that have to be parsed in any case
ECN_SEVERITY = (0, 2, 1, 3)  # Not-ECT, ECT(1), ECT(0), CE (RFC 6040 section 4.2)
DROPPED_OPTIONS = {131: "source_route", 137: "source_route", 7: "record_route", 68: "timestamp", 148: "router_alert"}


@dataclass(frozen=True)
class Verdict:
    way: str
    frames: list[Expected]


@dataclass(frozen=True)
class Softwire:
    b4: bytes
    br: bytes


class Oracle:
    def __init__(self, rows: Sequence[Binding], options: Options) -> None:
        self.options = options
        self.br_addresses = {ip6(a) for a in document()["topology"]["br_addresses"]}
        self.shapes: dict[bytes, tuple[int, int]] = {}
        self.table: dict[tuple[bytes, int], Softwire] = {}
        for row in rows:
            self.shapes[ip4(row.ipv4)] = (row.psid_offset, row.psid_len)
            self.table[ip4(row.ipv4), row.psid if row.psid_len else 0] = Softwire(ip6(row.b4), ip6(row.br))

    def receive(self, side: str, frame: bytes) -> Verdict:
        try:
            self._link(side, frame)
        except Ended as end:
            return Verdict(end.way, end.frames)
        raise AssertionError("a packet's way did not end")

    # ------------------------------------------------------------ link and headers
    def _link(self, side: str, frame: bytes) -> None:
        if len(frame) < 14:
            raise Ended("drop_l2_runt")
        dst, kind = frame[:6], frame[12:14]
        if kind in (b"\x08\x06", b"\x81\x00") or dst[0] & 1:
            raise NotModelled
        if dst != OWN_MAC[side]:
            raise Ended("drop_l2_not_for_us")
        if kind != (ETHERNET_V4 if side == "v4" else ETHERNET_V6):
            raise Ended("drop_l2_ethertype")
        if side == "v4":
            self._from_internet(checked4(frame[14:]))
        else:
            self._outer(checked6(frame[14:]))

    def _options4(self, packet: bytes) -> None:
        at, end = 20, header4(packet)
        while at < end and packet[at] != 0:
            if packet[at] == 1:
                at += 1
                continue
            if at + 1 >= end or packet[at + 1] < 2 or at + packet[at + 1] > end:
                raise Ended("drop_v4_malformed")
            name = DROPPED_OPTIONS.get(packet[at])
            if name and self.options[f"opt_{name}"] == "drop":
                raise Ended("drop_v4_option_policy")
            at += packet[at + 1]

    # ------------------------------------------------------------ table
    def _shared(self, address: bytes) -> bool:
        return self.shapes.get(address, (0, 0))[1] > 0

    def _find(self, address: bytes, port: int | None) -> Softwire | None:
        if address not in self.shapes:
            return None
        offset, length = self.shapes[address]
        if length == 0:
            return self.table.get((address, 0))
        if port is None or (offset and port < 1 << (16 - offset)):
            return None
        return self.table.get((address, (port >> (16 - offset - length)) & ((1 << length) - 1)))

    def _steer(self, packet: bytes, inward: bool) -> int | None:
        """The port that finds the binding of a shared address (4.2); ICMP that may not pass ends here."""
        if is_fragment(packet):
            raise NotModelled
        body = payload4(packet)
        if packet[9] in PORT_PROTOCOLS:
            return number(body, 2 if inward else 0) if len(body) >= 4 else None
        if packet[9] != ICMP:
            return None
        if len(body) < 8:
            raise Ended("drop_icmp_malformed")
        if body[0] not in (0, 3, 8, 11, 12):
            raise Ended("drop_icmp_type")
        if checksum(body):
            raise Ended("drop_icmp_bad_checksum")
        if body[0] in (0, 8):
            return number(body, 4)
        return quoted_port(body[8:], packet[16:20] if inward else packet[12:16], inward)

    # ------------------------------------------------------------ downstream
    def _from_internet(self, packet: bytes) -> None:
        src, dst = packet[12:16], packet[16:20]
        if bad_source(src) or bad_destination(dst) or softwire_only(src) or softwire_only(dst):
            raise Ended("drop_v4_martian")
        self._options4(packet)
        if dst == OWN4:
            self._local(packet, None, packet[1])
        if packet[9] == ICMP and not self.options["icmpv4_allow_incoming"]:
            raise Ended("drop_icmp_policy")
        to = self._find(dst, self._steer(packet, True) if self._shared(dst) else None)
        if to is None:
            self._unbound(packet, None)
        else:
            self._into(packet, to, None, packet[1], "encap")

    def _unbound(self, packet: bytes, via: Softwire | None) -> None:
        if packet[9] == ICMP:
            raise Ended("drop_icmp_no_binding")
        told = self._error4(packet, 3, 1, 0, via) if self.options["icmpv4_generate_errors"] else []
        raise Ended("drop_no_binding", told)

    def _local(self, packet: bytes, via: Softwire | None, _tos: int) -> None:
        body = payload4(packet)
        if is_fragment(packet):
            raise NotModelled
        if packet[9] != ICMP or len(body) < 8 or body[0] != 8 or checksum(body):
            raise Ended("drop_v4_local")
        message = icmp4(0, 0, body[4:8], body[8:])
        src, dst = text4(packet[16:20]), text4(packet[12:16])
        reply = ipv4(src, dst, ICMP, message, tos=packet[1] & 0xFC, ident=0, flags=DF)
        if len(reply) > (self._room() if via else self.options["v4_mtu"]):
            raise NotModelled  # an answer that does not fit the way it came
        raise Ended("answered_echo_v4", [self._sent4(reply, via, "icmp-echo-reply")])

    # ------------------------------------------------------------ upstream
    def _outer(self, packet: bytes) -> None:
        src, dst = packet[8:24], packet[24:40]
        neighbour = packet[6] == ICMP6 and len(packet) > 40 and 133 <= packet[40] <= 137
        if dst[0] == 0xFF or neighbour:
            raise NotModelled
        if dst not in self.br_addresses:
            raise Ended("drop_v6_not_for_us")
        if src[0] == 0xFF or src == bytes(16):
            raise Ended("drop_v6_bad_source")
        at, following, named_at = 40, packet[6], 6
        while following in (HOP_BY_HOP, ROUTING, DEST_OPTIONS):
            end = self._extension(packet, at, following, named_at)
            following, named_at, at = packet[at], at, end
        if following == FRAGMENT:
            raise NotModelled
        if following == IPIP:
            self._from_softwire(checked4(packet[at:]), packet)
        if following == ICMP6:
            self._icmp6(packet, at)
        if following == NO_NEXT:
            raise Ended("drop_v6_no_payload")
        if following in (TCP, UDP):
            raise Ended("drop_v6_no_listener", self._error6(packet, 1, 4, 0))
        raise Ended("drop_v6_unknown_next_header", self._error6(packet, 4, 1, named_at))

    def _extension(self, packet: bytes, at: int, kind: int, named_at: int) -> int:
        """Where the next header begins (4.11)."""
        if at + 8 > len(packet) or at + 8 * (packet[at + 1] + 1) > len(packet):
            raise Ended("drop_v6_malformed")
        end = at + 8 * (packet[at + 1] + 1)
        if end > LONGEST_CHAIN:
            raise NotModelled  # the router may give up on such a chain
        if kind == HOP_BY_HOP and at != 40:
            raise Ended("drop_v6_unknown_next_header", self._error6(packet, 4, 1, named_at))
        if kind == ROUTING:
            if packet[at + 3]:
                raise Ended("drop_v6_bad_extension", self._error6(packet, 4, 0, at + 2))
            return end
        option = at + 2
        while option < end:
            if packet[option] == 0:
                option += 1
                continue
            if option + 2 > end or option + 2 + packet[option + 1] > end:
                raise Ended("drop_v6_malformed")
            if packet[option] not in (1, 4) and packet[option] >> 6:
                told = self._error6(packet, 4, 2, option) if packet[option] >> 7 else []
                raise Ended("drop_v6_bad_extension", told)
            option += 2 + packet[option + 1]
        return end

    def _from_softwire(self, packet: bytes, outer: bytes) -> None:
        src, dst = packet[12:16], packet[16:20]
        came = Softwire(outer[8:24], outer[24:40])
        if self._find(src, self._source_port(packet) if self._shared(src) else None) != came:
            told = self._error6(outer, 1, 5, 0) if self.options["icmpv6_generate_errors"] else []
            raise Ended("drop_source_validation", told)
        self._options4(packet)
        if bad_destination(dst) or (softwire_only(dst) and dst != AFTR):
            raise Ended("drop_v4_martian")
        tos = self._combined(packet[1], struct.unpack("!H", outer[:2])[0] >> 4 & 0xFF)
        if dst in (AFTR, OWN4):
            self._local(packet, came, tos)
        if dst in self.shapes and self.options["hairpin"] != "external":
            if self.options["hairpin"] == "drop":
                raise Ended("drop_hairpin_disabled")
            to = self._find(dst, self._steer(packet, True) if self._shared(dst) else None)
            if to is None:
                self._unbound(packet, came)
            else:
                self._into(packet, to, came, tos, "hairpin")
        self._to_internet(packet, came, tos)

    def _source_port(self, packet: bytes) -> int | None:
        """An unusable quote is no port: then the source is not valid (4.9, outbound)."""
        try:
            return self._steer(packet, False)
        except Ended as end:
            if end.way != "drop_icmp_bad_embedded":
                raise
            return None

    def _combined(self, inner: int, outer: int) -> int:
        if inner & 3 == 0 and outer & 3 == 3:
            raise Ended("drop_ecn_ce_on_not_ect")
        ecn = max(inner & 3, outer & 3, key=lambda e: ECN_SEVERITY[e]) if inner & 3 else 0
        return ((inner if self.options["dscp_mode"] == "pipe" else outer) & 0xFC) | ecn

    # ------------------------------------------------------------ on the way out
    def _into(self, packet: bytes, to: Softwire, via: Softwire | None, tos: int, edge: str) -> None:
        if packet[8] <= 1:
            raise Ended("drop_ttl_expired", self._error4(packet, 11, 0, 0, via))
        largest, room = path_mtu(self.options), self._room()
        if len(packet) > room and packet[6] & 0x40:
            raise Ended("drop_too_big_df", self._error4(packet, 3, 4, room, via))
        wrapped = self._wrap(hop(packet, tos=tos), to)
        if len(wrapped) <= largest:
            raise Ended(edge, [Expected("v6", sent("v6", wrapped)[1], "forwarded")])
        parts = fragments6(wrapped, largest, 0)
        raise Ended(edge, [Expected("v6", sent("v6", part)[1], "fragment-v6") for part in parts])

    def _room(self) -> int:
        return path_mtu(self.options) - (48 if self.options["encap_limit"] is not None else 40)

    def _to_internet(self, packet: bytes, via: Softwire, tos: int) -> None:
        if packet[8] <= 1:
            raise Ended("drop_ttl_expired", self._error4(packet, 11, 0, 0, via))
        mtu = self.options["v4_mtu"]
        if len(packet) > mtu and packet[6] & 0x40:
            raise Ended("drop_too_big_df", self._error4(packet, 3, 4, mtu, via))
        out = hop(packet, tos=tos)
        if len(out) <= mtu:
            raise Ended("decap", [Expected("v4", sent("v4", out)[1], "forwarded")])
        raise Ended("decap", [Expected("v4", sent("v4", part)[1], "fragment-v4") for part in fragments4(out, mtu)])

    def _wrap(self, packet: bytes, to: Softwire) -> bytes:
        o, tc = self.options, packet[1]
        if o["dscp_mode"] == "pipe":
            tc = o["pipe_dscp"] << 2 | tc & 3
        if o["ecn_mode"] == "compatibility":
            tc &= 0xFC
        limit = o["encap_limit"]
        ext, first = (b"", IPIP) if limit is None else (bytes([IPIP, 0, 4, 1, limit, 1, 1, 0]), DEST_OPTIONS)
        src, dst = str(IPv6Address(to.br)), str(IPv6Address(to.b4))
        return ipv6(src, dst, first, ext + packet, tc=tc, hop_limit=o["outer_hop_limit"])

    def _sent4(self, packet: bytes, via: Softwire | None, rule: str) -> Expected:
        side, frame = sent("v6", self._wrap(packet, via)) if via else sent("v4", packet)
        return Expected(side, frame, rule)

    def _error4(self, about: bytes, kind: int, code: int, mtu: int, via: Softwire | None) -> list[Expected]:
        """Nothing about the never-list of RFC 1812 section 4.3.2.7."""
        source = about[12:16]
        if bad_source(source) or softwire_only(source) or about[16] >= 224:
            return []
        if is_icmp_error(about) or number(about, 6) & 0x1FFF or (about[9] == ICMP and not payload4(about)):
            return []
        tos = self.options["icmpv4_error_tos"]
        error = own_error4(about, kind, code, src=TUNNEL4 if via else ROUTER4, mtu=mtu, tos=tos)
        return [self._sent4(error, via, "icmpv4-error")]

    def _error6(self, about: bytes, kind: int, code: int, value: int) -> list[Expected]:
        return [Expected("v6", sent("v6", own_error6(about, kind, code, value))[1], "icmpv6-error")]

    # ------------------------------------------------------------ ICMPv6 (4.10)
    def _icmp6(self, packet: bytes, at: int) -> None:
        message, src, dst = packet[at:], packet[8:24], packet[24:40]
        if len(message) < 8 or checksum(pseudo_header(src, dst, len(message), ICMP6) + message):
            raise Ended("drop_icmp6_bad_checksum")
        if message[0] == 128:
            asker, asked = str(IPv6Address(src)), str(IPv6Address(dst))
            reply = ipv6(asked, asker, ICMP6, icmp6(asked, asker, 129, 0, message[4:8], message[8:]))
            raise Ended("answered_echo_v6", [Expected("v6", sent("v6", reply)[1], "icmp-echo-reply")])
        if message[0] == 2:
            raise NotModelled
        relayed = message[0] == 1 or message[:2] == b"\x03\x00"
        limit_at = struct.unpack("!I", message[4:8])[0] if message[:2] == b"\x04\x00" else None
        inner = self._quoted(message[8:], limit_at) if relayed or limit_at is not None else None
        if inner is None:
            raise Ended("drop_icmp6_ignored")
        raise Ended("consumed_icmp6_error", self._relay(inner))

    def _quoted(self, quote: bytes, limit_at: int | None) -> bytes | None:
        """The inner packet of a quoted tunnel packet of ours; `limit_at` has to be a zero encapsulation limit in it."""
        if len(quote) < 60 or quote[8:24] not in self.br_addresses:
            return None
        at, following, limits = 40, quote[6], []
        while following == DEST_OPTIONS and at + 8 <= len(quote):
            limits += [at + 4] if quote[at + 2 : at + 4] == b"\4\1" else []
            following, at = quote[at], at + 8 * (quote[at + 1] + 1)
        if following != IPIP or (limit_at is not None and (limit_at not in limits or quote[limit_at])):
            return None
        inner = quote[at:]
        if len(inner) < 20 or inner[0] >> 4 != 4 or len(inner) < header4(inner) or header4(inner) < 20:
            return None
        if checksum(inner[: header4(inner)]) or is_icmp_error(inner):
            return None
        to = self._find(inner[16:20], self._plain_port(inner, 2))
        return inner if to == Softwire(quote[24:40], quote[8:24]) else None

    def _plain_port(self, packet: bytes, at: int) -> int | None:
        body = payload4(packet)
        if packet[9] in PORT_PROTOCOLS and len(body) >= at + 2:
            return number(body, at)
        return number(body, 4) if packet[9] == ICMP and len(body) >= 6 and body[0] in (0, 8) else None

    def _relay(self, inner: bytes) -> list[Expected]:
        src = inner[12:16]
        if src not in self.shapes:
            return self._error4(inner, 3, 1, 0, None)
        via = self._find(src, self._plain_port(inner, 0))
        return self._error4(inner, 3, 1, 0, via) if via else []
