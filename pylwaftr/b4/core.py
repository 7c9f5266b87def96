"""The softwire end of a lwB4, sans-IO: packets and times in; packets, drops, events and PCP messages out.

Two ways lead through it. `encapsulate` and `decapsulate` work in a buffer that the caller reuses and take the common
packet, which needs nothing but its header: no object is made for it. What they refuse (0) goes through `from_lan` and
`from_tunnel`, which know every case: errors, fragments, drops by name.

NAPT and TTL are the kernel's, whose forwarding ends at the TUN device; without a kernel a `Napt` does them.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from . import inner_udp
from . import packet as pk
from .inner_udp import Datagram
from .napt import Napt
from .softwire import Softwire
from .tunnel_error import QuotedPacket, ipv4_error_for, quoted_packet

OUTER = 40  # octets of the IPv6 header; the buffers of encapsulate have as much room in front of the packet
IPV4_IN_IPV6, FRAGMENT = 4, 44
MIN_MTU = 1280
PMTU_LIFETIME_S = 600.0  # RFC 8201 section 4: a larger size is tried again after ten minutes
WELL_KNOWN_B4, WELL_KNOWN_AFTR = bytes([192, 0, 0, 2]), bytes([192, 0, 0, 1])  # RFC 6333 section 5.7
ALL_HOSTS = bytes([224, 0, 0, 1])  # PCP announcements (RFC 6887 section 14.1.3)
BINDING_LOST = "binding-lost"


def _combined_ecn(inner: int, outer: int) -> int | None:
    """RFC 6040 section 4.2; None: the packet is dropped."""
    if inner == 0:
        return None if outer == 3 else 0
    return max(inner, outer, key=(0, 2, 1, 3).index)  # severity: Not-ECT, ECT(0), ECT(1), CE


ECN = tuple(tuple(_combined_ecn(inner, outer) for outer in range(4)) for inner in range(4))


@dataclass(frozen=True, slots=True)
class Options:
    mtu: int = 1500  # of the path towards the lwAFTR
    hop_limit: int = 64
    error_source: bytes = WELL_KNOWN_B4  # of ICMPv4 errors towards the LAN
    prohibited: bool = False  # ICMPv4 3/13 for a port that is not ours; fails the lwAFTR's source validation
    pcp_servers: frozenset[bytes] = frozenset({WELL_KNOWN_AFTR})  # whose messages are for the PCP client
    first_identification: int = 1  # of outer fragments; not predictable if the caller draws it (RFC 7739)


@dataclass(slots=True)
class Outcome:
    """What one packet led to: IPv6 packets for the tunnel, IPv4 packets for the LAN, an event, why it was dropped."""

    wan: list[bytes] = field(default_factory=list)
    lan: list[bytes] = field(default_factory=list)
    event: str | None = None
    drop: str | None = None
    message: Datagram | None = None  # for the PCP client


class B4:
    def __init__(self, softwire: Softwire, options: Options | None = None, napt: Napt | None = None) -> None:
        self.options = options or Options()
        self.counters: Counter[str] = Counter()
        self._napt = napt
        self._path_mtu, self._lowered_at = self.options.mtu, 0.0
        self._identification = self.options.first_identification
        self._ports = bytes(1 if p in pk.WITH_PORTS else 0 for p in range(256))
        self.use(softwire)

    def use(self, softwire: Softwire) -> None:
        """From now on; the path MTU stays what it was."""
        self.aftr, self._source = softwire.aftr.packed, softwire.source.packed
        # The empty one is no packet's address.
        self._ipv4 = softwire.ipv4.packed if softwire.ipv4 is not None else b""
        self._member = softwire.ports.members()
        self._whole = softwire.ports.whole
        self._header = self._outer(0, IPV4_IN_IPV6, 0)

    def move(self, source: IPv6Address) -> None:
        """The tunnel's near end is another address; all else stays as it is."""
        self._source = source.packed
        self._header = self._outer(0, IPV4_IN_IPV6, 0)

    @property
    def path_mtu(self) -> int:
        return self._path_mtu

    # the common packet, in place

    def encapsulate(self, buffer: bytearray, end: int) -> int:
        """The IPv4 packet at buffer[40:end] gets its outer header in front: the end, or 0 for the long way."""
        if end > self._path_mtu or buffer[OUTER + 12 : OUTER + 16] != self._ipv4 or buffer[OUTER] >> 4 != 4:
            return 0
        buffer[:OUTER] = self._header
        tos, length = buffer[OUTER + 1], end - OUTER
        buffer[0], buffer[1] = 0x60 | (tos >> 4), (tos & 15) << 4
        buffer[4], buffer[5] = length >> 8, length & 0xFF
        return end

    def decapsulate(self, buffer: bytearray, length: int, traffic_class: int) -> int:
        """The tunnel's payload at buffer[:length] is ready for the LAN: its length, or 0 for the long way.

        The caller saw to it that the outer addresses are those of the softwire. Only packets without options and
        with a port are common here.
        """
        if (
            length < 24
            or buffer[0] != 0x45
            or buffer[1] != traffic_class
            or buffer[16:20] != self._ipv4
            or buffer[6] & 0x3F
            or buffer[7]
            or not self._ports[buffer[9]]
            or not self._member[(buffer[22] << 8) | buffer[23]]
        ):
            return 0
        total = (buffer[2] << 8) | buffer[3]
        return total if 28 <= total <= length else 0

    # every packet

    def request(self, port: int, server: bytes, server_port: int, payload: bytes) -> bytes:
        """A PCP request of our own for the tunnel, never through NAPT: who asks has no binding."""
        packet = inner_udp.write(WELL_KNOWN_B4, port, server, server_port, payload)
        return self._outer(0, IPV4_IN_IPV6, len(packet)) + packet

    def from_lan(self, packet: bytes) -> Outcome:
        """An IPv4 packet on its way to the internet."""
        if not pk.is_whole_ipv4(packet):
            return self._dropped("malformed")
        packet = packet[: (packet[2] << 8) | packet[3]]
        sent = self._napt.outbound(packet) if self._napt else packet
        if sent is None or sent[12:16] != self._ipv4:
            return self._dropped("untranslated-source")
        if len(sent) + OUTER <= self._path_mtu:
            return Outcome(wan=[self._outer(sent[1], IPV4_IN_IPV6, len(sent)) + sent])
        if sent[6] & 0x40:
            error = pk.icmp4_error(self.options.error_source, packet, 3, 4, self._path_mtu - OUTER)
            return self._dropped("too-big-df", lan=[error] if error else [])
        return Outcome(wan=self._fragments(sent))

    def from_wan(self, packet: bytes, now: float = 0.0) -> Outcome:
        """A whole IPv6 packet; extension headers and fragments are the work of the kernel in front."""
        if len(packet) < OUTER or packet[0] >> 4 != 6 or packet[24:40] != self._source:
            return self._dropped("not-for-me")
        length = (packet[4] << 8) | packet[5]
        payload = packet[OUTER : OUTER + length]
        if len(payload) < length:
            return self._dropped("malformed")
        source, traffic_class = packet[8:24], ((packet[0] & 15) << 4) | packet[1] >> 4
        if packet[6] == pk.ICMP6:
            if not pk.icmp6_is_valid(source, self._source, payload):
                return self._dropped("malformed")
            return self.from_icmp6(source, payload, now)
        if packet[6] != IPV4_IN_IPV6:
            return self._dropped("not-a-softwire-packet")
        return self.from_tunnel(source, traffic_class, payload)

    def from_tunnel(self, source: bytes, traffic_class: int, packet: bytes) -> Outcome:
        """What an IPv6 packet with next header 4 carried."""
        if source != self.aftr:
            return self._dropped("not-my-lwaftr")
        if not pk.is_whole_ipv4(packet):
            return self._dropped("malformed")
        packet = packet[: (packet[2] << 8) | packet[3]]
        ecn = ECN[packet[1] & 3][traffic_class & 3]
        if ecn is None:
            return self._dropped("ce-on-not-ect")
        tos = (traffic_class & 0xFC) | ecn
        if tos != packet[1]:
            check = pk.adjust((packet[10] << 8) | packet[11], packet[1], tos)
            packet = packet[:1] + bytes([tos]) + packet[2:10] + struct.pack("!H", check) + packet[12:]
        if packet[12:16] in self.options.pcp_servers and packet[16:20] in (WELL_KNOWN_B4, ALL_HOSTS):
            message = inner_udp.read(packet)
            if message is not None:
                return Outcome(message=message)
        if not self._is_mine(packet):
            error = pk.icmp4_error(self._ipv4, packet, 3, 13) if self.options.prohibited and self._ipv4 else None
            tunnelled = [self._outer(error[1], IPV4_IN_IPV6, len(error)) + error] if error else []
            return self._dropped("not-my-port", wan=tunnelled)
        return self._to_lan(packet)

    def from_icmp6(self, source: bytes, message: bytes, now: float) -> Outcome:
        """An ICMPv6 error about the tunnel, its checksum known to be right (RFC 2473 section 8)."""
        unbound = message[:2] == b"\x01\x05"
        if unbound and source != self.aftr:
            return self._dropped("not-my-lwaftr")
        quoted = quoted_packet(message, self._source, self.aftr)
        if quoted is None:
            return self._dropped("icmp6-not-about-my-tunnel")
        if unbound:
            return Outcome(event=BINDING_LOST)
        if message[0] == 2:
            self.lower_path_mtu(quoted.mtu, now)
        return self._relayed(quoted)

    def lower_path_mtu(self, mtu: int, now: float) -> None:
        """Never below 1280, and never upwards: an error may not raise it (RFC 8201 section 4)."""
        if MIN_MTU <= mtu < self._path_mtu:
            self._path_mtu, self._lowered_at = mtu, now
            self.counters["path-mtu-lowered"] += 1

    def tick(self, now: float) -> None:
        """Time passes: an old path MTU estimate is given up."""
        if self._path_mtu < self.options.mtu and now - self._lowered_at >= PMTU_LIFETIME_S:
            self._path_mtu = self.options.mtu

    def _relayed(self, quoted: QuotedPacket) -> Outcome:
        error = ipv4_error_for(quoted, self.options.error_source, OUTER)
        if error is None or quoted.packet[12:16] != self._ipv4:
            return self._dropped("icmp6-not-relayed")
        return self._to_lan(error)

    def _to_lan(self, packet: bytes) -> Outcome:
        inside = self._napt.inbound(packet) if self._napt else packet
        return self._dropped("no-mapping") if inside is None else Outcome(lan=[inside])

    def _is_mine(self, packet: bytes) -> bool:
        """Address, and port or echo identifier. Of fragments the first decides: without it none is reassembled."""
        if packet[16:20] != self._ipv4:
            return False
        if self._whole or pk.fragment_offset(packet):
            return True
        body = packet[(packet[0] & 15) * 4 :]
        if packet[9] == pk.ICMP and len(body) >= 8 and body[0] in pk.STEERED_ERRORS:
            return self._quotes_mine(body[8:])
        if packet[9] in pk.WITH_PORTS:
            at = 2
        elif packet[9] == pk.ICMP and body[:1] in (b"\x00", b"\x08"):
            at = 4
        else:
            return False
        return len(body) >= at + 2 and self._member[(body[at] << 8) | body[at + 1]] == 1

    def _quotes_mine(self, quoted: bytes) -> bool:
        """The packet quoted in an ICMPv4 error went out from here: its source is ours."""
        start = (quoted[0] & 15) * 4 if quoted else 0
        if start < 20 or len(quoted) < start + 8 or quoted[12:16] != self._ipv4:
            return False
        at = start + 4 if quoted[9] == pk.ICMP else start
        return self._member[(quoted[at] << 8) | quoted[at + 1]] == 1

    def _outer(self, traffic_class: int, next_header: int, length: int) -> bytes:
        head = struct.pack("!IHBB", 0x60000000 | traffic_class << 20, length, next_header, self.options.hop_limit)
        return head + self._source + self.aftr

    def _fragments(self, packet: bytes) -> list[bytes]:
        """RFC 8200 section 4.5: the whole tunnel packet is cut, the inner one stays whole (RFC 6333 section 5.3)."""
        room = (self._path_mtu - OUTER - 8) & ~7
        self._identification = (self._identification + 1) & 0xFFFFFFFF
        made = []
        for at in range(0, len(packet), room):
            piece = packet[at : at + room]
            more = 1 if at + room < len(packet) else 0
            head = struct.pack("!BBHI", IPV4_IN_IPV6, 0, at | more, self._identification)
            made.append(self._outer(packet[1], FRAGMENT, len(piece) + 8) + head + piece)
        self.counters["fragmented"] += 1
        return made

    def _dropped(self, why: str, wan: list[bytes] | None = None, lan: list[bytes] | None = None) -> Outcome:
        self.counters["drop " + why] += 1
        return Outcome(wan=wan or [], lan=lan or [], drop=why)
