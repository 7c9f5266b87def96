"""PCP octets: which fault of a request is named first, options, both ways round, and any octets at all."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.pcp import codec, options
from pylwaftr.pcp.codec import AnnounceRequest, MapRequest, MapResponse, PeerRequest, PeerResponse
from pylwaftr.pcp.numbers import IPV4_MAPPED, NO_IPV4, Malformed, Result, Unanswerable
from pylwaftr.pcp.options import Description, Filter, PortSet, PreferFailure, ThirdParty, ThirdPartyId

B4 = IPV4_MAPPED + bytes([192, 0, 0, 2])
NONCE = bytes(range(12))
ALL = codec.Accepts(frozenset({0, 1, 2}), frozenset(options.Code))

HEAD = "0201 0000 00001c20" + B4.hex()
BODY = NONCE.hex() + "00 000000 0001 0000" + NO_IPV4.hex()  # all protocols, port 1
UDP = NONCE.hex() + "11 000000 2000 0000" + NO_IPV4.hex()  # UDP, port 8192
PORT_SET = "8200 0005 ffff 0001 00 000000"
DELETE = HEAD.replace("00001c20", "00000000")
LONG = "c800 0100" + "00" * 256

REFUSED = [  # what, octets, result; the first fault in the order of section 8.2 wins
    ("a version nobody knows, of two octets", "0301", Result.UNSUPP_VERSION),
    ("NAT-PMP", "0000", Result.UNSUPP_VERSION),
    ("a foreign version before the length", "0901000000", Result.UNSUPP_VERSION),
    ("a length before the opcode", HEAD.replace("0201", "0205") + "00", Result.MALFORMED_REQUEST),
    ("too long", HEAD + BODY + PORT_SET + LONG * 4, Result.MALFORMED_REQUEST),
    ("an opcode before the address", "0205 0000 00000000" + "00" * 16, Result.UNSUPP_OPCODE),
    ("a short body before the address", "0201 0000 00000000" + "00" * 16, Result.MALFORMED_REQUEST),
    ("an address before the options", HEAD.replace("c0000002", "c0000003") + BODY + "40000000",
     Result.ADDRESS_MISMATCH),
    ("structure before a mandatory option", HEAD + BODY + "40000000 c8000004", Result.MALFORMED_OPTION),
    ("padding counts as structure", HEAD + BODY + "8200 0005 ffff 0001", Result.MALFORMED_OPTION),
    ("the first option wins: unknown", HEAD + UDP + "40000000 0200 0004 00000000", Result.UNSUPP_OPTION),
    ("the first option wins: wrong", HEAD + UDP + "0200 0004 00000000 40000000", Result.MALFORMED_OPTION),
    ("an option twice", HEAD + BODY + PORT_SET * 2, Result.MALFORMED_OPTION),
    ("an option twice, in a deletion", DELETE + BODY + PORT_SET * 2, Result.MALFORMED_OPTION),
    ("options before the protocol", HEAD + BODY + "40000000", Result.UNSUPP_OPTION),
    ("a port of no protocol", HEAD + BODY, Result.MALFORMED_REQUEST),
    ("a port of no protocol, in a deletion", DELETE + BODY, Result.MALFORMED_REQUEST),
    ("PORT_SET of size 1 is none", HEAD + BODY + PORT_SET.replace("ffff", "0001"), Result.MALFORMED_REQUEST),
    ("PORT_SET of no port", HEAD + BODY + PORT_SET.replace("ffff", "0000"), Result.MALFORMED_OPTION),
    ("PORT_SET from elsewhere", HEAD + BODY + PORT_SET.replace("0001 00", "0002 00"), Result.MALFORMED_OPTION),
    ("PREFER_FAILURE with PORT_SET", HEAD + BODY.replace("0001 0000", "0001 6800") + PORT_SET + "02000000",
     Result.MALFORMED_OPTION),
    ("PREFER_FAILURE without a port", HEAD + UDP + "02000000", Result.MALFORMED_OPTION),
    ("PREFER_FAILURE in a deletion", DELETE + UDP.replace("2000 0000", "2000 2000") + "02000000",
     Result.MALFORMED_OPTION),
    ("FILTER in a deletion", DELETE + UDP + "0300 0014" + "00" * 20, Result.MALFORMED_OPTION),
    ("FILTER of an IPv4 prefix of 96 bits", HEAD + UDP + "0300 0014 00 60 0000" + B4.hex(), Result.MALFORMED_OPTION),
    ("FILTER of an IPv6 prefix of 129 bits", HEAD + UDP + "0300 0014 00 81 0000" + "20" * 16, Result.MALFORMED_OPTION),
    ("THIRD_PARTY of IPv4 size", HEAD + UDP + "0100 0004 c0000002", Result.MALFORMED_OPTION),
    ("THIRD_PARTY that names the sender", HEAD + UDP + "0100 0010" + B4.hex(), Result.MALFORMED_REQUEST),
    ("THIRD_PARTY_ID alone", HEAD + UDP + "0d00 0004 00000001", Result.THIRD_PARTY_MISSING_OPTION),
    ("THIRD_PARTY_ID of nothing", HEAD + UDP + "0d00 0000", Result.MALFORMED_OPTION),
    ("THIRD_PARTY in an ANNOUNCE", "0200 0000 00000000" + B4.hex() + "0100 0010" + "20" * 16, Result.MALFORMED_OPTION),
    ("DESCRIPTION longer than 1016", HEAD + UDP + "8000 03fc" + "20" * 1020, Result.MALFORMED_OPTION),
    ("PEER of 76 octets", HEAD.replace("0201", "0202") + UDP + "00" * 16, Result.MALFORMED_REQUEST),
    ("PEER to port 0", HEAD.replace("0201", "0202") + UDP + "0000 0000" + B4.hex(), Result.MALFORMED_REQUEST),
    ("PEER of no protocol", HEAD.replace("0201", "0202") + BODY + "0050 0000" + B4.hex(), Result.MALFORMED_REQUEST),
    ("PEER with PREFER_FAILURE", HEAD.replace("0201", "0202") + UDP + "0050 0000" + B4.hex() + "02000000",
     Result.MALFORMED_REQUEST),
    ("PEER with PORT_SET", HEAD.replace("0201", "0202") + UDP + "0050 0000" + B4.hex() + PORT_SET,
     Result.MALFORMED_OPTION),
]  # fmt: skip


@pytest.mark.parametrize("what, octets, result", REFUSED, ids=[row[0] for row in REFUSED])
def test_refused(what: str, octets: str, result: Result) -> None:
    with pytest.raises(Malformed) as refused:
        codec.decode_request(bytes.fromhex(octets), B4, ALL)
    assert refused.value.result == result


NO_ANSWER = [
    ("nothing", ""),
    ("one octet", "02"),
    ("a response", "0281" + (HEAD + BODY + PORT_SET)[4:]),
    ("a response of a foreign version", "0981"),
    ("version 2 and 20 octets", HEAD[:-8]),
]


@pytest.mark.parametrize("what, octets", NO_ANSWER, ids=[row[0] for row in NO_ANSWER])
def test_no_answer(what: str, octets: str) -> None:
    with pytest.raises(Unanswerable):
        codec.decode_request(bytes.fromhex(octets), B4, ALL)


PORTS = PortSet(65535, 1)
PROVISION = MapRequest(7200, B4, NONCE, 0, 1, options=(PORTS,), port_set=PORTS)
TAKEN = [
    ("the provisioning request", HEAD + BODY + PORT_SET, PROVISION),
    ("reserved fields and padding filled", HEAD.replace("0201 0000", "0201 ffff") + BODY.replace("000000", "ffffff", 1)
     + "82ff 0005 ffff 0001 fe ffffff", PROVISION),
    ("unknown optional options around it", HEAD + BODY + "c8000000" + PORT_SET + "c9000001 ff000000", PROVISION),
    ("parity", HEAD + BODY + "8200 0005 ffff 0001 01 000000",
     PROVISION._replace(options=(PortSet(65535, 1, True),), port_set=PortSet(65535, 1, True))),
    ("size 1 is stepped over", HEAD + UDP + "8200 0005 0001 2000 00 000000", MapRequest(7200, B4, NONCE, 17, 8192)),
    ("a deletion looks at no size", DELETE + BODY + "8200 0005 0000 0009 00 000000",
     MapRequest(0, B4, NONCE, 0, 1, options=(PortSet(0, 9),), port_set=PortSet(0, 9))),
    ("text that is not UTF-8 is ignored", HEAD + UDP + "8000 0002 c3280000", MapRequest(7200, B4, NONCE, 17, 8192)),
    ("empty text", HEAD + UDP + "80000000", MapRequest(7200, B4, NONCE, 17, 8192, options=(Description(b""),))),
    ("two filters", HEAD + UDP + "0300 0014 00 00 0000" + NO_IPV4.hex() + "0300 0014 00 80 0035" + B4.hex(),
     MapRequest(7200, B4, NONCE, 17, 8192, options=(Filter(0, 0, NO_IPV4), Filter(128, 53, B4)))),
    ("an ANNOUNCE with a lifetime", "0200 0000 00000e10" + B4.hex(), AnnounceRequest(B4)),
]  # fmt: skip


@pytest.mark.parametrize("what, octets, request_", TAKEN, ids=[row[0] for row in TAKEN])
def test_taken(what: str, octets: str, request_: codec.Request) -> None:
    assert codec.decode_request(bytes.fromhex(octets), B4, ALL) == request_


def test_a_server_without_port_set_is_not_given_one() -> None:
    plain = codec.Accepts(frozenset({1}), frozenset())
    with pytest.raises(Malformed) as refused:
        codec.decode_request(bytes.fromhex(HEAD + BODY + PORT_SET), B4, plain)
    assert refused.value.result == Result.MALFORMED_REQUEST
    taken = codec.decode_request(bytes.fromhex(HEAD + UDP + PORT_SET), B4, plain)
    assert taken == MapRequest(7200, B4, NONCE, 17, 8192)


# Size, first port, what may be mapped: past the end is cut, port 0 is none.
RANGES = [(65535, 1, (1, 65535)), (65535, 50001, (50001, 65535)), (2048, 0, (1, 2047)), (2, 65535, (65535, 65535))]


@pytest.mark.parametrize("size, first, ports", RANGES)
def test_ports_of_a_set(size: int, first: int, ports: tuple[int, int]) -> None:
    assert PortSet(size, first).ports == ports


CUTS = [  # UTF-8 text, octets kept of it
    ("abc", 3, b"abc"),
    ("abc", 2, b"ab"),
    ("ä" * 2, 3, "ä".encode()),
    ("€", 2, b""),
]


@pytest.mark.parametrize("text, octets, kept", CUTS)
def test_a_description_is_cut_between_characters(text: str, octets: int, kept: bytes) -> None:
    assert Description(text.encode()).cut(octets) == Description(kept)


ERRORS = [  # request, result, answer
    ("two octets", "0000", Result.UNSUPP_VERSION, "0280 0001 0000001e 00000007" + "00" * 12),
    ("a client's address stays", HEAD, Result.MALFORMED_OPTION,
     "0281 0006 0000001e 00000007 00000000 0000ffff c0000002"),
    ("and goes", HEAD, Result.NO_RESOURCES, "0281 0008 0000001e 00000007" + "00" * 12),
    ("padding", HEAD + "ff", Result.MALFORMED_REQUEST,
     "0281 0003 0000001e 00000007 00000000 0000ffff c0000002 ff000000"),
    ("an ANNOUNCE has no lifetime", "0200" + HEAD[4:], Result.ADDRESS_MISMATCH,
     "0280 000c 00000000 00000007" + "00" * 12),
]  # fmt: skip


@pytest.mark.parametrize("what, asked, result, answer", ERRORS, ids=[row[0] for row in ERRORS])
def test_error(what: str, asked: str, result: Result, answer: str) -> None:
    assert codec.encode_error(bytes.fromhex(asked), result, 30, 7) == bytes.fromhex(answer)


# --- both ways and anything ------------------------------------------------------------------------------------------

u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
addresses = st.binary(min_size=16, max_size=16) | st.binary(min_size=4, max_size=4).map(lambda b: IPV4_MAPPED + b)
nonces = st.binary(min_size=12, max_size=12)
port_sets = st.builds(PortSet, u16, u16, st.booleans())
texts = st.text(max_size=40).map(lambda text: Description(text.encode()))
others = st.lists(
    st.builds(ThirdParty, addresses)
    | st.just(PreferFailure())
    | st.builds(Filter, st.integers(97, 128), u16, addresses)
    | st.builds(ThirdPartyId, st.binary(min_size=1, max_size=20))
    | texts
    | port_sets,
    max_size=4,
).map(tuple)
responses = (
    st.builds(
        MapResponse, st.sampled_from([0, 2, 8]), u32, u32, nonces, st.integers(0, 255), u16, u16, addresses, others
    )
    | st.builds(
        PeerResponse, st.just(0), u32, u32, nonces, st.integers(0, 255), u16, u16, addresses, u16, addresses, others
    )
    | u32.map(codec.AnnounceResponse)
)


@given(responses)
def test_responses_round_trip(response: codec.Response) -> None:
    octets = codec.encode_response(response)
    assert octets == codec.encode_any_response(response)
    assert codec.decode_response(octets) == response


@given(
    st.integers(1, 0xFFFFFFFF), nonces, st.integers(0, 255), u16, u16, addresses, st.integers(2, 0xFFFF), st.booleans()
)
def test_provisioning_round_trip(
    lifetime: int, nonce: bytes, protocol: int, inside: int, outside: int, external: bytes, size: int, parity: bool
) -> None:
    ports = PortSet(size, inside, parity)
    request = MapRequest(lifetime, B4, nonce, protocol, inside, outside, external, (ports,), ports)
    assert codec.decode_request(codec.encode_request(request), B4) == request


@given(st.integers(1, 255), st.integers(1, 0xFFFF), st.integers(1, 0xFFFF), u16, addresses, texts)
def test_peer_round_trip(protocol: int, inside: int, port: int, outside: int, remote: bytes, text: Description) -> None:
    request = PeerRequest(600, B4, NONCE, protocol, inside, port, remote, outside, NO_IPV4, (text,))
    assert codec.decode_request(codec.encode_request(request), B4, codec.LAN) == request


def outcome(datagram: bytes, short_way: bool, accepts: codec.Accepts) -> object:
    decode = codec.decode_request if short_way else codec.decode_any_request
    try:
        return decode(datagram, B4, accepts)
    except Malformed as refused:
        return refused.result
    except Unanswerable:
        return None


WHOLE = bytes.fromhex(HEAD + BODY + PORT_SET)
accepted = st.sampled_from([codec.SOFTWIRE, codec.LAN, ALL])


@given(st.lists(st.tuples(st.integers(0, 71), st.integers(0, 255)), max_size=4), accepted)
def test_the_short_way_decides_as_the_long_one(changed: list[tuple[int, int]], accepts: codec.Accepts) -> None:
    datagram = bytearray(WHOLE)
    for at, octet in changed:
        datagram[at] = octet
    assert outcome(bytes(datagram), True, accepts) == outcome(bytes(datagram), False, accepts)


requests = st.binary(max_size=1400) | st.builds(
    lambda head, rest: WHOLE[:head] + rest, st.integers(1, 72), st.binary(max_size=200)
)


@given(requests, accepted)
def test_any_octets_are_a_request_a_refusal_or_nothing(datagram: bytes, accepts: codec.Accepts) -> None:
    found = outcome(datagram, True, accepts)
    if isinstance(found, Result):
        answer = codec.encode_error(datagram, found, 30, 7)
        assert len(answer) in range(24, 1101, 4)
        assert (answer[0], answer[1] & 0x80, answer[3]) == (2, 0x80, found)
    elif found is not None:
        assert codec.decode_request(datagram, B4, accepts) == found


@given(requests.map(lambda octets: octets[:1] + bytes([octets[1] | 0x80]) + octets[2:] if len(octets) > 1 else octets))
def test_any_octets_are_a_response_or_nothing(datagram: bytes) -> None:
    with suppress(Unanswerable):
        codec.decode_response(datagram)
