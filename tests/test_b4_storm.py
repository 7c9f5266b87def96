"""A storm of simulated lwB4s against the real PCP server: all get a set of their own, whatever is lost or happens."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr import framing
from pylwaftr.b4 import storm_packets
from pylwaftr.b4.storm import Storm, StormPlan
from pylwaftr.b4.storm_packets import Announcement, Answer, Requests, Unbound
from pylwaftr.cli.b4_storm import b4_storm
from pylwaftr.pcp import codec
from pylwaftr.pcp.numbers import IPV4_MAPPED, address16
from pylwaftr.pcp.outcome import Sender
from pylwaftr.pcp.server import PcpServer
from tests import pcp_world
from tests.test_vectors_pcp import PACKETS

AFTR = IPv6Address("2001:db8:ffff::1")
PREFIX = IPv6Network("2001:db8:8000::/33")
SERVER_INSIDE, B4_INSIDE = bytes([192, 0, 0, 1]), bytes([192, 0, 0, 2])


def plan(count: int = 200, **changed: Any) -> StormPlan:
    return StormPlan(AFTR, PREFIX, count, **changed)


class Network:
    """Between a storm and a server: a clock, losses by chance."""

    def __init__(self, made: StormPlan, loss: float = 0.0, **settings: Any) -> None:
        self.storm = Storm(made, random.Random(7))
        self.settings = {"pools": (pcp_world.pool("10.0.0.0/25", 5),)} | settings
        self.now = 0.0
        self.server = self.made_server()
        self.loss, self.chance = loss, random.Random(8)
        self.storm.start(0.0)

    def made_server(self) -> PcpServer:
        return PcpServer(pcp_world.settings(**self.settings), pcp_world.NOW + self.now)

    def run(self, seconds: float) -> Network:
        end = self.now + seconds
        while (due := self.storm.timer()) is not None and due <= end:
            self.now = max(due, self.now)
            for packet in self.storm.take(self.now, 64):
                self.carry(packet)
        self.now = end
        return self

    def carry(self, packet: bytes) -> None:
        if self.chance.random() < self.loss:
            return
        punted = framing.strip(packet)
        assert punted is not None
        sender = Sender(punted.tunnel, punted.br, IPV4_MAPPED + punted.source, punted.source_port)
        answer = self.server.receive(punted.payload, sender, pcp_world.NOW + self.now).reply
        if answer is not None and self.chance.random() >= self.loss:
            self.storm.receive(framing.reply(punted, answer), self.now + 0.001)

    def announce(self, number: int, epoch: int) -> None:
        message = codec.encode_response(codec.AnnounceResponse(epoch))
        packet = framing.wrap(
            message, AFTR.packed, self.storm.address(number), SERVER_INSIDE, 5351, B4_INSIDE, 49152
        )  # fmt: skip
        self.storm.receive(packet, self.now)

    @property
    def counts(self) -> Any:
        return self.storm.counts


def test_all_are_bound_at_once_each_with_a_set_of_its_own() -> None:
    network = Network(plan()).run(1)
    assert network.storm.bound == 200
    assert network.counts == {"requests": 200, "grants": 200}
    report = network.storm.report(network.now)
    assert (report["bound"], report["all_bound_after_s"]) == (200, 0.001)
    assert report["answer_ms"]["p99"] == 1.0


def test_what_is_lost_is_asked_again() -> None:
    network = Network(plan(), loss=0.2).run(1000)
    assert network.storm.bound == 200
    assert network.counts["requests again"] > 50
    assert "sets given to two" not in network.counts


def test_they_start_over_the_time_that_is_given() -> None:
    network = Network(plan(ramp=100.0)).run(49.9)
    assert network.storm.bound == 100


def test_they_renew() -> None:
    network = Network(plan(lifetime=120)).run(1000)
    assert network.storm.bound == 200
    # Each between 60 and 75 s after the one before.
    assert 200 * 1000 // 75 <= network.counts["renewals"] <= 200 * 1000 // 60
    assert network.counts["grants"] == 200


def test_without_answers_their_sets_run_out() -> None:
    network = Network(plan(lifetime=120)).run(1)
    network.loss = 1.0
    network.run(130)
    assert network.storm.bound == 0
    assert network.counts["ran out"] == 200


def test_they_move_within_their_prefix_and_keep_their_sets() -> None:
    network = Network(plan(moves=10.0), min_change_interval_s=0).run(60)
    assert network.counts["moves"] == 599
    assert network.storm.bound == 200
    assert "sets that changed" not in network.counts


def test_they_reboot_and_keep_their_sets() -> None:
    network = Network(plan(reboots=10.0)).run(60)
    assert (network.counts["reboots"], network.storm.bound) == (599, 200)
    assert "sets that changed" not in network.counts


def test_a_reboot_that_loses_the_nonce_is_refused() -> None:
    network = Network(plan(reboots=1.0, forgetful=1.0)).run(10.5)
    assert network.counts["refused: NOT_AUTHORIZED"] == network.counts["reboots"] == 10
    assert network.storm.bound == 190


def test_sets_that_run_short_are_refused_to_the_rest() -> None:
    network = Network(plan(), pools=(pcp_world.pool("10.0.0.0/30", 5),)).run(1)
    free = 4 * 30  # without the two sets that hold ports 0-1023 and 5350-5351
    assert network.storm.bound == free
    assert network.counts["refused: NO_RESOURCES"] == 200 - free


def test_an_announcement_of_a_loss_brings_all_of_them_back_within_five_seconds() -> None:
    network = Network(plan()).run(100)
    network.server = network.made_server()
    for number in range(200):
        network.announce(number, 0)
        network.announce(number, 0)  # a second copy
    assert network.storm.bound == 0
    network.run(5.1)
    assert network.storm.bound == 200
    assert network.counts["losses of state"] == 1
    assert network.counts["requests"] == 400
    assert "sets given to two" not in network.counts
    for number in range(200):
        network.announce(number, 5)  # a late copy
    assert network.storm.bound == 200


def test_code5_brings_one_back() -> None:
    network = Network(plan(10)).run(1)
    error = b"\x01\x05" + bytes(46)
    packet = PACKETS["PCPP-06"][:24] + network.storm.address(3) + error
    network.storm.receive(packet, network.now)
    assert network.storm.bound == 9
    network.run(5)
    assert (network.storm.bound, network.counts["ICMPv6 1/5"]) == (10, 1)


def test_a_set_that_is_given_to_two_is_seen() -> None:
    network = Network(plan(2))
    for packet in network.storm.take(0.0, 2):
        punted = framing.strip(packet)
        assert punted is not None
        answer = codec.decode_response(bytes.fromhex(
            "02810000 00001c20 000003e8" + "00" * 12 + punted.payload[24:36].hex() + "00000000 0001 6800"
            + address16(IPv4Address("10.0.0.1")).hex() + "82000005 0800 6800 00000000"))  # fmt: skip
        assert isinstance(answer, codec.MapResponse)
        network.storm.receive(framing.reply(punted, codec.encode_response(answer)), 0.1)
    assert network.counts["sets given to two"] == 1


# --- packets ---------------------------------------------------------------------------------------------------------


def test_the_request_is_the_example() -> None:
    """But for the identification and the flags of the inner header, and its checksum."""
    example = PACKETS["PCPP-01"]
    made = Requests(AFTR.packed, 49152, 7200).make(example[8:24], bytes(range(12)))
    assert made[:44] + made[48:50] + made[52:] == example[:44] + example[48:50] + example[52:]
    assert framing.strip(made) == framing.strip(example)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=12, max_size=12), st.integers(0, 65535),
       st.binary(min_size=4, max_size=4), st.integers(1, 65535), st.integers(0, 2**32 - 1))  # fmt: skip
def test_requests_are_whole(
    source: bytes, nonce: bytes, port: int, address: bytes, client_port: int, lifetime: int
) -> None:
    packet = Requests(AFTR.packed, client_port, lifetime).make(source, nonce, port, IPV4_MAPPED + address)
    punted = framing.strip(packet)
    assert punted is not None
    assert (punted.tunnel, punted.source_port) == (source, client_port)
    request = codec.decode_request(punted.payload, IPV4_MAPPED + punted.source)
    assert isinstance(request, codec.MapRequest)
    assert (request.nonce, request.external_port, request.external) == (nonce, port, IPV4_MAPPED + address)


READ = [
    ("PCPP-02", Answer(0, 7200, 1000, bytes(range(12)), 26624, IPV4_MAPPED + bytes([192, 0, 2, 5]), 2048)),
    ("PCPP-03", Announcement(0)),
    ("PCPP-06", Unbound()),
]


@pytest.mark.parametrize("name, told", READ)
def test_what_is_told(name: str, told: Any) -> None:
    assert storm_packets.read(PACKETS[name]) == (PACKETS[name][24:40], told)


def test_no_packet_that_is_damaged_is_believed() -> None:
    packet = PACKETS["PCPP-02"]
    for at in range(48, len(packet)):
        damaged = packet[:at] + bytes([packet[at] ^ 0x10]) + packet[at + 1 :]
        assert storm_packets.read(damaged) is None, at


@given(st.binary(max_size=120), st.sampled_from([name for name, _ in READ]), st.integers(0, 140))
def test_any_octets_are_read_or_not(octets: bytes, name: str, kept: int) -> None:
    storm_packets.read(PACKETS[name][:kept] + octets)


# --- what it is started with -----------------------------------------------------------------------------------------

BASE = ["--aftr", "2001:db8::1", "--prefix", "2001:db8:8000::/33"]
WRONG = [
    ([], "give --tun"),
    (["--tun", "a", "--interface", "b"], "give --tun"),
    (["--interface", "b"], "with --router-mac"),
    (["--interface", "b", "--router-mac", "02:00"], "not a MAC address"),
    (["--tun", "a", "--count", "0"], "0"),
    (["--tun", "a", "--prefix", "2001:db8::/48"], "has room for 256 subscribers"),
    (["--tun", "a", "--prefix", "2001:db8::/64", "--count", "1"], "has room for 1 subscribers"),
    (["--tun", "a", "--aftr", "x"], "x"),
]


@pytest.mark.parametrize("arguments, said", WRONG)
def test_wrong_options(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(b4_storm, [*BASE, *arguments])
    assert result.exit_code == 2
    assert said in result.output
