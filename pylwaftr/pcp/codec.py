"""PCP messages (RFC 6887 sections 7, 11, 12, 14): octets to values, values to octets, and what octets alone decide.

`decode_request` makes all the checks that need no state, in the order of section 8.2, so a server that gets a request
from it only has to look at its mappings. An error answer is the request's octets with another header (`encode_error`).

Requests and responses are named tuples: they do not change, and a provisioning request is decoded in the time that the
constructor of a frozen dataclass takes. Addresses stay the 16 octets of the wire; `numbers` turns them into addresses.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from pylwaftr.pcp import options as opt
from pylwaftr.pcp.numbers import (
    HEADER,
    MAP_SIZE,
    MAX_MESSAGE,
    NO_IPV4,
    PEER_SIZE,
    VERSION,
    Malformed,
    Opcode,
    Result,
    Unanswerable,
)
from pylwaftr.pcp.options import Code, Option, PortSet

_R = 0x80  # the bit that makes a response

_REQUEST = struct.Struct("!BBxxI16s")
_RESPONSE = struct.Struct("!BBxBII12x")
_BODY = struct.Struct("!12sBxxxHH16s")  # nonce, protocol, internal port, external port and address
_REMOTE = struct.Struct("!Hxx16s")
# A provisioning request or its answer in one go: header, MAP, PORT_SET, three octets of padding.
_PROVISION = struct.Struct("!BBxxI16s12sBxxxHH16sBxHHHB3x")
_PROVISIONED = struct.Struct("!BBxBII12x12sBxxxHH16sBxHHHB3x")


@dataclass(frozen=True, slots=True)
class Accepts:
    """What a server knows; anything else is refused or stepped over as section 8.2 and 7.3 say."""

    opcodes: frozenset[int]
    options: frozenset[int]


# In a softwire; FILTER has no counterpart in the data plane of a lwAFTR, and THIRD_PARTY is for management only.
SOFTWIRE = Accepts(
    frozenset({Opcode.ANNOUNCE, Opcode.MAP}), frozenset({Code.PREFER_FAILURE, Code.DESCRIPTION, Code.PORT_SET})
)
MANAGEMENT = Accepts(SOFTWIRE.opcodes, SOFTWIRE.options | {Code.THIRD_PARTY})
LAN = Accepts(
    frozenset({Opcode.ANNOUNCE, Opcode.MAP, Opcode.PEER}),
    frozenset({Code.PREFER_FAILURE, Code.DESCRIPTION, Code.FILTER}),
)


class AnnounceRequest(NamedTuple):
    client: bytes
    options: tuple[Option, ...] = ()


class MapRequest(NamedTuple):
    lifetime: int  # 0 deletes
    client: bytes
    nonce: bytes
    protocol: int  # 0 = all
    internal_port: int  # 0 = all
    external_port: int = 0  # suggested, 0 = none
    external: bytes = NO_IPV4  # suggested
    options: tuple[Option, ...] = ()  # as they came, the port set among them
    port_set: PortSet | None = None  # from `options`, for everyone asks for it


class PeerRequest(NamedTuple):
    lifetime: int
    client: bytes
    nonce: bytes
    protocol: int
    internal_port: int
    remote_port: int
    remote: bytes
    external_port: int = 0
    external: bytes = NO_IPV4
    options: tuple[Option, ...] = ()


class AnnounceResponse(NamedTuple):
    epoch: int
    result: int = Result.SUCCESS
    lifetime: int = 0


class MapResponse(NamedTuple):
    result: int
    lifetime: int  # of the mapping, or of the error
    epoch: int
    nonce: bytes
    protocol: int
    internal_port: int
    external_port: int
    external: bytes
    options: tuple[Option, ...] = ()


class PeerResponse(NamedTuple):
    result: int
    lifetime: int
    epoch: int
    nonce: bytes
    protocol: int
    internal_port: int
    external_port: int
    external: bytes
    remote_port: int
    remote: bytes
    options: tuple[Option, ...] = ()


class OtherVersion(NamedTuple):
    """The server does not speak version 2. Version 0: it speaks NAT-PMP (RFC 6886)."""

    version: int
    lifetime: int


Request: TypeAlias = AnnounceRequest | MapRequest | PeerRequest
Response: TypeAlias = AnnounceResponse | MapResponse | PeerResponse
_Kind = TypeVar("_Kind", bound=Option)
_Body: TypeAlias = tuple[bytes, int, int, int, bytes]
_Remote: TypeAlias = tuple[int, bytes]


def option(options: tuple[Option, ...], kind: type[_Kind]) -> _Kind | None:
    """The first option of that kind."""
    return next((one for one in options if isinstance(one, kind)), None)


# --- requests --------------------------------------------------------------------------------------------------------


def decode_request(datagram: bytes, sender: bytes, accepts: Accepts = SOFTWIRE) -> Request:
    """A request that came from `sender` (16 octets). Raises Unanswerable or Malformed."""
    if len(datagram) == _PROVISION.size:
        request = _decode_provisioning(datagram, sender, accepts)
        if request is not None:
            return request
    return decode_any_request(datagram, sender, accepts)


def _decode_provisioning(datagram: bytes, sender: bytes, accepts: Accepts) -> MapRequest | None:
    """MAP with nothing but a PORT_SET that is in order, which almost all requests are; None for every other."""
    (
        version, opcode, lifetime, client, nonce, protocol, internal_port, external_port, external,
        code, length, size, first, flags,
    ) = _PROVISION.unpack(datagram)  # fmt: skip
    if (
        version != VERSION
        or opcode != Opcode.MAP
        or client != sender
        or code != Code.PORT_SET
        or length != 5
        or size < 2
        or first != internal_port
        or Opcode.MAP not in accepts.opcodes
        or Code.PORT_SET not in accepts.options
    ):
        return None
    ports = PortSet(size, first, flags & 1 == 1)
    return MapRequest(lifetime, client, nonce, protocol, internal_port, external_port, external, (ports,), ports)


def decode_any_request(datagram: bytes, sender: bytes, accepts: Accepts = SOFTWIRE) -> Request:
    """decode_request without its short way."""
    opcode = _checked_header(datagram, accepts)
    _, _, lifetime, client = _REQUEST.unpack_from(datagram)
    if client != sender:
        raise Malformed(Result.ADDRESS_MISMATCH, "the client's address is not the packet's source")
    if opcode == Opcode.ANNOUNCE:
        return AnnounceRequest(client, opt.decode_request(datagram, HEADER, opcode, accepts.options))
    body = _BODY.unpack_from(datagram, HEADER)
    if opcode == Opcode.MAP:
        return _map_request(lifetime, client, body, opt.decode_request(datagram, MAP_SIZE, opcode, accepts.options))
    found = opt.decode_request(datagram, PEER_SIZE, opcode, accepts.options)
    return _peer_request(lifetime, client, body, _REMOTE.unpack_from(datagram, MAP_SIZE), found)


def _checked_header(datagram: bytes, accepts: Accepts) -> int:
    """Section 8.2: the version goes before the length. Returns the opcode."""
    length = len(datagram)
    if length < 2:
        raise Unanswerable("shorter than two octets")
    opcode = datagram[1]
    if opcode & _R:
        raise Unanswerable("a response")
    if datagram[0] != VERSION:
        raise Malformed(Result.UNSUPP_VERSION, f"version {datagram[0]}")
    if length < HEADER:
        raise Unanswerable("shorter than a header")
    if length > MAX_MESSAGE or length % 4:
        raise Malformed(Result.MALFORMED_REQUEST, f"{length} octets")
    if opcode not in accepts.opcodes:
        raise Malformed(Result.UNSUPP_OPCODE, f"opcode {opcode}")
    if length < _SIZES[opcode]:
        raise Malformed(Result.MALFORMED_REQUEST, f"{length} octets are too few for opcode {opcode}")
    return opcode


_SIZES = {int(Opcode.ANNOUNCE): HEADER, int(Opcode.MAP): MAP_SIZE, int(Opcode.PEER): PEER_SIZE}


def _map_request(lifetime: int, client: bytes, body: _Body, found: tuple[Option, ...]) -> MapRequest:
    ports = option(found, PortSet)
    if ports is not None and ports.size == 1 and lifetime:  # RFC 7753 section 4.2: ignored
        found, ports = tuple(one for one in found if one is not ports), None
    request = MapRequest(lifetime, client, *body, options=found, port_set=ports)
    _check_options(request)
    if request.protocol == 0 and request.internal_port and ports is None:  # RFC 6887 section 11.3; RFC 7753 section 5.2
        raise Malformed(Result.MALFORMED_REQUEST, f"port {request.internal_port} of no protocol")
    return request


def _check_options(request: MapRequest) -> None:
    """What an option has to do with the rest of the request."""
    prefer_failure = option(request.options, opt.PreferFailure) is not None
    if prefer_failure and not request.external_port:
        raise Malformed(Result.MALFORMED_OPTION, "PREFER_FAILURE without a suggested port")
    ports = request.port_set
    if ports is not None and request.lifetime:  # RFC 7753 section 4.2
        if ports.size == 0 or prefer_failure:
            raise Malformed(Result.MALFORMED_OPTION, "PORT_SET of size 0 or with PREFER_FAILURE")
        if ports.first != request.internal_port:
            raise Malformed(Result.MALFORMED_OPTION, f"PORT_SET from {ports.first}, not from {request.internal_port}")
    _check_third_party(request.client, request.options)


def _check_third_party(client: bytes, options: tuple[Option, ...]) -> None:
    third_party = option(options, opt.ThirdParty)
    if third_party is not None and third_party.internal == client:  # section 13.1
        raise Malformed(Result.MALFORMED_REQUEST, "THIRD_PARTY names the sender")
    if third_party is None and option(options, opt.ThirdPartyId) is not None:
        raise Malformed(Result.THIRD_PARTY_MISSING_OPTION, "THIRD_PARTY_ID without THIRD_PARTY")


def _peer_request(
    lifetime: int,
    client: bytes,
    body: _Body,
    remote: _Remote,
    found: tuple[Option, ...],
) -> PeerRequest:
    nonce, protocol, internal_port, external_port, external = body
    if not protocol or not internal_port or not remote[0]:  # section 12.1
        raise Malformed(Result.MALFORMED_REQUEST, "protocol, internal port and remote port may not be 0")
    _check_third_party(client, found)
    return PeerRequest(lifetime, client, nonce, protocol, internal_port, *remote, external_port, external, found)


def encode_request(request: Request) -> bytes:
    if isinstance(request, AnnounceRequest):
        return _REQUEST.pack(VERSION, Opcode.ANNOUNCE, 0, request.client) + opt.encode(request.options)
    opcode = Opcode.MAP if isinstance(request, MapRequest) else Opcode.PEER
    head = _REQUEST.pack(VERSION, opcode, request.lifetime, request.client)
    return head + _encode_body(request) + opt.encode(request.options)


def _encode_body(message: MapRequest | PeerRequest | MapResponse | PeerResponse) -> bytes:
    body = _BODY.pack(message.nonce, message.protocol, message.internal_port, message.external_port, message.external)
    if isinstance(message, PeerRequest | PeerResponse):
        body += _REMOTE.pack(message.remote_port, message.remote)
    return body


# --- responses -------------------------------------------------------------------------------------------------------

# Of a request that was not understood, the last 96 bits of the client's address stay where they were (section 7.2).
_NOT_PARSED = frozenset(
    {Result.UNSUPP_VERSION, Result.MALFORMED_REQUEST, Result.UNSUPP_OPCODE, Result.MALFORMED_OPTION}
)


def encode_error(datagram: bytes, result: int, lifetime: int, epoch: int) -> bytes:
    """The refusal of that request: its own octets, at most 1100, under a response's header."""
    kept = datagram[:MAX_MESSAGE]
    kept += bytes(max(HEADER - len(kept), -len(kept) % 4))
    if kept[:2] == b"\x02\x00":  # an ANNOUNCE has no lifetime (section 14.1.1)
        lifetime = 0
    head = _RESPONSE.pack(VERSION, kept[1] | _R, result, lifetime, epoch)
    return (head[:12] if result in _NOT_PARSED else head) + kept[12 if result in _NOT_PARSED else HEADER :]


def encode_response(response: Response) -> bytes:
    if isinstance(response, MapResponse):
        options = response.options
        if len(options) == 1 and isinstance(options[0], PortSet):
            result, lifetime, epoch, nonce, protocol, internal_port, external_port, external, _ = response
            size, first, parity = options[0]
            return _PROVISIONED.pack(
                VERSION, _R | Opcode.MAP, result, lifetime, epoch,
                nonce, protocol, internal_port, external_port, external,
                Code.PORT_SET, 5, size, first, parity,
            )  # fmt: skip
    return encode_any_response(response)


def encode_any_response(response: Response) -> bytes:
    """encode_response without its short way."""
    if isinstance(response, AnnounceResponse):
        return _RESPONSE.pack(VERSION, _R | Opcode.ANNOUNCE, response.result, response.lifetime, response.epoch)
    opcode = Opcode.MAP if isinstance(response, MapResponse) else Opcode.PEER
    head = _RESPONSE.pack(VERSION, _R | opcode, response.result, response.lifetime, response.epoch)
    return head + _encode_body(response) + opt.encode(response.options)


def decode_response(datagram: bytes) -> Response | OtherVersion:
    """What a server said. Raises Unanswerable for what a client ignores in silence (section 8.3)."""
    length = len(datagram)
    if length < 4 or not datagram[1] & _R:
        raise Unanswerable("too short or no response")
    if datagram[0] != VERSION or datagram[3] == Result.UNSUPP_VERSION:
        lifetime = int.from_bytes(datagram[4:8]) if datagram[0] == VERSION and length >= HEADER else 0
        return OtherVersion(datagram[0], lifetime)
    opcode = datagram[1] & 0x7F
    if not HEADER <= length <= MAX_MESSAGE or length % 4 or length < _SIZES.get(opcode, length + 1):
        raise Unanswerable(f"{length} octets with opcode {opcode}")
    _, _, result, lifetime, epoch = _RESPONSE.unpack_from(datagram)
    if opcode == Opcode.ANNOUNCE:
        return AnnounceResponse(epoch, result, lifetime)
    found = _response_options(datagram, _SIZES[opcode], result)
    body: _Body = _BODY.unpack_from(datagram, HEADER)
    if opcode == Opcode.MAP:
        return MapResponse(result, lifetime, epoch, *body, found)
    remote: _Remote = _REMOTE.unpack_from(datagram, MAP_SIZE)
    return PeerResponse(result, lifetime, epoch, *body, *remote, found)


def _response_options(datagram: bytes, at: int, result: int) -> tuple[Option, ...]:
    """An error repeats the request's options, the broken ones too; a success with broken ones is no success."""
    try:
        return opt.decode_response(datagram, at)
    except opt.Fault as fault:
        if result == Result.SUCCESS:
            raise Unanswerable(str(fault)) from None
        return ()
