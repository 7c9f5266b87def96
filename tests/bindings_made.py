"""Bindings of several sources over the core's table, made from plain rows and read back as dictionaries."""

from __future__ import annotations

from pylwaftr import _core
from pylwaftr.bindings import Bindings
from pylwaftr.changes import Report
from tests.bindings_model import Bound, Wanted
from tests.table_model import Row
from tests.table_rows import array, rows_of

CONFIG, OPERATOR, DHCP, PCP = range(4)
A1, A2, A3 = 0xCB007101, 0xCB007102, 0xCB007103
BR = bytes.fromhex("20010db800aa00000000000000000001")


def row(psid: int = 0, k: int = 6, to: int = 1, ipv4: int = A1, a: int = 0) -> Row:
    return Row(ipv4, psid, k, a, bytes.fromhex("20010db80001") + to.to_bytes(10), BR)


def bound_of(bindings: Bindings) -> Bound:
    rows, sources, _ = bindings.table.dump_chunk(0, 1 << 20)  # type: ignore[attr-defined]
    return {one.key: (one, int(source)) for one, source in zip(rows_of(rows), sources, strict=True)}


def shadow_of(bindings: Bindings) -> Wanted:
    waiting = bindings.shadowed()
    return {(int(source), one.key): one for one, source in zip(rows_of(waiting.rows), waiting.sources, strict=True)}


def make(*puts: tuple[int, list[Row]], capacity: int = 1000) -> Bindings:
    bindings = Bindings(_core.BindingTable(capacity, [], [BR]))
    for source, rows in puts:
        assert bindings.put(array(rows), source).report.ok
    return bindings


def counts(report: Report) -> dict[str, int]:
    names = ("added", "replaced", "unchanged", "removed", "outranked")
    return {name: value for name in names if (value := getattr(report, name))}
