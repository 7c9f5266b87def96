"""The lwB4's PCP server for its LAN: the examples by name, what hosts see, what becomes rules, any octets at all."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.b4 import nft
from pylwaftr.b4.lan_mappings import LanMapping
from pylwaftr.b4.nft import Forward
from pylwaftr.b4.provisioning import Assignment
from pylwaftr.b4.proxy import ALL_HOSTS, Outcome, Proxy, ProxyOptions
from pylwaftr.b4.softwire import PortRanges
from pylwaftr.pcp import codec
from pylwaftr.pcp.codec import AnnounceRequest, MapRequest, MapResponse, PeerRequest, PeerResponse
from pylwaftr.pcp.numbers import FOREVER, NO_IPV4, Result, address16
from pylwaftr.pcp.options import Filter, PreferFailure
from tests.test_vectors_pcp import DATA, by_name

HOST, OTHER_HOST = IPv4Address("192.168.1.10"), IPv4Address("192.168.1.11")
PUBLIC, REMOTE = IPv4Address("192.0.2.5"), IPv4Address("198.51.100.9")
CLIENT = (HOST, 49152)
NONCE = bytes(range(0xC0, 0xCC))
NOW = 5000.0
SET = Assignment(PUBLIC, PortRanges(((26624, 28671),)), NOW + 6000)


def proxy(options: ProxyOptions | None = None, assignment: Assignment | None = SET, *static: Forward) -> Proxy:
    made = Proxy(options or ProxyOptions(), NOW, static)
    made.use(assignment, NOW)
    made.datagrams_to_send(NOW + 1e6)
    return made


def udp(port: int = 8080, lifetime: int = 600, outside: int = 0, host: IPv4Address = HOST, **fields: Any) -> MapRequest:
    given: dict[str, Any] = {"nonce": NONCE, "protocol": 17} | fields
    given = {"external": address16(PUBLIC) if outside else NO_IPV4} | given
    return MapRequest(lifetime, address16(host), internal_port=port, external_port=outside, **given)


def peer(port: int = 40000, lifetime: int = 600, outside: int = 0, remote: IPv4Address = REMOTE) -> PeerRequest:
    return PeerRequest(lifetime, address16(HOST), NONCE, 17, port, 443, address16(remote), outside)


def ask(server: Proxy, request: codec.Request, now: float = NOW, host: IPv4Address = HOST) -> Any:
    outcome = server.receive(codec.encode_request(request), (host, 49152), now)
    assert outcome.reply is not None
    return codec.decode_response(outcome.reply)


# --- examples --------------------------------------------------------------------------------------------------------


@by_name([vector for vector in DATA["vectors"] if vector["role"] == "lwb4-lan"])
def test_example(vector: dict[str, Any]) -> None:
    given = vector["config_overrides"]
    options = ProxyOptions(max_filters=given.get("max_filters", 8), reserve=0 if given.get("pool_free") == 0 else 256)
    server = Proxy(options, NOW - 1000)
    server.use(None if given.get("pool", SET) is None else SET, NOW)
    server._epoch_began = NOW - vector["server_epoch"]
    for before in vector.get("state_before", ()):
        nonce, port = bytes.fromhex(before["nonce"]), before["external_set"][0]
        server._mappings.put(
            LanMapping(HOST, before["protocol"], 8080, port, nonce, NOW + before["remaining"], CLIENT)
        )  # fmt: skip
    outcome = server.receive(bytes.fromhex(vector["request_hex"]), CLIENT, NOW)
    (expected,) = vector["responses"]
    wanted, said = bytes.fromhex(expected["hex"]), expected["decoded"]
    assert outcome.reply is not None
    got = outcome.reply
    if not said["result_code"] and not vector["request"]["external_port"]:
        assert 26624 <= int.from_bytes(got[42:44]) <= 28671
        got, wanted = got[:42] + got[44:], wanted[:42] + wanted[44:]
    assert got.hex() == wanted.hex()


# --- what hosts see --------------------------------------------------------------------------------------------------


def test_the_same_request_again_is_the_same_mapping() -> None:
    server = proxy()
    first, second = ask(server, udp()), ask(server, udp(), NOW + 10)
    assert first.external_port == second.external_port
    assert len(server.forwards()) == 1


REFUSED: list[tuple[str, codec.Request, Result, int]] = [  # what, request, result, lifetime
    ("all protocols", udp(0, protocol=0), Result.UNSUPP_PROTOCOL, 1800),
    ("all ports", udp(0), Result.UNSUPP_PROTOCOL, 1800),
    ("SCTP", udp(protocol=132), Result.UNSUPP_PROTOCOL, 1800),
    ("another nonce", udp(nonce=bytes(12)), Result.NOT_AUTHORIZED, 600),
    ("a deletion with another nonce", udp(lifetime=0, nonce=bytes(12)), Result.NOT_AUTHORIZED, 600),
    ("another port or none", udp(outside=26700, options=(PreferFailure(),)), Result.CANNOT_PROVIDE_EXTERNAL, 30),
    ("a port that is not ours", udp(1, outside=80, options=(PreferFailure(),)), Result.CANNOT_PROVIDE_EXTERNAL, 30),
    ("an address that is not ours", udp(1, outside=26700, external=address16(REMOTE), options=(PreferFailure(),)),
     Result.CANNOT_PROVIDE_EXTERNAL, 30),
    ("PEER to an IPv6 address", peer()._replace(remote=bytes(15) + b"\1"), Result.UNSUPP_PROTOCOL, 1800),
    ("an IPv6 filter", udp(options=(Filter(64, 0, bytes([32] * 16)),)), Result.MALFORMED_OPTION, 1800),
]  # fmt: skip


@pytest.mark.parametrize("what, request_, result, lifetime", REFUSED, ids=[row[0] for row in REFUSED])
def test_refused(what: str, request_: codec.Request, result: Result, lifetime: int) -> None:
    server = proxy()
    ask(server, udp())
    before = server.forwards()
    answer = ask(server, request_)
    assert (answer.result, answer.lifetime) == (result, lifetime)
    assert server.forwards() == before


SUGGESTED = [  # internal port, suggestion, what is given
    ("a port of the set", 26624, 26624),
    ("a port of the reserve", 28500, 28500),
    ("a port outside the set", 1024, 28416),
    ("none", 0, 28416),
]


@pytest.mark.parametrize("what, suggested, given_", SUGGESTED, ids=[row[0] for row in SUGGESTED])
def test_suggestion(what: str, suggested: int, given_: int) -> None:
    assert ask(proxy(), udp(outside=suggested)).external_port == given_


def test_a_taken_suggestion_is_no_failure() -> None:
    server = proxy()
    ask(server, udp(1, outside=28500))
    assert ask(server, udp(2, outside=28500)).external_port == 28416
    assert ask(server, udp(1, outside=28500, protocol=6)).external_port == 28500  # a port of another protocol


def test_ports_of_pcp_itself_are_never_mapped() -> None:
    server = proxy(assignment=Assignment(PUBLIC, PortRanges(((4096, 6143),)), NOW + 600))
    assert ask(server, udp(outside=5351)).external_port != 5351
    assert ask(server, udp(1, outside=5351, protocol=6)).external_port == 5351


LIFETIMES = [(10, 120), (600, 600), (7200, 6000), (FOREVER, 6000)]  # asked, given while the set lasts for 6000 s


@pytest.mark.parametrize("asked, given_", LIFETIMES)
def test_no_mapping_outlives_the_set(asked: int, given_: int) -> None:
    assert ask(proxy(), udp(lifetime=asked)).lifetime == given_


def test_deletions_are_answered_alike() -> None:
    server = proxy()
    ask(server, udp())
    answers = [server.receive(codec.encode_request(udp(lifetime=0)), CLIENT, NOW).reply for _ in range(2)]
    assert answers[0] == answers[1]
    assert server.forwards() == ()


def test_a_deletion_of_all_ports_takes_ones_own_only() -> None:
    server = proxy()
    ask(server, udp(1))
    ask(server, udp(2, nonce=bytes(12)))
    ask(server, udp(3, host=OTHER_HOST), host=OTHER_HOST)
    ask(server, udp(4, protocol=6))
    assert ask(server, udp(0, lifetime=0)).result == Result.SUCCESS
    assert sorted(forward.inside_port for forward in server.forwards()) == [2, 3, 4]


def test_quota_of_a_host_and_end_of_the_reserve() -> None:
    server = proxy(ProxyOptions(reserve=4, per_host=3))
    results = [ask(server, udp(port)).result for port in range(1, 5)]
    assert results == [0, 0, 0, Result.USER_EX_QUOTA]
    assert server.wants_more() is False
    assert ask(server, udp(1, host=OTHER_HOST), host=OTHER_HOST).result == Result.SUCCESS
    assert ask(server, udp(2, host=OTHER_HOST), host=OTHER_HOST).result == Result.NO_RESOURCES
    assert server.wants_more() is True


def test_the_napt_keeps_out_of_the_reserve() -> None:
    assert list(proxy().napt_ports().ranges()) == [(26624, 28415)]


def test_peer_shares_the_port_of_a_mapping() -> None:
    server = proxy()
    port = ask(server, udp(40000)).external_port
    answer = ask(server, peer())
    assert isinstance(answer, PeerResponse)
    assert (answer.external_port, answer.remote_port, answer.remote) == (port, 443, address16(REMOTE))
    assert ask(server, peer(outside=port + 1)).result == Result.CANNOT_PROVIDE_EXTERNAL
    # The mapping is open for all, so the peer makes it no narrower.
    assert server.forwards() == (Forward("udp", port, HOST, 40000),)


def test_peer_neither_shortens_nor_deletes() -> None:
    server = proxy()
    ask(server, peer(lifetime=600))
    assert ask(server, peer(lifetime=200), NOW + 100).lifetime == 500
    assert ask(server, peer(lifetime=0), NOW + 100).lifetime == 500
    assert ask(server, peer(1, lifetime=0)).lifetime == 0


def test_a_peer_opens_for_that_remote_only() -> None:
    server = proxy()
    port = ask(server, peer()).external_port
    ask(server, peer(remote=PUBLIC))
    hosts = ((IPv4Network("198.51.100.9"), 443), (IPv4Network("192.0.2.5"), 443))
    assert server.forwards() == (Forward("udp", port, HOST, 40000, hosts),)


def test_filters_add_up_until_they_are_removed() -> None:
    server = proxy()
    one, two = Filter(120, 0, address16(IPv4Address("198.51.100.0"))), Filter(128, 53, address16(REMOTE))
    ask(server, udp(options=(one,)))
    ask(server, udp(options=(two, one)))
    assert server.forwards()[0].remotes == ((IPv4Network("198.51.100.0/24"), 0), (IPv4Network(REMOTE), 53))
    ask(server, udp(options=(Filter(0, 0, NO_IPV4),)))
    assert server.forwards()[0].remotes == ()


def test_too_many_filters_change_nothing() -> None:
    server = proxy(ProxyOptions(max_filters=1))
    filters = tuple(Filter(128, port, address16(REMOTE)) for port in (1, 2))
    assert ask(server, udp(options=filters)).result == Result.EXCESSIVE_REMOTE_PEERS
    assert server.forwards() == ()


STATIC = Forward("udp", 27000, HOST, 8080)


def test_a_configured_mapping() -> None:
    server = proxy(None, SET, STATIC)
    answer = ask(server, udp())
    assert (answer.external_port, answer.lifetime, answer.nonce) == (27000, FOREVER, NONCE)
    assert ask(server, udp(lifetime=0)).result == Result.NOT_AUTHORIZED
    assert ask(server, udp(1, outside=27000)).external_port != 27000
    assert STATIC in server.forwards()


def test_mappings_end() -> None:
    server = proxy()
    ask(server, udp(lifetime=600))
    assert server.timer() == NOW + 600
    assert server.handle_timer(NOW + 599) is False
    assert server.handle_timer(NOW + 600) is True
    assert server.forwards() == ()


def test_a_mapping_whose_rules_cannot_be_made_is_none() -> None:
    server = proxy()
    ask(server, udp(1))
    before = server.forwards()
    filtered = udp(1, options=(Filter(128, 0, address16(REMOTE)),))
    requests: list[codec.Request] = [udp(2), udp(1, lifetime=0), filtered]
    for request in requests:
        outcome = server.receive(codec.encode_request(request), CLIENT, NOW)
        assert outcome.changed
        server.revert(outcome)
        assert server.forwards() == before
        assert outcome.failure is not None
        assert outcome.failure[3] == Result.NO_RESOURCES


def test_a_renewal_needs_no_rules() -> None:
    server = proxy()
    ask(server, udp())
    assert server.receive(codec.encode_request(udp()), CLIENT, NOW + 9).changed is False


# --- when the set changes --------------------------------------------------------------------------------------------

ELSEWHERE = Assignment(IPv4Address("192.0.2.6"), PortRanges(((4096, 6143),)), NOW + 6000)


def test_the_epoch_is_the_proxys_own_and_counts() -> None:
    server = proxy()
    assert ask(server, AnnounceRequest(address16(HOST)), NOW + 77).epoch == 77


def test_another_set_is_announced_and_mappings_move() -> None:
    server = proxy()
    ask(server, udp(8080))
    assert server.use(ELSEWHERE, NOW + 100) is True
    sent = server.datagrams_to_send(NOW + 100)
    announcement, update = (codec.decode_response(datagram) for datagram, _ in sent)
    assert [to for _, to in sent] == [(ALL_HOSTS, 5350), CLIENT]
    assert announcement == codec.AnnounceResponse(0)
    assert isinstance(update, MapResponse)
    assert (update.external, update.external_port) == (address16(ELSEWHERE.ipv4), 5888)
    assert server.forwards() == (Forward("udp", 5888, HOST, 8080),)


def test_copies_are_spaced_and_carry_the_epoch_of_their_time() -> None:
    server = proxy()
    server.use(ELSEWHERE, NOW)
    epochs = []
    while (due := server.timer()) is not None:
        epochs += [(due - NOW, int.from_bytes(datagram[8:12])) for datagram, _ in server.datagrams_to_send(due)]
    gaps = [0, *(gap / 1000 for gap in DATA["timers"]["announce_burst_min_gap_ms"])]
    times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    assert epochs == [(time, int(time)) for time in times]


def test_what_must_keep_its_port_and_cannot_is_told_so() -> None:
    server = proxy()
    ask(server, udp(outside=26700, options=(PreferFailure(),)))
    server.use(ELSEWHERE, NOW)
    update = server.datagrams_to_send(NOW)[1][0]
    assert update[3] == Result.CANNOT_PROVIDE_EXTERNAL
    assert server.forwards() == ()


def test_the_same_set_again_is_no_news_for_the_lan() -> None:
    server = proxy()
    ask(server, udp())
    server.use(None, NOW + 10)
    assert ask(server, udp(2), NOW + 11).result == Result.NETWORK_FAILURE
    server.use(SET, NOW + 20)
    assert server.datagrams_to_send(NOW + 1000) == []
    assert ask(server, AnnounceRequest(address16(HOST)), NOW + 30).epoch == 30
    assert len(server.forwards()) == 1


# --- anything --------------------------------------------------------------------------------------------------------

REQUESTS = [codec.encode_request(row[1]) for row in REFUSED]


@given(st.binary(max_size=1200) | st.builds(lambda r, n, b: r[:n] + b, st.sampled_from(REQUESTS), st.integers(0, 90),
                                            st.binary(max_size=60)))  # fmt: skip
def test_any_octets_get_an_answer_or_none_and_garbage_changes_nothing(datagram: bytes) -> None:
    server = proxy()
    outcome = server.receive(datagram, CLIENT, NOW)
    if outcome.reply is not None:
        assert outcome.reply[1] & 0x80
        assert len(outcome.reply) % 4 == 0
    if outcome.reply is None or outcome.reply[3]:
        assert server.forwards() == ()
        assert outcome == Outcome(outcome.reply)


# --- rules -----------------------------------------------------------------------------------------------------------


def test_rules_of_a_filtered_mapping() -> None:
    forward = Forward("udp", 28000, HOST, 53, ((IPv4Network("198.51.100.0/24"), 0), (IPv4Network(REMOTE), 443)))
    rules = nft.ruleset("t", "lw4o6", PUBLIC, PortRanges(((26624, 28671),)), [forward])
    match = 'iifname "lw4o6" ct state new ct status dnat meta l4proto udp ct original proto-dst 28000'
    wanted = [
        f"{match} ip saddr 198.51.100.0/24 accept",
        f"{match} ip saddr 198.51.100.9/32 th sport 443 accept",
        f"{match} drop",
        'iifname "lw4o6" ct state new ct status dnat accept',
    ]
    found = [line.strip() for line in rules.splitlines() if line.strip() in wanted]
    assert found == wanted


SPLITS = [  # ranges, how many, what is kept, what is taken
    (((1, 10),), 3, [(1, 7)], [(8, 10)]),
    (((1, 10), (21, 22)), 3, [(1, 9)], [(10, 10), (21, 22)]),
    (((1, 10),), 0, [(1, 10)], []),
    (((1, 65535),), 2, [(0, 65535)], [(65534, 65535)]),
    ((), 4, [], []),
]


@pytest.mark.parametrize("ranges, count, kept, taken", SPLITS)
def test_ports_are_split(ranges: tuple[tuple[int, int], ...], count: int, kept: Any, taken: Any) -> None:
    first, second = PortRanges(ranges).split_off(count)
    assert (list(first.ranges()), list(second.ranges())) == (kept, taken)
