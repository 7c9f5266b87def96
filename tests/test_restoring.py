"""A start: what is said of a clock that is behind the history."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pylwaftr.bindings import Bindings
from pylwaftr.daemon.restoring import restore
from pylwaftr.rows import no_rows
from pylwaftr.store.sqlite import SqliteStore
from tests.control_life import table
from tests.store_rows import BIND, one, opened, row

LAST, SHOWN = 4_000_000_000.0, "2096-10-02T07:06:40"


@pytest.mark.parametrize(
    "now, said",
    [
        (LAST + 5, []),
        (LAST, []),
        (LAST - 59, []),
        (LAST - 61, ["2096-10-02T07:06:40"]),
        (1.8e9, ["2096-10-02T07:06:40"]),
    ],
)
def test_a_clock_that_is_behind_the_history(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, now: float, said: list[str]
) -> None:
    """Times do not go back: after a clock that was far ahead all that happens is recorded as of then."""
    store, _ = opened(tmp_path)
    store.commit([one(BIND, row(1))], LAST)
    store.close()
    again = SqliteStore(tmp_path, now)
    with caplog.at_level(logging.WARNING, "pylwaftr"):
        restore(Bindings(table()), again, no_rows(), lambda: now)
    again.close()
    warned = [record.getMessage() for record in caplog.records if "the clock is behind" in record.getMessage()]
    assert len(warned) == len(said)
    assert all(time in text for time, text in zip(said, warned, strict=True))
