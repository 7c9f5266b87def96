"""The log of bindings: a change, and the messages that a collector gets."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from pylwaftr import rows
from pylwaftr.store import Change, Op
from pylwaftr.telemetry import syslog

B4, BR = IPv6Address("2001:db8:1::1").packed, IPv6Address("2001:db8:aa::1").packed
AT = 1_800_000_000.25


def row(ipv4: str, offset: int, length: int, psid: int) -> rows.Rows:
    return rows.array([rows.row(int(IPv4Address(ipv4)), offset, length, psid, B4, BR)])


ROWS = [
    (
        "a port set begins",
        Change(Op.BIND, 3, row("203.0.113.5", 0, 6, 1)),
        "local0",
        '<134>1 2027-01-15T08:00:00.250Z lwaftr1 pylwaftr 42 begin [binding@32473 ipv4="203.0.113.5" ports="1024-2047" '
        'psid_offset="0" psid_len="6" psid="1" b4="2001:db8:1::1" br="2001:db8:aa::1" source="pcp"]',
    ),
    (
        "a whole address ends",
        Change(Op.UNBIND, 1, row("203.0.113.6", 0, 0, 0)),
        "daemon",
        '<30>1 2027-01-15T08:00:00.250Z lwaftr1 pylwaftr 42 end [binding@32473 ipv4="203.0.113.6" ports="0-65535" '
        'psid_offset="0" psid_len="0" psid="0" b4="2001:db8:1::1" br="2001:db8:aa::1" source="operator"]',
    ),
    (
        "a set of three ranges",
        Change(Op.BIND, 2, row("203.0.113.7", 2, 8, 52)),
        "local4",
        '<166>1 2027-01-15T08:00:00.250Z lwaftr1 pylwaftr 42 begin [binding@32473 ipv4="203.0.113.7" '
        'ports="19712-19775,36096-36159,52480-52543" psid_offset="2" psid_len="8" psid="52" b4="2001:db8:1::1" '
        'br="2001:db8:aa::1" source="dhcp"]',
    ),
]


@pytest.mark.parametrize("what, change, facility, message", ROWS, ids=[row[0] for row in ROWS])
def test_messages(what: str, change: Change, facility: str, message: str) -> None:
    assert [m.decode() for m in syslog.messages(change, AT, facility, "lwaftr1", 42)] == [message]


@pytest.mark.parametrize("host, said", [("", "-"), ("a b\n", "ab"), ("r1.example", "r1.example")])
def test_the_host_is_printable(host: str, said: str) -> None:
    (message,) = syslog.messages(Change(Op.BIND, 3, row("203.0.113.5", 0, 6, 1)), AT, "local0", host, 1)
    assert message.split(b" ")[2].decode() == said


def test_tcp_counts_octets() -> None:
    assert syslog.framed(b"<134>1 x") == b"8 <134>1 x"
