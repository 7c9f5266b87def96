"""How a server speaks over TCP 547: DHCPv6 (RFC 5460, 7653), with DHCPv4 messages or softwire containers inside."""

from __future__ import annotations

from pylwaftr.responder import encode, query
from pylwaftr.responder.encode import Leases
from pylwaftr.responder.query import Query


class Over6:
    """`br`: the BR address of softwire containers, which have to name one."""

    def __init__(self, duid: bytes, br: bytes = b"") -> None:
        self._duid, self._br = duid, br

    def parse(self, message: bytes) -> Query:
        return query.parse(message)

    def unable(self, asked: Query) -> str:
        """Why this query cannot be answered here."""
        return "no BR address is configured for OPTION_S46_CONT_LW" if asked.softwire and not self._br else ""

    def tls(self, asked: Query, refused: bool) -> bytes:
        said = encode.status(encode.TLS_REFUSED, "no TLS here") if refused else b""
        return encode.framed(encode.REPLY, asked.xid, said)

    def refused(self, asked: Query, code: int, text: str) -> bytes:
        head = encode.identities(self._duid, asked.client or b"\0\0\0")
        return encode.framed(encode.LEASEQUERY_REPLY, asked.xid, head + encode.status(code, text))

    def opened(self, asked: Query, unix: int, code: int | None, text: str) -> bytes:
        """An active query is accepted; `code`: what there is to say of its start time."""
        return self._reply(asked, unix, b"" if code is None else encode.status(code, text))

    def begun(self, asked: Query, unix: int, leases: Leases) -> bytes:
        """The first answer to a bulk query has the first lease; without any it is all there is to say."""
        if not len(leases):
            return self._reply(asked, unix, b"")
        way, sender = self._way(asked)
        first = encode.client_data(leases[:1], asked.xid, unix, way, sender)
        return self._reply(asked, unix, first) + self.leases(asked, unix, leases[1:])

    def _reply(self, asked: Query, unix: int, more: bytes) -> bytes:
        head = encode.identities(self._duid, asked.client or b"") + encode.base_time(unix)
        return encode.framed(encode.LEASEQUERY_REPLY, asked.xid, head + more)

    def leases(self, asked: Query, unix: int, leases: Leases) -> bytes:
        way, sender = self._way(asked)
        return encode.data(encode.in_softwires(leases) if asked.softwire else leases, asked.xid, unix, way, sender)

    def _way(self, asked: Query) -> tuple[int, bytes]:
        return (encode.SOFTWIRE, self._br) if asked.softwire else (encode.WRAPPED, b"")

    def told(self, asked: Query, unix: int, code: int) -> bytes:
        return encode.framed(encode.LEASEQUERY_DATA, asked.xid, encode.base_time(unix) + encode.status(code))

    def alive(self, asked: Query, unix: int) -> bytes:
        return encode.framed(encode.LEASEQUERY_DATA, asked.xid, encode.base_time(unix))

    def done(self, asked: Query) -> bytes:
        return encode.framed(encode.LEASEQUERY_DONE, asked.xid, b"")

    def terminated(self, asked: Query, unix: int) -> bytes:
        options = encode.status(encode.QUERY_TERMINATED) + encode.base_time(unix)
        return encode.framed(encode.LEASEQUERY_DONE, asked.xid, options)
