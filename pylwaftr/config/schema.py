"""The keys of the configuration with their defaults and ranges: the router itself. Services: schema_services."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

from pylwaftr import addresses, filters
from pylwaftr.config import values
from pylwaftr.config.model import (
    Bindings,
    Dataplane,
    Entry,
    ErrorRate,
    Icmp,
    Interface4,
    Interface6,
    Interfaces,
    Ipv4Options,
    Rate,
    Reassembly,
    Softwire,
)
from pylwaftr.config.reader import (
    Refused,
    Section,
    Skip,
    Spot,
    boolean,
    file_path,
    integer,
    listing,
    maybe,
    one_of,
    parsed,
    section,
    text,
    word_or,
)

MAX_MTU = 9700  # the largest that the common NIC drivers of DPDK 22.11 take, less a little
MAX_BINDINGS = 100_000_000


def dataplane(at: Section) -> Dataplane:
    return Dataplane(
        hugepages=at.get("hugepages", one_of("auto", "always", "never"), "auto"),
        lcores=at.get("lcores", word_or({"auto": None}, _cores, "a list of core numbers"), None),
        max_bindings=at.get("max_bindings", integer(1, MAX_BINDINGS), 1_000_000),
        rss=at.get("rss", one_of("outer", "inner", "software"), "outer"),
        rx_descriptors=at.get("rx_descriptors", _descriptors, 1024),
        offloads=at.get("offloads", boolean, True),
        binding_counters=at.get("binding_counters", boolean, False),
        eal_args=at.get("eal_args", listing(text), ()),
    )


def _descriptors(spot: Spot) -> int:
    """What every device can align."""
    count = integer(64, 16_384)(spot)
    if spot.report.sound(spot.path) and count & count - 1:
        spot.report.error(spot.path, f"is {count}; write a power of two")
    return count


def _cores(spot: Spot) -> tuple[int, ...]:
    cores = listing(integer(0, 1023), at_least=1)(spot)
    for index, core in enumerate(cores if spot.report.sound(spot.path) else ()):
        if core in cores[:index]:
            spot.report.error(f"{spot.path}[{index}]", f"core {core} is given twice; remove one")
    return cores


def interfaces(at: Section) -> Interfaces:
    return Interfaces(v4=at.section("v4", _interface4), v6=at.section("v6", _interface6))


_DEVICE_HINT = "give a PCI address or a DPDK device such as net_af_packet0,iface=NAME"


def _interface4(at: Section) -> Interface4:
    kind = listing(parsed(addresses.interface4), at_least=1)
    return Interface4(
        port=at.required("port", parsed(values.device), "", _DEVICE_HINT),
        mac=at.get("mac", maybe(parsed(values.mac)), None),
        addresses=at.required("addresses", kind, (), "give the router's own addresses, such as [192.0.2.1/24]"),
        next_hop=at.get("next_hop", maybe(parsed(addresses.ipv4)), None),
        next_hop_mac=at.get("next_hop_mac", maybe(parsed(values.mac)), None),
        mtu=at.get("mtu", integer(68, MAX_MTU), 1500),
        vlan=at.get("vlan", maybe(integer(1, 4094)), None),
        ingress_filter=at.get("ingress_filter", maybe(parsed(filters.pcap_filter)), None),
        egress_filter=at.get("egress_filter", maybe(parsed(filters.pcap_filter)), None),
    )


def _interface6(at: Section) -> Interface6:
    kind = listing(parsed(addresses.interface6), at_least=1)
    return Interface6(
        port=at.required("port", parsed(values.device), "", _DEVICE_HINT),
        mac=at.get("mac", maybe(parsed(values.mac)), None),
        addresses=at.required("addresses", kind, (), 'give the router\'s own addresses, such as ["2001:db8::2/64"]'),
        next_hop=at.get("next_hop", maybe(parsed(addresses.ipv6)), None),
        next_hop_mac=at.get("next_hop_mac", maybe(parsed(values.mac)), None),
        mtu=at.get("mtu", integer(1280, MAX_MTU), 1540),
        vlan=at.get("vlan", maybe(integer(1, 4094)), None),
        ingress_filter=at.get("ingress_filter", maybe(parsed(filters.pcap_filter)), None),
        egress_filter=at.get("egress_filter", maybe(parsed(filters.pcap_filter)), None),
    )


def softwire(at: Section) -> Softwire:
    br_addresses = listing(parsed(addresses.ipv6), at_least=1)
    labels: dict[str, int | None] = {"hash": None, "zero": 0}
    mss: dict[str, int | str | None] = {"auto": "auto"}
    return Softwire(
        br_addresses=at.required("br_addresses", br_addresses, (), "give the tunnel addresses that are served"),
        tunnel_payload_mtu=at.get("tunnel_payload_mtu", maybe(integer(68, MAX_MTU)), None),
        hop_limit=at.get("hop_limit", integer(1, 255), 64),
        encap_limit=at.get("encap_limit", maybe(integer(0, 255)), None),
        dscp=at.get("dscp", parsed(values.dscp), None),
        ecn=at.get("ecn", one_of("normal", "compatibility"), "normal"),
        flow_label=at.get("flow_label", word_or(labels, integer(0, 0xFFFFF), "0 to 0xfffff"), None),
        pmtud=at.get("pmtud", boolean, True),
        hairpinning=at.get("hairpinning", _hairpinning, "local"),
        # Below 28 no segment crosses the smallest IPv4 link, above 65495 none is affected.
        tcp_mss=at.get("tcp_mss", maybe(word_or(mss, integer(28, 65495), "a number of octets, or null")), None),
        answer_arp_for_pools=at.get("answer_arp_for_pools", boolean, True),
        reassembly=at.section("reassembly", _reassembly),
        ipv4_options=at.section("ipv4_options", _ipv4_options),
    )


def _hairpinning(spot: Spot) -> str:
    words = {"true": "local", "false": "external", "drop": "drop"}
    node_text = getattr(spot.node, "text", None)
    if node_text == "drop":
        return "drop"
    try:
        return words[str(boolean(spot)).lower()]
    except Refused as fault:
        raise Refused(str(fault).replace("true or false", "true, false or drop", 1)) from None


def _reassembly(at: Section) -> Reassembly:
    return Reassembly(
        max_packets=at.get("max_packets", integer(1, 10_000_000), 20000),
        timeout_s=at.get("timeout_s", integer(1, 600), 60),
        # 65535 octets in fragments of 8, the smallest there are.
        max_fragments=at.get("max_fragments", integer(1, 8192), 64),
    )


def _ipv4_options(at: Section) -> Ipv4Options:
    def dropped(key: str, default: str) -> bool:
        return at.get(key, one_of("drop", "pass"), default) == "drop"

    return Ipv4Options(
        source_route=dropped("source_route", "drop"),
        record_route=dropped("record_route", "drop"),
        timestamp=dropped("timestamp", "drop"),
        router_alert=dropped("router_alert", "pass"),
    )


def icmp(at: Section) -> Icmp:
    tos: dict[str, int | None] = {"copy": None}
    return Icmp(
        incoming_v4=at.get("incoming_v4", boolean, True),
        incoming_v4_rate=at.get("incoming_v4_rate", maybe(section(_rate)), None),
        incoming_v6=at.get("incoming_v6", boolean, True),
        unbound_v4=at.get("unbound_v4", boolean, True),
        unknown_b4_v6=at.get("unknown_b4_v6", boolean, True),
        rate_limit=at.section("rate_limit", _error_rate),
        error_tos=at.get("error_tos", word_or(tos, integer(0, 255), "0 to 255"), 0xC0),
    )


_PACKETS = integer(1, 1_000_000_000)
_PERIOD = integer(1, 3600)


def _rate(at: Section) -> Rate:
    return Rate(
        packets=at.required("packets", _PACKETS, 1, "give how many in a period"),
        period_s=at.get("period_s", _PERIOD, 1),
    )


def _error_rate(at: Section) -> ErrorRate:
    return ErrorRate(
        packets=at.get("packets", _PACKETS, 200),
        period_s=at.get("period_s", _PERIOD, 2),
        per_source=at.get("per_source", _PACKETS, 10),
    )


def bindings(at: Section) -> Bindings:
    return Bindings(file=at.get("file", maybe(file_path), None), entries=at.get("entries", listing(_entry), ()))


def _entry(spot: Spot) -> Entry:
    nowhere: IPv6Address | IPv6Network = IPv6Address(0)

    def read(at: Section) -> Entry:
        length = at.get("psid_len", integer(0, 16), 0)
        psid = at.get("psid", integer(0, 65535), 0)
        if length and not at.has("psid") and at.report.sound(at.at("psid")):
            at.report.error(at.at("psid"), f"is missing; psid_len {length} needs a psid from 0 to {(1 << length) - 1}")
        if psid and not at.has("psid_len") and at.report.sound(at.at("psid_len")):
            hint = "give psid_len, or leave psid out for a whole address"
            at.report.error(at.at("psid_len"), f"is missing, but there is a psid; {hint}")
        if psid and at.has("psid_len") and length == 0 and at.report.sound(at.at("psid_len")):
            at.report.warn(at.at("psid"), f"{psid} is ignored: psid_len 0 is the whole address")
        return Entry(
            ipv4=at.required("ipv4", parsed(addresses.ipv4), IPv4Address(0), "give the IPv4 address"),
            psid_offset=at.get("psid_offset", integer(0, 16), 0),
            psid_len=length,
            psid=psid,
            b4=at.required("b4_ipv6", parsed(addresses.b4_address), nowhere, "give the address of the B4"),
            br=at.get("br_ipv6", maybe(parsed(addresses.ipv6)), None),
            path=spot.path,
            line=spot.line,
        )

    entry = section(read)(spot)
    if not spot.report.sound(spot.path):
        raise Skip
    return entry
