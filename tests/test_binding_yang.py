"""RFC 8676 JSON against yangson: what our reader takes is valid, what else it refuses is named, exports are valid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylwaftr import binding_files
from pylwaftr.binding_files import Instance, rfc8676, yang_model
from tests.test_binding_files import any_rows

BR = bytes(16)
FRAME = {"name": "a", "softwire-num-max": 9, "softwire-payload-mtu": 1460, "softwire-path-mru": 1500}


GOOD_ONE = {
    "binding-ipv6info": "2001:db8::1",
    "binding-ipv4-addr": "192.0.2.1",
    "port-set": {"psid-len": 8, "psid": 52},
}


def document(entries: list[Any]) -> dict[str, Any]:
    instance = FRAME | {"binding-table": {"binding-entry": entries}}
    return {rfc8676.TOP: {"binding": {"bind-instance": [instance]}}}


def faults(entries: list[Any]) -> list[tuple[str, str]]:
    """Of our reader alone: yangson is told nothing of the entries."""
    with patch.object(rfc8676, "SAMPLE", 0):
        loaded = rfc8676.read(json.dumps(document(entries)).encode(), BR)
    return [(fault.field, fault.message) for fault in loaded.faults]


HEX = st.text("0123456789abcdefABCDEF", max_size=5)
ADDRESS4 = st.ip_addresses(v=4).map(str)
ADDRESS6 = st.ip_addresses(v=6).map(str)
LIKE_6 = st.lists(HEX | st.just(""), max_size=9).map(":".join) | st.tuples(HEX, ADDRESS4).map("::%s:%s".__mod__)
PREFIX6 = st.tuples(ADDRESS6 | LIKE_6, st.integers(0, 140) | st.sampled_from(["08", "064", "", "x"])).map(
    "%s/%s".__mod__
)
LIKE_4 = st.lists(st.integers(0, 300).map(str) | st.sampled_from(["01", "00", ""]), min_size=2, max_size=5).map(
    ".".join
)
TRIMMED = st.tuples(ADDRESS4 | ADDRESS6, st.sampled_from([" ", "\n", "%eth0", "%", "\0", "\u0663"])).map("%s%s".__mod__)
NUMBER = (
    st.integers(-1, 17)
    | st.sampled_from([255, 256, 65535, 65536, 1.0, True, "3", None])
    | st.builds(dict)
    | st.builds(list)
)
VALUE = ADDRESS4 | ADDRESS6 | LIKE_6 | PREFIX6 | LIKE_4 | TRIMMED | NUMBER
GOOD = st.fixed_dictionaries(
    {
        "binding-ipv6info": ADDRESS6 | PREFIX6,
        "binding-ipv4-addr": ADDRESS4,
        "port-set": st.fixed_dictionaries(
            {"psid-len": st.integers(0, 15), "psid": st.integers(0, 65535)},
            optional={"psid-offset": st.integers(0, 16)},
        ),
    },
    optional={"br-ipv6-addr": ADDRESS6},
)
NODES = ("binding-ipv6info", "binding-ipv4-addr", "br-ipv6-addr", "port-set", "psid-len", "psid", "psid-offset", "name")
GONE = "gone"


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    """A good one, and at most two of its nodes otherwise."""
    entry = draw(GOOD)
    for name in draw(st.lists(st.sampled_from(NODES), max_size=2)):
        at = entry.get("port-set") if name.startswith("psid") or (draw(st.booleans()) and name == "name") else entry
        if isinstance(at, dict):
            at[name] = draw(VALUE | st.just(GONE))
            if at[name] == GONE:
                del at[name]
    return entry


# What the module allows and no binding of ours can be: no address, zone indices, prefixes with more bits than their
# length, octets and lengths with leading zeros.
STRICTER = r"is missing|has a zone index|has bits behind the prefix|leading zeros|XX"


@given(entries())
@settings(max_examples=500, deadline=None)
def test_what_our_reader_takes_is_valid(entry: dict[str, Any]) -> None:
    ours, theirs = faults([entry]), yang_model.fault_of(document([entry]))
    if theirs is not None:
        assert ours
    else:
        assert all(re.search(STRICTER, message) for _, message in ours), ours


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_exports_are_valid(tmp_path: Path, count: int) -> None:
    path = tmp_path / "bindings.json"
    binding_files.save(path, any_rows(count, seed=count), Instance(max(count, 1), 1460, 1500))
    assert yang_model.fault_of(json.loads(path.read_text())) is None


def test_yangson_sees_the_frame_and_the_first_entries(tmp_path: Path) -> None:
    path, seen = tmp_path / "bindings.json", []

    def fault_of(document: dict[str, Any]) -> None:
        (instance,) = document[rfc8676.TOP]["binding"]["bind-instance"]
        seen.append((instance["softwire-num-max"], instance["binding-table"]["binding-entry"]))

    binding_files.save(path, any_rows(3000, seed=1), Instance(4000, 1460, 1500))
    with patch.object(yang_model, "fault_of", fault_of):
        assert len(binding_files.load(path, BR).rows) == 3000
    written = json.loads(path.read_text())[rfc8676.TOP]["binding"]["bind-instance"][0]["binding-table"]
    assert seen == [(4000, written["binding-entry"][: rfc8676.SAMPLE])]


def test_what_only_yangson_finds_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "bindings.json"
    path.write_text(json.dumps(document([GOOD_ONE])))
    with patch.object(rfc8676._Entries, "_is_like_the_module", lambda *_: False):
        assert binding_files.load(path, BR).faults == ()
        path.write_text(json.dumps(document([GOOD_ONE | {"psid": 1}])))
        (fault,) = binding_files.load(path, BR).faults
    assert fault.field.endswith("/binding-table/binding-entry=2001:db8::1/psid")
    assert fault.message == "is no node of ietf-softwire-br (RFC 8676)"


def test_the_key_of_a_late_entry_is_compared_with_all_before() -> None:
    many = [GOOD_ONE | {"binding-ipv6info": f"2001:db8::{n:x}"} for n in range(1, 1200)]
    assert faults(many) == []
    assert faults([*many, GOOD_ONE]) == [
        ("binding-ipv6info", "2001:db8::1 is the key of the entry of line 1 too; RFC 8676 has one entry for each")
    ]
