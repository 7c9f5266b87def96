"""tshark's portcontrol dissector reads what we send as we mean it; the specification lists where it errs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from pylwaftr import framing
from pylwaftr.b4.core import B4
from pylwaftr.b4.softwire import Softwire
from pylwaftr.b4.storm_packets import Requests
from pylwaftr.pcp import codec
from pylwaftr.pcp.codec import AnnounceRequest, AnnounceResponse, MapRequest, MapResponse, PeerRequest, PeerResponse
from pylwaftr.pcp.numbers import NO_IPV4, address16
from pylwaftr.pcp.options import Description, Filter, PortSet, PreferFailure, ThirdParty
from tests.frames import ethernet
from tests.pcap_files import write
from tests.pcp_client_world import B4 as INSIDE
from tests.pcp_client_world import LWAFTR, NONCE, PUBLIC, World
from tests.test_b4_provisioning import AFTR, SOURCE

pytestmark = pytest.mark.needs_tshark

REMOTE = address16(IPv4Address("198.51.100.9"))
US = address16(INSIDE)
SET = PortSet(2048, 26624)
PREFIX = "portcontrol."
FIELDS: dict[str, Callable[[Any], object]] = {  # name of the field, what we mean
    "version": lambda m: 2,
    "r": lambda m: int(not hasattr(m, "client")),
    "opcode": lambda m: {"Ann": 0, "Map": 1, "Pee": 2}[type(m).__name__[:3]],
    "result_code": lambda m: getattr(m, "result", None),
    "lifetime_req": lambda m: (0 if isinstance(m, AnnounceRequest) else m.lifetime) if hasattr(m, "client") else None,
    "lifetime_rsp": lambda m: None if hasattr(m, "client") else m.lifetime,
    "epoch_time": lambda m: getattr(m, "epoch", None),
    "map.nonce": lambda m: m.nonce.hex() if isinstance(m, MapRequest | MapResponse) else None,
    "map.protocol": lambda m: m.protocol if isinstance(m, MapRequest | MapResponse) else None,
    "map.internal_port": lambda m: m.internal_port if isinstance(m, MapRequest | MapResponse) else None,
    "map.rsp_assigned_external_port": lambda m: m.external_port if isinstance(m, MapResponse) else None,
    "peer.remote_peer_port": lambda m: getattr(m, "remote_port", None),
    "option.code": lambda m: ",".join(str(int(o.code)) for o in getattr(m, "options", ())) or None,
    "option.portset.size": lambda m: _of(m, PortSet, "size"),
    "option.portset.parity": lambda m: _of(m, PortSet, "parity"),
    "option.filter.remote_peer_port": lambda m: _of(m, Filter, "remote_port"),
    "option.filter.prefix_length": lambda m: _of(m, Filter, "prefix_length"),
    "option.description": lambda m: (text := _of(m, Description, "text")) and text.decode(),
}


def _of(message: Any, kind: type[Any], name: str) -> Any:
    found = codec.option(getattr(message, "options", ()), kind)
    value = getattr(found, name) if found is not None else None
    return int(value) if isinstance(value, bool) else value


MESSAGES: list[codec.Request | codec.Response] = [
    AnnounceRequest(US),
    AnnounceResponse(1000),
    MapRequest(7200, US, NONCE, 0, 1, options=(PortSet(65535, 1),)),
    MapRequest(7200, US, NONCE, 0, 1, 26624, address16(PUBLIC), (PortSet(65535, 1, True),)),
    MapRequest(0, US, NONCE, 0, 1, options=(PortSet(65535, 1),)),
    MapRequest(600, US, NONCE, 17, 8080, 26630, address16(PUBLIC), (PreferFailure(), Description("caméra".encode()))),
    MapRequest(600, US, NONCE, 17, 53, options=(Filter(120, 443, REMOTE),)),
    MapRequest(600, US, NONCE, 0, 1, options=(ThirdParty(SOURCE.packed), PortSet(65535, 1))),
    MapResponse(0, 7200, 1000, NONCE, 0, 1, 26624, address16(PUBLIC), (SET,)),
    MapResponse(8, 30, 1000, NONCE, 0, 1, 0, NO_IPV4, (PortSet(65535, 1),)),
    MapResponse(0, 600, 1000, NONCE, 17, 8080, 26630, address16(PUBLIC)),
    PeerRequest(600, US, NONCE, 6, 40000, 443, REMOTE),
    PeerResponse(0, 600, 1000, NONCE, 6, 40000, 26632, address16(PUBLIC), 443, REMOTE),
]


def dissected(path: Path, packets: list[bytes]) -> list[dict[str, str]]:
    write(path, [ethernet("v6", packet) for packet in packets])
    names = [PREFIX + name for name in FIELDS] + ["udp.checksum.status", "ip.checksum.status", "_ws.malformed"]
    words = [word for name in names for word in ("-e", name)]
    checks = ["-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    done = subprocess.run(
        ["tshark", "-r", str(path), *checks, "-T", "fields", "-E", "separator=|", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [dict(zip(names, line.split("|"), strict=True)) for line in done.stdout.splitlines()]


def in_softwire(message: codec.Request | codec.Response) -> bytes:
    if isinstance(message, AnnounceRequest | MapRequest | PeerRequest):
        payload = codec.encode_request(message)
        return framing.wrap(payload, SOURCE.packed, AFTR.packed, INSIDE.packed, 49152, LWAFTR.packed, 5351)
    payload = codec.encode_response(message)
    return framing.wrap(payload, AFTR.packed, SOURCE.packed, LWAFTR.packed, 5351, INSIDE.packed, 49152)


def test_every_message_is_read_as_meant(tmp_path: Path) -> None:
    rows = dissected(tmp_path / "x.pcap", [in_softwire(message) for message in MESSAGES])
    for message, row in zip(MESSAGES, rows, strict=True):
        for name, meant in FIELDS.items():
            value = meant(message)
            assert number(row[PREFIX + name]) == ("" if value is None else str(value)), (message, name)
        assert (row["udp.checksum.status"], row["ip.checksum.status"]) == ("1", "1")


def number(text: str) -> str:
    """tshark writes some numbers in hexadecimal, and true or false for a bit."""
    words = {"True": "1", "False": "0", "1": "1", "0": "0"}
    if text.startswith("0x"):
        return str(int(text, 16))
    return words.get(text, text)


def test_packets_of_the_lwb4_and_of_a_storm(tmp_path: Path) -> None:
    world = World().started()
    request = world.client.datagrams_to_send()[0][0]
    packets = [
        B4(Softwire(AFTR, SOURCE)).request(49152, LWAFTR.packed, 5351, request),
        Requests(AFTR.packed, 49152, 7200).make(SOURCE.packed, NONCE, 26624, address16(PUBLIC)),
    ]
    rows = dissected(tmp_path / "x.pcap", packets)
    assert [row[PREFIX + "option.portset.size"] for row in rows] == ["65535", "65535"]
    assert [row[PREFIX + "map.nonce"] for row in rows] == [NONCE.hex()] * 2
    assert {row["udp.checksum.status"] + row["ip.checksum.status"] + row["_ws.malformed"] for row in rows} == {"11"}
