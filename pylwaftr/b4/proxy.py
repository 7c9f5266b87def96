"""The lwB4's PCP server for its LAN: mappings out of its own port set, without asking the lwAFTR for each. No I/O.

It differs from the proxy of RFC 7648: upstream goes one request for the whole set, so a host's request is answered at
once, for no longer than the set is ours. Unknown opcodes and options are refused; the lwAFTR has no use for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from pylwaftr.pcp import codec, timing
from pylwaftr.pcp.codec import AnnounceRequest, AnnounceResponse, MapRequest, MapResponse, PeerRequest, PeerResponse
from pylwaftr.pcp.numbers import (
    CLIENT_PORT,
    IPV4_MAPPED,
    NO_IPV4,
    NO_IPV6,
    Malformed,
    Result,
    Unanswerable,
    address16,
    error_lifetime,
)
from pylwaftr.pcp.options import Description, Filter, Option, PreferFailure

from .lan_mappings import NAMES, Key, LanMapping, LanMappings
from .nft import Forward
from .provisioning import Assignment
from .softwire import PortRanges

ALL_HOSTS = IPv4Address("224.0.0.1")

Host = tuple[IPv4Address, int]  # address and port


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    reserve: int = 256  # ports of the set for explicit mappings, which the NAPT leaves alone
    per_host: int = 64  # mappings
    max_filters: int = 8  # of a mapping
    min_lifetime: int = 120
    max_lifetime: int = 86400
    description: int = 128  # octets that are kept


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reply` goes out when the rules of `forwards()` are in force; if they cannot be, `revert` and send `failure`."""

    reply: bytes | None = None
    changed: bool = False
    failure: bytes | None = None
    before: tuple[tuple[Key, LanMapping | None], ...] = ()


class _Refused(Exception):
    def __init__(self, result: Result, lifetime: int | None = None) -> None:
        self.result = result
        self.lifetime = error_lifetime(result) if lifetime is None else lifetime


class Proxy:
    def __init__(self, options: ProxyOptions, now: float, static: tuple[Forward, ...] = ()) -> None:
        self._options = options
        self._mappings = LanMappings(static)
        self._assignment: Assignment | None = None
        self._last: Assignment | None = None
        self._epoch_began = now
        self._to_send: list[tuple[float, bytes, Host]] = []  # when, what, to whom; bytes 8-11 are the epoch
        self._before: list[tuple[Key, LanMapping | None]] = []

    # what the caller reads

    def forwards(self) -> tuple[Forward, ...]:
        return self._mappings.forwards()

    def napt_ports(self) -> PortRanges:
        """What is left for mappings that traffic makes."""
        return self._split()[0]

    def wants_more(self) -> bool:
        """Few ports are left: a further set would help."""
        return self._assignment is not None and len(self._mappings) * 8 >= self._mappings.size * 7

    def timer(self) -> float | None:
        times = [mapping.expires for mapping in self._mappings] + [when for when, _, _ in self._to_send]
        return min(times, default=None)

    # what the caller does

    def use(self, assignment: Assignment | None, now: float) -> bool:
        """The set that the lwB4 has from now on, or none. True if mappings moved."""
        self._assignment = assignment
        if assignment is None or assignment.is_same(self._last):
            return False
        first_time, self._last = self._last is None, assignment
        self._mappings.use(assignment.ports, self._split()[1])
        self.announce(now)
        if first_time:
            return False
        for before, mapping in self._mappings.move():
            result = Result.SUCCESS if mapping else Result.CANNOT_PROVIDE_EXTERNAL
            self._queue_update(result, mapping or before, now)
        return True

    def announce(self, now: float) -> None:
        """Tells the LAN that the epoch is another one: hosts ask again (RFC 6887 section 14.1.3)."""
        self._epoch_began = now
        message = codec.encode_response(AnnounceResponse(0))
        self._to_send = [(now + gap, message, (ALL_HOSTS, CLIENT_PORT)) for gap in timing.burst(timing.ANNOUNCE_COPIES)]

    def handle_timer(self, now: float) -> bool:
        """True if mappings ran out, so that the rules are to be made anew."""
        gone = [mapping.key for mapping in self._mappings if mapping.expires <= now]
        for key in gone:
            self._mappings.remove(key)
        return bool(gone)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Host]]:
        """What is due without a request, with the epoch of now."""
        due = [(message, to) for when, message, to in self._to_send if when <= now]
        self._to_send = [entry for entry in self._to_send if entry[0] > now]
        epoch = self._epoch(now).to_bytes(4)
        return [(message[:8] + epoch + message[12:], to) for message, to in due]

    def receive(self, datagram: bytes, source: Host, now: float) -> Outcome:
        self._before = []
        try:
            request = codec.decode_request(datagram, address16(source[0]), codec.LAN)
            response = self._handle(request, source, now)
        except Unanswerable:
            return Outcome()
        except Malformed as fault:
            return Outcome(self._error(datagram, fault.result, error_lifetime(fault.result), now))
        except _Refused as refused:
            return Outcome(self._error(datagram, refused.result, refused.lifetime, now))
        failure = self._error(datagram, Result.NO_RESOURCES, error_lifetime(Result.NO_RESOURCES), now)
        return Outcome(codec.encode_response(response), bool(self._before), failure, tuple(self._before))

    def revert(self, outcome: Outcome) -> None:
        for key, before in reversed(outcome.before):
            if before is None:
                self._mappings.remove(key)
            else:
                self._mappings.put(before)

    # requests

    def _handle(self, request: codec.Request, source: Host, now: float) -> codec.Response:
        if isinstance(request, AnnounceRequest):
            return AnnounceResponse(self._epoch(now))
        if isinstance(request, PeerRequest):
            return self._peer(request, source, now)
        return self._map(request, source, now) if request.lifetime else self._delete(request, source, now)

    def _map(self, request: MapRequest, source: Host, now: float) -> MapResponse:
        assignment = self._provisioned()
        if request.protocol not in NAMES or not request.internal_port:
            raise _Refused(Result.UNSUPP_PROTOCOL)  # not all ports of a protocol, not all protocols, or unknown
        static = self._mappings.static_at(source[0], request.protocol, request.internal_port)
        exactly = codec.option(request.options, PreferFailure) is not None
        key: Key = (source[0], request.protocol, request.internal_port, 0, b"")
        mapping = self._mappings.get(key)
        if mapping is not None and mapping.nonce != request.nonce:
            raise _Refused(Result.NOT_AUTHORIZED, mapping.remaining(now))
        port = static.outside_port if static else mapping.external_port if mapping else 0
        if port:
            if exactly and not self._is_suggested(request, port, assignment):
                raise _Refused(Result.CANNOT_PROVIDE_EXTERNAL)
        else:
            port = self._new_port(request, source[0], exactly, assignment)
        text, echoed = self._description(request.options, mapping)
        if static is None:
            filters = self._filters(request.options, mapping.filters if mapping else ())
            expires = now + self._lifetime(request.lifetime, assignment, now)
            self._put(
                LanMapping(
                    source[0], request.protocol, request.internal_port, port, request.nonce, expires, source,
                    filters=filters, text=text, exactly=exactly,
                )
            )  # fmt: skip
        granted = self._mappings.get(key)
        return MapResponse(
            Result.SUCCESS, granted.remaining(now) if granted else 0xFFFFFFFF, self._epoch(now), request.nonce,
            request.protocol, request.internal_port, port, address16(assignment.ipv4), echoed,
        )  # fmt: skip

    def _delete(self, request: MapRequest, source: Host, now: float) -> MapResponse:
        """Flows that use the mapping go on, for the kernel knows them; only new ones find it gone."""
        host, protocol, port = source[0], request.protocol, request.internal_port
        if self._mappings.static_at(host, protocol, port):
            raise _Refused(Result.NOT_AUTHORIZED)
        meant = [
            mapping for mapping in self._mappings
            if mapping.host == host and not mapping.remote
            and (not protocol or mapping.protocol == protocol) and (not port or mapping.internal_port == port)
        ]  # fmt: skip
        foreign = [mapping for mapping in meant if mapping.nonce != request.nonce]
        if foreign and port:
            raise _Refused(Result.NOT_AUTHORIZED, foreign[0].remaining(now))
        for mapping in meant:
            if mapping.nonce == request.nonce:
                self._remove(mapping)
        return MapResponse(
            Result.SUCCESS, 0, self._epoch(now), request.nonce, protocol, port, request.external_port,
            request.external, self._description(request.options, None)[1],
        )  # fmt: skip

    def _peer(self, request: PeerRequest, source: Host, now: float) -> PeerResponse:
        assignment = self._provisioned()
        if request.protocol not in NAMES or not request.remote.startswith(IPV4_MAPPED):
            raise _Refused(Result.UNSUPP_PROTOCOL)
        key: Key = (source[0], request.protocol, request.internal_port, request.remote_port, request.remote)
        mapping = self._mappings.get(key)
        if mapping is not None and mapping.nonce != request.nonce:
            raise _Refused(Result.NOT_AUTHORIZED, mapping.remaining(now))
        port = self._mappings.port_of(source[0], request.protocol, request.internal_port)
        if port:
            if request.external_port and not self._is_suggested(request, port, assignment):
                raise _Refused(Result.CANNOT_PROVIDE_EXTERNAL)
        else:
            port = self._new_port(request, source[0], bool(request.external_port), assignment)
        text, echoed = self._description(request.options, mapping)
        # Section 12.1: a PEER can make a mapping last longer, but neither shorten nor delete it.
        wanted = now + self._lifetime(request.lifetime, assignment, now) if request.lifetime else now
        expires = max(wanted, mapping.expires if mapping else now)
        if expires > now:
            self._put(
                LanMapping(
                    source[0], request.protocol, request.internal_port, port, request.nonce, expires, source,
                    request.remote, request.remote_port, text=text,
                )
            )  # fmt: skip
        return PeerResponse(
            Result.SUCCESS, int(expires - now), self._epoch(now), request.nonce, request.protocol,
            request.internal_port, port, address16(assignment.ipv4), request.remote_port, request.remote, echoed,
        )  # fmt: skip

    # their parts

    def _provisioned(self) -> Assignment:
        if self._assignment is None:
            raise _Refused(Result.NETWORK_FAILURE)
        return self._assignment

    def _is_suggested(self, request: MapRequest | PeerRequest, port: int, assignment: Assignment) -> bool:
        address = request.external in (NO_IPV4, NO_IPV6, address16(assignment.ipv4))
        return address and request.external_port == port

    def _new_port(
        self, request: MapRequest | PeerRequest, host: IPv4Address, exactly: bool, assignment: Assignment
    ) -> int:
        if self._mappings.count_of(host) >= self._options.per_host:
            raise _Refused(Result.USER_EX_QUOTA)
        port = 0
        if len(self._mappings) < self._mappings.size:
            port = self._mappings.choose(request.protocol, request.external_port)
        if exactly and not self._is_suggested(request, port, assignment):
            raise _Refused(Result.CANNOT_PROVIDE_EXTERNAL)
        if not port:
            raise _Refused(Result.NO_RESOURCES)
        return port

    def _lifetime(self, asked: int, assignment: Assignment, now: float) -> int:
        """No longer than the set is ours (RFC 7648 section 3)."""
        within = min(max(asked, self._options.min_lifetime), self._options.max_lifetime)
        return min(within, max(1, int(assignment.expires - now)))

    def _filters(self, options: tuple[Option, ...], filters: tuple[Filter, ...]) -> tuple[Filter, ...]:
        """Section 13.3: in their order; 0 bits remove what is there."""
        for one in options:
            if isinstance(one, Filter):
                if not one.prefix_length:
                    filters = ()
                elif not one.remote.startswith(IPV4_MAPPED):
                    raise _Refused(Result.MALFORMED_OPTION)
                elif one not in filters:
                    filters += (one,)
        if len(filters) > self._options.max_filters:
            raise _Refused(Result.EXCESSIVE_REMOTE_PEERS)
        return filters

    def _description(self, options: tuple[Option, ...], mapping: LanMapping | None) -> tuple[bytes, tuple[Option, ...]]:
        """The text to keep, and the options to answer with: what was understood, in its order."""
        text = mapping.text if mapping else b""
        echoed: list[Option] = []
        for one in options:
            if isinstance(one, Description):
                one = one.cut(self._options.description)
                text = one.text
            echoed.append(one)
        return text, tuple(echoed)

    def _put(self, mapping: LanMapping) -> None:
        before = self._mappings.get(mapping.key)
        if before is None or before.forward() != mapping.forward():
            self._before.append((mapping.key, before))
        self._mappings.put(mapping)

    def _remove(self, mapping: LanMapping) -> None:
        self._before.append((mapping.key, mapping))
        self._mappings.remove(mapping.key)

    def _split(self) -> tuple[PortRanges, PortRanges]:
        ports = self._last.ports if self._last else PortRanges()
        total = sum(last - first + 1 for first, last in ports.ranges())
        return ports.split_off(min(self._options.reserve, total // 2))

    def _queue_update(self, result: Result, mapping: LanMapping, now: float) -> None:
        """A Mapping Update (section 14.2): an answer that nobody asked for."""
        lifetime = mapping.remaining(now) if result == Result.SUCCESS else error_lifetime(result)
        external = address16(self._last.ipv4) if self._last else NO_IPV4
        common = (result, lifetime, 0, mapping.nonce, mapping.protocol, mapping.internal_port)
        response: codec.Response
        if mapping.remote:
            response = PeerResponse(*common, mapping.external_port, external, mapping.remote_port, mapping.remote)
        else:
            response = MapResponse(*common, mapping.external_port, external, mapping.filters)
        message = codec.encode_response(response)
        self._to_send += [(now + gap, message, mapping.client) for gap in timing.burst(timing.UPDATE_COPIES)]

    def _epoch(self, now: float) -> int:
        return int(now - self._epoch_began) & 0xFFFFFFFF

    def _error(self, datagram: bytes, result: Result, lifetime: int, now: float) -> bytes:
        return codec.encode_error(datagram, result, lifetime, self._epoch(now))
