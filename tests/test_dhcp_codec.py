"""DHCP codecs: every leasequery vector both ways, every truncation, any octets; options by name."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.dhcp import codec4, codec6, codec_lease, profiles
from pylwaftr.dhcp.codec4 import Code, Malformed, Message4
from pylwaftr.dhcp.codec6 import Ask, QueryType
from pylwaftr.dhcp.profiles import PROFILES, Heard, Start
from tests import leasequery_vectors as vectors
from tests.leasequery_vectors import DUID, MESSAGES, T0

GOOD = [v for v in MESSAGES.values() if not v["name"].startswith("BAD")]
LEASES = [v for v in GOOD if v.get("record")]


def hear(vector: dict[str, Any], **changed: Any) -> Heard:
    profile = PROFILES["N" if vector["transport"] == "tcp4" else "W"]
    return profile.hear(changed.get("octets", vectors.body(vector)), DUID, T0)


@pytest.mark.parametrize("vector", GOOD, ids=lambda v: v["id"])
def test_a_vector_both_ways(vector: dict[str, Any]) -> None:
    octets = vectors.body(vector)
    if vector["transport"] == "tcp4":
        four = codec4.decode(octets)
        assert vectors.same(vectors.words4(four), vector["decoded"])
        assert codec4.encode(four) == octets
    else:
        six = codec6.decode(octets)
        assert vectors.same(vectors.words6(six), vector["decoded"])
        assert codec6.encode(six) == octets
        nested = [data for options in (six.options, *six.client_data) for code, data in options if code == 87]
        assert all(codec4.encode(codec4.decode(data)) == data for data in nested)
    if vector["transport"] != "udp6":
        assert codec6.frame(octets) == vectors.octets(vector)


@pytest.mark.parametrize("vector", LEASES, ids=lambda v: v["id"])
def test_the_record_of_a_vector(vector: dict[str, Any]) -> None:
    record, heard = vector["record"], hear(vector)
    (row,) = heard.rows[-1:]
    lease = codec_lease.of_row(row)
    found = vectors.record_of(lease)
    assert {key: value for key, value in found.items() if key in record} == {k: record[k] for k in found if k in record}
    assert set(record) <= set(found)


WINDOW = (Start(825681630, 1772366430), Start(825682500, 1772367300))
RELAY, REMOTE = bytes.fromhex("000200007ed964686370346f362d62"), bytes.fromhex("00007ed962726173372f312f34")
REQUESTS = [  # vector, profile, what is asked
    ("V001", "W", lambda p: p.active(DUID, 0xA001, None)),
    ("V002", "W", lambda p: p.active(DUID, 0xA002, Start(825681630, 1772366430))),
    ("V003", "W", lambda p: p.bulk(DUID, 0xB001, Ask())),
    ("V005", "W", lambda p: p.bulk(DUID, 0xB003, Ask(QueryType.RELAY_ID, about=((53, RELAY),)))),
    ("V006", "W", lambda p: p.bulk(DUID, 0xB004, Ask(QueryType.REMOTE_ID, about=((37, REMOTE),)))),
    (
        "V007",
        "W",
        lambda p: p.bulk(DUID, 0xB005, codec6.by_address(IPv6Address("2001:db8:100:1:0:c633:640a:1"))),
    ),
    ("V009", "W", lambda p: p.bulk(DUID, 0xB007, Ask(), WINDOW)),
    ("V010", "W", lambda p: p.tls_request(0xC001)),
    ("V053", "N", lambda p: p.bulk(DUID, 0x1001, Ask())),
    ("V054", "N", lambda p: p.active(DUID, 0x1002, Start(825681630, 1772366430))),
    ("V063", "N", lambda p: p.tls_request(0x1003)),
]


@pytest.mark.parametrize("name, letter, make", REQUESTS, ids=[row[0] for row in REQUESTS])
def test_what_we_send_is_the_vector(name: str, letter: str, make: Any) -> None:
    assert codec6.frame(make(PROFILES[letter])).hex() == MESSAGES[name]["hex"]


def test_done_is_16_and_data_is_17() -> None:
    assert (codec6.Type.LEASEQUERY_DONE, codec6.Type.LEASEQUERY_DATA) == (16, 17)
    assert hear(MESSAGES["V015"]).kind is profiles.Kind.DATA
    assert hear(MESSAGES["V041"]).kind is profiles.Kind.DONE


def test_two_epochs_in_one_message() -> None:
    """DHCPv6 counts from 2000, the nested DHCPv4 from 1970: one instant."""
    base = hear(MESSAGES["V015"]).base
    assert base == Start(825681605, 1772366405)
    assert base.nested - base.outer == codec6.EPOCH


def test_two_number_spaces_of_status() -> None:
    assert hear(MESSAGES["V039"]).word is profiles.Word.DATA_MISSING  # 12
    assert hear(MESSAGES["V061"]).word is profiles.Word.DATA_MISSING  # 5
    assert not hear(MESSAGES["V039"]).error


def test_psid_is_left_aligned_in_the_option_and_right_aligned_in_the_address() -> None:
    field = codec4.decode(_nested("V015")).get(Code.PORTPARAMS)
    lease = codec_lease.of_row(hear(MESSAGES["V015"]).rows[0])
    assert field == bytes.fromhex("00060800")
    assert lease.ports is not None
    assert lease.ports.psid == 2
    assert lease.b4 is not None
    assert lease.b4.packed[-2:] == bytes.fromhex("0002")


def _nested(name: str) -> bytes:
    message = codec6.decode(vectors.body(MESSAGES[name]))
    return next(data for code, data in message.client_data[0] if code == 87)


def _around(nested: bytes, name: str = "V015") -> bytes:
    message = codec6.decode(vectors.body(MESSAGES[name]))
    data = codec6.join(tuple((code, nested if code == 87 else data) for code, data in message.client_data[0]))
    options = tuple((code, data if code == 45 else old) for code, old in message.options)
    return codec6.encode(replace(message, options=options))


def _changed(**fields: Any) -> bytes:
    return _around(codec4.encode(replace(codec4.decode(_nested("V015")), **fields)))


def _options(change: dict[int, bytes | None]) -> bytes:
    old = [(code, data) for code, data in codec4.decode(_nested("V015")).options if code not in change]
    return _changed(options=tuple(old + [(code, data) for code, data in change.items() if data is not None]))


def _nest(depth: int) -> bytes:
    inside = b""
    for _ in range(depth):
        inside = codec6.join(((45, inside),))
    return b"\x11\x00\xa0\x01" + inside


WHOLE, PARTS = (  # option 61
    bytes.fromhex(text) for text in ("3d0fff0000000100030001020000000002", "3d05ff000000013d0a00030001020000000002")
)
SAME = [  # what differs from V015, the message; all of them say the same
    ("yiaddr is garbage and never read", _changed(yiaddr=IPv4Address("1.2.3.4"))),
    ("chaddr identifies nothing", _changed(htype=1, hlen=6, chaddr=b"\x02" * 6 + bytes(10))),
    ("the end option is missing", _around(_nested("V015")[:-1])),
    ("octets behind the end option", _around(_nested("V015") + b"\x35\xff\x00")),
    ("undefined bits of the data source", _options({157: b"\xfe"})),
    ("options in another order", _changed(options=codec4.decode(_nested("V015")).options[::-1])),
    ("an option in two parts (RFC 3396)", _around(_nested("V015").replace(WHOLE, PARTS))),
]


@pytest.mark.parametrize("what, octets", SAME, ids=[row[0] for row in SAME])
def test_what_makes_no_difference(what: str, octets: bytes) -> None:
    lease = hear(MESSAGES["V015"])
    assert octets != vectors.body(MESSAGES["V015"])
    assert hear(MESSAGES["V015"], octets=octets).rows.tobytes() == lease.rows.tobytes()


def test_options_in_the_field_of_the_file_name() -> None:
    """Option 52 of RFC 2132: what is in `file` counts too."""
    message = codec4.decode(_nested("V015"))
    moved = [option for option in message.options if option[0] == Code.S46_SADDR]
    kept = [option for option in message.options if option[0] != Code.S46_SADDR]
    file = b"".join(bytes([code, len(data)]) + data for code, data in moved) + b"\xff"
    octets = _changed(options=(*kept, (52, b"\x01")), file=file.ljust(128, b"\0"))
    assert hear(MESSAGES["V015"], octets=octets).rows.tobytes() == hear(MESSAGES["V015"]).rows.tobytes()


REFUSED = [  # what is wrong, the message, the name of the fault
    ("option 109 of 15 octets", _options({109: bytes(15)}), "length4"),
    ("option 159 of 5 octets", _options({159: bytes(5)}), "length4"),
    ("offset 16", _options({159: b"\x10\x00\x00\x00"}), "port_params"),
    ("PSID-len 17", _options({159: b"\x00\x11\x00\x00"}), "port_params"),
    ("offset 8 and PSID-len 9", _options({159: b"\x08\x09\x00\x00"}), "port_params"),
    ("state EXPIRED in LEASEACTIVE", _options({156: b"\x03"}), "state"),
    ("state ACTIVE in LEASEUNASSIGNED", _options({53: b"\x0b", 156: b"\x02"}), "state"),
    ("ciaddr of loopback", _changed(ciaddr=IPv4Address("127.0.0.1")), "ciaddr"),
    ("ciaddr of class E", _changed(ciaddr=IPv4Address("240.0.0.1")), "ciaddr"),
    ("hlen 17", _changed(hlen=17), "hlen"),
    ("no option 53", _options({53: None}), "no_type"),
    ("client-id of one octet", _options({61: b"\xff"}), "length4"),
    ("CLIENT_DATA nested six deep", _nest(6), "too_deep"),
    ("1001 options", b"\x11\x00\xa0\x01" + bytes.fromhex("fde80000") * 1001, "too_many"),
]


@pytest.mark.parametrize("what, octets, reason", REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_refused_by_name(what: str, octets: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        PROFILES["W"].hear(octets, DUID, T0)
    assert caught.value.reason == reason


@pytest.mark.parametrize("what, octets", [("1000 options", b"\x11\x00\xa0\x01" + bytes.fromhex("fde80000") * 1000)])
def test_what_is_just_allowed(what: str, octets: bytes) -> None:
    assert not PROFILES["W"].hear(octets, DUID, T0).data


def test_a_frame_of_65535_octets() -> None:
    octets = vectors.body(MESSAGES["V015"])
    padded = octets + codec6.join(((65001, bytes(0xFFFF - len(octets) - 4)),))
    assert len(padded) == 0xFFFF
    assert hear(MESSAGES["V015"], octets=padded).rows.tobytes() == hear(MESSAGES["V015"]).rows.tobytes()


TIMES = [  # base-time, last transaction, state start ago -> CLTT, since: unsigned arithmetic
    (0xFFFFFFF0, 1, 2, 0xFFFFFFEF, 0xFFFFFFEE),
    (5, 10, 0, 0, 5),
]


@pytest.mark.parametrize("base, last, ago, cltt, since", TIMES)
def test_times_at_the_ends_of_32_bits(base: int, last: int, ago: int, cltt: int, since: int) -> None:
    octets = _options({152: base.to_bytes(4), 91: last.to_bytes(4), 153: ago.to_bytes(4)})
    (row,) = hear(MESSAGES["V015"], octets=octets).rows
    assert (row["base"], row["cltt"], row["since"]) == (base, cltt, since)


def test_a_client_id_of_any_length_identifies() -> None:
    fields = {codec_lease.client_field(bytes([1]) * length) for length in range(256)}
    assert len(fields) == 256
    assert {len(field) for field in fields} == {codec_lease.CLIENT_OCTETS}


def test_two_clients_with_one_chaddr() -> None:
    one, two = (_options({61: b"\xff\0\0\0\1\0\3" + bytes([n])}) for n in (1, 2))
    rows = [hear(MESSAGES["V015"], octets=octets).rows[0] for octets in (one, two)]
    assert not np.array_equal(rows[0]["client"], rows[1]["client"])


@pytest.mark.parametrize("letter", "WNS")
@given(octets=st.binary(max_size=600))
def test_no_octets_raise_anything_but_malformed(letter: str, octets: bytes) -> None:
    with suppress(Malformed):
        PROFILES[letter].hear(octets, DUID, T0)


@given(vector=st.sampled_from(GOOD), at=st.integers(0, 400), value=st.integers(0, 255))
def test_no_changed_octet_raises_anything_but_malformed(vector: dict[str, Any], at: int, value: int) -> None:
    octets = bytearray(vectors.body(vector))
    octets[at % len(octets)] = value
    with suppress(Malformed):
        hear(vector, octets=bytes(octets))


@pytest.mark.parametrize("vector", LEASES, ids=lambda v: v["id"])
def test_every_truncation_is_malformed_or_says_less(vector: dict[str, Any]) -> None:
    octets, whole = vectors.body(vector), hear(vector)
    for end in range(len(octets)):
        with suppress(Malformed):
            heard = hear(vector, octets=octets[:end])
            assert len(heard.rows) <= len(whole.rows)


ports = st.tuples(st.integers(0, 15), st.integers(0, 16)).filter(lambda p: sum(p) <= 16)


@given(ports.flatmap(lambda p: st.tuples(st.just(p[0]), st.just(p[1]), st.integers(0, (1 << p[1]) - 1))))
def test_port_params_both_ways(params: tuple[int, int, int]) -> None:
    value = codec4.PortParams(*params)
    assert codec4.port_params(codec4.port_params_data(value)) == value


options = st.lists(st.tuples(st.integers(1, 254).filter(lambda c: c not in codec4._LENGTHS and c not in (52, 61, 151)),
                             st.binary(max_size=255)), max_size=5, unique_by=lambda o: o[0])  # fmt: skip


@given(st.builds(Message4, st.sampled_from([1, 2]), st.integers(0, 0xFFFFFFFF), options,
                 st.integers(0, 0xFFFFFFFF).map(IPv4Address)))  # fmt: skip
def test_any_dhcpv4_message_both_ways(message: Message4) -> None:
    message = replace(message, options=((53, b"\x0d"), *message.options))
    assert codec4.decode(codec4.encode(message)) == message
