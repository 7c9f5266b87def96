"""The namespaces, veth pairs, addresses and routes of a topology, made and removed."""

from __future__ import annotations

from ipaddress import IPv6Address

from .commands import attempt, inside, namespaces, remove_namespace, run
from .topology import BRIDGE, EVERYTHING, INTERNET, INTERNET_HOST, ROUTER, TAP, End, Link, PcpHome, Topology

_OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro")


def remove_all() -> list[str]:
    """Every namespace a lab may have made, by its exact name; which of them were there."""
    ours = [name for name in EVERYTHING.namespaces if name in namespaces()]
    for name in ours:
        remove_namespace(name)
    return ours


def build(topology: Topology) -> None:
    for name in topology.namespaces:
        run("ip", "netns", "add", name)
    for name, setting, value in topology.sysctls():
        run(*inside(name, "sh", "-c", f"echo {value} > /proc/sys/{setting}"))
    for name in topology.namespaces:
        run("ip", "-n", name, "link", "set", "lo", "up")
    for link in topology.links():
        _join(link)
    run("ip", "-n", INTERNET, "address", "add", f"{INTERNET_HOST}/32", "dev", "lo")
    for name, *route in topology.routes():
        family = "-6" if ":" in " ".join(route) else "-4"
        run("ip", family, "-n", name, "route", "add", *route)


def join_tap() -> None:
    """The TAP device, which came with the router, to the internet side. Another router may have made none."""
    ip = ("ip", "-n", ROUTER, "link")
    if attempt(*ip, "show", TAP).returncode:
        return
    if attempt(*ip, "show", BRIDGE).returncode:  # it is there if the router was started again
        run(*ip, "add", BRIDGE, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    # Where br_netfilter is loaded, IP rules of the namespace would see bridged frames.
    unseen = "for f in /proc/sys/net/bridge/bridge-nf-call-*; do ! [ -w $f ] || echo 0 >$f; done"
    run(*inside(ROUTER, "sh", "-c", unseen))
    for name in (TAP, "v4"):
        run(*ip, "set", name, "master", BRIDGE)
    run(*ip, "set", BRIDGE, "up")


def use_tunnel_address(home: PcpHome, new: IPv6Address, old: IPv6Address | None = None) -> None:
    """The address that this home's packets to the access network come from."""
    ip = ("ip", "-6", "-n", home.name)
    run(*ip, "address", "add", f"{new}/128", "dev", "wan", "nodad")
    run(*ip, "route", "replace", "default", "via", home.wan_address(1), "src", str(new))
    if old is not None:
        run(*ip, "address", "del", f"{old}/128", "dev", "wan")


def _join(link: Link) -> None:
    a, b = link.ends
    mtu = str(link.mtu)
    run("ip", "link", "add", a.name, "mtu", mtu, "netns", a.namespace, "type", "veth",
        "peer", "name", b.name, "mtu", mtu, "netns", b.namespace)  # fmt: skip
    for end in link.ends:
        _set_up(end, link.offloads)


def _set_up(end: End, offloads: bool) -> None:
    if not offloads:
        wanted = [word for feature in _OFFLOADS for word in (feature, "off")]
        run(*inside(end.namespace, "ethtool", "-K", end.name, *wanted))
    for address in end.addresses:
        nodad = ("nodad",) if ":" in address else ()
        run("ip", "-n", end.namespace, "address", "add", address, "dev", end.name, *nodad)
    run("ip", "-n", end.namespace, "link", "set", end.name, "up")
