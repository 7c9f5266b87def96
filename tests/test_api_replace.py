"""Replacing all bindings where the table has no room for the old beside the new; and streams that are tried first."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pylwaftr import _core
from pylwaftr.api.client import CallFailed, Client, LoadProgress
from pylwaftr.binding_files import save
from pylwaftr.changes import Source
from pylwaftr.daemon.replacing import Divisions
from pylwaftr.rows import Rows
from tests.api_router import Bindings, Run, Served, many, one, parts

pytest_plugins = ("tests.api_fixtures",)

ROOM = 20


@pytest.fixture
def bindings() -> Bindings:
    return Bindings(capacity=ROOM)


def pieces(rows: Rows, size: int = 5) -> list[bytes]:
    """Messages of a few rows each."""
    return [rows[at : at + size].tobytes() for at in range(0, len(rows), size)]


def packed(bindings: Bindings) -> list[bytes]:
    return sorted(octets for octets, _ in bindings.held.values())


def of(rows: Rows) -> list[bytes]:
    return sorted(row.tobytes() for row in rows)


def elsewhere(count: int) -> Rows:
    rows = many(count)
    rows["ipv4"] += 1 << 16
    return rows


CASES = [  # bound before, wanted
    ("all others", many(20), elsewhere(20)),
    ("some stay", many(20), np.concatenate([many(8), elsewhere(12)])),
    ("some stay, and come last", many(20), np.concatenate([elsewhere(12), many(8)])),
    ("some change", many(20), np.concatenate([elsewhere(6), many(14, 100)])),
    ("some room", many(13), elsewhere(20)),
    ("an address divided anew", many(20), np.concatenate([one("10.0.0.3", 5, n) for n in range(20)])),
    ("a row comes again", many(20), np.concatenate([elsewhere(5), many(20, 7)[:10], elsewhere(10), many(5)])),
]


@pytest.mark.parametrize("what, before, wanted", CASES, ids=[row[0] for row in CASES])
def test_exactly_full_after_the_replacement(
    client: Client, bindings: Bindings, what: str, before: Rows, wanted: Rows
) -> None:
    client.load(before.tobytes())
    keys = {(int(row["ipv4"]), int(row["psid"])): row.tobytes() for row in wanted}  # of a key the last row counts
    trial = client.load(pieces(wanted), replace=True, validate_only=True)
    assert (trial.done, packed(bindings), bindings.revision) == (True, of(before), 1)
    seen: list[LoadProgress] = []
    last = client.load(pieces(wanted), seen.append, replace=True)
    assert packed(bindings) == sorted(keys.values())
    assert any(progress.held for progress in seen)
    assert (last.done, last.held, last.rows) == (True, 0, len(wanted))
    assert trial.report.removed == last.report.removed
    same = len(set(of(before)) & set(keys.values()))
    assert last.report.unchanged >= same


ONE_MORE = [
    ("all others", many(20), elsewhere(21)),
    ("some stay", many(20), np.concatenate([many(8), elsewhere(13)])),
    ("an address divided anew", many(20), np.concatenate([one("10.0.0.3", 5, n) for n in range(21)])),
    ("far too many", many(20), elsewhere(500)),
]


@pytest.mark.parametrize("what, before, wanted", ONE_MORE, ids=[row[0] for row in ONE_MORE])
@pytest.mark.parametrize("validate_only", [True, False], ids=["validate", "for good"])
def test_one_more_is_refused_and_nothing_has_changed(
    client: Client, bindings: Bindings, what: str, before: Rows, wanted: Rows, validate_only: bool
) -> None:
    client.load(before.tobytes())
    with pytest.raises(CallFailed, match="the table is full; raise dataplane") as caught:
        client.load(pieces(wanted), replace=True, validate_only=validate_only)
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "TABLE_FULL")
    if len(wanted) == 21:
        assert [path for path, _ in caught.value.violations] == ["rows[20]"]
    assert (packed(bindings), bindings.revision) == (of(before), 1)
    assert client.load(pieces(elsewhere(20)), replace=True).report.removed == 20  # nothing of it is in the way


def test_the_bindings_of_others_take_room_too(client: Client, served: Served, bindings: Bindings) -> None:
    client.load(many(15).tobytes())
    served.do(bindings.put(one("203.0.113.1"), Source.DHCP))
    with pytest.raises(CallFailed) as caught:
        client.load(pieces(elsewhere(20)), replace=True)
    assert caught.value.reason == "TABLE_FULL"
    assert client.load(pieces(elsewhere(19)), replace=True).done
    assert len(bindings.held) == ROOM


def test_what_stays_is_never_gone_and_the_rest_changes_in_one_moment(served: Served, bindings: Bindings) -> None:
    """As watchers and the history see it: one revision, and no word of what stays."""
    with Client(served.target) as client:
        client.load(many(20).tobytes())
        wanted = np.concatenate([elsewhere(12), many(8)])
        client.load(pieces(wanted), replace=True)
        assert bindings.revision == 2
        events = client.watch(after=1, packed=True)
        told = [next(events) for _ in range(2)]
        assert [event.revision for event in told] == [2, 2]
        assert sum(len(event.rows) // 40 for event in told) == 12 + 12
        assert not any(row in event.rows for event in told for row in of(many(8)))
        assert len(list(client.who_held("10.0.0.3", 80))) == 1


def test_what_was_held_is_not_bound_when_the_stream_breaks_off(client: Client, bindings: Bindings) -> None:
    client.load(many(20).tobytes())
    wanted = elsewhere(10)
    wanted["psid_len"][9], wanted["psid"][9] = 6, 64
    with pytest.raises(CallFailed):
        client.load(pieces(wanted), replace=True)
    assert (packed(bindings), bindings.revision) == (of(many(20)), 1)


def test_what_is_held_is_judged_when_it_comes(client: Client, bindings: Bindings) -> None:
    client.load(many(20).tobytes())
    wanted = elsewhere(10)
    wanted[7] = wanted[6]
    seen: list[LoadProgress] = []
    with pytest.raises(CallFailed) as caught:
        client.load(pieces(wanted), seen.append, replace=True)
    assert (caught.value.reason, caught.value.violations[0][0]) == ("DUPLICATE_IN_BATCH", "rows[7]")
    assert (seen[-1].held, seen[-1].rows) == (5, 10)


def test_a_store_that_fails_at_the_end_leaves_all_as_it_was(client: Client, bindings: Bindings) -> None:
    client.load(many(20).tobytes())

    def broken(progress: LoadProgress) -> None:
        bindings.broken = "the disk is full"

    with pytest.raises(CallFailed) as caught:
        client.load(pieces(elsewhere(20)), broken, replace=True)
    assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "STORE_FAULT")
    bindings.broken = ""
    assert packed(bindings) == of(many(20))
    assert client.load(pieces(elsewhere(20)), replace=True).report.removed == 20
    assert packed(bindings) == of(elsewhere(20))


def test_softwires_of_what_was_held_are_counted(client: Client, served: Served, bindings: Bindings) -> None:
    served.do(bindings.control.limit_operator(64, 1))

    def apart(rows: Rows) -> Rows:  # each B4 in a /64 of its own
        rows["b4"][:, 7] = rows["b4"][:, 15]
        return rows

    client.load(apart(many(20)).tobytes())
    wanted = apart(elsewhere(20))
    wanted["b4"][11, 7] = wanted["b4"][2, 7]
    seen: list[LoadProgress] = []
    with pytest.raises(CallFailed) as caught:
        client.load(pieces(wanted), seen.append, replace=True)
    assert (caught.value.reason, caught.value.violations[0][0]) == ("SUBSCRIBER_LIMIT", "rows[11]")
    assert (seen[-1].rows, seen[-1].refused_count) == (15, 1)  # when it comes
    assert packed(bindings) == of(apart(many(20)))
    assert client.load(pieces(apart(elsewhere(20))), replace=True).report.removed == 20


def test_a_stream_without_end_takes_no_memory_without_end(client: Client, bindings: Bindings) -> None:
    """The same rows again and again are kept once, and others are refused when they cannot all be bound."""
    client.load(many(20).tobytes())
    assert client.load(pieces(elsewhere(20)) * 50, replace=True).report.removed == 20
    assert packed(bindings) == of(elsewhere(20))
    seen: list[LoadProgress] = []
    with pytest.raises(CallFailed):
        client.load(pieces(many(5000)), seen.append, replace=True)
    assert seen[-1].rows <= 2 * ROOM + 5


def test_a_load_is_tried_as_a_whole(client: Client, bindings: Bindings) -> None:
    client.load(many(10).tobytes())
    assert client.load(pieces(many(20)) * 2, validate_only=True).done  # what comes again takes no room
    with pytest.raises(CallFailed) as caught:
        client.load(pieces(many(21)), validate_only=True)
    assert (caught.value.reason, caught.value.violations[0][0]) == ("TABLE_FULL", "rows[20]")
    assert bindings.revision == 1


def test_a_trial_counts_what_comes_again_as_a_load_does(client: Client, bindings: Bindings) -> None:
    client.load(np.concatenate([many(2), many(4, 50)[2:]]).tobytes())
    stream = [*pieces(many(8)), *pieces(np.concatenate([many(5), many(8, 60)[5:]])), *pieces(many(8)[6:])]
    trial = client.load(stream, validate_only=True).report
    load = client.load(stream).report
    assert (trial.added, trial.replaced, trial.unchanged) == (load.added, load.replaced, load.unchanged) == (4, 7, 7)


def test_what_comes_again_behind_another_source_is_counted_as_waiting(client: Client, served: Served) -> None:
    bindings = Bindings(config=one("10.0.0.1"))
    with Served(parts(bindings)) as running, Client(running.target) as own:
        stream = [*pieces(many(3)), *pieces(many(3)), *pieces(many(3, 9))]
        trial = own.load(stream, validate_only=True).report
        load = own.load(stream).report
    assert (trial.added, trial.replaced, trial.unchanged, trial.outranked) == (2, 2, 2, 3)
    assert (load.added, load.replaced, load.unchanged, load.outranked) == (2, 2, 2, 3)


def test_of_many_refusals_a_thousand_are_told_and_all_are_counted(tmp_path: Path) -> None:
    bindings = Bindings(capacity=2000)
    with Served(parts(bindings)) as served, Client(served.target) as client:
        served.do(bindings.put(many(1000), Source.OPERATOR))
        trial = bindings.control.rehearse(Source.OPERATOR, replacing=False)
        served.do(trial.feed(elsewhere(1000)))
        apart = elsewhere(1500)
        apart["ipv4"] += 1 << 16
        served.do(trial.feed(apart[:900]))
        last = served.do(trial.finish())
        assert (len(last.refused), last.refused_count, last.refused[0].index) == (900, 900, 1000)
        with pytest.raises(CallFailed, match=r"\(and 1499 more\)") as caught:
            client.load(pieces(elsewhere(2500), 500), validate_only=True)
        assert caught.value.metadata["violations"] == "1500"
        report = served.do(bindings.control.rehearse(Source.OPERATOR, replacing=False).feed(elsewhere(3000)))
        assert (len(report.refused), report.refused_count) == (1000, 2000)


APART = [  # in the first message, in the second, reason
    (one("203.0.113.1", 6, 1), one("203.0.113.1", 7, 9), "OTHER_PARAMS_ON_ADDRESS"),
    (one("203.0.113.1", 6, 1), one("203.0.113.1", 6, 9, offset=4), "OTHER_PARAMS_ON_ADDRESS"),
    (one("203.0.113.1", 6, 1), one("203.0.113.1"), "OVERLAP"),
    (one("203.0.113.1"), one("203.0.113.1", 6, 1), "OVERLAP"),
]


@pytest.mark.parametrize("first, second, reason", APART, ids=["length", "offset", "whole behind", "whole before"])
@pytest.mark.parametrize("replace", [False, True], ids=["load", "replace"])
@pytest.mark.parametrize("validate_only", [True, False], ids=["validate", "for good"])
def test_rows_of_two_messages_overlap_as_those_of_one_do(
    client: Client, bindings: Bindings, first: Rows, second: Rows, reason: str, replace: bool, validate_only: bool
) -> None:
    stream = [*pieces(np.concatenate([many(6), first])), *pieces(elsewhere(7), 1), second.tobytes()]
    with pytest.raises(CallFailed) as caught:
        client.load(stream, replace=replace, validate_only=validate_only)
    assert (caught.value.reason, caught.value.violations[0][0]) == (reason, "rows[14]")
    assert len(bindings.held) == (0 if validate_only else 14)


# --- the command line


def test_a_file_replaces_all_of_a_full_table(client: Client, run: Run, bindings: Bindings, tmp_path: Path) -> None:
    fits, too_long = tmp_path / "fits.csv", tmp_path / "long.csv"
    save(fits, elsewhere(20))
    save(too_long, elsewhere(21))
    client.load(many(20).tobytes())
    full = "10.1.0.20 (whole): the table is full; raise dataplane.max_bindings or remove bindings"
    for words in (["--dry-run"], ["--yes"]):
        result = run("bindings", "replace", too_long, *words)
        assert (result.exit_code, result.stderr.splitlines()) == (
            1,
            [
                f"{too_long}:22: TABLE_FULL: {full}",
                f"pylwaftr: {too_long}: {full} [TABLE_FULL]; nothing was changed",
            ],
        )
    assert packed(bindings) == of(many(20))
    assert run("bindings", "replace", fits, "--dry-run").stdout == f"{fits}: would be 20 added, 20 removed\n"
    assert run("bindings", "replace", fits, "--yes").stdout == f"{fits}: 20 added, 20 removed\n"
    assert packed(bindings) == of(elsewhere(20))


def test_an_import_beyond_the_room_is_refused_as_a_whole(client: Client, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    client.load(many(10).tobytes())
    save(file, many(21))
    result = run("bindings", "import", file)
    assert result.exit_code == 1
    assert result.stderr.endswith("[TABLE_FULL]; nothing was changed\n")
    save(file, many(20))
    assert run("bindings", "import", file).stdout == f"{file}: 10 added, 10 unchanged\n"


def test_rows_without_room_are_named_by_their_lines_as_far_as_an_error_goes(tmp_path: Path) -> None:
    file, room, said = tmp_path / "many.csv", 100, dict[int, tuple[list[str], str]]()
    with Served(parts(Bindings(capacity=room))) as served:
        for more in (3, 90):
            save(file, many(room + more))
            *lines, last = served.command("bindings", "replace", file, "--dry-run").stderr.splitlines()
            assert [line.split(": ")[0] for line in lines] == [f"{file}:{room + 2 + n}" for n in range(len(lines))]
            said[more] = lines, last
    assert (len(said[3][0]), said[3][1]) == (3, f"pylwaftr: {file}: the router refuses 3 rows; nothing was changed")
    lines, last = said[90]
    assert 20 < len(lines) < 90
    assert last.endswith(f": the router refuses 90 rows, of which {len(lines)} are named; nothing was changed")


def test_a_replacement_that_finds_no_room_at_its_end_says_what_was_held(tmp_path: Path) -> None:
    class Shared(Bindings):
        async def replace_all(self, source: int) -> Any:
            await self.put(one("203.0.113.1"), Source.DHCP)  # since the check
            return await super().replace_all(source)

    file, bindings = tmp_path / "wanted.csv", Shared(capacity=ROOM)
    save(file, elsewhere(20))
    with Served(parts(bindings)) as served, Client(served.target) as client:
        client.load(many(19).tobytes())
        result = served.command("bindings", "replace", file, "--yes")
        assert len(bindings.held) == 20
    full = "10.1.0.19 (whole): the table is full; raise dataplane.max_bindings or remove bindings"
    assert result.stderr.splitlines() == [
        f"{file}:21: TABLE_FULL: {full}",
        f"pylwaftr: {file}: {full} [TABLE_FULL]; 20 rows held and not bound before that. All of it passed the check at "
        "revision 1: bindings were changed by somebody else since; what was done stays, replace again to do the rest",
    ]


# --- a table as large as in use


def test_a_full_table_of_many_messages(tmp_path: Path) -> None:
    """The CLI's messages of 32768 rows; nothing of it depends on where a message ends."""
    room = 100_000

    async def life() -> None:
        bindings = Bindings(tmp_path, room)
        await bindings.start()
        control, old, new = bindings.control, _core.bench_rows(0, room), _core.bench_rows(room // 2, room)
        await control.bind(old, Source.OPERATOR)
        replacement = await control.replace_all(Source.OPERATOR)
        reports = [await replacement.feed(new[at : at + 32768]) for at in range(0, room, 32768)]
        assert (sum(r.held for r in reports), sum(r.unchanged for r in reports)) == (room - 32768, 32768)
        last = await replacement.finish()
        assert (last.added, last.unchanged, last.removed) == (room // 2, room // 2 - 32768, room // 2)
        assert packed(bindings) == of(new)
        await bindings.stop()

    asyncio.run(life())


def test_divisions_of_a_stream_are_those_of_a_dictionary() -> None:
    random, divisions, known = np.random.default_rng(5), Divisions(), dict[int, int]()
    for _ in range(900):
        rows = np.repeat(many(1), int(random.integers(0, 40)))
        rows["ipv4"] = np.sort(random.integers(0, 3000, len(rows)))
        rows["psid_len"] = 4 + rows["ipv4"] % 3 + (random.random(len(rows)) < 0.002)
        ids = dict(zip(rows["ipv4"].tolist(), rows["psid_len"].tolist(), strict=True))
        if any(
            ids[ipv4] != length for ipv4, length in zip(rows["ipv4"].tolist(), rows["psid_len"].tolist(), strict=True)
        ):
            continue  # of one message, which the table refuses
        wrong = [i for i, row in enumerate(rows) if known.get(int(row["ipv4"]), row["psid_len"]) != row["psid_len"]]
        assert [one.index for one in divisions.judge(rows).refused] == wrong
        if not wrong:
            known |= ids
    assert len(known) > 1000
