"""Bindings that hold an operator to the softwires a subscriber may have (RFC 7785 section 4.1), where that is wanted.

Configuration, leases and PCP have a limit of their own before they come here. What an operator binds is meant, so by
default it is taken; with `subscribers.limit_operator` it meets the same limit. Softwires are counted whoever made their
bindings, as they come and go, and only while somebody wants to know.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pylwaftr import row_sets
from pylwaftr.bindings import Applied, Bindings, Expected
from pylwaftr.changes import Keys, Refusal, Report, Source
from pylwaftr.row_sets import UNBOUND, Mask, Sourced
from pylwaftr.rows import Rows, describe
from pylwaftr.subscriber import Subscribers

_ALL = 1 << 62
_REASON = "subscriber_limit"


class LimitedBindings(Bindings):
    def __init__(self, table: Any) -> None:
        super().__init__(table)
        self._limit: Subscribers | None = None
        self._anew: Subscribers | None = None  # the same for a replacement of all that the operator has
        self._inside = False  # of a change: what it takes back of its own was not counted

    def limit_operator(self, mask: int, most: int | None) -> None:
        """From now on; what is bound stays. None: no limit."""
        self._limit = None if most is None else self._counts(mask, most, others=False)
        self._anew = None

    def _counts(self, mask: int, most: int, others: bool) -> Subscribers:
        rows, sources, _ = self.table.dump_chunk(0, _ALL)
        found = Subscribers(mask, most)
        found.add(row_sets.select(rows, sources != Source.OPERATOR) if others else rows)
        return found

    # --- changes ---

    def begin(self, source: int) -> None:
        super().begin(source)
        if self._limit is not None and source == Source.OPERATOR:
            self._anew = self._counts(self._limit.mask, self._limit.max_softwires, others=True)

    def put(
        self, rows: Rows, source: int, *, expected: Expected = (), replacing: bool = False, validate_only: bool = False
    ) -> Applied:
        if self._limit is None:
            return super().put(rows, source, expected=expected, replacing=replacing, validate_only=validate_only)
        by_operator, rows = source == Source.OPERATOR, row_sets.canonical(rows)
        if by_operator and (over := self._over(rows, replacing)):
            return Applied(Report(refused=over))
        with _Inside(self):
            how: dict[str, Any] = {"expected": expected, "replacing": replacing, "validate_only": validate_only}
            applied = super().put(rows, source, **how)
        if by_operator and replacing and self._anew is not None and applied.report.ok and not validate_only:
            self._anew.add(rows)
        return self._counted(applied)

    def remove(
        self, keys: Keys, source: int, *, expected: Expected = (), over: bool = False, validate_only: bool = False
    ) -> Applied:
        with _Inside(self):
            applied = super().remove(keys, source, expected=expected, over=over, validate_only=validate_only)
        return self._counted(applied)

    def sweep(self, source: int) -> Applied:
        with _Inside(self):
            return self._counted(super().sweep(source))

    def undo(self, applied: Applied) -> None:
        super().undo(applied)
        if not self._inside:
            self._count(come=applied.gone, gone=applied.come)

    # --- counting ---

    def _over(self, rows: Rows, replacing: bool) -> tuple[Refusal, ...]:
        limit = self._anew if replacing and self._anew is not None else self._limit
        assert limit is not None
        before = self._holders(rows["ipv4"], rows["psid"])
        bound = before.sources != UNBOUND
        waits: Mask = bound & (before.sources < Source.OPERATOR)  # behind the configuration
        gives_way: Mask = bound & ~waits if limit is self._limit else np.zeros(len(rows), np.bool_)
        less = before.select(gives_way)
        less = less.in_order(less.ids())
        less = less.select(row_sets.firsts(less.ids()))
        index = np.flatnonzero(~waits)
        over = index[limit.refused(row_sets.take(rows, index), less.rows)]
        return tuple(Refusal(i, _REASON, f"{describe(rows[i])}: {self._text(limit)}") for i in over.tolist())

    @staticmethod
    def _text(limit: Subscribers) -> str:
        return (
            f"its subscriber (/{limit.mask}) would have more than {limit.max_softwires} softwires; raise "
            "subscribers.max_softwires, or turn subscribers.limit_operator off"
        )

    def _counted(self, applied: Applied) -> Applied:
        self._count(applied.come, applied.gone)
        return applied

    def _count(self, come: Sourced, gone: Sourced) -> None:
        if self._limit is not None:
            if len(gone):
                self._limit.remove(gone.rows)
            if len(come):
                self._limit.add(come.rows)


class _Inside:
    def __init__(self, bindings: LimitedBindings) -> None:
        self._bindings = bindings

    def __enter__(self) -> None:
        self._bindings._inside = True

    def __exit__(self, *fault: object) -> None:
        self._bindings._inside = False
