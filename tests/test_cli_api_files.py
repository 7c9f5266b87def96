"""Files of bindings and a running router: import, export, diff, replace; Snabb's format; tables from a plan."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pylwaftr.api.client import Client
from pylwaftr.binding_files import Unusable, load, save
from pylwaftr.changes import Report
from pylwaftr.cli.main import main
from pylwaftr.rows import Rows
from tests.api_router import Bindings, Run, Served, many, one, parts

pytest_plugins = ("tests.api_fixtures",)

B4 = "2001:db8:1::1"


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".snapshot"])
def test_export_and_import_are_inverse(run: Run, bindings: Bindings, tmp_path: Path, suffix: str) -> None:
    file, empty = tmp_path / f"table{suffix}", tmp_path / "empty.csv"
    save(empty, many(0))
    run("bindings", "add", "203.0.113.5", "--psid-len", 6, "--psid", 33, "--b4", B4)
    run("bindings", "add", "203.0.113.6", "--b4", "2001:db8:2::1")
    before = dict(bindings.held)
    result = run("bindings", "export", file)
    assert (result.exit_code, result.stdout) == (0, f"{file}: 2 bindings\n")
    assert run("bindings", "replace", empty, "--yes").stdout == f"{empty}: 2 removed\n"
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


@pytest.mark.parametrize("words", [["import"], ["import", "--dry-run"], ["replace", "--yes"]], ids=" ".join)
def test_a_file_that_the_router_refuses_changes_nothing(tmp_path: Path, words: list[str]) -> None:
    file, bindings = tmp_path / "many.csv", Bindings(own=["10.0.156.64", "10.0.156.65", "10.1.0.5"])
    save(file, many(70_000))
    with Served(parts(bindings)) as served:
        result = served.command("bindings", *words, file)
    assert (result.exit_code, bindings.held, bindings.revision) == (1, {}, 0)
    said = [f"{file}:{line}: OWN_ADDRESS: " for line in (40002, 40003, 65543)]  # the last of another message
    lines = result.stderr.splitlines()
    assert [line[: len(head)] for line, head in zip(lines, said, strict=False)] == said
    assert lines[3:] == [f"pylwaftr: {file}: the router refuses 3 rows; nothing was changed"]


def test_what_others_change_between_check_and_load_is_told(tmp_path: Path) -> None:
    class Shared(Bindings):
        def bind(self, rows: Rows, source: int, **how: Any) -> Awaitable[Report]:
            if not self.calls:
                self.other = asyncio.ensure_future(super().bind(one("10.0.156.64", 6, 33), source))
            return super().bind(rows, source, **how)

    file, bindings = tmp_path / "many.csv", Shared()
    save(file, many(50_000))
    with Served(parts(bindings)) as served:
        result = served.command("bindings", "import", file)
    assert (result.exit_code, len(bindings.held)) == (1, 32769)
    text = (
        "10.0.156.64 (whole): an address is bound whole or in sets of ports, not both; remove what is bound of it first"
    )
    assert result.stderr.splitlines() == [
        f"{file}:40002: OVERLAP: {text}",
        f"pylwaftr: {file}: {text} [OVERLAP]; 32768 added before that. All of it passed the check at "
        "revision 0: bindings were changed by somebody else since; what was done stays, import the file again to do "
        "the rest",
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


def test_an_export_of_a_source_has_what_waits_too(tmp_path: Path) -> None:
    """So what is exported is no difference, and to replace by it removes nothing."""
    file, own = tmp_path / "own.csv", np.concatenate([one("203.0.113.5", b4="2001:db8:9::1"), one("203.0.113.6")])
    with Served(parts(Bindings(config=one("203.0.113.5")))) as served, Client(served.target) as client:
        client.load(own.tobytes())
        assert served.command("bindings", "export", file, "--source", "operator").stdout == f"{file}: 2 bindings\n"
        assert load(file, bytes(16)).rows.tobytes() == own.tobytes()
        assert served.command("bindings", "diff", file).exit_code == 0
        assert "removed" not in served.command("bindings", "replace", file, "--yes").stdout
        words = ["bindings", "export", file, "--source", "operator", "--ipv4", "203.0.113.5"]
        assert served.command(*words).stdout == f"{file}: 1 binding\n"
        served.command("bindings", "export", file)
        bound = np.concatenate([one("203.0.113.5"), one("203.0.113.6")])
        assert load(file, bytes(16)).rows.tobytes() == bound.tobytes()


def test_a_replacement_divides_an_address_anew(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    before, wanted = (np.concatenate([one("198.51.100.1", k, psid) for psid in range(3)]) for k in (6, 8))
    save(file, wanted)
    with Served(parts(Bindings(tmp_path / "state"))) as served, Client(served.target) as client:
        client.load(before.tobytes())

        def said(*words: str) -> str:
            return served.command("bindings", *words, file).output

        assert "OTHER_PARAMS_ON_ADDRESS" in said("import")
        assert "would be" in said("replace", "--dry-run")
        assert [octets for octets, _ in client.dump()] == [before.tobytes()]
        assert f"{file}: 3 " in said("replace", "--yes")
        assert [octets for octets, _ in client.dump()] == [wanted.tobytes()]


@pytest.mark.parametrize("words", [["import"], ["replace", "--yes"]], ids=["import", "replace"])
def test_the_check_counts_the_softwires_of_the_whole_file(tmp_path: Path, words: list[str]) -> None:
    file, rows = tmp_path / "table.csv", many(40_000)  # two messages
    rows["b4"][:, 3:7] = np.arange(len(rows), dtype=">u4").view(np.uint8).reshape(-1, 4)
    rows["b4"][-1] = rows["b4"][0]
    rows["b4"][-1, 15] += 1
    save(file, rows)
    real = Bindings(tmp_path / "state")
    with Served(parts(real)) as served, Client(served.target) as client:
        served.do(real.control.limit_operator(56, 1))
        result = served.command("bindings", *words, file)
        assert (result.exit_code, client.status().revision) == (1, 0)
    assert result.stderr.splitlines()[0].startswith(f"{file}:40001: SUBSCRIBER_LIMIT")
    assert result.stderr.splitlines()[1].endswith("[SUBSCRIBER_LIMIT]; nothing was changed")


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
    ("softwire { ipv4 1.2.3.4; b4-ipv6 2001:db8::1; port-set { } }", "2: psid-length: is missing; write"),
    ("softwire { ipv4 1.2.3.4; psid 1; b4-ipv6 2001:db8::1; }", "2: ipv4: 1.2.3.4 is in no psid-map"),
    (
        "softwire { ipv4 1.2.3.4; psid 1; colour red; b4-ipv6 2001:db8::1; port-set { psid-length 6; } }",
        "2: colour: is",
    ),
    ("psid-map { psid-length 6; }", "2: has a psid-map without addr"),
    ("psid-map { addr 1.2.3.4; psid-length x; }", "2: has a psid-map that is none"),
    ("softwire { ipv4 1.2.3.4", "3: ipv4 1.2.3.4: expected ; behind it"),
    ("softwire { ipv4 1.2.3.4; padding 0; ", "4: ends within a block: a } is missing"),
    ("port-set {", "4: ends within a block: a } is missing"),
    ("/* without an end", "2: has a quotation or comment without an end"),
]


@pytest.mark.parametrize("table, said", SNABB_FAULTS, ids=[row[1] for row in SNABB_FAULTS])
def test_a_faulty_configuration_of_snabb(run: Run, tmp_path: Path, table: str, said: str) -> None:
    file = tmp_path / "lwaftr.conf"
    file.write_text("binding-table {\n" + table + "\n}\n")
    result = run("bindings", "import", file)
    assert result.exit_code == 2
    assert any(line.startswith((f"{file}:{said}", f"pylwaftr: {file}:{said}")) for line in result.stderr.splitlines())


@pytest.mark.parametrize("text", [SNABB, SNABB_V1], ids=["since v2", "v1"])
def test_a_configuration_of_snabb_that_is_cut_off_is_not_imported(tmp_path: Path, text: str) -> None:
    """It would be one with fewer softwires, which `replace` would make true."""
    file = tmp_path / "lwaftr.conf"
    end = text.rindex("}", 0, text.index("external-interface { mtu")) if text == SNABB else text.rindex("}")
    for at in range(text.index("binding-table {") + len("binding-table {"), end):
        file.write_text(text[:at])
        try:
            found = load(file, bytes(16))
        except Unusable:
            continue
        assert found.faults, text[:at]


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
