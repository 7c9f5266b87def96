"""`pylwaftr explain`: rows of a packet and what is told about it, through the real command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.explain.frame_text import frame_text
from tests import pcap_files
from tests.frames import ICMP6, MF, echo4, ethernet, icmp6, ipv6, udp
from tests.softwires import B1, B3, GATEWAY6, INET, ROUTER4, WHOLE, arp_frame, from_b4, solicitation
from tests.vector_config import configuration, default_options, document, examples

IN = udp(INET, B1.ipv4, 53, 1024)
OUT = udp(B1.ipv4, INET, 1500, 53)
PING = ipv6("2001:db8:ee::9", B1.br, ICMP6, icmp6("2001:db8:ee::9", B1.br, 128, 0, bytes(4)))

TOLD: list[tuple[str, str, bytes, str, str, list[str]]] = [
    # what, side, frame, verdict, requirement, what the text says
    ("from the internet", "v4", ethernet("v4", IN), "encap", "DP-050",
     ["shared", "PSID 1", f"its B4 is {B1.b4}", "TTL 63"]),
    ("nobody's port", "v4", ethernet("v4", udp(INET, B1.ipv4, 53, 80)), "drop_no_binding", "DP-059",
     ["no binding for (203.0.113.1, PSID 0)", "icmp4_sent_unreachable +1", "ICMP 3/1"]),
    ("nobody's address", "v4", ethernet("v4", udp(INET, "203.0.113.99", 53, 80)), "drop_no_binding", "DP-059",
     ["parse"]),
    ("a whole address", "v4", ethernet("v4", udp(INET, WHOLE.ipv4, 53, 80)), "encap", "DP-050", ["a whole address"]),
    ("from a B4", "v6", ethernet("v6", from_b4(OUT, B1)), "decap", "DP-070", ["40 octets in", f"come from {B1.b4}"]),
    ("from the wrong B4", "v6", ethernet("v6", from_b4(OUT, B3)), "drop_source_validation", "DP-077",
     [f"come from {B1.b4}", "ICMPv6 1/5"]),
    ("to another home", "v6", ethernet("v6", from_b4(udp(B1.ipv4, B3.ipv4, 1500, 1600), B1)), "hairpin", "DP-100",
     [str(B3.b4)]),
    ("expired", "v4", ethernet("v4", udp(INET, B1.ipv4, 53, 1024, ttl=1)), "drop_ttl_expired", "DP-012", ["ICMP 11/0"]),
    ("for another station", "v4", ethernet("v4", IN, dst=bytes(6)), "drop_l2_not_for_us", "DP-004", ["link"]),
    ("a fragment that waits", "v4", ethernet("v4", udp(INET, B1.ipv4, 53, 1024, flags=MF, offset=64)),
     "held_fragment_v4", "DP-177", ["waits"]),
    ("a ping of the router", "v4", ethernet("v4", echo4(INET, ROUTER4, 7)), "answered_echo_v4", "DP-129",
     ["echo reply"]),
    ("who has the router", "v4", arp_frame(1, bytes.fromhex("020000000499"), "192.0.2.9", ROUTER4), "answered_arp",
     "DP-190", ["neighbour resolution", "is at 02:00:00:00:04:01"]),
    ("a ping of the BR", "v6", ethernet("v6", PING), "answered_echo_v6", "DP-144", ["echo reply"]),
    ("a solicitation", "v6", solicitation("2001:db8:aa::1", GATEWAY6), "answered_ndp", "DP-198", ["ICMPv6 136/0"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "router.yaml"
    path.write_text(configuration(default_options()))
    return path


def _explain(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pylwaftr", "explain", "-c", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def told(config: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """All rows in one process a side: what -> (JSON, text)."""
    seen = {}
    for side in ("v4", "v6"):
        rows = [row for row in TOLD if row[1] == side]
        file = str(pcap_files.write(config.parent / f"{side}.pcap", [row[2] for row in rows]))
        stories = [json.loads(line) for line in _lines(_explain(config, "--side", side, "--pcap", file, "--json"))]
        texts = _explain(config, "--side", side, "--pcap", file).stdout.split("\n\n")
        seen |= {row[0]: (story, text) for row, story, text in zip(rows, stories, texts, strict=False)}
    return seen


def _lines(done: subprocess.CompletedProcess[str]) -> Sequence[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "what, verdict, requirement, says", [(row[0], *row[3:]) for row in TOLD], ids=[r[0] for r in TOLD]
)
def test_row(
    told: dict[str, tuple[dict[str, Any], str]], what: str, verdict: str, requirement: str, says: list[str]
) -> None:
    story, text = told[what]
    assert (story["verdict"], story["requirement"]) == (verdict, requirement)
    for words in says:
        assert words in text


def test_a_ping_of_the_tunnel_address_has_no_ipv4_packet(told: dict[str, tuple[dict[str, Any], str]]) -> None:
    assert "IPv4 packet" not in told["a ping of the BR"][1]


def test_bare_packets_and_hex_with_spaces(config: Path) -> None:
    done = _explain(config, "--side", "v6", "--hex", from_b4(OUT, B1).hex(" "))
    assert "went on  decap" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--hex", "4g"], "--hex: 'g' is no hexadecimal digit: give two"),
        (["--hex", "450"], "--hex: an octet has one digit: give two"),
        (["--hex", ""], "--hex: no octets"),
        ([], "either --pcap or --hex"),
        (["--pcap", "/nonexistent"], "does not exist"),
    ],
)
def test_bad_input(config: Path, arguments: list[str], says: str) -> None:
    done = _explain(config, "--side", "v4", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_every_frame_of_the_examples_has_a_text() -> None:
    """Also what is cut anywhere: an explanation must not fail on the packet it explains."""
    assert document()
    for example in examples():
        for step in example.steps:
            for cut in (*range(min(len(step.frame), 120)), len(step.frame)):
                assert frame_text(step.frame[:cut])
