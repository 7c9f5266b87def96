"""What no single key can know: sides, addresses and MTUs that have to fit each other."""

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from pylwaftr.config.faults import Report
from pylwaftr.config.model import Interface4, Interface6, Interfaces, Softwire

Address = IPv4Address | IPv6Address


def check(report: Report, sides: Interfaces, softwire: Softwire) -> None:
    for name, side in (("v4", sides.v4), ("v6", sides.v6)):
        _own_addresses(report, f"interfaces.{name}", side)
        _next_hop(report, f"interfaces.{name}", side, softwire)
    _ports(report, sides)
    _br_addresses(report, sides, softwire)
    _mtus(report, sides, softwire)


def unusable(address: Address) -> str | None:
    """Why an address cannot be that of a station."""
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_loopback:
        return "a loopback address"
    if isinstance(address, IPv4Address) and (address.is_reserved or int(address) >> 24 == 0):
        return "not an address of a host (0/8, 240/4)"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return "an IPv4-mapped address"
    return None


def _own_addresses(report: Report, path: str, side: Interface4 | Interface6) -> None:
    if not report.sound(f"{path}.addresses"):
        return
    seen: set[Address] = set()
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = side.addresses
    for index, own in enumerate(addresses):
        at = f"{path}.addresses[{index}]"
        reason = unusable(own.ip)
        if reason is None and isinstance(own, IPv4Interface) and own.network.prefixlen < 31:
            ends = {own.network.network_address: "network", own.network.broadcast_address: "broadcast"}
            reason = f"the {ends[own.ip]} address of {own.network}" if own.ip in ends else None
        if reason is not None:
            report.error(at, f"{own} is {reason}; give an address of this router")
        elif own.ip in seen:
            report.error(at, f"{own.ip} is given twice; remove one")
        seen.add(own.ip)


def _next_hop(report: Report, path: str, side: Interface4 | Interface6, softwire: Softwire) -> None:
    if not report.sound(f"{path}.next_hop", f"{path}.next_hop_mac"):
        return
    hop, at = side.next_hop, f"{path}.next_hop"
    if hop is None:
        if side.next_hop_mac is None:
            how = "give next_hop (resolved by ARP or NDP) or next_hop_mac (fixed)"
            report.error(at, f"there is nowhere to send packets to; {how}")
        return
    reason = unusable(hop)
    if reason is not None:
        report.error(at, f"{hop} is {reason}; give the address of the next router")
    elif hop in {own.ip for own in side.addresses} or hop in softwire.br_addresses:
        report.error(at, f"{hop} is this router's own address; give that of the next router")
    elif not _on_link(hop, side) and side.next_hop_mac is None and report.sound(f"{path}.addresses"):
        prefixes = ", ".join(str(own.network) for own in side.addresses)
        report.warn(at, f"{hop} is in no prefix of this interface ({prefixes}); it may never be resolved")


def _on_link(hop: Address, side: Interface4 | Interface6) -> bool:
    return hop.is_link_local or any(hop in own.network for own in side.addresses)


def _ports(report: Report, sides: Interfaces) -> None:
    if not report.sound("interfaces.v4.port", "interfaces.v6.port"):
        return
    v4, v6 = sides.v4, sides.v6
    if v4.port.startswith("net_af_packet"):
        loss = "the kernel joins IPv4 fragments before this device sees them, and what is then too long is lost"
        report.warn("interfaces.v4.port", f"{loss}; net_tap passes them as they are")
    if sides.one_port:
        if v4.mac is not None and v6.mac is not None and v4.mac != v6.mac:
            both = f"{v4.mac.hex(':')} and {v6.mac.hex(':')}"
            report.error("interfaces.v6.mac", f"both sides are on one port, which has one MAC address, not {both}")
        if (v4.vlan is None) != (v6.vlan is None):
            report.warn("interfaces.v6.vlan", "one side of the shared port is tagged, the other is not; is that meant?")
    elif v4.port.split(",")[0] == v6.port.split(",")[0]:
        name = v4.port.split(",")[0]
        remedy = "for two ports number the devices, for one port (on a stick) write the same text for both"
        report.error("interfaces.v6.port", f"the device {name} is used by v4 with other arguments; {remedy}")


def _br_addresses(report: Report, sides: Interfaces, softwire: Softwire) -> None:
    seen: set[IPv6Address] = set()
    for index, br in enumerate(softwire.br_addresses if report.sound("softwire.br_addresses") else ()):
        at = f"softwire.br_addresses[{index}]"
        reason = "a link-local address" if br.is_link_local else unusable(br)
        if reason is not None:
            report.error(at, f"{br} is {reason}; B4s in the access network have to reach it")
        elif br in seen:
            report.error(at, f"{br} is given twice; remove one")
        seen.add(br)


def _mtus(report: Report, sides: Interfaces, softwire: Softwire) -> None:
    paths = ("interfaces.v4.mtu", "interfaces.v6.mtu", "softwire.encap_limit", "softwire.tunnel_payload_mtu")
    if not report.sound(*paths, "softwire.tcp_mss"):
        return
    overhead = 40 if softwire.encap_limit is None else 48
    v4, v6, payload = sides.v4.mtu, sides.v6.mtu, softwire.tunnel_payload_mtu
    fits = v6 - overhead
    if v4 < 576:
        report.warn(paths[0], f"{v4} is less than the 576 octets that every host may send (RFC 1122 section 3.3.3)")
    if payload is not None and payload > fits:
        report.warn(paths[3], f"{payload} does not fit the IPv6 MTU of {v6} less {overhead}; {fits} is used")
    if payload is not None and payload + overhead < 1280:
        floor = f"{1280 - overhead} fits the smallest IPv6 MTU, 1280 (RFC 8200 section 5)"
        report.warn(paths[3], f"{payload} is less than any IPv6 path carries; {floor}")
    tunnel = fits if payload is None else min(payload, fits)
    if fits < min(v4, 1500):
        remedy = f"raise it to {min(v4, 1500) + overhead}, here and in the access network, to avoid fragments"
        report.warn(paths[1], f"{v6} lets {fits} of {v4} octets through a softwire in one piece; {remedy}")
    mss = softwire.tcp_mss
    if isinstance(mss, int) and mss > min(v4, tunnel) - 40:
        allowed = min(v4, tunnel) - 40
        report.warn("softwire.tcp_mss", f"{mss} is more than the MTUs allow ({allowed}); auto follows them")
