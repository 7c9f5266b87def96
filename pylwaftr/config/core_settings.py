"""The configuration as the core wants it: plain values, addresses as octets in network order."""

from typing import Any

from pylwaftr.config.model import Config, Icmp, Interface4, Interface6, Softwire
from pylwaftr.config.services import Pcp


def core_settings(config: Config, *, miss_events: bool = False, hold_code5_ms: int = 0) -> dict[str, Any]:
    """`miss_events`: someone is there who can find a binding for a subscriber without one, and asks to be told of him;
    for `hold_code5_ms` after that he gets no ICMPv6 1/5."""
    softwire, sides = config.softwire, config.interfaces
    v4, v6 = _side(sides.v4), _side(sides.v6)
    if sides.one_port:  # one port has one MAC address: that of either side is that of both
        v4["mac"] = v6["mac"] = sides.v4.mac or sides.v6.mac
    wanted = softwire.tunnel_payload_mtu
    return {
        "v4": v4,
        "v6": v6,
        "one_port": sides.one_port,
        "br_addresses": [address.packed for address in softwire.br_addresses],
        "tunnel_payload_mtu": None if wanted is None else config.tunnel_mtu,
        "hop_limit": softwire.hop_limit,
        "encap_limit": softwire.encap_limit,
        "dscp": "copy" if softwire.dscp is None else softwire.dscp,
        "ecn": softwire.ecn,
        "flow_label": "hash" if softwire.flow_label is None else softwire.flow_label,
        "pmtud": softwire.pmtud,
        "hairpin": softwire.hairpinning,
        "tcp_mss": tcp_mss(config),
        "proxy_arp": softwire.answer_arp_for_pools,
        "reassembly": _reassembly(softwire),
        "ipv4_options": _ipv4_options(softwire),
        "icmp": _icmp(config.icmp),
        "subscriber_mask": config.subscribers.mask,
        "pcp": _pcp(config.pcp),
        "events": {
            "miss": miss_events,
            "move": config.subscribers.on_new_address == "data",
            "hold_code5_ms": hold_code5_ms,
        },
    }


def tcp_mss(config: Config) -> int | None:
    """The clamp in octets: `auto` leaves room for the IPv4 and TCP headers in what every side carries."""
    wanted = config.softwire.tcp_mss
    if isinstance(wanted, str):
        return min(config.interfaces.v4.mtu, config.tunnel_mtu) - 40
    return wanted


def _side(side: Interface4 | Interface6) -> dict[str, Any]:
    return {
        "mac": side.mac,
        "vlan": side.vlan,
        "mtu": side.mtu,
        "next_hop_mac": side.next_hop_mac,
        "addresses": [(own.ip.packed, own.network.prefixlen) for own in side.addresses],
        "next_hop": None if side.next_hop is None else side.next_hop.packed,
        "ingress_filter": side.ingress_filter,
        "egress_filter": side.egress_filter,
    }


def _pcp(pcp: Pcp) -> dict[str, Any]:
    return {
        "enabled": pcp.enabled,
        "addresses": [address.packed for address in pcp.server_addresses],
        "rate_limit": (pcp.rate_limit.per_s, pcp.rate_limit.per_subscriber),
    }


def _reassembly(softwire: Softwire) -> dict[str, int]:
    limits = softwire.reassembly
    return {
        "max_packets": limits.max_packets,
        "timeout_s": limits.timeout_s,
        "max_fragments": limits.max_fragments,
    }


def _ipv4_options(softwire: Softwire) -> dict[str, bool]:
    options = softwire.ipv4_options
    return {
        "source_route": options.source_route,
        "record_route": options.record_route,
        "timestamp": options.timestamp,
        "router_alert": options.router_alert,
    }


def _icmp(icmp: Icmp) -> dict[str, Any]:
    rate, limit = icmp.incoming_v4_rate, icmp.rate_limit
    return {
        "incoming_v4": icmp.incoming_v4,
        "incoming_v4_rate": None if rate is None else (rate.packets, rate.period_s),
        "incoming_v6": icmp.incoming_v6,
        "unbound_v4": icmp.unbound_v4,
        "unknown_b4_v6": icmp.unknown_b4_v6,
        "rate_limit": (limit.packets, limit.period_s, limit.per_source),
        "error_tos": icmp.error_tos,
    }
