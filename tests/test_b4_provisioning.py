"""How a lwB4 is provisioned: what an answer changes, what is kept over a restart, PCP inside the softwire, options."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pylwaftr.b4 import inner_udp
from pylwaftr.b4.core import B4
from pylwaftr.b4.daemon import rules, state
from pylwaftr.b4.host import HostOptions
from pylwaftr.b4.inner_udp import Datagram
from pylwaftr.b4.provisioning import Assignment, Provisioning, from_json, to_json
from pylwaftr.b4.softwire import PortRanges, Softwire
from pylwaftr.cli.b4 import _plan
from pylwaftr.cli.b4 import b4 as command
from pylwaftr.pcp.client_values import Kept, Saved
from pylwaftr.pcp.numbers import Result, address16
from pylwaftr.pcp.options import PortSet
from tests.pcp_client_world import LWAFTR, OTHER, PUBLIC, World
from tests.test_vectors_pcp import PACKETS, VECTORS

AFTR, SOURCE = IPv6Address("2001:db8:ffff::1"), IPv6Address("2001:db8:100:100::1")
BOUND = Assignment(PUBLIC, PortRanges(((26624, 28671),)), 12200.0)


def started() -> tuple[World, Provisioning]:
    world = World().started()
    return world, Provisioning(world.client)


def bound() -> tuple[World, Provisioning]:
    world, provisioning = started()
    world.answer()
    step = provisioning.step()
    assert (step.assignment, step.changed, step.flush) == (BOUND, True, False)
    return world, provisioning


def test_before_the_first_answer_there_is_nothing() -> None:
    _, provisioning = started()
    step = provisioning.step()
    assert (step.assignment, step.changed, step.lines) == (None, False, ())
    assert step.save is not None  # the nonce, before anything depends on it


def test_a_renewal_changes_nothing_but_the_end() -> None:
    world, provisioning = bound()
    world.later(4100)
    world.answer()
    step = provisioning.step()
    assert step.assignment == replace(BOUND, expires=5000 + 4100 + 7200)
    assert (step.changed, step.renewed, step.flush, step.lines, step.save) == (False, True, False, (), None)
    assert provisioning.step().renewed is False


@pytest.mark.parametrize("fields", [{"external": address16(OTHER)}, {"external_port": 28672,
                                                                     "options": (PortSet(2048, 28672),)}])  # fmt: skip
def test_another_address_or_set_voids_the_translations(fields: dict[str, Any]) -> None:
    world, provisioning = bound()
    world.later(4100)
    world.answer(**fields)
    step = provisioning.step()
    assert (step.changed, step.flush) == (True, True)
    assert step.save is not None
    assert len(step.lines) == 1


def test_a_set_that_was_lost_and_comes_back_voids_nothing() -> None:
    world, provisioning = bound()
    world.until(5000 + 7201)
    lost = provisioning.step()
    assert (lost.assignment, lost.changed, lost.lines) == (None, True, ("lost: 192.0.2.5, ports 26624-28671",))
    world.answer()
    again = provisioning.step()
    assert (again.changed, again.flush) == (True, False)


def test_icmp_code5_leaves_the_set_in_use_until_the_answer() -> None:
    world, provisioning = bound()
    world.client.icmp_code5(world.now)
    step = provisioning.step()
    assert (step.assignment, step.changed) == (BOUND, False)
    assert step.lines == ("asking again: the lwAFTR has no binding for us",)


def test_sets_of_one_address_are_one_assignment() -> None:
    world, provisioning = bound()
    second = world.client.ask_another(world.now)
    assert second is not None
    world.answer(to=second, external_port=30720, options=(PortSet(2048, 30720),), lifetime=600)
    step = provisioning.step()
    assert step.assignment == Assignment(PUBLIC, PortRanges(((26624, 28671), (30720, 32767))), 5600.0)
    assert (step.changed, step.flush) == (True, True)


def test_what_a_refusal_says() -> None:
    world, provisioning = started()
    world.answer(Result.MALFORMED_REQUEST, 1800)
    assert provisioning.step().lines == (
        "the PCP server refuses: MALFORMED_REQUEST; asked again in 1800 s; "
        "it does not do PCP with port sets, configure the softwire by hand",
    )


# --- what survives a restart -----------------------------------------------------------------------------------------

SAVED = Saved(bytes(range(12)), (Kept(0, 1, PUBLIC, 26624),))


def test_the_state_both_ways(tmp_path: Path) -> None:
    assert from_json(AFTR, to_json(AFTR, SAVED)) == SAVED
    path = tmp_path / "new" / "b4.json"
    state.save(path, AFTR, SAVED)
    assert path.stat().st_mode & 0o777 == 0o600
    assert state.load(path, AFTR, print) == SAVED


def test_another_lwaftr_gets_another_nonce(tmp_path: Path) -> None:
    path = tmp_path / "b4.json"
    state.save(path, AFTR, SAVED)
    assert state.load(path, IPv6Address("2001:db8:ffff::2"), print) is None


DAMAGED = ["", "{", "[]", '{"aftr": "x"}', to_json(AFTR, SAVED)[:-30], to_json(AFTR, SAVED).replace("0b", "", 1)]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_set_aside(text: str, tmp_path: Path) -> None:
    path, lines = tmp_path / "b4.json", list[str]()
    path.write_text(text)
    assert state.load(path, AFTR, lines.append) is None
    assert not path.exists()
    assert (tmp_path / "b4.json.damaged").read_text() == text
    assert len(lines) == 1


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert state.load(tmp_path / "none", AFTR, print) is None


# --- PCP inside the softwire -----------------------------------------------------------------------------------------

ENDS = Softwire(AFTR, SOURCE)
REQUEST = bytes.fromhex(VECTORS["PCPV-001"]["request_hex"])
ANSWER = bytes.fromhex(VECTORS["PCPV-001"]["responses"][0]["hex"])


def test_the_request_leaves_as_in_the_example() -> None:
    """But for the identification of the inner header, which an atomic datagram has no use for (RFC 6864)."""
    sent = B4(ENDS).request(49152, LWAFTR.packed, 5351, REQUEST)
    example = PACKETS["PCPP-01"]
    assert (sent[:40], sent[52:]) == (example[:40], example[52:])
    assert sent[40:44] == example[40:44]


MESSAGES = [  # packet, destination port
    ("PCPP-02", 49152),
    ("PCPP-03", 5350),  # to 224.0.0.1
    ("PCPP-04", 49152),
]


@pytest.mark.parametrize("name, port", MESSAGES)
@pytest.mark.parametrize("softwire", [ENDS, Softwire(AFTR, SOURCE, PUBLIC, PortRanges(((26624, 28671),)))])
def test_messages_are_for_the_client_whether_bound_or_not(name: str, port: int, softwire: Softwire) -> None:
    outcome = B4(softwire).from_wan(PACKETS[name])
    assert outcome.message is not None
    assert (outcome.message.source, outcome.message.source_port) == (LWAFTR.packed, 5351)
    assert outcome.message.destination_port == port
    assert (outcome.lan, outcome.wan) == ([], [])


def test_without_a_set_nothing_passes() -> None:
    home = B4(ENDS)
    data = PACKETS["PCPP-05"]
    assert home.from_lan(data[40:]).drop == "untranslated-source"
    assert home.from_tunnel(AFTR.packed, 0, data[40:]).drop == "not-my-port"
    assert home.encapsulate(bytearray(data), len(data)) == 0


def test_code5_about_ones_own_packet_is_heard() -> None:
    """PCPP-06 answers PCPP-05; from any other source it is nothing (RFC 7596 section 5.1)."""
    home = B4(replace(ENDS, ipv4=PUBLIC, ports=PortRanges(((26624, 28671),))))
    assert home.from_wan(PACKETS["PCPP-06"]).event == "binding-lost"
    forged = PACKETS["PCPP-06"][:8] + SOURCE.packed + PACKETS["PCPP-06"][24:]
    assert home.from_wan(forged).event is None


@given(st.binary(max_size=40), st.integers(0, 65535), st.integers(0, 65535))
def test_inner_datagrams_both_ways(payload: bytes, source: int, destination: int) -> None:
    packet = inner_udp.write(LWAFTR.packed, source, PUBLIC.packed, destination, payload)
    assert inner_udp.read(packet) == Datagram(LWAFTR.packed, source, PUBLIC.packed, destination, payload)
    if payload:
        assert inner_udp.read(packet[:-1] + bytes([packet[-1] ^ 1])) is None
        assert inner_udp.read(packet[:-1]) is None


# --- rules -----------------------------------------------------------------------------------------------------------


def test_changes_that_come_while_rules_are_made_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(rules, "load_rules", lambda host, ipv4, ports, forwards: loaded.append(ports))

    async def five_changes() -> None:
        made = rules.Rules(HostOptions())
        made.napt = (PUBLIC, PortRanges(((1024, 2047),)))
        await asyncio.gather(*(made.apply() for _ in range(5)))

    asyncio.run(five_changes())
    assert len(loaded) == 2  # the first, and all the others


# --- options ---------------------------------------------------------------------------------------------------------

BASE = ["--aftr", "aftr.example.net", "--tunnel-source", "2001:db8:100:100::/56"]

WRONG = [
    ([], "give --pcp, or else --ipv4"),
    (["--pcp", "--ipv4", "192.0.2.5"], "give --pcp, or else --ipv4"),
    (["--pcp", "--pcp-lifetime", "60"], "60"),
    (["--pcp", "--tunnel-source", "auto", "--wan", "eth0"], "auto names none"),
    (["--pcp", "--tunnel-source", "xx"], "'xx' is no IPv6 address, no prefix and not auto"),
]


@pytest.mark.parametrize("arguments, said", WRONG)
def test_wrong_options(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(command, [*BASE, *arguments])
    assert result.exit_code == 2
    assert said in result.output


def plan_of(*arguments: str) -> Any:
    context = command.make_context("b4", [*BASE, *arguments])
    return _plan(context.params)[0]


SOURCES = [
    ("a prefix, before the address is known", ["--pcp"], IPv6Address("2001:db8:100:100::1")),
    ("a prefix and an address", ["--ipv4", "192.0.2.5"], IPv6Address("2001:db8:100:100:0:c000:205:0")),
    ("an address", ["--pcp", "--tunnel-source", "2001:db8::7"], IPv6Address("2001:db8::7")),
    ("the system's choice", ["--pcp", "--tunnel-source", "auto"], None),
]


@pytest.mark.parametrize("what, arguments, source", SOURCES, ids=[row[0] for row in SOURCES])
def test_source(what: str, arguments: list[str], source: IPv6Address | None) -> None:
    assert plan_of(*arguments).source == source


def test_pcp_or_given() -> None:
    asked = plan_of("--pcp", "--lan", "eth1/192.168.1.1/24", "--reserve", "100", "--state", "/x")
    assert (asked.given, asked.pcp.state, asked.pcp.lan.reserve) == (None, Path("/x"), 100)
    assert plan_of("--pcp", "--lan", "eth1/192.168.1.1/24", "--no-lan-pcp").pcp.lan is None
    given_ = plan_of("--ipv4", "192.0.2.5", "--psid-len", "6", "--psid", "3")
    assert (given_.given[0], given_.pcp) == (IPv4Address("192.0.2.5"), None)
