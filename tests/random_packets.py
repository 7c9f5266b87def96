"""Random traffic for the property tests: valid packets of every kind, and structured damage to them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from tests.frames import (
    DCCP,
    DEST_OPTIONS,
    DF,
    ENCAP_LIMIT_4,
    ESP,
    FRAGMENT,
    GRE,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    IPIP,
    MF,
    ROUTING,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    V4_PEER,
    V6_PEER,
    Seen,
    echo4,
    edit,
    error4,
    ethernet,
    fragment_header,
    fragments6,
    icmp4,
    icmp6,
    ip6,
    ipv4,
    ipv6,
    payload4,
    tcp,
    udp,
)
from tests.softwires import GATEWAY4, GATEWAY6, ROUTER4, ROUTER6, TUNNEL4, arp_frame, mld_query, solicitation
from tests.vector_config import Binding

INTERNET = ("198.51.100.10", "198.51.100.77", "192.0.2.254", "8.8.8.8")
ODD_ADDRESSES = (
    "127.0.0.1",
    "224.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "192.0.0.1",
    "192.0.0.2",
    "10.0.0.1",
    "192.0.2.1",
)
INSIDE_ROUTER = "2001:db8:ee::9"
CHAINS: tuple[tuple[bytes, int], ...] = (
    (b"", IPIP),
    (ENCAP_LIMIT_4, DEST_OPTIONS),
    (bytes([DEST_OPTIONS, 0, 1, 4, 0, 0, 0, 0]) + ENCAP_LIMIT_4, HOP_BY_HOP),
    (bytes([4, 0, 0, 0, 0, 0, 0, 0]), ROUTING),
    (bytes([4, 0, 0x5E, 4, 0, 0, 0, 0]), DEST_OPTIONS),
    (bytes([4, 0, 0x9E, 4, 0, 0, 0, 0]), DEST_OPTIONS),
    (bytes([4, 2, 0, 1]) + bytes(20), ROUTING),
    (bytes([4, 119, 1, 255]) + bytes(956), DEST_OPTIONS),
)


@dataclass
class Traffic:
    """`frame()` gives (side, frame). With `stateful` fragments and changes of path MTUs come too."""

    random: Random
    rows: Sequence[Binding]
    stateful: bool = True
    neighbours: bool = True  # ARP and neighbour discovery, the next hops' included
    largest: int = 1600
    trains: list[list[bytes]] = field(
        default_factory=list
    )  # all fragments of an outer packet, some of one identification

    def frame(self) -> Seen:
        kind = self.random.random()
        if kind < 0.40:
            return "v4", ethernet("v4", self._from_internet())
        if kind < 0.85:
            return "v6", ethernet("v6", self._from_softwire())
        if kind < 0.93:
            return "v6", ethernet("v6", self._tunnel_error())
        if kind < 0.96:
            return "v6", ethernet("v6", self._echo6())
        return self._neighbour() if self.neighbours else ("v4", ethernet("v4", self._from_internet()))

    # ------------------------------------------------------------ IPv4 packets
    def _port(self, row: Binding) -> int:
        """Mostly one of the set, sometimes its neighbour or anything."""
        r = self.random
        if r.random() < 0.2:
            return r.randrange(65536)
        rest = 16 - row.psid_offset - row.psid_len
        if row.psid_len == 0:
            return r.randrange(65536)
        block = r.randrange(1 << row.psid_offset) if row.psid_offset else 0
        port = block << (16 - row.psid_offset) | row.psid << rest | r.randrange(1 << rest)
        return min(65535, max(0, port + r.choice((0, 0, 0, 0, 0, 1, -1))))

    def _address(self, row: Binding) -> str:
        return row.ipv4 if self.random.random() < 0.93 else self.random.choice(ODD_ADDRESSES)

    def _outside(self) -> str:
        return self.random.choice(INTERNET if self.random.random() < 0.93 else ODD_ADDRESSES)

    def _header(self) -> dict[str, int]:
        r = self.random
        flags = r.choice((0, 0, DF))
        offset = 0
        if self.stateful and r.random() < 0.15:
            flags, offset = r.choice(((MF, 0), (MF, 8), (0, 16), (MF, 1400), (0, 1480)))
        return {
            "ttl": r.choice((64, 64, 64, 255, 2, 1, 0)),
            "tos": r.choice((0, 0, r.randrange(256))),
            "ident": r.randrange(8),
            "flags": flags,
            "offset": offset,
        }

    def _packet(self, src: str, dst: str, sport: int, dport: int) -> bytes:
        r, kind = self.random, self.random.random()
        body = bytes(r.choice((0, 1, 8, 64, r.randrange(self.largest))))
        options = r.choice((b"",) * 12 + (b"\1\1\1\0", b"\x94\x04\0\0", b"\x83\x07\x04" + bytes(5), b"\xde\5\0\0"))
        if kind < 0.45:
            protocol, payload = UDP, struct.pack("!HHHH", sport, dport, 8 + len(body), 0) + body
        elif kind < 0.60:
            flags = r.choice((2, 18, 16, 4))
            mss = r.choice((b"", struct.pack("!BBH", 2, 4, r.choice((536, 1460, 9000))), b"\1\2\4\5\xb4\1\1\1"))
            protocol, payload = TCP, payload4(tcp(src, dst, sport, dport, flags=flags, options=mss, data=body))
        elif kind < 0.68:
            protocol = r.choice((SCTP, DCCP, UDPLITE))
            payload = struct.pack("!HHI", sport, dport, 1) + body
        elif kind < 0.74:
            protocol, payload = r.choice((GRE, ESP, 41, 253)), struct.pack("!HHI", sport, dport, 1) + body
        elif kind < 0.86:
            return self._echo(src, dst, sport if r.random() < 0.5 else dport, len(body))
        elif kind < 0.95:
            return self._error(src, dst, sport, dport)
        else:
            message = icmp4(r.randrange(256), 0, struct.pack("!HH", sport, 1), body[:64])
            protocol, payload = ICMP, message[: r.choice((len(message), 7))]
        return ipv4(src, dst, protocol, payload, options=options, **self._header())

    def _echo(self, src: str, dst: str, identifier: int, size: int) -> bytes:
        reply = self.random.random() < 0.5
        return echo4(src, dst, identifier, reply=reply, size=size, **self._header())

    def _error(self, src: str, dst: str, sport: int, dport: int) -> bytes:
        """About a packet that dst:dport sent to src:sport."""
        r = self.random
        about = r.choice(
            (
                udp(dst, src, dport, sport, size=20),
                tcp(dst, src, dport, sport),
                echo4(dst, src, dport),
                echo4(dst, src, sport, reply=True),
                ipv4(dst, src, GRE, bytes(8)),
                udp(src, dst, sport, dport),
            )
        )
        kind = r.choice((3, 3, 11, 12, 5, 4))
        return error4(src, dst, kind, r.randrange(6), about[: r.choice((28, 28, len(about), 22, 19))])

    def _from_internet(self) -> bytes:
        row = self.random.choice(self.rows)
        return self._packet(self._outside(), self._address(row), 53, self._port(row))

    # ------------------------------------------------------------ outer packets
    def _from_softwire(self) -> bytes:
        r = self.random
        row, to = r.choice(self.rows), r.choice(self.rows)
        dst = self._address(to) if r.random() < 0.35 else self._outside()
        dport = self._port(to) if dst == to.ipv4 else 53
        inner = self._packet(self._address(row), dst, self._port(row), dport)
        inner += bytes(r.choice((0, 0, 0, 0, 3)))
        ext, first = CHAINS[0] if r.random() < 0.8 else r.choice(CHAINS)
        if r.random() < 0.02:
            inner = udp(row.ipv4, TUNNEL4, 5351, 5351, size=(18, 60, 1600)[len(inner) % 3])  # PCP
        if r.random() < 0.02:
            ext, first = b"", r.choice((59, 6, 17, 41, 50, 200))
        src = row.b4 if r.random() < 0.95 else r.choice((to.b4, "::", "ff02::1", "2001:db8:dead::1"))
        br = row.br if r.random() < 0.97 else r.choice((to.br, "2001:db8:cafe::1"))
        tc = r.choice((inner[1], inner[1], r.randrange(256)))
        packet = ipv6(src, br, first, ext + inner, tc=tc, hop_limit=r.choice((61, 0, 1)))
        if self.stateful and r.random() < 0.15:
            return self._a_fragment(packet)
        return packet

    def _a_fragment(self, packet: bytes) -> bytes:
        """A piece of one of few packets: they meet, fit, come twice, and overlap where an identification is reused."""
        r = self.random
        if len(self.trains) < 40:
            part = max(24, len(packet) // r.choice((2, 2, 3, 5)))
            pieces = fragments6(packet, 48 + part, r.randrange(12))
            if len(pieces) > 1 and r.random() < 0.3:
                pieces[-1] = edit(pieces[-1], 0, struct.pack("!H", 0x6000 | r.choice((0, 3)) << 4))
            self.trains.append(pieces)
        if r.random() < 0.05:
            start, more, data = r.choice(((65528, False, bytes(64)), (0, True, bytes(16)), (0, True, bytes(45))))
            return packet[:4] + struct.pack("!HB", 8 + len(data), FRAGMENT) + packet[7:40] + (
                fragment_header(IPIP, start, more, 99) + data
            )  # fmt: skip
        return r.choice(r.choice(self.trains))

    def _tunnel_error(self) -> bytes:
        r = self.random
        row = r.choice(self.rows)
        inner = self._packet(
            self._outside() if r.random() < 0.7 else r.choice(self.rows).ipv4, row.ipv4, 53, self._port(row)
        )
        ext, first = r.choice(CHAINS[:2])
        b4 = row.b4 if r.random() < 0.9 else r.choice(self.rows).b4
        quoted = ipv6(row.br, b4, first, ext + inner)[: r.choice((1232, 1232, 100, 60, 39))]
        kinds = [(1, 0), (1, 3), (3, 0), (3, 1), (4, 0), (4, 1), (1, 5)] + [(2, 0)] * self.stateful
        kind, code = r.choice(kinds)
        value = r.choice((1280, 1400, 1500, 1000)) if kind == 2 else r.choice((0, 44, 6))
        message = icmp6(INSIDE_ROUTER, row.br, kind, code, struct.pack("!I", value), quoted)
        return ipv6(INSIDE_ROUTER, row.br, ICMP6, message)

    def _echo6(self) -> bytes:
        r = self.random
        row = r.choice(self.rows)
        kind = r.choice((128, 128, 129, 200))
        body = bytes(r.randrange(64))
        return ipv6(row.b4, row.br, ICMP6, icmp6(row.b4, row.br, kind, 0, b"\0\7\0\1", body))

    def _neighbour(self) -> Seen:
        r = self.random
        target = r.choice((ROUTER6, "2001:db8:aa::1", "2001:db8:ffff::5"))
        if r.random() < 0.5:
            return "v6", solicitation(target, r.choice((GATEWAY6, "::")), to=r.choice((None, target)))
        if r.random() < 0.1:
            return "v6", mld_query(r.choice(("fe80::1", GATEWAY6)))
        if r.random() < 0.2:
            told = icmp6(GATEWAY6, ROUTER6, 136, 0, b"\x60\0\0\0", ip6(GATEWAY6) + b"\2\1" + V6_PEER)
            return "v6", ethernet("v6", ipv6(GATEWAY6, ROUTER6, ICMP6, told, hop_limit=255))
        asked = r.choice((ROUTER4, "203.0.113.1", "203.0.113.99", GATEWAY4))
        sender = r.choice((GATEWAY4, "192.0.2.77", "0.0.0.0", ROUTER4))
        return "v4", arp_frame(r.choice((1, 1, 2)), V4_PEER, sender, asked)


def damage(random: Random, frame: bytes) -> bytes:
    """One structured fault: wrong octets, cut, padded, another link header, a lying length."""
    if len(frame) < 20:
        return frame
    kind = random.randrange(8)
    if kind < 3:
        at = random.randrange(min(len(frame), 120))
        return edit(frame, at, bytes([random.choice((0, 1, 0xFF, random.randrange(256)))]))
    if kind == 3:
        return frame[: random.randrange(1, len(frame))]
    if kind == 4:
        return frame + bytes(random.randrange(1, 50))
    if kind == 5:
        return random.choice((b"\xff" * 6, b"\x33\x33\0\0\0\1", b"\x02\0\0\0\x99\x99")) + frame[6:]
    if kind == 6:
        at = random.choice((16, 18, 54 + 2))
        return (
            edit(frame, at, struct.pack("!H", random.choice((0, 19, 20, 39, 1500, 65535))))
            if len(frame) > at + 2
            else frame
        )
    return frame[:12] + struct.pack("!H", random.choice((0x0800, 0x86DD, 0x0806, 0x8100, 100))) + frame[14:]
