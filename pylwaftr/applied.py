"""What a batch of bindings came to: so that it can be told, written down, and taken back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pylwaftr import row_sets
from pylwaftr.changes import Change, Op, Report
from pylwaftr.row_sets import UNBOUND, Sourced
from pylwaftr.rows import Rows


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch came to, in table and shadow."""

    report: Report
    gone: Sourced = field(default_factory=Sourced.none)  # were bound, and are not, or with other contents or source
    come: Sourced = field(default_factory=Sourced.none)
    left: Sourced = field(default_factory=Sourced.none)  # the same of the shadow
    waits: Sourced = field(default_factory=Sourced.none)

    @property
    def empty(self) -> bool:
        return not (len(self.gone) or len(self.come) or len(self.left) or len(self.waits))

    def changes(self) -> tuple[Change, ...]:
        """A row that another takes the place of is not mentioned: the new one's BIND ends it."""
        if not (len(self.gone) or len(self.left) or len(self.waits)):
            return tuple(Change(Op.BIND, source, rows) for source, rows in self.come.by_source())
        stays, _ = row_sets.found(self.gone.keys(), row_sets.distinct(self.come.keys()))
        kept, _ = row_sets.found(self.left.ids(), row_sets.distinct(self.waits.ids()))
        parts = (
            (Op.UNBIND, self.gone.select(~stays)),
            (Op.UNSHADOW, self.left.select(~kept)),
            (Op.BIND, self.come),
            (Op.SHADOW, self.waits),
        )
        return tuple(Change(op, source, rows) for op, part in parts for source, rows in part.by_source())


def as_given(rows: Rows, source: int, before: Sourced, report: dict[str, Any], validate_only: bool) -> Applied:
    """The batch went into the table as it was."""
    counts = Report(added=report["added"], replaced=report["replaced"], unchanged=report["unchanged"])
    if validate_only or counts.unchanged == len(rows):
        return Applied(counts)
    given = Sourced.of(rows, source)
    if counts.added == len(rows):
        return Applied(counts, come=given)
    bound = before.sources != UNBOUND
    changed = ~bound | ~row_sets.same(rows, before.rows)
    return Applied(counts, gone=before.select(bound & changed), come=given.select(changed))
