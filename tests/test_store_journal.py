"""The journal by itself: records in statements of several lengths, and small changes read together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pylwaftr.store import Record, journal, segments
from pylwaftr.store.journal import Batch, Entry, Journal, Meta
from pylwaftr.store.segments import Events
from tests.store_rows import many, row


def opened(folder: Path) -> Journal:
    made = Journal(journal.connect(folder / "state.db"))
    made.create()
    return made


def kept(log: Journal) -> dict[tuple[str, bytes], bytes]:
    assert all(sound for *_, sound in log.records())
    return {(space, key): value for space, key, value, _ in log.records()}


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 31, 32, 33, 127, 128, 511, 512, 513, 1200])
def test_any_number_of_records_is_kept_in_few_statements(tmp_path: Path, count: int) -> None:
    log = opened(tmp_path)
    said: list[str] = []
    log._connection.set_trace_callback(said.append)
    records = [Record("pcp", number.to_bytes(4), bytes([number & 255])) for number in range(count)]
    log.write(Batch(records=[*records, Record("other", b"k", b"v")]), Meta())
    assert kept(log) == {("pcp", r.key): r.value for r in records} | {("other", b"k"): b"v"}
    inserts = [text for text in said if "INTO records" in text]
    assert len(inserts) <= (count + 1) // 512 + 3 + 3 + 3 + 7
    log.close()


def test_the_last_word_about_a_record_counts(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.write(Batch(records=[Record("pcp", b"a", b"1"), Record("pcp", b"b", b"1"), Record("pcp", b"a", b"2")]), Meta())
    log.write(Batch(records=[Record("pcp", b"b", None), Record("pcp", b"c", None)]), Meta())
    assert kept(log) == {("pcp", b"a"): b"2"}
    log.close()


def entry(number: int, count: int) -> Entry:
    return Entry(
        number, number, 1000 + number, number % 4, number % 3, count, many(number * 100, count).tobytes(), None
    )


def octets(events: Events) -> list[bytes]:
    columns = (events.rows, events.at, events.number, events.op, events.source)
    return [np.ascontiguousarray(column).tobytes() for column in columns]


@pytest.mark.parametrize("most", [1, 3, 10, 1000])
def test_changes_read_together_are_the_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(journal, "_TOGETHER", most)
    entries = [entry(number, number % 5) for number in range(1, 30)]
    parts = list(journal.together(entries, tmp_path))
    one_by_one = Events.join([single.events(tmp_path) for single in entries])
    assert octets(Events.join(parts)) == octets(one_by_one)
    assert all(len(part) <= most + 4 for part in parts)


def test_a_change_with_a_file_of_its_own_keeps_its_place(tmp_path: Path) -> None:
    segments.write(tmp_path / "x.events", [Events.of(row(7), 5, 2, 0, 1)], uniform=True)
    entries = [entry(1, 2), Entry(2, 2, 5, 0, 1, 1, None, "x.events"), entry(3, 2)]
    found = Events.join(list(journal.together(entries, tmp_path)))
    assert found.number.tolist() == [1, 1, 2, 3, 3]
