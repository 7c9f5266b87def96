"""What status, API and metrics say of leasequery servers: how far behind, what waits, what went wrong, by server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.api.backend import KnownLease, LeaseFilter, SourceStatus
from pylwaftr.changes import Source
from pylwaftr.daemon.lease_status import LeaseStatus
from pylwaftr.dhcp.events import Saved
from pylwaftr.dhcp.requestor import Output
from pylwaftr.rows import no_rows
from tests.lease_service import SERVER, limited, serving
from tests.leasequery_peer import (
    ACTIVE,
    BULK,
    CATCH_UP_COMPLETE,
    DATA_MISSING,
    NOT_ALLOWED,
    NOT_SUPPORTED,
    SETTLED,
    TERMINATED,
    A,
    B,
    Peer,
    asking,
    bulk,
    data,
    done,
    lease,
    reply,
    server,
    started,
)
from tests.leasequery_vectors import T0
from tests.test_lease_turns import WAITING, first

ROOT = Path(__file__).resolve().parent.parent


def status(peer: Peer, now: float, under_way: Output | None = None) -> LeaseStatus:
    return LeaseStatus(peer.requestor, under_way or Output(), no_rows(), now, T0 + now)


def source(peer: Peer, now: float, name: str = "A", under_way: Output | None = None) -> SourceStatus:
    (found,) = [one for one in status(peer, now, under_way).sources() if one.name == name]
    return found


# --- lag --------------------------------------------------------------------------------------------------------------


def test_lag_is_the_time_since_all_was_known() -> None:
    peer = started(SETTLED)
    peer.recv(data(A, 60), ACTIVE, 60)
    assert (source(peer, 100).lag_s, source(peer, 100).synchronised) == (0.0, T0 + 100)  # live and quiet
    peer.lost(ACTIVE, 100)
    assert (source(peer, 130).lag_s, source(peer, 130).synchronised) == (70.0, T0 + 60)
    peer.accept(ACTIVE, 170, A + 9, then=data(A + 9, 170, lease(1, 90)))
    assert (source(peer, 171).state, source(peer, 171).lag_s) == ("catching up", 111.0)
    peer.recv(data(A + 9, 172, status=CATCH_UP_COMPLETE), ACTIVE, 172)
    assert source(peer, 173).lag_s == 0.0


def test_lag_of_what_is_missing_ends_with_the_full_bulk() -> None:
    peer = started(SETTLED)
    peer.recv(data(A, 50), ACTIVE, 50)
    peer.recv(data(A, 60, status=DATA_MISSING), ACTIVE, 60)
    assert source(peer, 80).lag_s == 30.0
    assert source(peer, 80).bulk_at is None
    bulk(peer, 80, lease(1, 80))
    assert (source(peer, 90).state, source(peer, 90).lag_s, source(peer, 90).bulk_at) == ("live", 0.0, T0 + 80)


def test_lag_before_anything_is_known_is_since_the_start() -> None:
    peer = Peer()
    peer.open(10)
    peer.accept(ACTIVE, 12, A)
    assert (source(peer, 15).lag_s, source(peer, 15).synchronised) == (5.0, None)


def test_a_server_that_is_polled_is_as_far_behind_as_the_last_poll_began() -> None:
    peer = asking(status=NOT_SUPPORTED)
    peer.connect(BULK, 1, B)
    began = peer.now
    peer.recv(reply(B, began, lease(1)) + done(B), BULK, began + 4)
    assert (source(peer, began + 100).state, source(peer, began + 100).lag_s) == ("polling", 100.0)


def test_what_was_heard_and_is_not_durable_is_behind() -> None:
    peer = started(SETTLED)
    peer.requestor.feed("A", ACTIVE, data(A, 10, lease(1, 10), lease(2, 10)), 10)
    assert (source(peer, 11).queued, source(peer, 11).lag_s) == (2, 1.0)
    taken = peer.requestor.take(12)
    assert (source(peer, 13, under_way=taken).queued, source(peer, 13, under_way=taken).lag_s) == (2, 3.0)
    peer.requestor.feed("A", ACTIVE, data(A, 14, lease(3, 14)), 14)
    assert (source(peer, 15, under_way=taken).queued, source(peer, 15, under_way=taken).lag_s) == (3, 5.0)
    assert (source(peer, 15).queued, source(peer, 15).lag_s) == (1, 1.0)  # the first two are durable now
    peer.requestor.take(15)
    assert (source(peer, 16).queued, source(peer, 16).lag_s) == (0, 0.0)


def test_each_server_has_its_own_queue_and_lag() -> None:
    peer = Peer(server("A"), server("B"), saved=SETTLED)
    peer.open()
    for name, xid in (("A", A), ("B", B)):
        peer.connect(ACTIVE, 0, xid, name)
        peer.recv(reply(xid, 0) + data(xid, 0, status=CATCH_UP_COMPLETE), ACTIVE, 0, name)
    peer.requestor.feed("A", ACTIVE, data(A, 10, lease(1, 10), lease(2, 10)), 10)
    peer.requestor.feed("B", ACTIVE, data(B, 11, lease(3, 11)), 11)

    def told(under_way: Output | None = None) -> dict[str, tuple[int, float]]:
        return {one.name: (one.queued, one.lag_s) for one in status(peer, 13, under_way).sources()}

    assert told() == {"A": (2, 3.0), "B": (1, 2.0)}
    assert told(peer.requestor.take(12)) == {"A": (2, 3.0), "B": (1, 2.0)}
    assert [one.queued for one in status(peer, 13).sources()] == [0, 0]


# --- messages and faults ----------------------------------------------------------------------------------------------


def test_messages_are_counted_by_server() -> None:
    peer = started(SETTLED)
    assert (source(peer, 0).sent, source(peer, 0).received) == (1, 2)  # the query; its answer and the end of catch-up
    peer.recv(data(A, 1, lease(1, 1)) + data(A, 1, lease(2, 1)) + data(A, 1), ACTIVE, 1)
    assert (source(peer, 1).sent, source(peer, 1).received) == (1, 5)


FAULTS: list[tuple[str, Any, str]] = [
    ("lost", lambda p: p.lost(ACTIVE, 5), "active connection: reset by peer"),
    ("refused", lambda p: p.recv(reply(A, 5), ACTIVE, 5), "active connection: a second LEASEQUERY-REPLY"),
    ("garbage", lambda p: p.recv(b"\0\5\x11" + A.to_bytes(3) + b"\0", ACTIVE, 5), "too few for a DHCPv6 option"),
    ("a frame that is too short", lambda p: p.recv(b"\0\1\x11", ACTIVE, 5), "a frame of 1 octets"),
    ("silence", lambda p: p.run_to(125), "active connection: silent while open"),
]


@pytest.mark.parametrize("what, then, text", FAULTS, ids=[row[0] for row in FAULTS])
def test_the_last_fault_is_told_with_its_time(what: str, then: Any, text: str) -> None:
    peer = started(SETTLED)
    assert (source(peer, 1).last_fault, source(peer, 1).last_fault_at) == ("", None)
    then(peer)
    found = source(peer, 200)
    assert text in found.last_fault
    assert found.last_fault_at == T0 + (120 if what == "silence" else 5)


def test_why_a_bulk_failed_is_the_last_fault() -> None:
    peer = started(Saved())
    peer.accept(BULK, 1, B, lease(1), then=done(B, TERMINATED))
    assert "QueryTerminated" in source(peer, 2).last_fault
    peer = started(Saved())
    peer.accept(BULK, 1, B, status=NOT_ALLOWED)
    assert "NotAllowed" in source(peer, 2).last_fault


def test_a_stream_that_steps_aside_is_no_fault() -> None:
    peer = started(Saved(), lease(1))
    session = peer.session()
    session._step_aside(1)
    assert (session.state, source(peer, 2).last_fault) == ("waiting", "")


# --- metrics ----------------------------------------------------------------------------------------------------------


def values(peer: Peer, now: float) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in status(peer, now).values()}


def labelled(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"server": "A", **labels}.items()))


SAMPLES: list[tuple[str, Mapping[str, str], float]] = [
    ("lwaftr_leases", {}, 3),
    ("lwaftr_leases_quarantined", {"reason": "no_b4"}, 1),
    ("lwaftr_leases_quarantined", {"reason": "bad_b4"}, 0),
    ("lwaftr_leases_quarantined", {"reason": "subscriber_limit"}, 0),
    ("lwaftr_lease_conflicts", {"reason": "other_division"}, 1),
    ("lwaftr_lease_conflicts", {"reason": "other_server"}, 0),
    ("lwaftr_lease_lag_seconds", {}, 0),
    ("lwaftr_lease_changes_queued", {}, 0),
    ("lwaftr_lease_source_live", {}, 1),
    ("lwaftr_lease_source_state", {"state": "live"}, 1),
    ("lwaftr_lease_source_state", {"state": "polling"}, 0),
    ("lwaftr_lease_messages", {"direction": "received"}, 6),
    ("lwaftr_lease_messages", {"direction": "sent"}, 1),
    ("lwaftr_lease_received", {"type": "data"}, 4),
    ("lwaftr_lease_received", {"type": "reply"}, 1),
    ("lwaftr_lease_malformed", {"reason": "overrun6"}, 1),
    ("lwaftr_lease_warnings", {"warning": "no_lease_time"}, 1),
    ("lwaftr_lease_connects", {"connection": "active"}, 1),
    ("lwaftr_lease_bulks", {"result": "complete"}, 0),
    ("lwaftr_lease_events", {"event": "keepalives"}, 0),
    ("lwaftr_lease_reports", {"report": "no_b4"}, 1),
    ("lwaftr_lease_reports", {"report": "other_division"}, 1),
    ("lwaftr_lease_silence_seconds", {}, 5),
    ("lwaftr_lease_start_age_seconds", {}, 5),
    ("lwaftr_lease_skew_seconds", {}, 0),
]


def eventful() -> Peer:
    """Live, with a lease that is bound, one without a B4, one that divides the address otherwise, and a bad message."""
    peer = started(SETTLED)
    told = [lease(1, 10), lease(2, 10, b4=None, lifetime=None), lease(3, 1, psid_len=7)]
    peer.recv(b"".join(data(A, 10, one) for one in told) + b"\0\5\x11" + A.to_bytes(3) + b"\0", ACTIVE, 10)
    active = peer.session()._active  # as if the bulk that the bad message asks for was over
    active.saved = replace(active.saved, resync=False)
    return peer


@pytest.mark.parametrize("name, labels, value", SAMPLES, ids=[f"{row[0]} {dict(row[1])}" for row in SAMPLES])
def test_a_metric(name: str, labels: Mapping[str, str], value: float) -> None:
    assert values(eventful(), 15)[name, labelled(**labels)] == pytest.approx(value)


def test_every_metric_is_documented_and_in_the_dashboard() -> None:
    names = {name for name, _ in values(eventful(), 15)}
    names |= {f"lwaftr_leases_{what}" for what in ("over_limit", "refused", "left_out")}
    docs = (ROOT / "docs/operations.md").read_text()
    assert sorted(name for name in names if not re.search(rf"`{name}(_total)?[{{`]", docs)) == []
    dashboard = json.loads((ROOT / "configs/grafana.json").read_text())
    asked = set(re.findall(r"\blwaftr_\w+", json.dumps(dashboard)))
    shown = {name.removesuffix("_total") for name in asked if name.startswith("lwaftr_lease")}
    assert len(shown) > 10
    assert shown <= names


# --- leases one by one ------------------------------------------------------------------------------------------------


def test_leases_are_listed_with_what_became_of_them(tmp_path: Path) -> None:
    told = [lease(1, b4="2001:db8:1:100::1"), WAITING, lease(3, b4="2001:db8:3::3"), lease(4, b4=None)]
    told += [lease(5, b4="2001:db8:5::5"), lease(6, b4="2001:db8:6::6", ipv4="8.8.8.8")]

    async def story() -> None:
        async with serving(tmp_path, limited(tmp_path)) as service:
            other = first()
            other["psid"], other["b4"][0, 5] = 3, 0x77
            await service.control.bind(other, Source.CONFIG)
            service.hear(*told)
            await service.until({1: "DHCP", 3: "CONFIG", 5: "DHCP", 6: "DHCP"})
            fifth = first()
            fifth["psid"] = 5
            await service.control.unbind((fifth["ipv4"], fifth["psid"]), Source.OPERATOR)
            await service.until({1: "DHCP", 3: "CONFIG", 6: "DHCP"})

            async def listed(size: int = 100, **wanted: Any) -> dict[int, str]:
                found: list[KnownLease] = []
                page = ""
                while True:
                    some, page = await service.leases.leases(LeaseFilter(**wanted), size, page)
                    found += some
                    assert len(some) <= size
                    if not page:
                        break
                psids = [one.lease.ports.psid for one in found if one.lease.ports is not None]
                assert len(set(psids)) == len(found)
                return dict(zip(psids, (one.standing for one in found), strict=True))

            every = {1: "bound", 2: "subscriber_limit", 3: "other_source", 4: "no_b4", 5: "absent", 6: "bound"}
            assert await listed() == every
            for size in (1, 2, 5):
                assert await listed(size) == every
            kept_out = {psid: word for psid, word in every.items() if word != "bound"}
            assert await listed(kept_out=True) == kept_out == await listed(1, kept_out=True)
            (one,) = service.leases.sources()
            assert (one.leases, one.quarantined, one.conflicts) == (6, 2, 0)
            with pytest.raises(KeyError):
                await service.leases.leases(LeaseFilter("nobody"), 10, "")
            for page in ("x", "1-zz", "-", "0" * 99, "1-", "zz-" + SERVER):
                with pytest.raises(ValueError, match=r".*"):
                    await service.leases.leases(LeaseFilter(SERVER), 10, page)

    asyncio.run(story())
