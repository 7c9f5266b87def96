"""What the binding table has to do, as a dictionary: the oracle of test_binding_table.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

Key = tuple[int, int]  # IPv4 address, PSID
Refused = list[tuple[int, str]]


@dataclass(frozen=True)
class Row:
    ipv4: int
    psid: int
    k: int
    a: int
    b4: bytes
    br: bytes

    @property
    def plain(self) -> Row:
        """As the table keeps it: a whole address has neither PSID nor offset (RFC 7598 section 4.5)."""
        return replace(self, psid=0, a=0) if self.k == 0 else self

    @property
    def key(self) -> Key:
        return self.ipv4, self.plain.psid

    @property
    def params(self) -> tuple[int, int]:
        return self.plain.a, self.k


@dataclass
class Model:
    capacity: int
    own_v4: frozenset[int] = frozenset()
    own_v6: frozenset[bytes] = frozenset()
    rows: dict[Key, Row] = field(default_factory=dict)
    marks: dict[Key, tuple[int, int]] = field(default_factory=dict)  # source, generation

    def params_of(self, ipv4: int) -> tuple[int, int] | None:
        return next((row.params for row in self.rows.values() if row.ipv4 == ipv4), None)

    def _fault(self, row: Row) -> str | None:
        if row.a > 16 or (row.k > 0 and row.a + row.k > 16):
            return "bad_params"
        if row.k > 0 and row.psid >= 2**row.k:
            return "psid_range"
        octet = row.ipv4 >> 24
        if octet in (0, 127) or octet >= 224 or row.ipv4 // 8 == 0xC0000000 // 8:
            return "bad_address"
        if any(address == bytes(16) or address[0] == 0xFF for address in (row.b4, row.br)):
            return "bad_address"
        if row.ipv4 in self.own_v4 or row.b4 in self.own_v6 or row.b4 == row.br:
            return "own_address"
        return None

    def _refusals(self, batch: Sequence[Row], source: int) -> Refused:
        refused: Refused = []
        asked: dict[int, tuple[int, int]] = {}
        seen: set[Key] = set()
        new = 0
        for index, row in enumerate(batch):
            if (fault := self._fault(row)) is not None:
                refused.append((index, fault))
                continue
            standing = self.params_of(row.ipv4) or asked.setdefault(row.ipv4, row.params)
            if standing != row.params:
                whole = standing[1] == 0 or row.k == 0
                refused.append((index, "overlap" if whole else "other_params_on_address"))
            elif row.key in seen:
                refused.append((index, "duplicate_in_batch"))
            elif row.key in self.rows:
                seen.add(row.key)
                if self.marks[row.key][0] < source:
                    refused.append((index, "outranked"))
            else:
                seen.add(row.key)
                new += 1
                if len(self.rows) + new > self.capacity:
                    refused.append((index, "table_full"))
        return refused

    def bind(
        self, batch: Sequence[Row], source: int, generation: int, *, validate_only: bool = False
    ) -> dict[str, object]:
        refused = self._refusals(batch, source)
        counts = {"added": 0, "replaced": 0, "unchanged": 0, "removed": 0}
        for row in batch if not refused else ():
            before = self.rows.get(row.key)
            counts["added" if before is None else "unchanged" if before == row.plain else "replaced"] += 1
            if validate_only:
                continue
            self.rows[row.key] = row.plain
            self.marks[row.key] = (source, generation)
        return {**counts, "refused": refused}

    def unbind(self, keys: Iterable[Key], source: int) -> dict[str, object]:
        refused: Refused = []
        gone: list[Key] = []
        for index, (ipv4, psid) in enumerate(keys):
            params = self.params_of(ipv4)
            key = (ipv4, 0 if params is not None and params[1] == 0 else psid)
            if key not in self.rows:
                refused.append((index, "not_bound"))
            elif key in gone:
                refused.append((index, "duplicate_in_batch"))
            else:
                gone.append(key)
                if self.marks[key][0] < source:
                    refused.append((index, "outranked"))
        for key in gone if not refused else ():
            del self.rows[key], self.marks[key]
        return {"added": 0, "replaced": 0, "unchanged": 0, "removed": 0 if refused else len(gone), "refused": refused}

    def sweep(self, source: int, generation: int) -> dict[Key, Row]:
        gone = [key for key, (by, marked) in self.marks.items() if by == source and marked != generation]
        removed = {key: self.rows[key] for key in gone}
        for key in gone:
            del self.rows[key], self.marks[key]
        return removed

    def holder(self, ipv4: int, psid: int) -> tuple[Row, int] | None:
        params = self.params_of(ipv4)
        key = (ipv4, 0 if params is not None and params[1] == 0 else psid)
        return (self.rows[key], self.marks[key][0]) if key in self.rows else None
