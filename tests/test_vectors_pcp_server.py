"""The worked examples of PCP that the lwAFTR answers, octet for octet; each is answered alike a second time."""

from __future__ import annotations

import json
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.pcp.mapping import THIRD_PARTY
from pylwaftr.pcp.numbers import address16
from pylwaftr.pcp.outcome import Sender
from pylwaftr.pcp.server import PcpServer
from tests.pcp_world import BR, NOW, others, pool, row, settings, stored, with_epoch

EXAMPLES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "pcp_server.json").read_text())
TAKEN = [1, *range(3, 13)]  # so that PSID 13 is the next
POOLS = {"192.0.2.6/32 psid_len 0": pool("192.0.2.6/32", 0)}


def prepared(example: dict[str, Any]) -> PcpServer:
    changed = dict(example["overrides"])
    if "pool" in changed:
        changed["pools"] = (POOLS[changed.pop("pool")],)
    if "max_sets_per_subscriber" in changed:
        changed["max_sets"] = changed.pop("max_sets_per_subscriber")
    if "provisioning_protocols" in changed:
        changed["protocols"] = frozenset(changed.pop("provisioning_protocols"))
    nothing_free = changed.pop("pool_free_sets", None) == 0
    server = PcpServer(settings(**changed), NOW)
    records: dict[bytes, bytes] = {}
    for state in example["state"]:
        b4, psid = IPv6Address(state["b4"]).packed, state["internal_set"][0] >> 11
        assert state["external_ip"] == "192.0.2.5"
        if state["kind"] == "static":
            server.reserve(row("192.0.2.5", psid, b4), NOW)
            continue
        flags = THIRD_PARTY if state["kind"] == "third-party" else 0
        more = {"protocol": state["protocol"], "internal_port": state["request_internal_port"], "flags": flags}
        records |= stored(b4, psid, bytes.fromhex(state["nonce"]), state["remaining"], **more)
    assert server.load(with_epoch(records, example["epoch"]), NOW).changes_nothing
    server.reserve(others([psid for psid in range(32) if nothing_free or psid in TAKEN]), NOW)
    return server


def sender(example: dict[str, Any]) -> Sender:
    address, _, port = example["source"].partition("#")
    inside = address16(ip_address(address))
    if example["tunnel"] is None:
        return Sender(b"", b"", inside, int(port))
    return Sender(IPv6Address(example["tunnel"]).packed, BR, inside, int(port))


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["id"] for example in EXAMPLES])
def test_example(example: dict[str, Any]) -> None:
    server = prepared(example)
    request = bytes.fromhex(example["request"])
    before = dict(server.mappings())
    outcome = server.receive(request, sender(example), NOW)
    answers = [*outcome.replies, *(more for _, more in outcome.more)]
    assert [answer.hex() for answer in answers if answer is not None] == example["responses"]
    if outcome.reply is None or outcome.reply[3]:
        assert outcome.changes_nothing
        assert dict(server.mappings()) == before
    again = server.receive(request, sender(example), NOW)
    assert again.replies == outcome.replies
    assert not len(again.bind)
    assert not len(again.unbind)


def test_both_sides_have_examples() -> None:
    assert {example["tunnel"] is None for example in EXAMPLES} == {True, False}
