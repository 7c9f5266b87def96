"""`pylwaftr check-config`: what it prints, where, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pylwaftr.cli.check_config import check_config
from tests.config_text import E1, SOFTWIRE, STICK6, V4, V6, entries, text

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> Result:
    return CliRunner().invoke(check_config, list(arguments))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "router.yaml"


def test_a_valid_file_is_explained(file: Path) -> None:
    file.write_text(text(entries(E1, 'ipv4: 203.0.113.9, b4_ipv6: "2001:db8:9::9"')))
    result = run("-c", str(file))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:5] == [
        "IPv4 side: net_tap0; 192.0.2.1/24; MTU 1500; next hop 192.0.2.254",
        "IPv6 side: net_tap1; 2001:db8:ffff::2/64; MTU 1540; next hop 2001:db8:ffff::1",
        "softwire: BR 2001:db8:aa::1; tunnel MTU 1500 (40 octets of encapsulation); TCP MSS clamp off; "
        "hairpinning local",
        "bindings: 2 of 1000000; 1 whole and 1 shared addresses; 2 B4s",
        "port sets: 1 with psid_offset 0, psid_len 6, 1024 ports each",
    ]


EXPLAINED = [  # yaml, a line of the explanation
    (text(softwire=SOFTWIRE + ", encap_limit: 4"), "tunnel MTU 1492 (48 octets of encapsulation)"),
    (text(softwire=SOFTWIRE + ", tunnel_payload_mtu: 1300, tcp_mss: auto"), "tunnel MTU 1300 (40 octets of encapsul"),
    (text(softwire=SOFTWIRE + ", tcp_mss: auto"), "TCP MSS clamp 1460 octets"),
    (text(softwire=SOFTWIRE + ", hairpinning: drop"), "off: hairpinning: packets for other B4s are discarded"),
    (text(softwire=SOFTWIRE + ", hairpinning: false"), "off: hairpinning: packets for other B4s are sent to the IPv4"),
    (text(v4=V4 + ", vlan: 4", v6=STICK6 + ", vlan: 6"), "IPv6 side: net_tap0; VLAN 6; 2001:db8:ffff::2/64; MTU 1540;"),
    (text(v6=STICK6), "next hop 2001:db8:ffff::1 (one port for both sides)"),
    (text(v4=V4 + ", next_hop_mac: 02:00:00:00:00:01"), "192.0.2.254 always at 02:00:00:00:00:01"),
    (text(v4=V4 + ", ingress_filter: ip proto 6"), "ingress filter 'ip proto 6'"),
    (text("pcp: {pools: [{ipv4: 203.0.113.0/24}]}"), "PCP pool: 203.0.113.0/24, 15872 port sets of 1024 ports"),
    (text("fleet: {etcd: {endpoints: [a:1]}}"), "off: fleet store: fleet is given, and nothing uses it yet"),
    (text("pcp: {enabled: false}"), "off: PCP (pcp.enabled)"),
    (text("api: {listen: null}"), "off: gRPC service (api.listen)"),
    (text("icmp: {unbound_v4: false}"), "off: ICMPv4 errors for packets without a binding (icmp.unbound_v4)"),
]


@pytest.mark.parametrize("yaml, line", EXPLAINED)
def test_the_explanation_says(file: Path, yaml: str, line: str) -> None:
    file.write_text(yaml)
    result = run(str(file))
    assert result.exit_code == 0
    assert line in result.stdout


def test_faults_are_one_a_line_on_standard_error(file: Path) -> None:
    file.write_text(text("qqq: 1", v4=V4 + ", vlan: 0", v6=V6 + ", mtu: 1400"))
    result = run(str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()] == [
        [f"{file}:2", "interfaces.v4.vlan"],
        [f"{file}:3", "interfaces.v6.mtu"],
        [f"{file}:5", "qqq"],
    ]


def test_warnings_do_not_fail(file: Path) -> None:
    file.write_text(text(v6=V6 + ", mtu: 1500"))
    result = run(str(file))
    assert result.exit_code == 0
    assert result.stderr.startswith(f"{file}:3: interfaces.v6.mtu: warning: 1500 lets 1460 of 1500 octets through")
    assert len(result.stderr.splitlines()) == 1
    assert "tunnel MTU 1460" in result.stdout


def test_json_of_a_valid_file(file: Path) -> None:
    file.write_text(text(entries(E1), v6=V6 + ", mtu: 1500"))
    result = run("--json", str(file))
    answer = json.loads(result.stdout)
    assert (result.exit_code, result.stderr, answer["valid"]) == (0, "", True)
    assert [fault["severity"] for fault in answer["faults"]] == ["warning"]
    assert answer["summary"]["softwire"]["tunnel_mtu"] == 1460
    assert answer["summary"]["bindings"]["rows"] == 1


def test_json_of_a_file_with_faults(file: Path) -> None:
    file.write_text(text("qqq: 1"))
    result = run("--json", "-c", str(file))
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["valid"], answer["summary"]) == (2, False, None)
    (fault,) = answer["faults"]
    assert (fault["file"], fault["line"], fault["path"], fault["severity"]) == (str(file), 5, "qqq", "error")


@pytest.mark.parametrize("arguments", [(), ("-c", "a.yaml", "b.yaml"), ("--no-such-option",)])
def test_wrong_use_is_status_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    result = run(str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path}/none.yaml:1: file: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_configurations_that_come_with_it(path: Path) -> None:
    result = run(str(path))
    assert (result.exit_code, result.stderr) == (0, "")
