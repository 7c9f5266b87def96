"""Rows: the dtype that crosses to the core, and the text forms of what is in it."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pylwaftr import addresses, rows

VECTORS = json.loads((Path(__file__).parent / "data/dataplane.json").read_text())["vectors"]


def test_the_dtype_is_that_of_the_core() -> None:
    from pylwaftr import _core  # only here: all the rest works without the extension

    assert rows.BINDING_ROW == _core.BINDING_ROW
    assert rows.BINDING_ROW.itemsize == 40


BUILT = [(v["prefix"], v["ipv4"], v["psid"], v["address"]) for v in VECTORS["b4_addresses"]]
BUILT += [  # RFC 7597 section 6: a prefix longer than 64 covers the beginning of the identifier
    ("2001:db8::/32", "192.0.2.1", 1, "2001:db8::c000:201:1"),
    ("2001:db8:1:2:3::/80", "192.0.2.1", 1, "2001:db8:1:2:3:c000:201:1"),
    ("2001:db8:1:2:3:4::/96", "192.0.2.1", 1, "2001:db8:1:2:3:4:201:1"),
    ("2001:db8:1:2:3:4:5:6/128", "192.0.2.1", 1, "2001:db8:1:2:3:4:5:6"),
    ("::/0", "255.255.255.255", 65535, "::ffff:ffff:ffff"),
]


@pytest.mark.parametrize("prefix, ipv4, psid, address", BUILT)
def test_a_b4_address_is_built_from_a_prefix(prefix: str, ipv4: str, psid: int, address: str) -> None:
    network, public = IPv6Network(prefix), IPv4Address(ipv4)
    assert rows.built_b4(network, public, psid) == IPv6Address(address).packed
    built, clean = rows.built_b4s(
        np.frombuffer(network.network_address.packed, np.uint8).reshape(1, 16),
        np.array([network.prefixlen], np.int16),
        np.array([int(public)], np.uint32),
        np.array([psid]),
    )
    assert built.tobytes() == IPv6Address(address).packed
    assert clean.all()


def test_an_address_stays_as_it_is() -> None:
    given_one = IPv6Address("2001:db8::1")
    assert rows.built_b4(given_one, IPv4Address("192.0.2.1"), 5) == given_one.packed


def test_bits_behind_a_prefix_are_seen() -> None:
    octets = np.frombuffer(IPv6Address("2001:db8::1").packed * 2, np.uint8).reshape(2, 16)
    _, clean = rows.built_b4s(octets, np.array([64, -1], np.int16), np.zeros(2, np.uint32), np.zeros(2, np.int64))
    assert clean.tolist() == [False, True]


PORT_SETS = VECTORS["port_sets"]


@pytest.mark.parametrize("case", PORT_SETS, ids=lambda case: f"a{case['a']}k{case['k']}psid{case['psid']}")
def test_ports_of_a_set(case: dict[str, int | list[int]]) -> None:
    found = rows.ports(int(case["a"]), int(case["k"]), int(case["psid"]))  # type: ignore[arg-type]
    assert len(found) == case["ranges"]
    assert sum(high - low + 1 for low, high in found) == case["ports"]
    assert [list(found[0]), list(found[-1])] == [case["first"], case["last"]]


@given(st.integers(0, 2**128 - 1) | st.sampled_from([0, 1, 2**128 - 1, 0x20010DB8 << 96]))
@example(0x0001_0000_0000_0002_0000_0000_0000_0003)
@example(0x0001_0000_0000_0002_0000_0000_0003_0004)
@example(0x0001_0000_0002_0000_0003_0000_0004_0000)
def test_ipv6_text_is_that_of_ipaddress(value: int) -> None:
    # Runs of zeros are rare in random numbers: every mask of groups is tried on this one.
    for mask in range(256):
        groups = [(value >> 16 * i & 0xFFFF) * (mask >> i & 1) for i in range(8)]
        masked = sum(group << 16 * i for i, group in enumerate(groups))
        if masked >> 32 != 0xFFFF:  # Python versions differ about ::ffff:1.2.3.4
            assert rows.text6(masked.to_bytes(16, "big")) == str(IPv6Address(masked))


@given(st.integers(0, 2**32 - 1))
def test_ipv4_text_is_that_of_ipaddress(value: int) -> None:
    assert rows.text4(value) == str(IPv4Address(value))


def test_a_whole_address_has_neither_offset_nor_psid() -> None:
    (row,) = rows.array([rows.row(1, 6, 0, 52, bytes(16), bytes(16))])
    assert row[["psid_offset", "psid_len", "psid"]].tolist() == (0, 0, 0)


DESCRIBED = [
    ((0xCB007101, 0, 6, 3), "203.0.113.1 PSID 3/6"),
    ((0xCB007101, 6, 8, 52), "203.0.113.1 PSID 52/8 offset 6"),
    ((0xCB007101, 0, 0, 0), "203.0.113.1 (whole)"),
]


@pytest.mark.parametrize("numbers, text", DESCRIBED)
def test_describe(numbers: tuple[int, int, int, int], text: str) -> None:
    (row,) = rows.array([rows.row(*numbers, bytes(16), bytes(16))])
    assert rows.describe(row) == text


BAD = [  # parser, text, part of the message
    (addresses.ipv4, "192.0.2.256", "is not an IPv4 address"),
    (addresses.ipv4, "192.0.2.01", "is not an IPv4 address"),
    (addresses.ipv4, "192.0.2.1/32", "it has no prefix length here"),
    (addresses.ipv6, "fe80::1%eth0", "has a zone index"),
    (addresses.ipv6, "2001:db8::/32", "it has no prefix length here"),
    (addresses.ipv6, "1.2.3.4", "is not an IPv6 address"),
    (addresses.interface4, "192.0.2.1/255.255.255.0", "has no prefix length"),
    (addresses.interface4, "192.0.2.1/33", "is not an IPv4 address with a prefix length"),
    (addresses.interface6, "2001:db8::1%1/64", "is not an IPv6 address with a prefix length"),
    (addresses.network4, "192.0.2.1/24", "write 192.0.2.0/24"),
    (addresses.network6, "2001:db8::1/64", "write 2001:db8::/64"),
    (addresses.network, "x", "is not an IPv4 address"),
]


@pytest.mark.parametrize("parse, text, message", BAD)
def test_bad_addresses(parse: object, text: str, message: str) -> None:
    assert callable(parse)
    with pytest.raises(ValueError, match=message):
        parse(text)


@given(st.text(max_size=30))
def test_no_text_raises_anything_but_value_error(text: str) -> None:
    for parse in (addresses.interface4, addresses.interface6, addresses.network, addresses.b4_address):
        try:
            parse(text)
        except ValueError as fault:
            assert str(fault)  # noqa: PT017
