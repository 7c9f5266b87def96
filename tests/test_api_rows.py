"""One binding of a message by the short way: whatever it takes, the columns take too, and to the same row."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pylwaftr import _core, rows
from pylwaftr.api import translate
from pylwaftr.api.generated.lwaftr.v1.common_pb2 import Binding
from pylwaftr.config.row_checks import Surroundings

BR = bytes.fromhex("20010db800aa00000000000000000001")
OWN4, SERVER4 = 0xC0000201, 0xC6336407
OWN6 = bytes.fromhex("20010db8ffff00000000000000000002")
AROUND = Surroundings(frozenset({OWN4}), frozenset({OWN6}), frozenset({SERVER4}), (BR, BR[:15] + b"\x02"), 128, 1 << 30)

IPV4 = st.one_of(
    st.sampled_from(["203.0.113.5", " 203.0.113.5", "203.0.113.05", "203.0.113", "0.0.0.1", "127.0.0.1", "224.0.0.1"]),
    st.sampled_from(
        ["192.0.0.1", "192.0.0.8", "192.0.1.1", "192.0.2.1", "198.51.100.7", "255.255.255.255", "", "x", "1.2.3.4/32"]
    ),
    st.ip_addresses(v=4).map(str),
)
IPV6 = st.one_of(
    st.sampled_from(["2001:db8::1", "2001:db8::/64", "::1", "::", "::ffff:1.2.3.4", "fe80::1", "ff02::1", "febf::1"]),
    st.sampled_from(
        ["fec0::1", "2001:DB8::1", "2001:db8::1.2.3.4", "2001:db8::1%eth0", "2001:db8:ffff::2", " 2001:db8::1", "", "x"]
    ),
    st.ip_addresses(v=6).map(str),
)
NUMBERS = st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 65535, 65536, 1 << 31]))


@settings(max_examples=1500, deadline=None)
@given(
    IPV4, IPV6, st.one_of(st.sampled_from(["", "2001:db8:aa::1", "2001:db8:aa::2"]), IPV6), NUMBERS, NUMBERS, NUMBERS
)
def test_the_short_way_takes_nothing_else(ipv4: str, b4: str, br: str, offset: int, length: int, psid: int) -> None:
    given = Binding(ipv4=ipv4, b4_ipv6=b4, br_ipv6=br, psid_offset=offset, psid_len=length, psid=psid)
    octets = translate._plain(given, AROUND)
    if octets is not None:
        assert octets == translate._parsed([given], AROUND, lambda _, field: field).tobytes()


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 63), st.ip_addresses(v=4, network="203.0.113.0/24"), st.ip_addresses(v=6, network="2001:db8::/32")
)
def test_it_takes_the_usual(psid: int, ipv4: object, b4: object) -> None:
    given = Binding(ipv4=str(ipv4), b4_ipv6=str(b4), psid_len=6, psid=psid)
    octets = translate._plain(given, AROUND)
    assert octets is not None
    assert octets == translate._parsed([given], AROUND, lambda _, field: field).tobytes()


def test_a_row_in_octets_is_the_core_s() -> None:
    assert rows.PACKED.size == _core.BINDING_ROW.itemsize
    (found,) = rows.array([rows.row(0xCB007105, 6, 4, 3, BR, BR[::-1])])
    assert rows.PACKED.unpack(found.tobytes()) == (0xCB007105, 3, 4, 6, BR, BR[::-1])
