"""Commands that talk to a running router: what is typed, what is printed, the exit status, what is held then."""

from __future__ import annotations

import json
import re
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pylwaftr import capture_client
from pylwaftr.capture import State
from pylwaftr.cli.connection import MOMENT
from pylwaftr.cli.main import main
from tests.api_router import Bindings, Run, Served, Settings, one

pytest_plugins = ("tests.api_fixtures",)

B4 = "2001:db8:1::1"


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- one binding


def test_a_binding_is_added_shown_and_removed(run: Run, bindings: Bindings) -> None:
    added = run("bindings", "add", "203.0.113.5", "--psid-len", 6, "--psid", 33, "--b4", B4)
    assert added.exit_code == 0
    assert re.findall(r"^(\S+) +(.*)$", added.stdout, re.MULTILINE)[:6] == [
        ("address", "203.0.113.5"),
        ("offset", "0"),
        ("length", "6"),
        ("PSID", "33"),
        ("B4", B4),
        ("BR", "2001:db8:aa::1"),
    ]
    (shown,) = lines(run("bindings", "get", "203.0.113.5", "--psid", 33, "--json"))
    assert (shown["source"], shown["ports"]) == ("operator", [{"first": 33792, "last": 34815}])
    assert lines(run("bindings", "ls", "--json")) == [{k: v for k, v in shown.items() if k != "ports"}]
    assert run("bindings", "ls").stdout == f"203.0.113.5\t0\t6\t33\t{B4}\t2001:db8:aa::1\toperator\n"
    assert run("bindings", "rm", "203.0.113.5", "--psid", 33, "--etag", shown["etag"]).exit_code == 0
    assert not bindings.held


STATUS = [  # what is typed, exit status, the beginning of what is said
    (["bindings", "get", "203.0.113.9"], 3, "pylwaftr: 203.0.113.9 PSID 0 is not bound [BINDING_NOT_FOUND]"),
    (["bindings", "rm", "203.0.113.9"], 3, "pylwaftr: 203.0.113.9 PSID 0 is not bound"),
    (["bindings", "add", "203.0.113.5", "--b4", B4], 1, "pylwaftr: 203.0.113.5 (whole): it is bound already"),
    (["bindings", "add", "203.0.113", "--b4", B4], 2, "pylwaftr: binding.ipv4: '203.0.113' is not an IPv4 address"),
    (["bindings", "add", "203.0.113.5", "--b4", B4, "--etag", "x"], 2, "pylwaftr: --etag goes with --replace"),
    (["bindings", "ls", "--ipv4", "203.0.113.5/24"], 2, "pylwaftr: filter.ipv4: '203.0.113.5/24' has bits behind"),
    (["bindings", "ls", "--ipv4", "x"], 2, "pylwaftr: filter.ipv4: 'x' is not an IPv4 address"),
    (["lookup", "203.0.113.9:80"], 3, "nobody has 203.0.113.9:80"),
    (["lookup", "203.0.113.9:99999"], 2, "pylwaftr: '99999' is no port"),
    (["lookup", "203.0.113.9:80", "81"], 2, "pylwaftr: the port is given twice"),
    (["lookup", "router"], 2, "pylwaftr: 'router' is not an IPv4 address"),
    (["lookup", "203.0.113.9", "--at", "noon"], 2, "Usage:"),
    (["history", "203.0.113.9:80"], 3, "nobody held 203.0.113.9:80 then"),
    (["history", "-o", "x.txt"], 2, "pylwaftr: x.txt: the name tells no format"),
    (["counters", ""], 3, "pylwaftr: '' is no counter"),
    (["health", "heart"], 3, "pylwaftr: heart is no part of this router; it has dataplane, "),
    (["pcp", "release"], 2, "pylwaftr: give either IPV4"),
    (["pcp", "release", "198.51.100.1", "--psid", "9"], 3, "pylwaftr: no mapping of 198.51.100.1 PSID 9"),
    (["leasequery", "resync", "x"], 3, "pylwaftr: x is none of leasequery.servers"),
    (["leasequery", "drop", "x"], 3, "pylwaftr: x is none of leasequery.servers"),
    (["bindings", "import", "nowhere.csv"], 2, "pylwaftr: nowhere.csv cannot be read: No such file"),
    (["bindings", "ls", "--server", ""], 2, "pylwaftr: --server is empty; give HOST:PORT"),
    (["bindings", "ls", "--cert", "a"], 2, "pylwaftr: --cert and --key belong together"),
    (["bindings", "ls", "--ca", "/nowhere"], 2, "pylwaftr: /nowhere cannot be read"),
]


@pytest.mark.parametrize("words, status, said", STATUS, ids=[" ".join(row[0]) for row in STATUS])
def test_exit_status(run: Run, words: list[str], status: int, said: str) -> None:
    run("bindings", "add", "203.0.113.5", "--b4", B4)
    result = run(*words)
    assert (result.exit_code, result.stderr[: len(said)]) == (status, said)


def test_no_name_of_a_part_is_the_whole(run: Run) -> None:
    assert run("health", "").stdout.startswith("pylwaftr 0.1.0 serves, ")


def test_a_router_that_does_not_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        target = f"127.0.0.1:{deaf.getsockname()[1]}"
        words = ["bindings", "get", "203.0.113.5", "--server", target, "--timeout", "0.2"]
        result = CliRunner().invoke(main, words)
        found = json.loads(CliRunner().invoke(main, [*words, "--json"]).stderr)["error"]
    assert (result.exit_code, found["exit_status"], found["reason"]) == (1, 1, "DEADLINE_EXCEEDED")
    assert result.stderr.startswith(f"pylwaftr: {target} did not answer within 0.2 s")


def test_a_host_that_there_is_not() -> None:
    result = CliRunner().invoke(main, ["health", "--server", ":::::"])
    assert (result.exit_code, result.stderr) == (
        1,
        "pylwaftr: ::::: does not answer (there is no such host and port): give --server HOST:PORT\n",
    )


@pytest.mark.parametrize(
    "words", [["bindings", "add", "\udcff", "--b4", B4], ["health", "--server", "\udcff:1"]], ids=["field", "server"]
)
def test_octets_that_are_no_text_are_bad_input(run: Run, words: list[str]) -> None:
    result = run(*words)
    assert (result.exit_code, "is not UTF-8; only names of files may be" in result.stderr) == (2, True)


def test_a_router_that_does_not_answer() -> None:
    result = CliRunner().invoke(main, ["health", "--server", "127.0.0.1:1"])
    assert (result.exit_code, result.stderr.startswith("pylwaftr: 127.0.0.1:1 does not answer")) == (1, True)


# --- questions


def test_lookup(run: Run) -> None:
    run("bindings", "add", "203.0.113.5", "--psid-len", 6, "--psid", 33, "--b4", B4)
    row = f"203.0.113.5\t33792-34815\t{B4}\t2001:db8:aa::1\toperator\t-\t-\n"
    for words in (["203.0.113.5:33792"], ["203.0.113.5", "33792"], [B4], ["2001:db8:1::/48"], ["203.0.113.5"]):
        result = run("lookup", *words)
        assert (result.exit_code, result.stdout) == (0, row)
    (found,) = lines(run("lookup", B4, "--json"))
    assert found["binding"]["psid"] == 33


def test_history(bindings: Bindings, served: Served, run: Run, tmp_path: Path) -> None:
    for bindings.now, source, b4 in ((1_700_000_000.0, 3, B4), (1_700_000_060.5, 1, "2001:db8:2::1")):
        served.do(bindings.put(one("203.0.113.5", 6, 33, b4), source))
    began, ended = "2023-11-14T22:13:20.000Z", "2023-11-14T22:14:20.500Z"
    result = run("history", "203.0.113.5:33792", "--to", "@1700000001")
    assert result.stdout == f"203.0.113.5\t33792-34815\t{B4}\t2001:db8:aa::1\tpcp\t{began}\t{ended}\n"
    found = lines(run("history", "2001:db8:2::/48", "--json"))
    assert [(life["began"], "ended" in life) for life in found] == [(ended, False)]
    file = tmp_path / "lives.csv"
    assert run("history", "-o", file).stdout == f"{file}: 2 lives\n"
    assert file.read_text().splitlines() == [
        "ipv4,psid_offset,psid_len,psid,b4_ipv6,br_ipv6,source,began,ended",
        f"203.0.113.5,0,6,33,{B4},2001:db8:aa::1,pcp,{began},{ended}",
        f"203.0.113.5,0,6,33,2001:db8:2::1,2001:db8:aa::1,operator,{ended},",
    ]
    assert lines(run("history", "-o", tmp_path / "lives.jsonl", "--json")) == [
        {"file": str(tmp_path / "lives.jsonl"), "lives": 2}
    ]
    records = [json.loads(line) for line in (tmp_path / "lives.jsonl").read_text().splitlines()]
    assert [record["ended"] for record in records] == [ended, None]


TIMES = [  # text, seconds from now or a time
    ("@1700000000", datetime.fromtimestamp(1_700_000_000)),
    ("2023-11-14T22:13:20+00:00", datetime.fromisoformat("2023-11-14T22:13:20+00:00")),
    ("-2h", timedelta(hours=-2)),
    ("-1.5m", timedelta(seconds=-90)),
]


@pytest.mark.parametrize("text, wanted", TIMES, ids=[row[0] for row in TIMES])
def test_times(text: str, wanted: datetime | timedelta) -> None:
    moment = MOMENT.convert(text, None, None)
    if isinstance(wanted, timedelta):
        wanted = datetime.now() + wanted
    assert abs(moment.timestamp() - wanted.timestamp()) < 60
    today = MOMENT.convert("14:03", None, None)
    assert (today.hour, today.minute, today.date()) == (14, 3, datetime.now().date())


def test_counters(run: Run) -> None:
    assert run("counters").stdout == "rx_v4\t15\tpackets\t\ntx_v6\t13\tpackets\t\ndrop_no_binding_v4\t2\tpackets\t\n"
    assert run("counters", "drop_", "--per-worker").stdout == "drop_no_binding_v4\t2\t2\t0\tpackets\t\n"
    result = run("counters", "rx_v4", "rx_v5")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "pylwaftr: rx_v5 is no counter, nor the beginning of one; without a NAME all are shown\n"
    (found,) = lines(run("counters", "rx_v4", "--json", "--per-worker"))
    assert (found["counters"], found["workers"]) == ({"rx_v4": 15}, {"0": {"rx_v4": 5}, "1": {"rx_v4": 10}})


def test_top(run: Run) -> None:
    result = run("top", "-i", 0.1, "-n", 2)
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
    assert "rx_v4 0/s" in result.stdout
    assert lines(run("top", "-i", 0.1, "-n", 1, "--json"))[0]["per_second"]["rx_v4"] == 0


def test_health(run: Run) -> None:
    result = run("health")
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        ["pylwaftr 0.1.0 serves, 7 of 100 bindings", "  dataplane serves", "  store serves", "  a link is down"],
    )
    assert lines(run("health", "store", "--json")) == [{"part": "store", "serves": True}]


def test_a_part_that_does_not_serve(router: Any) -> None:
    with Served(router) as served:
        served.do(served.running.health("store", False))
        for words, said in (["health", "store"], "store does"), (["health"], "pylwaftr 0.1.0 does"):
            result = CliRunner().invoke(main, [*words, "--server", served.target])
            assert (result.exit_code, result.stdout[: len(said)]) == (1, said)


def test_reload(run: Run, router: Any, tmp_path: Path) -> None:
    settings: Settings = router.settings
    result = run("reload", "--dry-run")
    assert (result.exit_code, settings.etag) == (1, "e1")
    assert result.stdout.splitlines() == [
        "softwire.hop_limit: 64 -> 63",
        "dataplane.lcores: 1 -> 2   (needs a restart)",
        "2 differences; nothing was applied",
    ]
    assert result.stderr == "pylwaftr: only a restart can change dataplane.lcores\n"
    file = tmp_path / "new.yaml"
    for text, status, said in (
        ("bad", 2, "f.yaml:3: softwire.hop_limit: is 300\npylwaftr: 1 fault; nothing was applied\n"),
        ("restart", 1, "pylwaftr: only a restart can change dataplane.lcores; nothing was applied [RESTART_NEEDED]\n"),
    ):
        file.write_text(text)
        result = run("reload", file)
        assert (result.exit_code, result.stderr, settings.etag) == (status, said, "e1")
    file.write_text("warn")
    result = run("reload", file)
    assert (result.exit_code, result.stderr) == (0, "f.yaml:3: softwire.hop_limit: warning: is 300\n")
    file.write_text("x: 1")
    result = run("reload", file)
    assert (result.exit_code, result.stdout.splitlines()[-1], settings.yaml) == (0, "1 difference applied", "x: 1")


def test_pcp_and_leasequery(run: Run) -> None:
    assert run("pcp", "pools").stdout == "198.51.100.0/24\t6\t15872\t3\t1\t15868\n"
    assert lines(run("pcp", "pools", "--json"))[0]["free"] == 15868
    row = f"198.51.100.1\t6\t1\t{B4}\t2001:db8:1::/56\t2023-11-14T22:13:20.000Z\n"
    assert run("pcp", "mappings", "--limit", 1).stdout == row
    assert [found["binding"]["psid"] for found in lines(run("pcp", "mappings", "--json"))] == [1, 2, 3]
    assert run("pcp", "release", "198.51.100.1", "--psid", 2, "--dry-run").stdout == "1 mapping would be released\n"
    assert run("pcp", "release", "--b4", "2001:db8::/32").stdout == "3 mappings released\n"
    assert lines(run("pcp", "announce", "--json")) == [{"softwires": 3}]
    assert run("leasequery", "status").stdout == (
        "[2001:db8::67]:547\tactive\t1000\t2\t3\t0.250 s\t4\t2023-11-14T22:13:20.000Z\t2023-11-14T22:13:11.000Z lost\n"
    )
    assert run("leasequery", "leases", "--kept-out").stdout == "".join(
        f"[2001:db8::67]:547\t198.51.100.1\t{psid}\t6\t0\t-\tff00\tactive\t2023-11-14T23:13:20.000Z\tno_b4\n"
        for psid in (0, 2)
    )
    assert [one["standing"] for one in lines(run("leasequery", "leases", "--json"))] == ["no_b4", "bound"] * 2
    result = run("leasequery", "leases", "--from", "nobody")
    assert (result.exit_code, result.stdout) == (3, "")
    assert run("leasequery", "resync").stdout == "asked: [2001:db8::67]:547\n"
    server = "[2001:db8::67]:547"
    assert run("leasequery", "drop", server, "--dry-run").stdout == "1000 leases would be dropped\n"
    assert run("leasequery", "drop", server).stdout == "1000 leases dropped\n"
    assert lines(run("leasequery", "drop", server, "--json")) == [{"dropped": 1000, "dry_run": False}]


def test_what_a_capture_came_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State("finished", ended_by="time", seen=9, written=5, missed=1, octets=320)
    monkeypatch.setattr(capture_client, "capture", lambda *_: state)
    words = ["capture", "-w", str(tmp_path / "a.pcapng"), "--socket", str(tmp_path)]
    result = CliRunner().invoke(main, [*words, "--json"])
    assert lines(result) == [
        {"file": str(tmp_path / "a.pcapng"), "frames": 5, "octets": 320, "ended_by": "time", "missed": 1}
    ]
    assert CliRunner().invoke(main, words).stdout.startswith(f"{tmp_path / 'a.pcapng'}: 5 frames, 320 octets, 1 missed")


# --- the command line itself


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert (result.exit_code, "_PYLWAFTR_COMPLETE" in result.stdout) == (0, True)


def test_commands_are_completed() -> None:
    environment = {"_PYLWAFTR_COMPLETE": "bash_complete", "COMP_WORDS": "pylwaftr bindings e", "COMP_CWORD": "2"}
    result = CliRunner().invoke(main, [], prog_name="pylwaftr", env=environment)
    assert result.stdout == "plain,export\n"


def test_parts_are_completed() -> None:
    environment = {"_PYLWAFTR_COMPLETE": "bash_complete", "COMP_WORDS": "pylwaftr health s", "COMP_CWORD": "2"}
    result = CliRunner().invoke(main, [], prog_name="pylwaftr", env=environment)
    assert result.stdout == "plain,store\n"


@pytest.mark.parametrize("name", ["history", "health", "counters", "lookup"])
def test_what_may_be_left_out_is_in_brackets(name: str) -> None:
    usage = CliRunner().invoke(main, [name, "--help"]).stdout.splitlines()[0]
    assert ("[OPTIONS] [" in usage) == (name != "lookup")


def test_every_command_has_help_with_its_exit_status() -> None:
    for name in ("bindings", "lookup", "history", "health", "reload", "pcp", "leasequery"):
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert "Exit status" in " ".join(result.stdout.split())


def test_explain_asks_the_running_router(run: Run) -> None:
    result = run("explain", "--side", "v4", "--hex", "01 02")
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            "packet 1 on v4: 0102",
            "  link     for this router",
            "  dropped  drop_x (DP-1): because",
            "  sent     v4: y",
            "",
        ],
    )
    assert lines(run("explain", "--side", "v4", "--hex", "01 02", "--json"))[0]["verdict"] == "drop_x"
