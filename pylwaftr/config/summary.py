"""What a valid configuration would do, for people and for programs."""

from typing import Any

import numpy as np

from pylwaftr import rows
from pylwaftr.config.core_settings import tcp_mss
from pylwaftr.config.model import Config, Interface4, Interface6

Facts = dict[str, Any]


def facts(config: Config) -> Facts:
    softwire = config.softwire
    return {
        "on_a_stick": config.interfaces.one_port,
        "v4": _side(config.interfaces.v4),
        "v6": _side(config.interfaces.v6),
        "softwire": {
            "br_addresses": [str(address) for address in softwire.br_addresses],
            "tunnel_mtu": config.tunnel_mtu,
            "overhead": config.overhead,
            "tcp_mss": tcp_mss(config),
            "hairpinning": softwire.hairpinning,
        },
        "bindings": _bindings(config),
        "pcp": _pcp(config),
        "leasequery_servers": [f"{server.address} port {server.port}" for server in config.leasequery.servers],
        "api": None if config.api.listen is None else str(config.api.listen),
        "metrics": None if config.metrics.listen is None else str(config.metrics.listen),
        "off": _off(config),
    }


def _side(side: Interface4 | Interface6) -> Facts:
    return {
        "port": side.port,
        "mac": None if side.mac is None else side.mac.hex(":"),
        "vlan": side.vlan,
        "mtu": side.mtu,
        "addresses": [str(own) for own in side.addresses],
        "next_hop": None if side.next_hop is None else str(side.next_hop),
        "next_hop_mac": None if side.next_hop_mac is None else side.next_hop_mac.hex(":"),
        "ingress_filter": side.ingress_filter,
        "egress_filter": side.egress_filter,
    }


def _bindings(config: Config) -> Facts:
    table = config.rows
    shared = table[table["psid_len"] > 0]
    return {
        "file": None if config.bindings.file is None else str(config.bindings.file),
        "rows": len(table),
        "room": config.dataplane.max_bindings,
        "addresses_whole": int(np.count_nonzero(table["psid_len"] == 0)),
        "addresses_shared": len(np.unique(shared["ipv4"])),
        "port_sets": _port_sets(shared),
        "b4_addresses": len(np.unique(np.ascontiguousarray(table["b4"]).view("V16"))),
    }


def _port_sets(shared: rows.Rows) -> list[Facts]:
    """One line for each way in which addresses are divided."""
    code, count = np.unique(shared["psid_offset"].astype(np.uint16) << 8 | shared["psid_len"], return_counts=True)
    kinds = []
    for offset, length, sets in zip((code >> 8).tolist(), (code & 255).tolist(), count.tolist(), strict=True):
        ports = sum(high - low + 1 for low, high in rows.ports(offset, length, 0))
        kinds.append({"psid_offset": offset, "psid_len": length, "sets": sets, "ports_each": ports})
    return kinds


def _pcp(config: Config) -> Facts | None:
    if not config.pcp.enabled:
        return None
    pools = [
        {
            "ipv4": str(pool.ipv4),
            "psid_len": pool.psid_len,
            "sets": len(pool.psids()) * pool.ipv4.num_addresses,
            "ports_each": 1 << (16 - pool.psid_len),
        }
        for pool in config.pcp.pools
    ]
    return {"server_addresses": [str(address) for address in config.pcp.server_addresses], "pools": pools}


def _off(config: Config) -> list[str]:
    softwire, icmp, options = config.softwire, config.icmp, config.softwire.ipv4_options
    switches = [
        (
            softwire.hairpinning == "local",
            "hairpinning: packets for other B4s are " + _hairpinning(softwire.hairpinning),
        ),
        (softwire.pmtud, "path MTU discovery towards the B4s (softwire.pmtud)"),
        (softwire.tcp_mss is not None, "TCP MSS clamp (softwire.tcp_mss)"),
        (softwire.answer_arp_for_pools, "proxy ARP for the bound addresses (softwire.answer_arp_for_pools)"),
        (softwire.reassembly.max_fragments > 1, "fragments (softwire.reassembly.max_fragments is 1)"),
        (icmp.incoming_v4, "ICMPv4 from the internet (icmp.incoming_v4)"),
        (icmp.incoming_v6, "relay of tunnel errors (icmp.incoming_v6)"),
        (icmp.unbound_v4, "ICMPv4 errors for packets without a binding (icmp.unbound_v4)"),
        (icmp.unknown_b4_v6, "ICMPv6 errors for unknown B4s (icmp.unknown_b4_v6)"),
        (not options.router_alert, "packets with the router alert option (softwire.ipv4_options)"),
        (config.pcp.enabled, "PCP (pcp.enabled)"),
        (bool(config.pcp.pools) or not config.pcp.enabled, "PCP port sets: there is no pool (pcp.pools)"),
        (bool(config.leasequery.servers), "leasequery: no server (leasequery.servers)"),
        (config.api.listen is not None, "gRPC service (api.listen)"),
        (config.metrics.listen is not None, "metrics (metrics.listen)"),
        (config.fleet is None, "fleet store: fleet is given, and nothing uses it yet"),
    ]
    return [text for on, text in switches if not on]


def _hairpinning(mode: str) -> str:
    return "discarded" if mode == "drop" else "sent to the IPv4 next hop"


def lines(config: Config) -> list[str]:
    """The facts in sentences, one a line."""
    known = facts(config)
    softwire, table = known["softwire"], known["bindings"]
    stick = " (one port for both sides)" if known["on_a_stick"] else ""
    clamp = "off" if softwire["tcp_mss"] is None else f"{softwire['tcp_mss']} octets"
    text = [
        f"IPv4 side: {_side_line(known['v4'])}{stick}",
        f"IPv6 side: {_side_line(known['v6'])}{stick}",
        f"softwire: BR {', '.join(softwire['br_addresses'])}; tunnel MTU {softwire['tunnel_mtu']}"
        f" ({softwire['overhead']} octets of encapsulation); TCP MSS clamp {clamp};"
        f" hairpinning {softwire['hairpinning']}",
        f"bindings: {table['rows']} of {table['room']}; {table['addresses_whole']} whole and "
        f"{table['addresses_shared']} shared addresses; {table['b4_addresses']} B4s"
        + (f"; from {table['file']}" if table["file"] else ""),
    ]
    for kind in table["port_sets"]:
        sizes = f"psid_offset {kind['psid_offset']}, psid_len {kind['psid_len']}, {kind['ports_each']} ports each"
        text.append(f"port sets: {kind['sets']} with {sizes}")
    for pool in known["pcp"]["pools"] if known["pcp"] else []:
        sets = f"{pool['sets']} port sets of {pool['ports_each']} ports"
        text.append(f"PCP pool: {pool['ipv4']}, {sets} (sets of static bindings included)")
    text.extend(f"leasequery: {server}" for server in known["leasequery_servers"])
    text.extend(f"{name}: {known[key]}" for name, key in (("gRPC", "api"), ("metrics", "metrics")) if known[key])
    return text + [f"off: {what}" for what in known["off"]]


def _side_line(side: Facts) -> str:
    hop = side["next_hop"] or "the next hop"
    resolved = f"next hop {hop}" if not side["next_hop_mac"] else f"{hop} always at {side['next_hop_mac']}"
    parts = [side["port"], ", ".join(side["addresses"]), f"MTU {side['mtu']}", resolved]
    if side["mac"]:
        parts.insert(1, f"MAC {side['mac']}")
    if side["vlan"] is not None:
        parts.insert(1, f"VLAN {side['vlan']}")
    parts.extend(f"{way} filter {side[way + '_filter']!r}" for way in ("ingress", "egress") if side[way + "_filter"])
    return "; ".join(parts)
