"""Commands of one binding without --psid: they mean a whole address, and never one port set of several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from pylwaftr.api.client import Client
from pylwaftr.changes import Source
from pylwaftr.rows import Rows
from tests.api_router import Bindings, Run, Served, one, parts

pytest_plugins = ("tests.api_fixtures",)

ADDRESS = "203.0.113.5"
DIVIDED = "pylwaftr: 203.0.113.5 is divided into port sets (length 6): give --psid; bound are PSID"
BELOW = [("bindings", "get"), ("bindings", "rm"), ("bindings", "rm", "--dry-run")]


def sets(*psids: int) -> Rows:
    return np.concatenate([one(ADDRESS, 6, psid) for psid in psids])


def said(result: Result) -> tuple[int, str]:
    return result.exit_code, result.stderr.strip()


@pytest.mark.parametrize("source", [Source.OPERATOR, Source.DHCP, Source.PCP, Source.CONFIG], ids=lambda one: one.label)
@pytest.mark.parametrize("psids", [(0,), (3,), (0, 3, 33)], ids=str)
def test_a_divided_address_wants_a_psid(
    run: Run, served: Served, bindings: Bindings, source: Source, psids: tuple[int, ...]
) -> None:
    served.do(bindings.put(sets(*psids), source))
    before = bindings.held
    for words in BELOW:
        assert said(run(*words, ADDRESS)) == (2, f"{DIVIDED} {', '.join(map(str, psids))}")
        told = json.loads(run(*words, ADDRESS, "--json").stderr)["error"]
        assert (told["reason"], told["metadata"]) == (
            "PSID_NEEDED",
            {"ipv4": ADDRESS, "psids": ",".join(map(str, psids))},
        )
    assert bindings.held == before


def test_very_many_are_counted(run: Run, client: Client) -> None:
    client.load(sets(*range(40)).tobytes())
    assert said(run("bindings", "rm", ADDRESS))[1].endswith(
        "PSID 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 and 24 more"
    )
    client.load(np.concatenate([one("203.0.113.6", 11, psid) for psid in range(1500)]).tobytes())
    assert said(run("bindings", "rm", "203.0.113.6"))[1].endswith("14, 15 and more than 984 more")


def test_a_whole_address_is_removed(run: Run, client: Client, bindings: Bindings) -> None:
    client.load(one(ADDRESS).tobytes())
    etag = client.get(ADDRESS).etag
    assert said(run("bindings", "rm", ADDRESS, "--etag", "0" * 16))[0] == 1
    assert said(run("bindings", "rm", ADDRESS, "--dry-run")) == (0, "")
    assert len(bindings.held) == 1
    assert said(run("bindings", "rm", ADDRESS, "--etag", etag)) == (0, "")
    assert said(run("bindings", "rm", ADDRESS))[0] == 3


@pytest.mark.parametrize("source", [Source.DHCP, Source.PCP], ids=lambda one: one.label)
def test_so_is_that_of_a_lease_or_mapping(run: Run, served: Served, bindings: Bindings, source: Source) -> None:
    served.do(bindings.put(one(ADDRESS), source))
    assert said(run("bindings", "rm", ADDRESS)) == (0, "")
    assert not bindings.held


def test_that_of_the_configuration_stays(run: Run, served: Served, bindings: Bindings) -> None:
    served.do(bindings.put(one(ADDRESS), Source.CONFIG))
    status, told = said(run("bindings", "rm", ADDRESS))
    assert (status, told[-11:], len(bindings.held)) == (1, "[OUTRANKED]", 1)


def test_the_operator_s_own_counts_though_it_waits(tmp_path: Path) -> None:
    for config, own, status in (sets(1, 2), one(ADDRESS), 0), (one(ADDRESS), sets(4, 5), 2):
        with Served(parts(Bindings(config=config))) as served, Client(served.target) as client:
            client.load(own.tobytes())
            result = served.command("bindings", "rm", ADDRESS)
            assert said(result) == (status, f"{DIVIDED} 4, 5" if status else "")
            assert len(list(client.bindings())) == len(config)


def test_what_is_divided_meanwhile_is_not_removed(
    run: Run, client: Client, bindings: Bindings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.load(one(ADDRESS).tobytes())
    real = Client.delete

    def late(self: Client, ipv4: str, psid: int = 0, **how: Any) -> int:
        real(client, ADDRESS)
        client.bind(sets(0, 1).tobytes())
        return real(self, ipv4, psid, **how)

    monkeypatch.setattr(Client, "delete", late)
    status, told = said(run("bindings", "rm", ADDRESS))
    assert (status, "[ETAG_MISMATCH]" in told, len(bindings.held)) == (1, True, 2)


def test_get_of_a_source_names_what_waits(tmp_path: Path) -> None:
    with Served(parts(Bindings(config=one(ADDRESS)))) as served, Client(served.target) as client:
        client.load(sets(4, 5).tobytes())
        assert said(served.command("bindings", "get", ADDRESS, "--source", "operator")) == (2, f"{DIVIDED} 4, 5")
        assert json.loads(served.command("bindings", "get", ADDRESS, "--json").stdout)["source"] == "config"


@pytest.mark.parametrize("ipv4", ["203.0.113", "203.0.113.0/24", "2001:db8::1"])
def test_what_is_no_address_is_told_so(run: Run, client: Client, bindings: Bindings, ipv4: str) -> None:
    client.load(sets(1).tobytes())
    for words in ("bindings", "rm"), ("bindings", "get"), ("pcp", "release"):
        result = run(*words, ipv4)
        assert (result.exit_code, f"{ipv4!r} is not an IPv4 address" in result.stderr) == (2, True), result.stderr


def test_a_port_set_is_added_by_its_number(run: Run, client: Client, bindings: Bindings) -> None:
    result = run("bindings", "add", ADDRESS, "--psid-len", 6, "--b4", "2001:db8::1")
    assert said(result) == (2, "pylwaftr: --psid-len 6 divides the address: give --psid, 0 to 63")
    assert not bindings.held
    assert run("bindings", "add", ADDRESS, "--psid-len", 6, "--psid", 0, "--b4", "2001:db8::1").exit_code == 0
    assert len(bindings.held) == 1


def test_mappings_are_ended_one_by_one(run: Run) -> None:
    told = "pylwaftr: 198.51.100.1 is divided into port sets (length 6): give --psid; bound are PSID 1, 2, 3"
    assert said(run("pcp", "release", "198.51.100.1")) == (2, told)
    assert run("pcp", "release", "198.51.100.1", "--psid", 2).stdout == "1 mapping released\n"
