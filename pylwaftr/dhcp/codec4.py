"""DHCPv4 messages (RFC 2131) as octets and as values, with the options of leasequery and of softwires (RFC 4388, 6926,
7724, 7618, 8539).

Decoding is strict on lengths: a message with any fault is a Malformed that names it. Options that this file does not
know are kept as they came.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from pylwaftr.dhcp.s46 import PortParams

MIN_OCTETS = 240  # the fixed part and the cookie
MAX_OPTIONS = 1000
COOKIE = b"\x63\x82\x53\x63"
NOWHERE = IPv4Address(0)
INFINITE = 0xFFFFFFFF  # of lease-time (RFC 2131 section 3.3)
_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_PORTPARAMS = struct.Struct("!BBH")
PAD, END = 0, 255
_FILE, _SNAME = 1, 2  # bits of option 52: which fields hold options as well


class Malformed(ValueError):
    """The message cannot be used. `reason` is a stable name for counters, the text is for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Type(IntEnum):
    """Values of option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8
    LEASEQUERY = 10
    LEASEUNASSIGNED = 11
    LEASEUNKNOWN = 12
    LEASEACTIVE = 13
    BULKLEASEQUERY = 14
    LEASEQUERYDONE = 15
    ACTIVELEASEQUERY = 16
    LEASEQUERYSTATUS = 17
    TLS = 18


class Code(IntEnum):
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETER_REQUEST_LIST = 55
    CLIENT_ID = 61
    LAST_TRANSACTION = 91
    ASSOCIATED_IP = 92
    S46_SADDR = 109
    STATUS_CODE = 151
    BASE_TIME = 152
    START_OF_STATE = 153
    QUERY_START = 154
    QUERY_END = 155
    DHCP_STATE = 156
    DATA_SOURCE = 157
    PORTPARAMS = 159


class Status(IntEnum):
    """Values of option 151; those of DHCPv6 are others."""

    SUCCESS = 0
    UNSPEC_FAIL = 1
    QUERY_TERMINATED = 2
    MALFORMED_QUERY = 3
    NOT_ALLOWED = 4
    DATA_MISSING = 5
    CONNECTION_ACTIVE = 6
    CATCH_UP_COMPLETE = 7
    TLS_CONNECTION_REFUSED = 8


# A server may leave out what it was not asked for.
REQUESTED = (51, 54, 61, 91, 109, 152, 153, 156, 157, 159)

_LENGTHS = {
    Code.MESSAGE_TYPE: 1,
    Code.DHCP_STATE: 1,
    Code.DATA_SOURCE: 1,
    Code.S46_SADDR: 16,
    Code.PORTPARAMS: 4,
} | dict.fromkeys(
    (
        Code.LEASE_TIME,
        Code.SERVER_ID,
        Code.LAST_TRANSACTION,
        Code.BASE_TIME,
        Code.START_OF_STATE,
        Code.QUERY_START,
        Code.QUERY_END,
    ),
    4,
)


@dataclass(frozen=True, slots=True)
class Message4:
    """`options`: code and octets in their order, the parts of a split one joined (RFC 3396)."""

    op: int  # 1 = to a server, 2 = from one
    xid: int
    options: tuple[tuple[int, bytes], ...]
    ciaddr: IPv4Address = NOWHERE
    yiaddr: IPv4Address = NOWHERE
    htype: int = 0
    hlen: int = 0
    hops: int = 0
    secs: int = 0
    flags: int = 0
    siaddr: IPv4Address = NOWHERE
    giaddr: IPv4Address = NOWHERE
    chaddr: bytes = bytes(16)
    sname: bytes = bytes(64)
    file: bytes = bytes(128)

    def get(self, code: int) -> bytes | None:
        return next((data for found, data in self.options if found == code), None)

    def number(self, code: int) -> int | None:
        data = self.get(code)
        return None if data is None else int.from_bytes(data)

    @property
    def type(self) -> int:
        """Option 53; `decode` has seen to it that there is one."""
        return self.number(Code.MESSAGE_TYPE) or 0

    @property
    def status(self) -> tuple[int, bytes] | None:
        data = self.get(Code.STATUS_CODE)
        return None if data is None else (data[0], data[1:])

    @property
    def b4(self) -> IPv6Address | None:
        data = self.get(Code.S46_SADDR)
        return None if data is None else IPv6Address(data)

    @property
    def ports(self) -> PortParams | None:
        """Option 159. RFC 7618 section 9: the PSID is the leftmost bits of its field; the rest is not looked at."""
        data = self.get(Code.PORTPARAMS)
        return None if data is None else port_params(data)


def port_params(data: bytes) -> PortParams:
    offset, psid_len, field = _PORTPARAMS.unpack(data)
    if offset > 15 or psid_len > 16 or offset + psid_len > 16:
        raise Malformed("port_params", f"option 159 has offset {offset} and PSID-len {psid_len}; together 16 at most")
    return PortParams(offset, psid_len, field >> (16 - psid_len) if psid_len else 0)


def port_params_data(ports: PortParams) -> bytes:
    return _PORTPARAMS.pack(ports.offset, ports.psid_len, ports.psid << (16 - ports.psid_len) & 0xFFFF)


def decode(octets: bytes) -> Message4:
    if len(octets) < MIN_OCTETS:
        raise Malformed("short4", f"a DHCPv4 message has {MIN_OCTETS} octets at least; here are {len(octets)}")
    op, htype, hlen, hops, xid, secs, flags, ci, yi, si, gi, chaddr, sname, file, cookie = _FIXED.unpack_from(octets)
    if cookie != COOKIE:
        raise Malformed("cookie", f"the cookie of the DHCPv4 message is {cookie.hex()}")
    if op not in (1, 2):
        raise Malformed("op", f"op of the DHCPv4 message is {op}")
    if hlen > 16:
        raise Malformed("hlen", f"hlen of the DHCPv4 message is {hlen}; chaddr has 16 octets")
    options = _joined(octets[MIN_OCTETS:], file, sname)
    for code, data in options:
        _check(code, data)
    if not any(code == Code.MESSAGE_TYPE for code, _ in options):
        raise Malformed("no_type", "the DHCPv4 message has no option 53")
    return Message4(
        op=op,
        xid=xid,
        options=options,
        ciaddr=IPv4Address(ci),
        yiaddr=IPv4Address(yi),
        htype=htype,
        hlen=hlen,
        hops=hops,
        secs=secs,
        flags=flags,
        siaddr=IPv4Address(si),
        giaddr=IPv4Address(gi),
        chaddr=chaddr,
        sname=sname,
        file=file,
    )


def _check(code: int, data: bytes) -> None:
    length = _LENGTHS.get(code)  # type: ignore[call-overload]
    if length is not None and len(data) != length:
        raise Malformed("length4", f"DHCPv4 option {code} has {len(data)} octets instead of {length}")
    if (code == Code.STATUS_CODE and not data) or (code == Code.CLIENT_ID and len(data) < 2):
        raise Malformed("length4", f"DHCPv4 option {code} has {len(data)} octets, too few")
    if code == Code.PORTPARAMS:
        port_params(data)


def _joined(options: bytes, file: bytes, sname: bytes) -> tuple[tuple[int, bytes], ...]:
    """RFC 3396 section 5: first the options field, then file, then sname."""
    found: dict[int, list[bytes]] = {}
    _collect(options, found)
    overload = found.get(Code.OVERLOAD)
    if overload is not None:
        fields = int.from_bytes(b"".join(overload))
        if len(b"".join(overload)) != 1 or not 1 <= fields <= 3:
            raise Malformed("overload", f"option 52 is {b''.join(overload).hex() or 'empty'}; it goes from 01 to 03")
        for bit, field in ((_FILE, file), (_SNAME, sname)):
            if fields & bit:
                _collect(field, found)
    return tuple((code, b"".join(parts)) for code, parts in found.items())


def _collect(octets: bytes, found: dict[int, list[bytes]]) -> None:
    for count, (code, data) in enumerate(_options(octets)):
        if count >= MAX_OPTIONS:
            raise Malformed("too_many", f"the DHCPv4 message has more than {MAX_OPTIONS} options")
        found.setdefault(code, []).append(data)


def _options(octets: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(octets):
        code = octets[at]
        if code == END:
            return
        at += 1
        if code == PAD:
            continue
        length = octets[at] if at < len(octets) else 1
        if at + 1 + length > len(octets):
            raise Malformed("overrun4", f"DHCPv4 option {code} runs past the end of the message")
        yield code, octets[at + 1 : at + 1 + length]
        at += 1 + length


def encode(message: Message4) -> bytes:
    m = message
    addresses = [a.packed for a in (m.ciaddr, m.yiaddr, m.siaddr, m.giaddr)]
    head = _FIXED.pack(
        m.op, m.htype, m.hlen, m.hops, m.xid, m.secs, m.flags, *addresses, m.chaddr, m.sname, m.file, COOKIE
    )
    return head + b"".join(_option(code, data) for code, data in m.options) + bytes([END])


def _option(code: int, data: bytes) -> bytes:
    if len(data) > 255:
        raise ValueError(f"DHCPv4 option {code} would have {len(data)} octets; what we send is never split")
    return bytes([code, len(data)]) + data


def query(kind: Type, xid: int, start: int | None = None, end: int | None = None) -> Message4:
    """A bulk or active leasequery (RFC 6926 section 7.2, 7724 section 7.3) for all leases. Times since 1970."""
    options = [(int(Code.MESSAGE_TYPE), bytes([kind])), (int(Code.PARAMETER_REQUEST_LIST), bytes(REQUESTED))]
    options += [
        (int(code), when.to_bytes(4))
        for code, when in ((Code.QUERY_START, start), (Code.QUERY_END, end))
        if when is not None
    ]
    return Message4(1, xid, tuple(options))


def tls_request(xid: int) -> Message4:
    return Message4(1, xid, ((int(Code.MESSAGE_TYPE), bytes([Type.TLS])),))
