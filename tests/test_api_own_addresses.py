"""Addresses of the router and of its PCP server, as bindings over the API: what a configuration may not have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
import pytest

from pylwaftr.api.backend import Parts
from pylwaftr.api.client import Binding, CallFailed, Client
from pylwaftr.config.row_checks import anywhere
from pylwaftr.rows import Rows
from tests.api_router import BR, Bindings, Settings, one, parts

pytest_plugins = ("tests.api_fixtures",)

FREE, OWN4, SERVER, OWN6 = "203.0.113.1", "192.0.2.1", "203.0.113.9", "2001:db8:ffff::2"
B4 = "2001:db8:1::1"
AROUND = replace(
    anywhere(),
    br=(BR,),
    own_v4=frozenset({int(IPv4Address(OWN4))}),
    own_v6=frozenset({IPv6Address(OWN6).packed}),
    server_v4=frozenset({int(IPv4Address(SERVER))}),
)
BAD = [  # IPv4 address, B4, field, what is said
    (OWN4, B4, "ipv4", "192.0.2.1 is this router's own address (DP-063)"),
    (SERVER, B4, "ipv4", "203.0.113.9 is the PCP server's address"),
    (FREE, OWN6, "b4_ipv6", "2001:db8:ffff::2 is this router's own address (DP-061)"),
    (FREE, str(IPv6Address(BR)), "b4_ipv6", "2001:db8:aa::1 is this router's own address (DP-061)"),
]


def bound(ipv4: str, b4: str = B4) -> Binding:
    return Binding(ipv4=ipv4, b4_ipv6=b4)


RANGE = [bound(f"198.51.100.{n}") for n in range(1, 100)]
Way = Callable[[Client, str, str], Any]
WAYS: list[tuple[str, Way, str]] = [  # by which it comes; the path of the second binding, or of the only one
    ("create", lambda c, v4, b4: c.create(bound(v4, b4)), "binding"),
    ("validate", lambda c, v4, b4: c.create(bound(v4, b4), validate_only=True), "binding"),
    ("update", lambda c, v4, b4: c.update(bound(v4, b4), allow_missing=True), "binding"),
    ("batch", lambda c, v4, b4: c.bind([bound("203.0.113.2"), bound(v4, b4)]), "bindings[1]"),
    ("a large batch", lambda c, v4, b4: c.bind([bound("203.0.113.2"), bound(v4, b4), *RANGE]), "bindings[1]"),
    ("packed rows", lambda c, v4, b4: c.bind(packed(v4, b4)), "rows[1]"),
    ("load", lambda c, v4, b4: c.load(packed(v4, b4)), "rows[1]"),
    ("replace", lambda c, v4, b4: c.load(packed(v4, b4), replace=True), "rows[1]"),
]


def packed(ipv4: str, b4: str) -> bytes:
    rows: Rows = np.concatenate([one("203.0.113.2"), one(ipv4, b4=b4)])
    return rows.tobytes()


@pytest.fixture
def router(bindings: Bindings) -> Parts:
    return replace(parts(bindings), settings=Settings(around=AROUND))


@pytest.mark.parametrize("ipv4, b4, field, said", BAD, ids=["own", "PCP server", "own IPv6", "BR"])
@pytest.mark.parametrize("way, ask, path", WAYS, ids=[row[0] for row in WAYS])
def test_refused_by_index_with_the_reason(
    client: Client, bindings: Bindings, way: str, ask: Way, path: str, ipv4: str, b4: str, field: str, said: str
) -> None:
    with pytest.raises(CallFailed) as caught:
        ask(client, ipv4, b4)
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert caught.value.violations == ((f"{path}.{field}", said),)
    assert bindings.held == {}


def test_a_reload_in_the_middle_of_a_load_counts_from_the_next_batch_on(
    client: Client, router: Parts, bindings: Bindings
) -> None:
    def pieces() -> Iterator[bytes]:
        yield one("203.0.113.2").tobytes()
        while not bindings.held:
            time.sleep(0.01)
        router.settings.around = replace(AROUND, br=(IPv6Address("2001:db8:bb::1").packed,))  # type: ignore[misc]
        yield one("203.0.113.3").tobytes()

    with pytest.raises(CallFailed, match=r"2001:db8:aa::1 is not in softwire\.br_addresses") as caught:
        client.load(pieces())
    assert [path for path, _ in caught.value.violations] == ["rows[1].br_ipv6"]
