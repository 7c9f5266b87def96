"""The lab: every scenario with real kernel hosts, and that nothing of it is left, whatever happened.

LAB_ROUTER: another program in the router's place. LAB_MEGABYTES: size of the lossy transfer (100).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from pylwaftr import config
from pylwaftr.lab import commands, dhcp_client, pcp_host, plan, report, traffic
from pylwaftr.lab.__main__ import main
from pylwaftr.lab.commands import LabError
from pylwaftr.lab.lifecycle import Lab, running
from pylwaftr.lab.reorder import Shuffle
from pylwaftr.lab.steps import Result, Step, expect, perform
from pylwaftr.lab.topology import CHAOS, DEMONSTRATION, EVERYTHING, HOMES, Topology, router_config
from pylwaftr.pcp import codec
from pylwaftr.pcp.numbers import address16
from pylwaftr.pcp.options import PortSet, ThirdParty
from tests.lab_remains import left_behind

ROOT = Path(__file__).resolve().parent.parent
ROUTER = os.environ.get("LAB_ROUTER")
TRANSFER = int(os.environ.get("LAB_MEGABYTES", "100")) << 20
TOPOLOGY, STEPS = plan.everything(TRANSFER) if ROUTER is None else plan.of_another_router(True, TRANSFER)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pylwaftr.lab", *(("--router", ROUTER) if ROUTER else ()), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until_softwire(lab: subprocess.Popen[str]) -> None:
    assert lab.stdout is not None
    said = []
    for line in lab.stdout:
        said.append(line)
        if "ok      softwire" in line:
            return
    raise AssertionError(f"the lab ended before its softwire was up: {''.join(said)}")


# without a kernel


def test_interfaces_have_one_name_each_and_short_ones() -> None:
    ends = [(end.namespace, end.name) for link in EVERYTHING.links() for end in link.ends]
    assert len(ends) == len(set(ends))
    assert all(len(name) <= 15 for _, name in ends)
    assert {namespace for namespace, _ in ends} == set(EVERYTHING.namespaces)


def test_router_has_a_binding_for_every_home() -> None:
    entries = router_config(Topology(HOMES), Path("/nowhere"))["bindings"]["entries"]
    assert [e["b4_ipv6"] for e in entries] == [str(home.tunnel_source) for home in HOMES]
    assert entries[2] == {
        "ipv4": "203.0.113.20",
        "psid_offset": 6,
        "psid_len": 8,
        "psid": 0x34,
        "b4_ipv6": "2001:db8:1:300:0:cb00:7114:34",
    }


@pytest.mark.parametrize(
    "topology", [DEMONSTRATION, EVERYTHING, CHAOS, Topology(HOMES)], ids=["short", "full", "chaos", "data only"]
)
def test_router_takes_the_configuration(topology: Topology) -> None:
    read = config.load_text(yaml.safe_dump(router_config(topology, Path("/run/nowhere"))))
    assert len(config.binding_rows(read)) == len(topology.homes)


def test_steps_have_a_title_each() -> None:
    titles = [step.title for step in plan.everything(1)[1]]
    assert len(titles) == len(set(titles))


def test_another_router_is_not_asked_for_our_control_side() -> None:
    topology, steps = plan.of_another_router(True, 1)
    assert topology == Topology(HOMES)
    assert {step.title for step in steps}.isdisjoint({"lookup", "home provisioned by PCP", "lease: forwarding"})


@pytest.mark.parametrize("size", [0, 1, traffic.BLOCK - 1, traffic.BLOCK, 3 * traffic.BLOCK + 5])
def test_stream_has_the_size_asked_for(size: int) -> None:
    assert sum(len(block) for block in traffic.stream(size)) == size


def test_stream_does_not_repeat_itself() -> None:
    blocks = list(traffic.stream(4 * traffic.BLOCK))
    assert len(set(blocks)) == 4


def test_shuffle_loses_nothing_and_keeps_nothing_back() -> None:
    packets = [number.to_bytes(2) for number in range(1, 201)]
    shuffle, seen = Shuffle(50), list[bytes]()
    for packet in packets:
        seen += shuffle.take(packet)
    seen += shuffle.release()
    assert sorted(seen) == packets
    assert seen != packets
    assert seen.index(packets[49]) == 52, "after the next three"


def test_first_failure_ends_the_demonstration_when_it_is_the_softwire() -> None:
    def fails(_: Lab) -> str:
        raise LabError("no way")

    result = perform(Step("softwire", fails), Lab(Topology(())))
    assert (result.ok, result.detail) == (False, "no way")


def test_summary_names_what_failed() -> None:
    out = StringIO()
    console = Console(file=out, width=200)
    results = [Result("ping", True, "5 of 5", 0.1), Result("traceroute", False, "[hops]", 0.1)]
    for result in results:
        report.line(console, result)
    report.summary(console, results)
    shown = out.getvalue().splitlines()
    assert "ok      ping" in shown[0]
    assert "FAILED  traceroute" in shown[1]
    assert "[hops]" in shown[1]
    assert shown[2] == "1 of 2 steps failed: traceroute"


def test_table_shows_what_moved_and_how_fast() -> None:
    out = StringIO()
    before, now = {"rx_v4": 10, "encap": 0, "idle_polls": 1}, {"rx_v4": 2010, "encap": 0, "idle_polls": 9}
    Console(file=out, width=80).print(report.table(before, now, 2.0))
    assert "2,010" in out.getvalue()
    assert "1,000" in out.getvalue()
    assert "encap" not in out.getvalue()
    assert "idle_polls" not in out.getvalue()


def test_without_root_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    assert result.output == "Error: the lab makes network namespaces: run it as root (sudo make run)\n"


def test_missing_tools_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda tool: None if tool in ("nft", "tracepath") else tool)
    with pytest.raises(LabError, match=r"^tools are missing: apt install iputils-tracepath nftables$"):
        commands.require_tools()


def test_expect_says_both() -> None:
    with pytest.raises(LabError, match="hops: 2 instead of 3"):
        expect("hops", 2, 3)


def given(**words: object) -> argparse.Namespace:
    usual = {"client": "192.0.2.7", "lifetime": 600, "protocol": 0, "inside": 1, "outside": 0, "nonce": "c0ffee"}
    return argparse.Namespace(**usual | {"external": "0.0.0.0", "third_party": None, "size": 0} | words)


def test_lan_host_asks_for_a_port_as_our_codec_reads_it() -> None:
    packet = pcp_host.request(given(protocol=17, inside=8080))
    asked = codec.decode_request(packet, address16(IPv4Address("192.0.2.7")), codec.LAN)
    assert isinstance(asked, codec.MapRequest)
    assert (asked.lifetime, asked.protocol, asked.internal_port, asked.external_port) == (600, 17, 8080, 0)
    assert asked.nonce == bytes.fromhex("c0ffee").ljust(12, b"\0")


def test_third_party_asks_for_a_port_set_as_our_codec_reads_it() -> None:
    tunnel = "2001:db8:1:600::1"
    packet = pcp_host.request(given(third_party=tunnel, size=65535, external="203.0.113.66", outside=40960))
    asked = codec.decode_request(packet, address16(IPv4Address("192.0.2.7")), codec.MANAGEMENT)
    assert isinstance(asked, codec.MapRequest)
    assert asked.options == (ThirdParty(IPv6Address(tunnel).packed), PortSet(65535, 1, False))
    assert (asked.external_port, asked.external) == (40960, address16(IPv4Address("203.0.113.66")))


def test_pcp_answer_is_read() -> None:
    ports = (PortSet(1024, 40960, False),)
    external = address16(IPv4Address("203.0.113.66"))
    answer = codec.MapResponse(0, 7200, 42, bytes(12), 0, 40960, 40960, external, ports)
    assert pcp_host.answer(codec.encode_response(answer)) == {
        "result": 0, "lifetime": 7200, "epoch": 42, "inside": 40960, "outside": 40960,
        "external": "203.0.113.66", "size": 1024,
    }  # fmt: skip


def test_dhcp_client_reads_what_is_leased() -> None:
    """PSID 9 of 6 bits stands in the highest bits: 0x2400."""
    tunnel = IPv6Address("2001:db8::b4")
    options = dhcp_client.option(159, bytes([0, 6, 0x24, 0])) + dhcp_client.option(109, tunnel.packed)
    options += b"\0" + dhcp_client.option(51, (600).to_bytes(4))
    message = dhcp_client.message(5, b"abcd", IPv4Address(0), options, b"client")
    read = dhcp_client.options_of(message)
    assert (read[53], read[61]) == (b"\5", b"client")
    assert dhcp_client.leased(IPv4Address("203.0.113.40"), read) == {
        "ipv4": "203.0.113.40", "lifetime": 600, "tunnel": str(tunnel), "offset": 0, "length": 6, "psid": 9,
    }  # fmt: skip


# the program, from outside


@pytest.mark.needs_root
@pytest.mark.needs_netns
class TestProgram:
    def test_killed_lab_does_not_stand_in_the_way_of_the_next_and_that_keeps_out_a_third(self) -> None:
        killed = start()
        wait_until_softwire(killed)
        killed.kill()
        killed.communicate()
        assert left_behind(), "it had no time to clean up"
        second = start()
        wait_until_softwire(second)
        third = start()
        topology, _ = plan.demonstration() if ROUTER is None else plan.of_another_router(False, 0)
        said, _ = third.communicate(timeout=60)
        assert (third.returncode, said) == (
            1,
            f"starting the lab: router, access network, {', '.join(site.name for site in topology.sites)}\n"
            "Error: another lab is running: stop it first (Ctrl-C where it runs)\n",
        )
        self.stop(second, signal.SIGTERM)

    def test_interrupted_lab_leaves_nothing(self) -> None:
        lab = start()
        wait_until_softwire(lab)
        self.stop(lab, signal.SIGINT)

    @staticmethod
    def stop(lab: subprocess.Popen[str], number: signal.Signals) -> None:
        lab.send_signal(number)
        said, _ = lab.communicate(timeout=60)
        assert lab.returncode == 130
        assert said.endswith("stopped; the lab is removed\n")
        assert left_behind() == []

    def test_router_that_does_not_start_is_told_with_its_words(self) -> None:
        lab = start("--router", f"{sys.executable} -c 'raise SystemExit(\"no such port\")'")
        said, _ = lab.communicate(timeout=60)
        assert lab.returncode == 1
        assert said.endswith("Error: router ended with status 1:\nno such port\n")
        assert left_behind() == []


# the scenarios


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(TOPOLOGY, ROUTER) as made:
        yield made
    assert left_behind(made) == []


@pytest.mark.needs_root
@pytest.mark.needs_netns
@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.title))
def test_scenario(lab: Lab, step: Step) -> None:
    result = perform(step, lab)
    assert result.ok, result.detail
    print(result.detail)
