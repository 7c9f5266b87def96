"""Bindings that hold an operator to the softwires a subscriber may have (RFC 7785 section 4.1), where that is wanted.

Configuration, leases and PCP have a limit of their own before they come here. What an operator binds is meant, so by
default it is taken; with `subscribers.limit_operator` it meets the same limit. Softwires are counted whoever made their
bindings, as they come and go, and only while somebody wants to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pylwaftr import row_sets
from pylwaftr.applied import Applied
from pylwaftr.bindings import Bindings, Expected
from pylwaftr.changes import Chain, Keys, Refusal, Report, Source
from pylwaftr.refusals import MOST
from pylwaftr.row_sets import UNBOUND, Index, Mask, Sourced
from pylwaftr.rows import Rows, describe
from pylwaftr.subscriber import Subscribers
from pylwaftr.table import ALL

_REASON = "subscriber_limit"


@dataclass(frozen=True, slots=True)
class _Beside:
    """Of a batch, beside what is bound."""

    index: Index  # of rows that do not wait behind a higher source
    less: Rows  # whose place they take


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
        rows, sources, _ = self.table.dump_chunk(0, ALL)
        found = Subscribers(mask, most)
        found.add(row_sets.select(rows, sources != Source.OPERATOR) if others else rows)
        return found

    # --- changes ---

    def begin(self, source: int) -> None:
        super().begin(source)
        if self._limit is not None and source == Source.OPERATOR:
            self._anew = self._counts(self._limit.mask, self._limit.max_softwires, others=True)

    def put(
        self,
        rows: Rows,
        source: int,
        *,
        expected: Expected = (),
        replacing: bool = False,
        validate_only: bool = False,
        chain: Chain | None = None,
    ) -> Applied:
        """With `validate_only` the batches of a chain are judged as if those before them were bound."""
        how: dict[str, Any] = {"expected": expected, "replacing": replacing, "validate_only": validate_only}
        if self._limit is None:
            return super().put(rows, source, **how)
        if source != Source.OPERATOR:
            with _Inside(self):
                return self._counted(super().put(rows, source, **how))
        rows = row_sets.canonical(rows)
        limit = self._judge(self._limit, chain, replacing, validate_only)
        counted = self._beside(rows, others=replacing and limit is not self._limit)
        if not (over := self._over(rows, limit, counted)).ok:
            return Applied(over)
        with _Inside(self):
            applied = super().put(rows, source, **how)
        if limit is not self._limit and applied.report.ok:
            mine = counted.index
            if applied.report.outranked and not validate_only:
                mine = np.flatnonzero(self._holders(rows["ipv4"], rows["psid"]).sources == source)
            limit.remove(counted.less)
            limit.add(row_sets.take(rows, mine))
        return self._counted(applied)

    def part_of_all(self, rows: Rows, source: int) -> Applied:
        """Also of the softwires: they count from now on, and when the rows are bound they are known."""
        if self._anew is None or source != Source.OPERATOR:
            return super().part_of_all(rows, source)
        rows = row_sets.canonical(rows)
        counted = self._beside(rows, others=True)
        if not (over := self._over(rows, self._anew, counted)).ok:
            return Applied(over)
        applied = super().part_of_all(rows, source)
        if applied.report.ok:
            self._anew.add(row_sets.take(rows, counted.index))
        return applied

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

    def counts_anew(self, chain: Chain | None, replacing: bool) -> bool:
        """Whether to judge a batch without binding it means to count all that there is."""
        return self._limit is not None and (replacing if chain is None else chain.softwires is None)

    def _judge(self, limit: Subscribers, chain: Chain | None, replacing: bool, validate_only: bool) -> Subscribers:
        """The count that has to have room."""
        if not validate_only:
            return self._anew if replacing and self._anew is not None else limit
        if chain is not None and isinstance(chain.softwires, Subscribers):
            return chain.softwires
        if chain is None and not replacing:
            return limit
        anew = self._counts(limit.mask, limit.max_softwires, others=replacing)
        if chain is not None:
            chain.softwires = anew
        return anew

    def _beside(self, rows: Rows, others: bool) -> _Beside:
        """`others`: only their softwires are counted, so none of these takes the place of one that is."""
        before = self._holders(rows["ipv4"], rows["psid"])
        bound = before.sources != UNBOUND
        waits: Mask = bound & (before.sources < Source.OPERATOR)  # behind the configuration
        less = before.select(np.zeros(len(rows), np.bool_) if others else bound & ~waits)
        less = less.in_order(less.ids())
        return _Beside(np.flatnonzero(~waits), less.select(row_sets.firsts(less.ids())).rows)

    def _over(self, rows: Rows, limit: Subscribers, counted: _Beside) -> Report:
        over = counted.index[limit.refused(row_sets.take(rows, counted.index), counted.less)]
        text = self._text(limit)
        told = tuple(Refusal(i, _REASON, f"{describe(rows[i])}: {text}") for i in over[:MOST].tolist())
        return Report(refused=told, more_refused=len(over) - len(told))

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
