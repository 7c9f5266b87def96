"""Files of bindings: text or octets in, rows or fault lines out."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylwaftr import binding_files, config
from pylwaftr.binding_files import Instance, Unusable, columns, csv_table, json_tables, rfc8676, snapshot
from pylwaftr.rows import BINDING_ROW, Rows, text4, text6
from tests.config_text import E1, entries, text

BR = IPv6Address("2001:db8:aa::1").packed
HEADER = "ipv4,psid_offset,psid_len,psid,b4_ipv6,br_ipv6\n"
Row = tuple[str, int, int, int, str, str]


def shown(rows: Rows) -> list[Row]:
    numbers = rows[["ipv4", "psid_offset", "psid_len", "psid"]].tolist()
    tunnels = [(text6(row["b4"].tobytes()), text6(row["br"].tobytes())) for row in rows]
    return [(text4(ipv4), a, k, psid, *ends) for (ipv4, a, k, psid), ends in zip(numbers, tunnels, strict=True)]


SHARED: Row = ("203.0.113.1", 0, 6, 3, "2001:db8::3", "2001:db8:aa::1")
WHOLE: Row = ("203.0.113.9", 0, 0, 0, "2001:db8::9", "2001:db8:aa::1")

CSV = [  # what, text, rows, faults (line, field, beginning of the message)
    ("all columns", HEADER + "203.0.113.1,0,6,3,2001:db8::3,2001:db8:aa::1\n", [SHARED], []),
    ("no line end", HEADER + "203.0.113.1,0,6,3,2001:db8::3,2001:db8:aa::1", [SHARED], []),
    ("DOS line ends", (HEADER + "203.0.113.1,0,6,3,2001:db8::3,\n").replace("\n", "\r\n"), [SHARED], []),
    ("a byte order mark", "\ufeff" + HEADER + "203.0.113.1,0,6,3,2001:db8::3,\n", [SHARED], []),
    ("two columns", "b4_ipv6,ipv4\n2001:db8::9,203.0.113.9\n", [WHOLE], []),
    ("empty fields", HEADER + "203.0.113.9,,,,2001:db8::9,\n203.0.113.1,,6,3,2001:db8::3,\n", [WHOLE, SHARED], []),
    ("blanks", HEADER + " 203.0.113.1 , 0,6 , 3,\t2001:db8::3, \n\n  \n", [SHARED], []),
    ("quotes", HEADER + '"203.0.113.1","0",6,3,"2001:db8::3",""\n', [SHARED], []),
    ("hexadecimal", HEADER + "203.0.113.1,0,6,0x03,2001:DB8:0::3,\n", [SHARED], []),
    ("a prefix", HEADER + "203.0.113.1,0,6,3,2001:db8:1:100::/56,\n",
     [("203.0.113.1", 0, 6, 3, "2001:db8:1:100:0:cb00:7101:3", "2001:db8:aa::1")], []),
    ("dotted IPv6", HEADER + "203.0.113.1,0,6,3,2001:db8::0.0.0.3,::1.2.3.4\n",
     [("203.0.113.1", 0, 6, 3, "2001:db8::3", "::102:304")], []),
    ("an offset of a whole address", HEADER + "203.0.113.9,6,0,52,2001:db8::9,\n", [WHOLE], []),
    ("only a header", HEADER, [], []),
    ("the order is kept", HEADER + "203.0.113.9,,,,2001:db8::9,\n203.0.113.1,0,6,3,2001:db8::3,\n"
     "203.0.113.9,,,,2001:db8::9,\n", [WHOLE, SHARED, WHOLE], []),
    ("a bad address", HEADER + "203.0.113.256,0,6,3,2001:db8::3,\n203.0.113.9,,,,2001:db8::9,\n", [WHOLE],
     [(2, "ipv4", "'203.0.113.256' is not an IPv4 address")]),
    ("a leading zero", HEADER + "203.0.113.01,0,6,3,2001:db8::3,\n", [], [(2, "ipv4", "'203.0.113.01' is not")]),
    ("two bad fields", HEADER + "x,0,6,3,y,\n", [], [(2, "ipv4", "'x' is not"), (2, "b4_ipv6", "'y' is not")]),
    ("a missing field", HEADER + ",0,6,3,2001:db8::3,\n", [], [(2, "ipv4", "is missing")]),
    ("too few fields", HEADER + "\n1.2.3.4,0\n", [], [(3, "line", "has 2 fields, the first line names 6")]),
    ("too many fields", HEADER + "1.2.3.4,0,6,3,2001:db8::3,,\n", [], [(2, "line", "has 7 fields")]),
    ("a comma in quotes", HEADER + '"1,2",0,6,3,2001:db8::3,\n', [], [(2, "ipv4", "'1;2' is not")]),
    ("a line end in quotes", HEADER + '"1\n2",0,6,3,2001:db8::3,\n203.0.113.9,,,,2001:db8::9,\nx,,,,::1,\n', [WHOLE],
     [(2, "ipv4", "'1;2' is not"), (5, "ipv4", "'x' is not")]),
    ("k = 17", HEADER + "203.0.113.1,0,17,3,2001:db8::3,\n", [], [(2, "psid_len", "is 17; the range is 0 to 16")]),
    ("PSID 65536", HEADER + "203.0.113.1,0,6,65536,2001:db8::3,\n", [], [(2, "psid", "is 65536; the range is 0 to")]),
    ("a negative PSID", HEADER + "203.0.113.1,0,6,-1,2001:db8::3,\n", [], [(2, "psid", "is '-1'; write a whole")]),
    ("no PSID", HEADER + "203.0.113.1,0,6,,2001:db8::3,\n", [], [(2, "psid", "is missing; psid_len 6 needs")]),
    ("no PSID column", "ipv4,psid_len,b4_ipv6\n203.0.113.1,6,2001:db8::3\n", [], [(2, "psid", "is missing")]),
    ("no length", HEADER + "203.0.113.1,,,3,2001:db8::3,\n", [], [(2, "psid_len", "is missing, but there is a psid")]),
    ("no length column", "ipv4,psid,b4_ipv6\n203.0.113.1,3,2001:db8::3\n", [], [(2, "psid_len", "is missing")]),
    ("host bits", HEADER + "203.0.113.1,0,6,3,2001:db8::3/64,\n", [], [(2, "b4_ipv6", "'2001:db8::3/64' has bits")]),
    ("a BR prefix", HEADER + "203.0.113.1,0,6,3,2001:db8::3,2001:db8::/64\n", [],
     [(2, "br_ipv6", "'2001:db8::/64' is")]),
    ("a long field", HEADER + f"203.0.113.1,0,6,3,{'1' * 99},\n", [], [(2, "b4_ipv6", "'1111")]),
    ("letters of elsewhere", HEADER + "203.0.113.\u0661,0,6,3,2001:db8::3,\n", [], [(2, "ipv4", "'203.0.113.")]),
    ("an unknown column", "ipv4,b4_ipv6,psd\n203.0.113.9,2001:db8::9,\n", [WHOLE],
     [(1, "psd", "is not a field of a bind")]),
]  # fmt: skip


@pytest.mark.parametrize("what, content, rows, faults", CSV, ids=[row[0] for row in CSV])
def test_csv(what: str, content: str, rows: list[Row], faults: list[tuple[int, str, str]]) -> None:
    loaded = csv_table.read(content.encode(), BR)
    assert shown(loaded.rows) == rows
    assert [(fault.line, fault.field) for fault in loaded.faults] == [fault[:2] for fault in faults]
    assert all(found.message.startswith(fault[2]) for found, fault in zip(loaded.faults, faults, strict=True))


def test_lines_of_csv_rows() -> None:
    content = HEADER + "\n203.0.113.9,,,,2001:db8::9,\nx,,,,::1,\n203.0.113.1,0,6,3,2001:db8::3,\n"
    assert csv_table.read(content.encode(), BR).lines.tolist() == [3, 5]


def as_json(row: Row, **changes: object) -> str:
    names = ("ipv4", "psid_offset", "psid_len", "psid", "b4_ipv6", "br_ipv6")
    return json.dumps({**dict(zip(names, row, strict=True)), **changes})


JSONL = [
    ("all fields", as_json(SHARED), [SHARED], []),
    ("the least", '\n{"ipv4": "203.0.113.9", "b4_ipv6": "2001:db8::9"}\r\n\n', [WHOLE], []),
    ("nulls", as_json(WHOLE, psid_offset=None, psid_len=None, psid=None, br_ipv6=None), [WHOLE], []),
    ("a number as text", as_json(SHARED, psid="3"), [], [(1, "psid", "is '3'; write a whole number")]),
    ("a truth value", as_json(SHARED, psid_len=True), [], [(1, "psid_len", "is True; write a whole number")]),
    ("a fraction", as_json(SHARED, psid=3.0), [], [(1, "psid", "is 3.0; write a whole number")]),
    ("a huge number", as_json(SHARED, psid=10**30), [], [(1, "psid", "is 1000000000000000000000")]),
    ("a number as address", as_json(SHARED, ipv4=5), [], [(1, "ipv4", "is 5; write an address as a string")]),
    ("a NUL", as_json(SHARED, ipv4="203.0.113.1\0"), [], [(1, "ipv4", "'203.0.113.1\\x00' is not")]),
    ("an unknown field", as_json(SHARED, psi=1), [], [(1, "psi", "is not a field of a binding; did you mean psid?")]),
    ("a list", "[]", [], [(1, "line", "is not a JSON object")]),
    ("no JSON", "\n{", [], [(2, "line", "is not JSON: Expecting property name")]),
    ("deep", "[" * 100_000, [], [(1, "line", "is not JSON: nested too deeply")]),
    ("more digits than Python takes", '{"psid": ' + "9" * 5000 + "}", [], [(1, "line", "is not JSON")]),
]


@pytest.mark.parametrize("what, content, rows, faults", JSONL, ids=[row[0] for row in JSONL])
def test_jsonl(what: str, content: str, rows: list[Row], faults: list[tuple[int, str, str]]) -> None:
    loaded = json_tables.read_jsonl(content.encode(), BR)
    assert shown(loaded.rows) == rows
    assert [(fault.line, fault.field) for fault in loaded.faults] == [fault[:2] for fault in faults]
    assert all(found.message.startswith(fault[2]) for found, fault in zip(loaded.faults, faults, strict=True))


FRAME = '"name": "a", "softwire-num-max": 9, "softwire-payload-mtu": 1460, "softwire-path-mru": 1500'


def instance(entry: str, around: str = FRAME) -> str:
    table = f'"binding-table": {{"binding-entry": [{entry}]}}'
    return f'{{"ietf-softwire-br:br-instances":\n{{"binding": {{"bind-instance": [{{{around},\n{table}}}]}}}}}}'


PORT_SET = '"port-set": {"psid-len": 6, "psid": 3}'
LEAVES = f'{{"binding-ipv6info": "2001:db8::3", "binding-ipv4-addr": "203.0.113.1", {PORT_SET}'
INSTANCE = "/ietf-softwire-br:br-instances/binding/bind-instance"
RFC8676 = [
    ("appendix A.1", instance(LEAVES + ', "br-ipv6-addr": "2001:db8:aa::1"}'), [SHARED], []),
    ("without BR", instance(LEAVES + "}"), [SHARED], []),
    ("a prefix", instance(LEAVES.replace("::3", "::/56") + "}"),
     [(*SHARED[:4], "2001:db8::cb00:7101:3", "2001:db8:aa::1")], []),
    ("none", instance(""), [], []),
    ("no table", '{"ietf-softwire-br:br-instances": {"binding": {"bind-instance": [{' + FRAME + "}]}}}", [], []),
    ("no address", instance('\n{"binding-ipv6info": "::1", ' + PORT_SET + "}"), [],
     [(4, "binding-ipv4-addr", "is missing")]),
    ("no port set", instance(LEAVES.replace(PORT_SET, '"x": 1') + "}"), [], [(3, "port-set", "is missing; psid-len")]),
    ("a bad port set", instance(LEAVES.replace(PORT_SET, '"port-set": 1') + "}"), [], [(3, "port-set", "is not a JS")]),
    ("an empty port set", instance(LEAVES.replace(PORT_SET, '"port-set": {}') + "}"), [],
     [(3, "psid-len", "is missing; write"), (3, "psid", "is missing; write")]),
    ("k = 16", instance(LEAVES.replace('len": 6', 'len": 16') + "}"), [], [(3, "psid-len", "is 16; RFC 8676 ends")]),
    ("an unknown leaf", instance(LEAVES + ',\n"psid": 3}'), [], [(3, "psid", "is no node there; RFC 8676 has")]),
    ("a null", instance(LEAVES + ', "br-ipv6-addr": null}'), [], [(3, "br-ipv6-addr", "is null; leave it out")]),
    ("one B4 twice", instance(LEAVES + "},\n" + LEAVES + "}"), [SHARED, SHARED],
     [(4, "binding-ipv6info", "2001:db8::3 is the key of the entry of line 3 too")]),
    ("no mandatory leaf", instance(LEAVES + "}", '"name": "a"'), [SHARED],
     [(2, f"{INSTANCE}[name=\"a\"]", "missing-data: expected ")]),
    ("a range", instance("", FRAME.replace(": 9", ":\n0")), [],
     [(2, f"{INSTANCE}[name=\"a\"]/softwire-num-max", "invalid-type: not in range")]),
    ("a number as text", instance("", FRAME.replace("1500", '\n"1500"')), [],
     [(2, f"{INSTANCE}=a/softwire-path-mru", "expected uint16 value")]),
    ("an unknown node", instance("", FRAME + ',\n"softwire-mtu": 5'), [],
     [(3, f"{INSTANCE}=a/softwire-mtu", "is no node of ietf-softwire-br")]),
    ("with state", instance("", FRAME + ', "traffic-stat": {"discontinuity-time": "2026-11-22T00:00:00Z"}'), [], []),
    ("no object", instance("1"), [], [(3, "binding-entry", "is not a JSON object")]),
]  # fmt: skip


@pytest.mark.parametrize("what, content, rows, faults", RFC8676, ids=[row[0] for row in RFC8676])
def test_rfc8676(what: str, content: str, rows: list[Row], faults: list[tuple[int, str, str]]) -> None:
    loaded = rfc8676.read(content.encode(), BR)
    assert shown(loaded.rows) == rows
    assert [(fault.line, fault.field) for fault in loaded.faults] == [fault[:2] for fault in faults]
    assert all(found.message.startswith(fault[2]) for found, fault in zip(loaded.faults, faults, strict=True))


SNAPSHOT = snapshot.write(np.zeros(3, BINDING_ROW))
UNUSABLE = [  # name of the file, octets, the fault
    ("a.csv", b"", "begins with an empty line"),
    ("a.csv", b"ipv4,psid\n", "the first line has no column b4_ipv6"),
    ("a.csv", b"ipv4,ipv4,b4_ipv6\n", "the first line names the column ipv4 twice"),
    ("a.csv", b"ipv4,b4_ipv6\n\0\n", "has octets of value 0"),
    ("a.csv", b'ipv4,b4_ipv6\n"' + b"x" * 200_000, "is not CSV: field larger than"),
    ("a.jsonl", b"\xff", "is not UTF-8 text"),
    ("a.json", b"", "is not JSON: Expecting value"),
    ("a.json", b"{}", "has no ietf-softwire-br:br-instances"),
    ("a.json", instance("", '"a": 1}, {"b": 2').encode(), "has not exactly one"),
    ("a.json", b'{"binding-entry": []}', "has no ietf-softwire-br:br-instances"),
    ("a.json", instance("{},").encode()[:-9], "is not JSON"),
    ("a.json", instance("{} {}").encode(), "is not JSON: a comma or ] is missing"),
    ("a.json", instance(LEAVES + "},\n").encode(), "is not JSON: a comma before the ]"),
    ("a.json", instance("{").encode(), "is not JSON"),
    ("a.json", instance("", '"x": {"binding-entry": []}').encode(), "has more than one list"),
    (
        "a.json",
        instance("").replace('"binding-entry', '"ietf-softwire-br:binding-entry').encode(),
        "only the outermost",
    ),
    ("a.txt", b"", "its name does not tell another format"),
    ("a", SNAPSHOT[:31], "is not a snapshot of bindings, or only its beginning"),
    ("a", SNAPSHOT[:-1], "should hold 3 rows"),
    ("a", SNAPSHOT + b"x", "should hold 3 rows"),
    ("a", SNAPSHOT[:8] + b"\2" + SNAPSHOT[9:], "the header of the snapshot is damaged"),
    ("a", SNAPSHOT[:-1] + b"\1", "the rows of the snapshot are damaged"),
]


@pytest.mark.parametrize("name, octets, message", UNUSABLE)
def test_unusable_files(tmp_path: Path, name: str, octets: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(octets)
    with pytest.raises(Unusable) as caught:
        binding_files.load(path, BR)
    assert message in str(caught.value)


def any_rows(count: int, seed: int) -> Rows:
    random = np.random.default_rng(seed)
    rows = np.zeros(count, BINDING_ROW)
    rows["ipv4"] = random.integers(0, 2**32, count)
    rows["psid_len"] = random.integers(0, 16, count)
    rows["psid_offset"] = np.where(rows["psid_len"] > 0, random.integers(0, 17, count), 0)
    rows["psid"] = np.where(rows["psid_len"] > 0, random.integers(0, 2**16, count), 0)
    # Many zeros, so that every form of :: comes up.
    rows["b4"] = random.integers(0, 256, (count, 16)) * random.integers(0, 2, (count, 16))
    rows["br"] = random.integers(0, 3, (count, 16))
    rows["b4"][:, :4] = np.arange(count).astype(">u4").view(np.uint8).reshape(-1, 4)  # RFC 8676 wants them different
    return rows


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".snapshot"])
def test_what_is_saved_is_loaded(tmp_path: Path, suffix: str) -> None:
    path, rows = tmp_path / f"bindings{suffix}", any_rows(70_000, seed=1)  # more than one chunk
    binding_files.save(path, rows, Instance(70_000, 1500, 1540))
    loaded = binding_files.load(path, BR)
    assert (loaded.rows == rows).all()
    assert loaded.faults == ()
    assert (np.diff(loaded.lines) == 1).all()
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path, rows = tmp_path / "bindings.json", any_rows(2, seed=1)
    path.write_text("old")
    rows["psid_len"] = 16
    with pytest.raises(ValueError, match="RFC 8676 ends at psid-len 15"):
        binding_files.save(path, rows, Instance(1, 1500, 1540))
    rows["psid_len"], rows["b4"] = 6, 1
    with pytest.raises(ValueError, match="one entry for each B4 address"):
        binding_files.save(path, rows, Instance(1, 1500, 1540))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


READERS = [csv_table.read, json_tables.read_jsonl, rfc8676.read]
WHOLE_FILES = [CSV[0][1].encode() * 2, as_json(SHARED).encode() * 2, instance(LEAVES + "}").encode()]


@pytest.mark.parametrize("reader, content", list(zip(READERS, WHOLE_FILES, strict=True)))
def test_truncated_files_are_faults_and_no_failures(reader: object, content: bytes) -> None:
    assert callable(reader)
    for end in range(len(content)):
        try:
            loaded = reader(content[:end], BR)
        except Unusable:
            continue
        assert len(loaded.rows) <= 2


@given(st.binary(max_size=120), st.sampled_from([b"", HEADER.encode(), b'{"binding-entry": [', b'{"ipv4": "']))
@settings(max_examples=300)
def test_no_octets_make_a_reader_fail(octets: bytes, begin: bytes) -> None:
    for reader in READERS:
        try:
            reader(begin + octets, BR)
        except Unusable as fault:
            assert fault.line >= 1  # noqa: PT017
    with suppress(Unusable):
        snapshot.read(snapshot.MAGIC + octets)


# --- the column parsers against ipaddress -----------------------------------------------------------------------------

LIKE_IPV6 = st.text("01af:/", max_size=24) | st.lists(st.sampled_from(["", "0", "1f", "ABCD", "12345", "0001"])).map(
    ":".join
)
PREFIXED = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 140)).map(lambda t: f"{IPv6Address(t[0])}/{t[1]}")


@given(st.lists(LIKE_IPV6 | PREFIXED | st.ip_addresses(v=6).map(str), min_size=1, max_size=50))
@settings(max_examples=400)
def test_ipv6_columns_are_read_as_ipaddress_reads_them(texts: list[str]) -> None:
    octets, lengths, taken = columns.parse_ipv6(columns.from_texts(texts))
    for index, item in enumerate(texts):
        address, slash, length = item.partition("/")
        good = not slash or (length.isdecimal() and int(length) <= 128 and str(int(length)) == length)
        try:
            wanted = IPv6Address(address).packed if good else None
        except AddressValueError:
            wanted = None
        assert taken[index] == (wanted is not None), item
        if wanted is not None:
            assert octets[index].tobytes() == wanted
            assert lengths[index] == (int(length) if slash else -1)


@given(st.lists(st.text("0129.", max_size=16) | st.ip_addresses(v=4).map(str), min_size=1, max_size=50))
@settings(max_examples=300)
def test_ipv4_columns_are_read_as_ipaddress_reads_them(texts: list[str]) -> None:
    found, taken = columns.parse_ipv4(columns.from_texts(texts))
    for index, item in enumerate(texts):
        try:
            wanted = int(IPv4Address(item))
        except AddressValueError:
            wanted = None
        assert (int(found[index]) if taken[index] else None) == wanted


# --- as part of a configuration ---------------------------------------------------------------------------------------


def faults_with(folder: Path, content: str, more: str = "", name: str = "t.csv") -> list[str]:
    (folder / name).write_text(content)
    yaml = text("bindings:\n  entries:\n" + more + f"  file: {name}")
    try:
        found = config.load_text(yaml, "f", folder).warnings
    except config.ConfigFaults as faulty:
        found = faulty.faults
    return [str(fault).replace(f"{folder}/", "") for fault in found]


IN_A_CONFIGURATION = [  # what, lines of the csv file, faults
    ("sound", ["203.0.113.2,0,6,1,2001:db8:2::1,"], []),
    ("the set of an entry", ["203.0.113.1,0,6,1,2001:db8:2::1,"],
     ["t.csv:2: psid: 203.0.113.1 PSID 1/6 is bound already at f:7; remove one"]),
    ("the subscriber of an entry", ["203.0.113.2,0,6,1,2001:db8:1::2,"],
     ["t.csv:2: b4_ipv6: 2001:db8:1::2 is one softwire too many for the subscriber 2001:db8:1::/56: "
      "subscribers.max_softwires is 1, and f:7 came first"]),
    ("a set twice in the file", ["203.0.113.2,0,6,1,2001:db8:2::1,"] * 2,
     ["t.csv:3: psid: 203.0.113.2 PSID 1/6 is bound already at t.csv:2; remove one"]),
    ("a bad row and an overlap", ["x,,,,2001:db8:2::1,", "203.0.113.1,0,7,8,2001:db8:2::1,"],
     ["t.csv:2: ipv4: 'x' is not an IPv4 address (Expected 4 octets in 'x')",
      "t.csv:3: psid_len: 203.0.113.1 PSID 8/7: f:7 has psid_offset 0 and psid_len 6; "
      "all bindings of an address have the same, or their ports overlap"]),
    ("an unlisted BR", ["203.0.113.2,0,6,1,2001:db8:2::1,2001:db8::5"],
     ["t.csv:2: br_ipv6: 2001:db8::5 is not in softwire.br_addresses; add it there or use one of them"]),
    ("system ports", ["203.0.113.2,0,6,0,2001:db8:2::1,"],
     ["t.csv:2: psid: warning: 203.0.113.2 PSID 0/6 holds system ports (0 to 1023), which a shared address should keep "
      "back"]),
]  # fmt: skip


@pytest.mark.parametrize("what, lines, faults", IN_A_CONFIGURATION, ids=[row[0] for row in IN_A_CONFIGURATION])
def test_in_a_configuration(tmp_path: Path, what: str, lines: list[str], faults: list[str]) -> None:
    more = entries(E1).removeprefix("bindings:\n  entries:\n")
    assert faults_with(tmp_path, HEADER + "\n".join(lines), more) == faults


def test_the_rows_of_a_configuration_are_entries_then_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ipv4,b4_ipv6\n203.0.113.9,2001:db8:9::9\n")
    loaded = config.load_text(text(entries(E1) + "  file: t.csv"), folder=tmp_path)
    assert [text4(int(ipv4)) for ipv4 in config.binding_rows(loaded)["ipv4"]] == ["203.0.113.1", "203.0.113.9"]
    assert text6(config.binding_rows(loaded)["br"][1].tobytes()) == "2001:db8:aa::1"


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigFaults) as caught:
        config.load_text(text("bindings: {file: no.csv}"), "f", tmp_path)
    assert str(caught.value) == f"f:5: bindings.file: {tmp_path}/no.csv cannot be read: No such file or directory"


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    lines = faults_with(tmp_path, HEADER + "x,,,,2001:db8:2::1,\n" * 250)
    assert len(lines) == 101
    assert lines[0] == "f:7: bindings.file: t.csv has 150 more faults that are not shown"
    lines = faults_with(tmp_path, HEADER + "203.0.113.2,0,6,1,2001:db8:2::1,\n" * 251)
    assert len(lines) == 101
    assert lines[0] == "f:5: bindings: 150 more faults of rows are not shown"
