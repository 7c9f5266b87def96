"""The stream to a syslog collector: what is sent again after a break, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from pylwaftr import rows
from pylwaftr.api.backend import Event
from pylwaftr.changes import Change, Op
from pylwaftr.config.services import Syslog
from pylwaftr.config.values import Endpoint
from pylwaftr.daemon import binding_log
from pylwaftr.store import Compacted, StoreFault

WANTED = Syslog(Endpoint("192.0.2.20", 514), "tcp", "local0")
B4, BR = IPv6Address("2001:db8:1::1").packed, IPv6Address("2001:db8:aa::1").packed


def event(revision: int, op: Op, psid: int) -> Event:
    row = rows.row(int(IPv4Address("203.0.113.5")), 0, 6, psid, B4, BR)
    return Event(revision, 1_800_000_000.0, Change(op, 1, rows.array([row])))


# Revision 2 ends one port set and begins another.
NEWS = [event(1, Op.BIND, 1), event(2, Op.UNBIND, 1), event(2, Op.BIND, 2), event(3, Op.BIND, 3)]
SENT = ["begin 1", "end 1", "begin 2", "begin 3"]


class Backend:
    """Tells what is behind a revision, then ends; before that raises `faults`, one a watch."""

    def __init__(self, faults: Sequence[Exception]) -> None:
        self.revision, self._faults, self.asked = 0, list(faults), list[int]()

    async def watch(self, after: int) -> AsyncIterator[Event]:
        self.asked.append(after)
        if self._faults:
            self.revision = 2
            raise self._faults.pop(0)
        for news in NEWS:
            if news.revision > after:
                yield news


class Collector:
    """Takes messages; every one whose number is in `breaks` breaks the connection instead."""

    def __init__(self, breaks: Sequence[int]) -> None:
        self.heard, self._count, self._breaks = list[str](), 0, breaks

    async def to(self, wanted: Syslog) -> Collector:
        return self

    async def send(self, message: bytes) -> None:
        self._count += 1
        if self._count in self._breaks:
            raise ConnectionResetError("reset")
        word, psid = message.split()[5].decode(), message.split(b'psid="')[1].split(b'"')[0].decode()
        self.heard.append(f"{word} {psid}")

    def close(self) -> None:
        pass


STREAMS = [  # what, messages that break the connection, faults of the watch, what is heard, revisions asked for
    ("all of it", [], [], SENT, [0]),
    ("broken before anything was sent", [1], [], SENT, [0, 0]),
    (
        "broken in the middle of a revision: all of that again",
        [3],
        [],
        ["begin 1", "end 1", "end 1", "begin 2", "begin 3"],
        [0, 1],
    ),
    ("broken between revisions", [4], [], SENT, [0, 2]),
    ("what is no longer kept is left out", [], [Compacted("gone")], ["begin 3"], [0, 2]),
    ("what cannot be read is left out", [], [StoreFault("damaged")], ["begin 3"], [0, 2]),
]


@pytest.mark.parametrize("what, breaks, faults, heard, asked", STREAMS, ids=[row[0] for row in STREAMS])
def test_stream(
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    breaks: list[int],
    faults: list[Exception],
    heard: list[str],
    asked: list[int],
) -> None:
    backend, collector = Backend(faults), Collector(breaks)
    monkeypatch.setattr(binding_log, "_Writer", collector)
    monkeypatch.setattr(binding_log, "_RETRY_S", 0.0)
    stream: Any = binding_log.stream
    asyncio.run(asyncio.wait_for(stream(backend, WANTED, 0), 60))
    assert collector.heard == heard
    assert backend.asked == asked
