"""The API in front of what it has in the router: the compiled table, the store and the control side."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pylwaftr.api.client import Binding, BindingFilter, CallFailed, Client, Source, WatchEvent, unpack
from pylwaftr.rows import BINDING_ROW
from tests.api_router import Bindings, Served, many, one, parts

pytest_plugins = ("tests.api_fixtures",)

B4 = "2001:db8:1::1"


@pytest.fixture
def bindings(tmp_path: Path) -> Bindings:
    return Bindings(tmp_path, config=one("203.0.113.9"))


def reason(caught: pytest.ExceptionInfo[CallFailed]) -> tuple[str, str]:
    return caught.value.code, caught.value.reason


def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    with Served(parts(Bindings(tmp_path))) as served, Client(served.target) as client:
        made = client.create(Binding(ipv4="203.0.113.5", psid_len=6, psid=33, b4_ipv6=B4))
        client.create(Binding(ipv4="203.0.113.6", b4_ipv6=B4.replace("1::", "2::")))
        client.delete("203.0.113.6")
        revision = client.status().revision
    with Served(parts(Bindings(tmp_path))) as served, Client(served.target) as client:
        assert client.get("203.0.113.5", 33) == made
        assert client.status().revision >= revision
        assert [life.HasField("ended") for life in client.lives_of("2001:db8::/32")] == [False, True]


def test_refusals_of_the_table(client: Client) -> None:
    client.create(Binding(ipv4="203.0.113.5", psid_len=6, psid=33, b4_ipv6=B4))
    with pytest.raises(CallFailed) as caught:
        client.create(Binding(ipv4="203.0.113.5", psid_len=6, psid=33, b4_ipv6=B4))
    assert reason(caught) == ("ALREADY_EXISTS", "BINDING_EXISTS")
    with pytest.raises(CallFailed) as caught:
        client.create(Binding(ipv4="203.0.113.5", psid_len=7, psid=34, b4_ipv6=B4))
    assert reason(caught) == ("FAILED_PRECONDITION", "OTHER_PARAMS_ON_ADDRESS")
    with pytest.raises(CallFailed) as caught:
        client.update(Binding(ipv4="203.0.113.5", psid_len=6, psid=33, b4_ipv6="2001:db8:3::1"), etag="00")
    assert reason(caught) == ("ABORTED", "ETAG_MISMATCH")
    with pytest.raises(CallFailed) as caught:
        client.bind([Binding(ipv4="203.0.113.8", b4_ipv6=B4)] * 2)
    assert (reason(caught), caught.value.violations[0][0]) == (
        ("INVALID_ARGUMENT", "DUPLICATE_IN_BATCH"),
        "bindings[1]",
    )
    with pytest.raises(CallFailed) as caught:
        client.delete("203.0.113.9")
    assert reason(caught) == ("FAILED_PRECONDITION", "OUTRANKED")


def test_what_the_configuration_has_is_not_taken_but_waited_for(client: Client) -> None:
    report = client.bind([Binding(ipv4="203.0.113.9", b4_ipv6="2001:db8:7::1")])
    assert (report.added, report.outranked) == (0, 1)
    assert client.get("203.0.113.9").source == Source.SOURCE_CONFIG
    (waiting,) = client.bindings(BindingFilter(shadowed=True))
    assert (waiting.ipv4, waiting.source, waiting.b4_ipv6) == ("203.0.113.9", Source.SOURCE_OPERATOR, "2001:db8:7::1")


def test_load_replace_dump_and_history(client: Client) -> None:
    rows = many(100_000)
    assert client.load(rows.tobytes()).report.added == 100_000
    assert len(list(client.bindings(BindingFilter(ipv4="10.0.0.0/24")))) == 256
    before = time.time()
    last = client.load(rows[:70_000].tobytes(), replace=True).report
    assert (last.unchanged, last.removed) == (70_000, 30_000)
    held = np.frombuffer(b"".join(octets for octets, _ in client.dump()), BINDING_ROW)
    assert set(held["ipv4"].tolist()) == set(rows["ipv4"][:70_000].tolist()) | {int(one("203.0.113.9")["ipv4"][0])}
    gone = "10.1.17.112"  # number 70000
    assert client.lookup_port(gone, 80) == []
    assert [life.binding.ipv4 for life in client.lookup_port(gone, 80, at=before)] == [gone]


def test_pages_turned_while_others_write(client: Client) -> None:
    """What stays is listed exactly once."""
    rows = many(5000)
    client.load(rows.tobytes())
    pages = client.bindings(page_size=500)
    listed = []
    for number, binding in enumerate(pages):
        listed.append(binding.ipv4)
        if number % 500 == 250:
            client.create(Binding(ipv4=f"9.9.9.{number // 500}", b4_ipv6="2001:db8:99::1"))
            client.delete(f"10.0.19.{number // 500}")
    stayed = {one_.ipv4 for one_ in unpack(rows.tobytes())} - {f"10.0.19.{last}" for last in range(10)}
    assert stayed <= set(listed)
    assert len(listed) == len(set(listed))


def test_deletes_that_come_together_are_done_together(tmp_path: Path) -> None:
    """Each answers for its own binding; those of one go are one revision."""
    bindings = Bindings(tmp_path)
    with Served(parts(bindings)) as served, Client(served.target) as client:
        client.load(many(100).tobytes())
        writer = bindings.control._writer

        async def let_go() -> None:
            while len(writer._waiting) < 20:
                await asyncio.sleep(0.01)
            writer._turn.release()

        served.do(writer._turn.acquire())
        with ThreadPoolExecutor(20) as pool:
            revisions = pool.map(lambda number: client.delete(f"10.0.0.{number}"), range(20))
            served.do(let_go())
            assert set(revisions) == {2}
        assert len(bindings.held) == 80


def test_watching(client: Client) -> None:
    client.load(many(10).tobytes())
    events = client.watch(packed=True)
    snapshot = []
    for event in events:
        if event.kind == WatchEvent.MARKER:
            break
        assert event.kind == WatchEvent.SNAPSHOT
        snapshot += [found.ipv4 for found in unpack(event.rows)]
    assert len(snapshot) == 11
    marker = event.revision
    client.create(Binding(ipv4="203.0.113.5", b4_ipv6=B4))
    client.update(Binding(ipv4="203.0.113.5", b4_ipv6="2001:db8:2::1"))
    client.delete("203.0.113.5")
    live = [next(events) for _ in range(3)]
    again = client.watch(after=marker, packed=True)
    for found in (live, [next(again) for _ in range(3)]):
        assert [(event.kind, event.revision) for event in found] == [
            (WatchEvent.BOUND, marker + 1),
            (WatchEvent.BOUND, marker + 2),
            (WatchEvent.UNBOUND, marker + 3),
        ]
        assert next(unpack(found[2].rows)).b4_ipv6 == "2001:db8:2::1"
    with pytest.raises(CallFailed) as caught:
        next(client.watch(after=marker + 100))
    assert caught.value.violations[0][0] == "after_revision"


def test_two_writers_with_the_same_etag(client: Client) -> None:
    made = client.create(Binding(ipv4="203.0.113.5", b4_ipv6=B4))

    def write(b4: str) -> str:
        try:
            client.update(Binding(ipv4="203.0.113.5", b4_ipv6=b4), etag=made.etag)
        except CallFailed as fault:
            return fault.reason
        return b4

    with ThreadPoolExecutor(8) as pool:
        ends = sorted(pool.map(write, [f"2001:db8:{number:x}::1" for number in range(2, 10)]))
    assert ends[1:] == ["ETAG_MISMATCH"] * 7
    assert client.get("203.0.113.5").b4_ipv6 == ends[0]


def test_a_replacement_while_that_of_a_client_that_left_is_finishing(tmp_path: Path) -> None:
    real = Bindings(tmp_path)
    with Served(parts(real)) as served, Client(served.target) as client:
        left = served.do(real.control.replace_all(Source.SOURCE_OPERATOR - 1))
        with pytest.raises(CallFailed) as caught:
            client.load(many(1).tobytes(), replace=True)
        assert reason(caught) == ("ABORTED", "REPLACEMENT_RUNNING")
        served.do(left.abandon())
        assert client.load(many(1).tobytes(), replace=True).done


def test_a_stream_that_breaks_off_leaves_what_was_bound(client: Client) -> None:
    client.load(many(50_000).tobytes())
    broken = many(40_000, b4_seed=1 << 20)
    broken["ipv4"][35_000] = 0
    with pytest.raises(CallFailed) as caught:
        client.load(broken.tobytes(), replace=True)
    assert caught.value.violations[0][0] == "rows[35000].ipv4"
    assert sum(len(octets) for octets, _ in client.dump(BindingFilter(source=Source.SOURCE_OPERATOR))) == 40 * 50_000
    assert client.load(many(10).tobytes(), replace=True).report.removed == 49_990  # nothing of the first is in the way
