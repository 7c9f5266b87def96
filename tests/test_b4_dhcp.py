"""What a lwB4 learns by DHCP: options as they come, faults of all kinds, and what the program makes of them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.b4 import inner_udp
from pylwaftr.b4.core import B4
from pylwaftr.b4.daemon import Plan
from pylwaftr.b4.dhcp_options import Learned, aftr_name, learned, pcp_server6, pcp_servers4
from pylwaftr.b4.softwire import Softwire
from pylwaftr.cli.b4 import _plan
from pylwaftr.cli.b4 import b4 as command

NAME = bytes.fromhex("0461667472076578616d706c65036e657400")  # aftr.example.net
V6 = IPv6Address("2001:db8::5")
ANYCAST = IPv4Address("192.0.0.9")
ANYCAST6 = bytes(10) + b"\xff\xff" + ANYCAST.packed
LIST = b"\x04" + ANYCAST.packed


def test_the_name_of_the_lwaftr() -> None:
    assert aftr_name(NAME) == "aftr.example.net"
    assert aftr_name(NAME + b"\x05other\x02de\0") == "aftr.example.net"  # the first name counts
    assert aftr_name(b"\x3f" + b"a" * 63 + b"\x02de\0") == "a" * 63 + ".de"
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert len(longest) == 255
    assert len(aftr_name(longest)) == 253


NO_NAMES = [
    ("nothing", b"", "4 to 255 octets, not 0"),
    ("the root", b"\0", "4 to 255"),
    ("too short for a name", b"\x01a\0", "4 to 255 octets, not 3"),
    ("256 octets", (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0", "4 to 255 octets, not 256"),
    ("no end", NAME[:-1], "ends within"),
    ("cut in a label", NAME[:7], "ends within"),
    ("a label of 64", b"\x40" + b"a" * 64 + b"\0", "no length of a label: 64"),
    ("compressed", b"\x04aftr\xc0\x00", "no length of a label: 192"),
    ("the root behind it", NAME + b"\0", "octet 18 is the name of the root"),
    ("half a name behind it", NAME + NAME[:9], "ends within"),
    ("the root first", b"\0" + NAME, "octet 0 is the name of the root"),
    ("as text", b"aftr.example.net", "no length of a label: 97"),
    ("a space", b"\x06a ftr1\0", "no part of a host's name"),
    ("an octet beyond ASCII", b"\x04\xe4ftr\0", "no part of a host's name"),
    ("a hyphen first", b"\x05-aftr\0", "no part of a host's name"),
    ("a dot in a label", b"\x05af.tr\0", "no part of a host's name"),
]  # fmt: skip


@pytest.mark.parametrize("what, data, said", NO_NAMES, ids=[row[0] for row in NO_NAMES])
def test_no_name(what: str, data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aftr_name(data)


def test_pcp_servers_of_dhcpv6() -> None:
    assert pcp_server6(V6.packed + ANYCAST6) == (V6, ANYCAST)


@pytest.mark.parametrize("length", [0, 1, 4, 15, 17, 33])
def test_no_addresses_of_dhcpv6(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} octets are not addresses"):
        pcp_server6(bytes([0x20] * length))


def test_pcp_servers_of_dhcpv4() -> None:
    two = b"\x08" + ANYCAST.packed + bytes([192, 0, 0, 1])
    assert pcp_servers4(two + LIST) == [(ANYCAST, IPv4Address("192.0.0.1")), (ANYCAST,)]


@pytest.mark.parametrize(
    "data", [b"\0", b"\x04", LIST[:-1], b"\x03abc", LIST + b"\0", LIST + b"\x08" + bytes(7), b"\x06" + bytes(6)]
)
def test_no_lists_of_dhcpv4(data: bytes) -> None:
    with pytest.raises(ValueError, match="no length of a list"):
        pcp_servers4(data)


@pytest.mark.parametrize("address", ["224.0.0.1", "127.0.0.1", "0.0.0.0"])
def test_what_names_no_host_is_discarded(address: str) -> None:
    octets = IPv4Address(address).packed
    assert pcp_servers4(b"\x08" + octets + ANYCAST.packed) == [(ANYCAST,)]
    assert pcp_server6(bytes(10) + b"\xff\xff" + octets + ANYCAST6) == (ANYCAST,)


@pytest.mark.parametrize("address", ["ff02::1", "::1", "::"])
def test_what_names_no_host_is_discarded_in_ipv6(address: str) -> None:
    assert pcp_server6(IPv6Address(address).packed + V6.packed) == (V6,)


def test_all_together() -> None:
    found = learned([(23, b"?"), (64, NAME), (64, b"\x05other\x02de\0"), (86, V6.packed), (86, ANYCAST6)])
    assert found == Learned("aftr.example.net", (ANYCAST,))


def test_a_long_option_of_dhcpv4_comes_in_parts() -> None:
    two = b"\x08" + ANYCAST.packed + bytes([192, 0, 0, 1])
    assert learned([], [(158, two[:5]), (3, b"?"), (158, two[5:])]).server == (ANYCAST, IPv4Address("192.0.0.1"))


def test_the_server_of_dhcpv4_goes_first() -> None:
    assert learned([(86, bytes(10) + b"\xff\xff\xc6\x33\x64\x01")], [(158, LIST)]).server == (ANYCAST,)


def test_an_option_with_a_fault_is_left_out_and_the_others_count() -> None:
    found = learned([(64, b"\0"), (64, NAME), (86, b"?"), (86, ANYCAST6)], [(158, b"\x03")])
    assert (found.aftr, found.server) == (None, (ANYCAST,))  # of option 64 the first one counts, whatever it is
    assert [remark.partition(" is not used")[0] for remark in found.remarks] == [
        "DHCPv6 option 64", "DHCPv6 option 86", "DHCPv4 option 158",
    ]  # fmt: skip


def test_an_ipv6_server_is_out_of_reach() -> None:
    found = learned([(86, V6.packed)])
    assert found.server == ()
    assert "none can be reached through the softwire" in found.remarks[0]


@given(st.lists(st.tuples(st.sampled_from([64, 86]), st.binary(max_size=70))), st.binary(max_size=70))
def test_any_octets_are_read_or_refused(dhcp6: list[tuple[int, bytes]], dhcp4: bytes) -> None:
    found = learned(dhcp6, [(158, dhcp4)])
    assert all(isinstance(address, IPv4Address) for address in found.server)
    assert found.aftr is None or 0 < len(found.aftr) < 254


# --- the program ------------------------------------------------------------------------------------------------------


def plan(*words: str) -> tuple[Plan, tuple[str, ...]]:
    base = ["--tunnel-source", "2001:db8:1:100::/56", "--pcp"]
    return _plan(command.make_context("b4", [*base, *words]).params)


def test_the_program_takes_name_and_server_from_dhcp() -> None:
    made, remarks = plan("--dhcp6", f"64={NAME.hex(':')}", "--dhcp6", "17=00", "--dhcp4", f"158=0x{LIST.hex()}")
    assert made.aftr == "aftr.example.net"
    assert made.pcp is not None
    assert made.pcp.server == (ANYCAST,)
    assert made.core.pcp_servers == {ANYCAST.packed}
    assert not remarks


def test_what_is_configured_counts_more_than_dhcp() -> None:
    made, remarks = plan("--aftr", "2001:db8:aa::1", "--dhcp6", f"64={NAME.hex()}", "--dhcp6", "86=00")
    assert made.aftr == "2001:db8:aa::1"
    assert made.pcp is not None
    assert made.pcp.server == (IPv4Address("192.0.0.1"),)
    assert remarks == ("DHCPv6 option 86 is not used: 1 octets are not addresses of 16 each",)


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "give --aftr, or --dhcp6 64="),
        (["--dhcp6", "64=00"], "option 64 is not used: a name takes 4 to 255 octets, not 1"),
        (["--dhcp6", "64"], "'64' is not of the form CODE=HEX"),
        (["--dhcp6", "name=00"], "not of the form CODE=HEX"),
        (["--dhcp4", "158=0g"], "no octets in hexadecimal form"),
    ],
)
def test_what_cannot_be_done_is_said(words: list[str], said: str) -> None:
    found = CliRunner().invoke(command, ["--tunnel-source", "2001:db8:1:100::/56", "--pcp", *words])
    assert found.exit_code == 2
    assert said in " ".join(found.output.split())


def test_messages_of_the_named_server_are_for_the_client() -> None:
    ends = Softwire(IPv6Address("2001:db8:aa::1"), IPv6Address("2001:db8:1:100::1"))
    made, _ = plan("--aftr", "2001:db8:aa::1", "--dhcp4", f"158={LIST.hex()}")
    for core, heard in ((B4(ends, made.core), True), (B4(ends), False)):
        packet = inner_udp.write(ANYCAST.packed, 5351, bytes([192, 0, 0, 2]), 50000, b"answer")
        outcome = core.from_tunnel(ends.aftr.packed, 0, packet)
        assert (outcome.message is not None) is heard
