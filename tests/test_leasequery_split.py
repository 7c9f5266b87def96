"""Options of a lease in several instances are one (RFC 3396), in each profile that carries DHCPv4 messages."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.dhcp import codec4, codec6
from pylwaftr.dhcp.codec4 import Code, Malformed
from pylwaftr.dhcp.profiles import PROFILES, Heard
from tests.leasequery_peer import ACTIVE, DUID, SETTLED, A, Peer, lease, message, psids, server, started
from tests.leasequery_vectors import T0

LONG = bytes([0xFF]) + bytes(range(130))  # a client-id of RFC 4361 with the longest DUID
LEASE = replace(lease(5, 10), client=LONG)
OPTIONS = message(LEASE, A).options


def nested(options: list[tuple[int, bytes]], file: bytes = b"", sname: bytes = b"") -> bytes:
    whole = replace(message(LEASE, A), options=tuple(options))
    return codec4.encode(replace(whole, file=file.ljust(128, b"\0"), sname=sname.ljust(64, b"\0")))


def heard(profile: str, octets: bytes) -> Heard:
    if profile == "W":
        inside = codec6.join(((46, bytes(4)), (87, octets)))
        base = (100, (T0 + 10 - codec6.EPOCH).to_bytes(4))
        octets = codec6.encode(codec6.Message6(17, A, (base, (45, inside))))
    return PROFILES[profile].hear(octets, DUID, T0)


def instances(code: int, data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    edges = [0, *sorted(cuts), len(data)]
    return [(code, data[begin:end]) for begin, end in pairwise(edges)]


@pytest.mark.parametrize("profile", ["N", "W"])
@given(st.data())
def test_an_option_in_parts_is_one(profile: str, choices: st.DataObject) -> None:
    """The parts of one are in their order; those of several options in any."""
    queues = []
    for code, data in OPTIONS:
        cuts = choices.draw(st.lists(st.integers(0, len(data)), max_size=3)) if code != Code.MESSAGE_TYPE else []
        queues.append(instances(code, data, cuts))
    mixed = []
    while queues := [queue for queue in queues if queue]:
        mixed.append(choices.draw(st.sampled_from(queues)).pop(0))
    told = heard(profile, nested(mixed))
    assert told.rows.tobytes() == heard(profile, nested(list(OPTIONS))).rows.tobytes()


@pytest.mark.parametrize("profile", ["N", "W"])
def test_the_fields_file_and_sname_go_on_where_the_options_end(profile: str) -> None:
    """Option 52: first the options, then file, then sname (RFC 3396 section 5)."""
    rest = [option for option in OPTIONS if option[0] != Code.S46_SADDR]
    b4 = dict(OPTIONS)[Code.S46_SADDR]
    parts = [bytes([Code.S46_SADDR, len(part)]) + part for part in (b4[4:9], b4[9:])]
    split = nested([*rest, (Code.OVERLOAD, b"\3"), (Code.S46_SADDR, b4[:4])], parts[0] + b"\xff", parts[1] + b"\xff")
    assert heard(profile, split).rows.tobytes() == heard(profile, nested(list(OPTIONS))).rows.tobytes()
    with pytest.raises(Malformed):  # without option 52 they are no options, and four octets are no address
        heard(profile, nested([*rest, (Code.S46_SADDR, b4[:4])], parts[0] + b"\xff", parts[1] + b"\xff"))


@pytest.mark.parametrize("profile", ["N", "W"])
def test_two_instances_of_one_fact_are_a_fault(profile: str) -> None:
    """Joined they have an impossible length; neither of them is taken for the truth."""
    with pytest.raises(Malformed):
        heard(profile, nested([*OPTIONS, (Code.LEASE_TIME, bytes(4))]))


def test_such_a_lease_is_bound_by_the_native_stream() -> None:
    peer = native()
    halves = [part for option in OPTIONS for part in instances(*option, [len(option[1]) // 2])]
    peer.recv(codec6.frame(nested(halves)), ACTIVE, 10)
    assert psids(peer) == {5}


def native() -> Peer:
    peer = Peer(server(profile="N"), saved=SETTLED)
    peer.open()
    peer.connect(ACTIVE, 0, A)
    return peer


def test_such_a_lease_is_bound_among_ordinary_ones() -> None:
    """The compiled way leaves it to the readable one, and goes on behind it."""
    peer = started(SETTLED)
    halves = [part for option in OPTIONS for part in instances(*option, [len(option[1]) // 2])]
    odd = codec6.join(((46, bytes(4)), (87, nested(halves))))
    base = (100, (T0 + 10 - codec6.EPOCH).to_bytes(4))
    frames = [codec6.frame(codec6.encode(codec6.Message6(17, A, (base, (45, odd)))))]
    for number in (6, 7):
        inside = codec6.join(((46, bytes(4)), (87, codec4.encode(message(lease(number, 10), A)))))
        frames.insert(number - 6, codec6.frame(codec6.encode(codec6.Message6(17, A, (base, (45, inside))))))
    peer.recv(b"".join(frames), ACTIVE, 10)
    assert psids(peer) == {5, 6, 7}
    assert peer.session().counts["received_data"] == 4  # with the end of catch-up


def test_what_we_send_needs_no_split() -> None:
    """RFC 3396 section 4 is for options of more than 255 octets."""
    with pytest.raises(ValueError, match="never split"):
        codec4.encode(codec4.Message4(1, 1, ((Code.CLIENT_ID, bytes(256)),)))
    for kind in (codec4.Type.BULKLEASEQUERY, codec4.Type.ACTIVELEASEQUERY):
        options = codec4.query(kind, 1, 0xFFFFFFFF, 0xFFFFFFFF).options
        assert max(len(data) for _, data in options) <= 255
