"""The PCP examples by name: what a request says, what its octets alone decide, answers both ways, whole packets."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from pylwaftr import framing
from pylwaftr.pcp import codec, numbers, options
from pylwaftr.pcp.client import State
from pylwaftr.pcp.client_values import Grant, NotUsed, Refused, Wanted
from pylwaftr.pcp.numbers import Malformed, Opcode, Result, Unanswerable
from tests.pcp_client_world import (
    GRANTED,
    PUBLIC,
    SERVER,
    World,
)

DATA = json.loads((Path(__file__).parent / "data/pcp.json").read_text())
VECTORS = {vector["id"]: vector for vector in DATA["vectors"]}
PACKETS = {packet["id"]: bytes.fromhex(packet["hex"]) for packet in DATA["packets"]}

# Which options and opcodes the server of that role knows. An unauthorised host is refused as a softwire is.
ACCEPTS = {
    "lwaftr": codec.SOFTWIRE,
    "lwaftr-mgmt": codec.MANAGEMENT,
    "lwb4-lan": codec.LAN,
    "nat44-example": codec.SOFTWIRE,
}
TO_SERVERS = [vector for vector in DATA["vectors"] if vector["role"] in ACCEPTS]

# Result codes that need nothing but the request.
STATELESS = {
    Result.UNSUPP_VERSION, Result.MALFORMED_REQUEST, Result.UNSUPP_OPCODE, Result.UNSUPP_OPTION,
    Result.MALFORMED_OPTION, Result.ADDRESS_MISMATCH,
}  # fmt: skip
# Dropped by the server of the management network, which only takes THIRD_PARTY.
NOT_BY_THE_CODEC = {"PCPV-117"}


def by_name(vectors: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["id"] for vector in vectors])


def datagram(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["request_hex"])


def sender(vector: dict[str, Any]) -> bytes:
    return numbers.address16(ip_address(vector["source"].partition("#")[0]))


def accepts(vector: dict[str, Any]) -> codec.Accepts:
    return codec.SOFTWIRE if "unauthorised" in vector["title"] else ACCEPTS[vector["role"]]


@by_name([vector for vector in TO_SERVERS if vector["id"] not in NOT_BY_THE_CODEC])
def test_request(vector: dict[str, Any]) -> None:
    """Dropped, refused with the right octets, or decoded into what the example says."""
    if vector["expect"] == "drop":
        with pytest.raises(Unanswerable):
            codec.decode_request(datagram(vector), sender(vector), accepts(vector))
    elif vector.get("expect_result_code", 0) in STATELESS:
        with pytest.raises(Malformed) as refused:
            codec.decode_request(datagram(vector), sender(vector), accepts(vector))
        result = refused.value.result
        lifetime = numbers.error_lifetime(result)
        error = codec.encode_error(datagram(vector), result, lifetime, vector["server_epoch"])
        assert error.hex() == vector["responses"][0]["hex"]
    else:
        request = codec.decode_request(datagram(vector), sender(vector), accepts(vector))
        assert request == codec.decode_any_request(datagram(vector), sender(vector), accepts(vector))
        assert_says(request, vector["request"])


@by_name([vector for vector in TO_SERVERS if "responses" in vector])
def test_responses_both_ways(vector: dict[str, Any]) -> None:
    for expected in vector["responses"]:
        octets, said = bytes.fromhex(expected["hex"]), expected["decoded"]
        if said["result_code"]:
            made = codec.encode_error(datagram(vector), said["result_code"], said["lifetime"], said["epoch"])
            assert made == octets
            continue
        response = codec.decode_response(octets)
        assert not isinstance(response, codec.OtherVersion)
        assert (response.result, response.lifetime, response.epoch) == (0, said["lifetime"], said["epoch"])
        assert_says(response, said)
        assert codec.encode_response(response) == codec.encode_any_response(response) == octets


FIELDS: dict[str, Callable[[Any], object]] = {
    "lifetime": lambda message: message.lifetime,
    "client_ip": lambda message: str_of(message.client),
    "nonce": lambda message: message.nonce.hex(),
    "protocol": lambda message: message.protocol,
    "internal_port": lambda message: message.internal_port,
    "external_port": lambda message: message.external_port,
    "external_ip": lambda message: str_of(message.external),
    "remote_peer_port": lambda message: message.remote_port,
    "remote_peer_ip": lambda message: str_of(message.remote),
}


def assert_says(message: Any, said: dict[str, Any]) -> None:
    announce = said["opcode"] == Opcode.ANNOUNCE  # whose request has no lifetime, and whose answer no options
    for name in FIELDS.keys() & said.keys() - ({"lifetime"} if announce else set()):
        assert FIELDS[name](message) == said[name], name
    known = [one for one in said.get("options", ()) if one["code"] in set(options.Code)]
    known = [one for one in known if one.get("port_set_size") != 1]
    found = () if announce and not known else message.options
    assert [one.code for one in found] == [one["code"] for one in known]
    assert all(option_says(option, expected) for option, expected in zip(found, known, strict=True))


def option_says(option: options.Option, said: dict[str, Any]) -> object:
    match option:
        case options.PortSet(size, first, parity):
            return (size, first, parity) == (said["port_set_size"], said["first_internal_port"], said["parity"])
        case options.ThirdParty(internal):
            return str_of(internal) == said["internal_ip"]
        case options.Filter(length, port, remote):
            names = ("prefix_length", "remote_peer_port", "remote_peer_ip")
            return (length, port, str_of(remote)) == tuple(said[name] for name in names)
        case _:
            return len(option.data) == said["length"] and option.data.hex() == said.get("data", option.data.hex())


def str_of(octets: bytes) -> str:
    address = numbers.address_of(octets)
    return f"::ffff:{address}" if address.version == 4 else str(address)


@by_name(DATA["vectors"])
def test_cut_anywhere(vector: dict[str, Any]) -> None:
    """No prefix of an example makes the codec do anything but decode, refuse or ignore."""
    whole = datagram(vector)
    lengths = range(min(len(whole), 120))
    for length in [*lengths, *range(120, len(whole), 50)]:
        cut = whole[:length]
        try:
            codec.decode_request(cut, sender(vector), codec.LAN)
        except Malformed as refused:
            answer = codec.encode_error(cut, refused.result, 30, 7)
            assert len(answer) in range(24, 1101, 4)
            assert answer[1] & 0x80
        except Unanswerable:
            assert length < 24 or cut[1] & 0x80
        with suppress(Unanswerable):
            codec.decode_response(cut)


# --- whole packets ---------------------------------------------------------------------------------------------------

PAYLOADS = {
    "PCPP-01": VECTORS["PCPV-001"]["request_hex"],
    "PCPP-02": VECTORS["PCPV-001"]["responses"][0]["hex"],
    "PCPP-03": codec.encode_response(codec.AnnounceResponse(epoch=0)).hex(),
    "PCPP-04": codec.encode_response(codec.AnnounceResponse(epoch=0)).hex(),
    "PCPP-05": b"payload.".hex(),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_packet_both_ways(name: str) -> None:
    punted = framing.strip(PACKETS[name])
    assert punted is not None
    assert punted == framing.strip_any(PACKETS[name])
    assert punted.payload.hex() == PAYLOADS[name]
    tunnel, br, source, source_port, destination, destination_port, payload = punted
    again = framing.wrap(payload, tunnel, br, source, source_port, destination, destination_port)
    assert again == PACKETS[name]


def test_packet_of_the_answer() -> None:
    punted = framing.strip(PACKETS["PCPP-01"])
    assert punted is not None
    assert framing.reply(punted, bytes.fromhex(PAYLOADS["PCPP-02"])) == PACKETS["PCPP-02"]


def test_pcpp_06_is_no_datagram() -> None:
    assert framing.strip(PACKETS["PCPP-06"]) is None


# --- the client ------------------------------------------------------------------------------------------------------


def source_of(vector: dict[str, Any]) -> tuple[IPv4Address, int]:
    address, _, port = vector["source"].partition("#")
    return IPv4Address(address), int(port)


def test_pcpv_001_is_what_it_sends_first() -> None:
    world = World().started()
    assert [datagram.hex() for datagram, _ in world.client.datagrams_to_send()] == [VECTORS["PCPV-001"]["request_hex"]]


def test_pcpv_002_is_what_it_sends_again() -> None:
    world = World().started()
    world.client.datagrams_to_send()
    world.client.handle_timer(5003.0)
    assert [datagram.hex() for datagram, _ in world.client.datagrams_to_send()] == [VECTORS["PCPV-002"]["request_hex"]]


def test_pcpv_003_is_its_renewal() -> None:
    """As first asked, and not for the 2048 ports that were granted: that would be another range (PCPV-005)."""
    world = World().bound()
    world.client.handle_timer(5000 + 4050)
    renewal_sent = world.client.datagrams_to_send()[0][0]
    assert renewal_sent.hex() == VECTORS["PCPV-003"]["request_hex"]
    assert renewal_sent.hex() != VECTORS["PCPV-005"]["request_hex"]


def test_pcpv_040_is_its_deletion() -> None:
    world = World().bound()
    world.client.delete(world.now)
    assert [datagram.hex() for datagram, _ in world.client.datagrams_to_send()] == [VECTORS["PCPV-040"]["request_hex"]]
    assert world.client.timer() is None


CLIENT_VECTORS = [vector for vector in DATA["vectors"] if vector["role"] == "lwb4-client"]
ACCEPTED = {  # by id, where it differs from the set of PCPV-001
    "PCPV-193": Grant(PUBLIC, 26624, 2048, 86400, 91400.0),
    "PCPV-191": None,
}


@by_name([vector for vector in CLIENT_VECTORS if vector["expect"] in ("accept", "ignore", "hold-off", "reject-option")])
def test_example(vector: dict[str, Any]) -> None:
    world = World().started()
    world.sent()
    world.receive(bytes.fromhex(vector["request_hex"]), source_of(vector))
    if vector["expect"] == "accept":
        assert world.grant == ACCEPTED.get(vector["id"], GRANTED)
        assert world.state is State.BOUND
    elif vector["expect"] == "ignore":
        assert (world.state, world.events(), world.client.timer()) == (State.REQUESTING, [], 5003.0)
    elif vector["expect"] == "hold-off":
        assert world.events() == [Refused(Wanted(), Result.NOT_AUTHORIZED, 6000)]
        # An ANNOUNCE an hour asks whether the server still is the one that refused.
        assert world.later(6001) == [3600.0, 6000.0]
    else:
        assert [type(event) for event in world.events()] == [NotUsed]
        assert (world.grant, world.state) == (None, State.WAITING)


def test_pcpv_197_an_announcement_of_a_lost_state() -> None:
    world = World().bound()
    world.receive(bytes.fromhex(VECTORS["PCPV-197"]["request_hex"]))
    assert (world.sent(), world.state) == ([], State.WAITING)
    assert world.later(5) == [2.5]
    assert world.state is State.REQUESTING
    assert world.grant is not None  # goes on forwarding


def test_pcpv_198_an_announcement_that_changes_nothing() -> None:
    world = World().bound()
    before = world.client.timer()
    world.now += 60
    world.receive(bytes.fromhex(VECTORS["PCPV-198"]["request_hex"]))
    assert (world.client.timer(), world.state, world.events()) == (before, State.BOUND, [])


@by_name(CLIENT_VECTORS)
def test_example_cut_anywhere(vector: dict[str, Any]) -> None:
    """Less than the example is nothing: no grant, and nothing is sent."""
    whole = bytes.fromhex(vector["request_hex"])[:200]
    for length in range(len(whole)):
        world = World().started()
        world.sent()
        world.receive(whole[:length], SERVER)
        granted = whole[3] == 0 and length >= 72 and world.state is State.BOUND  # cut behind the PORT_SET
        assert granted or world.grant is None
        assert world.sent() == []
