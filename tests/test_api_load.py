"""Fifty clients at once over real sockets, against control side, table and store of the router.

Each keeps a book of what was acknowledged to it. In the end the books, the table, the store when it is opened again,
the views of all watchers and the history are one and the same.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from pylwaftr.api.client import Binding, BindingFilter, CallFailed, Client, WatchEvent, pack
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2 as pb
from pylwaftr.changes import Source
from pylwaftr.rows import BINDING_ROW
from pylwaftr.store.sqlite import SqliteStore
from tests.api_router import Bindings, Served, many, parts

CLIENTS, STEPS, ROWS = 50, 10, 150
LAST = "203.0.113.255"  # bound when all is done

Key = tuple[str, int]
Lives = dict[Key, list[str]]  # the B4s that had it, in their order


@dataclass
class Book:
    """What was acknowledged."""

    now: dict[Key, Binding] = field(default_factory=dict)
    lives: Lives = field(default_factory=lambda: defaultdict(list))
    told: list[str] = field(default_factory=list)  # who lost a race was told so

    def bound(self, one: Binding) -> None:
        self.now[one.ipv4, one.psid] = one
        lives = self.lives[one.ipv4, one.psid]
        if not lives or lives[-1] != one.b4_ipv6:
            lives.append(one.b4_ipv6)

    def removed(self, key: Key) -> None:
        del self.now[key]


class Worker:
    """One client, with 64 port sets of an address and a range of whole addresses of its own."""

    def __init__(self, client: Client, number: int, pairs: list[threading.Barrier]) -> None:
        self.client, self.number, self.book, self.random = client, number, Book(), Random(number)
        self.ipv4 = f"198.51.100.{number}"
        self.race, self.barrier = f"198.51.101.{number // 2}", pairs[number // 2]
        self.made = 0

    def work(self) -> Book:
        steps = [self.create, self.create, self.update, self.delete, self.read]
        self.races()
        for step in range(STEPS):
            self.random.choice(steps)()
            if step == STEPS // 2:
                self.load()
        self.races()
        return self.book

    def b4(self) -> str:
        self.made += 1
        return f"2001:db8:{self.number + 1:x}:{self.made:x}::1"

    def create(self) -> None:
        psid = self.random.randrange(64)
        wanted = Binding(ipv4=self.ipv4, psid_len=6, psid=psid, b4_ipv6=self.b4())
        if (self.ipv4, psid) in self.book.now:
            assert self.refused(self.client.create, wanted) == "BINDING_EXISTS"
        else:
            self.book.bound(self.client.create(wanted))

    def update(self) -> None:
        for key, held in self.some():
            wanted = Binding(ipv4=key[0], psid_len=held.psid_len, psid=key[1], b4_ipv6=self.b4())
            self.book.bound(self.client.update(wanted, etag=held.etag))
            assert self.refused(self.client.update, wanted, etag=held.etag) == "ETAG_MISMATCH"

    def delete(self) -> None:
        for key, held in self.some():
            self.client.delete(*key, etag=held.etag)
            self.book.removed(key)
            assert self.refused(self.client.delete, *key) == "BINDING_NOT_FOUND"

    def some(self) -> list[tuple[Key, Binding]]:
        mine = [(key, held) for key, held in self.book.now.items() if key[0] == self.ipv4]
        return self.random.sample(mine, min(len(mine), 2))

    def read(self) -> None:
        mine = {key: held for key, held in self.book.now.items() if key[0] == self.ipv4}
        listed = list(self.client.bindings(BindingFilter(ipv4=self.ipv4), page_size=3))
        assert {(one.ipv4, one.psid): one.etag for one in listed} == {key: held.etag for key, held in mine.items()}
        for key, held in self.some():
            assert self.client.get(*key).etag == held.etag
            assert [life.binding.etag for life in self.client.lookup_b4(held.b4_ipv6)] == [held.etag]

    def load(self) -> None:
        rows = many(ROWS, self.number * ROWS)
        rows["ipv4"] += self.number * ROWS
        pieces = [rows[at : at + 50].tobytes() for at in range(0, ROWS, 50)]
        while self.too_many(pieces):
            time.sleep(0.02)
        for one in rows:
            b4 = f"2001:db8::{int.from_bytes(one['b4'].tobytes()[12:]):x}"
            self.book.bound(Binding(ipv4=str(IPv4Address(int(one["ipv4"]))), b4_ipv6=b4))

    def too_many(self, pieces: list[bytes]) -> bool:
        """Streams run already: four at a time."""
        try:
            return self.client.load(pieces).report.added != ROWS
        except CallFailed as fault:
            return fault.reason == "TOO_MANY_STREAMS"

    def races(self) -> None:
        """Both of a pair read one row, and then change it with its etag: to the one it happens, the other is told."""
        self.barrier.wait(30)
        try:
            self.book.bound(self.client.create(Binding(ipv4=self.race, b4_ipv6=self.b4())))
        except CallFailed as fault:
            self.book.told.append(fault.reason)
        self.barrier.wait(30)
        seen = self.client.get(self.race)
        self.barrier.wait(30)
        try:
            wanted = Binding(ipv4=self.race, b4_ipv6=self.b4())
            self.book.bound(self.client.update(wanted, etag=seen.etag))
        except CallFailed as fault:
            self.book.told.append(fault.reason)
        self.barrier.wait(30)
        seen = self.client.get(self.race)
        self.barrier.wait(30)
        try:
            self.client.delete(self.race, etag=seen.etag)
            self.book.told.append("deleted")
        except CallFailed as fault:
            self.book.told.append(fault.reason)
        self.book.now.pop((self.race, 0), None)

    def refused(self, call: Callable[..., object], *args: Any, **options: Any) -> str:
        with pytest.raises(CallFailed) as caught:
            call(*args, **options)
        return caught.value.reason


class Watcher(threading.Thread):
    """Its view of the table. `breaks`: it leaves after so many events, and goes on from a revision."""

    def __init__(self, target: str, packed: bool, breaks: int = 0) -> None:
        super().__init__()
        self.target, self.packed, self.breaks = target, packed, breaks
        self.view: dict[Key, str] = {}
        self.begun = 0

    def run(self) -> None:
        after: int | None = None
        with Client(self.target) as client:
            while (LAST, 0) not in self.view:
                after = self.once(client, after)
                self.begun += 1

    def once(self, client: Client, after: int | None) -> int | None:
        """From where to go on: the revision before the last one seen, which may have come in part."""
        last = after
        call = client.stubs.bindings.WatchBindings(pb.WatchBindingsRequest(after_revision=after, packed=self.packed))
        for count, event in enumerate(call, 1):
            if event.kind == WatchEvent.MARKER:
                after = last = event.revision
            elif last is not None and event.revision > last:
                after, last = last, event.revision
            self.see(event)
            if (LAST, 0) in self.view or (self.breaks and after is not None and count >= self.breaks):
                break
        call.cancel()
        return after

    def see(self, event: WatchEvent) -> None:
        rows = np.frombuffer(event.rows or pack(event.bindings), BINDING_ROW)
        for one in rows:
            key = str(IPv4Address(int(one["ipv4"]))), int(one["psid"])
            if event.kind == WatchEvent.UNBOUND:
                self.view.pop(key, None)
            else:
                self.view[key] = one["b4"].tobytes().hex()


@contextmanager
def watching(target: str) -> Iterator[list[Watcher]]:
    watchers = [Watcher(target, True), Watcher(target, False), Watcher(target, True, 5), Watcher(target, False, 40)]
    for one in watchers:
        one.start()
    try:
        yield watchers
    finally:
        for one in watchers:
            one.join(30)


def test_fifty_clients_at_once(tmp_path: Path) -> None:
    bindings, pairs = Bindings(tmp_path), [threading.Barrier(2) for _ in range(CLIENTS // 2)]
    with Served(parts(bindings)) as served, Client(served.target) as other, watching(served.target) as watchers:
        clients = [Client(served.target, timeout_s=30) for _ in range(CLIENTS)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            workers = [Worker(client, number, pairs) for number, client in enumerate(clients)]
            books = list(pool.map(Worker.work, workers))
        late = Watcher(served.target, True)
        late.start()
        final = Book()
        final.bound(other.create(Binding(ipv4=LAST, b4_ipv6="2001:db8:ffff::1")))
        late.join(30)
        for client in clients:
            client.close()
    wanted = {key: one for book in [*books, final] for key, one in book.now.items()}

    for at in range(0, CLIENTS, 2):  # each race has one winner, and the other knows why not
        told = books[at].told + books[at + 1].told
        assert sorted(told) == sorted(["BINDING_EXISTS", "ETAG_MISMATCH", "deleted", "BINDING_NOT_FOUND"] * 2)
    held = {key: octets for key, (octets, _) in bindings.held.items()}
    assert {_named(key): _b4(octets) for key, octets in held.items()} == {k: _hex(one) for k, one in wanted.items()}
    for watcher in [*watchers, late]:
        assert watcher.view == {_named(key): octets[8:24].hex() for key, octets in held.items()}
    assert [watcher.begun > 5 for watcher in watchers] == [False, False, True, True]

    store = SqliteStore(tmp_path, time.time())
    rows = store.load().bindings
    assert rows.keys() == {Source.OPERATOR}
    assert sorted(row.tobytes() for row in rows[Source.OPERATOR]) == sorted(held.values())
    store.close()
    with Served(parts(Bindings(tmp_path))) as served, Client(served.target) as client:
        assert sorted(one for part, _ in client.dump() for one in _cut(part)) == sorted(held.values())
        assert _history(client) == _written([*books, final])


def _named(key: tuple[int, int]) -> Key:
    return str(IPv4Address(key[0])), key[1]


def _b4(octets: bytes) -> str:
    return octets[8:24].hex()


def _hex(one: Binding) -> str:
    return _b4(pack([one]))


def _cut(octets: bytes) -> list[bytes]:
    return [octets[at : at + 40] for at in range(0, len(octets), 40)]


def _history(client: Client) -> dict[Key, list[tuple[str, bool]]]:
    """Per key who had it, in order, and whether that is over."""
    found: dict[Key, list[tuple[str, bool]]] = defaultdict(list)
    for life in client.lives_of("::/0"):
        found[life.binding.ipv4, life.binding.psid].append((life.binding.b4_ipv6, life.HasField("ended")))
    return {key: _either_way(key, lives) for key, lives in found.items()}


def _written(books: list[Book]) -> dict[Key, list[tuple[str, bool]]]:
    found: dict[Key, list[tuple[str, bool]]] = defaultdict(list)
    for book in books:
        for key, b4s in book.lives.items():
            found[key] += [(b4, key not in book.now or book.now[key].b4_ipv6 != b4) for b4 in b4s]
    return {key: _either_way(key, lives) for key, lives in found.items()}


def _either_way(key: Key, lives: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Those of a race are in two books, which do not say who came first."""
    return sorted(lives) if key[0].startswith("198.51.101.") else lives
