"""Commands that talk to a running router: what is typed, what is printed, the exit status, what is held then."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pylwaftr.binding_files import load, save
from pylwaftr.cli.connection import MOMENT
from pylwaftr.cli.main import main
from pylwaftr.store import Life
from tests.fake_router import Bindings, Served, Settings, many, one, parts

B4 = "2001:db8:1::1"
Run = Callable[..., Result]


@pytest.fixture
def router() -> Any:
    return parts()


@pytest.fixture
def bindings(router: Any) -> Bindings:
    found = router.backend
    assert isinstance(found, Bindings)
    return found


@pytest.fixture
def run(router: Any) -> Iterator[Run]:
    with Served(router) as served:
        environment = {"PYLWAFTR_SERVER": served.target, "COLUMNS": "200"}
        yield lambda *words, **rest: CliRunner().invoke(main, [str(word) for word in words], env=environment, **rest)


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
    (["bindings", "add", "203.0.113.5", "--b4", B4], 1, "pylwaftr: row 0: already_exists [BINDING_EXISTS]"),
    (["bindings", "add", "203.0.113", "--b4", B4], 2, "pylwaftr: binding.ipv4: '203.0.113' is not an IPv4 address"),
    (["bindings", "add", "203.0.113.5", "--b4", B4, "--etag", "x"], 2, "pylwaftr: --etag goes with --replace"),
    (["bindings", "ls", "--ipv4", "203.0.113.5/24"], 2, "pylwaftr: filter.ipv4: '203.0.113.5/24' has bits behind"),
    (["lookup", "203.0.113.9:80"], 3, "nobody has 203.0.113.9:80"),
    (["lookup", "203.0.113.9:99999"], 2, "pylwaftr: '99999' is no port"),
    (["lookup", "203.0.113.9:80", "81"], 2, "pylwaftr: the port is given twice"),
    (["lookup", "router"], 2, "pylwaftr: 'router' is not an IPv4 address"),
    (["lookup", "203.0.113.9", "--at", "noon"], 2, "Usage:"),
    (["history", "203.0.113.9:80"], 3, "nobody held 203.0.113.9:80 then"),
    (["history", "-o", "x.txt"], 2, "pylwaftr: x.txt: the name tells no format"),
    (["health", "heart"], 3, "pylwaftr: "),
    (["pcp", "release"], 2, "pylwaftr: give either IPV4"),
    (["pcp", "release", "198.51.100.1", "--psid", "9"], 3, "pylwaftr: no mapping of 198.51.100.1 PSID 9"),
    (["leasequery", "resync", "x"], 3, "pylwaftr: x is none of leasequery.servers"),
    (["bindings", "import", "nowhere.csv"], 2, "pylwaftr: nowhere.csv cannot be read: No such file"),
    (["bindings", "ls", "--cert", "a"], 2, "pylwaftr: --cert and --key belong together"),
    (["bindings", "ls", "--ca", "/nowhere"], 2, "pylwaftr: /nowhere cannot be read"),
]


@pytest.mark.parametrize("words, status, said", STATUS, ids=[" ".join(row[0]) for row in STATUS])
def test_exit_status(run: Run, words: list[str], status: int, said: str) -> None:
    run("bindings", "add", "203.0.113.5", "--b4", B4)
    result = run(*words)
    assert (result.exit_code, result.stderr[: len(said)]) == (status, said)


def test_a_router_that_does_not_answer() -> None:
    result = CliRunner().invoke(main, ["health", "--server", "127.0.0.1:1"])
    assert (result.exit_code, result.stderr.startswith("pylwaftr: 127.0.0.1:1 does not answer")) == (1, True)


# --- files


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".snapshot"])
def test_export_and_import_are_inverse(run: Run, bindings: Bindings, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"table{suffix}"
    run("bindings", "add", "203.0.113.5", "--psid-len", 6, "--psid", 33, "--b4", B4)
    run("bindings", "add", "203.0.113.6", "--b4", "2001:db8:2::1")
    before = dict(bindings.held)
    result = run("bindings", "export", file)
    assert (result.exit_code, result.stdout) == (0, f"{file}: 2 bindings\n")
    bindings.held.clear()
    result = run("bindings", "import", file)
    assert (result.exit_code, result.stdout) == (0, f"{file}: 2 added\n")
    assert bindings.held == before
    assert run("bindings", "import", file).stdout == f"{file}: 2 unchanged\n"
    assert lines(run("bindings", "import", file, "--json"))[0]["unchanged"] == 2


def test_an_import_of_many(run: Run, bindings: Bindings, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    save(file, many(70_000))
    assert run("bindings", "import", file, "--dry-run").stdout == f"{file}: would be 70000 added\n"
    assert not bindings.held
    assert run("bindings", "import", file).stdout == f"{file}: 70000 added\n"
    assert len(bindings.held) == 70_000


def test_a_faulty_file_is_refused_before_anything_is_sent(run: Run, bindings: Bindings, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(
        "ipv4,psid_len,psid,b4_ipv6\n1.2.3.4,6,99,::5:1\n1.2.3.5,0,0,2001:db8::1\n1.2.3.5,0,0,2001:db8::2\n"
    )
    result = run("bindings", "import", file)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"{file}:2: b4_ipv6: ::5:1 is no address that a B4 can have; give a global unicast address",
        f"{file}:2: psid: is 99; with psid_len 6 the range is 0 to 63",
        f"{file}:4: psid: 1.2.3.5 (whole) is bound already at {file}:3; remove one",
        f"pylwaftr: {file}: 3 faults; nothing was sent",
    ]
    assert bindings.calls == 0


def test_a_row_that_the_router_refuses_is_named_by_its_line(run: Run, bindings: Bindings, tmp_path: Path) -> None:
    run("bindings", "add", "10.0.156.64", "--psid-len", 6, "--psid", 33, "--b4", B4)
    file = tmp_path / "many.csv"
    save(file, many(50_000))
    result = run("bindings", "import", file)
    assert (result.exit_code, len(bindings.held)) == (1, 32769)
    assert result.stderr.splitlines() == [
        f"{file}:40002: OVERLAP: row 7232 overlaps",
        f"pylwaftr: {file}: row 7232 overlaps [OVERLAP]; 32768 added before that",
    ]


def test_diff_and_replace(run: Run, bindings: Bindings, tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    save(file, many(3))
    run("bindings", "import", file)
    file.write_text(
        "ipv4,b4_ipv6\n10.0.0.0,2001:db8::1\n10.0.0.1,2001:db8::9\n10.0.0.7,2001:db8::7\n"  # without BR: that is alike
    )
    result = run("bindings", "diff", file)
    assert (result.exit_code, result.stdout.splitlines()) == (
        3,
        [
            "+ 10.0.0.7 (whole) 2001:db8::7",
            "- 10.0.0.2 (whole) 2001:db8::3",
            "~ 10.0.0.1 (whole) 2001:db8::2 -> 2001:db8::9",
        ],
    )
    (found,) = lines(run("bindings", "diff", file, "--json"))
    assert [len(found[name]) for name in ("added", "removed", "changed")] == [1, 1, 1]
    assert run("bindings", "replace", file).exit_code == 2  # nobody can be asked
    assert len(bindings.held) == 3
    result = run("bindings", "replace", file, "--yes")
    assert (result.exit_code, result.stdout) == (0, f"{file}: 1 added, 1 replaced, 1 unchanged, 1 removed\n")
    assert run("bindings", "diff", file).exit_code == 0


SNABB = """
// of Snabb's lwAFTR
softwire-config {
  instance { device "00:05.0"; queue { id 1; external-interface { ip 10.10.10.10; mac 12:12:12:12:12:12; } } }
  binding-table {
    softwire { ipv4 203.0.113.5; psid 33; b4-ipv6 2001:db8:1::1; br-address 2001:db8:aa::1;
               port-set { psid-length 6; } }
    softwire { ipv4 "203.0.113.6"; /* whole */ psid 0; b4-ipv6 2001:db8:2::1; br-address 2001:db8:aa::1;
               port-set { psid-length 0; reserved-ports-bit-count 0; } }
    version { number 7; }
    softwire { padding 0; port-set { reserved-ports-bit-count 6; psid-length 8; } ipv4 203.0.113.7; psid 52;
               b4-ipv6 2001:db8:3::1; br-address 2001:db8:aa::1; }
  }
  external-interface { mtu 1460; }
}
"""
SNABB_V1 = """
binding-table {
  psid-map { addr 203.0.113.5; psid-length 6; shift 10; }
  psid-map { addr 203.0.113.7; end-addr 203.0.113.9; psid-length 8; shift 2; }
  psid-map { addr 203.0.113.6; psid-length 0; }
  br-address 2001:db8:bb::1;
  br-address 2001:db8:aa::1;
  softwire { ipv4 203.0.113.5; psid 33; br 1; b4-ipv6 2001:db8:1::1; }
  softwire { ipv4 203.0.113.6; psid 0; br 1; b4-ipv6 2001:db8:2::1; }
  softwire { ipv4 203.0.113.7; psid 52; br 1; b4-ipv6 2001:db8:3::1; }
}
"""


@pytest.mark.parametrize("text", [SNABB, SNABB_V1], ids=["since v2", "v1"])
def test_a_configuration_of_snabb_is_imported(run: Run, bindings: Bindings, tmp_path: Path, text: str) -> None:
    file = tmp_path / "lwaftr.conf"
    file.write_text(text)
    assert run("bindings", "import", file).stdout == f"{file}: 3 added\n"
    wanted = [
        one("203.0.113.5", 6, 33),
        one("203.0.113.6", 0, 0, "2001:db8:2::1"),
        one("203.0.113.7", 8, 52, "2001:db8:3::1", 6),
    ]
    assert sorted(octets for octets, _ in bindings.held.values()) == sorted(rows.tobytes() for rows in wanted)


SNABB_FAULTS = [  # the table, line, what is said
    ("softwire { ipv4 1.2.3; psid 1; b4-ipv6 ::a:1; port-set { psid-length 6; } }", "2: ipv4: '1.2.3' is not an IPv4"),
    ("softwire { ipv4 1.2.3.4; b4-ipv6 2001:db8::1; port-set { } }", "2: psid-length: is 'missing'"),
    ("softwire { ipv4 1.2.3.4; psid 1; b4-ipv6 2001:db8::1; }", "2: ipv4: 1.2.3.4 is in no psid-map"),
    (
        "softwire { ipv4 1.2.3.4; psid 1; colour red; b4-ipv6 2001:db8::1; port-set { psid-length 6; } }",
        "2: colour: is",
    ),
    ("psid-map { psid-length 6; }", "2: has a psid-map without addr"),
    ("psid-map { addr 1.2.3.4; psid-length x; }", "2: has a psid-map that is none"),
    ("softwire { ipv4 1.2.3.4", "3: ipv4 1.2.3.4: expected ; behind it"),
    ("/* without an end", "2: has a quotation or comment without an end"),
]


@pytest.mark.parametrize("table, said", SNABB_FAULTS, ids=[row[1] for row in SNABB_FAULTS])
def test_a_faulty_configuration_of_snabb(run: Run, tmp_path: Path, table: str, said: str) -> None:
    file = tmp_path / "lwaftr.conf"
    file.write_text("binding-table {\n" + table + "\n}\n")
    result = run("bindings", "import", file)
    assert result.exit_code == 2
    assert any(line.startswith((f"{file}:{said}", f"pylwaftr: {file}:{said}")) for line in result.stderr.splitlines())


def test_bindings_from_a_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.csv"
    words = ["gen-bindings", str(file), "--ipv4", "203.0.113.0/30", "--b4", "2001:db8:8000::/40"]
    result = CliRunner().invoke(main, [*words, "--br", "2001:db8:aa::1", "--psid-len", "6"])
    assert (result.exit_code, result.stdout) == (0, f"{file}: 252 bindings\n")
    text = file.read_text().splitlines()
    assert text[1] == "203.0.113.0,0,6,1,2001:db8:8000::cb00:7100:1,2001:db8:aa::1"
    assert text[-1] == "203.0.113.3,0,6,63,2001:db8:8000:fb00:0:cb00:7103:3f,2001:db8:aa::1"
    assert len(load(file, bytes(16)).rows) == 252


PLANS = [
    (["--b4-len", "41"], "has 2 prefixes of length 41, and 252 bindings are wanted"),
    (["--b4-len", "39"], "the range is 40 to 80 here"),
    (["--psid-offset", "11"], "are more than the 16 bits of a port"),
    (["--skip", "64"], "leaves none of the 64 port sets"),
]


@pytest.mark.parametrize("words, said", PLANS, ids=[" ".join(row[0]) for row in PLANS])
def test_plans_that_do_not_fit(tmp_path: Path, words: list[str], said: str) -> None:
    plan = ["--ipv4", "203.0.113.0/30", "--b4", "2001:db8:8000::/40", "--br", "2001:db8:aa::1"]
    result = CliRunner().invoke(main, ["gen-bindings", str(tmp_path / "x.csv"), *plan, *words])
    assert (result.exit_code, said in result.stderr, list(tmp_path.iterdir())) == (2, True, [])


# --- questions


def test_lookup(run: Run) -> None:
    run("bindings", "add", "203.0.113.5", "--psid-len", 6, "--psid", 33, "--b4", B4)
    row = f"203.0.113.5\t33792-34815\t{B4}\t2001:db8:aa::1\toperator\t-\t-\n"
    for words in (["203.0.113.5:33792"], ["203.0.113.5", "33792"], [B4], ["2001:db8:1::/48"], ["203.0.113.5"]):
        result = run("lookup", *words)
        assert (result.exit_code, result.stdout) == (0, row)
    (found,) = lines(run("lookup", B4, "--json"))
    assert found["binding"]["psid"] == 33


def test_history(run: Run, bindings: Bindings, tmp_path: Path) -> None:
    bindings.lives = [
        Life(one("203.0.113.5", 6, 33), 3, 1_700_000_000.0, 1_700_000_060.5),
        Life(one("203.0.113.5", 6, 33, "2001:db8:2::1"), 1, 1_700_000_060.5, None),
    ]
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
    run("history", "-o", tmp_path / "lives.jsonl")
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
        ("bad", 2, "f.yaml:3: is 300\npylwaftr: 1 faults; nothing was applied\n"),
        ("restart", 1, "pylwaftr: only a restart can change dataplane.lcores; nothing was applied [RESTART_NEEDED]\n"),
    ):
        file.write_text(text)
        result = run("reload", file)
        assert (result.exit_code, result.stderr, settings.etag) == (status, said, "e1")
    file.write_text("x: 1")
    result = run("reload", file)
    assert (result.exit_code, result.stdout.splitlines()[-1], settings.yaml) == (0, "1 differences applied", "x: 1")


def test_pcp_and_leasequery(run: Run) -> None:
    assert run("pcp", "pools").stdout == "198.51.100.0/24\t6\t15872\t3\t1\t15868\n"
    row = f"198.51.100.1\t6\t1\t{B4}\t2001:db8:1::/56\t2023-11-14T22:13:20.000Z\n"
    assert run("pcp", "mappings", "--limit", 1).stdout == row
    assert [found["binding"]["psid"] for found in lines(run("pcp", "mappings", "--json"))] == [1, 2, 3]
    assert run("pcp", "release", "198.51.100.1", "--psid", 2, "--dry-run").stdout == "1 mappings would be released\n"
    assert run("pcp", "release", "--b4", "2001:db8::/32").stdout == "3 mappings released\n"
    assert lines(run("pcp", "announce", "--json")) == [{"softwires": 3}]
    assert run("leasequery", "status").stdout == (
        "[2001:db8::67]:547\tactive\t1000\t2\t0.250 s\t4\t2023-11-14T22:13:20.000Z\t-\n"
    )
    assert run("leasequery", "resync").stdout == "asked: [2001:db8::67]:547\n"


# --- the command line itself


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert (result.exit_code, "_PYLWAFTR_COMPLETE" in result.stdout) == (0, True)


def test_commands_are_completed() -> None:
    environment = {"_PYLWAFTR_COMPLETE": "bash_complete", "COMP_WORDS": "pylwaftr bindings e", "COMP_CWORD": "2"}
    result = CliRunner().invoke(main, [], prog_name="pylwaftr", env=environment)
    assert result.stdout == "plain,export\n"


def test_every_command_has_help_with_its_exit_status() -> None:
    for name in ("bindings", "lookup", "history", "health", "reload", "pcp", "leasequery"):
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert "Exit status" in " ".join(result.stdout.split())
