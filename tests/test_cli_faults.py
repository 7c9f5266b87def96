"""What a command that fails tells programs: the exit status, and with --json one object on standard error."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from pylwaftr.api.client import Client
from pylwaftr.binding_files import save
from pylwaftr.cli import faults
from pylwaftr.cli.main import COMMANDS, main
from tests.api_router import Bindings, Run, Served, many, one, parts
from tests.config_text import text

pytest_plugins = ("tests.api_fixtures",)

ROOT = Path(__file__).resolve().parent.parent
B4 = "2001:db8:1::1"
KEYS = {"reason", "code", "exit_status", "message", "violations", "metadata"}


def error(result: Result) -> dict[str, Any]:
    """Of the only line of standard error."""
    (line,) = result.stderr.splitlines()
    (name, found), *rest = json.loads(line).items()
    assert (name, rest, set(found) - {"trace"}) == ("error", [], KEYS)
    assert (found["exit_status"], found["message"][-1:] != "\n") == (result.exit_code, True)
    assert found["code"].isupper()
    return dict(found)


def alone(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], env={"PYLWAFTR_SERVER": "127.0.0.1:1"})


# --- of the API

REFUSED = [  # what is typed, status, reason, code, fields of the violations
    ("bindings get 203.0.113.9 --psid 3", 3, "BINDING_NOT_FOUND", "NOT_FOUND", []),
    ("bindings rm 203.0.113.9", 3, "BINDING_NOT_FOUND", "NOT_FOUND", []),
    ("bindings add 203.0.113 --b4 nobody", 2, "INVALID_FIELD", "INVALID_ARGUMENT", ["binding.ipv4", "binding.b4_ipv6"]),
    ("bindings add 203.0.113.5 --b4 2001:db8::1", 1, "BINDING_EXISTS", "ALREADY_EXISTS", ["binding"]),
    ("bindings ls --ipv4 203.0.113.5/24", 2, "INVALID_FIELD", "INVALID_ARGUMENT", ["filter.ipv4"]),
    ("lookup 203.0.113.9:80", 3, "NOT_FOUND", "NOT_FOUND", []),
    ("lookup 203.0.113.9:80000", 2, "INVALID_FIELD", "INVALID_ARGUMENT", ["PORT"]),
    ("lookup router", 2, "INVALID_FIELD", "INVALID_ARGUMENT", ["ADDRESS"]),
    ("history 203.0.113.9:80", 3, "NOT_FOUND", "NOT_FOUND", []),
    ("counters rx_v5", 3, "NOT_FOUND", "NOT_FOUND", []),
    ("health heart", 3, "NOT_FOUND", "NOT_FOUND", []),
    ("reload --dry-run", 1, "RESTART_NEEDED", "FAILED_PRECONDITION", []),
    ("pcp release 198.51.100.1 --psid 9", 3, "MAPPING_NOT_FOUND", "NOT_FOUND", []),
    ("leasequery drop x", 3, "SOURCE_NOT_FOUND", "NOT_FOUND", []),
]


@pytest.mark.parametrize("words, status, reason, code, fields", REFUSED, ids=[row[0] for row in REFUSED])
def test_what_the_router_refuses(
    run: Run, client: Client, words: str, status: int, reason: str, code: str, fields: list[str]
) -> None:
    client.load(one("203.0.113.5").tobytes())
    result = run(*words.split(), "--json")
    found = error(result)
    assert (result.exit_code, result.stdout if "reload" not in words else "") == (status, "")
    assert (found["reason"], found["code"]) == (reason, code)
    assert [violation["field"] for violation in found["violations"]] == fields
    assert all(violation["message"] for violation in found["violations"])


def test_people_are_told_in_words(run: Run) -> None:
    result = run("bindings", "add", "203.0.113", "--b4", "nobody")
    assert (result.exit_code, result.stderr.splitlines()) == (
        2,
        [
            "pylwaftr: binding.ipv4: '203.0.113' is not an IPv4 address (Expected 4 octets in '203.0.113') "
            "(and 1 more) [INVALID_FIELD]",
            "  binding.ipv4: '203.0.113' is not an IPv4 address (Expected 4 octets in '203.0.113')",
            "  binding.b4_ipv6: 'nobody' is not an IPv6 address (At least 3 parts expected in 'nobody')",
        ],
    )


# --- answers that are no success: they are on standard output


def test_files_that_differ(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plan.csv").write_text(f"ipv4,b4_ipv6\n203.0.113.5,{B4}\n")
    result = run("bindings", "diff", tmp_path / "plan.csv", "--json")
    assert (result.exit_code, len(json.loads(result.stdout)["added"])) == (3, 1)
    assert (error(result)["reason"], error(result)["message"]) == (
        "DIFFERENT",
        f"{tmp_path}/plan.csv differs from the router: 1 added, 0 changed, 0 removed",
    )
    assert run("bindings", "diff", tmp_path / "plan.csv").stderr == ""


def test_a_router_that_does_not_serve() -> None:
    with Served(parts()) as served:
        served.do(served.running.health("store", False))
        for words, serving in (["health", "store"], "serves"), (["health"], "serves"):
            result = served.command(*words, "--json")
            assert (result.exit_code, json.loads(result.stdout)[serving], error(result)["reason"]) == (
                1,
                False,
                "NOT_SERVING",
            )
            assert served.command(*words).stderr == ""


def test_a_configuration_with_faults(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(text("qqq: 1\nicmp: {rate_limit: x}"))
    for words in ["check-config", file], ["replay", "-c", file], ["explain", "-c", file, "--side", "v4", "--hex", "00"]:
        result = alone(*words, "--json")
        found = error(result)
        assert (result.exit_code, found["reason"], found["metadata"]) == (
            2,
            "SETTINGS_FAULTY",
            {"file": str(file), "violations": "2"},
        )
        places = [(one["file"], one["line"], one["field"]) for one in found["violations"]]
        assert places == [(str(file), 5, "qqq"), (str(file), 6, "icmp.rate_limit")]
        assert alone(*words).stderr.splitlines() == [
            f"{one['file']}:{one['line']}: {one['field']}: {one['message']}" for one in found["violations"]
        ]


# --- files of bindings

TABLE = "ipv4,psid_len,psid,b4_ipv6\n1.2.3.4,6,99,::5:1\n1.2.3.5,0,0,2001:db8::1\n1.2.3.5,0,0,2001:db8::2\n"


def test_every_fault_of_a_file_is_a_violation(run: Run, bindings: Bindings, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(TABLE)
    result = run("bindings", "import", file, "--json")
    found = error(result)
    assert (result.exit_code, found["reason"], found["metadata"]["violations"]) == (2, "FILE_FAULTY", "3")
    places = [(one["file"], one["line"], one["field"]) for one in found["violations"]]
    assert places == [(str(file), 2, "b4_ipv6"), (str(file), 2, "psid"), (str(file), 4, "psid")]
    assert bindings.calls == 0


def test_a_row_that_the_router_refuses_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text(f"ipv4,b4_ipv6\n203.0.113.5,{B4}\n203.0.113.6,{B4}\n")
    with Served(parts(Bindings(own=["203.0.113.6"]))) as served:
        found = error(served.command("bindings", "import", file, "--json"))
    assert (found["reason"], found["exit_status"], found["metadata"]["violations"]) == ("OWN_ADDRESS", 1, "1")
    (one,) = found["violations"]
    assert (one["file"], one["line"], one["reason"]) == (str(file), 3, "OWN_ADDRESS")


FILES = [  # name, octets (None: not there), what of it is at fault
    ("nowhere.csv", None, ("FILE_UNREADABLE", [])),
    ("what.xls", b"", ("FILE_FAULTY", [1])),
    ("half.json", b'{"ietf-softwire', ("FILE_FAULTY", [1])),
]


@pytest.mark.parametrize("name, octets, wanted", FILES, ids=[row[0] for row in FILES])
def test_a_file_that_is_none(
    run: Run, tmp_path: Path, name: str, octets: bytes | None, wanted: tuple[str, list[int]]
) -> None:
    file = tmp_path / name
    if octets is not None:
        file.write_bytes(octets)
    for words in ["import", file], ["diff", file], ["replace", file, "--yes"]:
        result = run("bindings", *words, "--json")
        found = error(result)
        assert (found["exit_status"], found["reason"]) == (2, wanted[0])
        assert [one["line"] for one in found["violations"]] == wanted[1]


@pytest.mark.parametrize("words", [["import"], ["replace", "--yes"]], ids=["import", "replace"])
def test_ctrl_c_in_a_load_says_what_is_done(
    run: Run, bindings: Bindings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    file, real = tmp_path / "many.csv", Client.load
    save(file, many(70_000))

    def load(self: Client, rows: Any, seen: Any, **how: Any) -> Any:
        def shown(progress: Any) -> None:
            seen(progress)
            if progress.rows and not how.get("validate_only"):
                raise KeyboardInterrupt

        return real(self, rows, shown, **how)

    monkeypatch.setattr(Client, "load", load)
    again = "import the file again" if words == ["import"] else "replace again"
    said = f"{file}: interrupted; at least 32768 added before that; what was done stays, {again} to do the rest"
    result = run("bindings", *words, file)
    assert (result.exit_code, result.stderr.strip()) == (130, f"pylwaftr: {said}")
    found = error(run("bindings", *words, file, "--json"))
    assert (found["reason"], found["exit_status"], found["metadata"]["file"]) == ("INTERRUPTED", 130, str(file))
    assert len(bindings.held) >= 32768


def test_ctrl_c_before_a_load_says_that_nothing_is_done(
    run: Run, bindings: Bindings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    save(file := tmp_path / "many.csv", many(3))
    monkeypatch.setattr(Client, "load", load)
    result = run("bindings", "import", file)
    assert (result.exit_code, result.stderr) == (130, f"pylwaftr: {file}: interrupted; nothing was changed\n")
    assert not bindings.held


def test_a_file_that_there_cannot_be_is_refused_before_the_work() -> None:
    """To read a million takes seconds; here there is not even a router."""
    for file, status, reason in ("x.txt", 2, "USAGE"), ("x.conf", 2, "USAGE"), ("/nowhere/x.csv", 1, "FILE_UNWRITABLE"):
        found = error(alone("bindings", "export", file, "--json"))
        assert (found["exit_status"], found["reason"]) == (status, reason)


def test_a_file_without_rows_is_nothing_to_do(run: Run, tmp_path: Path) -> None:
    (file := tmp_path / "none.csv").write_text("ipv4,b4_ipv6\n")
    for words in ["--dry-run"], []:
        assert run("bindings", "import", file, *words).stdout == f"{file}: nothing to do\n"


# --- without a router

ALONE: list[tuple[Sequence[str], int, str, list[str]]] = [  # what is typed, status, reason, fields of the violations
    (["health"], 1, "UNREACHABLE", []),
    (["bindings", "ls"], 1, "UNREACHABLE", []),
    (["bindings", "ls", "--ca", "/nowhere"], 2, "FILE_UNREADABLE", []),
    (["bindings", "ls", "--cert", "a"], 2, "USAGE", []),
    (["bindings", "ls", "--limit", "none"], 2, "USAGE", ["--limit"]),
    (["bindings", "frobnicate"], 2, "USAGE", []),
    (["bindings"], 2, "USAGE", ["--json"]),
    (["lookup"], 2, "USAGE", ["ADDRESS[:PORT]|B4|PREFIX"]),
    (["lookup", "203.0.113.5", "--at", "noon"], 2, "USAGE", ["--at"]),
    (["history", "-o", "x.txt"], 2, "USAGE", []),
    (["explain", "--side", "v4"], 2, "USAGE", []),
    (["explain", "--side", "v4", "--hex", "0"], 2, "INVALID_FIELD", ["--hex"]),
    (["capture", "-w", "x", "-f", "no such"], 2, "INVALID_FIELD", ["--filter"]),
    (["capture", "-w", "x", "--socket", "/nowhere"], 1, "CAPTURE_REFUSED", []),
    (["replay", "-c", str(ROOT / "configs" / "minimal.yaml"), "--v4-in", "/nowhere"], 2, "FILE_FAULTY", []),
    (["gen-bindings", "x.csv", "--ipv4", "x", "--b4", "::/0", "--br", "::1"], 2, "INVALID_FIELD", []),
    (
        ["gen-bindings", "/nowhere/x.csv", "--ipv4", "192.0.2.1", "--b4", "2001:db8::/40", "--br", "2001:db8::1"],
        1,
        "FILE_UNWRITABLE",
        [],
    ),
    (["bench", "forward", "--bindings", "x"], 2, "USAGE", ["--bindings"]),
]


@pytest.mark.parametrize("words, status, reason, fields", ALONE, ids=[" ".join(row[0]) for row in ALONE])
def test_without_a_router(words: Sequence[str], status: int, reason: str, fields: list[str]) -> None:
    result = alone(*words, "--json")
    found = error(result)
    assert (result.exit_code, result.stdout) == (status, "")
    assert (found["reason"], [one["field"] for one in found["violations"]]) == (reason, fields)


def test_json_is_only_what_stands_before_the_arguments_for_others() -> None:
    assert faults.wants_json(["run", "--json", "--", "-l", "1"])
    assert not faults.wants_json(["run", "--", "--json"])


# --- the program itself


def ending(fault: BaseException, *words: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def failing(as_json: bool) -> None:
        raise fault

    monkeypatch.setattr("pylwaftr.cli.health.health", failing)
    return alone("health", *words)


def test_a_fault_of_the_program_has_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    found = error(ending(ValueError("odd"), "--json", monkeypatch=monkeypatch))
    assert (found["reason"], found["exit_status"]) == ("INTERNAL", 1)
    assert "raise fault\nValueError: odd\n" in found["trace"]
    assert isinstance(ending(ValueError("odd"), monkeypatch=monkeypatch).exception, ValueError)


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    result = ending(KeyboardInterrupt(), *words, monkeypatch=monkeypatch)
    told = [
        json.loads(line)["error"]["reason"] for line in result.stderr.split()[:0] or result.stderr.splitlines() if line
    ]
    assert (result.exit_code, told) == (130, ["INTERRUPTED"] * len(words))


def test_what_cannot_be_printed_is_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ending(OSError(28, "No space left on device"), monkeypatch=monkeypatch)
    assert (result.exit_code, result.stderr) == (1, "pylwaftr: cannot print: No space left on device\n")
    result = ending(OSError(98, "Address already in use"), monkeypatch=monkeypatch)  # that is another matter
    assert isinstance(result.exception, OSError)


def test_a_reader_that_has_gone_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ending(BrokenPipeError(32, "Broken pipe"), "--json", monkeypatch=monkeypatch)
    assert (result.exit_code, result.output) == (1, "")


def test_no_escape_sequence_of_a_file_reaches_the_terminal(run: Run, tmp_path: Path) -> None:
    title = "\x1b]0;x\x07"  # click leaves this one in
    file = tmp_path / f"{title}.csv"
    file.write_text(f"ipv4,b4_ipv6\n1.2.3.{title},2001:db8::1\n")
    told = run("bindings", "import", file).stderr
    assert (told.count("\\x1b]0;x\\x07") > 1, "\x1b" in told, "\x07" in told) == (True, False, False)


# --- documents


def test_every_reason_is_explained() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = {
        name: code
        for names, code in re.findall(r"^\| ([A-Z_, ]+) \| ([A-Z_]+) \|", page, re.M)
        for name in names.split(", ")
    }
    assert {name: rows.get(name) for name in faults.REASONS} == faults.REASONS


def test_every_reason_has_a_code() -> None:
    """Those that are given to end() and CommandFault()."""
    given = set()
    for path in sorted((ROOT / "pylwaftr" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("end", "CommandFault"):
                given |= {one.value for one in node.args[2:3] if isinstance(one, ast.Constant)}
    assert len(given) > 8
    assert given <= set(faults.REASONS)


def test_every_command_has_json() -> None:
    without = set()
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        every = list(command.commands.values()) if isinstance(command, click.Group) else [command]
        without |= {one.name for one in every if one and "as_json" not in [option.name for option in one.params]}
    assert without == {"completion"}


@pytest.mark.parametrize("ended, status", [(KeyboardInterrupt, 130), (EOFError, 1)])
def test_ctrl_c_at_a_question(ended: type[BaseException], status: int) -> None:
    """click hides what ended its question."""

    @faults.told(False)
    def asked() -> None:
        try:
            raise ended
        except ended:
            raise click.Abort from None

    with pytest.raises(SystemExit) as caught:
        asked()
    assert caught.value.code == status
