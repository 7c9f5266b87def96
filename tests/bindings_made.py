"""Bindings of several sources over the core's table, made from plain rows and read back as dictionaries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pylwaftr import _core
from pylwaftr.bindings import Bindings
from pylwaftr.changes import Report
from tests.bindings_model import Bound, Wanted
from tests.table_model import Key, Row

CONFIG, OPERATOR, DHCP, PCP = range(4)
A1, A2, A3 = 0xCB007101, 0xCB007102, 0xCB007103
BR = bytes.fromhex("20010db800aa00000000000000000001")


def row(psid: int = 0, k: int = 6, to: int = 1, ipv4: int = A1, a: int = 0) -> Row:
    return Row(ipv4, psid, k, a, bytes.fromhex("20010db80001") + to.to_bytes(10), BR)


def array(rows: Iterable[Row]) -> np.ndarray[Any, Any]:
    rows = list(rows)
    made = np.zeros(len(rows), _core.BINDING_ROW)
    for cell, one in zip(made, rows, strict=True):
        cell["ipv4"], cell["psid"], cell["psid_len"], cell["psid_offset"] = one.ipv4, one.psid, one.k, one.a
        cell["b4"], cell["br"] = np.frombuffer(one.b4, np.uint8), np.frombuffer(one.br, np.uint8)
    return made


def plain(cell: Any) -> Row:
    numbers = (int(cell[name]) for name in ("ipv4", "psid", "psid_len", "psid_offset"))
    return Row(*numbers, cell["b4"].tobytes(), cell["br"].tobytes())


def keys(names: Iterable[Key]) -> tuple[Any, Any]:
    names = list(names)
    return np.array([name[0] for name in names], np.uint32), np.array([name[1] for name in names], np.uint16)


def bound_of(bindings: Bindings) -> Bound:
    rows, sources, _ = bindings.table.dump_chunk(0, 1 << 20)  # type: ignore[attr-defined]
    return {(r := plain(cell)).key: (r, int(source)) for cell, source in zip(rows, sources, strict=True)}


def shadow_of(bindings: Bindings) -> Wanted:
    waiting = bindings.shadowed()
    return {(int(s), (r := plain(c)).key): r for c, s in zip(waiting.rows, waiting.sources, strict=True)}


def make(*puts: tuple[int, list[Row]], capacity: int = 1000) -> Bindings:
    bindings = Bindings(_core.BindingTable(capacity, [], [BR]))
    for source, rows in puts:
        assert bindings.put(array(rows), source).report.ok
    return bindings


def counts(report: Report) -> dict[str, int]:
    names = ("added", "replaced", "unchanged", "removed", "outranked")
    return {name: value for name in names if (value := getattr(report, name))}
