"""An operator's bindings that wait behind those of the configuration, over the API and on the command line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pylwaftr.api.client import Binding, BindingFilter, BindingKey, CallFailed, Client, Source
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2 as pb
from tests.api_router import Bindings, Run, Served, one, refusal

pytest_plugins = ("tests.api_fixtures",)

WHOLE, SHARED = "203.0.113.9", "203.0.113.8"
OPERATOR = Source.SOURCE_OPERATOR
WAITING = BindingFilter(shadowed=True)


@pytest.fixture
def bindings() -> Bindings:
    """The configuration has a whole address, and PSID 5 of one that is divided by 6 bits."""
    return Bindings(config=np.concatenate([one(WHOLE), one(SHARED, 6, 5)]))


def to(b4: str, ipv4: str = WHOLE, psid_len: int = 0, psid: int = 0) -> Binding:
    return Binding(ipv4=ipv4, psid_len=psid_len, psid=psid, b4_ipv6=b4)


def reason(call: Callable[[], object]) -> str:
    return refusal(call).reason


# What waits: a whole address behind the same, a PSID behind the same, and rows that nothing else has the key of.
ROWS = [
    to("2001:db8:2::1"),
    to("2001:db8:2::1", SHARED, 6, 5),
    to("2001:db8:2::1", SHARED, 7, 9),
    to("2001:db8:2::1", WHOLE, 6, 3),
]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.ipv4} {row.psid}/{row.psid_len}" for row in ROWS])
def test_what_waits_is_got_updated_and_deleted(client: Client, bindings: Bindings, row: Binding) -> None:
    key, held = (row.ipv4, row.psid), bindings.held
    assert client.bind([row]).outranked == 1

    def get() -> Binding:
        return client.get(*key, source=OPERATOR)

    made = get()
    assert (made.waits, made.b4_ipv6, made.source) == (True, "2001:db8:2::1", OPERATOR)
    assert [(one.ipv4, one.psid, one.waits, one.etag) for one in client.bindings(WAITING)] == [(*key, True, made.etag)]

    row.b4_ipv6 = "2001:db8:3::1"
    moved = client.update(row)
    assert (moved.waits, moved.b4_ipv6) == (True, "2001:db8:3::1")
    assert get() == moved != made
    row.b4_ipv6 = "2001:db8:4::1"
    assert reason(lambda: client.update(row, etag=made.etag)) == "ETAG_MISMATCH"
    assert client.update(row, etag=moved.etag, validate_only=True).waits
    assert get() == moved
    row_moved = client.update(row, etag=moved.etag)
    assert get() == row_moved

    assert reason(lambda: client.create(row)) == "BINDING_EXISTS"
    assert reason(lambda: client.delete(*key, etag=moved.etag)) == "ETAG_MISMATCH"
    client.delete(*key, validate_only=True)
    assert get() == row_moved
    client.delete(*key, etag=row_moved.etag)
    assert list(client.bindings(WAITING)) == []
    with pytest.raises(CallFailed, match="is not wanted by an operator"):
        get()
    assert bindings.held == held  # those of the configuration forward as ever


def test_an_update_without_etag_of_what_the_configuration_alone_has_says_that_it_waits(client: Client) -> None:
    made = client.update(to("2001:db8:2::1"))
    assert made.waits
    bound = client.get(WHOLE)
    assert (bound.source, bound.waits, bound.b4_ipv6) == (Source.SOURCE_CONFIG, False, "2001:db8:1::1")
    # The etag of the configuration's binding is not that of the one that waits: no writer is overwritten unseen.
    with pytest.raises(CallFailed, match="an operator has one that waits behind another source") as caught:
        client.update(to("2001:db8:3::1"), etag=bound.etag)
    assert caught.value.reason == "ETAG_MISMATCH"
    assert client.update(to("2001:db8:3::1"), etag="*").waits


def test_what_waited_forwards_when_the_configuration_lets_go(
    client: Client, served: Served, bindings: Bindings
) -> None:
    made = client.update(to("2001:db8:2::1"))
    served.do(bindings.control.reload(one(SHARED, 6, 5)))
    bound = client.get(WHOLE)
    assert (bound.waits, bound.etag, bound.source) == (False, made.etag, OPERATOR)
    assert client.get(WHOLE, source=OPERATOR) == bound


def test_a_star_wants_it_to_be_there(client: Client) -> None:
    missing = to("2001:db8:2::1", "203.0.113.1")
    for call in (
        lambda: client.update(missing, etag="*"),
        lambda: client.update(missing, etag="*", allow_missing=True),
        lambda: client.update(missing),
        lambda: client.update(missing, validate_only=True),
        lambda: client.delete("203.0.113.1"),
        lambda: client.delete("203.0.113.1", etag="*"),
        lambda: client.delete("203.0.113.1", etag="00"),
        lambda: client.delete("203.0.113.1", validate_only=True),
    ):
        assert reason(call) == "BINDING_NOT_FOUND"
    assert client.delete("203.0.113.1", etag="00", allow_missing=True) == client.status().revision
    request = pb.BatchUnbindRequest(keys=[BindingKey(ipv4="203.0.113.1")], etags=["*"])
    assert reason(lambda: client._ask(client.stubs.bindings.BatchUnbind, request)) == "BINDING_NOT_FOUND"


def test_a_psid_is_not_the_whole_address(client: Client) -> None:
    client.create(to("2001:db8:2::1", "203.0.113.1"))
    with pytest.raises(CallFailed, match=r"203\.0\.113\.1 PSID 5 is not bound; the whole address is, which is PSID 0"):
        client.get("203.0.113.1", 5)
    with pytest.raises(CallFailed, match="the whole address is, which is PSID 0"):
        client.delete("203.0.113.1", 5)
    with pytest.raises(CallFailed, match="the whole address is, which is PSID 0"):
        client.delete("203.0.113.1", 5, etag="*")
    client.delete("203.0.113.1", 5, allow_missing=True)
    keys = pb.BatchUnbindRequest(keys=[BindingKey(ipv4="203.0.113.1", psid=5)])
    packed = pb.BatchUnbindRequest(rows=one("203.0.113.1", 6, 5).tobytes())
    for request in (keys, packed):
        assert client._ask(client.stubs.bindings.BatchUnbind, request).removed == 0
    assert client.get("203.0.113.1").b4_ipv6 == "2001:db8:2::1"


def test_the_command_line_says_that_it_waits(run: Run) -> None:
    def said(*words: str) -> list[str]:
        result = run("bindings", *words)
        assert result.exit_code == 0, result.output
        return result.output.splitlines()

    words = ("add", WHOLE, "--b4", "2001:db8:2::1", "--replace")
    note = "waits    behind a source that goes first: it forwards nothing until that one goes"
    assert note in said(*words)
    assert note in said("get", WHOLE, "--source", "operator")
    assert note not in said("get", WHOLE)
    assert said("rm", WHOLE) == []
    assert said("ls", "--shadowed") == []
