"""Configuration to EAL arguments and DPDK devices: what is asked for on which host."""

from __future__ import annotations

from pathlib import Path

import pytest

from pylwaftr import eal_args, ports
from pylwaftr.eal_args import Buffers, Host, Memory, MemoryFault, Placement, PlacementFault

SMALL = Buffers(8192, 2048, 512)
NOTHING = Memory(())
ONE_WORKER = Placement((1,), (0,), False)


@pytest.mark.parametrize(
    "what, wanted, allowed, workers, control, shared",
    [
        ("all but the first", None, {0, 1, 2, 3}, (1, 2, 3), (0,), False),
        ("two CPUs", None, {0, 1}, (1,), (0,), False),
        ("a single CPU is shared", None, {5}, (5,), (5,), True),
        ("CPUs as the process may use them", None, {4, 9, 7}, (7, 9), (4,), False),
        ("chosen ones, in their order", (3, 1), {0, 1, 2, 3}, (3, 1), (0, 2), False),
        ("all chosen: one is shared", (0, 1), {0, 1}, (0, 1), (0,), True),
    ],
)
def test_placement(
    what: str,
    wanted: tuple[int, ...] | None,
    allowed: set[int],
    workers: tuple[int, ...],
    control: tuple[int, ...],
    shared: bool,
) -> None:
    assert eal_args.place(wanted, allowed) == Placement(workers, control, shared), what


def test_a_cpu_that_is_not_there_is_named() -> None:
    with pytest.raises(PlacementFault, match=r"dataplane.lcores: CPU 7 is not available here: choose from 0, 1$"):
        eal_args.place((1, 7), {0, 1})


def test_lcores_map_to_cpus_with_the_main_one_beside_python() -> None:
    placed = eal_args.place((6, 4), {3, 4, 5, 6})
    assert placed.argument == "0@3,1@6,2@4"
    assert placed.lcores == (1, 2)


@pytest.mark.parametrize(
    "what, wanted, host, arguments, remark",
    [
        ("never", "never", Host(True, 4096, True), "--no-huge --no-shconf -m 80", None),
        ("root with hugetlbfs", "auto", Host(True, 4096, True), "--file-prefix p --huge-unlink=always", None),
        ("root without a mount", "auto", Host(True, 4096, False), "--in-memory", "dumpcap"),
        ("not root", "always", Host(False, 4096, True), "--in-memory", "dumpcap"),
        ("none free", "auto", Host(True, 0, True), "--no-huge --no-shconf -m 80", "without hugepages"),
        ("too few free", "auto", Host(True, 40, True), "--no-huge --no-shconf -m 80", "40 MiB are free"),
    ],
)
def test_memory(what: str, wanted: str, host: Host, arguments: str, remark: str | None) -> None:
    got = eal_args.memory(wanted, SMALL, host, "p")
    assert " ".join(got.arguments) == arguments, what
    assert (remark in got.remark) if remark and got.remark else got.remark == remark, what
    assert not {"--no-huge", "--in-memory"} <= set(got.arguments)  # 22.11 refuses the pair


def test_demanded_hugepages_that_are_not_there_are_a_fault_with_the_remedy() -> None:
    with pytest.raises(MemoryFault, match=r"0 MiB are free: reserve them with scripts/hugepages.sh"):
        eal_args.memory("always", SMALL, Host(True, 0, True), "p")


@pytest.mark.parametrize(
    "what, extra, present, absent",
    [
        ("ours", [], ["--iova-mode=va", "--lcores=0@0,1@1", "--main-lcore=0", "--no-pci"], ["--no-telemetry"]),
        ("other lcores", ["-l", "0-3"], ["-l", "0-3"], ["--lcores=0@0,1@1", "--main-lcore=0"]),
        ("other IOVA mode", ["--iova-mode=pa"], ["--iova-mode=pa"], ["--iova-mode=va"]),
        ("other prefix", ["--file-prefix", "x"], ["x", "--huge-unlink=always"], ["p"]),
        ("in memory", ["--in-memory"], ["--in-memory"], ["p", "--file-prefix", "--huge-unlink=always"]),
        ("one more log level", ["--log-level=pmd:debug"], ["--log-level=notice", "--log-level=pmd:debug"], []),
    ],
)
def test_what_the_operator_gives_wins(what: str, extra: list[str], present: list[str], absent: list[str]) -> None:
    memory = Memory(("--file-prefix", "p", "--huge-unlink=always"))
    vector = eal_args.vector(ONE_WORKER, memory, [], "info", extra)
    assert vector[0] == "pylwaftr"
    assert [word for word in present if word not in vector] == [], what
    assert [word for word in absent if word in vector] == [], what
    assert vector[len(vector) - len(extra) :] == extra


def test_only_configured_pci_devices_are_touched() -> None:
    vector = eal_args.vector(ONE_WORKER, NOTHING, ["0000:81:00.0", "0000:81:00.1"], "info", [], telemetry=False)
    assert "--no-pci" not in vector
    assert vector.count("-a") == 2
    assert vector[vector.index("-a") + 1] == "0000:81:00.0"
    assert "--no-telemetry" in vector


def test_a_replay_asks_for_nothing_of_the_host() -> None:
    vector = eal_args.replay_vector(SMALL, {0, 3})
    assert {"--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "--lcores=0@(0,3),1@(0,3)"} <= set(vector)
    assert "--in-memory" not in vector


@pytest.mark.parametrize("mtu, room", [(1280, 2048), (1500, 2048), (2022, 2048), (2023, 2112), (9000, 9088)])
def test_a_frame_of_the_largest_packet_fits_one_buffer(mtu: int, room: int) -> None:
    assert eal_args.data_room(mtu) == room


def test_buffers_cover_queues_and_what_is_held() -> None:
    got = eal_args.buffers(1500, ports=2, workers=3, max_packets=20000)
    assert got.held_limit * 3 >= 20000
    assert got.count > 3 * (2 * 2 * 1024 + 2 * got.held_limit)


def test_each_descriptor_of_a_receive_queue_has_a_buffer() -> None:
    plain, more = (eal_args.buffers(1500, 2, 3, 20000, rx_descriptors=each) for each in (1024, 4096))
    assert more.count - plain.count == 2 * 3 * (4096 - 1024)


def test_a_replay_has_a_buffer_for_every_frame_that_may_wait() -> None:
    got = eal_args.replay_buffers(1500, 20000, may_wait=50000, longest=9000)
    assert got.count > 50000 * 5  # 9000 octets take five buffers
    assert got.held_limit >= 50000


def test_buffers_cover_what_workers_hand_each_other() -> None:
    plain, spread = (eal_args.buffers(1500, 2, 3, 20000, handover) for handover in (False, True))
    assert spread.count - plain.count >= 6 * 256  # six pairs, a ring each


def test_small_pages_hold_fewer_buffers() -> None:
    # One of 2,624 octets goes into a page of 4 KiB, 799 go into one of 2 MiB; 48 MiB are for EAL and drivers.
    assert SMALL.mebibytes(4096) == 32 + 48
    assert SMALL.mebibytes(2 << 20) == 22 + 48
    assert Buffers(8192, 9088, 512).mebibytes(4096) == 96 + 48


def test_the_prefix_is_that_of_the_ports() -> None:
    assert eal_args.prefix(["a", "b"]) == eal_args.prefix(["b", "a"]) != eal_args.prefix(["a"])


# --- ports ---


@pytest.mark.parametrize(
    "text, device, pci",
    [
        ("0000:81:00.0", "0000:81:00.0", True),
        ("81:00.1", "0000:81:00.1", True),
        ("0000:AF:1F.7,dv_flow_en=0", "0000:af:1f.7,dv_flow_en=0", True),
        ("net_af_packet0,iface=eth1", "net_af_packet0,iface=eth1", False),
        (" net_null0 ", "net_null0", False),
    ],
)
def test_port_strings(text: str, device: str, pci: bool) -> None:
    spec = ports.parse(text)
    assert (spec.device, spec.pci) == (device, pci)


@pytest.mark.parametrize("text", ["", "eth1:0", "0000:81:00.8", "0000:81:20.0", "net-null", "/dev/net/tun", "81:00"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ports.PortFault, match="neither a PCI address"):
        ports.parse(text)


@pytest.mark.parametrize(
    "text, mtu, workers, device",
    [
        ("net_null0", 9000, 4, "net_null0"),
        ("net_af_packet0,iface=a", 1540, 1, "net_af_packet0,iface=a"),
        ("net_af_packet0,iface=a", 1540, 3, "net_af_packet0,iface=a,qpairs=3"),
        ("net_af_packet0,iface=a,qpairs=1", 1540, 3, "net_af_packet0,iface=a,qpairs=1"),
        ("net_af_packet0,iface=a", 2000, 1, "net_af_packet0,iface=a,framesz=4096,blocksz=4096"),
        ("net_af_packet0,iface=a", 9000, 1, "net_af_packet0,iface=a,framesz=16384,blocksz=16384"),
    ],
)
def test_a_packet_socket_is_told_its_queues_and_frame_size(text: str, mtu: int, workers: int, device: str) -> None:
    assert ports.fitted(ports.parse(text), mtu, workers).device == device


def _pci(sys: Path, address: str, driver: str | None) -> None:
    device = sys / "bus/pci/devices" / address
    device.mkdir(parents=True)
    if driver is not None:
        bound = sys / "bus/pci/drivers" / driver
        bound.mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(bound)


@pytest.mark.parametrize(
    "text, says",
    [
        ("0000:81:00.0", "is bound to the kernel driver ixgbe: take it down and bind it with dpdk-devbind.py"),
        ("0000:81:00.1", None),  # vfio-pci
        ("0000:81:00.2", "is bound to no driver: bind it with"),
        ("0000:81:00.3", None),  # mlx5 shares its device with the kernel
        ("0000:81:00.4", "there is no PCI device 0000:81:00.4"),
        ("net_af_packet0,iface=eth7", "there is no interface 'eth7' in this network namespace"),
        ("net_af_packet0,iface=eth1", None),
        ("net_af_packet0", "lacks its interface"),
        ("net_tap0,iface=new", None),  # makes its interface
        ("net_tap0,iface=new,remote=eth7", "there is no interface 'eth7'"),
        ("net_null0", None),
    ],
)
def test_what_stands_in_the_way(tmp_path: Path, text: str, says: str | None) -> None:
    _pci(tmp_path, "0000:81:00.0", "ixgbe")
    _pci(tmp_path, "0000:81:00.1", "vfio-pci")
    _pci(tmp_path, "0000:81:00.2", None)
    _pci(tmp_path, "0000:81:00.3", "mlx5_core")
    got = ports.obstacle(ports.parse(text), ["lo", "eth1"], tmp_path)
    assert (got is None) if says is None else (got is not None and says in got)


@pytest.mark.parametrize(
    "text, takes",
    [
        ("0000:81:00.0,x=1", "pci 0000:81:00.0"),
        ("net_af_packet3,qpairs=2,iface=eth1", "interface eth1 of network namespace 7"),
        ("net_tap0,iface=new", "interface new of network namespace 7"),
        ("net_null0", None),
        ("net_pcap0,rx_pcap=a,tx_pcap=b", None),
    ],
)
def test_what_two_routers_cannot_share(text: str, takes: str | None) -> None:
    assert ports.taken(ports.parse(text), 7) == takes
