"""DHCPv6 option 96: the worked examples both ways, what makes a container one to ignore, and any octets at all."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.dhcp import s46
from pylwaftr.dhcp.s46 import Bind, Container, PortParams

VECTORS = json.loads((Path(__file__).parent / "data/dataplane.json").read_text())["vectors"]["dhcpv6_option_96"]

BR1, BR2 = IPv6Address("2001:db8:aa::1"), IPv6Address("2001:db8:aa::2")
PUBLIC = IPv4Address("203.0.113.1")

ROWS = [
    (
        Container(
            (IPv6Address(v["br"]),),
            Bind(
                IPv4Address(v["ipv4"]),
                IPv6Network(v["bind_prefix"]),
                PortParams(v["offset"], v["psid_len"], v["psid"]),
            ),
        ),
        v["option_hex"],
    )
    for v in VECTORS
]
ROWS += [
    (Container((BR1,)), "00600014 005a0010 20010db800aa00000000000000000001"),
    (
        Container((BR1, BR2)),
        "00600028 005a0010 20010db800aa00000000000000000001 005a0010 20010db800aa00000000000000000002",
    ),
    (  # a whole address; 57 bits take eight octets
        Container((BR1,), Bind(PUBLIC, IPv6Network("2001:db8:1:180::/57"))),
        "00600025 005c000d cb007101 39 20010db800010180 005a0010 20010db800aa00000000000000000001",
    ),
    (  # no prefix at all
        Container((BR1,), Bind(PUBLIC, IPv6Network("::/0"), PortParams(0, 16, 0x1234))),
        "00600025 005c000d cb007101 00 005d0004 0010 1234 005a0010 20010db800aa00000000000000000001",
    ),
    (
        Container((BR1,), Bind(PUBLIC, IPv6Network("2001:db8::1/128"), PortParams(15, 1, 1))),
        "00600035 005c001d cb007101 80 20010db8000000000000000000000001 005d0004 0f01 8000"
        "005a0010 20010db800aa00000000000000000001",
    ),
]


@pytest.mark.parametrize("container, option", ROWS)
def test_both_ways(container: Container, option: str) -> None:
    assert s46.encode(container) == bytes.fromhex(option)
    assert s46.decode(bytes.fromhex(option)) == container


@pytest.mark.parametrize("container, option", ROWS)
def test_no_truncation_is_accepted(container: Container, option: str) -> None:
    whole = bytes.fromhex(option)
    for end in range(len(whole)):
        with pytest.raises(ValueError, match=r"are left|are not there|not one"):
            s46.decode(whole[:end])
        # The same with a container whose length fits; it may end between two options.
        if end >= 4:
            with suppress(ValueError):
                kept = s46.decode_data(whole[4:end])
                assert set(kept.brs) <= set(container.brs)
                assert kept.bind in (None, container.bind)


BR = "005a0010 20010db800aa00000000000000000001"
BIND = "005c000d cb007101 00 005d0004 0006 0400"

REFUSED = [  # data of the option, what is said
    ("", "no OPTION_S46_BR"),
    (BIND, "no OPTION_S46_BR"),
    (BIND + BIND + BR, "more than one OPTION_S46_V4V6BIND"),
    (BR + "0059 0000", "OPTION_S46_RULE is not permitted in OPTION_S46_CONT_LW"),
    (BR + "005b 0000", "OPTION_S46_DMR is not permitted in OPTION_S46_CONT_LW"),
    (BR + "005d0004 0006 0400", "OPTION_S46_PORTPARAMS is not permitted in OPTION_S46_CONT_LW"),
    ("005a000f" + "00" * 15, "OPTION_S46_BR has 15 octets instead of 16"),
    ("005a0011" + "00" * 17, "OPTION_S46_BR has 17 octets instead of 16"),
    (BR + "005c0004 cb007101", "OPTION_S46_V4V6BIND has 4 octets, too few"),
    (BR + "005c0016 cb007101 81" + "00" * 17, "bindprefix6-len is 129"),
    (BR + "005c000b cb007101 38 20010db80001", "a prefix of 56 bits takes 7 octets and 6 are there"),
    (BR + "005c000c cb007101 35 20010db8000107", "the prefix of 53 bits is not padded with zeros"),
    (BR + "005c0015 cb007101 00 005d0004 0006 0400 005d0004 0006 0400", "more than one OPTION_S46_PORTPARAMS"),
    (BR + "005c0009 cb007101 00 005a0000", "OPTION_S46_BR is not permitted in OPTION_S46_V4V6BIND"),
    (BR + "005c000c cb007101 00 005d0003 000604", "OPTION_S46_PORTPARAMS has 3 octets instead of 4"),
    (BR + "005c000d cb007101 00 005d0004 1000 0000", "offset is 16"),
    (BR + "005c000d cb007101 00 005d0004 0011 0000", "PSID-len is 17"),
    (BR + "005c000d cb007101 00 005d0004 060b 0000", "with offset 6 it goes to 10"),
    (BR + "005c000d cb007101 00 005d0004 0006 0001", "PSID 0x0001 is not 6 bits on the left"),  # right-justified
    (BR + "005c000d cb007101 00 005d0004 0006 0600", "PSID 0x0600 is not 6 bits on the left"),
    (BR + "0000", "2 octets are left"),
    (BR + "00070005 00", "option 7 has 5 octets and 4 of them are not there"),
]


@pytest.mark.parametrize("data, said", REFUSED)
def test_a_bad_container_is_refused_whole(data: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        s46.decode_data(bytes.fromhex(data))


TAKEN = [
    ("an unknown option", "00070002 ffff" + BIND + BR, PortParams(0, 6, 1)),
    ("an unknown option in the binding", "005c0012 cb00710100 00070001ff 005d000400060400" + BR, PortParams(0, 6, 1)),
    ("a PSID of no bits is not looked at", "005c000d cb007101 00 005d0004 0600 ffff" + BR, PortParams(6, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize("what, data, ports", TAKEN)
def test_what_does_not_matter(what: str, data: str, ports: PortParams) -> None:
    container = s46.decode_data(bytes.fromhex(data))
    assert container == Container((BR1,), Bind(PUBLIC, IPv6Network("::/0"), ports))


@pytest.mark.parametrize("option", ["", "00610000", "00600014" + BR[8:] * 2, "00600014" + BR + "00000000"])
def test_only_one_option_96(option: str) -> None:
    with pytest.raises(ValueError, match=r"not one|are not there"):
        s46.decode(bytes.fromhex(option))


@pytest.mark.parametrize(
    "offset, length, psid", [(16, 0, 0), (-1, 0, 0), (0, 17, 0), (6, 11, 0), (0, 6, 64), (0, 0, 1)]
)
def test_values_that_cannot_be_said(offset: int, length: int, psid: int) -> None:
    with pytest.raises(ValueError, match=r"offset is|PSID-len is|does not fit"):
        PortParams(offset, length, psid)


def test_too_many_brs_do_not_fit() -> None:
    with pytest.raises(ValueError, match="65535 are the most"):
        s46.encode(Container((BR1,) * 3277))


@st.composite
def port_params(draw: st.DrawFn) -> PortParams:
    offset = draw(st.integers(0, 15))
    length = draw(st.integers(0, 16 - offset))
    return PortParams(offset, length, draw(st.integers(0, (1 << length) - 1)))


@st.composite
def networks(draw: st.DrawFn) -> IPv6Network:
    length = draw(st.integers(0, 128))
    return IPv6Network((draw(st.integers(0, (1 << 128) - 1)), length), strict=False)


binds = st.builds(Bind, st.ip_addresses(v=4), networks(), st.none() | port_params())
containers = st.builds(Container, st.lists(st.ip_addresses(v=6), min_size=1, max_size=5).map(tuple), st.none() | binds)


@given(containers)
def test_round_trip(container: Container) -> None:
    assert s46.decode(s46.encode(container)) == container


@given(st.binary(max_size=120))
def test_any_octets_are_a_container_or_a_value_error(data: bytes) -> None:
    with suppress(ValueError):
        container = s46.decode_data(data)
        assert s46.decode(s46.encode(container)) == container
