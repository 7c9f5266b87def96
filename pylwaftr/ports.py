"""Port strings of the configuration: what DPDK is asked for, what of the host they take, and what stands in the way."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

# Drivers through which user space gets at a PCI device; the last two share it with the kernel.
USER_SPACE_DRIVERS = frozenset(("vfio-pci", "igb_uio", "uio_pci_generic", "mlx5_core", "mlx4_core"))

_PCI = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}:[01][0-9a-f]\.[0-7])(?:,(.*))?", re.ASCII | re.IGNORECASE)
_VDEV = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_NEEDS_INTERFACE = {  # drivers whose argument names an interface that has to be there already
    "net_af_packet": ("iface",),
    "net_af_xdp": ("iface",),
    "net_tap": ("remote",),
    "net_pcap": ("iface", "rx_iface", "rx_iface_in", "tx_iface"),
}


class PortFault(Exception):
    """This port cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class PortSpec:
    name: str  # PCI address, or driver and number
    arguments: tuple[tuple[str, str], ...]
    pci: bool

    @property
    def driver(self) -> str:
        """Of a vdev: its name without the number."""
        return self.name.rstrip("0123456789")

    @property
    def device(self) -> str:
        return ",".join((self.name, *(f"{key}={value}" for key, value in self.arguments)))

    def given(self, key: str) -> bool:
        return any(key == present for present, _ in self.arguments)

    def with_argument(self, key: str, value: object) -> PortSpec:
        if self.given(key):
            return self
        return PortSpec(self.name, (*self.arguments, (key, str(value))), self.pci)

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Kernel interfaces that have to be there."""
        keys = () if self.pci else _NEEDS_INTERFACE.get(self.driver, ())
        return tuple(value for key, value in self.arguments if key in keys)


def parse(text: str) -> PortSpec:
    """A PCI address or a vdev string. Raises PortFault."""
    if found := _PCI.fullmatch(text.strip()):
        domain, rest, arguments = found.groups()
        return PortSpec(f"{domain or '0000'}:{rest}".lower(), _arguments(arguments), pci=True)
    name, _, arguments = text.strip().partition(",")
    if not _VDEV.fullmatch(name):
        raise PortFault(f"{text!r} is neither a PCI address (0000:81:00.0) nor a DPDK vdev (net_af_packet0,iface=eth1)")
    return PortSpec(name, _arguments(arguments), pci=False)


def _arguments(text: str | None) -> tuple[tuple[str, str], ...]:
    pairs = [part.partition("=") for part in (text or "").split(",") if part]
    return tuple((key, value) for key, _, value in pairs)


def fitted(spec: PortSpec, mtu: int, workers: int) -> PortSpec:
    """With what a driver has to be told, where the configuration does not say it."""
    if spec.driver != "net_af_packet" or spec.pci:
        return spec
    if workers > 1:
        spec = spec.with_argument("qpairs", workers)
    room = mtu + 22 + 66  # Ethernet header with tags; the ring's own header before each frame
    frame = max(2048, 1 << (room - 1).bit_length())
    if frame > 2048:
        spec = spec.with_argument("framesz", frame).with_argument("blocksz", max(4096, frame))
    return spec


def obstacle(spec: PortSpec, interfaces: Collection[str], sys: Path = Path("/sys")) -> str | None:
    """Why DPDK will not get this port, or None. One sentence with the remedy.

    `interfaces`: those of our network namespace; /sys may show another one's.
    """
    if spec.pci:
        return _pci_obstacle(spec.name, sys)
    for interface in spec.interfaces:
        if interface not in interfaces:
            return f"there is no interface {interface!r} in this network namespace: see ip link"
    if spec.driver in ("net_af_packet", "net_af_xdp") and not spec.given("iface"):
        return f"{spec.name} lacks its interface: write {spec.name},iface=NAME"
    return None


def _pci_obstacle(address: str, sys: Path) -> str | None:
    device = sys / "bus/pci/devices" / address
    bind = f"bind it with dpdk-devbind.py -b vfio-pci {address}"
    if not device.exists():
        return f"there is no PCI device {address}: see dpdk-devbind.py --status"
    driver = device / "driver"
    if not driver.exists():
        return f"PCI device {address} is bound to no driver: {bind}"
    bound = driver.resolve().name
    if bound in USER_SPACE_DRIVERS:
        return None
    return f"PCI device {address} is bound to the kernel driver {bound}: take it down and {bind}"


def taken(spec: PortSpec, namespace: int) -> str | None:
    """What of the host two routers cannot both have; None for ports that are all their own (net_null, net_pcap files).

    Interface names mean something only inside a network namespace, which its inode number names.
    """
    if spec.pci:
        return f"pci {spec.name}"
    named = spec.interfaces or tuple(
        value for key, value in spec.arguments if spec.driver == "net_tap" and key == "iface"
    )
    return f"interface {named[0]} of network namespace {namespace}" if named else None


def pcap_device(index: int, inputs: Sequence[Path], outputs: Sequence[Path]) -> str:
    """A net_pcap port with one queue per file. No path may hold a comma or an equals sign."""
    paths = [("rx_pcap", path) for path in inputs] + [("tx_pcap", path) for path in outputs]
    return ",".join((f"net_pcap{index}", *(f"{key}={path}" for key, path in paths)))
