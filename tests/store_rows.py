"""Rows for tests of what is kept."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import Any

import numpy as np

from pylwaftr.rows import BINDING_ROW, Rows
from pylwaftr.store import Change, Commit, Life, Op, Record, State
from pylwaftr.store.sqlite import Limits, SqliteStore

A1, A2, A3 = (int(IPv4Address(f"203.0.113.{n}")) for n in (1, 2, 3))
EVER = (0.0, 1e11)
BIND, UNBIND, SHADOW, UNSHADOW = Op.BIND, Op.UNBIND, Op.SHADOW, Op.UNSHADOW
# Everything that happens once in thousands of commits happens at once.
TINY = Limits(bulk=4, fold_changes=6, fold_rows=20, snapshot_rows=30, kept_changes=8, kept_rows=60)


def b4(n: int) -> bytes:
    return bytes.fromhex("20010db80001") + n.to_bytes(10)


def row(psid: int = 0, to: int = 1, k: int = 6, ipv4: int = A1, a: int = 0) -> Rows:
    """An array of one."""
    made = np.zeros(1, BINDING_ROW)
    made["ipv4"], made["psid"], made["psid_len"], made["psid_offset"] = ipv4, psid, k, a
    made["b4"], made["br"] = np.frombuffer(b4(to), np.uint8), 7
    return made


def rows(*parts: Rows) -> Rows:
    return np.concatenate([np.zeros(0, BINDING_ROW), *parts])


def many(first: int, count: int, to: int = 1) -> Rows:
    made = np.zeros(count, BINDING_ROW)
    numbers = np.arange(first, first + count)
    made["ipv4"], made["psid"], made["psid_len"] = A1 + numbers // 64, numbers % 64, 6
    made["b4"][:, 0], made["b4"][:, 15], made["br"] = 0x20, to, 7
    made["b4"][:, 10:14] = numbers.astype(">u4").view(np.uint8).reshape(-1, 4)
    return made


def one(op: Op, part: Rows, source: int = 1, records: Iterable[Record] = ()) -> Commit:
    return Commit((Change(op, source, part),), tuple(records))


def opened(folder: Path, limits: Limits | None = None, at: float = 1000.0) -> tuple[SqliteStore, State]:
    store = SqliteStore(folder, at, limits)
    return store, store.load()


def kept_up(store: SqliteStore) -> int:
    """Does all upkeep there is to do."""
    jobs = 0
    while (job := store.upkeep()) is not None:
        job.run()
        store.adopt(job)
        jobs += 1
    return jobs


def bound(state: State) -> dict[tuple[int, int], tuple[int, int]]:
    """Key -> source, last octet of the B4."""
    return {
        (int(cell["ipv4"]), int(cell["psid"])): (source, int(cell["b4"][15]))
        for source, part in state.bindings.items()
        for cell in part
    }


def shown(lives: Iterable[Life]) -> list[tuple[Any, ...]]:
    """PSID, B4's last octet, source, began, ended."""
    return [
        (int(life.row[0]["psid"]), int(life.row[0]["b4"][15]), life.source, life.began, life.ended) for life in lives
    ]


def prefix(text: str) -> IPv6Network:
    return IPv6Network(text)
