"""What the commands answer: all of it, and so that the next step is clear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from pylwaftr.api.backend import Difference, Parts, Planned, RestartNeeded
from pylwaftr.api.bindings_service import MAX_LIVES
from pylwaftr.api.client import Client
from pylwaftr.rows import Rows
from tests.api_router import Bindings, Run, Settings, many, one

pytest_plugins = ("tests.api_fixtures",)

MORE = MAX_LIVES + 500


def ended(result: Result, status: int) -> Result:
    assert result.exit_code == status, result.output
    return result


def sets(count: int) -> Rows:
    """Of one address, for one B4."""
    return np.concatenate([one("203.0.113.5", 11, psid) for psid in range(count)])


@pytest.fixture
def full(client: Client) -> Client:
    client.load(np.concatenate([many(MORE), sets(MORE)]).tobytes())
    return client


LOOK_UPS = ["203.0.113.5", "2001:db8:1::1", "2001:db8::/96"]


@pytest.mark.parametrize("when", [(), ("--at", "@4102444800")], ids=["now", "then"])
@pytest.mark.parametrize("what", LOOK_UPS)
def test_a_look_up_of_very_many_leaves_none_out(full: Client, run: Run, what: str, when: tuple[str, ...]) -> None:
    found = [json.loads(line)["binding"] for line in run("lookup", what, *when, "--json").stdout.splitlines()]
    assert len({(binding["ipv4"], binding["psid"]) for binding in found}) == len(found) == MORE


def test_who_had_nothing_then_is_told_so(run: Run) -> None:
    assert ended(run("lookup", "203.0.113.5:80"), 3).stderr == "nobody has 203.0.113.5:80\n"
    assert ended(run("lookup", "203.0.113.5", 80, "--at", "-1h"), 3).stderr == "nobody had 203.0.113.5 port 80 then\n"


HEAD = "ipv4,psid_len,psid,b4_ipv6,br_ipv6\n"
CHANGES = [  # a line of the file, what differs of 203.0.113.5 PSID 3/6
    ("203.0.113.5,6,3,2001:db8:2::1,2001:db8:aa::1", "2001:db8:1::1 -> 2001:db8:2::1"),
    ("203.0.113.5,6,3,2001:db8:1::1,2001:db8:ab::1", "BR 2001:db8:aa::1 -> 2001:db8:ab::1"),
    (
        "203.0.113.5,7,3,2001:db8:2::1,2001:db8:ab::1",
        "2001:db8:1::1 -> 2001:db8:2::1; BR 2001:db8:aa::1 -> 2001:db8:ab::1; offset 0, length 6 -> offset 0, length 7",
    ),
]


@pytest.mark.parametrize("line, said", CHANGES)
def test_a_difference_says_what_differs(client: Client, run: Run, tmp_path: Path, line: str, said: str) -> None:
    client.load(one("203.0.113.5", 6, 3).tobytes())
    file = tmp_path / "plan.csv"
    file.write_text(f"{HEAD}{line}\n")
    length = line.split(",")[1]
    assert ended(run("bindings", "diff", file), 3).stdout == f"~ 203.0.113.5 PSID 3/{length} {said}\n"


class Stuck(Settings):
    """As the router's: what needs a restart is refused, also if it is only to be validated."""

    async def apply(self, text: str | None, etag: str | None, *, validate_only: bool = False) -> Any:
        raise RestartNeeded([one for one in (await self.diff(text)).differences if one.needs_restart])


@pytest.mark.parametrize("dry", [True, False])
def test_a_reload_that_needs_a_restart_has_its_differences_in_json(router: Parts, run: Run, dry: bool) -> None:
    router.settings = Stuck()
    result = ended(run("reload", "--json", *["--dry-run"] * dry), 1)
    answer = json.loads(result.stdout)
    assert (answer["dry_run"], answer["applied"]) == (dry, [])
    assert [(one["path"], one["needs_restart"]) for one in answer["differences"]] == [
        ("softwire.hop_limit", False),
        ("dataplane.lcores", True),
    ]
    assert "only a restart can change dataplane.lcores" in result.stderr


def test_an_empty_file_is_not_the_router_s(router: Parts, run: Run, tmp_path: Path) -> None:
    asked: list[str | None] = []

    class Told(Settings):
        async def diff(self, text: str | None) -> Planned:
            asked.append(text)
            return Planned((Difference("icmp", "1", "2"),))

    router.settings = Told()
    file = tmp_path / "empty.yaml"
    file.touch()
    run("reload", file, "--dry-run")
    run("reload", "--dry-run")
    assert asked == ["\n", None]
    file.write_bytes(b"\xef\xbb\xbficmp: {}\r\n")
    run("reload", file, "--dry-run")
    assert asked[2:] == ["icmp: {}\n"]
    file.write_bytes(b"icmp: \xff\n")
    result = run("reload", file, "--json")
    assert (result.exit_code, json.loads(result.stderr)["error"]["reason"], len(asked)) == (2, "FILE_UNREADABLE", 3)


def test_one_is_one(client: Client, run: Run, bindings: Bindings, tmp_path: Path) -> None:
    client.load(one("203.0.113.5").tobytes())
    assert run("history", "-o", tmp_path / "h.csv").stdout == f"{tmp_path / 'h.csv'}: 1 life\n"
    file = tmp_path / "bad.csv"
    file.write_text("ipv4,b4_ipv6\nx,2001:db8::1\n")
    assert ": 1 fault; nothing was sent" in ended(run("bindings", "import", file), 2).stderr
