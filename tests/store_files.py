"""The files of a state folder, and what harms them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from pylwaftr.store import Record, State
from pylwaftr.store.sqlite import Limits
from tests.store_rows import A3, BIND, SHADOW, bound, kept_up, many, one, opened, row

AT = 1_700_000_000.0
STAMP = "20231114T221320Z"
LARGE = 20_000  # rows of a change with a file of its own
LIMITS = Limits(fold_rows=10_000, snapshot_rows=15_000)


def made(folder: Path) -> None:
    """A snapshot, files of history of both kinds, and a journal with changes and records behind them."""
    store, _ = opened(folder, LIMITS)
    store.commit([one(BIND, many(0, LARGE))], 100.0)
    store.commit([one(SHADOW, row(3, 9), 2)], 101.0)
    store.commit([one(BIND, many(0, 6000, 2))], 102.0)
    store.commit([one(BIND, many(6000, 6000, 2))], 103.0)
    assert kept_up(store) == 1
    store.commit([one(BIND, row(0, 5, ipv4=A3 + 50_000), records=[Record("pcp", b"k", b"v")])], 104.0)
    store.commit([one(BIND, row(1, 5, ipv4=A3 + 50_000), records=[Record("pcp", b"l", b"w")])], 105.0)
    store.close()


def flip(path: Path, at: int) -> None:
    octets = bytearray(path.read_bytes())
    octets[at] ^= 0x10
    path.write_bytes(octets)


def cut(path: Path, keep: float) -> None:
    os.truncate(path, int(path.stat().st_size * keep))


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def snapshot(folder: Path) -> Path:
    return only(folder, "*.bindings")


def bulk(folder: Path) -> Path:
    return only(folder, "0000000000000001.events")


def folded(folder: Path) -> Path:
    return only(folder, "*-*.events")


def journal(folder: Path) -> Path:
    return folder / "state.db"


def in_journal(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(journal(folder))
    connection.execute(statement)
    connection.commit()
    connection.close()


def counts(state: State) -> tuple[int, int, int]:
    """Rows that are bound, rows that wait, records."""
    records = sum(len(part) for part in state.records.values())
    return len(bound(state)), sum(len(part) for part in state.shadowed.values()), records


CRASHED = """
import os, sys
from pathlib import Path
from tests.store_rows import *
store, _ = opened(Path(sys.argv[1]), Limits(**eval(sys.argv[2])))
for number in range(20):
    store.commit([one(BIND, row(number, number + 1))], float(number))
    kept_up(store)
os._exit(0)
"""


def crashed(folder: Path, **limits: int) -> None:
    """Twenty changes, one after the other, and nobody who closes the store."""
    subprocess.run([sys.executable, "-c", CRASHED, str(folder), repr(limits)], check=True)
