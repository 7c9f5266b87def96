"""The PCP server of the lwAFTR: what a B4 asks, what it is told, what is bound. The traps have their names."""

from __future__ import annotations

from ipaddress import IPv4Address

import numpy as np
import pytest

from pylwaftr.pcp import codec
from pylwaftr.pcp.numbers import FOREVER, IPV4_MAPPED, NO_IPV6, Result
from pylwaftr.pcp.options import Description, PortSet, PreferFailure
from pylwaftr.pcp.pool import key_of
from pylwaftr.pcp.server import PcpServer, promises
from tests.pcp_world import (
    A_MOVED,
    BR,
    INSIDE,
    NO_ADDRESS,
    NONCE,
    NOW,
    OTHER_NONCE,
    SHARED,
    A,
    B,
    ask,
    ask_port,
    bound,
    given,
    others,
    pool,
    row,
    said,
    server,
    tunnel,
)

ADDRESS = "192.0.2.5"


def provisioned(**changed: object) -> PcpServer:
    """A has PSID 1: ports 2048 to 4095."""
    made = server(**changed)
    assert given(made.receive(ask(), tunnel(), NOW)) == (ADDRESS, 2048, 2048)
    return made


# --- traps, in the order of what they cost --------------------------------------------------------------------------


def test_trap_a_subscriber_is_its_tunnel_for_every_b4_is_192_0_0_2() -> None:
    made = server()
    first, second = (made.receive(ask(), tunnel(b4), NOW) for b4 in (A, B))
    assert given(first) != given(second)
    assert bound(first.bind) + bound(second.bind) == [(ADDRESS, 1, A), (ADDRESS, 3, B)]


def test_trap_protocol_0_with_port_1_is_malformed_and_canonical() -> None:
    made = server()
    assert said(made.receive(ask_port(1, protocol=0), tunnel(), NOW)).result == Result.MALFORMED_REQUEST
    assert said(made.receive(ask(1), tunnel(), NOW)).result == Result.SUCCESS


def test_trap_renewing_1_2048_is_another_range_than_1_65535_and_the_same_mapping() -> None:
    made = provisioned()
    outcome = made.receive(ask(1, 1024), tunnel(), NOW + 60)  # ports 1-1024 do not meet 2048-4095
    assert given(outcome) == (ADDRESS, 2048, 2048)
    assert not len(outcome.bind)
    assert made.active == 1


def test_trap_a_new_nonce_after_a_reboot_is_locked_out_for_the_rest_of_the_lifetime() -> None:
    made = provisioned()
    refused = said(made.receive(ask(nonce=OTHER_NONCE), tunnel(), NOW + 1200))
    assert (refused.result, refused.lifetime) == (Result.NOT_AUTHORIZED, 6000)
    assert given(made.receive(ask(), tunnel(), NOW + 1200)) == (ADDRESS, 2048, 2048)  # the kept one is served


@pytest.mark.parametrize(
    "datagram, answered",
    [(b"\x00\x00", True), (b"\x07\x01\x02\x03\x04", True), (b"\x02\x01" + bytes(18), False), (b"\x02", False)],
    ids=["NAT-PMP, 2 octets", "version 7, 5 octets", "version 2, 20 octets", "one octet"],
)
def test_trap_version_before_length(datagram: bytes, answered: bool) -> None:
    reply = server().receive(datagram, tunnel(), NOW).reply
    assert (reply is not None) is answered
    if reply is not None:
        assert (reply[0], reply[3], len(reply)) == (2, Result.UNSUPP_VERSION, 24)


def test_trap_the_reserved_bits_of_an_error_are_the_client_address_left_where_it_was() -> None:
    reply = server().receive(ask() + b"\x82\x00\x00\x63", tunnel(), NOW).reply
    assert reply is not None
    assert reply[12:24] == INSIDE[4:]


def test_trap_port_set_has_padding() -> None:
    asked = ask(options=[Description(b"seven..")])
    outcome = server().receive(asked[:60] + asked[72:] + asked[60:72], tunnel(), NOW)  # PORT_SET in front
    assert given(outcome) == (ADDRESS, 2048, 2048)
    assert codec.option(said(outcome).options, Description) == Description(b"seven..")


def test_trap_prefer_failure_is_forbidden_with_port_set() -> None:
    hint = (SHARED, 2048)
    refused = said(server().receive(ask(hint=hint, options=[PreferFailure()]), tunnel(), NOW))
    assert refused.result == Result.MALFORMED_OPTION


@pytest.mark.parametrize("psid_len", [3, 5, 6, 8])
def test_trap_sets_with_ports_0_to_1023_or_those_of_pcp_are_never_granted(psid_len: int) -> None:
    made = server(pools=(pool(psid_len=psid_len),))
    size = 65536 >> psid_len
    for number in range(1 << psid_len):
        b4 = A[:4] + number.to_bytes(2) + A[6:]
        for hint in (0, 5350, 5351, 1023):
            reply = said(made.receive(ask(hint=(SHARED, hint)), tunnel(b4), NOW))
            if reply.result:
                assert reply.result == Result.NO_RESOURCES
                continue
            ports = range(reply.external_port, reply.external_port + size)
            assert not {0, 1023, 5350, 5351} & set(ports)
    assert made.active == made.pools()[0].sets


@pytest.mark.parametrize("external", [(NO_ADDRESS, 0), (NO_IPV6, 0), (SHARED, 2048)], ids=["IPv4", "IPv6", "assigned"])
def test_trap_a_repeated_delete_looks_the_same(external: tuple[bytes, int]) -> None:
    made = provisioned()
    delete = ask(lifetime=0, hint=external)
    first = made.receive(delete, tunnel(), NOW)
    assert bound(first.unbind) == [(ADDRESS, 1, A)]
    again = made.receive(delete, tunnel(), NOW)
    assert again.reply == first.reply
    assert again.changes_nothing
    assert (said(first).external, said(first).external_port) == external


def test_trap_the_port_of_the_client_is_kept_for_what_is_sent_unasked() -> None:
    made = provisioned()
    made.receive(ask(), tunnel(port=50001), NOW + 1)
    ((_, mapping),) = made.mappings(A)
    assert mapping.client_port == 50001


# --- sets ------------------------------------------------------------------------------------------------------------

HINTS = [
    # what, suggested address and port, first port granted
    ("none", NO_ADDRESS, 0, 2048),
    ("free", SHARED, 40960, 40960),
    ("not aligned", SHARED, 41000, 40960),
    ("taken", SHARED, 6144, 2048),
    ("with 5350", SHARED, 5350, 2048),
    ("no address of ours", IPV4_MAPPED + bytes([203, 0, 113, 1]), 40960, 2048),
    ("loopback", IPV4_MAPPED + bytes([127, 0, 0, 1]), 40960, 2048),
    ("multicast", IPV4_MAPPED + bytes([224, 0, 0, 1]), 40960, 2048),
    ("IPv6", bytes(15) + b"\x01", 40960, 2048),
    ("address without a port", SHARED, 0, 2048),
]


@pytest.mark.parametrize("what, address, port, granted", HINTS, ids=[row[0] for row in HINTS])
def test_a_suggestion_is_granted_or_does_no_harm(what: str, address: bytes, port: int, granted: int) -> None:
    made = server()
    made.reserve(others([3]), NOW)
    assert given(made.receive(ask(hint=(address, port)), tunnel(), NOW)) == (ADDRESS, granted, 2048)


def test_a_hint_at_an_address_is_a_set_of_it() -> None:
    made = server(pools=(pool("192.0.2.4/30"),))
    hint = (IPV4_MAPPED + IPv4Address("192.0.2.7").packed, 0)
    assert given(made.receive(ask(hint=hint), tunnel(), NOW)) == ("192.0.2.7", 2048, 2048)


def test_draft_b_leaves_the_first_internal_port_as_it_was_asked() -> None:
    made = server(pools=(pool(signalling="draft-b"),))
    for _ in range(2):  # granted, renewed
        reply = said(made.receive(ask(), tunnel(), NOW))
        assert (reply.internal_port, reply.external_port) == (1, 2048)
        assert reply.options == (PortSet(2048, 1),)


def test_one_port_is_no_set() -> None:
    made = server(pools=(pool(psid_len=16),))
    for _ in range(2):
        reply = said(made.receive(ask(), tunnel(), NOW))
        assert (reply.external_port, reply.options) == (1024, ())


def test_parity_is_kept() -> None:
    assert said(server().receive(ask(parity=True), tunnel(), NOW)).options == (PortSet(2048, 2048, True),)


@pytest.mark.parametrize("first, size, result", [(1, 100, 8), (60000, 3000, 8), (30000, 4096, 0), (0, 65535, 0)])
def test_only_a_set_within_the_internal_ports(first: int, size: int, result: int) -> None:
    reply = said(server().receive(ask(first, size), tunnel(), NOW))
    assert reply.result == result
    assert reply.internal_port == first
    if not result:
        assert max(first, 1) <= reply.external_port <= first + size - 2048


def test_further_sets_lie_on_the_address_of_the_first_or_nowhere() -> None:
    made = server(pools=(pool("192.0.2.4/30"),), max_sets=3)
    assert given(made.receive(ask(), tunnel(), NOW)) == ("192.0.2.4", 2048, 2048)
    assert given(made.receive(ask(8192, 57344), tunnel(), NOW)) == ("192.0.2.4", 8192, 2048)
    made.reserve(others(range(5, 32), "192.0.2.4"), NOW)
    refused = said(made.receive(ask(20480, 45056), tunnel(), NOW))
    assert (refused.result, refused.lifetime) == (Result.NO_RESOURCES, 30)


def test_sets_beyond_the_quota_are_refused() -> None:
    made = provisioned(max_sets=2)
    given(made.receive(ask(8192, 57344), tunnel(), NOW))
    refused = said(made.receive(ask(30000, 30000), tunnel(), NOW))
    assert (refused.result, refused.lifetime) == (Result.USER_EX_QUOTA, 30)


# --- what is there ---------------------------------------------------------------------------------------------------


def test_one_request_refreshes_all_that_it_meets_each_with_an_answer_of_its_own() -> None:
    made = provisioned(max_sets=2)
    given(made.receive(ask(8192, 57344), tunnel(), NOW))
    outcome = made.receive(ask(9000, 50000), tunnel(), NOW + 60)  # meets the second only, which does hold port 9000
    assert given(outcome) == (ADDRESS, 8192, 2048)
    assert not outcome.more
    outcome = made.receive(ask(2, 20000), tunnel(), NOW + 60)
    assert given(outcome) == (ADDRESS, 2048, 2048)
    assert said(outcome).internal_port == 2
    ((index, further),) = outcome.more
    second = codec.decode_response(further)
    assert isinstance(second, codec.MapResponse)
    assert (index, second.internal_port, second.external_port, second.nonce) == (0, 8192, 8192, NONCE)
    assert second.options == (PortSet(2048, 8192),)
    assert made.active == 2


def test_no_more_than_sixteen_answers_to_one_request() -> None:
    made = server(pools=(pool(psid_len=8),), max_sets=30)
    for number in range(20):
        first = 10240 + number * 256
        assert given(made.receive(ask(first, 256), tunnel(), NOW))[1] == first
    outcome = made.receive(ask(10200, 40000), tunnel(), NOW)
    assert 1 + len(outcome.more) == 16


PLAIN = [
    # what, port, protocol, lifetime, nonce, options and hint, result, lifetime of the answer
    ("a port of the own set", 2100, 17, 600, NONCE, {}, 0, 600),
    ("of another protocol", 2100, 132, 600, NONCE, {}, 0, 600),
    ("outside", 5000, 17, 600, NONCE, {}, Result.NOT_AUTHORIZED, 1800),
    ("with another nonce", 2100, 17, 600, OTHER_NONCE, {}, Result.NOT_AUTHORIZED, 7200),
    ("all ports", 0, 17, 600, NONCE, {}, Result.UNSUPP_PROTOCOL, 1800),
    ("all ports of all protocols", 0, 0, 600, NONCE, {}, Result.UNSUPP_PROTOCOL, 1800),
    ("no other port or none at all", 2100, 17, 600, NONCE,
     {"options": [PreferFailure()], "external_port": 2101, "external": SHARED}, Result.CANNOT_PROVIDE_EXTERNAL, 30),
    ("this port or none at all", 2100, 17, 600, NONCE,
     {"options": [PreferFailure()], "external_port": 2100, "external": SHARED}, 0, 600),
    ("another suggestion, without insisting", 2100, 17, 600, NONCE, {"external_port": 9, "external": SHARED}, 0, 600),
    ("deleting one port", 2100, 17, 0, NONCE, {}, 0, 0),
    ("deleting one port with another nonce", 2100, 17, 0, OTHER_NONCE, {}, Result.NOT_AUTHORIZED, 7200),
]  # fmt: skip


@pytest.mark.parametrize("row", PLAIN, ids=[row[0] for row in PLAIN])
def test_a_single_port_has_no_state_of_its_own(
    row: tuple[str, int, int, int, bytes, dict[str, object], int, int],
) -> None:
    _, port, protocol, lifetime, nonce, more, result, answered = row
    made = provisioned()
    outcome = made.receive(ask_port(port, protocol, lifetime, nonce, **more), tunnel(), NOW)  # type: ignore[arg-type]
    reply = said(outcome)
    assert (reply.result, reply.lifetime) == (result, answered)
    if not result and lifetime:
        assert (reply.external_port, reply.external) == (port, SHARED)
    assert not len(outcome.unbind)
    assert made.active == 1


def test_all_ports_of_a_whole_address_can_be_had() -> None:
    made = server(pools=(pool("192.0.2.6/32", 0),))
    assert given(made.receive(ask(), tunnel(), NOW)) == ("192.0.2.6", 1, 65535)
    reply = said(made.receive(ask_port(0, 0), tunnel(), NOW))
    assert (reply.result, reply.external_port) == (0, 0)


def test_a_set_is_deleted_by_a_request_for_a_set_only() -> None:
    made = provisioned()
    assert said(made.receive(ask_port(2048, 0, 0), tunnel(), NOW)).result == Result.MALFORMED_REQUEST
    assert made.receive(ask_port(2048, 17, 0), tunnel(), NOW).changes_nothing
    assert bound(made.receive(ask(2100, 9, 0), tunnel(), NOW).unbind) == [(ADDRESS, 1, A)]  # any part means all


def test_a_description_is_kept_cut_and_erased() -> None:
    made = server()
    texts = [(b"cam\xc3\xa9ra", b"cam\xc3\xa9ra"), (b"x" * 127 + b"\xc3\xa9", b"x" * 127), (b"", b"")]
    for sent, kept in texts:
        reply = said(made.receive(ask(options=[Description(sent)]), tunnel(), NOW))
        assert codec.option(reply.options, Description) == Description(kept)
        ((_, mapping),) = made.mappings(A)
        assert mapping.description == kept
    made.receive(ask(options=[Description(b"stays")]), tunnel(), NOW)
    made.receive(ask(), tunnel(), NOW)  # a renewal without one leaves it
    ((_, mapping),) = made.mappings(A)
    assert mapping.description == b"stays"


# --- bindings of others ----------------------------------------------------------------------------------------------

STATIC = [
    # what, request, result, lifetime, external port, size
    ("a set is asked for", ask(), 0, FOREVER, 26624, 2048),
    ("with any nonce", ask(nonce=OTHER_NONCE), 0, FOREVER, 26624, 2048),
    ("deleted", ask(lifetime=0), Result.NOT_AUTHORIZED, 1800, 0, 65535),
    ("one port of it", ask_port(26700), 0, FOREVER, 26700, None),
    ("one port elsewhere", ask_port(4000), Result.NOT_AUTHORIZED, 1800, 0, None),
    ("all ports", ask_port(0, 0), Result.UNSUPP_PROTOCOL, 1800, 0, None),
    ("a range beside it: it counts as the one set that may be", ask(1, 4096), Result.USER_EX_QUOTA, 30, 0, 4096),
]


@pytest.mark.parametrize("what, request_, result, lifetime, port, size", STATIC, ids=[row[0] for row in STATIC])
def test_a_static_binding_is_reported_and_never_changed(
    what: str, request_: bytes, result: int, lifetime: int, port: int, size: int | None
) -> None:
    made = server()
    made.reserve(row(ADDRESS, 13, A), NOW)
    outcome = made.receive(request_, tunnel(), NOW)
    reply = said(outcome)
    ports = codec.option(reply.options, PortSet)
    assert (reply.result, reply.lifetime, reply.external_port) == (result, lifetime, port)
    assert (ports.size if ports else None) == size
    assert outcome.changes_nothing


def test_of_a_static_set_of_several_ranges_the_first_is_told() -> None:
    made = server()
    made.reserve(row("203.0.113.9", 3, A, psid_len=8, offset=6), NOW)
    assert given(made.receive(ask(), tunnel(), NOW)) == ("203.0.113.9", 1024 + 12, 4)


def test_who_has_a_static_binding_gets_no_second_softwire() -> None:
    made = server(max_sets=5)
    made.reserve(row("203.0.113.9", 3, A), NOW)
    assert said(made.receive(ask(), tunnel(A_MOVED), NOW)).result == Result.USER_EX_QUOTA


def test_a_binding_of_others_displaces_a_mapping() -> None:
    made = provisioned()
    outcome = made.reserve(row(ADDRESS, 1, B), NOW)
    assert [event.kind for event in outcome.events] == ["displaced"]
    assert bound(outcome.unbind) == [(ADDRESS, 1, A)]
    assert given(made.receive(ask(), tunnel(), NOW)) == (ADDRESS, 6144, 2048)
    made.unreserve(row(ADDRESS, 1, B), NOW)
    hint = (SHARED, 2048)
    assert given(made.receive(ask(hint=hint), tunnel(B), NOW)) == (ADDRESS, 8192, 2048)  # rests as any other
    far = B[:4] + b"\x99\x99" + B[6:]
    assert given(made.receive(ask(hint=hint), tunnel(far), NOW + 7440)) == (ADDRESS, 2048, 2048)


@pytest.mark.parametrize("mask", [24, 56, 64, 100, 128])
def test_many_static_bindings_are_found_by_their_b4(mask: int) -> None:
    made = server(mask=mask, max_sets=10**6, max_softwires=10**6)
    many = np.zeros(20_000, row(ADDRESS, 1, A).dtype)
    many["ipv4"], many["psid_len"], many["psid"] = int(IPv4Address("203.0.113.0")) + np.arange(20_000) // 50, 6, 7
    many["psid"] = np.arange(20_000) % 50
    numbers = np.arange(20_000, dtype=">u4").view(np.uint8).reshape(-1, 4)
    many["b4"][:, 12 if mask > 64 else 4 :][:, :4] = numbers  # beyond 64 bits all share the first half
    many["b4"][:, 0], many["br"] = 0x20, np.frombuffer(BR, np.uint8)
    made.reserve(many, NOW)
    made.unreserve(many[77:78], NOW)
    for index in (0, 5000, 19_999):
        reply = said(made.receive(ask(), tunnel(many[index]["b4"].tobytes()), NOW))
        assert reply.lifetime == FOREVER
        assert reply.external_port == 1024 * (index % 50) or index % 50 == 0
    assert said(made.receive(ask(), tunnel(many[77]["b4"].tobytes()), NOW)).lifetime == 7200


# --- what an answer promises ------------------------------------------------------------------------------------------

ONE_PORT = ask_port(3000, protocol=6)
PROMISES = [  # the request, PSID of the set in question, whether the answer to A, who has PSID 1, promises of it
    ("a renewal", ask(), 1, True),
    ("of another set", ask(), 2, False),
    ("a port", ONE_PORT, 1, True),
    ("a port of another set", ONE_PORT, 2, False),
    ("an end", ask(lifetime=0), 1, False),
    ("a refusal", ask(nonce=OTHER_NONCE), 1, False),
    ("an opcode that nobody knows", bytes((2, 77)) + ask()[2:], 1, False),
    ("another version", bytes((9,)) + ask()[1:], 1, False),
]


@pytest.mark.parametrize("what, request_, psid, promised", PROMISES, ids=[row[0] for row in PROMISES])
def test_what_an_answer_promises(what: str, request_: bytes, psid: int, promised: bool) -> None:
    reply = provisioned().receive(request_, tunnel(), NOW + 1).reply
    assert reply is not None
    assert promises(reply, [key_of(int(IPv4Address(ADDRESS)), 5, psid)]) is promised
    assert not promises(reply, [key_of(int(IPv4Address(ADDRESS)) + 1, 5, psid)])
    assert not promises(reply, [])


def test_a_b4_for_which_nothing_can_be_bound_gets_and_moves_nothing() -> None:
    made = provisioned(max_softwires=2)
    batch = [(ask(), tunnel(A_MOVED)), (ask(), tunnel(B)), (ask(), tunnel())]
    barred = {A_MOVED: Result.NOT_AUTHORIZED, B: Result.NO_RESOURCES}
    outcome = made.receive_many(batch, NOW + 1, barred)
    results = [codec.decode_response(reply).result for reply in outcome.replies if reply is not None]  # type: ignore[union-attr]
    assert results == [Result.NOT_AUTHORIZED, Result.NO_RESOURCES, Result.SUCCESS]
    assert (len(outcome.bind), len(outcome.unbind)) == (0, 0)
    assert bound(made.receive_many(batch[1:], NOW + 2).bind) == [(ADDRESS, 3, B)]  # it is about one batch
