"""How a server speaks over TCP 67: DHCPv4 bulk and active leasequery (RFC 6926, 7724)."""

from __future__ import annotations

from collections.abc import Iterator

from pylwaftr.responder import encode, query
from pylwaftr.responder.encode import Leases
from pylwaftr.responder.query import Bad, Query

_BULK, _DONE, _ACTIVE, _STATUS, _TLS = 14, 15, 16, 17, 18  # of option 53
_KINDS = {_BULK: query.LEASEQUERY, _ACTIVE: query.ACTIVELEASEQUERY, _TLS: query.STARTTLS}
_TYPE, _CLIENT_ID, _AGENT, _STATUS_CODE, _BASE_TIME, _START, _END, _VPN = 53, 61, 82, 151, 152, 154, 155, 221
_OURS = b"\xfe", b"\xff"  # beginnings of option 221: all VPNs (RFC 6926), none (RFC 6607)
_COOKIE = b"\x63\x82\x53\x63"
_UNSPEC_FAIL, _CONNECTION_ACTIVE = 1, 6
# The number space of DHCPv4 is another one; what it has no word for is not allowed.
_CODES = {
    encode.UNSPEC_FAIL: _UNSPEC_FAIL,
    encode.QUERY_TERMINATED: 2,
    encode.MALFORMED_QUERY: 3,
    encode.NOT_ALLOWED: 4,
    encode.DATA_MISSING: 5,
    encode.CATCH_UP_COMPLETE: 7,
    encode.TLS_REFUSED: 8,
}


class Native:
    """Of one connection."""

    def __init__(self, server_id: bytes) -> None:
        self._server_id = server_id
        self._met: int | None = None  # the query whose first answer was sent

    def parse(self, message: bytes) -> Query:
        if len(message) < 240 or message[0] != 1 or message[236:240] != _COOKIE:
            raise Bad("no DHCPv4 request")
        xid = int.from_bytes(message[4:8])
        try:
            options = dict(_options(message[240:]))
            kind = _KINDS.get(options.get(_TYPE, b"\0")[0], 0)
            for code in (_START, _END):
                if code in options and len(options[code]) != 4:
                    raise ValueError(f"option {code} has {len(options[code])} octets instead of 4")
        except (ValueError, IndexError) as fault:
            raise Bad(str(fault), Query(query.LEASEQUERY, xid)) from None
        start, end = (int.from_bytes(options[code]) if code in options else None for code in (_START, _END))
        client_id = options.get(_CLIENT_ID, b"")
        about = None
        if kind == query.LEASEQUERY:
            about = query.BY_CLIENT_ID if client_id else query.BY_LINK
            # By hardware address (RFC 6926 section 7.2), and by what a relay agent has said.
            about = query.BY_OTHER if message[2] or any(message[28:44]) or _AGENT in options else about
            # A VPN is another address space, of which there are no leases here.
            about = about if options.get(_VPN, b"\xff")[:1] in _OURS else query.BY_OTHER
        return Query(kind, xid, about=about, client_id=client_id, start=start, end=end)

    def unable(self, asked: Query) -> str:
        return ""

    def tls(self, asked: Query, refused: bool) -> bytes:
        return self._message(_TLS, asked, None, encode.TLS_REFUSED if refused else None)

    def refused(self, asked: Query, code: int, text: str) -> bytes:
        if code == encode.NOT_SUPPORTED:
            return b""  # RFC 7724 section 8.1.1: the connection is closed
        kind = _STATUS if asked.kind == query.ACTIVELEASEQUERY else _DONE
        return self._message(kind, asked, None, code, text)

    def opened(self, asked: Query, unix: int, code: int | None, text: str) -> bytes:
        """There is no reply. Without a start time to catch up from, the stream is said to be alive at once: the client
        need not wait for the first change to know that, and it has a base-time to come back with."""
        if code is not None:
            return self._message(_STATUS, asked, unix, code, text)
        return b"" if asked.start is not None else self.alive(asked, unix)

    def begun(self, asked: Query, unix: int, leases: Leases) -> bytes:
        return self.leases(asked, unix, leases) if len(leases) else self.done(asked)

    def leases(self, asked: Query, unix: int, leases: Leases) -> bytes:
        """The server identifier is in the first answer to a query, and only there (RFC 6926 section 7.3)."""
        first = b""
        if len(leases) and self._met != asked.xid:
            self._met = asked.xid
            first = encode.data(leases[:1], asked.xid, unix, encode.NATIVE_FIRST, self._server_id)
            leases = leases[1:]
        return first + encode.data(leases, asked.xid, unix, encode.NATIVE)

    def told(self, asked: Query, unix: int, code: int) -> bytes:
        return self._message(_STATUS, asked, unix, code)

    def alive(self, asked: Query, unix: int) -> bytes:
        return self._message(_STATUS, asked, unix, _CONNECTION_ACTIVE, own=True)

    def done(self, asked: Query) -> bytes:
        return self._message(_DONE, asked, None, None)

    def terminated(self, asked: Query, unix: int) -> bytes:
        return self._message(_STATUS, asked, unix, encode.QUERY_TERMINATED)

    def _message(
        self, kind: int, asked: Query, unix: int | None, code: int | None, text: str = "", own: bool = False
    ) -> bytes:
        """`own`: the code is one of DHCPv4's."""
        octets = b"\2" + bytes(3) + asked.xid.to_bytes(4) + bytes(228) + _COOKIE + bytes((_TYPE, 1, kind))
        if unix is not None:
            octets += bytes((_BASE_TIME, 4)) + unix.to_bytes(4)
        if code is not None:
            number = code if own else _CODES.get(code, _CODES[encode.NOT_ALLOWED])
            said = text.encode()[:254]
            octets += bytes((_STATUS_CODE, 1 + len(said), number)) + said
        octets += b"\xff"
        return len(octets).to_bytes(2) + octets


def _options(octets: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(octets) and octets[at] != 255:
        if octets[at] == 0:
            at += 1
            continue
        if at + 2 > len(octets) or at + 2 + octets[at + 1] > len(octets):
            raise ValueError(f"option {octets[at]} runs past the end")
        yield octets[at], octets[at + 2 : at + 2 + octets[at + 1]]
        at += 2 + octets[at + 1]
