"""Rows and tables for tests of the compiled binding table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pylwaftr import _core
from tests.table_model import Key, Row

Array = np.ndarray[Any, Any]

CONFIG, OPERATOR, DHCP, PCP = _core.SOURCE_CONFIG, _core.SOURCE_OPERATOR, _core.SOURCE_DHCP, _core.SOURCE_PCP
NONE, WHOLE, SHARED = (0, 0, 0), (_core.USE_WHOLE, 0, 0), _core.USE_SHARED

A1, A2 = 0xCB007101, 0xCB007102  # 203.0.113.1, .2
OWN4 = 0xC0000201
BR, BR2 = bytes.fromhex("20010db800aa00000000000000000001"), bytes.fromhex("20010db800aa00000000000000000002")


def b4(n: int) -> bytes:
    return bytes.fromhex("20010db80001") + n.to_bytes(10)


def row(ipv4: int = A1, psid: int = 0, k: int = 6, a: int = 0, to: bytes = b4(1), br: bytes = BR) -> Row:
    return Row(ipv4, psid, k, a, to, br)


def array(rows: Iterable[Row]) -> Array:
    rows = list(rows)
    made = np.zeros(len(rows), _core.BINDING_ROW)
    for cell, one in zip(made, rows, strict=True):
        cell["ipv4"], cell["psid"], cell["psid_len"], cell["psid_offset"] = one.ipv4, one.psid, one.k, one.a
        cell["b4"], cell["br"] = np.frombuffer(one.b4, np.uint8), np.frombuffer(one.br, np.uint8)
    return made


def rows_of(made: Array) -> list[Row]:
    numbers = (made[name].tolist() for name in ("ipv4", "psid", "psid_len", "psid_offset"))
    cells = zip(*numbers, made, strict=True)
    return [Row(ipv4, psid, k, a, one["b4"].tobytes(), one["br"].tobytes()) for ipv4, psid, k, a, one in cells]


def columns(keys: Iterable[Key]) -> tuple[Array, Array]:
    """Addresses, PSIDs."""
    keys = list(keys)
    return np.array([key[0] for key in keys], np.uint32), np.array([key[1] for key in keys], np.uint16)


def unbind(table: _core.BindingTable, keys: Iterable[Key], source: int) -> dict[str, Any]:
    return table.unbind(*columns(keys), source)


def make(rows: Sequence[Row] = (), capacity: int = 100, source: int = OPERATOR) -> _core.BindingTable:
    table = _core.BindingTable(capacity, [OWN4], [BR, BR2])
    assert table.bind(array(rows), source, 1)["refused"] == []
    return table
