"""Small operations of one kind in one go: an array of a thousand rows costs little more than an array of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pylwaftr import row_sets
from pylwaftr.applied import Applied
from pylwaftr.bindings import Bindings
from pylwaftr.changes import Report, Source
from pylwaftr.rows import Rows

SMALL = 64  # rows


class Operation(Protocol):
    alike: tuple[str, int] | None
    given: Rows | None
    done: list[Applied]
    result: Any


def together(bindings: Bindings, run: Sequence[Operation]) -> bool:
    """False, and nothing done, if they name a key twice, or one of them meets with other sources or is refused."""
    if run[0].alike is None:
        return False
    kind, source = run[0].alike
    parts = [row_sets.canonical(operation.given) for operation in run if operation.given is not None]
    rows = np.concatenate(parts)
    names = row_sets.keys(rows)
    if kind == "put":
        applied = bindings.put(rows, source)
    else:
        keys = (rows["ipv4"].copy(), rows["psid"].copy())
        applied = bindings.remove(keys, source, over=source == Source.OPERATOR)
        # A whole address goes by any PSID, and is then not found by the name it was given.
        if applied.report.removed != len(rows) or not np.isin(names, applied.gone.keys()).all():
            bindings.undo(applied)
            return False
    if not applied.report.ok or applied.report.outranked or len(applied.left) or len(applied.waits):
        bindings.undo(applied)
        return False
    come, gone = set(applied.come.keys().tolist()), set(applied.gone.keys().tolist())
    start = 0
    for operation, part in zip(run, parts, strict=True):
        own = names[start : start + len(part)].tolist()
        start += len(part)
        operation.result = _report(own, come, gone)
    run[0].done = [] if applied.empty else [applied]  # the others have its revision
    return True


def _report(own: list[int], come: set[int], gone: set[int]) -> Report:
    added = sum(name in come and name not in gone for name in own)
    replaced = sum(name in come and name in gone for name in own)
    removed = sum(name in gone and name not in come for name in own)
    return Report(added=added, replaced=replaced, removed=removed, unchanged=len(own) - added - replaced - removed)
