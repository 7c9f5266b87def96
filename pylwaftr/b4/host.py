"""What the lwB4 changes in its host: TUN device, addresses, route, sysctls, nftables; all undone on exit.

The device goes with the process. The table, which a killed process leaves behind, is replaced at the next start.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from . import nft
from .softwire import Ports

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SIOCETHTOOL, _ETHTOOL_GGRO, _ETHTOOL_SGRO = 0x8946, 0x2B, 0x2C
_MIN_TUN_MTU = 1500  # the kernel must not cut inner packets: that is the tunnel's work, outside (RFC 6333 section 5.3)

# RFC 4787 REQ-5: UDP 2 minutes at least, 5 advised. RFC 5508 REQ-2: ICMP queries 60 s. RFC 5382 REQ-5: TCP 4 minutes
# for half-open and closing connections; Linux keeps established ones 5 days, more than the 2 h 4 min asked for.
_TIMEOUTS = {
    "udp_timeout": 300,
    "udp_timeout_stream": 300,
    "icmp_timeout": 60,
    "tcp_timeout_syn_sent": 240,
    "tcp_timeout_syn_recv": 240,
    "tcp_timeout_fin_wait": 240,
    "tcp_timeout_last_ack": 240,
    "tcp_timeout_close_wait": 240,
    "tcp_timeout_time_wait": 240,
}


class HostError(Exception):
    """One sentence: what the host refused, and what to do."""


@dataclass(frozen=True, slots=True)
class Lan:
    interface: str
    address: IPv4Interface | None = None


@dataclass(frozen=True, slots=True)
class HostOptions:
    tun: str = "lw4o6"
    lans: tuple[Lan, ...] = ()
    routes: tuple[IPv4Network, ...] = (IPv4Network("0.0.0.0/0"),)
    forwards: tuple[nft.Forward, ...] = ()
    wan: str | None = None  # the interface that is given the tunnel source address

    @property
    def table(self) -> str:
        return "pylwaftr_b4_" + "".join(c if c.isalnum() else "_" for c in self.tun)


def require_tools() -> None:
    for tool, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(tool) is None:
            raise HostError(f"{tool} is missing: apt install {package}")


def open_tun(name: str) -> int:
    """A TUN device of that name: the descriptor, one packet a read, without a header in front."""
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError as fault:
        raise HostError(f"/dev/net/tun: {fault.strerror}: load the module tun, and run this as root") from None
    try:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as fault:
        os.close(tun)
        if fault.errno == errno.EBUSY:
            raise HostError(f"{name} is in use: another lwB4 runs here; stop it or choose another --tun") from None
        raise HostError(f"{name}: {fault.strerror}: a TUN device needs root (CAP_NET_ADMIN)") from None
    return tun


def prepare(source: IPv6Address, options: HostOptions, undo: ExitStack) -> None:
    """Everything but the device itself and the rules of a port set; `undo` gets the way back."""
    if options.wan is not None:
        _address(f"{source}/128", options.wan, undo)
    for lan in options.lans:
        if lan.address is not None:
            _address(str(lan.address), lan.interface, undo)
        _run("ip", "link", "set", lan.interface, "up")
    _set_sysctls(options, undo)
    mtu = max([_MIN_TUN_MTU, *(_mtu(lan.interface) for lan in options.lans)])
    _run("ip", "link", "set", options.tun, "mtu", str(mtu), "txqueuelen", "2000", "up")
    _run("ip", "address", "replace", f"{nft.OWN_ADDRESS}/32", "dev", options.tun)
    for route in options.routes:
        _route(route, options.tun)
    undo.callback(remove_rules, options)


def load_rules(options: HostOptions, ipv4: IPv4Address, ports: Ports, forwards: Sequence[nft.Forward]) -> None:
    """In place of those that are there, in one step."""
    _run("nft", "-f", "-", given=nft.ruleset(options.table, options.tun, ipv4, ports, forwards))


def remove_rules(options: HostOptions) -> None:
    _quietly("nft", "delete", "table", "ip", options.table)


def route_storm(tun: str, prefix: IPv6Network) -> None:
    """The device is the way to all of the prefix; what comes out of it is forwarded."""
    if Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text().strip() != "1":
        raise HostError("IPv6 forwarding is off here: sysctl -w net.ipv6.conf.all.forwarding=1")
    _run("ip", "link", "set", tun, "mtu", "1500", "txqueuelen", "200000", "up")
    _run("ip", "-6", "route", "replace", str(prefix), "dev", tun)


def interface_towards(address: IPv6Address) -> str:
    shown = _run("ip", "-o", "-6", "route", "get", str(address)).split()
    return shown[shown.index("dev") + 1]


def turn_gro_off(interface: str, sock: int, undo: ExitStack) -> None:
    """Receive offload joins TCP segments inside the softwire into packets of up to 64 KB, too large for the LAN."""
    if not _gro(interface, sock, _ETHTOOL_GGRO):
        return
    _gro(interface, sock, _ETHTOOL_SGRO, 0)
    undo.callback(_gro, interface, sock, _ETHTOOL_SGRO, 1)


def _gro(interface: str, sock: int, command: int, value: int = 0) -> int:
    """The setting after the command; 0 too for an interface that has none or is gone."""
    setting = array.array("I", [command, value])
    request = struct.pack("16sP", interface.encode(), setting.buffer_info()[0])
    try:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    except OSError:
        return 0
    return setting[1]


def _address(address: str, interface: str, undo: ExitStack) -> None:
    """An address that was there before stays when we go."""
    shown = _run("ip", "-o", "address", "show", "dev", interface)
    if f" {address} " in shown:
        return
    _run("ip", "address", "add", address, "dev", interface, *(("nodad",) if ":" in address else ()))
    undo.callback(_quietly, "ip", "address", "del", address, "dev", interface)


def _route(network: IPv4Network, tun: str) -> None:
    """The way of another interface is not taken from it."""
    shown = _run("ip", "-4", "route", "show", "exact", str(network), "metric", "0")
    if shown.strip():
        raise HostError(f"{network} is routed already ({shown.strip()}): remove that route, or name other --route")
    _run("ip", "route", "add", str(network), "dev", tun)


def _set_sysctls(options: HostOptions, undo: ExitStack) -> None:
    wanted = {f"net/netfilter/nf_conntrack_{name}": str(seconds) for name, seconds in _TIMEOUTS.items()}
    wanted[f"net/ipv6/conf/{options.tun}/disable_ipv6"] = "1"
    # The core's ICMPv4 errors come in from the device with the address that is local to it.
    wanted[f"net/ipv4/conf/{options.tun}/accept_local"] = "1"
    wanted[f"net/ipv4/conf/{options.tun}/rp_filter"] = "0"
    if options.lans:
        wanted["net/ipv4/ip_forward"] = "1"
    for name, value in wanted.items():
        path = Path("/proc/sys") / name
        if not path.exists():
            continue  # connection tracking not loaded yet, or no IPv6 in this namespace
        before = path.read_text().strip()
        if before != value:
            path.write_text(value)
            undo.callback(_restore, path, before)


def _restore(path: Path, value: str) -> None:
    if path.exists():
        path.write_text(value)


def _mtu(interface: str) -> int:
    return int(Path(f"/sys/class/net/{interface}/mtu").read_text())


def _run(*command: str, given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise HostError(f"{' '.join(command)}: {said[0] if said else f'exit status {done.returncode}'}")
    return done.stdout


def _quietly(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False)
