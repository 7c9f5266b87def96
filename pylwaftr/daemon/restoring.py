"""What was bound before a restart is bound again: from the configuration and the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from pylwaftr import row_sets
from pylwaftr.applied import Applied
from pylwaftr.bindings import Bindings
from pylwaftr.changes import Change, Refusal, Report, Source
from pylwaftr.row_sets import Sourced
from pylwaftr.rows import Rows, no_rows
from pylwaftr.store import Commit, State, Store
from pylwaftr.table import ALL

log = logging.getLogger("pylwaftr")

_BACK_S = 60.0  # a clock may be set right by so much without a word


class ConfigRefused(Exception):
    """The configuration's bindings do not fit; nothing was done."""

    def __init__(self, refused: Sequence[Refusal]) -> None:
        self.refused = tuple(refused)
        super().__init__(f"bindings: {len(refused)} refused, the first: {refused[0].text}")


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of the start."""

    bound: int
    dropped: tuple[Refusal, ...]  # rows of the store that no longer fit
    set_aside: tuple[str, ...]  # damaged files


def restore(bindings: Bindings, store: Store, config: Rows, clock: Callable[[], float]) -> tuple[State, Restored, int]:
    """Also the revision it has led to. Raises ConfigRefused, StoreFault; then the store is closed."""
    try:
        state = store.load()
        if state.revision:
            _look_at_clock(state.at, clock())
        put = bindings.put(config, Source.CONFIG)
        if not put.report.ok:
            raise ConfigRefused(put.report.refused)
        dropped: list[Refusal] = []
        known: set[int] = set()  # sources all of whose rows are bound as they were
        for source in (Source.OPERATOR, Source.DHCP, Source.PCP):
            bound, waited = (rows.get(source, no_rows()) for rows in (state.bindings, state.shadowed))
            refused = _put_what_fits(bindings, np.concatenate([bound, waited]) if len(waited) else bound, source)
            dropped += refused
            # A later source takes nothing from an earlier one, so this stays so.
            if not len(waited) and not refused and not len(bindings.shadowed()):
                known.add(source)
        changes = _since(bindings, state, known)
        revision = store.commit([Commit(changes)], clock()) if changes else state.revision
        return state, Restored(bindings.table.size, tuple(dropped), state.set_aside), revision
    except BaseException:
        store.close()
        raise


def _look_at_clock(last: float, now: float) -> None:
    """Times of the history do not go back: after a time that was far ahead all have that one."""
    if last - now > _BACK_S:
        shown = datetime.fromtimestamp(min(last, 253_402_300_799), UTC).isoformat(timespec="seconds")
        log.warning(
            "the clock is behind the last time of the history: until %s every change is recorded as of then", shown
        )


def _put_what_fits(bindings: Bindings, rows: Rows, source: int) -> list[Refusal]:
    """What is left out."""
    dropped: list[Refusal] = []
    while len(rows):
        refused = bindings.put(rows, source).report.refused
        if not refused:
            break
        dropped += refused
        keep = np.ones(len(rows), np.bool_)
        keep[[refusal.index for refusal in refused]] = False
        rows = row_sets.select(rows, keep)
    return dropped


def _since(bindings: Bindings, state: State, known: set[int]) -> tuple[Change, ...]:
    """What is bound and waits otherwise than when the store was last written. `known`: sources of which nothing is."""
    table = bindings.table
    was = Sourced.join([Sourced.of(rows, source) for source, rows in state.bindings.items() if source not in known])
    waited = Sourced.join([Sourced.of(rows, source) for source, rows in state.shadowed.items()])
    waits = bindings.shadowed()
    now, sources = table.holders(was.rows["ipv4"], was.rows["psid"])
    same = (sources == was.sources) & row_sets.same(now, was.rows)
    bound = Sourced.none()
    if not same.all() or table.size != sum(map(len, state.bindings.values())):
        rows, by, _ = table.dump_chunk(0, ALL)
        bound = Sourced(rows, by)
        bound = bound.select(~np.isin(bound.sources, list(known)))
    return Applied(
        Report(),
        gone=was.select(~same),
        come=bound.less(was) if len(bound) else bound,
        left=waited.less(waits),
        waits=waits.less(waited),
    ).changes()
