"""The configuration: YAML text in, values or fault lines out."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylwaftr import config
from pylwaftr.config import reader
from pylwaftr.config.values import Endpoint
from tests.config_text import E1, SOFTWIRE, STICK6, V4, entries, faults, text

ROOT = Path(__file__).resolve().parent.parent

VALUES = [  # yaml, where in the model, what
    (text("dataplane: {lcores: [3, 1]}"), "dataplane.lcores", (3, 1)),
    (text("dataplane: {lcores: auto}"), "dataplane.lcores", None),
    (text("icmp: {error_tos: 0xC0}"), "icmp.error_tos", 192),
    (text("icmp: {error_tos: copy}"), "icmp.error_tos", None),
    (text("icmp: {unbound_v4: False}"), "icmp.unbound_v4", False),
    (text(softwire=SOFTWIRE + ", hairpinning: false"), "softwire.hairpinning", "external"),
    (text(softwire=SOFTWIRE + ", hairpinning: drop"), "softwire.hairpinning", "drop"),
    (text(softwire=SOFTWIRE + ", flow_label: zero"), "softwire.flow_label", 0),
    (text(softwire=SOFTWIRE + ", dscp: pipe:46"), "softwire.dscp", 46),
    (text(v4=V4 + ", mac: 02-00-00-00-04-0a"), "interfaces.v4.mac", bytes.fromhex("02000000040a")),
    (text(v4=V4.replace("net_tap0", "81:00.0")), "interfaces.v4.port", "0000:81:00.0"),
    (text("metrics: {listen: null}"), "metrics.listen", None),
    (text("metrics: {listen: '[::1]:80'}"), "metrics.listen", Endpoint("::1", 80)),
    (text("pcp: {server_addresses: [192.0.0.9]}"), "pcp.server_addresses", (IPv4Address("192.0.0.9"),)),
    (text("state: {directory: here}"), "state.directory", Path("here")),
    (text("leasequery: {servers: [{address: a, profile: N, tls: {ca: /dev/null}}]}"), "leasequery.servers.0.port", 67),
]


@pytest.mark.parametrize("yaml, where, value", VALUES)
def test_values(yaml: str, where: str, value: object) -> None:
    at: Any = config.load_text(yaml)
    for name in where.split("."):
        at = at[int(name)] if name.isdigit() else getattr(at, name)
    assert at == value


POOLS = [  # psid_len, exclude_ports, PSIDs that are handed out
    (6, '"0-1023"', [psid for psid in range(1, 64) if psid != 5]),
    (2, "null", [1, 2, 3]),
    (1, '"65535"', []),
    (16, '"0-5349,5352-65535"', []),
    (16, '"0-65533"', [65534, 65535]),
    (4, '"0-1023,40000-50000"', [2, 3, 4, 5, 6, 7, 8, 13, 14, 15]),
]


@pytest.mark.parametrize("length, excluded, psids", POOLS)
def test_pool_leaves_out_excluded_ports_and_those_of_pcp(length: int, excluded: str, psids: list[int]) -> None:
    pool = f"{{ipv4: 203.0.113.0/28, psid_len: {length}, exclude_ports: {excluded}}}"
    if not psids:
        assert "leaves no port set" in faults(text(f"pcp: {{pools: [{pool}]}}"))[0]
        return
    (found,) = config.load_text(text(f"pcp: {{pools: [{pool}]}}")).pcp.pools
    assert list(found.psids()) == psids
    assert found.ipv4 == IPv4Network("203.0.113.0/28")


SETTINGS = [  # yaml, path in the dict for the core, value
    (text(), "tcp_mss", None),
    (text(softwire=SOFTWIRE + ", tcp_mss: auto"), "tcp_mss", 1460),
    (text(softwire=SOFTWIRE + ", tcp_mss: auto, tunnel_payload_mtu: 1400"), "tcp_mss", 1360),
    (text(softwire=SOFTWIRE + ", tcp_mss: auto, encap_limit: 4"), "tcp_mss", 1452),
    (text(v4=V4 + ", mtu: 1400", softwire=SOFTWIRE + ", tcp_mss: auto"), "tcp_mss", 1360),
    (text(softwire=SOFTWIRE + ", tcp_mss: 1200"), "tcp_mss", 1200),
    (text(), "tunnel_payload_mtu", None),
    (text(softwire=SOFTWIRE + ", tunnel_payload_mtu: 1400"), "tunnel_payload_mtu", 1400),
    (text(softwire=SOFTWIRE + ", tunnel_payload_mtu: 1600"), "tunnel_payload_mtu", 1500),
    (text(), "dscp", "copy"),
    (text(softwire=SOFTWIRE + ", dscp: pipe:0"), "dscp", 0),
    (text(), "flow_label", "hash"),
    (text(), "hairpin", "local"),
    (text(), "one_port", False),
    (text(v4=V4 + ", mac: 02:00:00:00:00:01", v6=STICK6), "v6.mac", b"\2\0\0\0\0\1"),
    (text(), "v4.addresses", [(b"\xc0\0\2\1", 24)]),
    (text(), "v4.next_hop", b"\xc0\0\2\xfe"),
    (text(), "v6.mtu", 1540),
    (text(), "icmp.rate_limit", (200, 2, 10)),
    (text("icmp: {incoming_v4_rate: {packets: 7, period_s: 3}}"), "icmp.incoming_v4_rate", (7, 3)),
    (text(), "ipv4_options", {"source_route": True, "record_route": True, "timestamp": True, "router_alert": False}),
    (text(), "pcp", {"enabled": True, "addresses": [b"\xc0\0\0\1"], "rate_limit": (50000, 10)}),
    (text(), "events", {"miss": False, "move": False, "hold_code5_ms": 0}),
    (text("subscribers: {on_new_address: data}"), "events.move", True),
    (text(), "subscriber_mask", 56),
    (text(), "reassembly", {"max_packets": 20000, "timeout_s": 60, "max_fragments": 64}),
]


@pytest.mark.parametrize("yaml, where, value", SETTINGS)
def test_core_settings(yaml: str, where: str, value: object) -> None:
    at: Any = config.core_settings(config.load_text(yaml))
    for name in where.split("."):
        at = at[name]
    assert at == value


def test_binding_rows_are_those_of_the_entries() -> None:
    first = 'ipv4: 203.0.113.1, psid_offset: 6, psid_len: 8, psid: 52, b4_ipv6: "2001:db8:1:100::/56"'
    whole = 'ipv4: 203.0.113.2, psid_offset: 6, b4_ipv6: "2001:db8:2::2", br_ipv6: "2001:db8:aa::2"'
    two = 'br_addresses: ["2001:db8:aa::1", "2001:db8:aa::2"]'
    rows = config.binding_rows(config.load_text(text(entries(first, whole), softwire=two)))
    assert rows[["ipv4", "psid_offset", "psid_len", "psid"]].tolist() == [
        (int(IPv4Address("203.0.113.1")), 6, 8, 52),
        (int(IPv4Address("203.0.113.2")), 0, 0, 0),
    ]
    assert [str(IPv6Address(b4.tobytes())) for b4 in rows["b4"]] == ["2001:db8:1:100:0:cb00:7101:34", "2001:db8:2::2"]
    assert [str(IPv6Address(br.tobytes())) for br in rows["br"]] == ["2001:db8:aa::1", "2001:db8:aa::2"]


FILES = [  # name, content, the fault after the name
    ("bad.yaml", b"a: \xff", "1: file: octet 0xff is not UTF-8; save the file as UTF-8"),
    ("bad.yaml", b"a: 1\nb: \xc3", "2: file: octet 0xc3 is not UTF-8; save the file as UTF-8"),
    ("utf16.yaml", "a: 1".encode("utf-16"), "1: file: octet 0xff is not UTF-8; save the file as UTF-8"),
    ("nul.yaml", b"a: \0", "1: yaml: "),
    ("missing.yaml", None, "1: file: cannot be read: No such file or directory"),
    (".", None, "1: file: cannot be read: Is a directory"),
    ("\0", None, "1: file: cannot be read: embedded null byte"),
]


@pytest.mark.parametrize("name, content, line", FILES)
def test_files_that_are_none(tmp_path: Path, name: str, content: bytes | None, line: str) -> None:
    path = f"{tmp_path}/{name}"
    if content is not None:
        Path(path).write_bytes(content)
    with pytest.raises(config.ConfigFaults) as caught:
        config.load(path)
    shown = path.replace("\0", "\\x00")
    assert str(caught.value).startswith(f"{shown}:{line}")


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + text().encode())
    assert config.load(path).warnings == ()


def load_any(yaml: str) -> None:
    found: tuple[config.Fault, ...] | None = None
    try:
        config.load_text(yaml)
    except config.ConfigFaults as faulty:
        found = faulty.faults
    if found is not None:
        assert any(not fault.warning for fault in found)
        assert all(re.fullmatch(r"config:[1-9]\d*: \S[^\n]*: \S[^\n]*", str(fault)) for fault in found)


EXAMPLE = (ROOT / "configs/example.yaml").read_text()
SCALARS = ["", "null", "~", "0", "-1", "9" * 23, "1e9", "::", '"::1"', "1:20", "true", "[]", "{}", "[[]]", "{a: b}"]
SCALARS += ["&x 1", "*x", "!!int 3", "'", '"', "|", "\u2028", "\x85", "\ufeff", "é", "0/0", "::/0", "-", ".inf"]


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_text_raises_anything_but_config_faults(yaml: str) -> None:
    load_any(yaml)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_change_of_the_example_raises_anything_but_config_faults(data: st.DataObject) -> None:
    lines = EXAMPLE.splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        key, colon, value = lines[at].partition(":")
        new = data.draw(st.sampled_from(SCALARS) | st.text(max_size=12))
        ways = [f"{key}{colon} {new}", f"{new}{colon}{value}", new, f"{lines[at]}{new}"]
        lines[at] = data.draw(st.sampled_from(ways))
    load_any("\n".join(lines))


def test_load_is_the_same_for_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text(entries(E1)))
    assert config.load(path) == config.load_text(text(entries(E1)), folder=tmp_path)


# --- what is written about the configuration keeps up with it ---------------------------------------------------------

OPTIONAL = """\
icmp: {incoming_v4_rate: {packets: 1}}
leasequery: {servers: [{address: "2001:db8:53::1", tls: {ca: /dev/null}}]}
api: {tls: {ca: /dev/null, cert: /dev/null, key: /dev/null}}
fleet: {etcd: {endpoints: [a:1], tls: {ca: /dev/null}}}
pcp: {pools: [{ipv4: 203.0.113.0/28}]}
history: {syslog: {server: "192.0.2.20:514"}}
"""
# Sections that are documented by their keys.
ONLY_SECTIONS = {
    "dataplane",
    "interfaces",
    "interfaces.v4",
    "interfaces.v6",
    "softwire",
    "softwire.reassembly",
    "softwire.ipv4_options",
    "icmp",
    "icmp.rate_limit",
    "bindings",
    "subscribers",
    "pcp",
    "pcp.lifetime",
    "pcp.rate_limit",
    "pcp.third_party",
    "leasequery",
    "api",
    "metrics",
    "state",
    "history",
    "fleet.etcd",
    "logging",
}


def schema_keys(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    asked: set[str] = set()
    get = reader.Section.get

    def recorded(self: reader.Section, key: str, kind: Any, default: Any) -> Any:
        asked.add(re.sub(r"\[\d+\]", "[]", self.at(key)))
        return get(self, key, kind, default)

    monkeypatch.setattr(reader.Section, "get", recorded)
    config.load_text(text(entries(E1) + OPTIONAL))
    return asked - ONLY_SECTIONS


def test_every_key_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    document = (ROOT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| (live|restart) \| ([^|]+) \|$", document, re.MULTILINE)
    keys = [row[0] for row in rows]
    assert len(keys) == len(set(keys))
    assert set(keys) == schema_keys(monkeypatch)


def test_the_example_shows_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in schema_keys(monkeypatch):
        assert re.search(rf"\b{key.split('.')[-1]}:", EXAMPLE), key


def test_the_example_has_the_defaults() -> None:
    """Everything but what is required, and what is marked as an example."""
    example, defaults = config.load(ROOT / "configs/example.yaml"), config.load(ROOT / "configs/minimal.yaml")
    for name in [
        "dataplane",
        "interfaces",
        "softwire",
        "icmp",
        "subscribers",
        "leasequery",
        "api",
        "metrics",
        "state",
        "history",
    ]:
        assert getattr(example, name) == getattr(defaults, name)
    assert example.fleet is None
    assert example.logging == defaults.logging
    assert len(example.pcp.pools) == 1


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_configurations_that_come_with_it_are_valid(path: Path) -> None:
    assert config.load(path).warnings == ()
