"""The outer file of the router: the only one that owns sockets, clocks, signals and tasks.

It turns a configuration into a running machine (EAL, table, ports, workers) and back. Everything it decides is decided
by others: eal_args, ports, replay.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pylwaftr import _core, capture_client, eal_args, ports, rows
from pylwaftr.config import Config, binding_rows, core_settings
from pylwaftr.eal_args import Buffers, MemoryFault, PlacementFault
from pylwaftr.ports import PortFault, PortSpec

log = logging.getLogger("pylwaftr")

POLL_S = 1.0  # how often links and next hops are looked at
SIOCGIFMTU, SIOCSIFMTU = 0x8921, 0x8922


class StartFault(Exception):
    """The router cannot start or go on; the text is one sentence with the remedy."""


class CounterInfo(NamedTuple):
    name: str
    kind: str
    unit: str
    requirement: str
    help: str


COUNTERS: tuple[CounterInfo, ...] = tuple(CounterInfo(*entry) for entry in _core.COUNTERS)

Totals = npt.NDArray[np.uint64]  # one value per counter, summed over the workers


@dataclass(frozen=True, slots=True)
class Sample:
    """What a watcher of a running router sees."""

    at: float
    totals: Totals
    neighbors: dict[str, Any]
    ports: list[dict[str, Any]]


class Watcher(NamedTuple):
    """Someone who is shown a sample again and again."""

    interval_s: float
    see: Callable[[Sample], None]


class Router:
    """Table, ports and workers of this process."""

    def __init__(
        self,
        config: Config,
        devices: Sequence[str],
        lcores: Sequence[int],
        buffers: Buffers,
        secret: int,
        split_queues: bool = False,
    ) -> None:
        self._table = bound_table(config)
        try:
            self.engine = _core.Engine(
                core_settings(config),
                self._table,
                list(devices),
                list(lcores),
                mbufs=buffers.count,
                data_room=buffers.data_room,
                held_limit=buffers.held_limit,
                split_queues=split_queues,
                secret=secret,
            )
        except (_core.PortError, _core.EalError) as fault:
            raise StartFault(str(fault)) from None
        for remark in self.engine.remarks:
            log.warning("%s", remark)

    def start(self) -> None:
        try:
            self.engine.start()
        except (_core.PortError, _core.EalError) as fault:
            raise StartFault(str(fault)) from None

    def totals(self) -> Totals:
        return np.asarray(self.engine.counters().sum(axis=0, dtype=np.uint64))

    def sample(self) -> Sample:
        return Sample(time.monotonic(), self.totals(), self.engine.neighbors(), self.engine.ports())


def bound_table(config: Config) -> _core.BindingTable:
    sides = config.interfaces
    own_v4 = [int(own.ip) for own in sides.v4.addresses]
    own_v6: list[Any] = [own.ip.packed for own in sides.v6.addresses] + [
        br.packed for br in config.softwire.br_addresses
    ]
    wanted = binding_rows(config)
    try:
        table = _core.BindingTable(config.dataplane.max_bindings, own_v4, own_v6)
        report = table.bind(wanted, _core.SOURCE_CONFIG, 0)
    except MemoryError:
        raise StartFault("not enough memory for the binding table: lower dataplane.max_bindings") from None
    if report["refused"]:
        index, reason = report["refused"][0]
        count = len(report["refused"])
        raise StartFault(f"bindings: {count} refused, the first is {rows.describe(wanted[index])}: {reason}")
    return table


def start_eal(vector: list[str], python_cpus: Iterable[int] | None) -> None:
    """Threads that Python has already, and those that it will start, are kept to `python_cpus`."""
    log.log(logging.DEBUG if python_cpus is None else logging.INFO, "EAL arguments: %s", " ".join(vector))
    ours = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    try:
        _core.eal_init(vector)
    except _core.EalError as fault:
        raise StartFault(str(fault)) from None
    if python_cpus is None:
        return
    for thread in ours:
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(thread, python_cpus)


def stop_eal() -> None:
    _core.eal_cleanup()
    _log_eal()


def _log_eal() -> None:
    for line in _core.eal_log():
        log.debug("DPDK: %s", line)


def run(
    config: Config,
    extra_args: Sequence[str],
    ready: Callable[[], None],
    watchers: Sequence[Watcher],
) -> Totals:
    """Runs the router until SIGTERM or SIGINT and returns the final counters. Raises StartFault."""
    return asyncio.run(_run(config, extra_args, ready, watchers))


async def _run(
    config: Config,
    extra_args: Sequence[str],
    ready: Callable[[], None],
    watchers: Sequence[Watcher],
) -> Totals:
    stop = _signals()
    specs = _usable_ports(config)
    namespace = Path("/proc/self/ns/net").stat().st_ino
    taken = [name for spec in specs if (name := ports.taken(spec, namespace)) is not None]
    with _locked(taken, config.source):
        router = _started(config, specs, extra_args, taken)
        try:
            router.start()
            router.engine.announce()
            router.engine.serve_telemetry()
            if (questions := capture_client.own_socket()) is not None:
                log.info("telemetry socket: %s", questions)
            _tell_manager("READY=1")
            ready()
            await _serve(router, stop, watchers)
            _tell_manager("STOPPING=1")
            router.engine.stop()
            return router.totals()
        finally:
            router.engine.close()
            stop_eal()


def _signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: log.warning("SIGHUP: reload comes with the control service"))
    return stop


def _usable_ports(config: Config) -> list[PortSpec]:
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


def _started(config: Config, specs: list[PortSpec], extra_args: Sequence[str], taken: Sequence[str]) -> Router:
    """EAL and router for these ports."""
    extra = [*config.dataplane.eal_args, *extra_args]
    sides = config.interfaces
    mtus = [max(sides.v4.mtu, sides.v6.mtu)] if sides.one_port else [sides.v4.mtu, sides.v6.mtu]
    try:
        placement = eal_args.place(config.dataplane.lcores, os.sched_getaffinity(0))
        count = len(placement.workers)
        buffers = eal_args.buffers(max(mtus), len(specs), count, config.softwire.reassembly.max_packets)
        wanted = "never" if "--no-huge" in extra else config.dataplane.hugepages
        memory = eal_args.memory(
            wanted, buffers, _host(), eal_args.prefix(taken or [str(Path(config.source).resolve())])
        )
    except (PlacementFault, MemoryFault) as fault:
        raise StartFault(str(fault)) from None
    for spec, mtu in zip(specs, mtus, strict=True):
        _raise_interface_mtu(spec, mtu)
    if memory.remark is not None:
        log.warning("%s", memory.remark)
    if placement.shared:
        log.warning("workers and control side share CPU %s: forwarding will suffer", placement.control[0])
    pci = [spec.name for spec in specs if spec.pci]
    start_eal(eal_args.vector(placement, memory, pci, config.logging.level, extra), placement.control)
    try:
        devices = [ports.fitted(spec, mtu, count).device for spec, mtu in zip(specs, mtus, strict=True)]
        return Router(config, devices, placement.lcores, buffers, int.from_bytes(os.urandom(8)))
    except BaseException:
        stop_eal()
        raise


def _raise_interface_mtu(spec: PortSpec, mtu: int) -> None:
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
def _locked(taken: Sequence[str], source: str) -> Iterator[None]:
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


def _tell_manager(message: str) -> None:
    """sd_notify: the service manager named a socket."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)


async def _serve(router: Router, stop: asyncio.Event, watchers: Sequence[Watcher]) -> None:
    acts: list[tuple[float, Callable[[], None]]] = [(POLL_S, _Observer(router).look)]
    acts += [(watcher.interval_s, functools.partial(_show, router, watcher)) for watcher in watchers]
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(_every(seconds, act)) for seconds, act in acts]
    done, _ = await asyncio.wait([asyncio.create_task(stop.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for task in done:
        task.result()  # a fault of ours ends the router with its trace


def _show(router: Router, watcher: Watcher) -> None:
    watcher.see(router.sample())


async def _every(seconds: float, act: Callable[[], None]) -> None:
    while True:
        act()
        await asyncio.sleep(seconds)


class _Observer:
    """Says what changes at links and next hops, and announces again when a link comes back."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._up: dict[str, bool] = {}
        self._resolved: dict[str, bool] = {}

    def look(self) -> None:
        _log_eal()
        for port in self._router.engine.ports():
            self._link(port["device"], port["link_up"])
        for side, neighbor in self._router.engine.neighbors().items():
            self._neighbor(side, neighbor)

    def _link(self, device: str, up: bool) -> None:
        before = self._up.get(device)
        self._up[device] = up
        if before == up or (before is None and up):
            return
        log.warning("%s: link is %s", device, "up" if up else "down")
        if up:
            self._router.engine.announce()

    def _neighbor(self, side: str, neighbor: dict[str, Any]) -> None:
        resolved = neighbor["mac"] is not None
        if self._resolved.get(side) == resolved:
            return
        self._resolved[side] = resolved
        if resolved:
            log.info("%s next hop is at %s", side, neighbor["mac"].hex(":"))
        else:
            log.warning("%s next hop is not resolved yet: asking for it again and again", side)
