"""What is wrong with a configuration: YAML text in, fault lines out."""

from __future__ import annotations

import json

import pytest

from tests.config_text import E1, E2, NO_HOP, SOFTWIRE, STICK6, V4, V6, entries, faults, text

JSON = json.dumps(
    {
        "interfaces": {
            "v4": {"port": "0000:81:00.0", "addresses": ["192.0.2.1/24"], "next_hop": "192.0.2.2"},
            "v6": {"port": "81:00.1", "addresses": ["2001:db8::1/64"], "next_hop": "fe80::1"},
        },
        "softwire": {"br_addresses": ["2001:db8::1"]},
    }
)

FAULTS = [  # what is wrong, the text, the beginning of each line that is printed
    # keys and structure
    ("nothing at all", "", ["1: interfaces.v4.addresses: is required", "1: interfaces.v4.next_hop: there is nowhere"]),
    ("a list", "[1]", ["1: file: is a list; write a mapping"]),
    ("a word", "hello", ["1: file: is 'hello'; write a mapping"]),
    ("an unknown key", text("loging: {}"), ["5: loging: is not a key of the configuration; did you mean logging?"]),
    ("an unknown key of no likeness", text("api: {qqq: 1}"),
     ["5: api.qqq: is not a key of the configuration; the keys"]),
    ("a key twice", text("icmp: {}\npcp: {}\nicmp: {}"), ["7: icmp: given twice; the first is on line 5"]),
    ("an empty key", text('"": 1'), ["5: '': is not a key"]),
    ("a line end in a key", text('"a\\n\\e[1m": 1'), ["5: a\\n\\x1b[1m: is not a key"]),
    ("a key that is no text", text("[1]: 2"), ["5: file: a list cannot be a key"]),
    ("a section that is a list", text("icmp: [1]"), ["5: icmp: is a list; write a mapping"]),
    ("a tab", text("a:\n\tb: 1"),
     ["6: yaml: while scanning for the next token, found character that cannot start any"]),
    ("an open bracket", "a: [", ["1: yaml: while parsing a flow node"]),
    ("two documents", "a: 1\n---\nb: 1", ["2: yaml: a second YAML document"]),
    ("a tag", "a: !!python/object:os.system 1",
     ["1: yaml: the tag tag:yaml.org,2002:python/object:os.system is not used"]),
    ("an alias to itself", "a: &x [*x]", ["1: yaml: alias *x: no complete node before it"]),
    ("an alias to nothing", "a: *y", ["1: yaml: alias *y: no complete node before it"]),
    ("too deep", "[" * 100 + "]" * 100, ["1: yaml: nested deeper than 24 levels"]),
    ("much too deep", "[" * 100_000, ["1: yaml: nested deeper than 24 levels"]),
    ("a control character", "a: \x01", ["1: yaml: "]),
    ("an unquoted colon", "a: ::",
     ["1: yaml: mapping values are not allowed in this context; a value that begins or ends"]),
    # types
    ("yes", text("icmp: {unbound_v4: yes}"), ["5: icmp.unbound_v4: is 'yes'; write true or false (yes and no"]),
    ("a quoted true", text('icmp: {unbound_v4: "true"}'),
     ["5: icmp.unbound_v4: is the string 'true'; write true or fals"]),
    ("null for a truth value", text("icmp: {unbound_v4: }"),
     ["5: icmp.unbound_v4: is nothing (null); write true or false"]),
    ("octal", text("dataplane: {max_bindings: 010}"), ["5: dataplane.max_bindings: is '010'; a leading zero is octal"]),
    ("sexagesimal", text("dataplane: {max_bindings: 1:20}"), ["5: dataplane.max_bindings: is '1:20'; write a whole"]),
    ("a fraction", text("dataplane: {max_bindings: 1.0}"),
     ["5: dataplane.max_bindings: is '1.0'; write a whole number"]),
    ("a quoted number", text('dataplane: {max_bindings: "1"}'),
     ["5: dataplane.max_bindings: is the string '1'; write a w"]),
    ("a huge number", text(f"dataplane: {{max_bindings: {'9' * 5000}}}"),
     ["5: dataplane.max_bindings: is 999999999999"]),
    ("below the range", text("subscribers: {mask: 0}"), ["5: subscribers.mask: is 0; the range is 1 to 128"]),
    ("another word", text("logging: {level: inf}"),
     ["5: logging.level: is 'inf'; write debug, info, warning or error (di"]),
    ("a number for a list", text("pcp: {pools: 5}"), ["5: pcp.pools: is '5'; write a list"]),
    ("a list for a string", text("state: {directory: [a]}"), ["5: state.directory: is a list; write a string"]),
    # dataplane
    ("a core twice", text("dataplane: {lcores: [1, 2, 1]}"), ["5: dataplane.lcores[2]: core 1 is given twice"]),
    ("descriptors", text("dataplane: {rx_descriptors: 1000}"),
     ["5: dataplane.rx_descriptors: is 1000; write a power of two"]),
    ("too many descriptors", text("dataplane: {rx_descriptors: 32768}"),
     ["5: dataplane.rx_descriptors: is 32768; the range is 64 to 16384"]),
    ("no core", text("dataplane: {lcores: []}"), ["5: dataplane.lcores: is empty; give at least one"]),
    ("cores as a word", text("dataplane: {lcores: all}"),
     ["5: dataplane.lcores: is 'all'; write auto or a list of core"]),
    # interfaces
    ("a kernel interface", text(v4=V4.replace("net_tap0", "eth1")), ["2: interfaces.v4.port: 'eth1' is neither a PCI"]),
    ("no port", text(v4=V4.replace("port: net_tap0,", "")), ["2: interfaces.v4.port: is required; give a PCI address"]),
    ("no prefix length", text(v4=V4.replace("/24", "")),
     ["2: interfaces.v4.addresses[0]: '192.0.2.1' has no prefix le"]),
    ("a network address", text(v4=V4.replace(".1/", ".0/")),
     ["2: interfaces.v4.addresses[0]: 192.0.2.0/24 is the netw"]),
    ("no address", text(v4=V4.replace("192.0.2.1/24", "")),
     ["2: interfaces.v4.addresses: is empty; give at least one"]),
    ("an own address twice", text(v4=V4.replace("1/24", "1/24, 192.0.2.1/28")),
     ["2: interfaces.v4.addresses[1]: 192.0.2"]),
    ("a zone index", text(v6=V6.replace("::2/", "::2%eth0/")),
     ["3: interfaces.v6.addresses[0]: '2001:db8:ffff::2%eth0/64'"]),
    ("no next hop", text(v4=NO_HOP), ["2: interfaces.v4.next_hop: there is nowhere to"]),
    ("a next hop elsewhere", text(v4=V4.replace("2.254", "3.1")),
     ["2: interfaces.v4.next_hop: warning: 192.0.3.1 is in no prefix"]),
    ("itself as next hop", text(v4=V4.replace(".254", ".1")),
     ["2: interfaces.v4.next_hop: 192.0.2.1 is this router's own"]),
    ("a BR as next hop", text(v6=V6.replace("ffff::1", "aa::1")),
     ["3: interfaces.v6.next_hop: 2001:db8:aa::1 is this rout"]),
    ("a group MAC", text(v4=V4 + ", mac: 01:00:5e:00:00:01"), ["2: interfaces.v4.mac: '01:00:5e:00:00:01' is a group"]),
    ("a short MAC", text(v4=V4 + ", next_hop_mac: 02:00:00:00:01"),
     ["2: interfaces.v4.next_hop_mac: '02:00:00:00:01' is n"]),
    ("VLAN 0, a priority tag", text(v4=V4 + ", vlan: 0"), ["2: interfaces.v4.vlan: is 0; the range is 1 to 4094"]),
    ("VLAN 4095", text(v4=V4 + ", vlan: 4095"), ["2: interfaces.v4.vlan: is 4095; the range is 1 to 4094"]),
    ("IPv6 MTU 1279", text(v6=V6 + ", mtu: 1279"), ["3: interfaces.v6.mtu: is 1279; the range is 1280 to 9700"]),
    ("IPv6 MTU 1500", text(v6=V6 + ", mtu: 1500"),
     ["3: interfaces.v6.mtu: warning: 1500 lets 1460 of 1500 octets thr"]),
    ("a filter without ARP", text(v4=V4 + ", ingress_filter: ip"),
     ["2: interfaces.v4.ingress_filter: warning: refuses the answers to its ARP requests and ARP requests of the"
      " next hop: the next hop is not found, or does not find this router; write arp or (…), or give next_hop_mac"]),
    ("a filter without half of ARP", text(v4=V4 + ", ingress_filter: 'ip or arp[6:2] = 2'"),
     ["2: interfaces.v4.ingress_filter: warning: refuses ARP requests of the next hop: "]),
    ("a filter out without ARP", text(v4=V4 + ", egress_filter: not arp"),
     ["2: interfaces.v4.egress_filter: warning: refuses its ARP requests and its ARP answers"]),
    ("a filter without ND", text(v6=V6 + ", ingress_filter: ip6 proto 4, egress_filter: ip6 proto 4 or icmp6"),
     ["3: interfaces.v6.ingress_filter: warning: refuses the answers to its neighbour solicitations and neighbour s"]),
    ("a filter without advertisements", text(v6=V6 + ", ingress_filter: 'not (icmp6 and ip6[40] = 136)'"),
     ["3: interfaces.v6.ingress_filter: warning: refuses the answers to its neighbour solicitations: the next hop"]),
    ("a filter with ARP", text(v4=V4 + ", ingress_filter: arp or udp, egress_filter: arp or udp"), []),
    ("a filter with ND", text(v6=V6 + ", ingress_filter: icmp6 or ip6 proto 4, egress_filter: ip6"), []),
    ("a filter without ARP beside a fixed MAC",
     text(v4=V4 + ", next_hop_mac: 02:00:00:00:00:01, ingress_filter: ip"), []),
    ("IPv4 MTU 575", text(v4=V4 + ", mtu: 575"), ["2: interfaces.v4.mtu: warning: 575 is less than the 576 octets"]),
    ("IPv4 MTU 67", text(v4=V4 + ", mtu: 67"), ["2: interfaces.v4.mtu: is 67; the range is 68 to 9700"]),
    ("one port, two MACs", text(v4=V4 + ", mac: 02:00:00:00:00:01", v6=STICK6 + ", mac: 02-00-00-00-00-02"),
     ["3: interfaces.v6.mac: both sides are on one port"]),
    ("one device, other arguments", text(v6=V6.replace("net_tap1", '"net_tap0,iface=x"')),
     ["3: interfaces.v6.port: the dev"]),
    ("fragments joined by the kernel", text(v4=V4.replace("net_tap0", '"net_af_packet0,iface=a"')),
     ["2: interfaces.v4.port: warning: the kernel joins IPv4 fragments"]),
    ("one tag only", text(v4=V4 + ", vlan: 4", v6=STICK6), ["3: interfaces.v6.vlan: warning: one side of"]),
    # softwire and icmp
    ("no BR address", text(softwire=""), ["4: softwire.br_addresses: is required; give the tunnel addresses"]),
    ("a BR address twice", text(softwire="br_addresses: [2001:db8:aa::1, 2001:db8:aa::1]"),
     ["4: softwire.br_addresses[1]: 20"]),
    ("a link-local BR", text(softwire='br_addresses: ["fe80::1"]'),
     ["4: softwire.br_addresses[0]: fe80::1 is a link-local"]),
    ("DSCP 64", text(softwire=SOFTWIRE + ", dscp: pipe:64"),
     ["4: softwire.dscp: is 'pipe:64'; write copy or pipe:<0 to 63>"]),
    ("a 21-bit label", text(softwire=SOFTWIRE + ", flow_label: 0x100000"),
     ["4: softwire.flow_label: is 0x100000; the range"]),
    ("hairpinning on", text(softwire=SOFTWIRE + ", hairpinning: on"),
     ["4: softwire.hairpinning: is 'on'; write true, false or"]),
    ("an MSS that is a word", text(softwire=SOFTWIRE + ", tcp_mss: aut"),
     ["4: softwire.tcp_mss: is 'aut'; write auto or a numb"]),
    ("an MSS beyond the MTU", text(softwire=SOFTWIRE + ", tcp_mss: 1461"),
     ["4: softwire.tcp_mss: warning: 1461 is more than"]),
    ("a payload too large", text(softwire=SOFTWIRE + ", tunnel_payload_mtu: 1501"),
     ["4: softwire.tunnel_payload_mtu: warnin"]),
    ("a payload too large with the option", text(softwire=SOFTWIRE + ", tunnel_payload_mtu: 1500, encap_limit: 4"),
     ["3: interfaces.v6.mtu: warning: 1540 lets 1492 of 1500", "4: softwire.tunnel_payload_mtu: warning: 1500 does"]),
    ("a payload too small", text(softwire=SOFTWIRE + ", tunnel_payload_mtu: 1239"),
     ["4: softwire.tunnel_payload_mtu: warnin"]),
    ("an option neither dropped nor passed", text(softwire=SOFTWIRE + ", ipv4_options: {timestamp: deny}"),
     ["4: softwire.ipv4_options.timestamp: is 'deny'; write drop or pass"]),
    ("a rate of 0", text("icmp: {rate_limit: {packets: 0}}"), ["5: icmp.rate_limit.packets: is 0; the range is 1 to"]),
    ("a rate without packets", text("icmp: {incoming_v4_rate: {period_s: 1}}"),
     ["5: icmp.incoming_v4_rate.packets: is requ"]),
    ("TOS 256", text("icmp: {error_tos: 0x100}"), ["5: icmp.error_tos: is 0x100; the range is 0 to 255"]),
    # services
    ("a pool with an offset", text("pcp: {pools: [{ipv4: 203.0.113.0/28, psid_offset: 6}]}"),
     ["5: pcp.pools[0].psid_offset: is 6; it must be 0: PCP's PORT_SET option names one range"]),
    ("a pool with host bits", text("pcp: {pools: [{ipv4: 203.0.113.1/28}]}"),
     ["5: pcp.pools[0].ipv4: '203.0.113.1/28' has b"]),
    ("a pool without sets", text('pcp: {pools: [{ipv4: 203.0.113.0/28, psid_len: 1, exclude_ports: "0,40000"}]}'),
     ["5: pcp.pools[0].psid_len: leaves"]),
    ("a pool with an own address", text("pcp: {pools: [{ipv4: 192.0.2.0/28}]}"),
     ["5: pcp.pools[0].ipv4: 192.0.2.0/28 holds"]),
    ("overlapping pools", text("pcp:\n  pools: [{ipv4: 203.0.113.0/28},\n    {ipv4: 203.0.113.8/29}]"),
     ["7: pcp.pools[1].ipv4: 203.0.113.8/29 overlaps pcp.pools[0] (203.0.113.0/28, line 6)"]),
    ("a pool beside other sets", text(entries(E1) + "pcp: {pools: [{ipv4: 203.0.113.0/28, psid_len: 7}]}"),
     ["8: pcp.pools[0].psid_len: 1 bindings inside the pool differ, such as 203.0.113.1 PSID 1/6"]),
    ("ports the wrong way round", text("pcp: {pools: [{ipv4: 203.0.113.0/28, exclude_ports: 5-4}]}"),
     ["5: pcp.pools[0].exclu"]),
    ("lifetimes that decrease", text("pcp: {lifetime: {min_s: 9000}}"), ["5: pcp.lifetime: must not decrease"]),
    ("PCP without address", text("pcp: {server_addresses: []}"),
     ["5: pcp.server_addresses: is empty, but PCP is enabled"]),
    ("a listener for nobody", text("pcp: {third_party: {listen: '[::1]:5351'}}"),
     ["5: pcp.third_party.allow: warning: is emp"]),
    ("a lease server without address", text("leasequery: {servers: [{tls: {ca: /}}]}"),
     ["5: leasequery.servers[0].address: is required"]),
    ("a lease server of the system's CAs", text("leasequery: {servers: [{address: a.example}]}"),
     ["5: leasequery.servers[0]"]),
    ("an open API", text("api: {listen: 0.0.0.0:1}"),
     ["5: api.listen: 0.0.0.0:1 can be reached by others without TLS"]),
    ("an API on no port", text("api: {listen: 127.0.0.1}"), ["5: api.listen: '127.0.0.1' is not host:port"]),
    ("a certificate without key", text("api: {tls: {cert: /dev/null, require_client_cert: false}}"),
     ["5: api.tls.key: is req"]),
    ("a role that is none", text("api: {roles: {ann: root}}"),
     ["5: api.roles: is 'root'; write viewer, operator or admin"]),
    # Its endpoint and name are what YAML 1.1 takes for numbers.
    ("a fleet, which nothing uses", text("fleet: {etcd: {endpoints: [a:1]}, node_id: 1:20}"),
     ["5: fleet: warning: is read, and nothing uses it yet"]),
    ("a fleet without store", text("fleet: {node_id: a}"), ["5: fleet.etcd.endpoints: is required"]),
    # bindings, one by one
    ("a + k > 16", text(entries(E1 + ", psid_offset: 11")),
     ["7: bindings.entries[0].psid_len: psid_offset 11 and psid_len 6"]),
    ("PSID 2^k", text(entries(E1.replace("psid: 1", "psid: 64"))),
     ["7: bindings.entries[0].psid: is 64; with psid_len 6 the"]),
    ("k = 17", text(entries(E1.replace("len: 6", "len: 17"))),
     ["7: bindings.entries[0].psid_len: is 17; the range is 0 to 16"]),
    ("no psid", text(entries(E1.replace("psid: 1, ", ""))),
     ["7: bindings.entries[0].psid: is missing; psid_len 6 needs"]),
    ("no psid_len", text(entries(E1.replace("psid_len: 6, ", ""))),
     ["7: bindings.entries[0].psid_len: is missing, but there"]),
    ("a psid of a whole address", text(entries(E1.replace("len: 6", "len: 0"))),
     ["7: bindings.entries[0].psid: warning: 1 is i"]),
    ("no B4", text(entries("ipv4: 203.0.113.1")), ["7: bindings.entries[0].b4_ipv6: is required"]),
    ("a prefix with host bits", text(entries('ipv4: 203.0.113.1, b4_ipv6: "2001:db8::1/56"')),
     ["7: bindings.entries[0].b4_ipv6: '2001:db8::1/56' has bits behind the prefix; write 2001:db8::/56"]),
    ("a B4 that is a BR (DP-061)", text(entries('ipv4: 203.0.113.1, b4_ipv6: "2001:db8:aa::1"')),
     ["7: bindings.entries[0].b4_ipv6: 2001:db8:aa::1 is this router's own address"]),
    ("a B4 that is this router (DP-061)", text(entries('ipv4: 203.0.113.1, b4_ipv6: "2001:db8:ffff::2"')),
     ["7: bindings.entries[0].b4_ipv6: 2001:db8:ffff::2 is this router's own address"]),
    ("an own IPv4 address (DP-063)", text(entries('ipv4: 192.0.2.1, b4_ipv6: "2001:db8:1::1"')),
     ["7: bindings.entries[0].ipv4: 192.0.2.1 is this router's own address"]),
    ("192.0.0.0/29", text(entries('ipv4: 192.0.0.7, b4_ipv6: "2001:db8:1::1"')),
     ["7: bindings.entries[0].ipv4: 192.0.0.7 is of"]),
    ("multicast", text(entries('ipv4: 224.0.0.1, b4_ipv6: "2001:db8:1::1"')),
     ["7: bindings.entries[0].ipv4: 224.0.0.1 is no"]),
    ("a link-local B4", text(entries('ipv4: 203.0.113.1, b4_ipv6: "fe80::1"')),
     ["7: bindings.entries[0].b4_ipv6: fe80::1 is no"]),
    ("an unlisted BR", text(entries(E1 + ', br_ipv6: "2001:db8:aa::2"')),
     ["7: bindings.entries[0].br_ipv6: 2001:db8:aa::2 is not"]),
    ("system ports (DP-028)", text(entries(E1.replace("psid: 1", "psid: 0"))),
     ["7: bindings.entries[0].psid: warning: 203.0.113.1 PSID 0/6 holds system ports"]),
    ("system ports at the end of a set", text(entries(E1.replace("len: 6, psid: 1", "len: 8, psid: 3"))),
     ["7: bindings.entries[0].psid: warning: 203.0.113.1 PSID 3/8 holds system ports"]),
    # bindings beside each other
    ("a set twice (DP-024)", text(entries(E1, E1.replace("8:1::", "8:2::"))),
     ["8: bindings.entries[1].psid: 203.0.113.1 PSID 1/6 is bound already at f:7"]),
    ("other k on one address (DP-025)", text(entries(E1, E2.replace("psid_len: 6", "psid_len: 7"))),
     ["8: bindings.entries[1].psid_len: 203.0.113.1 PSID 2/7: f:7 has psid_offset 0 and psid_len 6"]),
    ("a whole address beside a set", text(entries(E1, 'ipv4: 203.0.113.1, b4_ipv6: "2001:db8:2::1"')),
     ["8: bindings.entries[1].psid_len: 203.0.113.1 (whole): f:7 has psid_offset 0 and psid_len 6"]),
    ("a subscriber with two softwires (DP-036)", text(entries(E1, E2.replace("2::1", "1::2"))),
     ["8: bindings.entries[1].b4_ipv6: 2001:db8:1::2 is one softwire too many for the subscriber 2001:db8:1::/56"]),
    ("a table too small", text(entries(E1, E1.replace("psid: 1", "psid: 2")) + "dataplane: {max_bindings: 1}"),
     ["5: bindings: has 2 rows, the table 1; raise dataplane.max_bindings"]),
]  # fmt: skip


@pytest.mark.parametrize("what, yaml, lines", FAULTS, ids=[row[0] for row in FAULTS])
def test_faults(what: str, yaml: str, lines: list[str]) -> None:
    found = faults(yaml)
    if what == "nothing at all":  # every required key
        assert [line.split(":")[1].strip() for line in found] == [
            "interfaces.v4.addresses", "interfaces.v4.next_hop", "interfaces.v4.port",
            "interfaces.v6.addresses", "interfaces.v6.next_hop", "interfaces.v6.port", "softwire.br_addresses",
        ]  # fmt: skip
        return
    assert len(found) == len(lines), found
    for line, begin in zip(found, lines, strict=True):
        assert line.startswith(begin)


SOUND = [  # what is accepted without a word
    ("the least", text()),
    ("unquoted MAC and addresses", text(v4=V4 + ", mac: 02:00:00:00:04:01", softwire="br_addresses: [2001:db8:aa::1]")),
    ("a MAC that YAML 1.1 takes for a number", text(v4=V4 + ", mac: 12:10:20:30:40:50")),
    ("JSON", JSON),
    ("anchors", text("dataplane: {rss: &a inner}\nstate: {directory: *a}")),
    ("sections left empty", text("icmp:\npcp:\nbindings:\n  entries:\nfleet:")),
    ("one port without tags", text(v6=STICK6)),
    ("one port with two tags", text(v4=V4 + ", vlan: 4", v6=STICK6 + ", vlan: 6")),
    ("a fixed next hop without address", text(v4=f"{NO_HOP}, next_hop_mac: 02:00:00:00:00:01")),
    ("the same (a, k) on one address", text(entries(E1, E2))),
    ("several port sets of one softwire count once", text(entries(E1, E1.replace("psid: 1", "psid: 2")))),
    ("two softwires where two are allowed", text(entries(E1, E2.replace("2::1", "1::2"))
     + "subscribers: {max_softwires: 2}")),
    ("two softwires of longer prefixes", text(entries(E1, E2.replace("2::1", "1::2"))
     + "subscribers: {mask: 128}")),
    ("the first set behind the system ports", text(entries(E1.replace("len: 6, psid: 1", "len: 8, psid: 4")))),
    ("k = 16", text(entries(E1.replace("len: 6, psid: 1", "len: 16, psid: 65535")))),
    ("a BR that is the interface's own address too", text(softwire='br_addresses: ["2001:db8:ffff::2"]')),
    ("a static whole address in a pool", text(entries('ipv4: 203.0.113.1, b4_ipv6: "2001:db8:2::1"')
     + "pcp: {pools: [{ipv4: 203.0.113.0/28}]}")),
    ("an open API by choice", text("api: {listen: '[::]:50051', allow_plaintext: true}")),
]  # fmt: skip


@pytest.mark.parametrize("what, yaml", SOUND, ids=[row[0] for row in SOUND])
def test_sound(what: str, yaml: str) -> None:
    assert faults(yaml) == []


def test_all_faults_come_at_once_in_the_order_of_the_lines() -> None:
    yaml = text("dataplane: {rss: x}\nqqq: 1\n" + entries(E1, E1), v4=V4 + ", vlan: 0", v6=V6 + ", mtu: 1")
    assert [line.split(":")[0] for line in faults(yaml)] == ["2", "3", "5", "6", "10"]
