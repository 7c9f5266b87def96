"""From the configuration to the arguments of DPDK's EAL: CPUs, memory, ports. No side effects; the host is an argument.

Hugepages are used in files below a file prefix of our own, unlinked at once (--huge-unlink=always): nothing is left
behind by a crash, and secondary processes such as dpdk-dumpcap can still attach. Without root, or where no hugetlbfs is
mounted, --in-memory has to do, and without hugepages --no-huge --no-shconf (22.11 refuses --no-huge --in-memory).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MIB = 1 << 20
PROGRAM = "pylwaftr"
MAIN_LCORE = 0  # EAL's own; the workers are lcores 1, 2, …

_HEADROOM = 128
_PRIVATE = 64
_BUFFER_HEADERS = 128 + 64 + 192  # rte_mbuf, the mempool's object header, its padding to spread over memory channels
SMALL_PAGE, HUGE_PAGE = 4096, 2 * MIB
RING = 1024  # descriptors of a queue
_HANDOVER = 256 + 64  # of each pair of workers, a burst on its way included
_PER_WORKER = 2048  # a mempool cache, bursts on their way, frames made of one burst
_BASE = 4096
_SLACK_MIB = 48  # drivers, rings, EAL itself


class PlacementFault(Exception):
    """The CPUs asked for are not to be had; the text says which and what to do."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which CPU does what; `shared`: a worker has to share its CPU with the control side."""

    workers: tuple[int, ...]
    control: tuple[int, ...]
    shared: bool

    @property
    def lcores(self) -> tuple[int, ...]:
        return tuple(range(1, len(self.workers) + 1))

    @property
    def argument(self) -> str:
        pairs = [(MAIN_LCORE, self.control[0]), *zip(self.lcores, self.workers, strict=True)]
        return ",".join(f"{lcore}@{cpu}" for lcore, cpu in pairs)


def place(wanted: Sequence[int] | None, allowed: Iterable[int]) -> Placement:
    """Worker CPUs (None: all but the first), and what is left for Python and EAL. Raises PlacementFault."""
    cpus = sorted(allowed)
    workers = tuple(wanted) if wanted is not None else tuple(cpus[1:] or cpus)
    missing = [str(cpu) for cpu in workers if cpu not in cpus]
    if missing:
        have = ", ".join(map(str, cpus))
        raise PlacementFault(f"dataplane.lcores: CPU {', '.join(missing)} is not available here: choose from {have}")
    control = tuple(cpu for cpu in cpus if cpu not in workers)
    return Placement(workers, control or workers[:1], shared=not control)


@dataclass(frozen=True, slots=True)
class Buffers:
    """The packet buffers of one router."""

    count: int
    data_room: int  # octets of a frame in one buffer
    held_limit: int  # how many each of a worker's two fragment stores may keep

    def mebibytes(self, page: int) -> int:
        """What EAL needs for them and itself. A mempool lets no buffer cross a page that it fits into."""
        each = self.data_room + _HEADROOM + _PRIVATE + _BUFFER_HEADERS
        in_page = page // each
        pages = -(-self.count // in_page) if in_page else self.count * -(-each // page)
        return -(-pages * page // MIB) + _SLACK_MIB


def data_room(mtu: int) -> int:
    """A frame of the largest packet, with two tags and a check sequence, fits one buffer."""
    return max(2048, -(-(mtu + 14 + 8 + 4) // 64) * 64)


def buffers(
    mtu: int, ports: int, workers: int, max_packets: int, handover: bool = False, rx_descriptors: int = RING
) -> Buffers:
    """`max_packets` of the configured reassembly: a packet in two fragments keeps one buffer while it waits.
    `handover`: workers hand frames to each other."""
    held_limit = max(512, -(-max_packets // workers))
    count = workers * (ports * (rx_descriptors + RING) + _PER_WORKER + 2 * held_limit) + _BASE
    if handover:
        count += workers * (workers - 1) * _HANDOVER
    return Buffers(count, data_room(mtu), held_limit)


def replay_buffers(mtu: int, max_packets: int, may_wait: int, longest: int) -> Buffers:
    """So many that none is ever lacking (net_pcap loses the frame it has no buffer for): all frames that may wait may
    wait at once, each in as many buffers as the longest takes."""
    room = data_room(mtu)
    pieces = max(1, -(-longest // room))
    return Buffers(_PER_WORKER + _BASE + (may_wait + 64) * pieces, room, max(max_packets, 2 * may_wait))


@dataclass(frozen=True, slots=True)
class Host:
    """What this host has for us."""

    root: bool
    free_hugepages_mib: int
    hugetlbfs: bool  # mounted


class MemoryFault(Exception):
    """Hugepages were demanded and are not there; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Memory:
    arguments: tuple[str, ...]
    remark: str | None = None


def memory(wanted: str, need: Buffers, host: Host, prefix: str) -> Memory:
    """`wanted`: auto | always | never. Raises MemoryFault."""
    need_mib = need.mebibytes(HUGE_PAGE)
    no_huge = ("--no-huge", "--no-shconf", "-m", str(need.mebibytes(SMALL_PAGE)))
    if wanted == "never":
        return Memory(no_huge)
    if host.free_hugepages_mib < need_mib:
        have = f"{need_mib} MiB of hugepages are needed and {host.free_hugepages_mib} MiB are free"
        if wanted == "always":
            raise MemoryFault(f"dataplane.hugepages: always: {have}: reserve them with scripts/hugepages.sh")
        return Memory(no_huge, f"running without hugepages, which costs speed: {have} (scripts/hugepages.sh)")
    if host.root and host.hugetlbfs:
        return Memory(("--file-prefix", prefix, "--huge-unlink=always"))
    return Memory(("--in-memory",), "dpdk-dumpcap cannot attach: that takes root and a mounted hugetlbfs")


def prefix(resources: Iterable[str]) -> str:
    """The same for a second start with the same ports, which EAL then refuses by its lock."""
    return f"{PROGRAM}-{hashlib.sha256(repr(sorted(resources)).encode()).hexdigest()[:12]}"


def pci_arguments(addresses: Sequence[str]) -> tuple[str, ...]:
    """Nothing but our ports is touched."""
    return tuple(part for address in addresses for part in ("-a", address)) if addresses else ("--no-pci",)


_LEVELS = {"debug": "debug", "info": "notice", "warning": "warning", "error": "error"}


def vector(
    placement: Placement, memory: Memory, pci: Sequence[str], level: str, extra: Sequence[str], telemetry: bool = True
) -> list[str]:
    """All arguments, the program's name first. What `extra` gives wins over ours."""
    ours = [
        ("--iova-mode=va",),
        (f"--lcores={placement.argument}",),
        (f"--main-lcore={MAIN_LCORE}",),
        *_grouped(memory.arguments),
        *_grouped(pci_arguments(pci)),
        (f"--log-level={_LEVELS.get(level, 'notice')}",),
        *([] if telemetry else [("--no-telemetry",)]),
    ]
    given = {_option(word) for word in extra if word.startswith("-")}
    if given & {"-l", "-c", "--lcores"}:
        given |= {"--lcores", "--main-lcore"}
    if "--in-memory" in given:
        given |= {"--huge-unlink", "--file-prefix"}
    kept = [part for parts in ours if _option(parts[0]) not in given - {"-a", "--log-level"} for part in parts]
    return [PROGRAM, *kept, *extra]


def _option(word: str) -> str:
    return word.partition("=")[0] if word.startswith("--") else word[:2]


def _grouped(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Options with the values that follow them as words of their own."""
    groups: list[tuple[str, ...]] = []
    for word in words:
        if word.startswith("-"):
            groups.append((word,))
        else:
            groups[-1] = (*groups[-1], word)
    return groups


def replay_vector(need: Buffers, allowed: Iterable[int]) -> list[str]:
    """Neither root, hugepages, PCI nor a CPU of one's own: the worker floats, so that several replays get along."""
    cpus = ",".join(map(str, sorted(allowed)))
    return [
        PROGRAM,
        "--iova-mode=va",
        f"--lcores={MAIN_LCORE}@({cpus}),1@({cpus})",
        f"--main-lcore={MAIN_LCORE}",
        "--no-huge",
        "--no-shconf",
        "-m",
        str(need.mebibytes(SMALL_PAGE)),
        "--no-pci",
        "--no-telemetry",
    ]
