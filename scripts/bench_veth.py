"""bench_veth.py [--bindings N] [--feature NAME] [-- ARGUMENTS...]: `bench ports` without a network card.

Makes a network namespace with two veth pairs, runs `pylwaftr run` on one end of each and `pylwaftr bench ports` on the
others (DPDK's net_af_packet), and removes it all again. What it measures is mostly the kernel's packet sockets: it
shows that a plan does what is meant before it goes to real ports, and what a feature or the size of the table does to
latency. ARGUMENTS are those of `bench ports` (default: throughput and latency, each direction and both, 20k frames a
second at most). It has to be root.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pylwaftr.bench import plan  # noqa: E402
from pylwaftr.lab.commands import (  # noqa: E402
    LabError,
    Process,
    inside,
    namespaces,
    remove_namespace,
    run,
    spawn,
)

PREFIX = "lwbench-"
START_S = 60.0
MTU = 9200
API = "127.0.0.1:50051"
SHORT = ("--tests", "throughput,latency", "--directions", "encap,decap,both", "--rate", "20k", "--seconds", "2",
         "--drain", "0.3", "--resolution", "5%")  # fmt: skip


@dataclass(frozen=True)
class Veth:
    """A namespace with the ends of the router (r4, r6) and of the tester (t4, t6)."""

    namespace: str
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "router.yaml"

    def router(self, more: Mapping[str, Any]) -> Process:
        """`more`: of the configuration, bindings in particular. It is ready."""
        self.config.write_text(yaml.safe_dump(plan.deep_merge(configuration(self.folder), more)))
        command = [sys.executable, "-m", "pylwaftr", "run", "-c", str(self.config)]
        process = spawn(self.namespace, "router", command, self.folder / "router.log")
        process.wait_for_line("ready", START_S)
        return process

    def bench(self, *arguments: str) -> list[str]:
        """The command of a tester at the other ends, on the first CPU."""
        ports = ("--v4", "net_af_packet0,iface=t4", "--v6", "net_af_packet1,iface=t6")
        where = ("--cpus", str(min(os.sched_getaffinity(0))), "--hugepages", "never")
        program = (sys.executable, "-m", "pylwaftr", "bench", "ports")
        return [*inside(self.namespace, *program), *ports, *where, *arguments]


def configuration(folder: Path) -> dict[str, Any]:
    """One worker, on the last CPU."""
    return {
        "dataplane": {"hugepages": "never", "lcores": [max(os.sched_getaffinity(0))]},
        "interfaces": {
            "v4": {
                "port": "net_af_packet0,iface=r4",
                "addresses": ["192.0.2.1/24"],
                "next_hop": "192.0.2.254",
            },
            "v6": {
                "port": "net_af_packet1,iface=r6",
                "addresses": ["2001:db8:fffe::2/64"],
                "next_hop": "2001:db8:fffe::1",
                "mtu": 1540,
            },
        },
        "softwire": {"br_addresses": ["2001:db8:ffff::1"]},
        "subscribers": {"mask": 60},  # of the bindings by formula
        "state": {"directory": str(folder / "state")},
        "metrics": {"listen": None},
        "api": {"listen": API},
        "logging": {"level": "warning"},
    }


def _remove_abandoned() -> None:
    """What a killed run has left."""
    for name in namespaces():
        if name.startswith(PREFIX) and not Path(f"/proc/{name.removeprefix(PREFIX)}").exists():
            remove_namespace(name)


@contextmanager
def veth() -> Iterator[Veth]:
    _remove_abandoned()
    name = f"{PREFIX}{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        # The kernel has no part in this: no address, no word of its own.
        run(*inside(name, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"))
        run("ip", "-n", name, "link", "set", "lo", "up")
        for side in "46":
            ends = f"r{side}", f"t{side}"
            run("ip", "-n", name, "link", "add", ends[0], "mtu", str(MTU), "type", "veth",
                "peer", "name", ends[1], "mtu", str(MTU))  # fmt: skip
            for end in ends:
                run("ip", "-n", name, "link", "set", end, "up")
        with tempfile.TemporaryDirectory(prefix="lwbench-") as folder:
            yield Veth(name, Path(folder))
    finally:
        remove_namespace(name)


def argument(parse: Callable[[str], str]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        try:
            return parse(text)
        except plan.PlanFault as fault:
            raise argparse.ArgumentTypeError(str(fault)) from None

    return convert


def fleet(text: str) -> str:
    """So many bindings."""
    plan.numbers(text)
    return text


def feature(text: str) -> str:
    """That a configuration can say."""
    plan.settings_of(text)
    if "capture" in text.split("+"):
        raise plan.PlanFault("'capture' is no setting of a router: run `pylwaftr capture` beside it")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bindings", type=argument(fleet), default="1k", help="so many by the benchmarks' formula (1k)"
    )
    of_router = ", ".join(name for name in plan.FEATURES if name != "capture")
    parser.add_argument(
        "--feature", type=argument(feature), default="default", help=f"of the router: {of_router}; a+b is both"
    )
    parser.add_argument("arguments", nargs="*", help="of `pylwaftr bench ports`, after --")
    given = parser.parse_args()
    if os.geteuid() != 0:
        raise LabError("it makes a network namespace: start it as root (sudo)")
    with veth() as made:
        table = made.folder / "bindings.snapshot"
        command = [sys.executable, "-m", "pylwaftr", "bench", "ports"]
        saved = [*command, "--bindings", given.bindings, "--save-bindings", str(table)]
        subprocess.run(saved, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        router = made.router(plan.deep_merge({"bindings": {"file": str(table)}}, plan.settings_of(given.feature)))
        try:
            arguments = given.arguments or list(SHORT)
            measure = made.bench("--config", str(made.config), "--api", API, *arguments)
            return subprocess.run(measure, cwd=ROOT, check=False).returncode
        finally:
            router.stop()


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (LabError, plan.PlanFault) as fault:
        raise SystemExit(f"bench_veth.py: {fault}") from None
