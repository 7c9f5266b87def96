"""From a configuration to a router whose ports and buffers are there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import socket
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pylwaftr import _core, eal_args, ports
from pylwaftr.config import Config
from pylwaftr.daemon.eal import start_eal, stop_eal
from pylwaftr.daemon.router import Router, StartFault, empty_table
from pylwaftr.eal_args import MemoryFault, PlacementFault
from pylwaftr.ports import PortFault, PortSpec

log = logging.getLogger("pylwaftr")

SIOCGIFMTU, SIOCSIFMTU = 0x8921, 0x8922


def usable_ports(config: Config) -> list[PortSpec]:
    sides = config.interfaces
    named = [("v4", sides.v4.port)] if sides.one_port else [("v4", sides.v4.port), ("v6", sides.v6.port)]
    interfaces = [name for _, name in socket.if_nameindex()]
    specs = []
    for side, text in named:
        try:
            specs.append(ports.parse(text))
        except PortFault as fault:
            raise StartFault(f"interfaces.{side}.port: {fault}") from None
        if (reason := ports.obstacle(specs[-1], interfaces)) is not None:
            raise StartFault(f"interfaces.{side}.port: {reason}")
    return specs


def started(config: Config, specs: list[PortSpec], extra_args: Sequence[str], taken: Sequence[str]) -> Router:
    """EAL and router for these ports."""
    extra = [*config.dataplane.eal_args, *extra_args]
    sides = config.interfaces
    mtus = [max(sides.v4.mtu, sides.v6.mtu)] if sides.one_port else [sides.v4.mtu, sides.v6.mtu]
    try:
        placement = eal_args.place(config.dataplane.lcores, os.sched_getaffinity(0))
        count = len(placement.workers)
        software = config.dataplane.rss == "software"
        held, descriptors = config.softwire.reassembly.max_packets, config.dataplane.rx_descriptors
        buffers = eal_args.buffers(max(mtus), len(specs), count, held, software, descriptors)
        wanted = "never" if "--no-huge" in extra else config.dataplane.hugepages
        memory = eal_args.memory(
            wanted, buffers, _host(), eal_args.prefix(taken or [str(Path(config.source).resolve())])
        )
    except (PlacementFault, MemoryFault) as fault:
        raise StartFault(str(fault)) from None
    for spec, mtu in zip(specs, mtus, strict=True):
        raise_interface_mtu(spec, mtu)
    if memory.remark is not None:
        log.warning("%s", memory.remark)
    if placement.shared:
        log.warning("workers and control side share CPU %s: forwarding will suffer", placement.control[0])
    pci = [spec.name for spec in specs if spec.pci]
    start_eal(eal_args.vector(placement, memory, pci, config.logging.level, extra), placement.control)
    try:
        devices = [ports.fitted(spec, mtu, count).device for spec, mtu in zip(specs, mtus, strict=True)]
        table = empty_table(config, _core.nodes_of(list(placement.lcores)))
        return Router(config, table, devices, placement.lcores, buffers, int.from_bytes(os.urandom(8)))
    except BaseException:
        stop_eal()
        raise


def raise_interface_mtu(spec: PortSpec, mtu: int) -> None:
    """A packet socket sends nothing that is larger than its interface's MTU, and its driver does not set that."""
    if spec.driver not in ("net_af_packet", "net_af_xdp"):
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for interface in spec.interfaces:
            request = struct.pack("16si12x", interface.encode(), 0)
            if struct.unpack_from("i", fcntl.ioctl(any_socket, SIOCGIFMTU, request), 16)[0] >= mtu:
                continue
            try:
                fcntl.ioctl(any_socket, SIOCSIFMTU, struct.pack("16si12x", interface.encode(), mtu))
            except OSError as fault:
                wanted = f"raise it with ip link set {interface} mtu {mtu}, or lower that of the configuration"
                raise StartFault(f"{interface} has a smaller MTU than {mtu} ({fault.strerror}): {wanted}") from None


def _host() -> eal_args.Host:
    free = 0
    for size in Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        kibibytes = int(size.name.removeprefix("hugepages-").removesuffix("kB"))
        free += int((size / "free_hugepages").read_text()) * kibibytes // 1024
    mounted = any(line.split()[2] == "hugetlbfs" for line in Path("/proc/mounts").read_text().splitlines())
    return eal_args.Host(os.geteuid() == 0, free, mounted)


@contextlib.contextmanager
def locked(taken: Sequence[str], source: str) -> Iterator[None]:
    """No other router may have the same ports, also one without hugepages, which EAL would not notice."""
    folder = Path("/run/pylwaftr") if os.geteuid() == 0 else Path(tempfile.gettempdir()) / f"pylwaftr-{os.geteuid()}"
    with contextlib.ExitStack() as locks:
        for name in taken:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = locks.enter_context((folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock").open("a+"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                raise StartFault(f"{name} is already in use by pylwaftr ({holder}): stop that first") from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()}, configuration {source}\n")
            lock.flush()
        yield
